"""The initial load: tables cut into chunks, copied by several workers, resumable table by table.

Beside the stream: a snapshot comes from ``readers.base``, each of its sessions gets a ``worker``; ``provision`` makes,
empties and completes the tables. A table that was not finished is emptied and loaded again; one that was is never touched
again. The stream keeps the changes of a table from before its snapshot was taken, so whatever the load does not see, the
stream brings.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Final, Protocol

from replicator.checkpoint import Lease
from replicator.config.selection import Selection
from replicator.errors import (
    ReplicatorError,
    SnapshotLost,
    SourceError,
    SourceLocked,
    SourceUnavailable,
    TargetUnavailable,
)
from replicator.load import existing
from replicator.load.chunk import ChunkWriter, Stopped
from replicator.load.jobs import Copy, Jobs
from replicator.load.progress import Progress, TableSummary
from replicator.load.provision import Orphans, open_barrier, prepare_tables
from replicator.load.provision import add_foreign_keys as _add_foreign_keys
from replicator.load.worker import Abandoned, Worker
from replicator.model import Position, TableName, TableSchema
from replicator.patience import log_outage, persist
from replicator.readers.base import Reader, Snapshot
from replicator.session import Session, connect_patiently
from replicator.tablestate import State, TableState, read_tables, set_table

__all__ = ["Ends", "Loader", "add_foreign_keys", "prepare_tables"]

log = logging.getLogger("replicator")

FRUITLESS_SECONDS: Final = 1.0
FRUITLESS_ROUNDS: Final = 5  # snapshots in a row that were lost before one table was done
ATTEMPTS: Final = 1 << 20  # how often one run may begin a table
BLOCKED_SECONDS: Final = 600.0  # how long others may keep the tables from us, by locks and ALTERs


class Ends(Protocol):
    """Both ends of a pipeline, as far as a load needs them."""

    @property
    def reader(self) -> Reader: ...
    @property
    def session(self) -> Session: ...
    @property
    def lease(self) -> Lease: ...
    @property
    def selection(self) -> Selection: ...
    @property
    def tables(self) -> Sequence[TableSchema]: ...


class Loader:
    """Loads ``tables``; ``run`` blocks until all are loaded or ``stop`` is set, and may run once.

    ``on_loaded(table, position)`` is called by a worker's thread as soon as a table stands complete at its position; of a
    set of ``inseparable`` tables when all do, at one position: where one of them is lost, all are loaded again. No
    snapshot older than ``not_before`` is used. ``run`` raises the first error of any worker, after the table's state was
    set to ``error``.
    """

    def __init__(
        self,
        ends: Ends,
        tables: Sequence[TableSchema],
        *,
        workers: int,
        inseparable: Sequence[frozenset[TableName]] = (),
        not_before: Position | None = None,
        on_loaded: Callable[[TableSchema, Position], None],
        stop: threading.Event,
    ) -> None:
        self.progress = Progress(tables)
        self._ends = ends
        self._pending = sorted(tables, key=lambda table: -max(table.bytes_estimate, table.rows_estimate))
        self._workers = max(1, workers)
        self._on_loaded = on_loaded
        self._stop = stop
        self._halt = threading.Event()  # told to stop, or another worker has failed
        self._errors: list[BaseException] = []
        self._unit_of = {name: names for names in inseparable for name in names}
        self._inseparable = inseparable
        self._not_before = not_before
        self._finished: dict[TableName, tuple[TableSchema, Position]] = {}
        self._told: set[TableName] = set()
        self._abandoned: set[TableName] = set()
        self._deciding = threading.RLock()
        self._states: Mapping[TableName, TableState] = {}
        self._writers: list[ChunkWriter] = []
        self._waiting = ""
        self._snapshot_since: float | None = None
        self._blocked = ""  # what the last round was given up for
        self._blocked_since = 0.0
        self._attempts = itertools.count(1)

    # -- what is seen ------------------------------------------------------------------------------------------------

    @property
    def waiting_for(self) -> str:
        """What an outage makes the load wait for, '' when nothing."""
        return self._waiting or next((w.waiting_for for w in self._writers if w.waiting_for), "")

    @property
    def snapshot_seconds(self) -> float | None:
        """The age of the snapshot that is open: what the source cannot purge grows with it (SEMANTICS §2.8)."""
        since = self._snapshot_since
        return None if since is None else time.monotonic() - since

    def describe(self) -> str:
        """One line for people: how far, how fast, how long still; '' when there is nothing to load."""
        seen = self.progress.observe(time.monotonic())
        if not seen.tables or seen.tables_done == seen.tables:
            return ""
        eta = "" if seen.eta_seconds is None else f", {_format_seconds(seen.eta_seconds)} left"
        return (
            f"{seen.fraction:.1%} of {seen.tables} tables, {seen.rows:,} of about {seen.rows_expected:,} rows,"
            f" {seen.rows_per_second:,.0f} rows/s, {seen.bytes_per_second / 1e6:,.1f} MB/s{eta}"
        )

    def progress_of(self, name: TableName) -> tuple[int, float | None] | None:
        """Rows loaded and the fraction done of one table; None where it was not this load's to copy."""
        return self.progress.observe_table(name)

    def summarize(self) -> list[TableSummary]:
        """One line a table, for the end."""
        return self.progress.summarize(time.monotonic())

    def note_blocked(self, reason: str) -> None:
        """A worker has given its snapshot up for the source's own work."""
        self._blocked = reason

    @property
    def pipeline(self) -> str:
        return self._ends.lease.pipeline

    def count_attempt(self) -> int:
        """A number above that of every earlier attempt to load a table, in this run or before it."""
        return self._ends.lease.epoch * ATTEMPTS + next(self._attempts)

    def is_abandoned(self, name: TableName) -> bool:
        return name in self._abandoned

    # -- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Load everything that is pending, from as many snapshots as it takes."""
        if not self._pending:
            return
        with ExitStack() as stack:
            over = threading.Event()
            stack.callback(over.set)
            threading.Thread(target=self._watch, args=(over,), name="load-watch", daemon=True).start()
            try:
                self._open_writers(stack)
                self._states = self._writers[0].call(_read_states)
                self._run_rounds()
                self._drop_keys_tables()
            except TargetUnavailable:
                if not self._stop.is_set():  # told to stop while waiting
                    raise

    def _watch(self, over: threading.Event) -> None:
        """Workers look at one event only: it is set when we are told to stop, as it is when one of them fails."""
        while not over.wait(0.1):
            if self._stop.is_set():
                self._halt.set()
                return

    def _open_writers(self, stack: ExitStack) -> None:
        endpoint, lease = self._ends.session.endpoint, self._ends.lease
        for number in range(1, self._workers + 1):
            writer = ChunkWriter(endpoint, lease, number, stop=self._halt, report=self._report)
            self._writers.append(stack.enter_context(closing(writer)))
        self.barrier = stack.enter_context(open_barrier(endpoint, lease, self._halt, self._report))

    def _run_rounds(self) -> None:
        fruitless = 0
        while self._find_pending() and not self._stop.is_set():
            done = len(self._finished)
            snapshot = self._open_snapshot()
            if snapshot is None:
                return
            self._snapshot_since = time.monotonic()
            with closing(snapshot):
                self._copy(snapshot)
            self._snapshot_since = None
            if self._errors:
                raise self._errors[0]
            self._take_back_halves()
            fruitless = 0 if len(self._finished) > done or self._is_blocked_briefly() else fruitless + 1
            if fruitless and self._find_pending():
                self._rest(fruitless)

    def _drop_keys_tables(self) -> None:
        """Only now: of a set that is inseparable, a table that was complete may have been loaded again."""
        told = [
            (table.source, table.target) for table, _ in self._finished.values() if table.source in self._told
        ]
        self._writers[0].call(
            lambda session, _: existing.drop_keys_tables(session, self.barrier, self.pipeline, told)
        )

    def _is_blocked_briefly(self) -> bool:
        """Whether the round was given up for the source's own work, which may take a while; says so, and rests."""
        if not self._blocked:
            self._blocked_since = 0.0
            return False
        reason, self._blocked = self._blocked, ""
        self._blocked_since = self._blocked_since or time.monotonic()
        if time.monotonic() - self._blocked_since > BLOCKED_SECONDS:
            return False
        self._report(f"source: {reason}")
        self._pending = self._pending[1:] + self._pending[:1]  # others need not wait for this one
        self._halt.wait(FRUITLESS_SECONDS)
        return True

    def _find_pending(self) -> list[TableSchema]:
        self._pending = [
            table
            for table in self._pending
            if table.source not in self._finished and table.source not in self._abandoned
        ]
        return self._pending

    def _rest(self, fruitless: int) -> None:
        """The stream may be about to hear why: a table that was altered is abandoned when it does."""
        if not self._halt.wait(FRUITLESS_SECONDS) and self._find_pending() and fruitless >= FRUITLESS_ROUNDS:
            names = ", ".join(str(table.source) for table in self._pending)
            raise SourceUnavailable(
                f"{fruitless} snapshots in a row were lost before one of these tables was loaded: {names}",
                hint="is somebody altering these tables, or ending our sessions, at the source?",
            )

    def _take_back_halves(self) -> None:
        """Tables that are complete, but of whose set another was lost with the snapshot, are loaded again with it."""
        for names in self._inseparable:
            if not names - self._abandoned <= self._finished.keys():
                for name in names & self._finished.keys():
                    del self._finished[name]
                    self.progress.restart(name)

    def _open_snapshot(self) -> Snapshot | None:
        """A snapshot for some of what is pending, waiting through the source's outages; None when told to stop."""
        begun = time.monotonic()

        def attempt() -> Snapshot:
            snapshot = self._ends.reader.open_snapshot(
                self._pending, self._workers, self._stop, self._inseparable
            )
            self._refuse_early(snapshot)
            return snapshot

        def tell(error: ReplicatorError) -> None:
            if isinstance(error, SourceLocked) and time.monotonic() - begun > BLOCKED_SECONDS:
                raise SourceError(
                    f"{error.message}; given up after {BLOCKED_SECONDS:.0f} s", hint=error.hint
                ) from None
            self._report(f"source: {error.message}")
            log.warning("load: %s", error.message)

        try:
            snapshot = persist(attempt, tell=tell, stop=self._stop)
        except (SourceUnavailable, SnapshotLost):
            return None
        self._report("")
        return snapshot

    def _refuse_early(self, snapshot: Snapshot) -> None:
        """A server may show a transaction's position a moment before its rows."""
        if self._not_before is not None and not snapshot.position.covers(self._not_before):
            snapshot.close()
            raise SnapshotLost(f"the snapshot stands at {snapshot.position}, before {self._not_before}")

    def _report(self, text: str) -> None:
        self._waiting = text

    def _copy(self, snapshot: Snapshot) -> None:
        """Run one worker a session until the snapshot's tables are copied, lost, or one worker has failed."""
        options = {table.source: table for table in self._ends.selection.tables}
        exact = {table.source for table in snapshot.tables}
        copies = [
            Copy(table, self._states[table.source].found, options[table.source].existing_rows)
            for table in self._pending
            if table.source in exact
        ]
        jobs = Jobs(copies)
        threads = []
        for session, writer in zip(snapshot.sessions, self._writers, strict=False):
            worker = Worker(self, session, writer, snapshot.position, jobs)
            threads.append(threading.Thread(target=self._guard, args=(worker,), name="load", daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guard(self, worker: Worker) -> None:
        try:
            worker.run(self._halt)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - carried to the thread that runs the load, which raises it
            is_outage = isinstance(error, ReplicatorError) and error.retryable
            if not (is_outage and self._halt.is_set()):
                self._errors.append(error)
            self._halt.set()

    def finish(self, table: TableSchema, position: Position) -> None:
        """A worker has completed a table."""
        self.progress.finish(table.source, State.CATCHING_UP, time.monotonic())
        with self._deciding:
            self._finished[table.source] = table, position
            self._tell(self._unit_of.get(table.source, frozenset([table.source])))

    def abandon(self, names: Collection[TableName]) -> None:
        """The stream has paused these tables: they are loaded no further, and none of their states is written again."""
        with self._deciding:
            self._abandoned.update(names)
            for unit in self._inseparable:
                if not unit.isdisjoint(names):
                    self._tell(unit)

    def _tell(self, unit: frozenset[TableName]) -> None:
        wanted = unit - self._abandoned
        if wanted <= self._finished.keys():
            for name in sorted(wanted - self._told):
                self._told.add(name)
                self._on_loaded(*self._finished[name])

    def set_state(self, writer: ChunkWriter, name: TableName, **values: object) -> None:
        """Write what stands of a table, unless it was paused. Raises Abandoned then."""
        with self._deciding:
            if name in self._abandoned:
                raise Abandoned
            writer.call(lambda session, lease: set_table(session, lease, name, **values))


def _read_states(session: Session, lease: Lease) -> Mapping[TableName, TableState]:
    return {state.source: state for state in read_tables(session, lease.pipeline)}


def _format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def add_foreign_keys(
    ends: Ends, tables: Sequence[TableSchema], position: Position, stop: threading.Event
) -> list[Orphans]:
    """Complete a set of tables that has become consistent: its foreign keys, and what they do not hold.

    ``position`` is the applied one, noted with the statements. See ``provision.add_foreign_keys``. A set without any
    costs nothing: there may be a thousand such tables.
    """
    if not any(table.foreign_keys for table in tables):
        return []
    endpoint, lease = ends.session.endpoint, ends.lease
    selected = {table.source: table for table in ends.tables}
    with open_barrier(endpoint, lease, stop) as barrier:
        session, orphans = connect_patiently(
            endpoint,
            loads=False,
            stop=stop,
            report=log_outage,
            prepare=lambda session: _add_foreign_keys(  # all of it: what is there already is left alone
                session, barrier, tables, selected, _read_states(session, lease), position=str(position)
            ),
        )
    session.close()
    return orphans
