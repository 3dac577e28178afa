"""One server looked at from the outside in: its name, its port, its login, its TLS, its distance. Below check.

Each step fails apart from the others, because on a VPN they mean different things: a refused connect came back from a
machine, so the tunnel is up; a connect that nobody answers never got there.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import statistics
import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pymysql

from replicator.config import Endpoint, Source, SourceType, connect_options
from replicator.errors import ConfigError, SourceError, spell_account
from replicator.stranger import GARBAGE, Stranger, find_stranger
from replicator.tls import negotiated

CONNECT_SECONDS: Final = 5
PINGS: Final = 5

_TLS_CODES: Final = frozenset({2026, 3159})
_DATABASE_CODES: Final = frozenset({1044, 1049})
_LIMITS: Final = (
    "MAX_USER_CONNECTIONS 0 MAX_CONNECTIONS_PER_HOUR 0 MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0"
)
_CROWDED: Final = {
    1040: "SET GLOBAL max_connections = @@max_connections + 100;    -- or end idle sessions there",
    1129: "TRUNCATE TABLE performance_schema.host_cache;    -- it counts failed connects from this host",
    1203: "SET GLOBAL max_user_connections = 0;    -- or end idle sessions of this account there",
    1226: f"ALTER USER '{{user}}'@'%' WITH {_LIMITS};    -- or end idle sessions of this account there",
}
"""Why a server that is up takes no further login, and what lets one in."""
_RENAME: Final = (
    "SELECT CONCAT('RENAME USER ', QUOTE(user), '@', QUOTE(host), ' TO ', QUOTE(user), '@', QUOTE('%')) INTO @sql"
    " FROM mysql.user WHERE user = '{user}' LIMIT 1; PREPARE rename_user FROM @sql; EXECUTE rename_user;    -- lets the"
    " account, which is there for another host, in from any; with a new one: CREATE USER, with the file's password"
)
"""No fix prints a password: the account keeps its own, and its rights."""


class Failure(NamedTuple):
    """Why a step failed: the step's name (resolve, reach, tls, login, database), what was said, and what mends it."""

    step: str
    message: str
    fix: str


@dataclass(slots=True)
class Probe:
    """What was found; ``failure`` ends it. ``connection`` (autocommit on) belongs to the caller, who closes it.

    ``rtt`` is the median of a few pings and ``clock_offset`` the server's clock minus ours, both in seconds;
    ``tls`` is what was negotiated, None for plain text.
    """

    endpoint: Endpoint
    addresses: tuple[str, ...] = ()
    connect_seconds: float = 0.0
    socket: socket.socket | None = None
    connection: Any = None
    tls: str | None = None
    rtt: float = 0.0
    clock_offset: float = 0.0
    failure: Failure | None = None

    def close(self) -> None:
        if self.connection is not None:
            with contextlib.suppress(pymysql.MySQLError, OSError):  # closed by the server already
                self.connection.close()
        if self.socket is not None:
            self.socket.close()


def probe(endpoint: Endpoint, side: str) -> Probe:
    """Go as far in as possible; never raises for what it finds. ``side`` (source, target) is for the fixes."""
    found = Probe(endpoint)
    is_postgres = isinstance(endpoint, Source) and endpoint.type is SourceType.POSTGRES
    inside = (_enter_postgres,) if is_postgres else (_login, _measure)
    for step in (_resolve, _reach, *inside):
        found.failure = step(found, side)
        if found.failure is not None:
            break
    return found


def _resolve(found: Probe, side: str) -> Failure | None:
    host, port = found.endpoint.host, found.endpoint.port
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Failure(
            "resolve",
            f'the name "{host}" does not resolve: {reason}; it is misspelt, or the DNS server that knows it stands '
            "behind a tunnel that is down",
            f"getent ahosts {host}    # then correct {side}.host, or bring the tunnel up",
        )
    found.addresses = tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
    return None


def _reach(found: Probe, side: str) -> Failure | None:
    host, port = found.endpoint.host, found.endpoint.port
    begun = time.monotonic()
    try:
        found.socket = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as error:
        return explain_unreachable(error, found.endpoint, side)
    found.connect_seconds = time.monotonic() - begun
    return None


def explain_unreachable(error: OSError, endpoint: Endpoint, side: str) -> Failure:
    """What a failed TCP connect says about tunnel and database."""
    host, port = endpoint.host, endpoint.port
    if isinstance(error, ConnectionRefusedError):
        return Failure(
            "reach",
            f"refused: a machine answers at {host} and nothing listens on port {port}; network and tunnel are up, the "
            "database is down, or the port is another",
            f"ss -ltn 'sport = :{port}'    # at {host}: start the database server, or correct {side}.port",
        )
    if isinstance(error, TimeoutError):
        return Failure(
            "reach",
            f"timed out: nothing answered within {CONNECT_SECONDS} s; on a VPN that is a tunnel that is down, or a "
            "firewall that drops packets, rather than a database that is down",
            f"ping -c 3 {host}    # and a host that is known to answer there; then look at tunnel, routes and firewall",
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Failure(
            "reach",
            f"no route: {error.strerror}; the tunnel is down, or its routes are missing",
            f"ip route get {host}    # then bring the tunnel up",
        )
    return Failure("reach", f"{error.strerror or error}", f"nc -vz -w {CONNECT_SECONDS} {host} {port}")


def _login(found: Probe, side: str) -> Failure | None:
    endpoint = found.endpoint
    try:
        options = connect_options(endpoint, connect_timeout=CONNECT_SECONDS)
        found.connection = pymysql.connect(
            **options,
            autocommit=True,
            read_timeout=4 * CONNECT_SECONDS,
            write_timeout=4 * CONNECT_SECONDS,
            program_name="replicator",
            defer_connect=True,
        )
        found.connection.connect(found.socket)  # a second connect that says nothing would count as an attack
    except ConfigError as error:
        return Failure("tls", error.message, f"correct {side}.tls")
    except (pymysql.MySQLError, OSError, *GARBAGE) as error:
        stranger = find_stranger(found.connection, error, endpoint.host, endpoint.port)
        return (
            _explain_stranger(stranger, endpoint, side) if stranger else _explain_login(error, endpoint, side)
        )
    found.tls = negotiated(found.connection)
    return None


def _explain_stranger(stranger: Stranger, endpoint: Endpoint, side: str) -> Failure:
    if stranger.is_certain:
        fix = f"nc -w 2 {endpoint.host} {endpoint.port}    # then correct {side}.port"
    else:
        fix = (
            f"{_client(endpoint)}    # again in a minute; see the {side}'s error log, or correct {side}.port"
        )
    return Failure("login", stranger.message, fix)


def _enter_postgres(found: Probe, side: str) -> Failure | None:
    """Both steps inside. Its driver is imported here: no other source needs it."""
    from replicator.check import pgprobe  # noqa: PLC0415

    assert isinstance(found.endpoint, Source)
    if found.socket is not None:
        found.socket.close()
    try:
        found.connection, found.tls = pgprobe.login(found.endpoint)
    except SourceError as error:
        step, fix = pgprobe.explain(error.message, found.endpoint, side)
        return Failure(step, error.message, fix)
    try:
        found.rtt, found.clock_offset = pgprobe.measure(found.connection)
    except SourceError as error:
        return _build_lost(error.message)
    return None


def _build_lost(text: str) -> Failure:
    return Failure("login", f"the connection was lost right after the login: {text}", "try again")


def _explain_login(error: Exception, endpoint: Endpoint, side: str) -> Failure:
    cause = getattr(error, "original_exception", error)
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if isinstance(cause, ssl.SSLError) or code in _TLS_CODES:
        return _explain_tls(cause, code, text, side)
    if code in _DATABASE_CODES:
        return _explain_database(code, text, endpoint, side)
    if code == 1130:
        fix = _RENAME.format(user=endpoint.user)
        return Failure("login", f"{text} (error {code})", fix)
    if code in _CROWDED:
        return Failure("login", f"{text} (error {code})", _CROWDED[code].format(user=endpoint.user))
    if isinstance(cause, OSError) or code in (2002, 2003, 2013):
        message = f"the port answers, but no login came about: {text}; a proxy or a server that is starting stands there"
        return Failure(
            "login", message, f"{_client(endpoint)}    # again in a minute; see the {side}'s error log"
        )
    return Failure(
        "login",
        f"{text} (error {code})",
        f"{_client(endpoint)}    # type the password by hand; then correct {side}.user or {side}.password",
    )


def _client(endpoint: Endpoint) -> str:
    return f"mysql -h {endpoint.host} -P {endpoint.port} -u '{endpoint.user}' -p"


def _explain_tls(cause: BaseException, code: int, text: str, side: str) -> Failure:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Failure(
            "tls",
            f"the certificate is not to be trusted: {cause.verify_message}",
            f"set {side}.tls.ca to the authority that signed it; for verify_identity, {side}.host must be its name",
        )
    if code == 3159:
        return Failure(
            "tls", f"the server demands TLS: {text}", f"in the file: {side}: {{tls: {{mode: required}}}}"
        )
    message = (
        "the server offers no TLS, and the file demands it"
        if code == 2026
        else f"TLS failed: {cause or text}"
    )
    return Failure(
        "tls",
        f"{message} ({text})",
        "set ssl_cert and ssl_key in the server's configuration and restart it; only where the whole way is private: "
        f"{side}: {{tls: {{mode: preferred}}}}",
    )


def _explain_database(code: int, text: str, endpoint: Endpoint, side: str) -> Failure:
    if code == 1049:
        fix = f"CREATE DATABASE `{endpoint.database}`;    -- at the {side}, or correct {side}.database"
    else:
        rights = TARGET_GRANT if side == "target" else "SELECT, LOCK TABLES, SHOW VIEW"
        fix = f"GRANT {rights} ON `{endpoint.database}`.* TO {_ask_account(endpoint)};    -- at the {side}"
    return Failure("database", f"{text} (error {code})", fix)


def _ask_account(endpoint: Endpoint) -> str:
    """The account that a login without a database ends in, in GRANT's spelling: its host is not the client's."""
    account = f"{endpoint.user}@%"
    options = connect_options(endpoint, connect_timeout=CONNECT_SECONDS) | {"database": None}
    with (
        contextlib.suppress(pymysql.MySQLError, OSError),
        pymysql.connect(**options, read_timeout=CONNECT_SECONDS) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT CURRENT_USER()")
        account = str(cursor.fetchone()[0])
    return spell_account(account)


TARGET_GRANT: Final = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES"
)
"""What an account at the target needs on its database (SEMANTICS §8)."""


def _measure(found: Probe, side: str) -> Failure | None:
    try:
        times = [_time_ping(found.connection) for _ in range(PINGS)]
        found.rtt = statistics.median(times)
        found.clock_offset = _measure_clock(found.connection)
    except (pymysql.MySQLError, OSError) as error:
        text = str(error.args[-1] if error.args else error)
        return _build_lost(text)
    return None


def _time_ping(connection: Any) -> float:
    begun = time.monotonic()
    connection.ping(reconnect=False)
    return time.monotonic() - begun


def _measure_clock(connection: Any) -> float:
    """The server's clock minus ours, taken at the middle of a round trip."""
    begun = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT UNIX_TIMESTAMP(NOW(6))")
        server = float(cursor.fetchone()[0])
    return server - (begun + time.time()) / 2
