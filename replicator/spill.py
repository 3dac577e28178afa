"""Changes that do not fit in memory, on disk: a file that is appended to, cut back, and read as often as needed.

The file has no name: it is gone with the process, however that ends, because after a crash the source is read again.
A block holds about 1 MiB of row images, or one larger event, and memory one block at a time (I9).
"""

from __future__ import annotations

import bisect
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Final

from replicator.errors import ReplicatorError
from replicator.model import Changes, Op, Row, TableSchema


class SpillFull(ReplicatorError):
    """The directory for spilled transactions has no room, or cannot be written."""

    code = "spill_full"
    exit_code = 4


BLOCK_BYTES: Final = 1 << 20  # of row images

_Part = tuple[int, Op, Sequence[Row], Sequence[Row], int, bool]


class Spill:
    """An ordered, re-iterable collection of ``Changes``. ``len`` is the number of changes; it is its own mark.

    ``directory`` None is the system's own for temporary files. Iteration may run while nothing is appended any more, in
    several places at once.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._tables: list[TableSchema] = []
        self._numbers: dict[TableSchema, int] = {}
        self._blocks: list[tuple[int, int]] = []  # where each block ends: changes, bytes
        self._pending: list[_Part] = []
        self._pending_size = 0
        self._directory = directory
        try:
            self._file = tempfile.TemporaryFile(dir=directory, prefix="replicator-spill-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _explain(error, directory) from error

    @classmethod
    def of(cls, changes: Iterable[Changes], directory: Path | None) -> Spill:
        """What was in memory until now, on disk."""
        spill = cls(directory)
        for part in changes:
            spill.append(part)
        return spill

    def __len__(self) -> int:
        return self._end()[0] + len(self._pending)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self._end()[1]

    def _end(self) -> tuple[int, int]:
        return self._blocks[-1] if self._blocks else (0, 0)

    def append(self, changes: Changes) -> None:
        """Add one event's changes at the end. Raises SpillFull."""
        number = self._numbers.setdefault(changes.table, len(self._tables))
        if number == len(self._tables):
            self._tables.append(changes.table)
        self._pending.append((number, *changes[1:]))
        self._pending_size += changes.size
        if self._pending_size >= BLOCK_BYTES:
            self._write()

    def _write(self) -> None:
        count, at = self._end()
        view = memoryview(pickle.dumps(self._pending, protocol=pickle.HIGHEST_PROTOCOL))
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise _explain(error, self._directory) from error
        self._blocks.append((count + len(self._pending), at))
        self._pending, self._pending_size = [], 0

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` changes."""
        if length >= self._end()[0]:
            del self._pending[length - self._end()[0] :]
            return
        self._pending, self._pending_size = [], 0
        while length < self._end()[0]:
            last = self._blocks.pop()
            if length > self._end()[0]:
                self._pending = self._read(self.bytes, last[1])[: length - self._end()[0]]
        os.ftruncate(self._file.fileno(), self.bytes)

    def __iter__(self) -> Iterator[Changes]:
        return self.between(0, None)

    def between(self, begin: int, end: int | None) -> Iterator[Changes]:
        """The changes from number ``begin`` up to ``end`` (None: the last one), without reading those before."""
        first = bisect.bisect_right(self._blocks, begin, key=itemgetter(0))
        count, start = self._blocks[first - 1] if first else (0, 0)
        return islice(self._iterate(first, start), begin - count, None if end is None else end - count)

    def _iterate(self, first: int, start: int) -> Iterator[Changes]:
        """All changes from a block on, which begins at byte ``start``."""
        for _, end in islice(self._blocks, first, None):
            yield from self._build(self._read(start, end))
            start = end
        yield from self._build(self._pending)

    def _build(self, parts: list[_Part]) -> Iterator[Changes]:
        for number, op, before, after, size, no_checks in parts:
            yield Changes(self._tables[number], op, before, after, size, no_checks)

    def _read(self, start: int, end: int) -> list[_Part]:
        parts: list[_Part] = pickle.loads(_read(self._file.fileno(), start, end))
        return parts

    def close(self) -> None:
        self._file.close()


def _read(file: int, start: int, end: int) -> bytes:
    block = os.pread(file, end - start, start)
    while len(block) < end - start:
        piece = os.pread(file, end - start - len(block), start + len(block))
        if not piece:
            raise EOFError(f"a spilled transaction ends at {start + len(block)}, {end} expected")
        block += piece
    return block


def _explain(error: OSError, directory: Path | None) -> SpillFull:
    return SpillFull(
        f"{directory or tempfile.gettempdir()}: a large transaction cannot be kept aside: {error.strerror}",
        hint="make room there, or name another directory in TMPDIR",
    )
