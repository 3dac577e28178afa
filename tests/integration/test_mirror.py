"""The main job, as a user does it: load, mirror, stop, go on; both source products (I1, I2, I6)."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from replicator.servers import Server
from tests.accounts import Account, make_source_account, make_target_account
from tests.compare import assert_equal
from tests.processes import end, follow, write_pipeline
from tests.targets import wait_until
from tests.workload import create_schema, writing


def test_tables_are_loaded_then_mirrored(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    create_schema(source.server, source.database)
    pipeline = write_pipeline(tmp_path, source, target)
    summary = pipeline.must("load", "FILE")
    assert f"{source.database}.still" in summary, "a summary table stands at the end"
    assert_equal(source.server, source.database, target.server, target.database)
    with writing(source.server, source.database, seed=1) as writer:
        process = pipeline.start("run", "FILE")
        follow(process, "state=")  # it runs: from here on SIGTERM ends it in order
        seen = writer.commits
        while writer.commits < seen + 300:
            assert process.poll() is None, process.communicate()[0]
    pipeline_code, output = end(process)
    assert pipeline_code == 0, output
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)
    status = pipeline.status()
    assert {table["state"] for table in status["tables"]} == {"streaming"}
    assert status["state"] == "stopped"


def test_tables_are_loaded_while_they_are_written(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    create_schema(source.server, source.database)
    pipeline = write_pipeline(tmp_path, source, target)
    with writing(source.server, source.database, seed=2):
        pipeline.must("load", "FILE")
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


def test_several_files_run_side_by_side_and_end_together(
    mysql_source: Server, mariadb_source: Server, mysql_target: Server, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        files = []
        for server in (mysql_source, mariadb_source):
            source = stack.enter_context(make_source_account(server))
            target = stack.enter_context(make_target_account(mysql_target))
            server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=source.database)
            files.append((write_pipeline(tmp_path, source, target, name=server.kind), source, target))
        (first, *_), (second, *_) = files
        process = first.start("run", "FILE", str(second.path))
        for _, source, target in files:
            source.server.execute("INSERT INTO t VALUES (1)", database=source.database)
            wait_until(partial(has_row, target))
        code, output = end(process)
        assert code == 0, output


def has_row(account: Account) -> bool:
    return bool(account.query("SHOW TABLES LIKE 't'") and account.query("SELECT * FROM t"))


def test_statements_find_the_key_under_the_name_it_has_at_the_target(
    mysql_source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """A unique key that became the primary key, and target tables of other making, one of them altered later."""
    source, target = mysql_source_account, target_account
    source.server.execute(
        "CREATE TABLE made (id INT NOT NULL, v INT, UNIQUE KEY made_id (id));"
        "CREATE TABLE theirs (a INT NOT NULL, b INT NOT NULL, v INT, UNIQUE KEY ours (a, b))",
        database=source.database,
    )
    target.query(
        "CREATE TABLE theirs (a INT, b INT, v INT, k INT KEY AUTO_INCREMENT, UNIQUE KEY theirs_ba (b, a))"
    )
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    for name in ("theirs_ba", "renamed"):
        source.server.execute(
            "INSERT INTO made VALUES (1, 1), (2, 2), (3, 3); INSERT INTO theirs VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3);"
            "UPDATE made SET v = 9 WHERE id = 1; UPDATE theirs SET v = 9 WHERE a = 1; UPDATE made SET id = 7 WHERE id = 2;"
            "UPDATE theirs SET b = 7 WHERE a = 2",
            database=source.database,
        )
        pipeline.must("run", "FILE", "--until-current")
        source.server.execute("UPDATE made SET v = 0; UPDATE theirs SET v = 0", database=source.database)
        pipeline.must("run", "FILE", "--until-current")
        assert target.query("SELECT id, v FROM made ORDER BY id") == [(1, 0), (3, 0), (7, 0)]
        assert target.query("SELECT a, b, v FROM theirs ORDER BY a") == [(1, 1, 0), (2, 7, 0), (3, 3, 0)]
        source.server.execute("DELETE FROM made; DELETE FROM theirs", database=source.database)
        pipeline.must("run", "FILE", "--until-current")
        assert target.query("SELECT a FROM theirs UNION ALL SELECT id FROM made") == []
        if name == "theirs_ba":
            target.query("ALTER TABLE theirs RENAME INDEX theirs_ba TO renamed")
