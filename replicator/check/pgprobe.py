"""The last steps into a PostgreSQL server, for ``probe``: its login, its TLS, its distance."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import statistics
import time
from typing import Any, Final

import psycopg

from replicator.config import Source
from replicator.errors import SourceError
from replicator.readers.postgres_session import STRANGE_WORDS, connect, fetch, quote_name

PINGS: Final = 5


def login(source: Source) -> tuple[Any, str | None]:
    """A connection, and what its TLS negotiated (``TLSv1.3 TLS_AES_256_GCM_SHA384``), None for plain text.

    Raises SourceError.
    """
    connection = connect(source)
    row = fetch(connection, "SELECT ssl, version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()")[0]
    return connection, f"{row['version']} {row['cipher']}" if row["ssl"] else None


def measure(connection: Any) -> tuple[float, float]:
    """The median of a few round trips, and the server's clock minus ours, in seconds. Raises SourceError."""
    times, offset = [], 0.0
    try:
        for _ in range(PINGS):
            began, clock = time.monotonic(), time.time()
            now = fetch(connection, "SELECT extract(epoch FROM clock_timestamp())::float8 AS now")[0]["now"]
            times.append(time.monotonic() - began)
            offset = now - (clock + time.time()) / 2
    except psycopg.Error as error:
        raise SourceError(" ".join(str(error).split())) from error
    return statistics.median(times), offset


def explain(text: str, source: Source, side: str) -> tuple[str, str]:
    """Which step a failed login failed at (tls, login, database), and what mends it."""
    if "pg_hba.conf" in text:
        return "login", _admit(text, source, side)
    if any(words in text for words in STRANGE_WORDS):
        return "login", f"nc -w 2 {source.host} {source.port}    # another server: then correct {side}.port"
    for words, step, fix in _REFUSALS:
        if re.search(words, text):
            user, database = quote_name(source.user), quote_name(source.database or "")
            return step, fix.format(user=user, database=database, side=side)
    client = f"psql -h {source.host} -p {source.port} -U '{source.user}' '{source.database}'"
    return "login", f"{client}    # type the password by hand; then correct {side}.user or {side}.password"


def _admit(text: str, source: Source, side: str) -> str:
    """The command that lets the account in from where the server sees it; the first line that fits counts there."""
    address = _find_address(text)
    kind = "hostssl" if "SSL encryption" in text else "host"
    bits = 128 if ":" in address else 32
    line = f'{kind} "{source.database}" "{source.user}" {address}/{bits} scram-sha-256'
    other = (
        f"; or {side}: {{tls: {{mode: required}}}}, where a hostssl line is there" if kind == "host" else ""
    )
    return (
        f"sed -i '1i {line}' \"$(psql -XAtc 'SHOW hba_file')\" && psql -c 'SELECT pg_reload_conf()'"
        f"    # at the {side}, as the user postgres{other}"
    )


def _find_address(text: str) -> str:
    """Where the server sees us: what looks like an address and comes last, after the server's own."""
    found = "0.0.0.0"
    for word in re.findall(r"[0-9A-Fa-f:.]+", text):
        with contextlib.suppress(ValueError):
            found = str(ipaddress.ip_address(word))
    return found


_RESTART: Final = "then restart the server"
_REFUSALS: Final = (
    (
        "SQLSTATE 3D000",
        "database",
        "CREATE DATABASE {database};    -- or correct {side}.database",
    ),
    ("SQLSTATE 42501", "database", "GRANT CONNECT ON DATABASE {database} TO {user};"),
    ("too many connections for role", "login", "ALTER ROLE {user} CONNECTION LIMIT -1;"),
    ("too many connections for database", "login", "ALTER DATABASE {database} CONNECTION LIMIT -1;"),
    (
        "too many clients|remaining connection slots",
        "login",
        f"ALTER SYSTEM SET max_connections = 200;    -- {_RESTART}; or end idle sessions there",
    ),
    (
        "does not support SSL",
        "tls",
        "ALTER SYSTEM SET ssl = on;    -- with a certificate as ssl_cert_file and ssl_key_file, then SELECT"
        " pg_reload_conf(); only where the whole way is private: {side}: {{tls: {{mode: preferred}}}}",
    ),
    (
        "certificate",
        "tls",
        "set {side}.tls.ca to the authority that signed it; for verify_identity, {side}.host must be its name",
    ),
    (
        "SSL",
        "tls",
        'psql "sslmode=require"    # at the {side}: what does its log say? then correct {side}.tls',
    ),
    ("SQLSTATE 28000", "login", "ALTER ROLE {user} LOGIN;"),
    (
        "SQLSTATE 53300",
        "login",
        "ALTER ROLE {user} CONNECTION LIMIT -1; ALTER DATABASE {database} CONNECTION LIMIT -1;    -- or raise"
        f" max_connections, {_RESTART}",
    ),
)
"""What a refusal says, the step that it is about, and its fix. Codes last: one is for several reasons, which words of
English alone tell apart.
"""
