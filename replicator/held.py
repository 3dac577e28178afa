"""The changes of tables that are still loading, kept on disk until their snapshots' positions are known (SEMANTICS §2.5).

The file is unlinked at once: after a crash the log is read again from ``read_from``, so nothing here needs to survive.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicator.model import Changes, Op, Position, Row, TableSchema, Transaction

BLOCK_BYTES = 4 << 20

_Part = tuple[
    int, Op, list[Row], list[Row], int, bool
]  # the table's place among the held ones, then a Changes


@dataclass(frozen=True, slots=True)
class _Entry:
    """One transaction: its changes here, or in blocks of their own when they are too many."""

    position: Position
    commit_time: int
    rows: int
    size: int
    parts: list[_Part]
    blocks: tuple[tuple[int, int], ...] = ()


class Held:
    """An append-only file of what transactions did to some tables; at most one block of it is in memory.

    Blocks are pickled whole, so that positions which share a base set store it once a block.
    """

    def __init__(self, tables: Sequence[TableSchema], directory: Path | None = None) -> None:
        self._tables = tuple(tables)
        self._places = {table.source: place for place, table in enumerate(tables)}
        self._file = tempfile.TemporaryFile(dir=directory, prefix="replicator-held-")  # noqa: SIM115 (outlives the call)
        self._index: list[tuple[int, int]] = []  # offset and length of each block of entries
        self._pending: list[_Entry] = []
        self._pending_bytes = 0
        self.bytes = 0

    def append(self, position: Position, commit_time: int, changes: Iterable[Changes]) -> None:
        """Keep what one transaction did to the tables; nothing when it did nothing."""
        parts: list[_Part] = []
        blocks: list[tuple[int, int]] = []
        rows = size = part_bytes = 0
        for part in changes:
            place = self._places.get(part.table.source)
            if place is None:
                continue
            images = list(part.before), list(part.after)
            parts.append((place, part.op, *images, part.size, part.no_foreign_key_checks))
            rows += part.rows
            size += part.size
            part_bytes += part.size
            if part_bytes >= BLOCK_BYTES:
                blocks.append(self._write(parts))
                parts, part_bytes = [], 0
        if blocks and parts:
            blocks.append(self._write(parts))
            parts = []
        if not parts and not blocks:
            return
        self._pending.append(_Entry(position, commit_time, rows, size, parts, tuple(blocks)))
        self._pending_bytes += part_bytes
        if self._pending_bytes >= BLOCK_BYTES or len(self._pending) >= 10_000:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._index.append(self._write(self._pending))
        self._pending, self._pending_bytes = [], 0

    def _write(self, block: object) -> tuple[int, int]:
        data = pickle.dumps(block, protocol=pickle.HIGHEST_PROTOCOL)
        start = self.bytes
        self._file.write(data)
        self.bytes += len(data)
        return start, len(data)

    def replay(self) -> Iterator[Transaction]:
        """Every transaction in the order it came; a huge one reads its changes from the file when iterated."""
        self._flush()
        self._file.flush()
        for start, length in self._index:
            for entry in self._read(start, length):
                changes: Iterable[Changes] = [self._build(part) for part in entry.parts]
                if entry.blocks:
                    changes = _Blocks(self, entry.blocks)
                yield Transaction(
                    entry.position, entry.commit_time, changes, entry.rows, entry.size, bool(entry.blocks)
                )

    def _read(self, start: int, length: int) -> list[_Entry]:
        entries: list[_Entry] = pickle.loads(os.pread(self._file.fileno(), length, start))
        return entries

    def read_block(self, start: int, length: int) -> list[Changes]:
        """The changes of one block of a huge transaction."""
        parts: list[_Part] = pickle.loads(os.pread(self._file.fileno(), length, start))
        return [self._build(part) for part in parts]

    def _build(self, part: _Part) -> Changes:
        place, op, before, after, size, no_foreign_key_checks = part
        return Changes(self._tables[place], op, before, after, size, no_foreign_key_checks)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The changes of a huge transaction; keeps the file open for as long as someone may iterate."""

    held: Held
    blocks: tuple[tuple[int, int], ...]

    def __iter__(self) -> Iterator[Changes]:
        for start, length in self.blocks:
            yield from self.held.read_block(start, length)
