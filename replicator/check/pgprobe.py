"""The last steps into a PostgreSQL server, for ``probe``: its login, its TLS, its distance."""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

import psycopg

from replicator.config import Source
from replicator.errors import SourceError
from replicator.readers.postgres_session import connect, fetch

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


def build_client(source: Source) -> str:
    """The command line of psql for this endpoint."""
    return f"psql -h {source.host} -p {source.port} -U '{source.user}' '{source.database}'"
