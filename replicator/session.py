"""One checked session at the target: the only place that talks to the target's server, below apply, load and target.

A session is TLS-checked, has autocommit off and the settings of SEMANTICS §7, read back and compared. ``run`` sends one
packet of statements and reads every answer; whatever goes wrong comes out as a class of ``errors`` (the table is
``_CLASSES``). PyMySQL's private names are touched in this module alone, and a unit test fails when one of them moves.

LOAD DATA LOCAL is answered only while a body of ours is outstanding, only for our own token, and only from memory:
PyMySQL alone would send any file that the server names, in answer to any statement (SEMANTICS §6.4).
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self, cast

import pymysql
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND

from replicator.config import CONNECT_TIMEOUT, Endpoint, connect_options
from replicator.errors import (
    CheckRefused,
    DataError,
    DuplicateKey,
    TargetError,
    TargetRetry,
    TargetUnavailable,
)
from replicator.tls import assert_encrypted

SQL_MODE = (
    "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,"
    "NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO"
)
LOAD_TOKEN = b"replicator-body"
"""What LOAD DATA LOCAL INFILE names in our statements; it is no file, and no other name is ever answered."""

LOCK_WAIT_SECONDS = 10
WAIT_SECONDS = 60
"""The server ends a session that was silent for so long (SEMANTICS §4.4): ping, or apply, more often."""

READ_SECONDS = 600.0
DEAD_PEER_SECONDS = 60
BODY_PACKET_BYTES = 1 << 20

_GRANTED = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES"


class Result(NamedTuple):
    """The answer to one statement; ``affected_rows`` counts rows matched (FOUND_ROWS)."""

    affected_rows: int
    warnings: int
    rows: tuple[tuple[Any, ...], ...] | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this server and account can do, asked for at the connect, never guessed from the version."""

    version: str
    connection_id: int
    max_allowed_packet: int
    local_infile: bool
    requires_primary_key: bool
    tls: str | None


class _Result(MySQLResult):  # type: ignore[misc]
    """PyMySQL's reading of one answer, with the reply to LOAD DATA LOCAL taken out of its hands."""

    def __init__(self, connection: Any, body: Body) -> None:
        super().__init__(connection)
        self._body = body

    def _read_load_local_packet(self, first_packet: Any) -> None:
        self._body.send(self.connection, first_packet.get_all_data()[1:])
        self._read_ok_packet(self.connection._read_packet())


class Body:
    """The rows of the one LOAD DATA LOCAL that may be outstanding; ``send`` works once, for our token."""

    def __init__(self, blocks: Iterable[bytes] | None) -> None:
        self._blocks = blocks

    def send(self, connection: Any, name: bytes) -> None:
        """Answer the server's request for file ``name``; any but ours closes the connection (TargetError)."""
        blocks, self._blocks = self._blocks, None
        if blocks is None or name != LOAD_TOKEN:
            connection._force_close()
            raise TargetError(
                f"the target asked for the local file {name.decode(errors='replace')!r}, which we never named",
                hint="nothing was sent; find out what answers at this address before connecting again",
            )
        try:
            for block in _split_blocks(blocks):
                connection.write_packet(block)
        except BaseException:
            # There is no way to take a half-sent body back but to leave: an empty packet would end it in order, and the
            # COMMIT behind it would stand.
            connection._force_close()
            raise
        connection.write_packet(b"")


def _split_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks of at most 1 MiB; empty ones left out, for an empty packet would end the body."""
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), BODY_PACKET_BYTES):
            yield bytes(view[start : start + BODY_PACKET_BYTES])


class Session:
    """One session at the target, used by one thread at a time. Made by ``connect``; a lost one is never revived."""

    def __init__(self, connection: Any, endpoint: Endpoint, capabilities: Capabilities) -> None:
        self._connection = connection
        self.endpoint = endpoint
        self.capabilities = capabilities
        self.foreign_key_checks = True

    @classmethod
    def connect(
        cls,
        endpoint: Endpoint,
        *,
        loads: bool = False,
        read_seconds: float = READ_SECONDS,
        connect_seconds: int = CONNECT_TIMEOUT,
    ) -> Self:
        """Connect, resolving the address anew, and prepare the session.

        ``loads`` allows LOAD DATA LOCAL on it. ``read_seconds`` bounds the wait for one answer of a server whose
        machine still answers; a dead one is noticed after ``DEAD_PEER_SECONDS`` by the socket itself. Raises
        TargetUnavailable for outages, TargetError for what waiting cannot mend.
        """
        connection = _open(endpoint, loads, connect_seconds)
        try:
            tls = assert_encrypted(connection, endpoint.tls, TargetError)
            _apply_settings(connection, loads)
            capabilities = _read_capabilities(connection, endpoint, tls)
        except BaseException:
            connection._force_close()
            raise
        connection._read_timeout = connection._write_timeout = read_seconds
        return cls(connection, endpoint, capabilities)

    @property
    def connection_id(self) -> int:
        return self.capabilities.connection_id

    @property
    def is_open(self) -> bool:
        return bool(self._connection.open)

    def run(self, packet: bytes, body: Iterable[bytes] | None = None) -> list[Result]:
        """Send one COM_QUERY packet of one or more statements; return one Result a statement.

        ``body`` is what its LOAD DATA LOCAL INFILE (of ``LOAD_TOKEN``) reads; when its iteration raises, the session is
        closed and the server rolls back. Raises errors of ``_CLASSES``, with ``result_index``: the statements before it
        were run, those behind it were not. A lost connection leaves the outcome unknown.
        """
        return _run(self._connection, packet, Body(body))

    def query(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Run one statement of a cold path; ``%s`` takes ``args``. Returns the rows, temporal values as text.

        The transaction it opens (autocommit is off) stays open: ``commit`` or ``rollback`` ends it.
        """
        text = self._connection.cursor().mogrify(sql, args) if args else sql
        return list(self.run(text.encode())[-1].rows or ())

    def execute(self, sql: str, *args: object) -> int:
        """As ``query``, for a statement without rows: returns the number of rows matched."""
        text = self._connection.cursor().mogrify(sql, args) if args else sql
        return self.run(text.encode())[-1].affected_rows

    def commit(self) -> None:
        self.run(b"COMMIT")

    def rollback(self) -> None:
        self.run(b"ROLLBACK")

    def ping(self) -> None:
        """Keep the session alive; TargetUnavailable when it is lost."""
        try:
            self._connection.ping(reconnect=False)
        except pymysql.MySQLError as error:
            _raise(error, 0)

    def set_foreign_key_checks(self, on: bool) -> None:
        """Switch checks for this session; no round trip when they are already so."""
        if on != self.foreign_key_checks:
            self.run(b"SET foreign_key_checks=%d" % on)
            self.foreign_key_checks = on

    def kill(self, connection_id: int) -> None:
        """End another session of our own account; one that is already gone is no error."""
        try:
            self.run(b"KILL %d" % connection_id)
        except TargetError as error:
            if error.errno != _NO_SUCH_THREAD:
                raise

    def close(self) -> None:
        """Say goodbye and close; more than once does no harm."""
        if self._connection.open:
            with contextlib.suppress(pymysql.MySQLError):
                self._connection.close()

    def abort(self) -> None:
        """Drop the connection without a word; a thread that waits on it gets TargetUnavailable."""
        sock = self._connection._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- connecting -------------------------------------------------------------------------------------------------------


def _open(endpoint: Endpoint, loads: bool, connect_seconds: int) -> Any:
    # PyMySQL's own local_infile stays off: without our Body it refuses to answer any file request at all.
    flags = CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS | (CLIENT.LOCAL_FILES if loads else 0)
    connection = Connection(
        **connect_options(endpoint, connect_timeout=connect_seconds),
        client_flag=flags,
        autocommit=False,
        local_infile=False,
        conv=_CONVERSIONS,
        read_timeout=connect_seconds,
        write_timeout=connect_seconds,
        program_name="replicator",
        defer_connect=True,
    )
    try:
        connection.connect(_open_socket(endpoint, connect_seconds))
    except OSError as error:
        raise _unreachable(endpoint, error) from None
    except pymysql.MySQLError as error:
        cause = getattr(error, "original_exception", None)
        if isinstance(cause, OSError):
            raise _unreachable(endpoint, cause) from None
        _raise(error, 0, f"{endpoint.address}: ")
    return connection


def _open_socket(endpoint: Endpoint, connect_seconds: int) -> socket.socket:
    """A connected TCP socket that notices a dead peer by itself, whether we wait for an answer or for room to send."""
    sock = socket.create_connection((endpoint.host, endpoint.port), connect_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_PEER_SECONDS // 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_PEER_SECONDS // 12)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 9)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_SECONDS * 1000)
    return sock


def _unreachable(endpoint: Endpoint, error: OSError) -> TargetError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TargetError(
            f"{endpoint.address}: the target's certificate is not to be trusted: {error.verify_message}",
            hint="check target.tls.ca, and for verify_identity that target.host is the name in the certificate",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TargetError(
            f"{endpoint.address}: TLS failed: {error.reason or error}", hint="check target.tls"
        )
    reason = error.strerror or str(error) or type(error).__name__
    return TargetUnavailable(
        f"{endpoint.address}: the target cannot be reached: {reason}",
        hint="is the tunnel up, the name right, and the database running?",
    )


def _session_settings(loads: bool) -> dict[str, str | int]:
    # A load's body comes from the source at the source's pace.
    net_seconds = 600 if loads else WAIT_SECONDS
    return {
        "sql_mode": SQL_MODE,
        "time_zone": "+00:00",
        "transaction_isolation": "READ-COMMITTED",
        "range_optimizer_max_mem_size": 0,
        "innodb_lock_wait_timeout": LOCK_WAIT_SECONDS,
        "lock_wait_timeout": LOCK_WAIT_SECONDS,
        "net_read_timeout": net_seconds,
        "net_write_timeout": net_seconds,
        "wait_timeout": WAIT_SECONDS,
        "foreign_key_checks": 1,
        "autocommit": 0,
        # A server-wide CHAIN or RELEASE would change what our COMMIT and ROLLBACK mean.
        "completion_type": "NO_CHAIN",
        "max_execution_time": 0,
        "sql_safe_updates": 0,
        "sql_select_limit": 2**64 - 1,
    }


_NAMES = {
    "character_set_client": "utf8mb4",
    "character_set_connection": "utf8mb4",
    "character_set_results": "utf8mb4",
}


def _apply_settings(connection: Any, loads: bool) -> None:
    """Set what SEMANTICS §7 asks for and compare what the server then says; none of it needs a privilege."""
    settings = _session_settings(loads)
    pairs = ",".join(f"SESSION {name}={_literal(value)}" for name, value in settings.items())
    _run(connection, f"SET NAMES utf8mb4; SET {pairs}".encode(), Body(None))
    expected = {**settings, **_NAMES}
    columns = ",".join(f"@@SESSION.{name}" for name in expected)
    row = _run(connection, f"SELECT {columns}".encode(), Body(None))[0].rows
    assert row is not None
    for (name, wanted), found in zip(expected.items(), row[0], strict=True):
        if _normalise(name, found) != _normalise(name, wanted):
            raise TargetError(
                f"the target answers {name} = {found!r} after it was set to {wanted!r}",
                hint="a proxy that changes session settings cannot stand between replicator and target",
            )


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _normalise(name: str, value: Any) -> Any:
    return frozenset(str(value).split(",")) if name == "sql_mode" else str(value)


def _read_capabilities(connection: Any, endpoint: Endpoint, tls: str | None) -> Capabilities:
    sql = b"SELECT @@version, CONNECTION_ID(), @@max_allowed_packet, @@local_infile, @@version_comment"
    rows = _run(connection, sql, Body(None))[0].rows
    assert rows is not None
    version, connection_id, packet, local_infile, comment = rows[0]
    if "mariadb" in f"{version}{comment}".lower():
        raise TargetError(
            f"{endpoint.address}: the target is {version}, not MySQL",
            hint="target.type mysql needs MySQL 8.0.20 or newer",
        )
    variables = _run(connection, b"SHOW VARIABLES LIKE 'sql_require_primary_key'; ROLLBACK", Body(None))[
        0
    ].rows
    requires_key = bool(variables) and cast(Any, variables)[0][1] == "ON"
    return Capabilities(version, connection_id, packet, bool(local_infile), requires_key, tls)


# Temporal values come as the text the server shows: zero dates and 838-hour times have no Python type.
_CONVERSIONS = {
    key: convert
    for key, convert in pymysql.converters.conversions.items()
    if key not in pymysql.DATE | pymysql.TIME | pymysql.TIMESTAMP | pymysql.DATETIME
}


# --- running ----------------------------------------------------------------------------------------------------------


def _run(connection: Any, packet: bytes, body: Body) -> list[Result]:
    results: list[Result] = []
    try:
        connection._execute_command(COMMAND.COM_QUERY, packet)
        while True:
            answer = _Result(connection, body)
            answer.read()
            results.append(Result(answer.affected_rows, answer.warning_count, answer.rows))
            if not answer.has_next:
                return results
    except pymysql.MySQLError as error:
        _raise(error, len(results))
    except TargetError as error:
        error.result_index = len(results)
        raise


# --- classes of errors (SEMANTICS §8) ---------------------------------------------------------------------------------

_NO_SUCH_THREAD = 1094
_OUTAGES = frozenset(
    (
        *(2002, 2003, 2005, 2006, 2013, 2055),  # the client's: cannot connect, unresolved, gone, lost
        *(1040, 1203),  # too many connections
        *(1053, 1077, 1927, 3169, 4031),  # shutting down, killed, silent for too long
        *(1158, 1159, 1160, 1161, 1184),  # the server lost us in mid-packet
        *(1290, 1792, 1836, 3100, 3101),  # read-only, failing over
    )
)
_RETRIES = frozenset(
    (1205, 1213, 1317, 3572, 3058)
)  # lock time-out, deadlock, interrupted, NOWAIT, user lock deadlock
_DUPLICATES = frozenset((1062, 1586))
_CHECK = 1242
_DENIED = frozenset((1044, 1142, 1143, 1227, 1370))
_HINTS = {
    1045: "check target.user and target.password, and that the account may come from this host",
    1049: "create the database, or correct target.database",
    1114: "the target is out of room; free some and start again",
    1129: "run `FLUSH HOSTS` at the target: it counts failed connects from this host",
    1130: "create the account for this host, or with host '%'",
    1153: "a row is larger than the target's max_allowed_packet; raise it there",
    1665: "the target's binlog_format must be ROW",
    1698: "check target.user and its authentication plugin",
    2026: "check target.tls; the server may offer no TLS",
    2059: "this authentication plugin needs TLS or is not supported",
    3024: "raise max_execution_time at the target",
    3159: "the target demands TLS; set target.tls.mode to required",
    3750: "a table without a primary key cannot be made at this target",
    3948: "local_infile is off at the target",
}


def _raise(error: pymysql.MySQLError, index: int, prefix: str = "") -> NoReturn:
    raise classify(error, index, prefix) from None


def classify(error: pymysql.MySQLError, index: int = 0, prefix: str = "") -> TargetError:
    """The error of our tree for one of PyMySQL's, by its number first and its SQLSTATE second."""
    number, text = _parts(error)
    sqlstate = getattr(error, "sqlstate", None) or ""
    found = _build_error(
        number, sqlstate, f"{prefix}{text} (error {number}{', ' + sqlstate if sqlstate else ''})", text
    )
    found.errno, found.sqlstate, found.result_index = number, sqlstate, index
    return found


def _parts(error: pymysql.MySQLError) -> tuple[int, str]:
    if isinstance(error, pymysql.err.InterfaceError) or not error.args or not isinstance(error.args[0], int):
        return 2006, str(error.args[-1] if error.args else "") or "the connection is closed"
    return error.args[0], str(error.args[1]) if len(error.args) > 1 else str(error)


def _build_error(number: int, sqlstate: str, message: str, text: str) -> TargetError:
    if number in _OUTAGES:
        return TargetUnavailable(message)
    if number in _RETRIES:
        return TargetRetry(message)
    if number in _DUPLICATES:
        return DuplicateKey(message, table=_table_of(text))
    if number == _CHECK:
        return CheckRefused(message)
    if number in _DENIED:
        return TargetError(message, hint=_grant_for(text))
    if sqlstate[:2] in ("22", "23"):
        return DataError(message, table=_table_of(text))
    return TargetError(message, hint=_HINTS.get(number, ""))


def _table_of(text: str) -> str:
    """The table that a duplicate-key or foreign-key message names, "" where it names none."""
    match = re.search(r"for key '([^'.]+)\.", text) or re.search(r"fails \(`[^`]*`\.`((?:[^`]|``)+)`", text)
    return match[1] if match else ""


def _grant_for(text: str) -> str:
    """The GRANT that a denial asks for, as far as its message tells."""
    account = re.search(r"user '((?:[^']|'')*)'@'((?:[^']|'')*)'", text)
    command = re.match(r"([A-Z][A-Z, ]*?) command denied", text)
    database = re.search(r"to database '([^']*)'", text) or re.search(r"for table '`?([^'`.]+)`?\.", text)
    who = f"'{account[1]}'@'{account[2]}'" if account else "<account>"
    where = f"`{database[1]}`.*" if database else "<database>.*"
    return f"run at the target: GRANT {command[1] if command else _GRANTED} ON {where} TO {who}"
