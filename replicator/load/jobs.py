"""What the workers of one snapshot do next: begin a table, copy one of its ranges, complete it.

Between ``load``, which opens snapshots, and its workers. No I/O.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from replicator.config import ExistingRows
from replicator.load.existing import Merge
from replicator.model import TableSchema
from replicator.readers.base import KeyRange
from replicator.tablestate import Found

CHUNK_ROWS: Final = 50_000  # so many that commits cost little, so few that all workers end together
CHUNK_BYTES: Final = 16 << 20
FEWEST_ROWS: Final = 100


@dataclass(slots=True)
class Copy:
    """One table on its way out of one snapshot. ``merge`` is None where only we fill the target."""

    table: TableSchema
    found: Found
    rows: ExistingRows
    begun: bool = False
    completing: bool = False
    lost: bool = False
    running: int = 0
    chunks: int = 0
    spans: deque[tuple[int, KeyRange]] = field(default_factory=deque)
    merge: Merge | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker does next: begin the table (``span`` None), or copy one of its ranges, the ``number``-th."""

    copy: Copy
    number: int = 0
    span: KeyRange | None = None


class Jobs:
    """The work of one snapshot, shared by its workers: large tables first, several workers to a table."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = copies
        self._changed = threading.Condition()

    def take(self, stop: threading.Event) -> Job | None:
        """The next job; waits while others may still make some; None when there will be none."""
        with self._changed:
            while not stop.is_set():
                job = self._find()
                if job is not None:
                    job.copy.running += 1
                    return job
                if not any(copy.running for copy in self._copies):
                    return None
                self._changed.wait(0.2)
        return None

    def _find(self) -> Job | None:
        for copy in self._copies:
            if copy.lost:
                continue
            if not copy.begun:
                copy.begun = True
                return Job(copy)
            if copy.spans:
                return Job(copy, *copy.spans.popleft())
        return None

    def add(self, copy: Copy, spans: Sequence[KeyRange]) -> None:
        with self._changed:
            copy.chunks = len(spans)
            copy.spans.extend(enumerate(spans, 1))
            self._changed.notify_all()

    def give_up(self) -> list[TableSchema]:
        """The snapshot is to be closed as soon as may be: what is not nearly done is lost; returns those tables."""
        with self._changed:
            lost = [copy for copy in self._copies if not copy.completing]
            for copy in lost:
                copy.lost = True
            return [copy.table for copy in lost]

    def finish(self, copy: Copy, *, lost: bool = False) -> bool:
        """A job has ended. True: it was the table's last, and the caller has one more job, which is to complete it."""
        with self._changed:
            copy.lost |= lost
            is_last = copy.running == 1 and not copy.spans and not copy.lost and not copy.completing
            if is_last:
                copy.completing = True
            else:
                copy.running -= 1
            self._changed.notify_all()
            return is_last


def count_chunk_rows(table: TableSchema) -> int:
    """Rows a chunk, so that it has about ``CHUNK_BYTES`` at most."""
    if not table.rows_estimate or not table.bytes_estimate:
        return CHUNK_ROWS
    width = table.bytes_estimate / table.rows_estimate
    return max(FEWEST_ROWS, min(CHUNK_ROWS, int(CHUNK_BYTES / width)))
