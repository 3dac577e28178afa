"""Changes that do not fit in memory, on disk: a file that is appended to, cut back, and read as often as needed.

The file has no name: it is gone with the process, however that ends, because after a crash the source is read again.
Each ``Changes`` is one block, so memory holds one row event at a time (I9).
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path

from replicator.errors import ReplicatorError
from replicator.model import Changes, TableSchema


class SpillFull(ReplicatorError):
    """The directory for spilled transactions has no room, or cannot be written."""

    code = "spill_full"
    exit_code = 4


class Spill:
    """An ordered, re-iterable collection of ``Changes``. ``len`` is the number of changes; it is its own mark.

    ``directory`` None is the system's own for temporary files. Iteration may run while nothing is appended any more, in
    several places at once.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._tables: list[TableSchema] = []
        self._numbers: dict[TableSchema, int] = {}
        self._ends: list[int] = []  # where each block ends
        try:
            self._file = tempfile.TemporaryFile(dir=directory, prefix="replicator-spill-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _explain(error, directory) from error
        self._directory = directory

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self._ends[-1] if self._ends else 0

    def append(self, changes: Changes) -> None:
        """Add one event's changes at the end. Raises SpillFull."""
        number = self._numbers.setdefault(changes.table, len(self._tables))
        if number == len(self._tables):
            self._tables.append(changes.table)
        block = pickle.dumps((number, *changes[1:]), protocol=pickle.HIGHEST_PROTOCOL)
        at, view = self.bytes, memoryview(block)
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, at)
                view, at = view[written:], at + written
        except OSError as error:
            raise _explain(error, self._directory) from error
        self._ends.append(at)

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` changes."""
        del self._ends[length:]
        os.ftruncate(self._file.fileno(), self.bytes)

    def __iter__(self) -> Iterator[Changes]:
        start = 0
        for end in self._ends:
            number, *rest = pickle.loads(_read(self._file.fileno(), start, end))
            yield Changes(self._tables[number], *rest)
            start = end

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
