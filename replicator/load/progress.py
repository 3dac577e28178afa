"""How far an initial load has come: rows, bytes, rate and ETA beside the flow, pure, with the clock handed in.

Row counts of a source are estimates, often stale. So what is left of a table is projected from the chunks that
are copied, and the more of them there are the less the estimate counts; a figure never passes 100 %, never shows
100 % before the end, and never goes back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from replicator.model import TableName, TableSchema

WINDOW = (
    15.0  # seconds over which the rate is taken: short enough to follow a stall, long enough to stand still
)
SAMPLE_EVERY = 0.25  # seconds between two samples kept in the window
SETTLED = 2.0  # seconds of copying before an ETA is worth printing
NOT_DONE = 0.999  # the most that anything unfinished shows


class TableSummary(NamedTuple):
    """One line of the summary at the end. ``seconds`` from the first chunk to the last, ``state`` as in `status`."""

    source: TableName
    target: str
    state: str
    rows: int
    bytes: int
    seconds: float
    rows_per_second: float


class Figures(NamedTuple):
    """The load as a whole at one moment. ``eta_seconds`` is None while nobody can know."""

    rows: int
    rows_expected: int
    bytes: int
    fraction: float
    rows_per_second: float
    bytes_per_second: float
    eta_seconds: float | None
    tables_done: int
    tables: int


@dataclass(slots=True)
class TableProgress:
    """What is known of one table's copy; times are seconds of the caller's monotonic clock."""

    source: TableName
    target: str
    rows_estimate: int
    bytes_estimate: int
    rows: int = 0
    bytes: int = 0
    chunks: int = 0
    chunks_done: int = 0
    started: float | None = None
    finished: float | None = None
    state: str = "pending"

    @property
    def rows_expected(self) -> int:
        """Rows the table will have had when it is done: the estimate gives way to what the chunks show."""
        if self.finished is not None:
            return self.rows
        if not self.chunks_done or not self.chunks:
            return max(self.rows_estimate, self.rows)
        seen = self.chunks_done / self.chunks
        projected = self.rows / self.chunks_done * self.chunks
        return max(self.rows, round(self.rows_estimate * (1 - seen) + projected * seen))

    @property
    def fraction(self) -> float:
        """0.0 to 1.0; 1.0 only when the table is done."""
        if self.finished is not None:
            return 1.0
        if not self.rows:
            return 0.0
        return min(NOT_DONE, self.rows / self.rows_expected)

    @property
    def weight(self) -> float:
        """The table's share of the work, in bytes; a table without statistics counts by its rows."""
        return float(max(self.bytes_estimate, self.rows_estimate, self.bytes, 1))

    def summarize(self, now: float) -> TableSummary:
        begin = self.started if self.started is not None else now
        seconds = max(0.0, (self.finished if self.finished is not None else now) - begin)
        rate = self.rows / seconds if seconds > 0 else 0.0
        return TableSummary(self.source, self.target, self.state, self.rows, self.bytes, seconds, rate)


class _Sample(NamedTuple):
    time: float
    rows: int
    bytes: int
    fraction: float


class Progress:
    """Counts of all tables of one load; any thread may report, any thread may look."""

    def __init__(self, tables: Iterable[TableSchema] = ()) -> None:
        self._lock = threading.Lock()
        self._tables: dict[TableName, TableProgress] = {}
        self._samples: deque[_Sample] = deque()
        self._highest = 0.0
        for table in tables:
            self.add(table)

    def add(self, table: TableSchema) -> None:
        """Announce a table that will be loaded; announcing it again starts its count anew."""
        with self._lock:
            self._tables[table.source] = TableProgress(
                table.source, table.target, table.rows_estimate, table.bytes_estimate
            )
            self._highest = 0.0
            self._samples.clear()

    def restart(self, source: TableName) -> None:
        """A table is copied from the start again: what it had counted no longer exists."""
        with self._lock:
            table = self._tables[source]
            table.rows = table.bytes = table.chunks = table.chunks_done = 0
            table.started = table.finished = None
            table.state = "pending"
            self._highest = 0.0
            self._samples.clear()

    def begin(self, source: TableName, chunks: int, now: float) -> None:
        with self._lock:
            table = self._tables[source]
            table.chunks, table.started, table.state = chunks, now, "loading"

    def finish_chunk(self, source: TableName, rows: int, size: int, now: float) -> None:
        """One chunk is committed: ``rows`` rows that took ``size`` bytes on the way to the target."""
        with self._lock:
            table = self._tables[source]
            table.rows += rows
            table.bytes += size
            table.chunks_done += 1
            self._sample(now)

    def finish(self, source: TableName, state: str, now: float) -> None:
        with self._lock:
            table = self._tables[source]
            table.finished, table.state = now, state
            self._sample(now)

    def fail(self, source: TableName) -> None:
        with self._lock:
            self._tables[source].state = "error"

    def observe(self, now: float) -> Figures:
        """Everything at once, as of ``now``."""
        with self._lock:
            self._sample(now)
            last = self._samples[-1]
            rows_rate, bytes_rate, pace = self._rates(now)
            left = 1.0 - last.fraction
            eta = left / pace if pace > 0 else None
            tables = self._tables.values()
            return Figures(
                rows=last.rows,
                rows_expected=sum(table.rows_expected for table in tables),
                bytes=last.bytes,
                fraction=last.fraction,
                rows_per_second=rows_rate,
                bytes_per_second=bytes_rate,
                eta_seconds=0.0 if left <= 0 else eta,
                tables_done=sum(table.finished is not None for table in tables),
                tables=len(tables),
            )

    def observe_table(self, source: TableName) -> tuple[int, float] | None:
        """Rows and fraction of one table; None for a table that is not part of this load."""
        with self._lock:
            table = self._tables.get(source)
            return None if table is None else (table.rows, table.fraction)

    def summarize(self, now: float) -> list[TableSummary]:
        """One line a table, in the order they were announced."""
        with self._lock:
            return [table.summarize(now) for table in self._tables.values()]

    def _fraction(self) -> float:
        tables = self._tables.values()
        if all(table.finished is not None for table in tables):
            return 1.0
        total = sum(table.weight for table in tables)
        done = sum(table.weight * table.fraction for table in tables)
        self._highest = max(self._highest, min(NOT_DONE, done / total))
        return self._highest

    def _sample(self, now: float) -> None:
        """Keep the window: one sample each ``SAMPLE_EVERY``, the newest always, and one at least ``WINDOW`` old."""
        samples = self._samples
        rows = sum(table.rows for table in self._tables.values())
        size = sum(table.bytes for table in self._tables.values())
        if len(samples) > 1 and now - samples[-2].time < SAMPLE_EVERY:
            samples.pop()
        samples.append(_Sample(now, rows, size, self._fraction()))
        while len(samples) > 2 and now - samples[1].time >= WINDOW:
            samples.popleft()

    def _rates(self, now: float) -> tuple[float, float, float]:
        """Rows, bytes and fraction a second over the window; the fraction is 0 until the figures have settled."""
        first, last = self._samples[0], self._samples[-1]
        starts = [table.started for table in self._tables.values() if table.started is not None]
        seconds = now - first.time
        if seconds <= 0 or not starts:
            return 0.0, 0.0, 0.0
        settled = now - min(starts) >= SETTLED
        pace = (last.fraction - first.fraction) / seconds if settled else 0.0
        return (last.rows - first.rows) / seconds, (last.bytes - first.bytes) / seconds, pace
