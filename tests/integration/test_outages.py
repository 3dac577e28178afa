"""The target goes away in every way that a managed one does: a run waits, says for what, and goes on without a gap."""

from __future__ import annotations

import contextlib
import json
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.servers import Server, start_mysql
from tests.accounts import Account, make_source_account, make_target_account
from tests.compare import Side, describe_difference
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import wait_until

FOUR_ROWS = "INSERT INTO t (v) SELECT REPEAT('x', 300000) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4) q"

BIG_ROW = "INSERT INTO t (v) VALUES (REPEAT('x', 1000000))"


def write(account: Account, sql: str) -> None:
    account.server.execute(sql, database=account.database)


def differs(source: Account, target: Account) -> str:
    return describe_difference(
        Side(source.server, source.database, "t"), Side(target.server, target.database, "t")
    )


@pytest.fixture(scope="module")
def small_target() -> Iterator[Server]:
    """A server whose tables share 32 MB that do not grow until they are told to: its disk is full, for all it knows."""
    with start_mysql(
        innodb_data_file_path="ibdata1:12M;ibdata2:20M",
        innodb_file_per_table=False,
        log_bin=False,
        gtid_mode=None,
        enforce_gtid_consistency=None,
    ) as server:
        yield server


@pytest.fixture
def ends(mysql_source: Server, small_target: Server) -> Iterator[tuple[Account, Account]]:
    with make_source_account(mysql_source) as source, make_target_account(small_target) as target:
        write(source, "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)")
        write(source, "INSERT INTO t (v) VALUES ('first')")
        yield source, target


@contextlib.contextmanager
def read_only(server: Server, name: str) -> Iterator[None]:
    server.execute(f"SET GLOBAL {name} = ON")
    try:
        yield
    finally:
        server.execute(
            "SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF, GLOBAL transaction_read_only = OFF"
        )


@pytest.mark.parametrize(
    ("name", "number"),
    [("read_only", "1290"), ("super_read_only", "1290"), ("transaction_read_only", "1792")],
)
def test_a_read_only_window_is_waited_through_and_shown(
    ends: tuple[Account, Account], tmp_path: Path, name: str, number: str
) -> None:
    source, target = ends
    pipeline = write_pipeline(tmp_path, source, target)
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    with read_only(target.server, name):
        write(source, "INSERT INTO t (v) VALUES ('while it was closed')")
        if number == "1792":  # for sessions that begin now; a failover ends the older ones
            _end_sessions(target)
        assert number in follow(process, f"error_{number}").splitlines()[-1]
        assert f"{name.removeprefix('super_')} is on" in pipeline.status()["waiting_for"]
        assert pipeline.run("check", "FILE").returncode == 3
        assert pipeline.run("load", "FILE").returncode == 5
    wait_until(lambda: not differs(source, target))
    code, output = end(process)
    assert code == 0, output
    assert pipeline.status()["waiting_for"] == ""


def _end_sessions(account: Account) -> None:
    sessions = account.server.execute(
        "SELECT id FROM information_schema.processlist WHERE user = %s", (account.user,)
    )
    for (number,) in sessions:
        with contextlib.suppress(Exception):  # it may have gone by itself
            account.server.execute(f"KILL {number}")


def fail_everywhere(pipeline: PipelineFile, number: str) -> None:
    """`check` 3, `plan` and `load` 5, each with the server's own number."""
    answer = json.loads(pipeline.must("check", "FILE", "--json", exit_code=3))
    assert any(number in item["message"] for item in answer["checks"] if item["status"] == "fail")
    for command in ("plan", "load"):
        done = pipeline.run(command, "FILE")
        assert done.returncode == 5
        assert number in done.stderr


def test_too_many_connections_are_waited_for_at_the_first_connect(
    ends: tuple[Account, Account], tmp_path: Path
) -> None:
    """An account's own limit (1226): of the numbers of this kind the one that leaves an administrator in."""
    source, target = ends
    target.server.execute(f"ALTER USER {target.user} WITH MAX_USER_CONNECTIONS 1")
    pipeline = write_pipeline(tmp_path, source, target)
    with target.connect():
        fail_everywhere(pipeline, "1226")
        process = pipeline.start("run", "FILE")
        assert "1226" in follow(process, "waiting_for=127").splitlines()[-1]
    target.server.execute(f"ALTER USER {target.user} WITH MAX_USER_CONNECTIONS 0")
    wait_until(lambda: not _is_missing(target) and not differs(source, target))
    code, output = end(process)
    assert code == 0, output


def test_a_server_whose_connections_are_all_taken_is_waited_for(
    ends: tuple[Account, Account], tmp_path: Path
) -> None:
    source, target = ends
    server = target.server
    pipeline = write_pipeline(tmp_path, source, target)
    before = server.execute("SELECT @@GLOBAL.max_connections")[0][0]
    with server.connect() as administrator, contextlib.ExitStack() as stack:
        administrator.cursor().execute("SET GLOBAL max_connections = 1")
        with contextlib.suppress(Exception):
            for _ in range(3):
                stack.enter_context(target.connect())
        fail_everywhere(pipeline, "1040")
        process = pipeline.start("run", "FILE")
        assert "1040" in follow(process, "waiting_for=127").splitlines()[-1]
        administrator.cursor().execute(f"SET GLOBAL max_connections = {before}")
    wait_until(lambda: not _is_missing(target) and not differs(source, target))
    code, output = end(process)
    assert code == 0, output


def _is_missing(target: Account) -> bool:
    return ("t",) not in target.query("SHOW TABLES")


def test_a_full_disk_is_waited_for_without_a_storm_and_shown(
    ends: tuple[Account, Account], tmp_path: Path
) -> None:
    source, target = ends
    pipeline = write_pipeline(tmp_path, source, target)
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    target.server.execute("CREATE TABLE hog (v LONGBLOB)", database=target.database)
    with contextlib.suppress(Exception):
        for _ in range(100):
            write(target, "INSERT INTO hog VALUES (REPEAT('x', 500000))")
    for _ in range(8):
        write(source, FOUR_ROWS)
    assert "1114" in follow(process, "waiting_for=target").splitlines()[-1]
    wait_until(lambda: "1114" in pipeline.status()["waiting_for"])
    sessions = (
        "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'connections'"
    )
    before = int(target.server.execute(sessions)[0][0])
    looks = [pipeline.status()["waiting_for"] for _ in range(3)]
    assert any("out of room" in look for look in looks)  # a look may come just between two of its sessions
    # Ours are one look each, and this one; the run asks again with a growing delay.
    assert int(target.server.execute(sessions)[0][0]) - before < 20
    write(target, "DROP TABLE hog")
    wait_until(lambda: not differs(source, target), 60)
    code, output = end(process)
    assert code == 0, output


def test_our_own_full_disk_ends_the_run_by_name_and_the_next_one_goes_on(
    mysql_source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """Waiting would not mend it; what was spilled is read again from the source."""
    source, target = mysql_source_account, target_account
    write(source, "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)")
    pipeline = write_pipeline(tmp_path, source, target)
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    # No file of the process may grow beyond this: to its writes a disk is full.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
    write(source, f"BEGIN; {'; '.join([BIG_ROW] * 36)}; COMMIT")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 4, output
    assert f"{tempfile.gettempdir()}: a large transaction cannot be kept aside: File too large" in output
    assert "TMPDIR" in output
    assert target.query("SELECT COUNT(*) FROM t") == [(0,)]
    pipeline.must("run", "FILE", "--until-current")
    assert not differs(source, target)


_GIVES_UP = """
import sys
from replicator import cli
from replicator.errors import SourceUnavailable
from replicator.load import Loader
def give_up(loader):
    raise SourceUnavailable("given up")
Loader.run = give_up
cli.main()
"""


def test_an_outage_that_is_given_up_is_no_order_to_end(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """The run stops its own stages then; that is not somebody's SIGTERM, after which an outage is no error."""
    source_account.server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=source_account.database)
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    process = pipeline.start("run", "FILE", program=("-c", _GIVES_UP))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 4, output
    assert "error: given up" in output


_LOSES_A_SESSION = """
from replicator import cli, target
count = target.count_orphans
def lose(session, *arguments):
    target.count_orphans = count
    session.abort()
    return count(session, *arguments)
target.count_orphans = lose
cli.main()
"""


def test_a_link_lost_while_foreign_keys_are_made_is_waited_for(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    write(source_account, "CREATE TABLE p (id INT PRIMARY KEY); INSERT INTO p VALUES (1)")
    write(source_account, "CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id))")
    write(source_account, "INSERT INTO c VALUES (1, 1)")
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    process = pipeline.start("run", "FILE", "--until-current", program=("-c", _LOSES_A_SESSION))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "waiting: target" in output
    assert target_account.query(
        "SELECT COUNT(*) FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE()"
    ) == [(1,)]
