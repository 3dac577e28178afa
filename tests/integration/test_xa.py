"""XA transactions in every order, on both products, through restarts of ours and of the server (SEMANTICS §1.2)."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from replicator.model import Position, TableSchema, Transaction, UnseenCommit
from replicator.readers import mysql
from replicator.readers.mysql import MysqlReader
from replicator.servers import Server, start_mariadb, start_mysql
from replicator.spill import Spill
from tests.accounts import Account, make_source_account
from tests.branches import Branches, branching
from tests.compare import assert_equal
from tests.processes import end, follow, write_pipeline
from tests.streams import describe, list_changes, open_reader
from tests.targets import wait_until

Start = Callable[[], contextlib.AbstractContextManager[Server]]

TABLE = "(id INT PRIMARY KEY, v VARCHAR(100))"


@pytest.fixture
def reader(source_account: Account) -> Iterator[MysqlReader]:
    """A reader of a database with the tables a and b (selected by the tests) and c (never)."""
    source_account.server.execute(
        [f"CREATE TABLE {source_account.database}.{name} {TABLE}" for name in "abc"]
    )
    opened = open_reader(source_account)
    yield opened
    opened.close()


@pytest.fixture
def branches(source_account: Account) -> Iterator[Branches]:
    with branching(source_account.server, source_account.database) as opened:
        yield opened


def run(account: Account, *statements: str) -> None:
    with account.server.connect(database=account.database) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def read(
    reader: MysqlReader,
    start: Position,
    tables: list[TableSchema],
    end: Position,
    stored: Position | None = None,
) -> list[tuple[Transaction, str]]:
    """The transactions after ``start`` up to ``end``, each with the place where a restart after it would begin.

    ``stored``: a decision at or before it may stand alone, as its XA PREPARE may be further back than anything undecided.
    """
    found = []
    with contextlib.closing(reader.read(start, tables, threading.Event())) as stream:
        for item in stream:
            if isinstance(item, Transaction):
                found.append((item, str(reader.restart_from(item.position))))
            elif isinstance(item, UnseenCommit):
                assert stored is not None, item
                assert stored.includes(item.position), item
            if item.position.covers(end):
                return found
    raise AssertionError("the stream ended")


def write_all_orders(account: Account, branches: Branches) -> list[int]:
    """Branches prepared and decided in every order; returns the ids in table a in the order of their commits."""
    branches.prepare("1", "INSERT INTO a VALUES (1, 'x')")
    run(account, "INSERT INTO a VALUES (2, 'x')")
    branches.prepare("2", "INSERT INTO a VALUES (3, 'x')", "INSERT INTO b VALUES (3, 'x')")
    branches.prepare("3", "INSERT INTO c VALUES (3, 'x')")  # nobody selected it
    branches.prepare("empty")
    branches.commit("2")
    branches.prepare("2", "INSERT INTO a VALUES (4, 'x')")  # the same name again
    run(account, "INSERT INTO a VALUES (5, 'x')", "FLUSH BINARY LOGS")
    branches.prepare(
        "cut",
        "INSERT INTO a VALUES (6, 'x')",
        "SAVEPOINT s",
        "INSERT INTO a VALUES (7, 'x')",
        "INSERT INTO b VALUES (7, 'x')",
        "ROLLBACK TO s",
        "INSERT INTO a VALUES (8, 'x')",
    )
    branches.rollback("2")
    branches.one_phase("at once", "INSERT INTO a VALUES (0, 'x')")  # no gap that a branch has locked
    branches.commit("1")
    branches.commit("cut")
    branches.commit("3")
    branches.prepare("last", "INSERT INTO a VALUES (10, 'x')")
    run(account, "INSERT INTO a VALUES (11, 'x')")
    branches.commit("last")
    return [2, 3, 5, 0, 1, 6, 8, 11, 10]


def test_every_order_of_decisions_and_a_restart_at_every_boundary(
    reader: MysqlReader, source_account: Account, branches: Branches
) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    expected = write_all_orders(source_account, branches)
    newest = reader.position()
    whole = read(reader, start, tables, newest)
    changes = list_changes([item for item, _ in whole])
    assert [row[0] for table, _, _, after in changes if table == "a" for row in after] == expected
    for number, (item, restart) in enumerate(whole):
        again = reader.parse_position(restart)
        reader.verify_position(again)
        suffix = read(reader, again, tables, newest, item.position)
        rest = [found for found, _ in suffix if not item.position.includes(found.position)]
        assert list_changes(rest) == list_changes([later for later, _ in whole[number + 1 :]]), restart
    assert whole[-1][1] == str(newest)


def test_an_undecided_branch_is_read_again_however_late_it_is_decided(
    reader: MysqlReader, source_account: Account, branches: Branches
) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    branches.prepare("1", "INSERT INTO a VALUES (1, 'x')")
    run(source_account, "INSERT INTO a VALUES (2, 'x')")
    [*_, (last, restart)] = read(reader, start, tables, reader.position())
    assert len(reader.undecided()) == 1
    branches.commit("1")
    later = read(reader, reader.parse_position(restart), tables, reader.position())
    rows = [c for found, _ in later if not last.position.includes(found.position) for c in found.changes]
    assert [list(part.after) for part in rows] == [[(1, b"x")]]
    assert not reader.undecided()


def test_a_stream_that_goes_on_where_the_last_one_was_left_knows_what_is_undecided(
    reader: MysqlReader, source_account: Account, branches: Branches
) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    branches.prepare("1", "INSERT INTO a VALUES (1, 'x')")
    [*_, (last, _)] = read(reader, start, tables[:1], reader.position())
    branches.commit("1")
    [(found, restart)] = read(reader, last.position, tables, reader.position())
    assert list_changes([found]) == [("a", "INSERT", [], [(1, b"x")])]
    assert restart == str(found.position)


def test_branches_that_do_not_fit_in_memory_together_are_kept_on_disk(
    reader: MysqlReader, source_account: Account, branches: Branches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "SPILL_BYTES", 300)
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    small = open_reader(source_account)
    for number in range(5):
        branches.prepare(str(number), f"INSERT INTO a VALUES ({number}, REPEAT('x', 90))")
    for number in (4, 0, 3, 1, 2):
        branches.commit(str(number))
    found = [item for item, _ in read(small, start, tables, small.position()) if item.rows]
    assert [c[3][0][0] for c in list_changes(found)] == [4, 0, 3, 1, 2]
    assert {item.spilled for item in found} == {True, False}
    assert all(isinstance(item.changes, Spill) == item.spilled for item in found)
    small.close()


def test_a_commit_whose_prepare_was_never_read_is_named(
    reader: MysqlReader, source_account: Account, branches: Branches
) -> None:
    tables = describe(reader, source_account.database, "a", "b")
    branches.prepare("old", "INSERT INTO a VALUES (1, 'x')")
    branches.prepare("gone", "INSERT INTO a VALUES (2, 'x')")
    start = reader.position()
    branches.rollback("gone")
    branches.commit("old")
    with contextlib.closing(reader.read(start, tables, threading.Event())) as stream:
        found = next(item for item in stream if isinstance(item, UnseenCommit))
    assert found.name == f"X'{source_account.database.encode().hex()}',X'{b'old'.hex()}',7"
    assert found.position == reader.position()


def test_a_load_waits_for_what_was_prepared_before_it_and_nothing_is_lost(
    source_account: Account, target_account: Account, branches: Branches, tmp_path: Path
) -> None:
    """XA before, during and after the snapshot; ours is killed with one undecided; `--until-current` waits for none."""
    account = source_account
    run(account, *(f"CREATE TABLE {name} {TABLE}" for name in "abc"), "INSERT INTO b VALUES (1, 'x')")
    branches.prepare("before", "INSERT INTO a VALUES (1, 'x')")
    pipeline = write_pipeline(tmp_path, account, target_account)
    process = pipeline.start("run", "FILE")
    waiting = follow(process, "prepared XA transaction")
    assert "before" in waiting or b"before".hex() in waiting
    branches.prepare("during", "INSERT INTO a VALUES (2, 'x')")
    branches.commit("before")
    follow(process, "state=streaming")
    branches.prepare("after", "INSERT INTO a VALUES (3, 'x')")
    run(account, "INSERT INTO a VALUES (4, 'x')")
    end(process, 9)
    for _ in range(2):  # the second has nothing to apply
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("undecided") == 2
    assert_equal(account.server, account.database, target_account.server, target_account.database)
    branches.commit("after")
    branches.rollback("during")
    run(account, "INSERT INTO a VALUES (5, 'x')")
    done = pipeline.run("run", "FILE", "--until-current")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "undecided" not in done.stdout + done.stderr
    assert_equal(account.server, account.database, target_account.server, target_account.database)
    assert target_account.query("SELECT GROUP_CONCAT(id ORDER BY id) FROM a") == [("1,3,4,5",)]
    status = pipeline.status()
    assert status["read_from"] == status["position"]


@contextlib.contextmanager
def serve(start: Start) -> Iterator[tuple[Account, Branches]]:
    """A server of a test's own, which it may kill, with the table a."""
    with (
        start() as server,
        make_source_account(server) as account,
        branching(server, account.database) as branches,
    ):
        run(account, f"CREATE TABLE a {TABLE}")
        yield account, branches


def start_mysql_without_gtids() -> contextlib.AbstractContextManager[Server]:
    """Positions are files and offsets there."""
    return start_mysql(gtid_mode=False)


@pytest.mark.parametrize(
    "start", [start_mysql, start_mysql_without_gtids, start_mariadb], ids=["mysql", "mysql_files", "mariadb"]
)
def test_the_source_dies_between_prepare_and_commit(
    start: Start, target_account: Account, tmp_path: Path
) -> None:
    with serve(start) as (account, branches):
        server = account.server
        pipeline = write_pipeline(tmp_path, account, target_account)
        process = pipeline.start("run", "FILE")
        follow(process, "state=streaming")
        branches.prepare("1", "INSERT INTO a VALUES (1, 'x')")
        branches.prepare("2", "INSERT INTO a VALUES (2, 'x')")
        run(account, "INSERT INTO a VALUES (3, 'x')")
        server.kill()
        server.restart()
        branches.commit("1")
        end(process, 9)
        branches.rollback("2")
        run(account, "INSERT INTO a VALUES (4, 'x')")
        pipeline.must("run", "FILE", "--until-current")
        assert_equal(server, account.database, target_account.server, target_account.database)
        assert target_account.query("SELECT GROUP_CONCAT(id ORDER BY id) FROM a") == [("1,3,4",)]


@pytest.mark.parametrize("start", [start_mysql, start_mariadb], ids=["mysql", "mariadb"])
def test_no_table_changes_between_the_two_halves(
    start: Start, target_account: Account, tmp_path: Path
) -> None:
    """Both servers keep the table's lock with the branch, through their own death too: an ALTER comes after the rows."""
    with serve(start) as (account, branches):
        server = account.server
        pipeline = write_pipeline(tmp_path, account, target_account)
        pipeline.must("load", "FILE")
        branches.prepare("1", "INSERT INTO a VALUES (1, 'x')")
        impatient = "SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1"
        for _ in range(2):
            for change in ("ALTER TABLE a ADD COLUMN w INT", "TRUNCATE TABLE a"):
                with pytest.raises(pymysql.err.OperationalError, match="1205"):
                    server.execute([impatient, change], database=account.database)
            server.kill()
            server.restart()
        alter = "ALTER TABLE a ADD COLUMN w INT"
        waiting = threading.Thread(
            target=server.execute, args=(alter,), kwargs={"database": account.database}
        )
        waiting.start()
        wait_until(
            lambda: server.execute(f"SELECT 1 FROM information_schema.processlist WHERE info = '{alter}'")
        )
        branches.commit("1")
        waiting.join()
        run(account, "INSERT INTO a VALUES (2, 'x', 5)")
        pipeline.must("run", "FILE", "--until-current", exit_code=6)
        assert target_account.query("SELECT * FROM a") == [(1, "x")]
        assert [table["state"] for table in pipeline.status()["tables"]] == ["paused"]


def test_a_commit_whose_prepare_the_checkpoint_forgot_ends_a_run_by_name(
    source_account: Account, target_account: Account, branches: Branches, tmp_path: Path
) -> None:
    """Somebody moved the stored place of reading by hand: the rows of the branch would be missing without a word."""
    run(source_account, f"CREATE TABLE a {TABLE}")
    pipeline = write_pipeline(tmp_path, source_account, target_account)
    pipeline.must("load", "FILE")
    branches.prepare("old", "INSERT INTO a VALUES (1, 'x')")
    run(source_account, "INSERT INTO a VALUES (2, 'x')")
    pipeline.must("run", "FILE", "--until-current")
    before = pipeline.status()
    assert before["read_from"] != before["position"]
    target_account.server.execute(
        f"UPDATE {target_account.database}._replicator_checkpoint SET read_from = position"
    )
    branches.commit("old")
    run(source_account, "INSERT INTO a VALUES (3, 'x')")
    for _ in range(2):
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 4, done.stdout + done.stderr
        said = " ".join(done.stderr.split())
        assert f"XA COMMIT X'{source_account.database.encode().hex()}',X'{b'old'.hex()}',7 at " in said
        assert f"rows may be missing in {source_account.database}.a" in said
        assert "replicator drop" in said
        assert target_account.query("SELECT id FROM a") == [(2,)]  # nothing behind it is applied


def test_random_interleavings(reader: MysqlReader, source_account: Account, branches: Branches) -> None:
    """Prepares, decisions and plain transactions at random; a restart anywhere finds the same rows in the same order."""
    pick = random.Random(17)
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    expected: list[int] = []
    ids: dict[str, int] = {}
    for number in range(60):
        choice = pick.random()
        if choice < 0.4 and len(ids) < 5:
            name = next(n for n in "vwxyz" if n not in ids)
            branches.prepare(name, f"INSERT INTO a VALUES ({number}, 'x')")
            ids[name] = number
        elif choice < 0.8 and ids:
            name = pick.choice(sorted(ids))
            if pick.random() < 0.6:
                branches.commit(name)
                expected.append(ids[name])
            else:
                branches.rollback(name)
            del ids[name]
        else:
            run(source_account, f"INSERT INTO a VALUES ({number}, 'x')")
            expected.append(number)
    newest = reader.position()
    whole = read(reader, start, tables, newest)
    assert [c[3][0][0] for c in list_changes([item for item, _ in whole])] == expected
    for number in pick.sample(range(len(whole)), 12):
        item, restart = whole[number]
        suffix = read(reader, reader.parse_position(restart), tables, newest, item.position)
        rest = [found for found, _ in suffix if not item.position.includes(found.position)]
        assert list_changes(rest) == list_changes([later for later, _ in whole[number + 1 :]])
