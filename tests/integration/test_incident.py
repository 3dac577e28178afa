"""The source says itself that its log lacks something (an incident event): a run ends, and never steps over it (I7)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from replicator.servers import start_mariadb, start_mysql
from tests.accounts import Account, make_source_account
from tests.processes import write_pipeline
from tests.targets import set_global


@pytest.fixture(params=[start_mysql, start_mariadb], ids=["mysql", "mariadb"])
def source_account(request: pytest.FixtureRequest) -> Iterator[Account]:
    """On a server of this test's own: whoever else reads its log from before the incident would end there, too."""
    with request.param() as server, make_source_account(server) as account:
        yield account


def test_rows_that_the_source_could_not_log_end_a_run(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """A statement on a MyISAM table that outgrows the cache of its log: the rows stay, and no log has them."""
    source, database = source_account.server, source_account.database
    source.execute(
        "CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE m (id INT PRIMARY KEY, v LONGBLOB) ENGINE = MyISAM",
        database=database,
    )
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    pipeline.must("load", "FILE")
    source.execute("INSERT INTO a VALUES (1)", database=database)
    with contextlib.ExitStack() as stack:
        for name in ("binlog_stmt_cache_size", "max_binlog_stmt_cache_size"):
            stack.enter_context(set_global(source, name, "4096"))
        with pytest.raises(pymysql.MySQLError, match="1705"):
            source.execute(
                "INSERT INTO m VALUES (1, REPEAT('x', 3000)), (2, REPEAT('x', 300000))", database=database
            )
    source.execute("INSERT INTO a VALUES (2)", database=database)
    for _ in range(2):
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 4, done.stdout + done.stderr
        said = " ".join(done.stderr.split())
        assert "the source lost events" in said
        assert "replicator drop" in said
        assert target_account.query("SELECT id FROM a") == [(1,)]
    pipeline.must("drop", "FILE")
