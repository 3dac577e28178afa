"""Throwaway PostgreSQL servers in temporary directories: logical replication is on, text is UTF-8.

    with start_postgres(max_replication_slots=2) as source:
        source.execute("CREATE DATABASE shop")

As ``servers.py``, whose supervisor owns them. The server refuses to run as root; for root it runs in a user namespace of
its own, where the same account has another number, so that no other account needs to see the files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from replicator import binaries
from replicator.binaries import Installation, Name
from replicator.certificates import Certificates
from replicator.servers import START_SECONDS, ServerFailed, Setting, SupervisorConnection, Throwaway

COMMON_SETTINGS: dict[str, Setting] = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_connections": 100,
    "max_prepared_transactions": 10,
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# What is written reaches the disk when it may: a killed server loses nothing, only a machine without power would.
RELAXED: dict[str, Setting] = {"fsync": False, "full_page_writes": False}


def start_postgres(
    *, newest: bool = False, durable: bool = False, tls: Certificates | None = None, **settings: Setting
) -> PostgresServer:
    """Start a PostgreSQL server, ready to be a source: Debian 12's version, or the ``newest``.

    ``settings`` are server variables. ``durable`` flushes at each commit. Without ``tls`` the server offers none.
    Raises MissingBinary, ServerFailed.
    """
    name: Name = "postgres_newest" if newest else "postgres"
    return PostgresServer(name, durable=durable, tls=tls, settings=settings)


class PostgresServer(Throwaway):
    """One running PostgreSQL server; ``user`` and ``password`` are the superuser's. See ``servers.Server``."""

    user = "root"
    stop_signal = signal.SIGINT  # the fast shutdown; SIGTERM would wait for every session

    def __init__(
        self, name: Name, *, durable: bool, tls: Certificates | None, settings: dict[str, Setting]
    ) -> None:
        installation = binaries.find(name)
        self.tls = tls
        self.settings = COMMON_SETTINGS | ({} if durable else RELAXED) | _tls_settings(tls) | settings
        super().__init__("postgres", installation, _find_template(installation))
        self._start_on_free_port()

    def connect(
        self,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        **options: Any,
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the given account (default: the superuser), autocommit on, over TCP.

        ``options`` are psycopg's and win.
        """
        defaults: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": self.user if user is None else user,
            "password": self.password if user is None else (password or ""),
            "dbname": database or "postgres",
            "autocommit": True,
        }
        return psycopg.connect(**(defaults | options))

    def execute(
        self, sql: str | Sequence[str], args: Sequence[object] | None = None, *, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run statements as the superuser on a connection of their own and return the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with self.connect(database=database) as connection:
            for text in [sql] if isinstance(sql, str) else sql:
                cursor = connection.execute(text.encode(), args)
                while cursor.nextset():
                    pass
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def _command(self) -> list[str]:
        # No Unix socket: its path may have 107 bytes, and a temporary directory's can be longer.
        places: dict[str, Setting] = {"port": self.port, "unix_socket_directories": ""}
        options = [
            f"--{key}={_format(value)}"
            for key, value in (self.settings | places).items()
            if value is not None
        ]
        program = "postgres.server" if self.installation.loader else "postgres"  # see binaries.py
        return [*_as_somebody(), *self.installation.command(program), "-D", str(self.datadir), *options]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError as error:
                if not self.is_running() and self._is_held_by_a_dying_one() and time.monotonic() < deadline:
                    self.start()
                    return
                if not self.is_running() or time.monotonic() > deadline:
                    reason = f"PostgreSQL did not start ({error}):\n{self.log_tail()}"
                    raise ServerFailed(reason, hint="the log's last lines say why") from error
            time.sleep(0.02)

    def _is_held_by_a_dying_one(self) -> bool:
        """After a kill, the killed server's own children take a moment to notice."""
        return "is still in use" in self.log_tail(3)


def _tls_settings(tls: Certificates | None) -> dict[str, Setting]:
    if tls is None:
        return {}
    return {
        "ssl": True,
        "ssl_ca_file": str(tls.ca),
        "ssl_cert_file": str(tls.cert),
        "ssl_key_file": str(tls.key),
    }


def _format(value: Setting) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _as_somebody() -> list[str]:
    """The start of a command line that is not root's."""
    if os.geteuid() != 0:
        return []
    unshare = shutil.which("unshare")
    if unshare is None:
        raise ServerFailed("PostgreSQL refuses to run as root, and this machine has no `unshare`")
    return [unshare, "--user", "--map-user=1000", "--map-group=1000"]


def _find_template(installation: Installation) -> Path:
    """The folder with an initialised ``data`` directory and the superuser's ``password``; made when missing."""
    version = ".".join(map(str, installation.version[:2]))
    template = binaries.cache_folder() / "templates" / f"postgres-{version}"
    if not template.exists():
        template.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(SupervisorConnection(".new-", template.parent)) as connection:
            made = _initialise(installation, connection)
            with contextlib.suppress(OSError):  # another process was faster: its template is as good
                made.rename(template)
    return template


def _initialise(installation: Installation, connection: SupervisorConnection) -> Path:
    folder = connection.directory / "template"
    folder.mkdir(mode=0o700)
    password = folder / "password"
    password.write_text(secrets.token_urlsafe(16))
    command = [
        *_as_somebody(),
        *installation.command("initdb"),
        f"--pgdata={folder / 'data'}",
        "--encoding=UTF8",
        "--no-locale",
        "--auth=scram-sha-256",
        f"--username={PostgresServer.user}",
        f"--pwfile={password}",
        "--no-sync",
    ]
    log = connection.directory / "log"
    connection.ask(do="start", command=command, log=str(log), input=os.devnull)
    if connection.ask(do="wait")["code"]:
        raise ServerFailed(f"the data directory cannot be initialised:\n{log.read_text(errors='replace')}")
    with (folder / "data" / "pg_hba.conf").open("a") as file:
        file.write("host replication all all scram-sha-256\nhost all all all scram-sha-256\n")
    return folder
