"""What a run says and does when something is wrong: a clear error, a documented exit code, nothing half done or lost.

`check` names the same faults before a run; tests/integration/test_check.py proves that. Here are the commands that work.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account, limit_host, make_source_account, make_target_account
from tests.compare import Side, assert_equal, describe_difference
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import set_global
from tests.tunnel import Tunnel

SIDES = {"source": 4, "target": 5}
"""An end and the exit code of its errors."""


@pytest.fixture
def pipeline(source_account: Account, target_account: Account, tmp_path: Path) -> PipelineFile:
    """Two small tables; `a` has three rows, `b` none."""
    source_account.server.execute(
        "CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(10)); CREATE TABLE b (id INT PRIMARY KEY, v VARCHAR(10));"
        "INSERT INTO a VALUES (1, 'x'), (2, 'y'), (3, NULL)",
        database=source_account.database,
    )
    return write_pipeline(tmp_path, source_account, target_account)


def fail(pipeline: PipelineFile, *arguments: str, exit_code: int) -> str:
    """Run to the end; returns what was said about it, all in one line."""
    done = pipeline.run(*arguments)
    assert done.returncode == exit_code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def write(account: Account, sql: str) -> None:
    account.server.execute(sql, database=account.database)


def assert_same(source: Account, target: Account, *tables: str) -> None:
    for table in tables:
        difference = describe_difference(
            Side(source.server, source.database, table), Side(target.server, target.database, table)
        )
        assert not difference, difference


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("command", ["load", "run", "plan"])
def test_a_wrong_password_ends_every_command(pipeline: PipelineFile, side: str, command: str) -> None:
    pipeline.env[f"{side.upper()}_PASSWORD"] = "wrong"
    said = fail(pipeline, command, "FILE", exit_code=SIDES[side])
    assert "Access denied" in said
    assert "wrong" not in said.replace("wrong password", "")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("command", ["load", "plan"])
def test_an_end_that_is_away_ends_load_and_plan(pipeline: PipelineFile, side: str, command: str) -> None:
    pipeline.edit(side, port=1)
    said = fail(pipeline, command, "FILE", exit_code=SIDES[side])
    assert "127.0.0.1:1" in said


@pytest.mark.parametrize("side", SIDES)
def test_a_run_waits_for_an_end_that_is_away_and_goes_on(
    pipeline: PipelineFile, source_account: Account, target_account: Account, side: str
) -> None:
    server = source_account.server if side == "source" else target_account.server
    with Tunnel("127.0.0.1", 1) as tunnel:
        pipeline.edit(side, host=tunnel.host, port=tunnel.port)
        process = pipeline.start("run", "FILE", "--until-current")
        line = follow(process, "waiting_for=").splitlines()[-1]
        assert "waiting_for=-" not in line
        assert f"{tunnel.host}:{tunnel.port}" in line
        tunnel.behind = (server.host, server.port)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert_equal(
        source_account.server, source_account.database, target_account.server, target_account.database
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_waits_can_be_ended(
    pipeline: PipelineFile, side: str, begun: bool, target_account: Account, source_account: Account
) -> None:
    server = source_account.server if side == "source" else target_account.server
    with Tunnel(server.host, server.port) as tunnel:
        pipeline.edit(side, host=tunnel.host, port=tunnel.port)
        if not begun:
            tunnel.behind = ("127.0.0.1", 1)
        process = pipeline.start("run", "FILE")
        if begun:
            follow(process, "state=streaming")
            tunnel.behind = ("127.0.0.1", 1)
            tunnel.cut()
        follow(process, "waiting")
        code, output = end(process, seconds=10)
    assert code == 0, output


@pytest.mark.parametrize("side", SIDES)
def test_a_restart_of_an_end_is_survived(
    mysql_target: Server, mysql_source: Server, tmp_path: Path, side: str
) -> None:
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(start_mysql(durable=True))
        source = stack.enter_context(make_source_account(own if side == "source" else mysql_source))
        target = stack.enter_context(make_target_account(own if side == "target" else mysql_target))
        write(source, "CREATE TABLE t (n INT AUTO_INCREMENT PRIMARY KEY)")
        pipeline = write_pipeline(tmp_path, source, target)
        process = pipeline.start("run", "FILE")
        follow(process, "state=streaming")
        for leave in (own.stop, own.kill):
            write(source, "INSERT INTO t VALUES (), (), ()")
            leave()
            own.start()
            write(source, "INSERT INTO t VALUES (), (), ()")
        code, output = end(process)
        assert code == 0, output
        pipeline.must("run", "FILE", "--until-current")
        assert_same(source, target, "t")


# --- rights and settings ----------------------------------------------------------------------------------------------


def test_a_missing_right_at_the_source_is_printed_as_a_grant(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    source_account.server.execute(f"REVOKE REPLICATION SLAVE ON *.* FROM {source_account.user}")
    said = fail(pipeline, "run", "FILE", exit_code=4)
    assert "GRANT REPLICATION SLAVE ON *.* TO" in said
    assert target_account.query("SHOW TABLES") == []


def test_a_missing_right_to_lock_a_table_is_printed_as_a_grant_that_works(
    target_account: Account, tmp_path: Path
) -> None:
    """Without GTIDs a snapshot of MySQL locks each table for a moment."""
    with (
        start_mysql(gtid_mode=False) as server,
        make_source_account(server) as source,
    ):
        write(source, "CREATE TABLE a (id INT PRIMARY KEY)")
        with limit_host(source) as name:
            server.execute(f"REVOKE LOCK TABLES ON {source.database}.* FROM {name}")
            pipeline = write_pipeline(tmp_path, source, target_account)
            said = fail(pipeline, "load", "FILE", exit_code=4)
            grant = re.search(r"run at the source: (GRANT LOCK TABLES .*?;)", said)
            assert grant, said
            server.execute(grant[1])
            pipeline.must("load", "FILE")


@pytest.mark.parametrize("right", ["CREATE", "INSERT"])
def test_a_missing_right_at_the_target_is_named(
    pipeline: PipelineFile, target_account: Account, right: str
) -> None:
    target_account.server.execute(f"REVOKE {right} ON {target_account.database}.* FROM {target_account.user}")
    said = fail(pipeline, "load", "FILE", exit_code=5)
    assert f"{right} command denied" in said or f"GRANT {right}" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("binlog_format", "STATEMENT"), ("binlog_row_image", "MINIMAL"), ("binlog_row_metadata", "MINIMAL")],
)
def test_an_unfit_setting_of_the_log_ends_a_run_before_it_begins(
    pipeline: PipelineFile,
    source_server: Server,
    target_account: Account,
    name: str,
    value: str,
) -> None:
    with set_global(source_server, name, f"'{value}'"):
        said = fail(pipeline, "run", "FILE", exit_code=4)
    assert name in said
    assert target_account.query("SHOW TABLES") == []


def test_a_source_without_a_log(target_account: Account, tmp_path: Path) -> None:
    with start_mysql(skip_log_bin=True) as server, make_source_account(server) as source:
        write(source, "CREATE TABLE a (id INT PRIMARY KEY)")
        pipeline = write_pipeline(tmp_path, source, target_account)
        said = fail(pipeline, "run", "FILE", exit_code=4)
    assert "log_bin" in said


@pytest.mark.parametrize("start", [start_mysql, start_mariadb])
def test_a_log_that_leaves_a_selected_database_out(
    start: Callable[..., Server], target_account: Account, tmp_path: Path
) -> None:
    with start(binlog_do_db="other") as server, make_source_account(server) as source:
        write(source, "CREATE TABLE a (id INT PRIMARY KEY); INSERT INTO a VALUES (1)")
        pipeline = write_pipeline(tmp_path, source, target_account)
        said = fail(pipeline, "run", "FILE", exit_code=4)
    assert "source.filters" in said
    assert f"binlog_do_db = {source.database}" in said
    assert target_account.query("SHOW TABLES") == []


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_purged_log_names_what_is_missing_and_the_choices(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.must("load", "FILE")
    server = source_account.server
    write(source_account, "INSERT INTO a VALUES (4, 'lost')")
    server.execute("FLUSH BINARY LOGS")
    write(source_account, "INSERT INTO a VALUES (5, 'kept')")
    server.execute("FLUSH BINARY LOGS")
    while (
        len(logs := server.execute("SHOW BINARY LOGS")) > 1
    ):  # a log that a checkpoint may need is kept in silence
        server.execute(f"PURGE BINARY LOGS TO '{logs[-1][0]}'")
    said = fail(pipeline, "run", "FILE", exit_code=4)
    stored = target_account.query("SELECT position FROM _replicator_checkpoint WHERE worker = 0")[0][0]
    assert "replicator drop" in said
    assert "purged" in said
    assert stored.split(";", 1)[-1][-20:] in said
    assert target_account.query("SELECT COUNT(*) FROM a") == [(3,)]
    pipeline.must("drop", "FILE")
    pipeline.must("load", "FILE")
    assert_same(source_account, target_account, "a", "b")


def test_another_server_behind_the_same_name_changes_nothing(
    pipeline: PipelineFile, mysql_target: Server, target_account: Account, source_account: Account
) -> None:
    if source_account.server.kind == "mariadb":
        pytest.skip("identities are compared alike; the second server at hand is a MySQL")
    pipeline.must("load", "FILE")
    with make_source_account(mysql_target) as stranger:
        server = stranger.server
        pipeline.edit("source", host=server.host, port=server.port, user=stranger.user)
        before = target_account.query("SELECT epoch, seq, position FROM _replicator_checkpoint")
        said = fail(pipeline, "run", "FILE", exit_code=4)
        assert server.uuid in said
        assert source_account.server.uuid in said
        assert target_account.query("SELECT epoch, seq, position FROM _replicator_checkpoint") == before


# --- target tables ----------------------------------------------------------------------------------------------------


def test_a_target_table_that_cannot_hold_the_source_ends_a_load_before_the_first_row(
    pipeline: PipelineFile, target_account: Account
) -> None:
    write(target_account, "CREATE TABLE b (id INT PRIMARY KEY, v VARCHAR(5))")
    said = fail(pipeline, "load", "FILE", exit_code=5)
    assert "b:v" in said
    assert "a" not in [row[0] for row in target_account.query("SHOW TABLES")]


def test_rows_of_others_wait_for_a_decision_then_merge_or_give_way(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    write(
        target_account,
        "CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(10), app INT DEFAULT 7);"
        "INSERT INTO a (id, v) VALUES (2, 'theirs'), (9, 'theirs')",
    )
    said = fail(pipeline, "run", "FILE", exit_code=5)
    assert "2 rows" in said
    assert "existing_rows: merge" in said
    pipeline.edit("tables", **{f"{source_account.database}.*": {"existing_rows": "merge"}})
    pipeline.must("load", "FILE")
    assert target_account.query("SELECT * FROM a ORDER BY id") == [
        (1, "x", 7), (2, "y", 7), (3, None, 7), (9, "theirs", 7)
    ]  # fmt: skip
    write(
        source_account,
        "DELETE FROM a WHERE id = 1; INSERT INTO a VALUES (9, 'ours'); UPDATE a SET v = 'z' WHERE id = 2",
    )
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT * FROM a ORDER BY id") == [(2, "z", 7), (3, None, 7), (9, "ours", 7)]


def test_a_table_that_goes_elsewhere_before_it_was_loaded_empties_nothing_there(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """What was noted of one target table says nothing of another: rows of others there are not ours to empty."""
    pipeline.must("load", "FILE")
    pipeline.must("drop", "FILE")
    write(
        target_account, "CREATE TABLE c (id INT PRIMARY KEY, v VARCHAR(10)); INSERT INTO c VALUES (7, 'app')"
    )
    pipeline.edit("tables", **{f"{source_account.database}.a": {"to": "c"}})
    said = fail(pipeline, "load", "FILE", exit_code=5)
    assert "existing_rows" in said
    assert target_account.query("SELECT * FROM c") == [(7, "app")]


def test_a_row_that_the_target_refuses_stops_the_table_until_it_is_mended(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.must("load", "FILE")
    write(target_account, "ALTER TABLE a ADD CONSTRAINT small CHECK (id < 10)")
    write(source_account, "INSERT INTO a VALUES (10, 'x'); INSERT INTO b VALUES (1, 'x')")
    said = fail(pipeline, "run", "FILE", "--until-current", exit_code=5)
    assert "small" in said
    states = {t["target"]: t for t in pipeline.status()["tables"]}
    assert states["a"]["state"] == "error"
    assert "small" in states["a"]["error"]
    write(target_account, "ALTER TABLE a DROP CHECK small")
    write(target_account, "INSERT INTO a VALUES (77, 'app')")  # a reload would not leave this row alone
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT id FROM a ORDER BY id") == [(1,), (2,), (3,), (10,), (77,)]
    assert {t["state"] for t in pipeline.status()["tables"]} == {"streaming"}


# --- what happens at the source ---------------------------------------------------------------------------------------


def test_an_altered_table_pauses_and_the_others_stream_on(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.must("load", "FILE")
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    write(source_account, "INSERT INTO a VALUES (4, 'before')")
    write(source_account, "ALTER TABLE a ADD COLUMN extra INT")
    write(source_account, "INSERT INTO a VALUES (5, 'after', 1); INSERT INTO b VALUES (1, 'b')")
    follow(process, "is paused")
    code, output = end(process)
    assert code == 6, output
    assert f"{source_account.database}.a" in output
    said = fail(pipeline, "run", "FILE", "--until-current", exit_code=6)
    assert "replicator drop" in said
    assert_same(source_account, target_account, "b")
    assert target_account.query("SELECT id FROM a") == [(1,), (2,), (3,), (4,)]
    states = {t["target"]: t for t in pipeline.status()["tables"]}
    assert states["a"]["state"] == "paused"
    assert "ALTER TABLE" in states["a"]["error"]
    assert states["b"]["state"] == "streaming"
    write(source_account, "INSERT INTO b VALUES (2, 'b')")
    fail(pipeline, "run", "FILE", "--until-current", exit_code=6)
    assert_same(source_account, target_account, "b")

    pipeline.must("drop", "FILE")
    write(target_account, "DROP TABLE a")  # the remedy: the program made it without the new column
    pipeline.must("load", "FILE")
    assert_same(source_account, target_account, "a", "b")
    write(source_account, "UPDATE a SET extra = 5; INSERT INTO a VALUES (6, 'new', 6)")
    pipeline.must("run", "FILE", "--until-current")
    assert_same(source_account, target_account, "a", "b")
    assert {t["state"] for t in pipeline.status()["tables"]} == {"streaming"}


@pytest.mark.parametrize("setting_", ["binlog_format = 'STATEMENT'", "binlog_row_image = 'MINIMAL'"])
def test_a_session_that_logs_otherwise_stops_the_source_and_nothing_is_skipped(
    pipeline: PipelineFile, source_account: Account, target_account: Account, setting_: str
) -> None:
    pipeline.must("load", "FILE")
    write(source_account, "INSERT INTO a VALUES (4, 'before')")
    write(source_account, f"SET SESSION {setting_}; UPDATE a SET v = 'unseen' WHERE id = 1")
    for _ in range(2):  # starting again does not step over it
        said = fail(pipeline, "run", "FILE", "--until-current", exit_code=4)
        assert setting_.split(maxsplit=1)[0] in said
    assert target_account.query("SELECT id, v FROM a ORDER BY id") == [
        (1, "x"), (2, "y"), (3, None), (4, "before")
    ]  # fmt: skip


# --- tables that come and go ------------------------------------------------------------------------------------------


def test_tables_that_come_and_go_with_the_file(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    name = source_account.database
    pipeline.edit("tables", **{f"{name}.*": None, f"{name}.a": {}})
    pipeline.must("load", "FILE")
    pipeline.edit("tables", **{f"{name}.b": {}})
    write(source_account, "INSERT INTO a VALUES (4, 'x'); INSERT INTO b VALUES (1, 'x')")
    pipeline.must("run", "FILE", "--until-current")
    assert_same(source_account, target_account, "a", "b")

    pipeline.edit("tables", **{f"{name}.a": None})
    write(source_account, "DELETE FROM a WHERE id = 1; UPDATE b SET v = 'y'")
    pipeline.must("run", "FILE", "--until-current")
    assert_same(source_account, target_account, "b")
    states = {t["source"]: t["state"] for t in pipeline.status()["tables"]}
    assert states.get(f"{name}.a", "needs_reload") == "needs_reload"

    pipeline.edit("tables", **{f"{name}.a": {}})
    write(source_account, "INSERT INTO a VALUES (5, 'x'); INSERT INTO b VALUES (2, 'x')")
    pipeline.must("run", "FILE", "--until-current")
    assert_same(source_account, target_account, "a", "b")
    assert {t["state"] for t in pipeline.status()["tables"]} == {"streaming"}


def test_a_load_of_what_is_loaded_and_a_run_without_changes_end_at_once(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    pipeline.must("load", "FILE")
    source_account.server.execute(
        "CREATE TABLE mysql.elsewhere (id INT PRIMARY KEY); DROP TABLE mysql.elsewhere"
    )
    pipeline.must("load", "FILE")
    before = target_account.query("SELECT position FROM _replicator_checkpoint WHERE worker = 0")
    source_account.server.execute(
        "CREATE TABLE mysql.elsewhere (id INT PRIMARY KEY); DROP TABLE mysql.elsewhere"
    )
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT position FROM _replicator_checkpoint WHERE worker = 0") != before
    assert pipeline.status()["tables"][0]["rows_loaded"] == 3


def test_a_load_that_is_told_to_end_goes_on_at_the_next_start(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    rows = ",".join(f"({n}, REPEAT('x', 500))" for n in range(1000))
    write(
        source_account,
        "".join(
            f"CREATE TABLE t{number} (id INT PRIMARY KEY, v VARCHAR(600)); INSERT INTO t{number} VALUES {rows};"
            for number in range(12)
        ),
    )
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    process = pipeline.start("run", "FILE")
    follow(process, "state=")
    code, output = end(process, seconds=20)
    assert code == 0, output
    write(source_account, "DELETE FROM t1 WHERE id < 10; INSERT INTO t2 VALUES (5000, 'new')")
    pipeline.must("load", "FILE")
    assert_same(source_account, target_account, *(f"t{number}" for number in range(12)))


def test_a_table_made_or_changed_after_the_stored_position_is_loaded_as_it_is(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """The log ahead holds statements, and rows of other shapes, that are older than the table's own snapshot."""
    pipeline.edit("tables", **{f"{source_account.database}.b": {"skip": True}})
    pipeline.must("load", "FILE")
    pipeline.edit("tables", **{f"{source_account.database}.b": None})
    write(source_account, "INSERT INTO b VALUES (1, 'old'); ALTER TABLE b ADD COLUMN w INT FIRST")
    write(source_account, "CREATE TABLE c (id INT PRIMARY KEY); INSERT INTO c VALUES (1)")
    write(source_account, "INSERT INTO b VALUES (2, 2, 'new')")
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    write(
        source_account,
        "UPDATE b SET w = 3 WHERE id = 1; INSERT INTO c VALUES (2); DELETE FROM a WHERE id = 1",
    )
    code, output = end(process)
    assert code == 0, output
    pipeline.must("run", "FILE", "--until-current")
    assert_same(source_account, target_account, "a", "b", "c")
    write(source_account, "ALTER TABLE c ADD COLUMN v INT; UPDATE b SET w = 4")
    fail(pipeline, "run", "FILE", "--until-current", exit_code=6)
    assert_same(source_account, target_account, "a", "b")
