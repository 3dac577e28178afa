"""Control tables, epochs and table states at a real target (I3, I8)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from replicator.checkpoint import (
    CONTROL_TABLES,
    acquire,
    acquire_worker,
    build_chunk_head,
    build_head,
    forget,
    list_pipelines,
    run_fenced,
    settle,
)
from replicator.config import Target
from replicator.errors import CheckpointMismatch, CheckRefused, Fenced, TargetError
from replicator.model import Checkpoint, Torn
from replicator.session import Session
from replicator.tablestate import (
    Counts,
    Found,
    State,
    build_table_update,
    insert_pending,
    read_status,
    read_tables,
    set_table,
)
from replicator.testing import MemoryPosition, build_table
from tests.accounts import Account
from tests.targets import build_endpoint, wait_until

TABLE = build_table("orders")
OTHER = build_table("customers")
TORN = Torn(3, frozenset({TABLE.source, OTHER.source}))
AT_FIVE = Checkpoint(MemoryPosition(5), MemoryPosition(4), TORN)


@pytest.fixture
def endpoint(target_account: Account) -> Target:
    return build_endpoint(target_account)


@pytest.fixture
def session(endpoint: Target) -> Iterator[Session]:
    with Session.connect(endpoint) as session:
        yield session


@pytest.fixture
def other(endpoint: Target) -> Iterator[Session]:
    with Session.connect(endpoint) as session:
        yield session


def test_the_first_start_makes_the_tables_each_with_a_primary_key(
    session: Session, target_account: Account
) -> None:
    assert read_status(session, "shop") is None
    acquire(session, "shop", "mysql:1")
    rows = target_account.query(
        "SELECT TABLE_NAME FROM information_schema.TABLE_CONSTRAINTS "
        "WHERE TABLE_SCHEMA = DATABASE() AND CONSTRAINT_TYPE = 'PRIMARY KEY'"
    )
    assert {row[0] for row in rows} == set(CONTROL_TABLES)


def test_control_tables_of_another_version_are_refused(session: Session) -> None:
    session.run(b"CREATE TABLE _replicator_status (pipeline VARCHAR(64) PRIMARY KEY)")
    with pytest.raises(TargetError, match=r"_replicator_status\.consistent"):
        acquire(session, "shop", "mysql:1")


def test_a_first_lease_knows_nothing_and_a_second_knows_what_was_stored(
    session: Session, other: Session
) -> None:
    first = acquire(session, "shop", "mysql:1")
    assert (first.position, first.read_from, first.torn, first.seq) == (None, None, None, 0)
    assert len(first.short_id) == 8
    session.run(build_head(first, AT_FIVE).sql + b";COMMIT")
    second = acquire(other, "shop", "mysql:2")
    assert (second.position, second.read_from, second.torn, second.seq) == ("memory:5", "memory:4", TORN, 1)
    assert second.identity == "mysql:1"  # the pipeline compares it with the source at hand
    assert second.short_id == first.short_id
    assert second.epoch > first.epoch
    row = other.query("SELECT host, pid, connection_id FROM _replicator_checkpoint")[0]
    assert row == (socket.gethostname(), os.getpid(), other.connection_id)


def test_pipelines_side_by_side_do_not_disturb_each_other(session: Session, other: Session) -> None:
    shop, depot = acquire(session, "shop", "a"), acquire(other, "Shop", "b")
    session.run(build_head(shop, AT_FIVE).sql + b";COMMIT")
    other.run(build_head(depot, AT_FIVE).sql + b";COMMIT")
    assert shop.short_id != depot.short_id
    assert list(list_pipelines(session)) == ["Shop", "shop"]


def test_two_first_starts_at_once_both_end_with_a_lease(endpoint: Target) -> None:
    leases = []
    barrier = threading.Barrier(4)

    def start() -> None:
        with Session.connect(endpoint) as session:
            barrier.wait()
            leases.append(acquire(session, "shop", "a"))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({lease.epoch for lease in leases}) == 4
    assert len({lease.short_id for lease in leases}) == 1


def test_the_newcomer_wins_and_the_older_one_is_told_by_whom(session: Session, other: Session) -> None:
    old = acquire(session, "shop", "a")
    acquire(other, "shop", "a")
    with pytest.raises(CheckRefused):
        session.run(build_head(old, AT_FIVE).sql + b";COMMIT")
    with pytest.raises(Fenced) as caught:
        settle(session, old)
    assert f"process {os.getpid()} on {socket.gethostname()}, started 20" in caught.value.message
    assert caught.value.exit_code == 5


def test_a_dead_session_that_holds_the_row_is_killed(
    session: Session, other: Session, target_account: Account
) -> None:
    """SEMANTICS §4.4: its machine is gone, the server believes in it, and nobody waits for wait_timeout."""
    old = acquire(session, "shop", "a")
    session.run(build_head(old, AT_FIVE).sql)  # locked, and no COMMIT ever comes
    lease = acquire(other, "shop", "a")
    assert lease.seq == 0
    assert session.connection_id not in {row[0] for row in target_account.query("SHOW PROCESSLIST")}


def test_a_dead_load_worker_that_holds_its_row_is_killed(
    endpoint: Target, session: Session, other: Session
) -> None:
    lease = acquire(session, "shop", "a")
    with Session.connect(endpoint) as dead:
        worker = acquire_worker(dead, lease, 1)
        dead.run(build_chunk_head(worker, TABLE.source, "1").sql)
        assert acquire(other, "shop", "a").epoch > lease.epoch
        with pytest.raises(TargetError):
            dead.query("SELECT 1")


def test_an_older_process_leaves_the_batch_of_a_newer_one_alone(session: Session, other: Session) -> None:
    """It lost its connection and asks what became of its batch; the newcomer's holds the row for longer than a moment."""
    older = acquire(session, "shop", "a")
    newer = acquire(other, "shop", "a")
    other.run(build_head(newer, AT_FIVE).sql)
    with pytest.raises(Fenced, match=f"epoch {newer.epoch}"):
        settle(session, older)
    other.commit()


def test_a_session_of_nobody_we_know_is_never_killed(
    session: Session, other: Session, target_account: Account
) -> None:
    """A row held by a stranger (a human, say) is waited for."""
    acquire(session, "shop", "a")
    with target_account.connect(autocommit=False) as human, human.cursor() as cursor:
        cursor.execute("SELECT * FROM _replicator_checkpoint FOR UPDATE")
        leases = []
        thread = threading.Thread(target=lambda: leases.append(acquire(other, "shop", "a")))
        thread.start()
        wait_until(lambda: target_account.server.execute("SELECT 1 FROM performance_schema.data_lock_waits"))
        human.rollback()
        thread.join(30)
    assert len(leases) == 1


def test_an_unknown_outcome_is_settled_both_ways(session: Session) -> None:
    lease = acquire(session, "shop", "a")
    assert settle(session, lease) is False
    session.run(build_head(lease, AT_FIVE).sql + b";COMMIT")
    assert settle(session, lease) is True
    assert lease.seq == 1
    assert settle(session, lease) is False


def test_settling_waits_for_a_commit_in_flight(session: Session, other: Session) -> None:
    """A plain read would say 0 while the COMMIT is on its way, and the batch would be applied twice (§4.2)."""
    lease = acquire(session, "shop", "a")
    session.run(build_head(lease, AT_FIVE).sql)
    settled: list[bool] = []
    thread = threading.Thread(target=lambda: settled.append(settle(other, lease)))
    thread.start()
    wait_until(lambda: other_is_waiting(session))
    assert settled == []
    session.run(b"COMMIT")
    thread.join(30)
    assert settled == [True]


def other_is_waiting(session: Session) -> bool:
    rows = session.query("SHOW PROCESSLIST")
    return any("SELECT worker" in str(row[7]) for row in rows)


def test_a_checkpoint_from_elsewhere_is_refused(session: Session) -> None:
    lease = acquire(session, "shop", "a")
    session.run(b"UPDATE _replicator_checkpoint SET seq=17;COMMIT")
    with pytest.raises(CheckpointMismatch, match="seq 17, we at 0"):
        settle(session, lease)


def test_a_worker_commits_chunks_under_its_own_row(
    endpoint: Target, session: Session, other: Session
) -> None:
    lease = acquire(session, "shop", "a")
    insert_pending(session, lease, [TABLE])
    worker = acquire_worker(other, lease, 2)
    assert (worker.worker, worker.epoch, worker.seq, worker.chunk) == (2, lease.epoch, 0, None)
    loaded = build_table_update("shop", TABLE.source, rows_loaded=10)
    other.run(build_chunk_head(worker, TABLE.source, "7 of 9", [loaded]).sql + b";COMMIT")
    with pytest.raises(CheckRefused):  # the same chunk, delivered again
        other.run(build_chunk_head(worker, TABLE.source, "7 of 9", [loaded]).sql + b";COMMIT")
    other.rollback()
    assert read_tables(session, "shop")[0].rows_loaded == 10
    with Session.connect(endpoint) as later:
        again = acquire_worker(later, lease, 2)
        assert (again.seq, again.table, again.chunk) == (1, "app.orders", "7 of 9")
        newer = acquire(session, "shop", "a")
        with pytest.raises(CheckRefused):
            later.run(build_chunk_head(again, TABLE.source, "8 of 9").sql + b";COMMIT")
        with pytest.raises(Fenced):
            acquire_worker(later, lease, 3)
        assert acquire_worker(later, newer, 2).seq == 1


def test_the_stream_does_not_wait_for_a_worker(session: Session, other: Session) -> None:
    lease = acquire(session, "shop", "a")
    worker = acquire_worker(other, lease, 1)
    other.run(build_chunk_head(worker, TABLE.source, "1").sql)
    session.run(b"SET SESSION innodb_lock_wait_timeout=1")
    session.run(build_head(lease, AT_FIVE).sql + b";COMMIT")


def test_table_states_are_kept_and_fenced(session: Session, other: Session) -> None:
    lease = acquire(session, "shop", "a")
    insert_pending(session, lease, [TABLE, OTHER])
    set_table(
        session,
        lease,
        TABLE.source,
        state=State.LOADING,
        found=Found.ROWS,
        rows_at_start=12,
        error="it's \\ 'x'",
    )
    insert_pending(session, lease, [TABLE])  # known tables keep their row
    customers, orders = read_tables(session, "shop")
    assert (customers.source, customers.state, customers.found) == (
        OTHER.source,
        State.PENDING,
        Found.UNKNOWN,
    )
    assert (orders.state, orders.found, orders.rows_at_start, orders.error) == (
        *(State.LOADING, Found.ROWS, 12),
        "it's \\ 'x'",
    )
    assert not orders.found.is_ours_alone
    assert orders.schema is not None
    assert orders.schema.columns == TABLE.columns
    set_table(session, lease, TABLE.source, reset=True, counts=Counts(1, 2, 3), error=None)
    assert read_tables(session, "shop")[1].applied == Counts(1, 2, 3)
    acquire(other, "shop", "a")
    with pytest.raises(Fenced):
        set_table(session, lease, TABLE.source, state=State.ERROR)
    with pytest.raises(Fenced):
        insert_pending(session, lease, [build_table("third")])
    assert [state.state for state in read_tables(session, "shop")] == [State.PENDING, State.LOADING]


def test_a_state_of_an_unknown_table_is_refused(session: Session) -> None:
    lease = acquire(session, "shop", "a")
    with pytest.raises(CheckRefused):
        set_table(session, lease, TABLE.source, state=State.ERROR)


def test_a_fenced_write_waits_for_a_long_batch(session: Session, other: Session) -> None:
    lease = acquire(session, "shop", "a")
    insert_pending(session, lease, [TABLE])
    other.run(b"SET SESSION innodb_lock_wait_timeout=1")
    session.run(build_head(lease, AT_FIVE).sql)
    thread = threading.Thread(
        target=run_fenced, args=(other, lease, build_table_update("shop", TABLE.source, state=State.PAUSED))
    )
    thread.start()
    wait_until(
        lambda: (
            "UPDATE"
            in str([row[7] for row in session.query("SHOW PROCESSLIST") if row[0] == other.connection_id])
        )
    )
    session.run(b"COMMIT")
    thread.join(30)
    assert not thread.is_alive()
    assert read_tables(session, "shop")[0].state is State.PAUSED


def test_status_tells_a_running_pipeline_from_a_dead_one(session: Session, endpoint: Target) -> None:
    with Session.connect(endpoint) as writer:
        lease = acquire(writer, "shop", "mysql:1")
        insert_pending(writer, lease, [TABLE])
        status = read_status(session, "shop")
        assert status is not None
        assert status.is_running
        assert (status.identity, status.pid, len(status.tables)) == ("mysql:1", os.getpid(), 1)
    wait_until(lambda: not read_running(session))


def read_running(session: Session) -> bool:
    status = read_status(session, "shop")
    assert status is not None
    return status.is_running


def test_forgetting_keeps_what_a_later_load_must_know(session: Session, other: Session) -> None:
    lease = acquire(session, "shop", "a")
    insert_pending(session, lease, [TABLE])
    set_table(session, lease, TABLE.source, found=Found.MISSING)
    forget(other, "shop")
    assert read_status(session, "shop") is None
    assert [state.found for state in read_tables(session, "shop")] == [Found.MISSING]
    with pytest.raises(Fenced, match="`drop` was run"):
        set_table(session, lease, TABLE.source, state=State.ERROR)
    fresh = acquire(other, "shop", "a")
    assert fresh.epoch > lease.epoch  # or the old process could write again
    with pytest.raises(CheckRefused):
        session.run(build_head(lease, AT_FIVE).sql)
