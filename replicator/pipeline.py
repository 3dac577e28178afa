"""Wiring and life cycle of one pipeline: the only module that knows both ends.

Three threads form a line: one reads and cuts batches, one plans and renders, one applies; the load runs beside them. The
first error of any of them ends all.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from replicator.apply import Applier, Prepared
from replicator.coercion import may_coerce
from replicator.console import TableView, View
from replicator.errors import PausedTables, ReplicatorError, SourceError, SourceTaken
from replicator.foreignkeys import build_dependants, build_groups, find_check_reasons
from replicator.held import Held
from replicator.line import Aborted, Line
from replicator.load import Loader, add_foreign_keys
from replicator.load.progress import TableSummary
from replicator.metrics import Metrics
from replicator.model import Batch, Checkpoint, Heartbeat, Position, StreamItem, TableName, TableSchema
from replicator.plan import build_descents, build_edges
from replicator.plan.park import build_lot
from replicator.prepare import Preparer
from replicator.sql import Limits
from replicator.startup import Opened
from replicator.stream import BatchLimits, Constrain, Emitted, Pause, Route, Settle, Stream
from replicator.tablestate import State, StatusLine
from replicator.truncation import truncate

log = logging.getLogger("replicator")

Until = Literal["stopped", "current", "loaded"]
POLL_SECONDS = 0.5
FRAME_SECONDS = 0.1
DEPTH = 2  # batches between stream and commit before a quiet source's next one waits
RATE_FRAMES = 50


@dataclass(frozen=True, slots=True)
class Options:
    """How a pipeline runs. ``workers`` load side by side; ``spill_dir`` holds what does not fit in memory."""

    until: Until = "stopped"
    workers: int = 2
    limits: BatchLimits = field(default_factory=BatchLimits)
    spill_dir: Path | None = None


class _End:
    """Nothing more comes down the line."""


_END = _End()


class Pipeline:
    """An opened pipeline. ``run`` blocks until stopped (``stop``, from anywhere), done, or failed."""

    def __init__(self, opened: Opened, options: Options, stop: threading.Event) -> None:
        self._opened = opened
        self._options = options
        self._stop = stop
        self._abort = threading.Event()
        self._errors: list[BaseException] = []
        self._metrics = Metrics()
        self._metrics.lag.clock_offset = lambda: opened.reader.clock_offset
        self._metrics.lag.begin(opened.current, opened.position)
        self._states = {table.source: opened.states[table.source].state for table in opened.tables}
        self._schemas = {table.source: table for table in opened.tables}
        self._emitted = self._applied = 0
        self._applied_position = opened.position
        self._last_transactions = 0
        self._blocked_by = ""
        self._frames: deque[tuple[float, int]] = deque(maxlen=RATE_FRAMES)
        self._to_prepare: Line[Emitted | _End] = Line(1, self._abort)
        self._to_apply: Line[Prepared | Pause | Constrain | Settle | _End] = Line(1, self._abort)
        self._wanted = opened.current if options.until == "current" else None
        groups = [frozenset(table.source for table in group) for group in build_groups(opened.tables)]
        settled = {name for group in groups if all(map(self._is_settled, group)) for name in group}
        self._unsettled = set(self._schemas) - settled
        pending = [table for table in opened.tables if self._is_pending(table.source)]
        self._states.update((table.source, State.PENDING) for table in pending)
        self._stream = Stream(
            routes=self._build_routes(groups, pending, settled),
            groups=groups,
            position=opened.position,
            read_from=opened.read_from,
            emit=self._emit,
            is_free=lambda: self._emitted - self._applied < DEPTH,
            lag=self._metrics.lag,
            limits=options.limits,
            torn=opened.torn,
            is_stopping=stop.is_set,
            restart_from=opened.reader.restart_from,
            dependants=build_dependants(opened.tables, cascades_logged=opened.cascades_logged),
        )
        self._applier = Applier(opened.session, opened.lease, status=self._build_status, stop=stop)
        self._preparer = self._build_preparer()
        self._loader = Loader(
            opened,
            pending,
            workers=options.workers,
            inseparable=opened.inseparable,
            not_before=opened.current,
            on_loaded=self._take_loaded,
            stop=stop,
        )

    # -- building ---------------------------------------------------------------------------------------------------

    def _is_settled(self, name: TableName) -> bool:
        return self._states[name] in (State.STREAMING, State.PAUSED)

    def _is_pending(self, name: TableName) -> bool:
        return not self._opened.is_loaded(name) and self._states[name] is not State.PAUSED

    def _build_routes(
        self,
        groups: Iterable[frozenset[TableName]],
        pending: Iterable[TableSchema],
        settled: Collection[TableName],
    ) -> list[Route]:
        """One route a table; tables that load and are joined by foreign keys share what is held for them."""
        held: dict[TableName, Held] = {}
        for group in groups:
            tables = [table for table in pending if table.source in group]
            if tables:
                shared = Held(tables, self._options.spill_dir)
                held |= {table.source: shared for table in tables}
        return [
            self._build_route(table, held.get(table.source), table.source in settled)
            for table in self._opened.tables
        ]

    def _build_route(self, table: TableSchema, held: Held | None, is_settled: bool) -> Route:
        state = self._opened.states[table.source]
        if state.state is State.PAUSED:
            return Route(table, paused=state.error or "paused", settled=is_settled)
        own = self._opened.own_position(table.source) if held is None else None
        return Route(table, own=own, held=held, settled=is_settled)

    def _build_preparer(self) -> Preparer:
        """Foreign key checks are on only where they do work (SEMANTICS §5.4)."""
        opened = self._opened
        reasons = find_check_reasons(
            opened.tables, cascades_logged=opened.cascades_logged, external=opened.external
        )
        capabilities = opened.session.capabilities
        return Preparer(
            Limits(capabilities.max_allowed_packet, capabilities.local_infile),
            is_checking=bool(reasons),
            cascades_logged=opened.cascades_logged,
            parents=build_edges(opened.tables),
            unsettled=self._unsettled,
            partial=not opened.reader.sends_whole_rows,
            is_coercing=may_coerce(opened.tables),
            is_deferring=any(map(build_lot, opened.tables)),
            descents={} if capabilities.follows_circles else build_descents(opened.tables),
        )

    # -- life cycle -------------------------------------------------------------------------------------------------

    def run(self, show: Callable[[View], None]) -> None:
        """Load, mirror, until stopped or done. Raises the first error; PausedTables when tables are paused at the end."""
        # The position is stored before anything is loaded: a load that is killed goes on from here (I1).
        self._applier.apply(self._build_first())
        if self._wanted is not None:
            self._stream.want(self._wanted)
        threads = [
            threading.Thread(target=self._guard, args=(stage,), name=stage.__name__.strip("_"), daemon=True)
            for stage in (self._read, self._prepare, self._apply, self._loader.run)
        ]
        for thread in threads:
            thread.start()
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(FRAME_SECONDS)
            if self._is_done():
                self._stop.set()
            show(self.view())
        try:
            self._raise_first()
        finally:
            self._applier.close()
        self._report_undecided()
        self._report_paused()

    def _build_first(self) -> Prepared:
        opened = self._opened
        return Prepared(
            Batch(Checkpoint(opened.position, opened.read_from, opened.torn), (), 0, 0, 0), (), {}
        )

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Aborted:
            pass
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, which raises it
            is_outage = isinstance(error, ReplicatorError) and error.retryable
            if not (is_outage and self._stop.is_set()):  # told to end while an end was away: nothing is lost
                self._errors.append(error)
            self._abort.set()
            self._stop.set()

    def _raise_first(self) -> None:
        """Raise the first error; a log that another process reads now is the sign of a newer one of this pipeline."""
        if not self._errors:
            return
        if isinstance(self._errors[0], SourceTaken):
            self._applier.keepalive(None, now=True)  # Fenced, naming the newcomer
        raise self._errors[0]

    def _is_done(self) -> bool:
        if self._options.until == "stopped" or self._unsettled:
            return False
        # What is undecided there is known once it was read, although it may be applied long since.
        wanted = self._wanted
        return wanted is None or (self._applied_position.covers(wanted) and self._stream.has_read(wanted))

    def _report_undecided(self) -> None:
        """What `--until-current` does not wait for (SEMANTICS §11)."""
        for name in self._opened.reader.undecided():
            log.warning("XA transaction %s is prepared at the source and undecided: its rows follow it", name)

    def _report_paused(self) -> None:
        paused = [name for name, state in self._states.items() if state is State.PAUSED]
        if paused:
            raise PausedTables(
                f"paused: {', '.join(map(str, paused))}",
                hint="`replicator status` says why; then `replicator drop`, mend or drop the table, and load anew",
            )

    # -- stages -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._stream.run(self._read_items())
        except SourceError as error:  # what was read before it is whole, and is applied before the run ends
            self._errors.append(error)
            self._stop.set()
        self._to_prepare.put(_END)

    def _read_items(self) -> Iterator[StreamItem]:
        """The stream. Tables that are to be loaded join where the run began, which no snapshot is older than: what the
        log says of them before, in rows of whatever shape and in statements, is none of their business."""
        opened = self._opened
        position = opened.read_from
        loaded = [table for table in opened.tables if not self._is_pending(table.source)]
        since = {t.source: opened.own_position(t.source) or opened.position for t in loaded}
        if len(loaded) < len(opened.tables) and not position.covers(opened.current):
            with contextlib.closing(opened.reader.read(position, loaded, self._stop, since)) as items:
                for item in items:
                    yield item
                    if not isinstance(item, Heartbeat) and (position := item.position).covers(opened.current):
                        break
        yield from opened.reader.read(position, opened.tables, self._stop, since)

    def _emit(self, item: Emitted) -> None:
        if isinstance(item, Batch):
            self._emitted += 1
        elif isinstance(item, Pause):
            self._loader.abandon(item.tables)
        self._to_prepare.put(item)

    def _prepare(self) -> None:
        while not isinstance(item := self._to_prepare.get(POLL_SECONDS), _End):
            if item is None:
                continue
            if isinstance(item, Constrain):
                self._preparer.constrain(item.tables)
            self._to_apply.put(self._preparer.prepare(item) if isinstance(item, Batch) else item)
        self._to_apply.put(_END)

    def _apply(self) -> None:
        while not isinstance(item := self._to_apply.get(POLL_SECONDS), _End):
            if item is None:
                self._applier.keepalive(None)
            elif isinstance(item, Prepared):
                self._apply_batch(item)
            elif isinstance(item, Pause):
                self._pause(item)
            elif isinstance(item, Constrain):
                self._constrain(item)
            else:
                self._settle(item)
        self._applier.keepalive(None, now=True)

    def _apply_batch(self, prepared: Prepared) -> None:
        batch = prepared.batch
        if batch.truncated is not None and self._truncate(batch.truncated, batch.checkpoint.position):
            prepared = replace(prepared, packets=(), replan=None)
        applied = self._applier.apply(prepared)
        self._applied += 1
        self._applied_position = batch.checkpoint.position
        self._last_transactions = batch.transactions
        self._metrics.add(batch, applied.counts, applied.conflicts)
        self._opened.reader.ack(batch.checkpoint.read_from)

    def _truncate(self, table: TableSchema, position: Position) -> bool:
        return truncate(
            self._applier.committer, table, position, stop=self._stop, report=self._report_blocked
        )

    def _report_blocked(self, text: str) -> None:
        """A statement that commits by itself waits: the status row says so, and a newcomer is heard of meanwhile."""
        self._blocked_by = text
        if text:
            self._applier.keepalive(None, now=True)

    def _pause(self, pause: Pause) -> None:
        for name in pause.tables:
            log.warning("%s is paused: %s", name, pause.reason)
            self._set_state(name, State.PAUSED, error=pause.reason, position=str(pause.position))

    def _constrain(self, constrain: Constrain) -> None:
        """A set of tables stands at one position: it gets its foreign keys, and what they do not hold is told."""
        tables = [self._schemas[n] for n in constrain.tables if self._states[n] is not State.PAUSED]
        for orphan in add_foreign_keys(self._opened, tables, self._applied_position, self._stop):
            log.warning("%s", orphan)

    def _settle(self, settle: Settle) -> None:
        """A set of tables has caught up."""
        for name in settle.tables:
            if self._states[name] is not State.PAUSED:
                self._set_state(name, State.STREAMING, error=None)
        self._unsettled.difference_update(settle.tables)
        self._applier.keepalive(None, now=True)

    def _take_loaded(self, table: TableSchema, position: Position) -> None:
        self._states[table.source] = State.CATCHING_UP
        self._stream.table_loaded(table.source, position)

    def _set_state(self, name: TableName, state: State, **values: object) -> None:
        self._states[name] = state
        self._applier.set_table(name, state=state, **values)

    # -- what is seen -----------------------------------------------------------------------------------------------

    def _state(self) -> str:
        if any(state in (State.PENDING, State.LOADING) for state in self._states.values()):
            return "loading"
        return "paused" if all(s is State.PAUSED for s in self._states.values()) else "streaming"

    def _waiting_for(self) -> str:
        return (
            self._applier.waiting_for
            or self._blocked_by
            or self._opened.reader.is_waiting()
            or self._loader.waiting_for
        )

    def _build_status(self) -> StatusLine:
        return StatusLine(
            self._state(),
            self._metrics.lag.seconds(),
            not self._unsettled,
            waiting_for=self._waiting_for(),
            snapshot_seconds=self._loader.snapshot_seconds,
        )

    def view(self) -> View:
        """The run at this moment; any thread may look."""
        return View(
            pipeline=self._opened.config.pipeline,
            state=self._state(),
            position=_shorten(str(self._applied_position)),
            lag=self._metrics.lag.seconds(),
            rate=self._measure_rate(),
            applied=self._metrics.rows,
            conflicts=self._metrics.conflicts.total(),
            waiting_for=self._waiting_for(),
            mode="backlog" if self._last_transactions > 1 else "exact",
            load=self._loader.describe(),
            tables=[self._view_table(table) for table in self._opened.tables],
        )

    def loaded(self) -> Sequence[TableSummary]:
        """What this run has loaded, table by table."""
        return self._loader.summarize()

    def _view_table(self, table: TableSchema) -> TableView:
        stored = self._opened.states[table.source]
        before, now = stored.applied, self._metrics.counts(table.source)
        rows, fraction = self._loader.progress_of(table.source) or (stored.rows_loaded, None)
        return TableView(
            source=str(table.source),
            target=table.target,
            state=str(self._states[table.source]),
            rows_loaded=rows,
            applied=(
                before.inserted + now.inserted,
                before.updated + now.updated,
                before.deleted + now.deleted,
            ),
            fraction=fraction,
        )

    def _measure_rate(self) -> float:
        """Rows a second over the last frames."""
        self._frames.append((time.monotonic(), self._metrics.rows))
        (began, rows), (now, newest) = self._frames[0], self._frames[-1]
        return (newest - rows) / (now - began) if now > began else 0.0


_LONGEST_POSITION = 120


def _shorten(position: str) -> str:
    """Positions of old servers name dozens of others; the newest transactions stand at the end."""
    return position if len(position) <= _LONGEST_POSITION else "…" + position[-_LONGEST_POSITION:]


def summarize(tables: Iterable[TableView]) -> str:
    """One sentence for the end of a command."""
    rows = list(tables)
    return f"{len(rows)} tables, {sum(t.rows_loaded for t in rows):,} rows loaded, " + (
        f"{sum(sum(t.applied) for t in rows):,} changes applied"
    )
