"""Sessions at a PostgreSQL source: how they are opened and set, queries on its catalog, and its errors as ours.

Every session, the replication ones included, is set as the type map asks (SEMANTICS §7), so that values look the same in
load and stream. Private to the readers of this product.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import pq

from replicator.config import Source
from replicator.errors import SnapshotLost, SourceError, SourceLocked, SourceUnavailable
from replicator.model import TableName
from replicator.readers.postgres_login import LoginFailed, open_connection
from replicator.tls import Tls, TlsMode
from replicator.typemap.postgres import SESSION

Connection = psycopg.Connection[Any]
Record = dict[str, Any]


class Crowded(SourceUnavailable):
    """It is up, and has no room for another session of ours."""


class Refused(SourceError):
    """What the server said no to, in its own words."""


CONNECT_SECONDS: Final = 10
LOCK_SECONDS: Final = 5  # what else wants the table queues behind a lock that waits
STRANGE_WORDS: Final = ("invalid response to SSL negotiation", "expected authentication request")
"""What libpq says of a server that speaks another protocol."""
_TLS: Final = {
    TlsMode.DISABLED: "disable",
    TlsMode.PREFERRED: "prefer",
    TlsMode.REQUIRED: "require",
    TlsMode.VERIFY_CA: "verify-ca",
    TlsMode.VERIFY_IDENTITY: "verify-full",
}
# Rather an error than to wait in a queue for ever, or to read in silence only what a policy shows.
_CAREFUL: Final = {"lock_timeout": f"{LOCK_SECONDS}s", "row_security": "off"}
# Find out about a dead peer in half a minute: tunnels die without a word.
_KEEPALIVE: Final = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
# What libpq itself says of a login that waiting does not mend.
_FINAL_WORDS: Final = (
    "server does not support SSL",
    "certificate",
    "no password supplied",
    *STRANGE_WORDS,
)
# What the server says of one: a setting that it does not take, who may come in and how, the database, its rights.
_FINAL_STATES: Final = ("22", "28", "3D", "42")


def connect(source: Source, *, replication: bool = False, as_found: bool = False) -> Connection:
    """A fresh session with autocommit on, the host resolved anew. Raises SourceUnavailable or SourceError.

    ``replication``: one that takes replication commands, and queries as well. ``as_found``: with none of our settings, to
    see what the database's own are.
    """
    settings = (
        SESSION if replication else SESSION | _CAREFUL
    )  # a slot waits for transactions, by locks, for minutes
    options = " ".join(f"-c {name}={_escape(value)}" for name, value in settings.items())
    if as_found:
        options = ""
    conninfo = {
        "user": source.user,
        "password": source.password.reveal(),
        "dbname": source.database or "",
        "application_name": "replicator",
        "gssencmode": "disable",
        "options": options,
        "replication": "database" if replication else "",
    }
    conninfo |= _tls_options(source.tls) | _KEEPALIVE
    try:
        return open_connection(source.host, source.port, conninfo, CONNECT_SECONDS)
    except LoginFailed as error:
        raise _explain_login(error, source.address) from error


def _explain_login(error: LoginFailed, address: str) -> SourceError:
    """Final where all answers are: without TLS a server may be refused that was only full with it."""
    code = f" (SQLSTATE {', '.join(dict.fromkeys(error.states))})" if error.states else ""
    text = f"{address}: {error}{code}"
    if error.states:
        is_final = all(state.startswith(_FINAL_STATES) for state in error.states)
    else:
        is_final = any(word in text for word in _FINAL_WORDS)
    if is_final:
        return Refused(text, hint="run `replicator check`: it says what mends this")
    is_crowded = any(state.startswith("53") for state in error.states)
    return Crowded(text) if is_crowded else SourceUnavailable(text)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _tls_options(tls: Tls) -> dict[str, str]:
    options = {"sslmode": _TLS[tls.mode], "ssl_min_protocol_version": "TLSv1.2"}
    if tls.mode is TlsMode.VERIFY_IDENTITY or tls.ca:
        options["sslrootcert"] = str(tls.ca) if tls.ca else "system"
    if tls.cert:
        options["sslcert"] = str(tls.cert)
        options["sslkey"] = str(tls.key or tls.cert)
    return options


def fetch(
    connection: Connection, sql: str, args: Sequence[object] | Mapping[str, object] = ()
) -> list[Record]:
    """The rows of one query as dicts. Raises psycopg.Error."""
    cursor = connection.execute(sql.encode(), args or None)
    names = [item.name for item in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


_HOLDERS: Final = """
WITH RECURSIVE wanted AS (
  SELECT c.oid FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS t(schema, name)
  JOIN pg_namespace n ON n.nspname = t.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
 UNION
  SELECT i.inhrelid FROM wanted w JOIN pg_inherits i ON i.inhparent = w.oid)
SELECT DISTINCT l.relation::regclass::text AS name, l.pid, a.usename, a.application_name AS application,
  extract(epoch FROM now() - a.xact_start)::int AS age
FROM pg_locks l JOIN wanted w ON w.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.mode = ANY(%(modes)s) AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 5"""
_EXCLUSIVE: Final = ("AccessExclusiveLock",)
_CHANGING: Final = (
    *_EXCLUSIVE, "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock", "ShareUpdateExclusiveLock"
)  # fmt: skip


def build_locked(
    connection: Connection, tables: Iterable[TableName], what: str, *, to_change: bool = False
) -> SourceLocked:
    """The error for a lock on some of ``tables`` that was not had in time, by whom holds it. Raises psycopg.Error.

    ``what`` cannot be done without; ``to_change``: it is one to change a table, not to read.
    """
    chosen = list(tables)
    args = {
        "schemas": [table.schema for table in chosen],
        "names": [table.table for table in chosen],
        "modes": list(_CHANGING if to_change else _EXCLUSIVE),
    }
    fetch(
        connection, "SELECT pg_stat_clear_snapshot()"
    )  # a transaction goes on seeing the sessions that it saw first
    rows = fetch(connection, _HOLDERS, args)
    holders = ", ".join(f"{row['name']} is held by {name_session(row)}" for row in rows)
    ends = "; ".join(f"SELECT pg_terminate_backend({row['pid']})" for row in rows if row["pid"])
    return SourceLocked(
        f"{what}: no lock within {LOCK_SECONDS} s; {holders or 'who held it is gone by now'}",
        hint=f"wait, or end it: {ends}" if ends else "it is tried again",
    )


def name_session(row: Record) -> str:
    """Words for a session of pg_stat_activity, of which an account may see a part only."""
    if row["pid"] is None:
        return "a prepared transaction"
    age = "" if row["age"] is None else f", for {row['age']} s"
    return f"session {row['pid']} ({row['usename'] or '?'} {row['application'] or ''}{age})"


def explain(error: Exception, address: str) -> SourceError:
    """The error of our tree for what a session met."""
    return build_error(getattr(error, "sqlstate", None) or "", f"{address}: {' '.join(str(error).split())}")


def read_state(result: pq.abc.PGresult) -> str:
    """The SQLSTATE of a result, "" where it has none."""
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()


def build_error(state: str, text: str) -> SourceError:
    """The error for a SQLSTATE, "" for a lost link."""
    # 08: connection; 53: resources; 55006: somebody reads from the slot; 55P03: a lock was not had in time; 57P: ended by
    # the administrator, or not up yet.
    if not state or state.startswith(("08", "53", "55006", "55P03", "57P")):
        return SourceUnavailable(text)
    return Refused(f"{text} (SQLSTATE {state})", hint="run `replicator check`")


def quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """For a session with standard_conforming_strings, which is every one of ours."""
    return "'" + text.replace("'", "''") + "'"


def quote_table(name: TableName) -> str:
    return f"{quote_name(name.schema)}.{quote_name(name.table)}"


# --- COPY … TO STDOUT -------------------------------------------------------------------------------------------------


def copy_lines(connection: Connection, sql: str, batch: int) -> Iterator[list[bytes]]:
    """The lines of a COPY … TO STDOUT in text form, ``batch`` or fewer at a time. Raises SnapshotLost, SourceError.

    A caller that stops early leaves a transaction that must be rolled back, at least to a savepoint.
    """
    pgconn = connection.pgconn
    pgconn.send_query(sql.encode())
    try:
        _await(pgconn)
        result = pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            raise _build_error(pgconn, result)
        lines: list[bytes] = []
        while True:
            size, data = pgconn.get_copy_data(1)
            if size > 0:
                lines.append(bytes(data))
                if len(lines) >= batch:
                    yield lines
                    lines = []
            elif size == 0:
                _wait_readable(pgconn)
                pgconn.consume_input()
            else:
                break
        if lines:
            yield lines
        while (result := pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise _build_error(pgconn, result)
    except psycopg.Error as error:
        raise SnapshotLost(f"the connection to the source was lost during a snapshot: {error}") from error
    except GeneratorExit:
        _abort_copy(connection)
        raise


def _abort_copy(connection: Connection) -> None:
    """Have the server end a COPY, and read what is still on its way; a session that does not manage is closed."""
    pgconn = connection.pgconn
    try:
        connection.cancel_safe(timeout=CONNECT_SECONDS)
        while (size := pgconn.get_copy_data(1)[0]) >= 0:
            if size == 0:
                _wait_readable(pgconn)
                pgconn.consume_input()
        while pgconn.get_result() is not None:
            pass
    except psycopg.Error:
        connection.close()


def _await(pgconn: pq.abc.PGconn) -> None:
    while pgconn.is_busy():
        _wait_readable(pgconn)
        pgconn.consume_input()


def _wait_readable(pgconn: pq.abc.PGconn) -> None:
    select.select([pgconn.socket], [], [])


def _build_error(pgconn: pq.abc.PGconn, result: pq.abc.PGresult | None) -> SourceError:
    """The error of a COPY; the session can be asked something else then."""
    if result is None:
        return SnapshotLost("the source ended a COPY without a word")
    while pgconn.get_result() is not None:
        pass
    state = read_state(result)
    text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf8", "replace")
    message = f"the source refused to be read: {text} (SQLSTATE {state})"
    # 40: serialization; 42P01, 42703: the table or a column went; 57: cancelled or ended; 08: the link.
    if state.startswith(("08", "40", "57", "42P01", "42703")):
        return SnapshotLost(message)
    return Refused(message)
