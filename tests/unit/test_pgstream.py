"""Transactions from pgoutput's messages: whole ones, streamed ones, what is taken back, and what no longer fits."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import UNCHANGED, Op, SchemaChange, StreamItem, TableName, Transaction
from replicator.readers import pgstream
from replicator.readers.lsn import LsnPosition, parse_position
from replicator.readers.pgoutput import RelationColumn
from replicator.readers.pgstream import Transactions
from replicator.readers.selected import Counters, Selection
from tests.unit.test_pgoutput import RELATION, TABLE, relation_data, tuple_data

START = LsnPosition("postgres:1/db", 1, 100)
TYPE_NAMES = {23: "integer", 25: "text", 16: "boolean", 701: "double precision"}


def describe(columns: Sequence[RelationColumn]) -> list[str]:
    return [TYPE_NAMES[column.type] for column in columns]


def make(since: dict[TableName, LsnPosition] | None = None) -> Transactions:
    selection = Selection([TABLE], since=since)
    return Transactions(START, selection=selection, counters=Counters(), describe_types=describe)


def wrap(*messages: bytes) -> list[bytes]:
    return [b"w" + bytes(24) + message for message in messages]


def read(stream: Transactions, *messages: bytes) -> list[StreamItem]:
    return list(stream.take(wrap(*messages)))


def changes(items: Iterable[StreamItem]) -> list[tuple[str, list[Any], list[Any]]]:
    return [
        (part.op.name, [row[0] for row in part.before], [row[0] for row in part.after])
        for item in items
        if isinstance(item, Transaction)
        for part in item.changes
    ]


def xid(number: int | None) -> bytes:
    return b"" if number is None else struct.pack(">I", number)


def begin(final: int = 200) -> bytes:
    return b"B" + struct.pack(">QqI", final, 0, 1)


def commit(end: int = 210) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, end - 10, end, 0)


def insert(key: int, within: int | None = None, oid: int = RELATION.oid, text: bytes = b"x") -> bytes:
    row = tuple_data([str(key).encode(), text, None, None])
    return b"I" + xid(within) + struct.pack(">I", oid) + b"N" + row


def update(key: int, old: int | None = None, within: int | None = None) -> bytes:
    before = b"" if old is None else b"K" + tuple_data([str(old).encode(), None, None, None])
    after = b"N" + tuple_data([str(key).encode(), UNCHANGED, b"t", None])
    return b"U" + xid(within) + struct.pack(">I", RELATION.oid) + before + after


def delete(key: int) -> bytes:
    return b"D" + struct.pack(">I", RELATION.oid) + b"K" + tuple_data([str(key).encode(), None, None, None])


def start(number: int, *, first: bool = True) -> bytes:
    return b"S" + struct.pack(">IB", number, first)


STOP = b"E"
R = relation_data(RELATION)


def stream_commit(number: int, end: int = 210) -> bytes:
    return b"c" + struct.pack(">IBQQq", number, 0, end - 10, end, 0)


def abort(number: int, sub: int) -> bytes:
    return b"A" + struct.pack(">II", number, sub)


def test_a_transaction_leaves_with_its_commit() -> None:
    stream = make()
    assert read(stream, begin(), R, insert(1), insert(2), update(2), delete(1)) == []
    assert not stream.is_between
    (item,) = read(stream, commit())
    assert isinstance(item, Transaction)
    assert item.position == LsnPosition("postgres:1/db", 1, 210) == stream.position
    assert item.rows == 4
    assert changes([item]) == [("INSERT", [], [1, 2]), ("UPDATE", [2], [2]), ("DELETE", [1], [])]
    assert stream.is_between


def test_images_of_an_update() -> None:
    stream = make()
    (item,) = read(stream, begin(), R, update(5), update(6, old=4), commit())
    assert isinstance(item, Transaction)
    (part,) = item.changes
    rest = (UNCHANGED, UNCHANGED, UNCHANGED)
    assert part.before == [(5, *rest), (4, *rest)]
    assert part.after == [(5, UNCHANGED, 1, None), (6, UNCHANGED, 1, None)]


def test_tables_that_are_not_selected_move_the_position_only() -> None:
    stream = make()
    other = relation_data(RELATION._replace(oid=9, name="other"))
    (item,) = read(stream, begin(), other, insert(1, oid=9), commit())
    assert isinstance(item, Transaction)
    assert (item.rows, list(item.changes)) == (0, [])


def test_a_row_of_a_relation_that_was_never_described() -> None:
    with pytest.raises(UnsupportedEvent, match="never described"):
        read(make(), begin(), insert(1))


def test_truncate() -> None:
    truncate = b"T" + struct.pack(">IBI", 1, 0, RELATION.oid)
    (item,) = read(make(), begin(), R, insert(1), truncate, insert(2), commit())
    assert isinstance(item, Transaction)
    assert [part.op for part in item.changes] == [Op.INSERT, Op.TRUNCATE, Op.INSERT]


def streamed_relation(within: int) -> bytes:
    return relation_data(RELATION, xid(within))


def test_streamed_transactions_leave_when_they_commit() -> None:
    """Two are open at once, in blocks; a third, whole one passes them."""
    stream = make()
    first = [start(7), streamed_relation(7), insert(1, 7), STOP]
    second = [start(8), insert(2, 8), STOP]
    assert read(stream, *first, *second) == []
    assert stream.is_between
    assert changes(read(stream, begin(), insert(3), commit(150))) == [("INSERT", [], [3])]
    assert keys(read(stream, start(7, first=False), insert(4, 7), STOP, stream_commit(7, 160))) == [1, 4]
    assert stream.position.lsn == 160
    assert changes(read(stream, stream_commit(8, 170))) == [("INSERT", [], [2])]


def keys(items: Iterable[StreamItem]) -> list[int]:
    return [key for _, _, after in changes(items) for key in after]


@pytest.mark.parametrize("spill", [False, True])
def test_subtransactions_that_are_taken_back(monkeypatch: pytest.MonkeyPatch, spill: bool) -> None:
    """7 has 71, which has 72 in it; 73 comes after. 71 is rolled back, with all that is in it."""
    if spill:
        monkeypatch.setattr(pgstream, "SPILL_BYTES", 10)
    stream = make()
    read(
        stream,
        start(7),
        streamed_relation(7),
        insert(1, 7),
        insert(2, 71),
        insert(3, 72),
        insert(4, 71),
        STOP,
    )
    read(stream, abort(7, 71))
    read(stream, abort(7, 79))  # changed nothing, so nothing of it was sent
    read(stream, start(7, first=False), insert(5, 73), insert(6, 7), STOP)
    items = read(stream, stream_commit(7))
    assert keys(items) == [1, 5, 6]
    (item,) = items
    assert isinstance(item, Transaction)
    assert (item.rows, item.spilled) == (3, spill)


def test_the_inner_of_two_subtransactions_is_taken_back() -> None:
    stream = make()
    read(
        stream, start(7), streamed_relation(7), insert(1, 7), insert(2, 71), insert(3, 72), STOP, abort(7, 72)
    )
    read(stream, start(7, first=False), insert(4, 71), STOP)
    assert keys(read(stream, stream_commit(7))) == [1, 2, 4]


def test_a_streamed_transaction_that_is_rolled_back_leaves_nothing() -> None:
    stream = make()
    assert read(stream, start(7), streamed_relation(7), insert(1, 7), STOP, abort(7, 7)) == []
    assert stream.position == START
    with pytest.raises(UnsupportedEvent, match="never began"):
        read(stream, stream_commit(7))


CHANGED = RELATION._replace(columns=(*RELATION.columns, RelationColumn("w", False, 23, -1)))


def test_a_relation_that_no_longer_fits_stops_its_table() -> None:
    stream = make()
    first, last = read(stream, begin(), R, insert(1), relation_data(CHANGED), commit())
    assert isinstance(first, SchemaChange)
    assert (first.before, first.tables, first.reason) == (START, (TABLE.source,), "column w was added")
    assert isinstance(last, Transaction)
    assert [type(item) for item in read(stream, begin(300), relation_data(CHANGED), commit(310))] == [
        Transaction
    ]


def test_a_change_at_or_before_the_tables_own_position_is_past() -> None:
    since = {TABLE.source: LsnPosition("postgres:1/db", 1, 210)}
    items = read(make(since), begin(200), relation_data(CHANGED), commit(210))
    assert [type(item) for item in items] == [Transaction]
    items = read(make(since), begin(210), relation_data(CHANGED), commit(220))
    assert [type(item) for item in items] == [SchemaChange, Transaction]


def test_a_change_within_an_open_transaction_counts_once_it_commits() -> None:
    changed = relation_data(CHANGED, xid(7))
    stream = make()
    assert read(stream, start(7), changed, STOP) == []
    items = read(stream, stream_commit(7))
    assert [type(item) for item in items] == [SchemaChange, Transaction]
    stream = make()
    assert read(stream, start(7), changed, STOP, abort(7, 7)) == []
    assert changes(read(stream, begin(), R, insert(1), commit())) == [("INSERT", [], [1])]


def test_positions() -> None:
    low, high = LsnPosition("postgres:1/my db", 1, 0x16_B374D848), LsnPosition("postgres:1/my db", 1, 1 << 40)
    assert str(low) == "postgres:1/my db 1 16/B374D848"
    assert parse_position(str(low)) == low
    assert high.covers(low)
    assert not low.covers(high)
    assert high.includes(low)
    assert high.meet(low) == low
