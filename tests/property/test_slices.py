"""A transaction in slices arrives whole, wherever it is cut off, whatever tables do meanwhile (SEMANTICS §1.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.held import Held
from replicator.lag import Lag
from replicator.model import Batch, Changes, Checkpoint, Position, TableName, Transaction
from replicator.spill import Spill
from replicator.stream import BatchLimits, Emitted, Route, Stream
from replicator.testing import MemoryPosition, build_insert, build_table, read_items

START = Checkpoint(MemoryPosition(0), MemoryPosition(0))
TABLES = [build_table(name) for name in "abc"]


class Crash(Exception):
    """The process dies with this batch applied and nothing after it."""


@dataclass
class Target:
    """What is stored: rows in the order they came, the checkpoint, and the tables' own positions."""

    rows: dict[TableName, list[int]] = field(default_factory=dict)
    checkpoint: Checkpoint = START
    own: dict[TableName, Position | None] = field(default_factory=dict)
    patience: int = 0

    def apply(self, item: Emitted) -> None:
        if not isinstance(item, Batch):
            return
        for part in item.changes:
            self.rows.setdefault(part.table.source, []).extend(int(str(row[0])) for row in part.after)
        self.checkpoint = item.checkpoint
        self.own.update(item.checkpoint.tables)
        self.patience -= 1
        if not self.patience:
            raise Crash


def build_source(shapes: list[list[tuple[int, int]]]) -> list[Transaction]:
    """Transactions of (table, rows) events; every row has a number of its own."""
    made, number = [], 0
    for place, shape in enumerate(shapes, 1):
        spill, rows = Spill(), 0
        for table, count in shape:
            spill.append(build_insert(TABLES[table], *((number + n, b"") for n in range(count))))
            number, rows = number + count, rows + count
        made.append(Transaction(MemoryPosition(place), place, spill, rows, 100 * rows, rows > 2))
    return made


EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(EVENTS, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 8), st.integers(100, 900)), max_size=6),
    st.integers(0, 4),
    st.booleans(),
)
@example(
    [[(2, 3), (2, 3), (2, 3)], [(0, 1)]], [(8, 100), (1, 300), (8, 900)], 0, True
)  # dies where a table catches up
def test_every_change_arrives_once_wherever_the_process_dies(
    shapes: list[list[tuple[int, int]]], deaths: list[tuple[int, int]], snapshot: int, is_loading: bool
) -> None:
    """Table c may be loading when the first run begins, at a snapshot of any age, and be loaded when that one dies."""
    source = build_source(shapes)
    late = TABLES[2].source
    target = Target()
    taken = min(snapshot, len(source))
    for run, (patience, limit) in enumerate([*deaths, (1 << 30, 400)]):
        target.patience = patience
        is_held = is_loading and run == 0
        if is_loading and run == 1:
            target.own[late] = MemoryPosition(taken)
            target.rows[late] = rows_of(source[:taken], late)
        stored = target.checkpoint
        read_from = stored.position
        for own in target.own.values():
            read_from = read_from.meet(own) if own is not None else read_from
        stream = Stream(
            routes=[
                Route(
                    table,
                    own=target.own.get(table.source),
                    held=Held([table]) if is_held and table.source == late else None,
                )
                for table in TABLES
            ],
            groups=[],
            position=stored.position,
            read_from=read_from,
            torn=stored.torn,
            emit=target.apply,
            is_free=lambda: True,
            lag=Lag(),
            limits=BatchLimits(transaction=limit),
        )
        try:
            stream.run(read_items([t for t in source if not read_from.includes(t.position)]))
        except Crash:
            continue
        if is_held:
            continue  # the run ended before the table was loaded
    expected = {table.source: rows_of(source, table.source) for table in TABLES}
    if is_loading and not deaths:
        expected.pop(late)
    assert {name: rows for name, rows in target.rows.items() if rows} == {
        n: r for n, r in expected.items() if r
    }
    assert target.checkpoint.torn is None


def rows_of(source: list[Transaction], name: TableName) -> list[int]:
    parts: list[Changes] = [part for t in source for part in t.changes if part.table.source == name]
    return [int(str(row[0])) for part in parts for row in part.after]
