"""What must hold at a PostgreSQL source before it is read, each with the statement that mends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from replicator.model import Column, TableSchema
from replicator.readers.base import Requirement
from replicator.readers.postgres_mute import check_text_forms
from replicator.readers.postgres_session import (
    Connection,
    Record,
    fetch,
    quote_literal,
    quote_name,
    quote_table,
)
from replicator.readers.postgres_slot import Slot
from replicator.typemap.standin import find_deferrable, find_spots

OLDEST: Final = 130_000
MONEY_DECIMALS: Final = 2  # in the sessions that read: lc_monetary is C there

_SETTINGS: Final = (
    "SELECT current_setting('wal_level') AS wal_level, current_setting('server_version_num')::int AS version,"
    " current_setting('server_version') AS version_text, current_setting('server_encoding') AS encoding,"
    " current_setting('max_replication_slots')::int AS slots, (SELECT count(*) FROM pg_replication_slots) AS used_slots,"
    " current_setting('max_wal_senders')::int AS senders, (SELECT count(*) FROM pg_stat_replication) AS used_senders,"
    " pg_is_in_recovery() AS is_standby, current_user AS account, current_database() AS database,"
    " (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_replicate,"
    " (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS bypasses,"
    " has_database_privilege(current_database(), 'CREATE') AS may_publish"
)
_TABLES: Final = (
    "SELECT n.nspname AS schema, c.relname AS name, c.relpersistence AS persistence, c.relreplident AS identity,"
    " pg_get_userbyid(c.relowner) AS owner, pg_has_role(c.relowner, 'USAGE') AS is_owner,"
    " EXISTS (SELECT 1 FROM pg_roles r WHERE r.rolsuper AND pg_has_role(c.relowner, r.oid, 'MEMBER')) AS is_superuser,"
    " has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS may_read,"
    " EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indimmediate) AS is_deferrable,"
    " c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) AS is_secured"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
)

_ENOUGH: Final = "enough to go on; a table that comes to the file could not be loaded"
_OTHERS: Final = "others have them all; a run waits until one is free"


def check(connection: Connection, tables: Sequence[TableSchema], slot: Slot | None) -> list[Requirement]:
    """Every requirement, passed or not; ``slot`` is the pipeline's, where it is there already."""
    settings = fetch(connection, _SETTINGS)[0]
    found = {(row["schema"], row["name"]): row for row in fetch(connection, _TABLES)}
    requirements = list(_check_server(settings, slot))
    for table in tables:
        row = found.get((table.source.schema, table.source.table))
        if row is not None:
            requirements += _check_table(table, row, settings)
            if row["may_read"]:
                requirements += check_text_forms(connection, table)
    return requirements


def _check_server(settings: Record, slot: Slot | None) -> Iterator[Requirement]:
    account, database = quote_name(settings["account"]), quote_name(settings["database"])
    yield _judge(
        settings["version"] >= OLDEST,
        "source.version",
        "server",
        f"PostgreSQL {settings['version_text']}",
        "upgrade the source to PostgreSQL 13 or newer",
    )
    yield _judge(
        not settings["is_standby"],
        "source.primary",
        "server",
        "a standby" if settings["is_standby"] else "a primary",
        "name the primary under source.host: this version does not read from a standby",
    )
    yield _judge(
        settings["wal_level"] == "logical",
        "source.wal_level",
        "wal_level",
        f"wal_level is {settings['wal_level']}",
        "ALTER SYSTEM SET wal_level = logical;    -- then restart the server",
    )
    yield _judge(
        settings["encoding"] == "UTF8",
        "source.encoding",
        settings["database"],
        f"the database's encoding is {settings['encoding']}",
        "this version reads databases in UTF8 only",
    )
    yield _judge_room(
        settings["slots"],
        settings["used_slots"],
        "source.slots",
        "max_replication_slots",
        "" if slot is None else _ENOUGH,
    )
    yield _judge_room(
        settings["senders"],
        settings["used_senders"],
        "source.senders",
        "max_wal_senders",
        "" if slot is None else _ENOUGH if slot.active_pid else _OTHERS,  # a newcomer ends the one that reads
    )
    yield _judge(
        settings["may_replicate"],
        "source.grant.replication",
        settings["account"],
        "the account has REPLICATION" if settings["may_replicate"] else "the account lacks REPLICATION",
        f"ALTER ROLE {account} REPLICATION;",
    )
    yield _judge(
        settings["may_publish"],
        "source.grant.create",
        settings["database"],
        "the account may make a publication"
        if settings["may_publish"]
        else "the account may make no publication",
        f"GRANT CREATE ON DATABASE {database} TO {account};",
    )


def _judge_room(most: int, used: int, check_id: str, setting: str, begun: str) -> Requirement:
    """Whether there is one for us to read with; ``begun``: why none is no fault of a pipeline that has its slot already."""
    status = "pass" if used < most else "warn" if begun else "fail"
    message = f"{most - used} of {most} are free"
    if status == "warn":
        message += f": {begun}"
    fix = f"ALTER SYSTEM SET {setting} = {most + 4};    -- then restart the server"
    return Requirement(check_id, status, setting, message, "" if status == "pass" else fix)


def _check_table(table: TableSchema, row: Record, settings: Record) -> Iterator[Requirement]:
    subject, name = str(table.source), quote_table(table.source)
    account = quote_name(settings["account"])
    if row["persistence"] != "p":
        yield Requirement(
            "tables.unlogged",
            "fail",
            subject,
            "an unlogged table's changes are in no log",
            f"ALTER TABLE {name} SET LOGGED;",
        )
    if not row["may_read"]:
        yield Requirement(
            "source.grant.select",
            "fail",
            subject,
            "the account may not read it",
            f"GRANT SELECT ON {name} TO {account};",
        )
    if not row["is_owner"]:
        yield _refuse_owner(subject, name, row, account)
    if row["is_secured"] and not settings["bypasses"]:
        yield Requirement(
            "source.row_security",
            "fail",
            subject,
            "row-level security would hide rows from the load",
            f"ALTER ROLE {account} BYPASSRLS;",
        )
    for key in find_deferrable(table):
        if not find_spots(table, key):
            yield Requirement(
                "tables.deferrable",
                "warn",
                subject,
                f"{key.name} is DEFERRABLE and its type has no value to spare: rows that exchange values of it in one"
                " statement or transaction stop the run, for MySQL looks at each row",
                "make the constraint NOT DEFERRABLE, or exchange its values by way of a free one",
            )
    yield from _check_identity(table, row, subject, name)


def _refuse_owner(subject: str, name: str, row: Record, account: str) -> Requirement:
    """Membership in the owner's role lets an account do all that the owner may: no superuser's is handed on."""
    message = f"only the owner {row['owner']} can publish it"
    if not row["is_superuser"]:
        return Requirement(
            "source.owner", "fail", subject, message, f"GRANT {quote_name(row['owner'])} TO {account};"
        )
    return Requirement(
        "source.owner",
        "fail",
        subject,
        f"{message}, who is a superuser or may become one: granted to the account, so could the account",
        f"ALTER TABLE {name} OWNER TO {account};    -- or to a role that is no superuser, granted to the account",
    )


def _check_identity(table: TableSchema, row: Record, subject: str, name: str) -> Iterator[Requirement]:
    """An UPDATE or DELETE at the source fails, the application's own, once a table without one is published (§3.2)."""
    identity = row["identity"]
    if identity == "n" or not table.key:
        default = (
            f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT;    -- with a primary key; or USING INDEX of a unique index"
            " of NOT NULL columns. Takes a moment's exclusive lock, by the table's owner"
        )
        full = f"ALTER TABLE {name} REPLICA IDENTITY FULL;    -- for a key that is DEFERRABLE is no identity"
        if identity == "f" and row["is_deferrable"]:
            full = "give it a key that is NOT DEFERRABLE: of this one no value can be spared while rows exchange theirs"
        yield Requirement(
            "tables.identity",
            "fail",
            subject,
            "no replica identity tells its rows apart: published, it would refuse the application's own UPDATE",
            full if row["is_deferrable"] else default,
        )
        return
    extra = [key.name for key in table.unique_keys if key.ordinals != table.key]
    if extra and identity != "f":
        yield Requirement(
            "tables.unique",
            "warn",
            subject,
            f"with its replica identity the stream does not tell whether {', '.join(extra)} changed: its updates are"
            " applied one after the other",
            f"ALTER TABLE {name} REPLICA IDENTITY FULL;    -- writes whole old rows to the log",
        )


# --- money ------------------------------------------------------------------------------------------------------------


def find_money(tables: Sequence[TableSchema]) -> list[tuple[TableSchema, Column]]:
    """The columns that hold money, with their tables."""
    return [
        (table, column)
        for table in tables
        for column in table.columns
        if column.base == "money" or column.source_type.startswith("money[")
    ]


def check_money(connection: Connection, columns: Sequence[tuple[TableSchema, Column]]) -> list[Requirement]:
    """What is stored is a count of the smallest coin, so where the point is hangs on the lc_monetary of who wrote it.

    ``connection`` is a session with the database's own settings.
    """
    odd = {name: digits for name, digits in _read_decimals(connection).items() if digits != MONEY_DECIMALS}
    if not odd:
        return [Requirement("tables.money", "pass", f"{len(columns)} columns", "money has two decimals here")]
    found = ", ".join(f"{name or 'C'} has {digits} decimals" for name, digits in odd.items())
    return [
        Requirement(
            "tables.money",
            "fail",
            f"{table.source} {column.name}",
            f"as lc_monetary is set here, {found}: read with {MONEY_DECIMALS}, the point would be elsewhere",
            f"SET lc_monetary = {quote_literal(next(iter(odd)))}; {_build_numeric(table, column)}",
        )
        for table, column in columns
    ]


def _build_numeric(table: TableSchema, column: Column) -> str:
    name, numeric = quote_name(column.name), "numeric[]" if column.base != "money" else "numeric"
    return (
        f"ALTER TABLE {quote_table(table.source)} ALTER COLUMN {name} TYPE {numeric} USING {name}::{numeric};"
    )


def _read_decimals(connection: Connection) -> dict[str, int]:
    """How many decimals money has, by each lc_monetary that the database, or a role in it, is set to."""
    rows = fetch(
        connection,
        "SELECT current_setting('lc_monetary') AS name UNION SELECT split_part(entry, '=', 2) FROM pg_db_role_setting,"
        " unnest(setconfig) entry WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname ="
        " current_database())) AND entry LIKE 'lc_monetary=%'",
    )
    found = {}
    for row in rows:
        with contextlib.suppress(
            psycopg.errors.InvalidParameterValue
        ):  # no such locale: no session takes it either
            fetch(connection, "SELECT set_config('lc_monetary', %s, false)", (row["name"],))
            found[row["name"]] = int(
                fetch(connection, "SELECT scale('1'::money::numeric) AS digits")[0]["digits"]
            )
    return found


def _judge(holds: bool, check_id: str, subject: str, message: str, fix: str) -> Requirement:
    return Requirement(check_id, "pass" if holds else "fail", subject, message, "" if holds else fix)
