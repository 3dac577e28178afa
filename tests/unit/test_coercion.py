"""Values that stand for others are taken out of rows and counted, in memory and from disk alike."""

from __future__ import annotations

from replicator.coercion import LONGEST_SAMPLE, Tally, may_coerce, settle
from replicator.model import (
    UNCHANGED,
    Batch,
    Changes,
    Checkpoint,
    Coerced,
    Column,
    Kind,
    Op,
    TableName,
    TableSchema,
    Unrepresentable,
)
from replicator.prepare import Preparer
from replicator.spill import Spill
from replicator.sql import Limits
from replicator.testing import MemoryPosition

COLUMNS = (
    Column("id", Kind.INTEGER, "int", nullable=False),
    Column("d", Kind.PLAIN, "date", unrepresentable=Unrepresentable.NULL),
    Column("n", Kind.PLAIN, "decimal(5,2)", unrepresentable=Unrepresentable.CLAMP),
)
TABLE = TableSchema(TableName("s", "t"), "t", COLUMNS, key=(0,))
BARE = TableSchema(TableName("s", "u"), "u", COLUMNS[:1], key=(0,))
NEVER = Coerced(None, b"infinity")
LARGE = Coerced(b"999.99", b"1e9")
CHANGES = [
    Changes(TABLE, Op.INSERT, (), [(1, NEVER, LARGE), (2, b"2024-01-01", b"1.00")]),
    Changes(BARE, Op.INSERT, (), [(1,)]),
    Changes(TABLE, Op.UPDATE, [(1, NEVER, LARGE)], [(1, UNCHANGED, LARGE)]),
    Changes(TABLE, Op.DELETE, [(2, NEVER, b"1.00")], ()),
]


def test_marks_go_and_new_ones_are_counted() -> None:
    tally = Tally()
    settled = list(settle(CHANGES, tally))
    assert settled == [
        Changes(TABLE, Op.INSERT, (), [(1, None, b"999.99"), (2, b"2024-01-01", b"1.00")]),
        Changes(BARE, Op.INSERT, (), [(1,)]),
        Changes(TABLE, Op.UPDATE, [(1, None, b"999.99")], [(1, UNCHANGED, b"999.99")]),
        Changes(TABLE, Op.DELETE, [(2, None, b"1.00")], ()),
    ]
    found = {name: (s.rule, s.count, s.key, s.value) for (_, name), s in tally.samples.items()}
    assert found == {"d": ("null", 1, "1", "infinity"), "n": ("clamp", 2, "1", "1e9")}


def test_only_tables_with_a_rule_are_looked_at() -> None:
    assert may_coerce([BARE, TABLE])
    assert not may_coerce([BARE])
    (change,) = settle(CHANGES[1:2])
    assert change is CHANGES[1]


def test_samples_are_short_text() -> None:
    table = TableSchema(
        TableName("s", "t"),
        "t",
        (Column("k", Kind.BINARY, "varbinary(900)", nullable=False), COLUMNS[1]),
        key=(0,),
    )
    tally = Tally()
    rows = [(b"\xff" * 900, Coerced(None, b"x" * 900))]
    list(settle([Changes(table, Op.INSERT, (), rows)], tally))
    (sample,) = tally.samples.values()
    assert sample.key.startswith("0xffff")
    assert len(sample.key) == len(sample.value) == LONGEST_SAMPLE


def test_a_batch_on_disk_gives_the_same() -> None:
    spilled = Spill.of(CHANGES, None)
    statements, tallies = [], []
    for changes, is_spilled in ((CHANGES, False), (spilled, True)):
        checkpoint = Checkpoint(MemoryPosition(1), MemoryPosition(1))
        batch = Batch(checkpoint, changes, 1, 5, 100, spilled=is_spilled)
        preparer = Preparer(
            Limits(1 << 20, local_infile=False),
            is_checking=False,
            cascades_logged=True,
            parents={},
            unsettled=(),
            partial=True,
            is_coercing=True,
        )
        prepared = preparer.prepare(batch)
        statements.append([packet.sql for _ in range(2) for packet in prepared.packets])
        tallies.append(prepared.tally)
    assert statements[0] == statements[1]
    assert tallies[0] == tallies[1]
    assert {name: sample.count for (_, name), sample in tallies[0].samples.items()} == {"d": 1, "n": 2}
