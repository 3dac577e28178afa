"""Statements that commit by themselves: noted before, marked after, and settled after a crash (SEMANTICS §4.5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.barrier import LOCK_SECONDS, Barrier
from replicator.checkpoint import Lease, acquire, lock_name
from replicator.config import Target
from replicator.errors import Fenced, TargetError
from replicator.servers import Server
from replicator.session import Session
from replicator.target import fingerprint
from tests.accounts import Account, make_target_account
from tests.targets import build_endpoint, wait_until

ADD = "ALTER TABLE t ADD COLUMN b INT"
EMPTY = "TRUNCATE TABLE `t`"


@pytest.fixture
def endpoint(target_account: Account) -> Target:
    target_account.query("CREATE TABLE t (id INT PRIMARY KEY)")
    return build_endpoint(target_account)


@pytest.fixture
def session(endpoint: Target) -> Iterator[Session]:
    with Session.connect(endpoint) as session:
        yield session


@pytest.fixture
def lease(session: Session) -> Lease:
    return acquire(session, "shop", "memory")


Open = Callable[..., Barrier]


@pytest.fixture
def open_barrier(endpoint: Target) -> Iterator[Open]:
    barriers: list[Barrier] = []

    def make(lease: Lease, **options: Any) -> Barrier:
        defaults: dict[str, Any] = {"fingerprint": fingerprint, "stop": threading.Event()}
        barriers.append(Barrier(endpoint, lease, **(defaults | options)))
        return barriers[-1]

    yield make
    for barrier in barriers:
        barrier.close()


def read_columns(account: Account) -> list[str]:
    return [str(row[0]) for row in account.query("SHOW COLUMNS FROM t")]


def read_notes(account: Account) -> list[tuple[Any, ...]]:
    return account.query("SELECT target, statement, position, state FROM _replicator_ddl ORDER BY id")


def note_pending(session: Session, before: str, expected: str | None, statement: str = ADD) -> None:
    """What a process leaves behind that died around its statement."""
    session.execute(
        "INSERT INTO _replicator_ddl (pipeline, target, position, statement, fingerprint_before, fingerprint_after, "
        "state, started_at) VALUES ('shop', 't', 'p1', %s, %s, %s, 'pending', NOW(6))",
        *(statement, before, expected),
    )
    session.commit()


def test_a_statement_is_noted_run_and_marked(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    open_barrier(lease).run("t", ADD, position="p7")
    assert read_columns(target_account) == ["id", "b"]
    assert read_notes(target_account) == [("t", ADD, "p7", "done")]


def test_the_note_is_committed_before_the_statement_runs(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """Another session that holds the table open makes the statement wait; the note is there already."""
    barrier = open_barrier(lease)
    with target_account.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("SELECT * FROM t")
        thread = threading.Thread(target=barrier.run, args=("t", ADD))
        thread.start()
        wait_until(lambda: read_notes(target_account) == [("t", ADD, "", "pending")])
        app.rollback()
        thread.join(30)
    assert read_columns(target_account) == ["id", "b"]
    assert read_notes(target_account)[0][3] == "done"


def test_a_newer_epoch_stops_the_statement(
    lease: Lease, open_barrier: Open, endpoint: Target, target_account: Account
) -> None:
    barrier = open_barrier(lease)
    with Session.connect(endpoint) as newcomer:
        acquire(newcomer, "shop", "memory")
    with pytest.raises(Fenced):
        barrier.run("t", ADD)
    assert read_columns(target_account) == ["id"]
    assert read_notes(target_account) == []


def test_a_refused_statement_is_marked_and_raised(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    barrier = open_barrier(lease)
    with pytest.raises(TargetError, match="1060"):
        barrier.run("t", "ALTER TABLE t ADD COLUMN id INT")
    assert read_notes(target_account)[0][3] == "failed"
    barrier.run("t", ADD)
    assert read_columns(target_account) == ["id", "b"]


def test_a_crash_before_the_statement_runs_it(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    note_pending(session, fingerprint(session, "t"), None)
    assert open_barrier(lease).recover() == []
    assert read_columns(target_account) == ["id", "b"]
    assert read_notes(target_account)[0][3] == "done"


def test_a_crash_before_a_table_with_children_is_dropped(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """A half-loaded table is made anew; others refer to it where this pipeline had loaded it once before."""
    target_account.query("INSERT INTO t VALUES (1)")
    target_account.query("CREATE TABLE child (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES t (id))")
    target_account.query("INSERT INTO child VALUES (1)")
    note_pending(session, fingerprint(session, "t"), "", "DROP TABLE `t`")
    assert open_barrier(lease).recover() == []
    assert target_account.query("SHOW TABLES LIKE 't'") == []


@pytest.mark.parametrize("is_expected", [True, False])
def test_a_crash_after_the_statement_marks_it(
    is_expected: bool, session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    before = fingerprint(session, "t")
    session.run(ADD.encode())
    note_pending(session, before, fingerprint(session, "t") if is_expected else None)
    assert open_barrier(lease).recover() == []
    assert read_columns(target_account) == ["id", "b"]
    assert read_notes(target_account)[0][3] == "done"


def test_an_older_process_cannot_bring_a_pending_statement_to_its_end(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    note_pending(session, fingerprint(session, "t"), None)
    acquire(session, "shop", "memory")
    with pytest.raises(Fenced):
        open_barrier(lease).recover()
    assert read_columns(target_account) == ["id"]


def test_a_table_that_is_neither_is_left_to_a_human(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    before = fingerprint(session, "t")
    session.run(b"ALTER TABLE t ADD COLUMN other INT")
    note_pending(session, before, "expected-hash")
    (unsettled,) = open_barrier(lease).recover()
    assert (unsettled.target, unsettled.before, unsettled.expected) == ("t", before, "expected-hash")
    assert unsettled.found == fingerprint(session, "t")
    assert all(text in str(unsettled) for text in (before, "expected-hash", unsettled.found, ADD))
    assert read_columns(target_account) == ["id", "other"]
    assert read_notes(target_account)[0][3] == "pending"
    with pytest.raises(TargetError, match="neither"):
        open_barrier(lease).run("t", ADD)


def test_an_older_process_between_its_check_and_its_statement_is_ended(
    session: Session, lease: Lease, open_barrier: Open, endpoint: Target, target_account: Account
) -> None:
    """It has checked its epoch and holds the lock: a newcomer ends its session, so the statement never comes."""
    with Session.connect(endpoint) as stalled:
        stalled.query("SELECT GET_LOCK(%s, 0)", lock_name(stalled, "shop"))
        newer = acquire(session, "shop", "memory")
        open_barrier(newer).recover()
        with pytest.raises(TargetError):
            stalled.run(ADD.encode())
    assert read_columns(target_account) == ["id"]


def test_a_pipeline_of_this_name_in_another_database_is_left_alone(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account, mysql_target: Server
) -> None:
    """GET_LOCK's names are the whole server's: its long index build is no older process of ours."""
    with make_target_account(mysql_target) as other, Session.connect(build_endpoint(other)) as busy:
        busy.query("SELECT GET_LOCK(%s, 0)", lock_name(busy, "shop"))
        open_barrier(lease).run("t", ADD)
        assert read_columns(target_account) == ["id", "b"]
        busy.ping()
        assert busy.query("SELECT IS_USED_LOCK(%s)", lock_name(busy, "shop"))[0][0] == busy.connection_id


def test_names_of_locks_fit_the_longest_pipeline_name(session: Session) -> None:
    longest = "p" * 40
    assert session.query("SELECT GET_LOCK(%s, 0)", lock_name(session, longest)) == [(1,)]


def test_a_session_that_was_silent_for_too_long_is_replaced(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    barrier = open_barrier(lease)
    barrier.run("t", ADD)
    ours = [row[0] for row in session.query("SHOW PROCESSLIST") if row[0] != session.connection_id]
    for connection_id in ours:
        session.kill(int(connection_id))
    barrier.run("t", "ALTER TABLE t ADD COLUMN c INT")
    assert read_columns(target_account) == ["id", "b", "c"]


def test_several_threads_take_turns(lease: Lease, open_barrier: Open, target_account: Account) -> None:
    barrier = open_barrier(lease)
    threads = [
        threading.Thread(target=barrier.run, args=("t", f"ALTER TABLE t ADD COLUMN c{number} INT"))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(read_columns(target_account)) == ["c0", "c1", "c2", "c3", "id"]
    assert [note[3] for note in read_notes(target_account)] == ["done"] * 4


def test_two_barriers_of_one_process_do_not_end_each_other(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """An index takes longer than the lock's patience while another thread wants its own statement run."""
    first, second = open_barrier(lease), open_barrier(lease)
    first.run("t", "ALTER TABLE t ADD COLUMN x INT")
    own = find_sessions(target_account)
    with target_account.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("SELECT * FROM t")
        threads = [
            threading.Thread(target=first.run, args=("t", ADD)),
            threading.Thread(target=second.run, args=("u", "CREATE TABLE u (id INT PRIMARY KEY)")),
        ]
        for thread in threads:
            thread.start()
        threads[1].join(2 * LOCK_SECONDS)
        assert threads[0].is_alive() or threads[1].is_alive()
        app.rollback()
        for thread in threads:
            thread.join(30)
    assert own <= find_sessions(target_account)
    assert [note[3] for note in read_notes(target_account)] == ["done"] * 3


def find_sessions(account: Account) -> set[int]:
    return {int(row[0]) for row in account.query("SHOW PROCESSLIST") if row[4] == "Sleep"}


def test_foreign_keys_to_parents_without_a_unique_key_can_be_made(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """Legal at sources (SEMANTICS §8); MySQL 8.4 and newer refuse them unless the session says otherwise."""
    barrier = open_barrier(lease)
    barrier.run("p", "CREATE TABLE p (id INT PRIMARY KEY, v INT, KEY (v))")
    barrier.run("t", "ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES p (v)")
    assert "FOREIGN KEY" in target_account.query("SHOW CREATE TABLE t")[0][1]


def test_a_repeated_statement_keeps_one_note(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    barrier = open_barrier(lease)
    for number in range(2):
        target_account.query("INSERT INTO t VALUES (1), (2)")
        assert barrier.repeat("t", EMPTY, position=f"p{number}")
        assert target_account.query("SELECT * FROM t") == []
        assert read_notes(target_account) == [("t", EMPTY, f"p{number}", "done")]


def test_a_table_that_is_referred_to_is_not_emptied(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    target_account.query("CREATE TABLE child (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES t (id))")
    target_account.query("INSERT INTO t VALUES (1)")
    assert not open_barrier(lease).repeat("t", EMPTY, position="p1")
    assert target_account.query("SELECT * FROM t") == [(1,)]
    assert read_notes(target_account) == [("t", EMPTY, "p1", "failed")]


def test_a_repeated_statement_does_not_wait_for_another_one_of_the_pipeline(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """An index of a table that loads takes hours; the stream goes on meanwhile."""
    first, second = open_barrier(lease), open_barrier(lease)
    with target_account.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("SELECT * FROM t")
        thread = threading.Thread(target=first.run, args=("t", ADD))
        thread.start()
        wait_until(lambda: read_notes(target_account) == [("t", ADD, "", "pending")])
        assert not second.repeat("t", EMPTY, position="p1")
        app.rollback()
        thread.join(30)


def test_a_repeated_statement_waits_for_a_lock_in_short_turns_and_says_so(
    lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """Whoever comes to the table while it waits stands behind it: not for longer than a turn."""
    said: list[str] = []
    barrier = open_barrier(lease, report=said.append)
    target_account.query("INSERT INTO t VALUES (1)")
    with target_account.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("SELECT * FROM t")
        thread = threading.Thread(target=barrier.repeat, args=("t", EMPTY), kwargs={"position": "p1"})
        begun = time.monotonic()
        thread.start()
        wait_until(lambda: any("1205" in text for text in said))
        assert time.monotonic() - begun < 2 * LOCK_SECONDS + 1
        target_account.query("INSERT INTO t VALUES (2)")  # between two turns
        app.rollback()
        thread.join(30)
    assert target_account.query("SELECT * FROM t") == []


def test_recover_leaves_a_repeated_statement_to_the_stream(
    session: Session, lease: Lease, open_barrier: Open, target_account: Account
) -> None:
    """Whoever wrote to the table since, under a file that mirrors it no longer, keeps his rows."""
    session.execute(
        "INSERT INTO _replicator_ddl (pipeline, target, position, statement, fingerprint_before, state, started_at) "
        "VALUES ('shop', 't', 'p1', %s, 'repeated', 'pending', NOW(6))",
        EMPTY,
    )
    session.commit()
    target_account.query("INSERT INTO t VALUES (1)")
    assert open_barrier(lease).recover() == []
    assert target_account.query("SELECT * FROM t") == [(1,)]
    assert read_notes(target_account) == []
