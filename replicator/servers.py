"""Throwaway MySQL and MariaDB servers in temporary directories, for the demo, the tests and the benchmarks.

    with start_mysql() as target, start_mariadb(server_id=7) as source:
        source.execute("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        with source.connect(user="app", password="x", database="shop") as connection: ...

A server starts in about a second from a data directory that was initialised once and is copied. It listens on a
free port of 127.0.0.1 only and belongs to the process that started it: however that process ends,
`supervisor.py` kills the server and removes its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymysql
from pymysql.constants import CLIENT

from replicator import binaries, supervisor
from replicator.binaries import Installation, Kind, Version
from replicator.certificates import Certificates
from replicator.errors import ReplicatorError

Setting = str | int | float | bool | None
"""A server variable's value: booleans become ON and OFF, None leaves the server's own default in place."""

START_SECONDS = 60.0
STOP_SECONDS = 60.0

# These decide what a data directory looks like; each combination gets a template of its own.
INIT_SETTINGS = ("lower_case_table_names", "innodb_page_size")

COMMON_SETTINGS: dict[str, Setting] = {
    "bind_address": "127.0.0.1",
    "skip_name_resolve": True,
    "local_infile": True,
    "secure_file_priv": "",
    "innodb_buffer_pool_size": "128M",
    "log_bin": "binlog",
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "binlog_row_metadata": "FULL",
}
KIND_SETTINGS: dict[str, dict[str, Setting]] = {
    "mysql": {"mysqlx": False, "gtid_mode": True, "enforce_gtid_consistency": True},
    "mariadb": {"log_slave_updates": True, "innodb_log_file_size": "64M"},
}
DURABLE: dict[str, Setting] = {"sync_binlog": 1, "innodb_flush_log_at_trx_commit": 1}
# Commits reach the kernel, not the disk: a killed server loses nothing, only a machine without power would.
RELAXED: dict[str, Setting] = {"sync_binlog": 0, "innodb_flush_log_at_trx_commit": 2}


class ServerFailed(ReplicatorError):
    """A throwaway server did not start, or ended by itself; the message ends with its log's last lines."""

    code = "server_failed"
    exit_code = 3


def start_mysql(*, durable: bool = False, tls: Certificates | None = None, **settings: Setting) -> Server:
    """Start a MySQL server: ready to be a GTID source (ROW, FULL images, FULL metadata) or a target.

    ``settings`` are server variables, written with underscores. ``durable`` flushes at each commit. Without
    ``tls`` the server has certificates it made itself, good for `required`; with it, `verify_ca` and
    `verify_identity` can be told apart. Raises MissingBinary, ServerFailed.
    """
    if settings.get("gtid_mode") in (False, "OFF", 0):
        settings.setdefault("enforce_gtid_consistency", None)
    return Server("mysql", durable=durable, tls=tls, settings=settings)


def start_mariadb(*, durable: bool = False, tls: Certificates | None = None, **settings: Setting) -> Server:
    """Start a MariaDB server, ready to be a source (ROW, FULL images, FULL metadata, domain 0).

    As `start_mysql`; without ``tls`` this product offers no TLS at all. Raises MissingBinary, ServerFailed.
    """
    return Server("mariadb", durable=durable, tls=tls, settings=settings)


class Throwaway:
    """One server process in a temporary directory, owned by a supervisor; what all products have in common.

    A product says how it is started (``_command``) and when it answers (``_wait_until_ready``).
    """

    host = "127.0.0.1"
    stop_signal = signal.SIGTERM
    port_taken = "already in use"  # what the log says then

    def __init__(self, kind: Kind, installation: Installation, template: Path) -> None:
        self.installation = installation
        self.kind: Kind = kind
        self.version: Version = installation.version
        self.password = (template / "password").read_text()
        self._supervisor = SupervisorConnection(f"replicator-{kind}-")
        self._close = weakref.finalize(self, self._supervisor.close)
        self.directory = self._supervisor.directory
        self.datadir = self.directory / "data"
        self.log = self.directory / "log"
        self.pid = 0
        self.port = 0
        copied = self._supervisor.ask(do="copy", **{"from": str(template / "data"), "to": str(self.datadir)})
        if copied["code"]:
            self.close()
            raise ServerFailed(f"{template} could not be copied to {self.datadir}", hint="is the disk full?")

    # --- life cycle -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the stopped or killed server again, on the same port and data; returns when it answers."""
        places = {"log": str(self.log), "input": os.devnull}
        self.pid = self._supervisor.ask(do="start", command=self._command(), **places)["pid"]
        self._wait_until_ready()

    def stop(self) -> None:
        """Shut down in order, as a service manager would."""
        self._supervisor.ask(do="end", signal=int(self.stop_signal), seconds=STOP_SECONDS)

    def kill(self) -> None:
        """Kill with SIGKILL: what was not flushed is lost, and the next start recovers."""
        self._supervisor.ask(do="end", signal=int(signal.SIGKILL), seconds=None)

    def restart(self) -> None:
        """Shut down in order and start again."""
        self.stop()
        self.start()

    def is_running(self) -> bool:
        return self._supervisor.ask(do="poll")["code"] is None

    def close(self) -> None:
        """Kill the server and remove its files; more than once does no harm."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the error log."""
        return _read_tail(self.log, lines)

    def _start_on_free_port(self) -> None:
        for _ in range(10):
            self.port = _pick_port()
            try:
                return self.start()
            except ServerFailed:
                # Another process took the port between our look and the server's bind: only that luck mends.
                if self.port_taken not in self.log_tail(50):
                    self.close()
                    raise
            except BaseException:
                self.close()
                raise
        self.close()
        raise ServerFailed("no free port was found in ten attempts")

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _wait_until_ready(self) -> None:
        raise NotImplementedError


class Server(Throwaway):
    """One running MySQL or MariaDB server. Closing it (or leaving its ``with`` block) kills it and removes its files.

    Attributes: ``kind``, ``version``, ``host``, ``port``, ``socket`` (path), ``datadir``, ``log`` (path of the
    error log), ``user`` and ``password`` of the all-powerful account, ``pid``, ``settings`` (change them, then
    restart), and ``tls``.
    """

    user = "root"

    def __init__(
        self, kind: Kind, *, durable: bool, tls: Certificates | None, settings: dict[str, Setting]
    ) -> None:
        installation = binaries.find(kind)
        self.tls = tls
        self.settings = _resolve_settings(kind, durable, tls, settings)
        super().__init__(kind, installation, _find_template(installation, self.settings))
        # Of its own: a server that starts removes every server's temporary tables from a shared one.
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.socket = self.directory / "sock"
        self._start_on_free_port()

    # --- use --------------------------------------------------------------------------------------

    def connect(
        self,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        **options: Any,
    ) -> pymysql.Connection[Any]:
        """Connect as the given account (default: root) with PyMySQL, through the socket; autocommit, utf8mb4.

        ``options`` are PyMySQL's and win; ``unix_socket=None`` goes over TCP.
        """
        defaults: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "unix_socket": str(self.socket),
            "user": self.user if user is None else user,
            "password": self.password if user is None else (password or ""),
            "database": database,
            "autocommit": True,
            "charset": "utf8mb4",
            "ssl_disabled": not {"ssl", "ssl_ca", "ssl_verify_cert"} & options.keys(),
        }
        return pymysql.connect(**(defaults | options))

    def execute(
        self, sql: str | Sequence[str], args: Sequence[object] | None = None, *, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run statements as root on a connection of their own and return the rows of the last one.

        ``sql`` is one text with statements between semicolons, or a list of statements.
        """
        rows: list[tuple[Any, ...]] = []
        with self.connect(database=database, client_flag=CLIENT.MULTI_STATEMENTS) as connection:
            cursor = connection.cursor()
            for text in [sql] if isinstance(sql, str) else sql:
                cursor.execute(text, args)
                rows = list(cursor.fetchall())
                while cursor.nextset():
                    rows = list(cursor.fetchall())
        return rows

    def client_command(self, program: str = "mysql", *arguments: str) -> list[str]:
        """The command line of a client program (mysql, mysqldump, mysqlbinlog), logging in as root."""
        options = self.directory / "client.cnf"
        if not options.exists():
            options.touch(mode=0o600)
            options.write_text(
                f"[client]\nuser={self.user}\npassword={self.password}\nsocket={self.socket}\n"
            )
        return [*self.installation.command(program), f"--defaults-file={options}", *arguments]

    def load_file(self, path: Path, *, database: str | None = None) -> None:
        """Feed an SQL file, DELIMITER lines included, to the client program; ServerFailed at an error."""
        command = self.client_command(
            "mysql", "--default-character-set=utf8mb4", *([database] if database else [])
        )
        with path.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(f"{path}: {done.stderr.strip()}")

    @property
    def uuid(self) -> str:
        """MySQL's server_uuid; MariaDB has none and names itself by server_id."""
        return str(self.execute(f"SELECT @@{'server_uuid' if self.kind == 'mysql' else 'server_id'}")[0][0])

    # --- inner parts ------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        places = {
            "datadir": self.datadir,
            "tmpdir": self.temporary,
            "port": self.port,
            "socket": self.socket,
            "pid_file": self.directory / "pid",
        }
        return _server_command(self.installation, self.settings | {k: str(v) for k, v in places.items()})

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()  # by its own socket: certainly this server and no neighbour
                return
            except pymysql.err.OperationalError as error:
                if not self.is_running() or time.monotonic() > deadline:
                    reason = f"{self.kind} did not start ({error}):\n{self.log_tail()}"
                    raise ServerFailed(reason, hint="the log's last lines say why") from error
            time.sleep(0.02)


class SupervisorConnection:
    """Our end of the pipes to one supervisor process: a directory and at most one process that live no longer than we.

    ``ask`` carries out one of the commands of `supervisor.Supervisor.answer`. Made without a ``folder``, the directory
    is the system's own for temporary files.
    """

    def __init__(self, prefix: str, folder: Path | None = None) -> None:
        place = [prefix, str(folder or "")]
        command = [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), *place]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self.directory = Path(self._read()["directory"])

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._lock:
            with contextlib.suppress(BrokenPipeError):  # _read() says so
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed("the supervisor of a throwaway server is gone")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the supervisor, and with it the server and its directory; returns when all are gone.

        A forked copy of the owner that ends leaves them alone.
        """
        if os.getpid() == self._owner:
            self._process.communicate()


# --- settings and templates -----------------------------------------------------------------------


def _resolve_settings(
    kind: Kind, durable: bool, tls: Certificates | None, settings: dict[str, Setting]
) -> dict[str, Setting]:
    resolved = COMMON_SETTINGS | KIND_SETTINGS[kind] | (DURABLE if durable else RELAXED)
    resolved["server_id"] = random.randrange(1, 2**31)
    if tls is not None:
        resolved |= {"ssl_ca": str(tls.ca), "ssl_cert": str(tls.cert), "ssl_key": str(tls.key)}
    if settings.get("log_bin", True) in (False, "OFF", 0):
        # `--log-bin=OFF` would name the log files OFF.
        settings = {name: value for name, value in settings.items() if name != "log_bin"}
        resolved |= {"log_bin": None, "skip_log_bin": True, "log_slave_updates": None}
    return resolved | settings


def _server_command(installation: Installation, settings: dict[str, Setting]) -> list[str]:
    program = binaries.PRODUCTS[installation.kind].program
    fixed: dict[str, Setting] = {}
    if installation.loader:  # a server the machine has knows its own places
        basedir = installation.basedir / "usr"
        plugins, messages = basedir / "lib/mysql/plugin", installation.share
        fixed = {"basedir": str(basedir), "plugin_dir": str(plugins), "lc_messages_dir": str(messages)}
    if os.geteuid() == 0:
        fixed["user"] = "root"
    options = [_build_option(name, value) for name, value in (fixed | settings).items() if value is not None]
    return [*installation.command(program), "--no-defaults", *options]


def _build_option(name: str, value: Setting) -> str:
    if isinstance(value, bool):
        value = "ON" if value else "OFF"
    flag = "--" + name.replace("_", "-")
    return flag if name.startswith("skip_") and value == "ON" else f"{flag}={value}"


def _find_template(installation: Installation, settings: dict[str, Setting]) -> Path:
    """The folder with an initialised ``data`` directory and root's ``password`` for it; made when missing."""
    chosen = {name: settings[name] for name in INIT_SETTINGS if settings.get(name) is not None}
    key = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]
    version = ".".join(map(str, installation.version))
    template = binaries.cache_folder() / "templates" / f"{installation.kind}-{version}-{key}"
    if not template.exists():
        template.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(SupervisorConnection(".new-", template.parent)) as connection:
            made = _initialise(installation, chosen, connection)
            with contextlib.suppress(OSError):  # another process was faster: its template is as good
                made.rename(template)
    return template


def _initialise(
    installation: Installation, chosen: dict[str, Setting], connection: SupervisorConnection
) -> Path:
    """Make a data directory with one account: root, with a random password, over socket and TCP alike."""
    folder = connection.directory / "template"
    folder.mkdir(mode=0o700)
    password = secrets.token_urlsafe(16)
    (folder / "password").write_text(password)
    data, script = folder / "data", connection.directory / "script.sql"
    command = _server_command(installation, {"datadir": str(data), **chosen})
    if installation.kind == "mysql":
        script.write_text(
            _build_accounts(password, f"ALTER USER root@localhost IDENTIFIED BY '{password}';\n")
        )
        _run_initialisation(connection, [*command, "--initialize-insecure", f"--init-file={script}"], script)
        (data / "auto.cnf").unlink(missing_ok=True)  # each copy draws a server_uuid of its own
    else:
        data.mkdir(mode=0o700)
        script.write_text(_build_mariadb_bootstrap(installation.share, password))
        log_size = f"--innodb-log-file-size={KIND_SETTINGS['mariadb']['innodb_log_file_size']}"
        _run_initialisation(connection, [*command, "--bootstrap", "--skip-log-bin", log_size], script)
    return folder


def _build_accounts(password: str, local: str) -> str:
    """``local`` settles root@localhost, which the products begin with in different states."""
    return (
        f"{local}CREATE USER root@'%' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON *.* TO root@localhost WITH GRANT OPTION;\n"
        "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n"
    )


def _build_mariadb_bootstrap(share: Path, password: str) -> str:
    """What mariadb-install-db feeds the server: the system tables; then our account in place of its own."""
    names = ("system_tables", "performance_tables", "system_tables_data")
    # mysql_… up to MariaDB 10, mariadb_… later.
    scripts = "\n".join(next(share.glob(f"m*_{name}.sql")).read_text() for name in names)
    # The scripts create root@localhost from these variables, as the product's own installer sets them.
    variables = "SET @auth_root_socket = NULL, @skip_auth_anonymous = 1, @current_hostname = 'localhost';\n"
    local = (
        "DELETE FROM mysql.global_priv WHERE User IN ('root', '');\n"
        "FLUSH PRIVILEGES;\n"
        f"CREATE USER root@localhost IDENTIFIED BY '{password}';\n"
    )
    accounts = _build_accounts(password, local)
    return f"CREATE DATABASE mysql;\nUSE mysql;\n{variables}{scripts}\n{accounts}"


def _run_initialisation(connection: SupervisorConnection, command: list[str], script: Path) -> None:
    log = connection.directory / "log"
    connection.ask(do="start", command=command, log=str(log), input=str(script))
    if connection.ask(do="wait")["code"]:
        raise ServerFailed(f"the data directory cannot be initialised:\n{_read_tail(log)}")


def _read_tail(log: Path, lines: int = 20) -> str:
    with contextlib.suppress(FileNotFoundError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def _pick_port() -> int:
    """A port nobody listens on, below those of outgoing connections: one could take it during a restart."""
    limit = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    low = 10_000 if limit > 12_000 else 1024
    while True:
        port = random.randrange(low, max(limit, low + 1000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((Throwaway.host, port))
            return port
