"""What is too large for memory or for a packet: spilled, or refused by name; and pipelines of a thousand tables (I9)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.branches import branching
from tests.compare import assert_equal
from tests.contract.paths import run_all
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import set_global

MEGABYTE = 1 << 20

ROWS = "CREATE TABLE wide (id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL, body LONGTEXT NOT NULL)"


def insert_rows(count: int, size: int, first: int = 1) -> str:
    """One statement, and so one transaction, of ``count`` rows of ``size`` bytes each."""
    return (
        "INSERT INTO wide (n, body) WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT i + 1 FROM n WHERE i < "
        f"{count}) SELECT i + {first - 1}, REPEAT(CHAR(97 + i % 26), {size}) FROM n"
    )


def peak_bytes(pid: int) -> int:
    """The most memory a running process ever had resident."""
    [line] = [x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def pipeline(source_account: Account, target_account: Account, tmp_path: Path) -> PipelineFile:
    run_all(source_account, [ROWS, insert_rows(10, 100)])
    made = write_pipeline(tmp_path, source_account, target_account)
    made.must("load", "FILE")
    return made


def compare(source: Account, target: Account) -> int:
    return assert_equal(source.server, source.database, target.server, target.database)


def test_a_transaction_that_is_spilled_arrives_whole(
    source_account: Account, target_account: Account, pipeline: PipelineFile
) -> None:
    """40 MB with a part taken back, then an update and a delete that touch all of it."""
    run_all(
        source_account,
        [
            "BEGIN",
            insert_rows(700, 60_000, first=1000),
            "SAVEPOINT s",
            "UPDATE wide SET body = 'never' WHERE n % 2 = 0",
            "ROLLBACK TO SAVEPOINT s",
            "UPDATE wide SET n = n + 1, body = 'short' WHERE n % 10 = 0",
            "COMMIT",
            "DELETE FROM wide WHERE n % 3 = 0",
        ],
    )
    pipeline.must("run", "FILE", "--until-current")
    assert compare(source_account, target_account) > 400


def test_a_transaction_beyond_the_limit_comes_in_slices(
    source_account: Account, target_account: Account, pipeline: PipelineFile
) -> None:
    """Killed between two of three slices: the app sees that it is torn, and the next start goes on with the third."""
    pipeline.set_top(max_transaction_bytes=32 * MEGABYTE)
    run_all(source_account, [insert_rows(800, 100_000, first=100)])
    process = pipeline.start("run", "FILE", program=("-m", "tests.faults.dying", "between-slices", "2"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output
    rows = target_account.query("SELECT COUNT(*) FROM wide")[0][0]
    assert 10 < rows < 810
    assert target_account.query("SELECT torn, consistent FROM _replicator_status") == [(1, 0)]
    status = pipeline.status()
    assert (status["torn"], status["consistent"]) == (True, False)
    without: dict[str, object] = {f"{source_account.database}.other": {}}
    run_all(source_account, ["CREATE TABLE other (id INT PRIMARY KEY)"])
    selected = pipeline.set_top(tables=without)
    refused = pipeline.run("run", "FILE", "--until-current")
    assert refused.returncode == 5, refused.stderr
    assert f"{source_account.database}.wide: a huge transaction is applied in part" in refused.stderr
    pipeline.set_top(tables=selected["tables"])
    pipeline.must("run", "FILE", "--until-current")
    assert compare(source_account, target_account) == 810
    assert target_account.query("SELECT torn, consistent FROM _replicator_status") == [(0, 1)]


def test_a_prepared_transaction_beyond_the_limit_comes_in_slices_and_a_table_joins_meanwhile(
    source_account: Account, target_account: Account, pipeline: PipelineFile
) -> None:
    """XA PREPARE read by one run, XA COMMIT by the next two, each killed between slices; then a table comes to the file."""
    pipeline.set_top(max_transaction_bytes=32 * MEGABYTE)
    with branching(source_account.server, source_account.database) as branches:
        branches.prepare("big", insert_rows(500, 100_000, first=100), insert_rows(600, 100_000, first=600))
        run_all(source_account, ["CREATE TABLE other (id INT PRIMARY KEY)", "INSERT INTO other VALUES (1)"])
        pipeline.set_top(tables={f"{source_account.database}.wide": {}})
        pipeline.must("run", "FILE", "--until-current")
        assert target_account.query("SELECT COUNT(*) FROM wide") == [(10,)]
        branches.commit("big")
    for slices in ("2", "1"):
        process = pipeline.start(
            "run", "FILE", program=("-m", "tests.faults.dying", "between-slices", slices)
        )
        output, _ = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, output
        status = pipeline.status()
        assert status["torn"]
        assert status["read_from"] != status["position"]  # its XA PREPARE is read again
    assert 10 < target_account.query("SELECT COUNT(*) FROM wide")[0][0] < 1110
    pipeline.edit("tables", **{f"{source_account.database}.other": {}})
    pipeline.must("run", "FILE", "--until-current")
    assert compare(source_account, target_account) == 1111
    status = pipeline.status()
    assert (status["torn"], status["consistent"]) == (False, True)
    assert status["read_from"] == status["position"]


def test_rows_larger_than_a_packet_of_the_log(
    source_account: Account, target_account: Account, pipeline: PipelineFile
) -> None:
    """A row of 17 and one of 40 MB: more than one packet of the protocol each, in load-free paths alone."""
    source_account.server.execute("SET GLOBAL max_allowed_packet = 134217728")
    run_all(
        source_account,
        [
            insert_rows(1, 17 * MEGABYTE),
            insert_rows(1, 30 * MEGABYTE),
            "UPDATE wide SET body = CONCAT(body, 'x') WHERE LENGTH(body) > 1000000 AND LENGTH(body) < 20000000",
        ],
    )
    with set_global(target_account.server, "max_allowed_packet", "134217728"):
        pipeline.must("run", "FILE", "--until-current")
    query = "SELECT id, n, LENGTH(body), CRC32(body) FROM wide ORDER BY id"
    assert source_account.query(query) == target_account.query(query)


@pytest.mark.slow
def test_a_thousand_tables_start_in_time(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    tables = [f"CREATE TABLE t{n} (id INT PRIMARY KEY, v VARCHAR(20), KEY v (v))" for n in range(1000)]
    run_all(source_account, [*tables, *(f"INSERT INTO t{n} VALUES (1, 'a')" for n in range(1000))])
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    pipeline.must("load", "FILE", seconds=180)
    run_all(source_account, [f"UPDATE t{n} SET v = 'b'" for n in range(0, 1000, 7)])
    process = pipeline.start("run", "FILE")
    follow(process, "state=")
    assert peak_bytes(process.pid) < 300 * MEGABYTE
    code, output = end(process)
    assert code == 0, output
    pipeline.must("run", "FILE", "--until-current", seconds=60)
    query = " UNION ALL ".join(f"SELECT {n}, v FROM t{n}" for n in range(0, 1000, 7))
    assert source_account.query(query) == target_account.query(query)


def test_a_row_that_no_packet_of_the_target_holds_is_named_until_the_target_takes_it(
    source_account: Account, target_account: Account, pipeline: PipelineFile
) -> None:
    """At 4 MB, LOAD DATA brings in a row of 6; its update cannot pass, and nothing of it is lost."""
    source_account.server.execute("SET GLOBAL max_allowed_packet = 134217728")
    with (
        set_global(target_account.server, "max_allowed_packet", "4194304"),
        set_global(target_account.server, "local_infile", "ON"),
    ):
        run_all(source_account, [insert_rows(1, 6 * MEGABYTE)])
        pipeline.must("run", "FILE", "--until-current")
        run_all(source_account, ["UPDATE wide SET n = 5 WHERE LENGTH(body) > 1000000"])
        for _ in range(2):
            stopped = pipeline.run("run", "FILE", "--until-current")
            assert stopped.returncode == 5, stopped.stderr
            named = f"table {source_account.database}.wide: the row id="
            for word in (named, "4,194,304", "raise max_allowed_packet"):
                assert word in stopped.stderr
    with set_global(target_account.server, "max_allowed_packet", "67108864"):
        pipeline.must("run", "FILE", "--until-current")
    assert compare(source_account, target_account) == 11
