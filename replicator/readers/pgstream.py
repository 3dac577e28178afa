"""From pgoutput's messages to whole transactions, in one flat loop: what MySQL's ``transactions`` is to its log.

A transaction leaves after its commit. One that the server streams while it is still open is kept, on disk beyond
``SPILL_BYTES``, and leaves when it commits; what a savepoint or an abort undoes is cut off (SEMANTICS §1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from replicator.errors import UnsupportedEvent
from replicator.model import (
    UNCHANGED,
    Changes,
    Op,
    Row,
    SchemaChange,
    StreamItem,
    TableName,
    TableSchema,
    Transaction,
)
from replicator.readers import pgoutput
from replicator.readers.lsn import LsnPosition
from replicator.readers.pgoutput import Relation, RelationColumn, RowDecoder
from replicator.readers.selected import Counters, Selection
from replicator.spill import Spill

SPILL_BYTES: Final = 4 << 20
BLOCK_BYTES: Final = 1 << 20

HEADER: Final = 25  # of XLogData: 'w', start, end, time

DescribeTypes = Callable[[Sequence[RelationColumn]], Sequence[str]]
"""The columns' types as ``format_type`` prints them."""


class _Mark(NamedTuple):
    """Where a subtransaction begins in a store."""

    parts: int
    rows: int
    size: int


class _Break(NamedTuple):
    """A relation that stopped fitting its schema, behind the first ``parts`` parts of a transaction."""

    parts: int
    table: TableName
    reason: str


class _Relations(dict[bytes, "_Entry | None"]):
    """By the four bytes of their oid; None: not selected, or no longer read."""

    def __missing__(self, oid: bytes) -> _Entry | None:
        raise UnsupportedEvent(
            f"pgoutput sent a row of relation {int.from_bytes(oid, 'big')}, which it never described",
            hint="report it with the server's version",
        )


class _Store:
    """The changes of one transaction so far, in memory or on disk."""

    __slots__ = ("_directory", "breaks", "marks", "parts", "rows", "size")

    def __init__(self, directory: Path | None) -> None:
        self.parts: list[Changes] | Spill = []
        self.rows = self.size = 0
        self.marks: dict[int, _Mark] = {}  # by subtransaction, in the order in which they began
        self.breaks: list[_Break] = []
        self._directory = directory

    def append(self, changes: Changes) -> None:
        self.parts.append(changes)
        self.rows += changes.rows
        self.size += changes.size
        if self.size > SPILL_BYTES and isinstance(self.parts, list):
            self.parts = Spill.of(self.parts, self._directory)

    def begin(self, xid: int) -> None:
        """What follows belongs to subtransaction ``xid``."""
        if xid not in self.marks:
            self.marks[xid] = _Mark(len(self.parts), self.rows, self.size)

    def undo(self, xid: int) -> None:
        """Cut off a subtransaction and all that began after it; one that changed nothing was never seen."""
        mark = self.marks.get(xid)
        if mark is None:
            return
        if isinstance(self.parts, Spill):
            self.parts.truncate(mark.parts)
        else:
            del self.parts[mark.parts :]
        self.rows, self.size = mark.rows, mark.size
        self.marks = {other: place for other, place in self.marks.items() if place.parts < mark.parts}
        self.breaks = [item for item in self.breaks if item.parts <= mark.parts]

    def close(self) -> None:
        if isinstance(self.parts, Spill):
            self.parts.close()


class _Entry(NamedTuple):
    """A relation of a selected table."""

    table: TableSchema
    decoder: RowDecoder


class Transactions:
    """Turns messages into stream items. ``position`` is behind the last transaction that left.

    ``describe_types`` asks the source's catalog. For one connection: relations and open transactions are a connection's.
    """

    def __init__(
        self,
        position: LsnPosition,
        *,
        selection: Selection,
        counters: Counters,
        describe_types: DescribeTypes,
        spill_dir: Path | None = None,
    ) -> None:
        self.position = position
        self._selection = selection
        self._counters = counters
        self._describe_types = describe_types
        self._spill_dir = spill_dir
        self._entries = _Relations()
        self._store: _Store | None = None  # of the transaction that is being received
        self._streamed: dict[int, _Store] = {}  # those that are open at the source
        self._final = 0  # where its commit record begins
        self._stream_xid = 0  # within a stream block, its transaction
        self._sub_xid = 0
        self._entry: _Entry | None = None  # the block under construction: of which table,
        self._op = Op.INSERT
        self._before: list[Row] = []
        self._after: list[Row] = []
        self._size = 0

    @property
    def is_between(self) -> bool:
        """Whether no transaction is half received: what a keepalive says of the position then holds."""
        return self._store is None

    def take(self, messages: Iterable[bytes]) -> Iterator[StreamItem]:
        """The items that XLogData messages complete."""
        insert, update, delete = pgoutput.INSERT, pgoutput.UPDATE, pgoutput.DELETE
        for data in messages:
            kind = data[HEADER]
            if kind == insert:
                at = HEADER + 1
                if self._stream_xid:
                    at = self._enter(data)
                entry = self._entries[data[at : at + 4]]
                if entry is None:
                    continue
                if entry is not self._entry or self._op is not Op.INSERT or self._size > BLOCK_BYTES:
                    self._begin_block(entry, Op.INSERT)
                row, _ = entry.decoder.whole(data, at + 5)
                self._after.append(row)
                self._size += len(data)
            elif kind == update:
                self._take_update(data)
            elif kind == delete:
                self._take_delete(data)
            else:
                yield from self._take_other(data)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _enter(self, data: bytes) -> int:
        """Within a stream block a row names its (sub)transaction; returns where its relation id stands."""
        xid = pgoutput.read_xid(data, HEADER)
        if xid != self._sub_xid:
            self._end_block()
            self._sub_xid = xid
            assert self._store is not None
            if xid != self._stream_xid:
                self._store.begin(xid)
        return HEADER + 5

    def _begin_block(self, entry: _Entry, op: Op) -> None:
        self._end_block()
        self._entry, self._op = entry, op

    def _end_block(self) -> None:
        """Move the block under construction into its transaction."""
        entry = self._entry
        if entry is None:
            return
        if self._store is None:
            raise UnsupportedEvent("pgoutput sent a row outside a transaction")
        block = Changes(entry.table, self._op, self._before, self._after, self._size)
        self._store.append(block)
        self._counters.rows += block.rows
        self._entry = None
        self._before, self._after, self._size = [], [], 0

    def _take_update(self, data: bytes) -> None:
        at = self._enter(data) if self._stream_xid else HEADER + 1
        entry = self._entries[data[at : at + 4]]
        if entry is None:
            return
        if entry is not self._entry or self._op is not Op.UPDATE or self._size > BLOCK_BYTES:
            self._begin_block(entry, Op.UPDATE)
        decoder, at = entry.decoder, at + 4
        before: Row | None = None
        if data[at] == pgoutput.KEY:
            before, at = decoder.key(data, at + 1)
        elif data[at] == pgoutput.OLD:
            before, at = decoder.whole(data, at + 1)
        after, _ = decoder.whole(data, at + 1)
        if before is None:
            before = decoder.identify(after)
        elif UNCHANGED in after:  # what the old tuple has was sent there
            after = tuple(old if new is UNCHANGED else new for old, new in zip(before, after, strict=True))
        self._before.append(before)
        self._after.append(after)
        self._size += len(data)

    def _take_delete(self, data: bytes) -> None:
        at = self._enter(data) if self._stream_xid else HEADER + 1
        entry = self._entries[data[at : at + 4]]
        if entry is None:
            return
        if entry is not self._entry or self._op is not Op.DELETE or self._size > BLOCK_BYTES:
            self._begin_block(entry, Op.DELETE)
        decode = entry.decoder.key if data[at + 4] == pgoutput.KEY else entry.decoder.whole
        self._before.append(decode(data, at + 5)[0])
        self._size += len(data)

    # --- the frame ----------------------------------------------------------------------------------------------------

    def _take_other(self, data: bytes) -> Iterable[StreamItem]:
        self._end_block()
        message = pgoutput.parse(data, HEADER, is_streamed=bool(self._stream_xid))
        match message:
            case pgoutput.Begin():
                self._store, self._final = _Store(self._spill_dir), message.final_lsn
            case pgoutput.Commit():
                store, self._store = self._store, None
                return self._finish(store, message)
            case pgoutput.Relation():
                return self._take_relation(data, message)
            case pgoutput.Truncate():
                self._take_truncate(data, message)
            case pgoutput.StreamStart():
                self._stream_xid = self._sub_xid = message.xid
                self._store = self._streamed.setdefault(message.xid, _Store(self._spill_dir))
            case pgoutput.StreamStop():
                self._stream_xid = self._sub_xid = 0
                self._store = None
            case pgoutput.StreamCommit():
                return self._finish(self._streamed.pop(message.xid, None), message)
            case pgoutput.StreamAbort():
                self._take_abort(message)
            case _:
                self._counters.skipped[type(message).__name__] += 1
        return ()

    def _finish(
        self, store: _Store | None, commit: pgoutput.Commit | pgoutput.StreamCommit
    ) -> Iterator[StreamItem]:
        """A transaction, behind what stopped fitting within it while it was still open."""
        if store is None:
            raise UnsupportedEvent("pgoutput sent the commit of a transaction that it never began")
        end = self._place(commit.end_lsn)
        for item in store.breaks:
            if not self._selection.is_past(item.table, end):
                yield self._break(item.table, item.reason, commit.commit_time)
        self.position = end
        self._counters.transactions += 1
        is_spilled = isinstance(store.parts, Spill)
        yield Transaction(end, commit.commit_time, store.parts, store.rows, store.size, is_spilled)

    def _place(self, lsn: int) -> LsnPosition:
        return LsnPosition(self.position.server, self.position.timeline, lsn)

    def _take_abort(self, message: pgoutput.StreamAbort) -> None:
        if message.subxid != message.xid:
            if (store := self._streamed.get(message.xid)) is not None:
                store.undo(message.subxid)
        elif (store := self._streamed.pop(message.xid, None)) is not None:
            store.close()

    def _take_truncate(self, data: bytes, message: pgoutput.Truncate) -> None:
        """The server names every table it emptied, those that CASCADE reached included."""
        if self._stream_xid:
            self._enter(data)
        assert self._store is not None
        for oid in message.relations:
            entry = self._entries[oid.to_bytes(4, "big")]
            if entry is not None:
                self._store.append(Changes(entry.table, Op.TRUNCATE, (), ()))

    def _take_relation(self, data: bytes, relation: Relation) -> Iterable[StreamItem]:
        """A relation is described before its first row, and again after any change of it.

        In a transaction that is still open, a change counts only once it commits.
        """
        if self._stream_xid:
            self._enter(data)
        oid = relation.oid.to_bytes(4, "big")
        self._entries[oid] = None
        table = self._selection.find(relation.schema, relation.name)
        if table is None:
            return ()
        reason = pgoutput.explain_mismatch(relation, self._describe_types(relation.columns), table)
        if reason is None:
            self._entries[oid] = _Entry(table, pgoutput.build_decoder(relation, table))
            return ()
        if self._stream_xid:
            assert self._store is not None
            self._store.breaks.append(_Break(len(self._store.parts), table.source, reason))
            return ()
        # A commit record is longer than a byte: what ends at a position began its commit before it.
        if self._selection.is_past(table.source, self._place(self._final + 1)):
            return ()
        return (self._break(table.source, reason, 0),)

    def _break(self, table: TableName, reason: str, commit_time: int) -> SchemaChange:
        """The table is read no further: whoever gets this pauses it, where it stands before this transaction."""
        self._selection.drop((table,))
        for oid, entry in self._entries.items():
            if entry is not None and entry.table.source == table:
                self._entries[oid] = None
        return SchemaChange(self.position, self.position, commit_time, (table,), "", reason)

    def pause(self, table: TableName, reason: str) -> SchemaChange:
        """The catalog says so; only between transactions."""
        return self._break(table, reason, 0)

    def advance(self, lsn: int) -> None:
        """The source has nothing for us up to ``lsn``; only between transactions."""
        self.position = self._place(lsn)

    def close(self) -> None:
        """Drop what was never committed."""
        for store in self._streamed.values():
            store.close()
        self._streamed.clear()
