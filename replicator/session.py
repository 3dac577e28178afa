"""One checked session at the target: the only place that talks to the target's server, below apply, load and target.

A session is TLS-checked, has autocommit off and the settings of SEMANTICS §7, read back and compared. ``run`` sends one
packet of statements and reads every answer; whatever goes wrong comes out as a class of ``errors``, chosen in
``refusals``. PyMySQL's private names are touched here and in ``tls`` alone, and a unit test fails when one moves.

LOAD DATA LOCAL is answered only while a body of ours is outstanding, only for the name we sent, and only from memory:
PyMySQL alone would send any file that the server names, in answer to any statement (SEMANTICS §6.4).
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import pymysql
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND

from replicator.config import CONNECT_TIMEOUT, Endpoint, connect_options
from replicator.errors import TargetError, TargetUnavailable, spell_account
from replicator.patience import persist
from replicator.refusals import NO_SUCH_THREAD, Grantee, raise_classified
from replicator.stranger import GARBAGE, find_stranger
from replicator.tls import assert_encrypted

SQL_MODE = (
    "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,"
    "NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO"
)
LOCK_WAIT_SECONDS = 10
WAIT_SECONDS = 60
"""The server ends a session that was silent for so long (SEMANTICS §4.4): ping, or apply, more often."""

READ_SECONDS = 600.0
DEAD_PEER_SECONDS = 60
BODY_PACKET_BYTES = 1 << 20

T = TypeVar("T")


class Result(NamedTuple):
    """The answer to one statement; ``affected_rows`` counts rows matched (FOUND_ROWS)."""

    affected_rows: int
    warnings: int
    rows: tuple[tuple[Any, ...], ...] | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this server and account can do, asked for at the connect, never guessed from the version. ``account`` is in
    GRANT's spelling. ``follows_circles``: cascades are the storage engine's, which also come back to a table."""

    version: str
    account: str
    connection_id: int
    max_allowed_packet: int
    local_infile: bool
    requires_primary_key: bool
    follows_circles: bool
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
    """The rows of the one LOAD DATA LOCAL that may be outstanding; ``send`` works once, for the name in ``packet``."""

    def __init__(self, packet: bytes, blocks: Iterable[bytes] | None) -> None:
        self._blocks = blocks
        named = _INFILE.search(packet) if blocks is not None else None
        self._name = named[1] if named else None

    def send(self, connection: Any, name: bytes) -> None:
        """Answer the server's request for file ``name``; any but ours closes the connection (TargetError)."""
        blocks, self._blocks = self._blocks, None
        if blocks is None or name != self._name:
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
        self._grantee = Grantee(capabilities.account, endpoint.database or "")
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

        ``body`` is what its one LOAD DATA LOCAL INFILE reads; when its iteration raises, the session is closed and the
        server rolls back. Raises what ``refusals`` makes of the server's error, with ``result_index``: the statements
        before it were run, those behind it were not. A lost connection leaves the outcome unknown.
        """
        return _run(self._connection, packet, Body(packet, body), self._grantee)

    def query(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Run one statement of a cold path; ``%s`` takes ``args``. Returns the rows, temporal values as text.

        The transaction it opens (autocommit is off) stays open: ``commit`` or ``rollback`` ends it.
        """
        text = self._connection.cursor().mogrify(sql, args) if args else sql
        return list(self.run(text.encode())[-1].rows or ())

    def list_commands(self) -> dict[int, str]:
        """The sessions of our account, by number, with what each is at: Sleep, Query, …

        The server shows statements cut at 100 bytes, in the midst of a letter too, which nobody could read: as ASCII it
        spells them with question marks. The table of the same name fails over letters of four bytes (error 3854).
        """
        sql = b"SET character_set_results = ascii; SHOW PROCESSLIST; SET character_set_results = utf8mb4"
        return {int(row[0]): str(row[4]) for row in self.run(sql)[1].rows or ()}

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
            raise_classified(error, 0)

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
            if error.errno != NO_SUCH_THREAD:
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
    except (pymysql.MySQLError, *GARBAGE) as error:
        cause = getattr(error, "original_exception", None)
        if isinstance(cause, OSError):
            raise _unreachable(endpoint, cause) from None
        stranger = find_stranger(connection, error, endpoint.host, endpoint.port)
        if stranger is not None:
            kind = TargetError if stranger.is_certain else TargetUnavailable
            raise kind(f"{endpoint.address}: {stranger.message}", hint="correct target.port") from None
        if not isinstance(error, pymysql.MySQLError):
            raise
        raise_classified(error, 0, f"{endpoint.address}: ")
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
    _run(connection, f"SET NAMES utf8mb4; SET {pairs}".encode())
    expected = {**settings, **_NAMES}
    columns = ",".join(f"@@SESSION.{name}" for name in expected)
    row = _run(connection, f"SELECT {columns}".encode())[0].rows
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
    sql = b"SELECT @@version, CONNECTION_ID(), @@max_allowed_packet, @@local_infile, @@version_comment, CURRENT_USER()"
    rows = _run(connection, sql)[0].rows
    assert rows is not None
    version, connection_id, packet, local_infile, comment, account = rows[0]
    if "mariadb" in f"{version}{comment}".lower():
        raise TargetError(
            f"{endpoint.address}: the target is {version}, not MySQL",
            hint="target.type mysql needs MySQL 8.0.20 or newer",
        )
    sql = b"SHOW VARIABLES WHERE Variable_name IN ('sql_require_primary_key', 'innodb_native_foreign_keys'); ROLLBACK"
    variables = dict(_run(connection, sql)[0].rows or ())
    requires_key = variables.get("sql_require_primary_key") == "ON"
    follows_circles = variables.get("innodb_native_foreign_keys", "ON") == "ON"
    return Capabilities(
        version,
        spell_account(account),
        connection_id,
        packet,
        bool(local_infile),
        requires_key,
        follows_circles,
        tls,
    )


# Temporal values come as the text the server shows: zero dates and 838-hour times have no Python type.
_CONVERSIONS = {
    key: convert
    for key, convert in pymysql.converters.conversions.items()
    if key not in pymysql.DATE | pymysql.TIME | pymysql.TIMESTAMP | pymysql.DATETIME
}


def connect_patiently(
    endpoint: Endpoint,
    *,
    loads: bool,
    stop: threading.Event,
    report: Callable[[str], None],
    prepare: Callable[[Session], T],
    read_seconds: float = READ_SECONDS,
) -> tuple[Session, T]:
    """Connect and run ``prepare`` on the new session, waiting through outages with bounded back-off.

    ``report`` hears what is waited for, and "" once that is over. When ``stop`` is set, the outage is raised.
    """

    def connect() -> tuple[Session, T]:
        session = Session.connect(endpoint, loads=loads, read_seconds=read_seconds)
        try:
            return session, prepare(session)
        except BaseException:
            session.close()
            raise

    connected = persist(connect, tell=lambda error: report(f"target: {error.message}"), stop=stop)
    report("")
    return connected


# --- running ----------------------------------------------------------------------------------------------------------


_INFILE = re.compile(rb"LOAD DATA LOCAL INFILE '([^'\\]+)'")


def _run(
    connection: Any, packet: bytes, body: Body | None = None, grantee: Grantee | None = None
) -> list[Result]:
    results: list[Result] = []
    body = body or Body(packet, None)
    try:
        connection._execute_command(COMMAND.COM_QUERY, packet)
        while True:
            answer = _Result(connection, body)
            answer.read()
            results.append(Result(answer.affected_rows, answer.warning_count, answer.rows))
            if not answer.has_next:
                return results
    except pymysql.MySQLError as error:
        raise_classified(error, len(results), grantee=grantee)
    except TargetError as error:
        error.result_index = len(results)
        raise
    except BaseException:
        connection._force_close()  # what was sent or read half leaves no way to go on
        raise
