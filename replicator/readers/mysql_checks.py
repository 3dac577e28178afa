"""What must hold at a MySQL or MariaDB source before it is read: settings, grants, retention, engines.

Every outcome is a ``Requirement`` with a stable id and a fix that works when pasted. What the server can be asked by
doing it (reading a table, XA RECOVER) is tried, for roles and wildcards have more rules than a parser of grants.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pymysql

from replicator.model import TableName, TableSchema
from replicator.readers.base import Requirement
from replicator.readers.mysql_query import fetch, marks, quote_table
from replicator.typemap.mysql import quote_name

DAY: Final = 86_400
_GONE: Final = (1049, 1146)  # no such database, no such table
_IN_SNAPSHOTS: Final = ("innodb", "rocksdb")
_OPTION_FILE: Final = "# in the server's option file, then restart it\n[mysqld]\n"
_VARIABLES: Final = (
    "log_bin",
    "binlog_format",
    "binlog_row_image",
    "binlog_row_metadata",
    "binlog_row_value_options",
    "gtid_mode",
    "server_id",
    "binlog_expire_logs_seconds",
    "binlog_expire_logs_auto_purge",
    "expire_logs_days",
    "log_slave_updates",
    "log_replica_updates",
    "gtid_slave_pos",
    "gtid_domain_id",
    "read_only",
    "show_gipk_in_create_table_and_information_schema",
)
_NEEDED: Final = {"binlog_format": "ROW", "binlog_row_image": "FULL", "binlog_row_metadata": "FULL"}
_WHY: Final = {
    "binlog_format": "other formats log statements, which cannot be mirrored exactly",
    "binlog_row_image": "other images leave columns out",
    "binlog_row_metadata": "without it the log does not say signs, character sets and names of columns",
}


def check(connection: Any, tables: Sequence[TableSchema], kind: str) -> list[Requirement]:
    """Everything that must hold at the source (``kind``: mysql | mariadb) for these tables. Raises for a lost link only."""
    variables = _read_variables(connection)
    account = str(fetch(connection, "SELECT CURRENT_USER() AS u")[0]["u"])
    status = _read_status(connection)
    return [
        *_check_log(variables),
        *_check_row_format(variables, kind),
        *_check_gtids(variables, kind),
        *_check_retention(variables, kind),
        *_check_replica(connection, variables, kind),
        *_check_domain(variables),
        *_check_rights(connection, account, status is not None, kind),
        *_check_select(connection, tables, account),
        *_check_filters(status, tables),
        *_check_engines(connection, tables),
        *_check_generated_keys(variables),
    ]


# --- asking ---------------------------------------------------------------------------------------


def _read_variables(connection: Any) -> dict[str, str]:
    rows = fetch(
        connection, f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({marks(_VARIABLES)})", _VARIABLES
    )
    return {row["variable_name"].lower(): str(row["value"]) for row in rows}


def _read_status(connection: Any) -> dict[str, Any] | None:
    """The newest position and the filters of the log; {} where there is no log, None where we may not ask."""
    for sql in ("SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"):
        rows = _try(connection, sql)
        if rows is not None:
            return rows[0] if rows else {}
    return None


def _try(connection: Any, sql: str) -> list[dict[str, Any]] | None:
    """The rows, or None where the server refuses the statement."""
    try:
        return fetch(connection, sql)
    except (pymysql.err.ProgrammingError, pymysql.err.OperationalError, pymysql.err.InternalError):
        if not connection.open:
            raise
        return None


# --- settings -------------------------------------------------------------------------------------


def _check_log(variables: Mapping[str, str]) -> Iterator[Requirement]:
    if variables.get("log_bin", "OFF").upper() not in ("ON", "1"):
        fix = _OPTION_FILE + "log_bin = binlog\nserver_id = 1\nbinlog_format = ROW"
        yield Requirement(
            "source.log_bin", "fail", "log_bin", "the binary log is off: there is nothing to read", fix
        )
        return
    yield Requirement("source.log_bin", "pass", "log_bin", "the binary log is on")
    if variables.get("server_id", "0") == "0":
        message = "server_id is 0: the server refuses to send its log"
        fix = "SET GLOBAL server_id = 1;  -- and server_id = 1 in the server's option file"
        yield Requirement("source.server_id", "fail", "server_id", message, fix)
    else:
        yield Requirement("source.server_id", "pass", "server_id", variables["server_id"])


def _check_row_format(variables: Mapping[str, str], kind: str) -> Iterator[Requirement]:
    for name, needed in _NEEDED.items():
        # A server without binlog_format knows rows only.
        found = variables.get(name, needed if name == "binlog_format" else "")
        check_id = f"source.{name}"
        if found.upper() == needed:
            yield Requirement(check_id, "pass", name, found)
        else:
            message = f"{name} is {found or 'unknown to this server'}, it must be {needed}: {_WHY[name]}"
            yield Requirement(check_id, "fail", name, message, _set_global(name, needed, kind))
    options = variables.get("binlog_row_value_options", "")
    if options:
        message = f"binlog_row_value_options is {options}: JSON columns are logged in part only"
        fix = _set_global("binlog_row_value_options", "", kind)
        yield Requirement("source.binlog_row_value_options", "fail", "binlog_row_value_options", message, fix)
    elif "binlog_row_value_options" in variables:
        yield Requirement(
            "source.binlog_row_value_options", "pass", "binlog_row_value_options", "whole values"
        )


def _set_global(name: str, value: str, kind: str) -> str:
    """A statement that lasts; sessions that are open keep their own value until they reconnect."""
    if kind == "mysql":
        return f"SET PERSIST {name} = '{value}';  -- applications must reconnect"
    return (
        f"SET GLOBAL {name} = '{value}';  -- and {name} = {value} in the server's option file; "
        "applications must reconnect"
    )


def _check_gtids(variables: Mapping[str, str], kind: str) -> Iterator[Requirement]:
    if kind != "mysql":
        yield Requirement("source.gtid_mode", "pass", "GTIDs", "positions are MariaDB's GTIDs")
        return
    mode = variables.get("gtid_mode", "OFF")
    if mode == "ON":
        yield Requirement("source.gtid_mode", "pass", "gtid_mode", "ON: positions are GTID sets")
        return
    message = (
        f"gtid_mode is {mode}: positions are binlog files and offsets, which no other server knows, and each snapshot locks "
        "for a moment"
    )
    fix = (
        "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE; "
        "SET PERSIST gtid_mode = ON_PERMISSIVE; SET PERSIST gtid_mode = ON;"
    )
    yield Requirement("source.gtid_mode", "warn", "gtid_mode", message, fix)


def _check_retention(variables: Mapping[str, str], kind: str) -> Iterator[Requirement]:
    seconds = _retention(variables)
    if 0 < seconds < DAY:
        message = f"the log is kept for {seconds / 3600:.1f} hours only: a longer outage means a new load"
        fix = _set_global("binlog_expire_logs_seconds", "604800", kind).replace("'", "")
        if "binlog_expire_logs_seconds" not in variables:
            fix = "SET GLOBAL expire_logs_days = 7;  -- and expire_logs_days = 7 in the server's option file"
        yield Requirement("source.retention", "warn", "binary log", message, fix)
    else:
        kept = f"{seconds / DAY:.1f} days" if seconds else "until it is purged by hand"
        yield Requirement("source.retention", "pass", "binary log", f"kept {kept}")


def _retention(variables: Mapping[str, str]) -> float:
    """Seconds for which the log is kept, 0 for no end."""
    if variables.get("binlog_expire_logs_auto_purge", "ON") == "OFF":
        return 0
    seconds = float(variables.get("binlog_expire_logs_seconds") or 0)
    return seconds or float(variables.get("expire_logs_days") or 0) * DAY


def _check_replica(connection: Any, variables: Mapping[str, str], kind: str) -> Iterator[Requirement]:
    name = "log_slave_updates" if kind == "mariadb" else "log_replica_updates"
    logs = variables.get(name, variables.get("log_slave_updates", "ON")).upper() in ("ON", "1")
    if logs or not _is_replica(connection, variables, kind):
        yield Requirement("source.replica", "pass", name, "every change of this server is in its log")
        return
    message = "this server is a replica and does not log what it replicates: those changes would never arrive"
    fix = _OPTION_FILE + f"{name} = ON"
    yield Requirement("source.replica", "fail", name, message, fix)


def _check_domain(variables: Mapping[str, str]) -> Iterator[Requirement]:
    """MariaDB counts per domain: two servers that write to one count backwards in each other's log."""
    own = variables.get("gtid_domain_id", "")
    foreign = {gtid.split("-")[0] for gtid in variables.get("gtid_slave_pos", "").split(",") if gtid}
    if not own:
        return
    if own not in foreign or variables.get("read_only", "OFF").upper() not in ("OFF", "0"):
        yield Requirement("source.gtid_domain", "pass", "gtid_domain_id", own)
        return
    message = (
        f"this server is a replica and may write to domain {own}, which it replicates too: sequence numbers that go "
        "backwards end a run"
    )
    free = next(str(n) for n in itertools.count(1) if str(n) not in foreign)
    fix = (
        f"SET GLOBAL gtid_domain_id = {free};  -- and gtid_domain_id = {free} in the server's option file; "
        "applications must reconnect"
    )
    yield Requirement("source.gtid_domain", "warn", "gtid_domain_id", message, fix)


def _is_replica(connection: Any, variables: Mapping[str, str], kind: str) -> bool:
    if variables.get("gtid_slave_pos"):
        return True
    if kind == "mariadb":
        rows = fetch(connection, "SHOW GLOBAL STATUS LIKE 'Slaves_running'")
        return bool(rows) and str(rows[0]["value"]) != "0"
    return bool(_try(connection, "SHOW REPLICA STATUS") or _try(connection, "SHOW SLAVE STATUS"))


def _check_generated_keys(variables: Mapping[str, str]) -> Iterator[Requirement]:
    name = "show_gipk_in_create_table_and_information_schema"
    if variables.get(name) == "OFF":
        message = "the server hides generated primary keys; this program's sessions see them, and mirror them"
        yield Requirement("source.generated_keys", "pass", name, message)


# --- rights ---------------------------------------------------------------------------------------


def _check_rights(connection: Any, account: str, may_see_log: bool, kind: str) -> Iterator[Requirement]:
    granted = _global_rights(connection)
    yield _right("REPLICATION SLAVE", bool(granted & {"REPLICATION SLAVE", "ALL PRIVILEGES"}), account)
    monitor = "BINLOG MONITOR" if kind == "mariadb" else "REPLICATION CLIENT"
    yield _right(monitor, may_see_log, account)
    if kind == "mysql":
        yield _right("XA_RECOVER_ADMIN", _try(connection, "XA RECOVER") is not None, account)


def _right(name: str, is_there: bool, account: str) -> Requirement:
    check_id = f"source.grant.{name.lower().replace(' ', '_')}"
    if is_there:
        return Requirement(check_id, "pass", account, f"has {name}")
    return Requirement(
        check_id, "fail", account, f"lacks {name}", f"GRANT {name} ON *.* TO {_quote_account(account)};"
    )


def _global_rights(connection: Any) -> set[str]:
    """What SHOW GRANTS says ON *.*; with the rights of the active roles."""
    found: set[str] = set()
    for row in fetch(connection, "SHOW GRANTS"):
        match = re.match(r"GRANT (.*?) ON \*\.\* TO ", str(next(iter(row.values()))))
        if match:
            found |= {name.strip().upper() for name in match.group(1).split(",")}
    return found


def may_see_triggers(connection: Any) -> bool:
    """Whether the account has TRIGGER anywhere: servers hide triggers from everybody else."""
    grants = (str(next(iter(row.values()))) for row in fetch(connection, "SHOW GRANTS"))
    return any(re.search(r"\bTRIGGER\b|\bALL PRIVILEGES\b", grant) for grant in grants)


def _check_select(connection: Any, tables: Iterable[TableSchema], account: str) -> Iterator[Requirement]:
    """Reading no row of every column, those included that the catalog would not show us, needs the rights of a load."""
    count = 0
    for table in tables:
        columns = ", ".join(quote_name(column.name) for column in table.columns)
        name = quote_table(table.source)
        if not _may_read(connection, f"SELECT {columns}, t.* FROM {name} t LIMIT 0"):
            fix = f"GRANT SELECT ON {name} TO {_quote_account(account)};"
            yield Requirement(
                "source.grant.select", "fail", str(table.source), f"{account} may not read it", fix
            )
        else:
            count += 1
    yield Requirement("source.grant.select", "pass", account, f"may read {count} selected tables")


def _may_read(connection: Any, sql: str) -> bool:
    """A table that is gone was mirrored before: its DROP is in the log, and pauses it there."""
    try:
        fetch(connection, sql)
    except (pymysql.err.ProgrammingError, pymysql.err.OperationalError, pymysql.err.InternalError) as error:
        if not connection.open:
            raise
        return error.args[0] in _GONE
    return True


def _quote_account(account: str) -> str:
    user, _, host = account.rpartition("@")
    return f"{quote_name(user)}@{quote_name(host)}"


# --- tables ---------------------------------------------------------------------------------------


def _check_filters(status: Mapping[str, Any] | None, tables: Iterable[TableSchema]) -> Iterator[Requirement]:
    if not status:
        return
    only, never = (_split(status.get(name)) for name in ("binlog_do_db", "binlog_ignore_db"))
    if not only and not never:
        yield Requirement("source.filters", "pass", "binary log", "no database is left out")
        return
    schemas = {table.source.schema for table in tables}
    # Where both are set, the server looks at binlog_do_db alone.
    lost = sorted(s for s in schemas if (s not in only if only else s in never))
    fix = "# remove binlog_do_db and binlog_ignore_db from the server's option file, then restart it"
    if lost:
        message = f"the server does not log changes of {', '.join(lost)} (binlog_do_db, binlog_ignore_db)"
        yield Requirement("source.filters", "fail", "binary log", message, _unfilter(lost, bool(only)))
        return
    message = (
        "binlog_do_db or binlog_ignore_db is set: schema changes of the selected tables may not be logged"
    )
    yield Requirement("source.filters", "warn", "binary log", message, fix)


def _unfilter(lost: Sequence[str], is_list: bool) -> str:
    """Lines that bring the lost databases into the log: binlog_do_db adds up (``is_list``), binlog_ignore_db must go."""
    if is_list:
        return _OPTION_FILE + "\n".join(f"binlog_do_db = {schema}" for schema in lost)
    return "# remove from the server's option file, then restart it\n" + "\n".join(
        f"# binlog_ignore_db = {schema}" for schema in lost
    )


def _split(text: object) -> set[str]:
    return {name.strip() for name in str(text or "").split(",") if name.strip()}


def _check_engines(connection: Any, tables: Iterable[TableSchema]) -> Iterator[Requirement]:
    names = {table.source for table in tables}
    schemas = sorted({name.schema for name in names})
    if not schemas:
        return
    sql = (
        "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES"
        f" WHERE TABLE_SCHEMA IN ({marks(schemas)})"
    )
    for row in fetch(connection, sql, schemas):
        name = TableName(row["table_schema"], row["table_name"])
        if name in names and str(row["engine"]).lower() not in _IN_SNAPSHOTS:
            message = (
                f"engine {row['engine']} is in no snapshot: rows that change while the table loads may arrive twice or not "
                "at all"
            )
            fix = f"ALTER TABLE {quote_table(name)} ENGINE = InnoDB;  -- or load while nobody writes to it"
            yield Requirement("tables.engine", "warn", str(name), message, fix)
