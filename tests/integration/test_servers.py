"""Throwaway servers: they start with what was asked for, and go with the process that started them, however it dies."""

from __future__ import annotations

import os
import select
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from replicator.certificates import make_certificates
from replicator.servers import Server, ServerFailed, start_mariadb, start_mysql
from tests.accounts import Account

START = {"mysql": start_mysql, "mariadb": start_mariadb}


def test_a_source_is_ready_for_capture(source_server: Server) -> None:
    variables = "@@log_bin, @@binlog_format, @@binlog_row_image, @@binlog_row_metadata"
    assert source_server.execute(f"SELECT {variables}") == [(1, "ROW", "FULL", "FULL")]
    if source_server.kind == "mysql":
        assert source_server.execute("SELECT @@gtid_mode") == [("ON",)]


def test_servers_have_identities_of_their_own(mysql_source: Server, mysql_target: Server) -> None:
    assert mysql_source.uuid != mysql_target.uuid
    assert mysql_source.port != mysql_target.port
    places = {server.execute("SELECT @@tmpdir")[0][0] for server in (mysql_source, mysql_target)}
    assert places == {str(server.temporary) for server in (mysql_source, mysql_target)}


def test_statements_run_in_order_and_the_last_rows_come_back(
    mysql_target: Server, database_name: str
) -> None:
    rows = mysql_target.execute(
        f"CREATE DATABASE {database_name}; USE {database_name}; CREATE TABLE t (i INT PRIMARY KEY);"
        "INSERT INTO t VALUES (1), (2); SELECT i FROM t ORDER BY i"
    )
    assert rows == [(1,), (2,)]
    mysql_target.execute([f"DROP DATABASE {database_name}", "DO 0"])


def test_a_failing_later_statement_is_an_error(mysql_target: Server) -> None:
    with pytest.raises(pymysql.err.OperationalError, match="nowhere"):
        mysql_target.execute("DO 0; SELECT * FROM nowhere.nothing")


def test_the_target_account_has_one_database_and_no_more(target_account: Account) -> None:
    target_account.query("CREATE TABLE t (i INT PRIMARY KEY)")
    grants = [row[0] for row in target_account.query("SHOW GRANTS")]
    assert grants[0].startswith("GRANT USAGE ON *.*")
    assert len(grants) == 2
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        target_account.query("SET GLOBAL max_connections = 5")


def test_the_source_account_reads_and_never_writes(source_account: Account) -> None:
    server, database = source_account.server, source_account.database
    server.execute(f"CREATE TABLE {database}.t (i INT PRIMARY KEY)")
    source_account.query("SHOW BINARY LOGS")
    source_account.query("XA RECOVER")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        source_account.query("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("kind", START)
def test_data_and_port_survive_restart_and_kill(kind: str) -> None:
    with START[kind](binlog_row_image="MINIMAL") as server:
        server.execute("CREATE DATABASE d; CREATE TABLE d.t (i INT PRIMARY KEY); INSERT INTO d.t VALUES (1)")
        port, uuid = server.port, server.uuid
        server.settings["binlog_row_image"] = "NOBLOB"
        server.restart()
        server.execute("INSERT INTO d.t VALUES (2)")
        server.kill()
        assert not server.is_running()
        server.start()
        assert server.execute("SELECT i FROM d.t ORDER BY i") == [(1,), (2,)]
        assert server.execute("SELECT @@port, @@binlog_row_image") == [(port, "NOBLOB")]
        assert server.uuid == uuid


@pytest.mark.parametrize("kind", START)
def test_settings_decided_at_initialisation_take_effect(kind: str) -> None:
    with START[kind](lower_case_table_names=1, log_bin=False) as server:
        assert server.execute("SELECT @@lower_case_table_names, @@log_bin") == [(1, 0)]


def test_a_server_that_cannot_start_shows_its_log_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        with pytest.raises(ServerFailed, match="no-such-setting"):
            start_mariadb(no_such_setting=1)
        assert list(Path(folder).iterdir()) == []


def test_an_sql_file_runs_through_the_client(source_account: Account, tmp_path: Path) -> None:
    server, database = source_account.server, source_account.database
    file = tmp_path / "schema.sql"
    file.write_text(
        "CREATE TABLE t (i INT PRIMARY KEY, s VARCHAR(9));\nDELIMITER //\n"
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW BEGIN SET NEW.s = 'é'; END//\nDELIMITER ;\n"
        "INSERT INTO t VALUES (1, NULL);\n"
    )
    server.load_file(file, database=database)
    assert source_account.query("SELECT s FROM t") == [("é",)]
    with pytest.raises(ServerFailed, match="already exists"):
        server.load_file(file, database=database)


def test_mysqldump_is_at_hand(mysql_source_account: Account) -> None:
    server, database = mysql_source_account.server, mysql_source_account.database
    server.execute(f"CREATE TABLE {database}.t (i INT PRIMARY KEY); INSERT INTO {database}.t VALUES (42)")
    command = server.client_command("mysqldump", "--single-transaction", "--set-gtid-purged=OFF", database)
    assert b"(42)" in subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize("kind", START)
def test_certificates_prove_authority_and_identity(kind: str, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.mkdir()
    wrong.mkdir()
    good = make_certificates(right)
    with START[kind](tls=good) as server:
        assert cipher_of(server, ssl.create_default_context(cafile=str(good.ca)))
        stranger = make_certificates(wrong, ("elsewhere.example",))
        with pytest.raises(pymysql.err.OperationalError, match=r"self-signed|unable to get local issuer"):
            cipher_of(server, ssl.create_default_context(cafile=str(stranger.ca)))
    with START[kind](tls=stranger) as server:
        context = ssl.create_default_context(cafile=str(stranger.ca))
        with pytest.raises(pymysql.err.OperationalError, match="not valid for"):
            cipher_of(server, context)
        context.check_hostname = False
        assert cipher_of(server, context)


def cipher_of(server: Server, context: ssl.SSLContext) -> str:
    with server.connect(unix_socket=None, ssl=context) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
        assert row is not None
        return str(row[1])


# --- nothing is left behind -----------------------------------------------------------------------

PARENT = """
import os, sys, threading, time
from replicator.servers import start_{kind}
started = []
if {threaded}:
    thread = threading.Thread(target=lambda: started.append(start_{kind}()))
    thread.start(); thread.join()
else:
    started.append(start_{kind}())
server = started[0]
assert server.execute("SELECT 1") == [(1,)]
print(server.pid, server.directory, flush=True)
{then}
"""

WAIT = "print('ready', flush=True)\nthreading.Event().wait()"
# How a parent ends by itself, or what ends it once it is ready.
ENDINGS: dict[str, tuple[str, Callable[[int], None] | None]] = {
    "exit": ("", None),
    "exception": ("raise ValueError", None),
    "os._exit": ("os._exit(3)", None),
    "Ctrl-C": (WAIT, lambda pid: os.killpg(pid, signal.SIGINT)),
    "SIGTERM": (WAIT, lambda pid: os.kill(pid, signal.SIGTERM)),
    "kill -9": (WAIT, lambda pid: os.kill(pid, signal.SIGKILL)),
    "kill -9 with a forked child": (
        f"os.fork() or (os.read(0, 1), os._exit(0))\n{WAIT}",
        lambda pid: os.kill(pid, signal.SIGKILL),
    ),
}


def start_parent(kind: str, then: str, *, threaded: bool = False) -> tuple[subprocess.Popen[str], int, Path]:
    """Start a process that starts a server; with the server's pid and directory."""
    code = PARENT.format(kind=kind, then=then, threaded=threaded)
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pid, directory = parent.stdout.readline().split(maxsplit=1)
    return parent, int(pid), Path(directory.strip())


def has_ended(handle: int) -> bool:
    """Whether the process behind a pidfd ends within some seconds."""
    return bool(select.select([handle], [], [], 20)[0])


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when_the_parent_ends(ending: str) -> None:
    then, act = ENDINGS[ending]
    # The parent waits for its input before it goes on, so that its server is watched before it can end.
    parent, pid, directory = start_parent("mariadb", f"sys.stdin.readline()\n{then}")
    server, keeper = os.pidfd_open(pid), os.pidfd_open(supervisor_of(pid))
    assert directory.is_dir()
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write("go\n")
    parent.stdin.flush()
    if act:
        assert parent.stdout.readline() == "ready\n"
        act(parent.pid)
    assert has_ended(server)
    assert has_ended(keeper)
    assert not directory.exists()
    parent.communicate()


def test_a_server_outlives_the_thread_that_started_it() -> None:
    then = "assert server.execute('SELECT 2') == [(2,)]\nprint('alive', flush=True)"
    parent, _pid, directory = start_parent("mariadb", then, threaded=True)
    assert parent.stdout is not None
    assert parent.stdout.read() == "alive\n"  # communicate() would miss what readline() has read already
    parent.communicate()
    assert not directory.exists()


def test_the_server_dies_with_its_supervisor() -> None:
    parent, pid, directory = start_parent("mysql", "sys.stdin.readline()")
    server, keeper = os.pidfd_open(pid), supervisor_of(pid)
    os.kill(keeper, signal.SIGKILL)
    assert has_ended(server)
    parent.communicate("\n")
    subprocess.run(["rm", "-r", str(directory)], check=True)  # the one death that leaves files


def test_servers_of_several_threads_start_side_by_side() -> None:
    servers: list[Server] = []
    threads = [threading.Thread(target=lambda: servers.append(start_mariadb())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.port for server in servers}) == 3
    for server in servers:
        server.close()
        assert not server.directory.exists()
