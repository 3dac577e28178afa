"""Batches hold whole transactions in order, and a table's changes pass exactly once, whatever loads (I1, I2, I4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from replicator.errors import PositionLost, UnsupportedEvent
from replicator.held import BLOCK_BYTES, Held
from replicator.lag import Lag
from replicator.model import (
    Batch,
    Changes,
    Idle,
    Op,
    Position,
    SchemaChange,
    StreamItem,
    Torn,
    Transaction,
    UnseenCommit,
)
from replicator.stream import BatchLimits, Constrain, Emitted, Pause, RestartFrom, Route, Settle, Stream
from replicator.testing import MemoryPosition, build_insert, build_table, build_transaction, read_items

A = build_table("a")
B = build_table("b")


class Bench:
    """A stream whose clock stands still and whose applier is free or not, as the test says."""

    def __init__(
        self,
        *routes: Route,
        position: int = 0,
        read_from: int = 0,
        limits: BatchLimits | None = None,
        torn: Torn | None = None,
        restart_from: RestartFrom = lambda position, *, keep: position,
    ) -> None:
        self.emitted: list[Emitted] = []
        self.free = True
        self.patience = 1 << 30  # batches until it is to stop
        self.now = 0.0
        self.stream = Stream(
            routes=routes,
            groups=[frozenset(route.table.source for route in routes)],
            position=MemoryPosition(position),
            read_from=MemoryPosition(read_from),
            emit=self.emitted.append,
            is_free=lambda: self.free,
            torn=torn,
            is_stopping=lambda: len(self.batches) >= self.patience,
            lag=Lag(),
            limits=limits or BatchLimits(),
            restart_from=restart_from,
            clock=lambda: self.now,
        )

    def run(self, items: Iterable[StreamItem]) -> list[Batch]:
        self.stream.run(items)
        return self.batches

    @property
    def batches(self) -> list[Batch]:
        return [item for item in self.emitted if isinstance(item, Batch)]


def rows_of(batches: Iterable[Batch], table: str) -> list[int]:
    return [
        int(str(row[0]))
        for batch in batches
        for part in batch.changes
        if part.table.target == table
        for row in part.after
    ]


def insert(number: int, *tables: str) -> Transaction:
    """Transaction ``number`` inserts row ``number`` into each table."""
    known = {"a": A, "b": B}
    return build_transaction(number, *(build_insert(known[name], (number, b"x")) for name in tables))


def test_a_quiet_source_gets_a_batch_for_each_transaction() -> None:
    bench = Bench(Route(A, settled=True))
    batches = bench.run(read_items([insert(1, "a"), insert(2, "a")]))
    assert [str(batch.checkpoint.position) for batch in batches] == ["memory:1", "memory:2"]


def test_a_busy_applier_gets_larger_batches_of_whole_transactions() -> None:
    bench = Bench(Route(A, settled=True), limits=BatchLimits(rows=3))
    bench.free = False
    batches = bench.run(read_items([insert(n, "a") for n in range(1, 8)]))
    assert [(batch.rows, str(batch.checkpoint.position)) for batch in batches] == [
        (3, "memory:3"),
        (3, "memory:6"),
        (1, "memory:7"),
    ]


def test_transactions_of_unselected_tables_move_the_position_after_a_while() -> None:
    bench = Bench(Route(A, settled=True))

    def items() -> Iterator[StreamItem]:
        yield build_transaction(1)
        yield Idle(MemoryPosition(1))
        assert bench.batches == []
        bench.now = 1.5
        yield Idle(MemoryPosition(1))

    assert [(b.rows, str(b.checkpoint.position)) for b in bench.run(items())] == [(0, "memory:1")]


def truncate(number: int) -> Transaction:
    return build_transaction(number, Changes(A, Op.TRUNCATE, (), ()))


def test_a_truncate_is_a_batch_of_its_own_that_says_so() -> None:
    bench = Bench(Route(A, settled=True))
    batches = bench.run([insert(1, "a"), insert(2, "a"), truncate(3), insert(4, "a")])
    assert [(str(b.checkpoint.position), b.truncated) for b in batches] == [
        ("memory:2", None),
        ("memory:3", A),
        ("memory:4", None),
    ]
    assert [part.op for part in batches[1].changes] == [Op.TRUNCATE]


def test_a_truncate_of_a_table_that_catches_up_is_a_batch_of_its_own_too() -> None:
    """Held while the table loaded; the table's own position moves with it."""
    bench = Bench(Route(A, held=Held([A])))

    def items() -> Iterator[StreamItem]:
        yield from [insert(1, "a"), insert(2, "a"), truncate(3), insert(4, "a")]
        bench.stream.table_loaded(A.source, MemoryPosition(1))
        yield Idle(MemoryPosition(4))

    moved = [(b.truncated, dict(b.checkpoint.tables)) for b in bench.run(items()) if b.rows]
    assert [truncated for truncated, _ in moved] == [None, A, None]
    assert [tables[A.source] for _, tables in moved] == [MemoryPosition(n) for n in (2, 3, 4)]


def test_a_truncate_that_a_table_holds_already_is_passed_over() -> None:
    bench = Bench(Route(A, own=MemoryPosition(3)), position=1, read_from=1)
    batches = bench.run([truncate(2), insert(4, "a")])
    assert [batch.truncated for batch in batches] == [None] * len(batches)
    assert rows_of(batches, "a") == [4]


def test_a_spilled_transaction_is_a_batch_of_its_own_behind_what_came_before() -> None:
    bench = Bench(Route(A, settled=True))
    huge = build_transaction(2, build_insert(A, (2, b"x")), spilled=True)
    batches = bench.run([insert(1, "a"), huge, insert(3, "a")])
    assert [(b.spilled, str(b.checkpoint.position), rows_of([b], "a")) for b in batches] == [
        (False, "memory:1", [1]),
        (True, "memory:2", [2]),
        (False, "memory:3", [3]),
    ]


def test_a_loading_table_gets_what_its_snapshot_lacks_and_nothing_twice() -> None:
    bench = Bench(Route(A, held=Held([A])), Route(B, settled=True))

    def items() -> Iterator[StreamItem]:
        for number in range(1, 5):
            yield insert(number, "a", "b")
        assert rows_of(bench.batches, "a") == []
        bench.stream.table_loaded(A.source, MemoryPosition(2))
        yield Idle(MemoryPosition(4))
        yield insert(5, "a", "b")

    batches = bench.run(items())
    assert rows_of(batches, "a") == [3, 4, 5]
    assert rows_of(batches, "b") == [1, 2, 3, 4, 5]
    assert bench.emitted.count(Settle((A.source, B.source))) == 1


def test_a_snapshot_ahead_of_the_stream_swallows_changes_until_the_stream_has_passed_it() -> None:
    bench = Bench(Route(A, held=Held([A])))

    def items() -> Iterator[StreamItem]:
        yield insert(1, "a")
        bench.stream.table_loaded(A.source, MemoryPosition(3))
        for number in (2, 3):
            yield Idle(MemoryPosition(number - 1))
            assert Settle((A.source,)) not in bench.emitted
            yield insert(number, "a")
        yield Idle(MemoryPosition(3))
        assert bench.batches[-1].checkpoint.tables == ((A.source, None),)
        assert bench.emitted[-1] == Settle((A.source,))
        yield insert(4, "a")

    assert rows_of(bench.run(items()), "a") == [4]


def test_replayed_changes_move_the_tables_position_not_the_pipelines() -> None:
    bench = Bench(Route(A, held=Held([A])), Route(B, settled=True), limits=BatchLimits(rows=2))

    def items() -> Iterator[StreamItem]:
        for number in range(1, 6):
            yield insert(number, "a")
        bench.stream.table_loaded(A.source, MemoryPosition(1))
        yield Idle(MemoryPosition(5))

    replayed = [batch for batch in bench.run(items()) if rows_of([batch], "a")]
    checkpoints = [batch.checkpoint for batch in replayed]
    assert [rows_of([batch], "a") for batch in replayed] == [[2, 3], [4, 5]]
    assert [str(c.position) for c in checkpoints] == ["memory:5", "memory:5"]
    assert [str(c.read_from) for c in checkpoints] == ["memory:3", "memory:5"]
    assert str(checkpoints[0].tables[0][1]) == "memory:3"


def test_a_restart_reads_again_for_one_table_and_skips_the_rest() -> None:
    bench = Bench(Route(A, own=MemoryPosition(2)), Route(B, settled=True), position=4, read_from=2)
    batches = bench.run(read_items([insert(n, "a", "b") for n in range(3, 7)]))
    assert rows_of(batches, "a") == [3, 4, 5, 6]
    assert rows_of(batches, "b") == [5, 6]
    assert all(batch.checkpoint.position.covers(MemoryPosition(4)) for batch in batches)
    assert str(batches[0].checkpoint.tables[0][1]) == "memory:3"
    assert batches[-1].checkpoint == batches[-1].checkpoint.__class__(MemoryPosition(6), MemoryPosition(6))


def test_a_schema_change_pauses_behind_what_came_before_and_lets_others_pass() -> None:
    bench = Bench(Route(A, settled=True), Route(B, settled=True))
    change = SchemaChange(MemoryPosition(2), MemoryPosition(1), 0, (A.source,), "ALTER TABLE a", "altered")
    bench.run([insert(1, "a", "b"), change, insert(3, "a", "b")])
    assert rows_of(bench.batches, "a") == [1]
    assert rows_of(bench.batches, "b") == [1, 3]
    assert bench.emitted[1] == Pause((A.source,), MemoryPosition(1), "altered")


def test_a_paused_table_does_not_hold_read_from() -> None:
    bench = Bench(Route(A, own=MemoryPosition(9), paused="altered"), Route(B, settled=True))
    bench.stream._routes[A.source].own = None
    batches = bench.run([insert(1, "a", "b")])
    assert [(str(b.checkpoint.read_from), rows_of([b], "a")) for b in batches] == [("memory:1", [])]


def test_joined_tables_that_stand_at_one_position_get_their_keys_before_their_changes() -> None:
    held = Held([A, B])
    bench = Bench(Route(A, held=held), Route(B, held=held))

    def items() -> Iterator[StreamItem]:
        yield insert(1, "a", "b")
        bench.stream.table_loaded(A.source, MemoryPosition(1))
        yield insert(2, "a", "b")
        assert bench.batches[-1].rows == 0, "the first waits for the second"
        bench.stream.table_loaded(B.source, MemoryPosition(1))
        yield insert(3, "b", "a")

    batches = bench.run(items())
    both = (A.source, B.source)
    assert [row for batch in batches for part in batch.changes for row in part.after] == [
        (2, b"x"),
        (2, b"x"),
        (3, b"x"),
        (3, b"x"),
    ]
    kinds = [item for item in bench.emitted if not isinstance(item, Batch) or item.rows]
    assert kinds[0] == Constrain(both)
    assert kinds.count(Settle(both)) == 1


def test_joined_tables_at_two_positions_get_their_keys_when_the_stream_has_passed_both() -> None:
    held = Held([A, B])
    bench = Bench(Route(A, held=held), Route(B, held=held))

    def items() -> Iterator[StreamItem]:
        for number in range(1, 4):
            yield insert(number, "a", "b")
        bench.stream.table_loaded(A.source, MemoryPosition(1))
        bench.stream.table_loaded(B.source, MemoryPosition(2))
        yield Idle(MemoryPosition(3))

    batches = bench.run(items())
    both = (A.source, B.source)
    assert (rows_of(batches, "a"), rows_of(batches, "b")) == ([2, 3], [3])
    assert bench.emitted[-2:] == [Constrain(both), Settle(both)]


def test_a_restart_of_loaded_tables_makes_their_keys_before_their_changes() -> None:
    own = MemoryPosition(2)
    bench = Bench(Route(A, own=own), Route(B, own=own), position=2, read_from=2)
    bench.run(read_items([insert(3, "a", "b")]))
    assert isinstance(bench.emitted[0], Constrain)


@pytest.mark.parametrize("size", [100, BLOCK_BYTES])
def test_held_changes_come_back_as_they_were(size: int) -> None:
    held = Held([A])
    parts = [Changes(A, Op.UPDATE, [(n, b"x")], [(n, b"y")], size) for n in range(3)]
    held.append(MemoryPosition(1), 7, parts)
    held.append(MemoryPosition(2), 8, [])
    held.append(MemoryPosition(3), 9, [Changes(A, Op.TRUNCATE, [], [])])
    first, second = held.replay()
    assert (first.position, first.commit_time, list(first.changes)) == (MemoryPosition(1), 7, parts)
    assert list(first.changes) == parts, "can be iterated again"
    assert first.spilled == (size == BLOCK_BYTES)
    assert second.position == MemoryPosition(3)


def test_a_commit_whose_prepare_nobody_read_stops_tables_that_lack_its_rows() -> None:
    """SEMANTICS §1.2: harmless to a table that loads, or whose own position has it; to others its rows are missing."""
    own = MemoryPosition(3)
    bench = Bench(Route(A, own=own), Route(B, own=own), position=1, read_from=1)
    bench.stream.run([UnseenCommit(MemoryPosition(3), 3, "X'61',X'',1"), Idle(MemoryPosition(3))])
    bench = Bench(Route(A, own=own), Route(B), position=1, read_from=1)
    with pytest.raises(UnsupportedEvent, match=r"X'61',X'',1.*app\.b") as caught:
        bench.stream.run([UnseenCommit(MemoryPosition(3), 3, "X'61',X'',1")])
    assert "app.a" not in caught.value.message
    bench = Bench(Route(A), Route(B), position=3, read_from=1)  # it was applied before the restart
    bench.stream.run([UnseenCommit(MemoryPosition(3), 3, "X'61',X'',1"), Idle(MemoryPosition(3))])


def test_read_from_asks_for_what_is_undecided_at_the_lowest_position() -> None:
    """A table's own position may lie between XA PREPARE and XA COMMIT though the stream has passed both."""
    asked = list[tuple[str, bool]]()

    def restart_from(position: Position, *, keep: bool) -> Position:
        asked.append((str(position), keep))
        return position.meet(MemoryPosition(2))

    held = Held([A, B])
    bench = Bench(Route(A, own=MemoryPosition(4), held=held), Route(B, held=held), restart_from=restart_from)
    bench.run([insert(5, "a"), Idle(MemoryPosition(5))])
    bench.now += 2
    bench.run([Idle(MemoryPosition(6))])
    assert set(asked) == {
        ("memory:0", True)
    }  # b loads: its position may be stored before the stream hears of it
    assert {str(batch.checkpoint.read_from) for batch in bench.batches} == {"memory:0"}


def huge(number: int) -> Transaction:
    rows = [build_insert(A, (number * 10 + n, b"x")) for n in range(4)]
    return build_transaction(number, *rows, spilled=True)


def test_a_stream_that_is_to_stop_does_so_between_two_slices() -> None:
    """What is emitted says how far the transaction is in; nothing of what follows it comes."""
    bench = Bench(Route(A, settled=True), limits=BatchLimits(transaction=100))
    bench.patience = 3
    batches = bench.run([insert(1, "a"), huge(2), insert(3, "a")])
    assert [(str(b.checkpoint.position), b.checkpoint.torn, rows_of([b], "a")) for b in batches] == [
        ("memory:1", None, [1]),
        ("memory:1", Torn(1, frozenset({A.source})), [20]),
        ("memory:1", Torn(2, frozenset({A.source})), [21]),
    ]


def test_a_schema_change_of_a_table_that_is_half_applied_stops_the_source() -> None:
    """Its rows could not be counted any more."""
    bench = Bench(Route(A, settled=True), torn=Torn(1, frozenset({A.source})))
    at = MemoryPosition(0)
    with pytest.raises(
        UnsupportedEvent, match=r"app\.a: changed, within a transaction that is applied in part"
    ):
        bench.run([SchemaChange(at, at, 0, (A.source,), "", "changed")])


def test_a_transaction_that_holds_less_than_was_applied_of_it_is_another_one() -> None:
    bench = Bench(Route(A, settled=True), torn=Torn(3, frozenset({A.source})))
    with pytest.raises(PositionLost, match="3 changes of the next transaction are applied"):
        bench.run([insert(1, "a")])
