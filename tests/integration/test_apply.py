"""Batches at a real target: applied once, whole or not at all, whatever becomes of the connection (I2, I3, I8)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.apply import Applier, Prepared, count_changes
from replicator.checkpoint import acquire, build_head
from replicator.errors import (
    CheckRefused,
    DataError,
    Fenced,
    SourceError,
    TargetError,
    TargetUnavailable,
)
from replicator.model import Batch, Changes, Checkpoint, Op, TableName
from replicator.plan import PlanSettings, build_plan
from replicator.session import Session
from replicator.sql import CHECK_COUNT, CHECK_LOAD, Limits, Packet, Statement, build_packets
from replicator.tablestate import Counts, State, StatusLine, insert_pending, read_status, read_tables
from replicator.testing import MemoryPosition, build_table
from tests.accounts import Account
from tests.targets import Line, build_endpoint, wait_until

PIPELINE = "shop"
TABLE = build_table("t")
ONE_MORE = b"UPDATE t SET n=n+1 WHERE id=1"


@pytest.fixture(autouse=True)
def table(target_account: Account) -> None:
    target_account.query(
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(5), n INT NOT NULL DEFAULT 0, UNIQUE (v))"
    )
    target_account.query("INSERT INTO t (id, v) VALUES (1, 'one'), (2, 'two')")


Start = Callable[..., Applier]


@pytest.fixture
def start(target_account: Account) -> Iterator[Start]:
    """Starts an applier that takes the pipeline over, through another port when one is given."""
    appliers: list[Applier] = []

    def start_applier(port: int = 0, **options: Any) -> Applier:
        session = Session.connect(build_endpoint(target_account, port=port), loads=True)
        lease = acquire(session, PIPELINE, "memory")
        insert_pending(session, lease, [TABLE])
        session.set_foreign_key_checks(False)  # as after the first batch: the next one is one packet
        defaults: dict[str, Any] = {
            "status": lambda: StatusLine("streaming", 0.5, True),
            "stop": threading.Event(),
        }
        appliers.append(Applier(session, lease, **(defaults | options)))
        return appliers[-1]

    yield start_applier
    for applier in appliers:
        applier.close()


def build_statement(
    sql: bytes, op: Op = Op.UPDATE, rows: int = 1, expect: int | None = 1
) -> tuple[Statement, bytes | None]:
    return Statement(sql, TABLE, op, rows, expect), None if expect is None else CHECK_COUNT % expect


def build_packet(*statements: tuple[Statement, bytes | None], body: list[bytes] | None = None) -> Packet:
    parts: list[bytes] = []
    results: list[Statement | None] = []
    for statement, check in statements:
        parts.append(statement.sql)
        results.append(statement)
        if check is not None:
            parts.append(check)
            results.append(None)
    return Packet(b";".join(parts), tuple(results), body)


def build_batch(number: int) -> Batch:
    return Batch(Checkpoint(MemoryPosition(number), MemoryPosition(number)), [], 1, 1, 100)


def prepare(number: int, *packets: Packet, replan: Callable[[], Prepared] | None = None) -> Prepared:
    counts = {TABLE.source: Counts(0, 1, 0)}
    return Prepared(build_batch(number), packets, counts, replan)


def prepare_one_more(number: int = 1) -> Prepared:
    """A batch that shows how often it was applied."""
    return prepare(number, build_packet(build_statement(ONE_MORE)))


def read_counter(account: Account) -> int:
    return int(account.query("SELECT n FROM t WHERE id=1")[0][0])


def read_stored(account: Account) -> tuple[Any, ...]:
    return account.query("SELECT position, seq FROM _replicator_checkpoint WHERE worker=0")[0]


# --- one batch --------------------------------------------------------------------------------------------------------


def test_rows_position_counts_and_status_are_one_commit(start: Start, target_account: Account) -> None:
    applier = start()
    applied = applier.apply(prepare_one_more(7))
    assert applied.counts == {TABLE.source: Counts(0, 1, 0)}
    assert applied.conflicts == {}
    assert read_counter(target_account) == 1
    assert read_stored(target_account) == ("memory:7", 1)
    assert applier.lease.seq == 1
    with Session.connect(build_endpoint(target_account)) as session:
        status = read_status(session, PIPELINE)
    assert status is not None
    assert (status.state, status.lag_seconds, status.is_consistent, status.is_running) == (
        "streaming",
        0.5,
        True,
        True,
    )
    assert status.tables[0].applied == Counts(0, 1, 0)
    assert status.position == "memory:7"


def test_a_batch_of_one_packet_is_one_round_trip(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    applier = start()
    sent: list[bytes] = []
    run = Session.run

    def record(session: Session, packet: bytes, body: Any = None) -> Any:
        sent.append(packet)
        return run(session, packet, body)

    monkeypatch.setattr(Session, "run", record)
    applier.apply(prepare_one_more())
    assert len(sent) == 1
    assert sent[0].startswith(b"ROLLBACK;UPDATE _replicator_checkpoint")
    assert sent[0].endswith(b";COMMIT")


def test_foreign_keys_are_checked_only_when_asked_for_and_after_a_reconnect_too(
    start: Start, target_account: Account
) -> None:
    target_account.query("CREATE TABLE c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES t (id))")
    orphan = build_statement(b"INSERT INTO c VALUES (70)", Op.INSERT, 1, None)
    applier = start()
    applier.apply(prepare(1, build_packet(orphan)))
    target_account.query("DELETE FROM c")
    applier.committer.foreign_key_checks = True
    with pytest.raises(DataError, match="foreign key"):
        applier.apply(prepare(2, build_packet(orphan)))
    applier.session.abort()
    with pytest.raises(DataError, match="foreign key"):
        applier.apply(prepare(2, build_packet(orphan)))
    assert target_account.query("SELECT COUNT(*) FROM c") == [(0,)]


def test_only_the_last_of_several_packets_commits(start: Start, target_account: Account) -> None:
    applier = start()
    seen: list[int] = []

    class Packets:
        def __iter__(self) -> Iterator[Packet]:
            for _ in range(3):
                yield build_packet(build_statement(ONE_MORE))
                seen.append(read_counter(target_account))

    applier.apply(Prepared(build_batch(1), Packets(), {}))
    assert seen == [0, 0, 0]
    assert read_counter(target_account) == 3
    assert read_stored(target_account) == ("memory:1", 1)


def test_a_plan_that_fails_between_two_packets_leaves_nothing(start: Start, target_account: Account) -> None:
    applier = start()

    class Packets:
        def __iter__(self) -> Iterator[Packet]:
            yield build_packet(build_statement(ONE_MORE))
            yield build_packet(build_statement(ONE_MORE))
            raise SourceError("the spill file is gone")

    with pytest.raises(SourceError):
        applier.apply(Prepared(build_batch(1), Packets(), {}))
    assert target_account.query("SELECT n FROM t WHERE id=1 FOR UPDATE NOWAIT") == [(0,)]
    applier.apply(prepare_one_more())
    assert read_counter(target_account) == 1


@pytest.mark.usefixtures("takes_files")
def test_a_load_body_is_part_of_the_batch(start: Start, target_account: Account) -> None:
    statement = Statement(b"LOAD DATA LOCAL INFILE 'rows' INTO TABLE t (id, v)", TABLE, Op.INSERT, 2, 2, True)
    load = build_packet((statement, CHECK_LOAD % 2), body=[b"8\te\n", b"9\tn\n"])
    start().apply(prepare(1, load, build_packet(build_statement(ONE_MORE))))
    assert [row[0] for row in target_account.query("SELECT id FROM t ORDER BY id")] == [1, 2, 8, 9]
    assert read_counter(target_account) == 1


def test_counts_come_from_the_changes() -> None:
    changes = [
        Changes(TABLE, Op.INSERT, (), [(1, b"a"), (2, b"b")]),
        Changes(TABLE, Op.UPDATE, [(1, b"a")], [(1, b"c")]),
        Changes(TABLE, Op.DELETE, [(2, b"b")], ()),
        Changes(TABLE, Op.TRUNCATE, (), ()),
    ]
    assert count_changes(changes) == {TABLE.source: Counts(2, 1, 1)}


# --- lost connections -------------------------------------------------------------------------------------------------


def test_a_commit_whose_answer_was_lost_is_not_sent_again(start: Start, target_account: Account) -> None:
    """SEMANTICS §4.2: the outcome is read with a locking read before anything else."""
    with Line(target_account.server.port) as line:
        applier = start(line.port)
        line.to_client.clear()
        thread = threading.Thread(target=applier.apply, args=(prepare_one_more(),))
        thread.start()
        wait_until(lambda: read_counter(target_account) == 1)
        line.cut()
        line.to_client.set()
        thread.join(30)
        assert not thread.is_alive()
        assert read_counter(target_account) == 1
        assert read_stored(target_account) == ("memory:1", 1)
        applier.apply(prepare_one_more(2))
        assert read_counter(target_account) == 2


def test_a_packet_that_never_arrived_is_sent_again(start: Start, target_account: Account) -> None:
    with Line(target_account.server.port) as line:
        applier = start(line.port)
        line.to_server.clear()
        thread = threading.Thread(target=applier.apply, args=(prepare_one_more(),))
        thread.start()
        wait_until(lambda: len(line.held) > 0)
        line.to_server.set()
        line.cut()
        thread.join(30)
        assert not thread.is_alive()
        assert read_counter(target_account) == 1


def test_a_packet_that_arrives_late_changes_nothing(start: Start, target_account: Account) -> None:
    """The network kept a whole batch, the program resent it, then the network delivers the first one after all."""
    with Line(target_account.server.port) as line:
        applier = start(line.port)
        old = applier.session.connection_id
        line.to_server.clear()
        thread = threading.Thread(target=applier.apply, args=(prepare_one_more(),))
        thread.start()
        wait_until(lambda: len(line.held) > 500)
        line.to_server.set()
        line.cut()
        thread.join(30)
        assert read_counter(target_account) == 1
        line.deliver()
        wait_until(lambda: is_idle_after_work(target_account, old))
        assert read_counter(target_account) == 1
        assert read_stored(target_account) == ("memory:1", 1)


def is_idle_after_work(account: Account, connection_id: int) -> bool:
    """Whether the session has run what was delivered to it: its statement counter moved and it sleeps, or it is gone."""
    rows = account.server.execute(
        "SELECT p.COMMAND, s.VARIABLE_VALUE FROM performance_schema.threads t "
        "JOIN information_schema.processlist p ON p.ID = t.PROCESSLIST_ID "
        "JOIN performance_schema.status_by_thread s ON s.THREAD_ID = t.THREAD_ID "
        f"WHERE t.PROCESSLIST_ID = {connection_id} AND s.VARIABLE_NAME = 'Com_rollback'"
    )
    return not rows or (rows[0][0] == "Sleep" and int(rows[0][1]) >= 1)


def test_a_batch_sent_late_by_a_dead_process_changes_nothing(start: Start, target_account: Account) -> None:
    """As above, but a successor applied it: the epoch, not only the seq, refuses the old packet (I8)."""
    with Line(target_account.server.port) as line:
        dead = start(line.port, stop=set_event())
        old = dead.session.connection_id
        line.to_server.clear()
        thread = threading.Thread(target=run_and_ignore, args=(lambda: dead.apply(prepare_one_more()),))
        thread.start()
        wait_until(lambda: len(line.held) > 500)
        line.refuse()
        line.cut()
        thread.join(30)
        successor = start()
        successor.apply(prepare_one_more())
        line.deliver()
        wait_until(lambda: is_idle_after_work(target_account, old))
        assert read_counter(target_account) == 1


def set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def run_and_ignore(action: Callable[[], object]) -> None:
    try:
        action()
    except TargetError:
        pass


def test_a_half_open_session_that_holds_our_row_is_killed(start: Start, target_account: Account) -> None:
    """The tunnel dies between two packets; the server's side stays open, with the checkpoint row locked (§4.4)."""
    with Line(target_account.server.port) as line:
        applier = start(line.port)
        old = applier.session.connection_id
        attempts: list[int] = []

        class Packets:
            def __iter__(self) -> Iterator[Packet]:
                attempts.append(applier.session.connection_id)
                yield build_packet(build_statement(ONE_MORE))
                yield build_packet(build_statement(ONE_MORE))
                if len(attempts) == 1:
                    line.cut()
                yield build_packet(build_statement(ONE_MORE))

        applier.apply(Prepared(build_batch(1), Packets(), {}))
        assert len(attempts) == 2
        assert attempts[0] == old
        assert read_counter(target_account) == 3
        assert old not in {row[0] for row in target_account.query("SHOW PROCESSLIST")}


def test_an_outage_is_reported_and_waited_for(start: Start, target_account: Account) -> None:
    server = target_account.server
    applier = start()
    server.execute("SET GLOBAL super_read_only = 1")
    thread = threading.Thread(target=applier.apply, args=(prepare_one_more(),))
    try:
        thread.start()
        wait_until(lambda: "read-only" in applier.waiting_for)
    finally:
        server.execute("SET GLOBAL super_read_only = 0")
        server.execute("SET GLOBAL read_only = 0")
    thread.join(30)
    assert not thread.is_alive()
    assert applier.waiting_for == ""
    assert read_counter(target_account) == 1


def test_an_outage_is_raised_when_told_to_stop(start: Start, target_account: Account) -> None:
    stop = threading.Event()
    with Line(target_account.server.port) as line:
        applier = start(line.port, stop=stop)
        line.refuse()
        line.cut()
        stop.set()
        with pytest.raises(TargetUnavailable):
            applier.apply(prepare_one_more())
    assert read_counter(target_account) == 0


# --- two writers ------------------------------------------------------------------------------------------------------


def test_a_zombie_of_an_older_epoch_cannot_write(start: Start, target_account: Account) -> None:
    zombie, newcomer = start(), start()
    newcomer.apply(prepare_one_more())
    with pytest.raises(Fenced, match="taken over by process"):
        zombie.apply(prepare_one_more())
    assert read_counter(target_account) == 1
    with pytest.raises(Fenced):
        zombie.keepalive(None, now=True)
    with pytest.raises(Fenced):
        zombie.set_table(TABLE.source, state=State.PAUSED)
    assert target_account.query("SELECT state FROM _replicator_tables") == [("pending",)]
    newcomer.apply(prepare_one_more(2))
    assert read_counter(target_account) == 2


def test_a_zombie_in_the_middle_of_a_batch_cannot_commit_it(start: Start, target_account: Account) -> None:
    zombie = start()
    newcomers: list[Applier] = []

    class Packets:
        def __iter__(self) -> Iterator[Packet]:
            yield build_packet(build_statement(ONE_MORE))
            yield build_packet(build_statement(ONE_MORE))
            if not newcomers:
                newcomers.append(start())
                newcomers[0].apply(prepare_one_more(5))
            yield build_packet(build_statement(ONE_MORE))

    with pytest.raises(Fenced):
        zombie.apply(Prepared(build_batch(1), Packets(), {}))
    assert read_counter(target_account) == 1
    assert read_stored(target_account) == ("memory:5", 1)


def test_a_checkpoint_that_was_dropped_stops_the_old_process(start: Start, target_account: Account) -> None:
    applier = start()
    target_account.query("DELETE FROM _replicator_checkpoint")
    target_account.query("COMMIT")
    with pytest.raises(Fenced, match="gone"):
        applier.apply(prepare_one_more())
    assert read_counter(target_account) == 0


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_deadlock_is_retried_and_counts_once(start: Start, target_account: Account) -> None:
    """The app's transaction is the heavier one, so that ours is the victim; both then go through."""
    applier = start()
    values = ",".join(f"({number}, 'v{number}')" for number in range(100, 300))
    target_account.query(f"INSERT INTO t (id, v) VALUES {values}")
    batch = prepare(
        1, build_packet(build_statement(ONE_MORE), build_statement(b"UPDATE t SET n=n+1 WHERE id=2"))
    )
    with target_account.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("UPDATE t SET n=n+10 WHERE id >= 100")
        cursor.execute("UPDATE t SET n=n+10 WHERE id=2")
        thread = threading.Thread(target=applier.apply, args=(batch,))
        thread.start()
        wait_until(lambda: is_waiting_for_lock(target_account))
        before = count_deadlocks(target_account)
        cursor.execute("UPDATE t SET n=n+10 WHERE id=1")
        app.commit()
        thread.join(30)
        assert not thread.is_alive()
        assert count_deadlocks(target_account) == before + 1
    assert target_account.query("SELECT id, n FROM t WHERE id < 3 ORDER BY id") == [(1, 11), (2, 11)]
    assert read_stored(target_account) == ("memory:1", 1)


def is_waiting_for_lock(account: Account) -> bool:
    rows = account.server.execute("SELECT COUNT(*) FROM performance_schema.data_lock_waits")
    return bool(rows[0][0])


def count_deadlocks(account: Account) -> int:
    rows = account.server.execute(
        "SELECT COUNT FROM information_schema.INNODB_METRICS WHERE NAME='lock_deadlocks'"
    )
    return int(rows[0][0])


def test_a_row_that_the_app_holds_for_long_is_waited_for(start: Start, target_account: Account) -> None:
    applier = start()
    applier.session.run(b"SET SESSION innodb_lock_wait_timeout=1")
    with target_account.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("SELECT * FROM t WHERE id=1 FOR UPDATE")
        thread = threading.Thread(target=applier.apply, args=(prepare_one_more(),))
        thread.start()
        wait_until(lambda: "Lock wait timeout" in applier.waiting_for)
        app.commit()
        thread.join(30)
        assert not thread.is_alive()
    assert read_counter(target_account) == 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_failed_check_is_planned_again_carefully(start: Start, target_account: Account) -> None:
    applier = start()
    missing = b"UPDATE t SET n=n+1 WHERE id=77"
    careful = prepare(
        3,
        build_packet(
            build_statement(ONE_MORE),
            build_statement(b"DELETE FROM t WHERE id IN (2,5,6)", Op.DELETE, 3, None),
        ),
    )
    fast = prepare(
        3, build_packet(build_statement(ONE_MORE), build_statement(missing)), replan=lambda: careful
    )
    applied = applier.apply(fast)
    assert applied.conflicts == {"delete_missing": 2}
    assert read_counter(target_account) == 1
    assert read_stored(target_account) == ("memory:3", 1)
    applier.keepalive(None, now=True)
    assert target_account.query("SELECT delete_missing FROM _replicator_status") == [(2,)]
    applier.keepalive(None, now=True)
    assert target_account.query("SELECT delete_missing FROM _replicator_status") == [(2,)]


def test_a_taken_key_is_merged_and_counted(start: Start, target_account: Account) -> None:
    insert = build_statement(b"INSERT INTO t (id, v) VALUES (1,'new'),(3,'three')", Op.INSERT, 2, None)
    overwrite, _ = build_statement(b"UPDATE t SET v='new' WHERE id=1", Op.UPDATE, 2, None)
    rest = build_statement(b"INSERT INTO t (id, v) VALUES (3,'three')", Op.INSERT, 0, None)
    counts = {TABLE.source: Counts(2, 0, 0)}
    careful = Prepared(
        build_batch(1), [build_packet((overwrite._replace(conflict="insert_exists"), None), rest)], counts
    )
    fast = Prepared(build_batch(1), [build_packet(insert)], counts, lambda: careful)
    assert start().apply(fast).conflicts == {"insert_exists": 1}
    assert target_account.query("SELECT id, v FROM t ORDER BY id") == [(1, "new"), (2, "two"), (3, "three")]


def test_a_unique_value_that_a_stranger_holds_stops_the_table(start: Start, target_account: Account) -> None:
    applier = start()
    taken = build_statement(b"INSERT INTO t (id, v) VALUES (9,'two')", Op.INSERT, 1, None)
    batch = prepare(1, build_packet(build_statement(ONE_MORE), taken))
    with pytest.raises(DataError, match="Duplicate entry") as caught:
        applier.apply(batch)
    assert caught.value.table == "t"
    assert caught.value.exit_code == 5
    assert "multiple_unique_conflicts" in caught.value.hint
    assert read_counter(target_account) == 0
    assert read_stored(target_account) == (None, 0)
    state = target_account.query("SELECT state, error FROM _replicator_tables")[0]
    assert state[0] == "error"
    assert "Duplicate entry 'two'" in state[1]


def test_a_value_that_does_not_fit_stops_the_table(start: Start, target_account: Account) -> None:
    bad = build_statement(b"UPDATE t SET v='much too long' WHERE id=2")
    with pytest.raises(DataError, match="t: Data too long for column 'v'"):
        start().apply(prepare(1, build_packet(build_statement(ONE_MORE), bad)))
    assert read_counter(target_account) == 0
    assert target_account.query("SELECT state FROM _replicator_tables") == [("error",)]


@pytest.mark.usefixtures("takes_files")
def test_a_load_with_a_warning_is_refused_whole(start: Start, target_account: Account) -> None:
    statement = Statement(b"LOAD DATA LOCAL INFILE 'rows' INTO TABLE t (id, v)", TABLE, Op.INSERT, 2, 2, True)
    load = build_packet((statement, CHECK_LOAD % 2), body=[b"8\teight\n9\tmuch too long\n"])
    with pytest.raises(DataError):
        start().apply(prepare(1, build_packet(build_statement(ONE_MORE)), load))
    assert read_counter(target_account) == 0
    assert len(target_account.query("SELECT id FROM t")) == 2


def test_a_table_row_that_is_gone_refuses_the_batch(start: Start, target_account: Account) -> None:
    """Counts must never go to nowhere: the batch that carries them fails."""
    applier = start()
    target_account.query("DELETE FROM _replicator_tables")
    with pytest.raises(TargetError, match="control tables"):
        applier.apply(prepare_one_more())
    assert read_counter(target_account) == 0


def test_a_guard_that_fails_leaves_nothing_to_the_next_packet(start: Start, target_account: Account) -> None:
    """SEMANTICS §4.3: BEGIN would commit what a failed packet left behind, ROLLBACK sweeps it away."""
    applier = start()
    head = build_head(applier.lease, build_batch(1).checkpoint)
    with pytest.raises(CheckRefused):
        applier.session.run(head.sql + b";" + ONE_MORE + b";" + CHECK_COUNT % 2 + b";COMMIT")
    applier.apply(prepare_one_more())
    assert read_counter(target_account) == 1
    assert read_stored(target_account) == ("memory:1", 1)


# --- quiet times ------------------------------------------------------------------------------------------------------


def test_a_keepalive_moves_the_position_and_the_status(start: Start, target_account: Account) -> None:
    lag = [0.25]
    applier = start(status=lambda: StatusLine("streaming", lag[0], True))
    assert not applier.keepalive(None)
    assert applier.keepalive(Checkpoint(MemoryPosition(9), MemoryPosition(8)), now=True)
    assert target_account.query("SELECT position, read_from, seq FROM _replicator_checkpoint") == [
        ("memory:9", "memory:8", 1)
    ]
    assert target_account.query("SELECT lag_seconds FROM _replicator_status") == [(0.25,)]
    lag[0] = 0.0
    assert applier.keepalive(None, now=True)
    assert target_account.query("SELECT lag_seconds FROM _replicator_status") == [(0.0,)]
    assert read_stored(target_account) == ("memory:9", 2)


def test_table_positions_move_in_the_batch(start: Start, target_account: Account) -> None:
    applier = start()
    checkpoint = Checkpoint(MemoryPosition(3), MemoryPosition(1), tables=((TABLE.source, MemoryPosition(2)),))
    applier.apply(Prepared(Batch(checkpoint, [], 1, 0, 0), (), {}))
    assert [state.position for state in read_tables(applier.session, PIPELINE)] == ["memory:2"]
    unknown = Checkpoint(
        MemoryPosition(4), MemoryPosition(1), tables=((TableName("no", "such"), MemoryPosition(2)),)
    )
    with pytest.raises(TargetError, match="control tables"):
        applier.apply(Prepared(Batch(unknown, [], 1, 0, 0), (), {}))
    assert read_stored(target_account) == ("memory:3", 1)


# --- real plans -------------------------------------------------------------------------------------------------------

ROWS = build_table("r")


def prepare_changes(applier: Applier, *changes: Changes, checks: bool = False) -> Prepared:
    """A batch as the pipeline prepares it: the fast plan, and the careful one when that is refused."""
    batch = Batch(build_batch(1).checkpoint, list(changes), 1, 1, 100)
    capabilities = applier.session.capabilities
    limits = Limits(capabilities.max_allowed_packet, capabilities.local_infile)

    def prepare_plan(careful: bool) -> Prepared:
        steps = build_plan(changes, PlanSettings(careful=careful, checks=checks))
        packets = list(build_packets(steps, limits))
        replan = None if careful else lambda: prepare_plan(True)
        return Prepared(batch, packets, count_changes(changes), replan)

    return prepare_plan(False)


def test_conflicts_of_a_real_plan_are_counted_by_type(start: Start, target_account: Account) -> None:
    """source_wins (SEMANTICS §5.6): what is there is overwritten, what is missing is inserted, what is gone is gone."""
    target_account.query("CREATE TABLE r (id INT PRIMARY KEY, v VARCHAR(50))")
    target_account.query("INSERT INTO r VALUES (1,'app'),(2,'old'),(3,'gone')")
    applier = start()
    insert_pending(applier.session, applier.lease, [ROWS])
    applied = applier.apply(
        prepare_changes(
            applier,
            Changes(ROWS, Op.INSERT, (), [(1, b"new"), (7, b"seven")]),
            Changes(ROWS, Op.UPDATE, [(2, b"old"), (8, b"x")], [(2, b"two"), (8, b"eight")]),
            Changes(ROWS, Op.DELETE, [(3, b"gone"), (9, b"y")], ()),
        )
    )
    assert applied.conflicts == {"insert_exists": 1, "update_missing": 1, "delete_missing": 1}
    assert applied.counts == {ROWS.source: Counts(2, 2, 2)}
    expected = [(1, "new"), (2, "two"), (7, "seven"), (8, "eight")]
    assert target_account.query("SELECT * FROM r ORDER BY id") == expected
    applier.keepalive(None, now=True)
    counted = target_account.query(
        "SELECT insert_exists, update_missing, delete_missing FROM _replicator_status"
    )
    assert counted == [(1, 1, 1)]


def test_a_key_change_onto_a_key_that_a_stranger_holds_stops_the_table(
    start: Start, target_account: Account
) -> None:
    """Two rows cannot become one: neither plan may take the stranger's row away (SEMANTICS §5.6)."""
    target_account.query("CREATE TABLE r (id INT PRIMARY KEY, v VARCHAR(50))")
    target_account.query("INSERT INTO r VALUES (1,'ours'),(2,'app')")
    applier = start()
    insert_pending(applier.session, applier.lease, [ROWS])
    with pytest.raises(DataError, match="Duplicate entry '2'") as caught:
        applier.apply(prepare_changes(applier, Changes(ROWS, Op.UPDATE, [(1, b"ours")], [(2, b"ours")])))
    assert "multiple_unique_conflicts" in caught.value.hint
    assert target_account.query("SELECT * FROM r ORDER BY id") == [(1, "ours"), (2, "app")]
    states = target_account.query("SELECT target, state FROM _replicator_tables WHERE state='error'")
    assert states == [("r", "error")]


def test_a_clean_batch_of_a_real_plan_has_no_conflicts(start: Start, target_account: Account) -> None:
    target_account.query("CREATE TABLE r (id INT PRIMARY KEY, v VARCHAR(50))")
    target_account.query("INSERT INTO r VALUES (2,'old'),(3,'gone')")
    applier = start()
    insert_pending(applier.session, applier.lease, [ROWS])
    applied = applier.apply(
        prepare_changes(
            applier,
            Changes(ROWS, Op.INSERT, (), [(number, b"new") for number in range(10, 1010)]),
            Changes(ROWS, Op.UPDATE, [(2, b"old")], [(2, b"two")]),
            Changes(ROWS, Op.DELETE, [(3, b"gone")], ()),
        )
    )
    assert applied.conflicts == {}
    assert target_account.query("SELECT COUNT(*), SUM(v='new') FROM r") == [(1001, 1000)]
