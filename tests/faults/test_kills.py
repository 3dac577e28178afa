"""kill -9 at every edge between stages, under write load: no row lost, none twice (I1, I2, I3; SEMANTICS §2.5, §4).

`make crash` runs the whole matrix with ten seeds: ``tests.faults.matrix``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.servers import Server
from tests.accounts import Account, make_source_account
from tests.compare import assert_equal
from tests.faults.dying import POINTS
from tests.faults.survival import MOST_VISITS, Ends, assert_mirrored, die, survive
from tests.processes import write_pipeline
from tests.targets import wait_until


@pytest.fixture
def ends(source_account: Account, target_account: Account, tmp_path: Path) -> Ends:
    return Ends(source_account, target_account, tmp_path)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_loses_nothing_and_doubles_nothing(ends: Ends, point: str) -> None:
    survive(ends, [(point, 1)], seed=7)


@pytest.mark.parametrize(
    "deaths",
    [
        ["after-chunk-commit", "in-chunk-body", "before-stream", "first-streamed-batch"],
        ["mid-packet", "commit-unanswered", "in-spill", "before-ack"],
    ],
)
def test_a_run_that_is_killed_again_and_again_loses_nothing(ends: Ends, deaths: list[str]) -> None:
    survive(ends, [(point, 2) for point in deaths], seed=8)


@pytest.mark.parametrize(("point", "times"), [("before-stream", 1), ("plan-not-sent", 2)])
def test_what_a_table_was_before_its_load_is_past_after_a_kill(
    source_account: Account, ends: Ends, point: str, times: int
) -> None:
    """The next run reads the log again from where the load began: the table's own making stands there."""
    server, schema = source_account.server, source_account.database
    ends.create_schema()
    pipeline = write_pipeline(ends.folder, ends.source, ends.target)
    pipeline.must("load", "FILE")
    server.execute(
        "CREATE TABLE late (id INT PRIMARY KEY, a INT); INSERT INTO late VALUES (1, 1), (2, 2);"
        "ALTER TABLE late ADD b INT; UPDATE late SET b = 7; INSERT INTO late VALUES (3, 3, 3);",
        database=schema,
    )
    with ends.writing(seed=3, pace=0.01):
        die(pipeline, point, times)
    assert_mirrored(pipeline, ends)


@pytest.mark.full
@pytest.mark.parametrize(("times", "seed"), [(2, 100), (3, 101), (5, 102)])
@pytest.mark.parametrize("point", [p for p in POINTS if MOST_VISITS.get(p) != 1])
def test_later_visits_kill_as_little(ends: Ends, point: str, times: int, seed: int) -> None:
    survive(ends, [(point, min(times, MOST_VISITS.get(point, times)))], seed)


@pytest.mark.full
@pytest.mark.parametrize("point", POINTS)
def test_kills_lose_nothing_where_mysql_logs_no_cascade(
    mysql_unlogged_source: Server, target_account: Account, tmp_path: Path, point: str
) -> None:
    with make_source_account(mysql_unlogged_source) as source:
        survive(Ends(source, target_account, tmp_path), [(point, 1)], seed=9)


def count_sessions(account: Account) -> int:
    sql = "SELECT COUNT(*) FROM performance_schema.processlist WHERE USER = %s"
    return int(account.server.execute(sql, (account.user,))[0][0])


@pytest.mark.parametrize("point", ["mid-packet", "commit-unanswered"])
def test_a_descent_that_is_killed_takes_along_all_or_nothing(
    mariadb_source_account: Account, target_account: Account, tmp_path: Path, point: str
) -> None:
    """First in the packet whose check is refused, then in the one that deletes a tree leaves first."""
    rows = ", ".join(f"({number}, {(number - 1) // 2})" for number in range(1, 200))
    source = mariadb_source_account
    source.server.execute(
        "CREATE TABLE tree (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES tree (id) ON DELETE CASCADE);"
        f"INSERT INTO tree VALUES (0, NULL), {rows}",
        database=source.database,
    )
    pipeline = write_pipeline(tmp_path, source, target_account)
    pipeline.must("load", "FILE")
    source.server.execute("DELETE FROM tree WHERE id = 2", database=source.database)
    left: list[int] = []
    for times in (1, 2):
        die(pipeline, point, times)
        wait_until(lambda: not count_sessions(target_account), 30)  # what was sent is carried out without us
        left += [row[0] for row in target_account.query("SELECT COUNT(*) FROM tree")]
    assert left == ([200, 200] if point == "mid-packet" else [200, 128])
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target_account.server, target_account.database)
