"""Between reader and plan: cuts the change stream into batches, and holds what tables that load must wait for.

A batch holds whole transactions in source order. It closes when it is large, when it is old, or as soon as the source
has nothing more to say and the applier is free: a quiet source is mirrored at once, a busy one in large batches.

Each table has a ``Route``. While any route or the pipeline's own position asks for a second look (a load, a restart),
transactions are filtered table by table; otherwise they pass whole.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from replicator.errors import SourceError, UnsupportedEvent
from replicator.held import Held
from replicator.lag import Lag
from replicator.model import (
    Batch,
    Changes,
    Checkpoint,
    Heartbeat,
    Idle,
    Position,
    SchemaChange,
    StreamItem,
    TableName,
    TableSchema,
    Torn,
    Transaction,
    UnseenCommit,
)
from replicator.parts import find_truncated, keep
from replicator.slices import cut


@dataclass(frozen=True, slots=True)
class Pause:
    """Tables leave the stream here; ``position`` is the one before the change that paused them."""

    tables: tuple[TableName, ...]
    position: Position
    reason: str


@dataclass(frozen=True, slots=True)
class Constrain:
    """A set of tables joined by foreign keys stands at one position: the keys can be made and checked from here on."""

    tables: tuple[TableName, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """The same set follows the pipeline's position: it is mirrored like all others from here on."""

    tables: tuple[TableName, ...]


Emitted = Batch | Pause | Constrain | Settle


class RestartFrom(Protocol):
    """The reader's method of this name (readers/base.py)."""

    def __call__(self, position: Position, *, keep: bool) -> Position: ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch closes. ``size`` is bytes of row images; ages are seconds, ``empty_age`` of one without changes.

    The first batches of a backlog close at ``first_rows``, so that the target has work at once, and each next one at
    twice as many, up to ``rows``. A transaction of more than ``transaction`` bytes is applied in slices of about that.
    """

    rows: int = 20_000
    first_rows: int = 2_500
    size: int = 16 << 20
    transaction: int = 256 << 20
    age: float = 0.05
    empty_age: float = 1.0


@dataclass(slots=True)
class Route:
    """What happens to the changes of one table.

    ``own`` is the table's own position: changes in it are skipped, later ones pass, until the stream has passed it
    (None: the table follows the pipeline). ``held`` keeps the changes of a table that loads, in source order with those
    of the tables that foreign keys join it to; all of them wait until the last is loaded. ``paused`` skips all.
    """

    table: TableSchema
    own: Position | None = None
    held: Held | None = None
    paused: str = ""
    settled: bool = False

    @property
    def is_loading(self) -> bool:
        return self.held is not None and self.own is None and not self.paused

    def has(self, end: Position, *, is_old: bool) -> bool:
        """Whether the table holds what the transaction that ended at ``end`` did; ``is_old``: the stored position does."""
        return is_old if self.own is None else self.own.includes(end)

    @property
    def is_plain(self) -> bool:
        return self.own is None and self.held is None and not self.paused


class _StoppedTorn(Exception):
    """Told to stop between two slices of a transaction."""


class _Open:
    """The batch under construction."""

    __slots__ = ("changes", "moved", "newest", "oldest", "rows", "since", "size", "transactions", "truncated")

    def __init__(self, since: float) -> None:
        self.changes: list[Changes] = []
        self.moved: dict[TableName, Position | None] = {}
        self.transactions = self.rows = self.size = self.oldest = self.newest = 0
        self.since = since
        self.truncated: TableSchema | None = None


class Stream:
    """The batcher of one pipeline; ``run`` belongs to the reading thread, ``table_loaded`` may be called from any.

    ``position`` is the stored one, ``read_from`` where reading starts (at or before it), ``torn`` what is applied of the
    transaction after ``position``. When ``is_stopping``, the stream ends after a slice, too. ``restart_from`` is the
    reader's (readers/base.py).
    """

    def __init__(
        self,
        *,
        routes: Sequence[Route],
        groups: Sequence[frozenset[TableName]],
        position: Position,
        read_from: Position,
        emit: Callable[[Emitted], None],
        is_free: Callable[[], bool],
        lag: Lag,
        limits: BatchLimits,
        torn: Torn | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        dependants: Mapping[TableName, frozenset[TableName]] | None = None,
        restart_from: RestartFrom = lambda position, *, keep: position,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._routes = {route.table.source: route for route in routes}
        self._groups = [group for group in groups if not all(self._routes[name].settled for name in group)]
        self._dependants = dependants or {}
        self._constrained: set[frozenset[TableName]] = set()
        self._emit = emit
        self._is_free = is_free
        self._lag = lag
        self._limits = limits
        self._clock = clock
        self._restart_from = restart_from
        self._loaded: deque[tuple[TableName, Position]] = deque()
        self._read = read_from  # the source is read up to here
        self._began = read_from
        self._emitted = read_from  # the batches that left stand here
        self._floor: Position | None = (
            None if read_from.covers(position) else position
        )  # stored, not yet reached
        self._torn = torn  # the transaction behind the floor, or the next one, is applied in part
        self._is_stopping = is_stopping
        self._is_filtering = True
        self._open = _Open(clock())
        self._want: Position | None = None
        self._full = min(limits.first_rows, limits.rows)  # rows at which the open batch closes

    def table_loaded(self, name: TableName, position: Position) -> None:
        """The load of a table has ended; its rows stand at ``position``. Takes effect between two transactions."""
        self._loaded.append((name, position))

    def want(self, position: Position) -> None:
        """Do not wait for ``empty_age`` once ``position`` is reached (`--until-current`)."""
        self._want = position

    def has_read(self, position: Position) -> bool:
        """Whether all up to ``position`` was read since the start, which may be long after it was applied."""
        return self._read.covers(position)

    def run(self, items: Iterable[StreamItem]) -> None:
        """Consume the stream until it ends (the reader's stop event) or cannot be read on; what is complete is emitted."""
        self._refilter()
        for group in self._groups:
            self._constrain(group)
        self._settle()
        try:
            for item in items:
                self._take_item(item)
        except SourceError:
            self._flush()
            raise
        except _StoppedTorn:
            return
        self._flush()

    def _take_item(self, item: StreamItem) -> None:
        if self._loaded:
            self._join_loaded()
        if type(item) is Transaction:
            self._take(item)
        elif type(item) is Idle:
            self._take_idle(item)
        elif type(item) is SchemaChange:
            self._take_schema_change(item)
        elif type(item) is Heartbeat:
            self._lag.reported(item.position, item.received)
        elif type(item) is UnseenCommit:
            self._take_unseen(item)

    # -- transactions -----------------------------------------------------------------------------------------------

    def _take(self, transaction: Transaction) -> None:
        if transaction.spilled:
            self._flush()
            if transaction.size > self._limits.transaction and not self._is_old(transaction.position):
                self._take_slices(transaction)
                return
        if transaction.changes:
            if self._is_filtering:
                if self._torn is not None and not self._is_old(transaction.position):
                    self._take_slices(transaction)
                    return
                transaction = self._filter(transaction)
            if not transaction.size and (table := find_truncated(transaction)) is not None:
                self._take_truncate(transaction, table)
                return
            self._add(transaction)
        self._read = transaction.position
        batch = self._open
        batch.transactions += 1
        if batch.rows >= self._full or batch.size >= self._limits.size or transaction.spilled:
            self._full = min(2 * self._full, self._limits.rows)
            self._flush(transaction if transaction.spilled else None)
        elif not batch.transactions & 31 and self._is_due() and self._is_free():
            self._flush()

    def _take_truncate(self, transaction: Transaction, table: TableSchema) -> None:
        """A batch of its own: of a large table it becomes a statement that commits by itself (SEMANTICS §4.5)."""
        self._flush()
        self._open.truncated = table
        self._open.transactions += 1
        self._add(transaction)
        self._read = transaction.position
        self._flush()

    def _take_slices(self, transaction: Transaction) -> None:
        """A transaction that is larger than one of the target's may be, or the rest of one that was cut off.

        Until its last slice the position stays before it.
        """
        self._flush()
        passing = self._set_aside(transaction)
        for part in cut(transaction.changes, passing, self._torn, self._limits.transaction):
            self._torn = part.torn
            piece = transaction._replace(changes=part.changes, rows=part.rows, size=part.size, spilled=True)
            self._add(piece)
            if part.torn is None:
                break
            self._send(self._floor or self._read, piece)
            if self._is_stopping():
                raise _StoppedTorn
        self._open.transactions = 1
        self._read = transaction.position
        self._flush(piece)
        self._refilter()

    def _add(self, transaction: Transaction) -> None:
        batch = self._open
        if not transaction.rows:
            return
        if not batch.rows:
            batch.oldest = transaction.commit_time
            self._lag.opened(transaction.commit_time)
            batch.since = self._clock()
        batch.newest = transaction.commit_time
        if not transaction.spilled:
            batch.changes.extend(transaction.changes)
        batch.rows += transaction.rows
        batch.size += transaction.size

    def _is_due(self) -> bool:
        age = self._limits.age if self._open.rows else self._limits.empty_age
        return self._clock() - self._open.since >= age

    def _take_idle(self, item: Idle) -> None:
        self._read = item.position
        if self._is_filtering:
            self._pass_positions()
        is_wanted = self._want is not None and self._read.covers(self._want)
        is_due = self._open.rows or self._open.moved or is_wanted or self._is_due()
        if is_due and self._is_free():
            self._full = min(self._limits.first_rows, self._limits.rows)
            self._want = None if is_wanted else self._want
            self._flush()

    def _flush(self, spilled: Transaction | None = None) -> None:
        """Emit the batch under construction, if it says anything; a spilled transaction is a batch of its own."""
        if self._is_filtering:
            self._pass_positions()
        batch = self._open
        if batch.rows or batch.moved or not self._emitted.covers(self._read):
            self._send(self._floor or self._read, spilled)
        self._settle()

    def _send(self, position: Position, spilled: Transaction | None) -> None:
        batch, self._open = self._open, _Open(self._clock())
        read_from = self._find_read_from(position)
        self._emitted = self._read
        self._lag.emitted(batch.oldest)
        self._emit(
            Batch(
                checkpoint=Checkpoint(position, read_from, self._torn, tuple(batch.moved.items())),
                changes=spilled.changes if spilled else batch.changes,
                transactions=batch.transactions,
                rows=batch.rows,
                size=batch.size,
                oldest_commit=batch.oldest,
                newest_commit=batch.newest,
                spilled=spilled is not None,
                truncated=batch.truncated,
            )
        )

    def _take_unseen(self, commit: UnseenCommit) -> None:
        """Its rows are in the snapshot of every table that was loaded since, which waited for it (SEMANTICS §1.2)."""
        is_old = self._is_old(commit.position)
        lacking = [
            str(name)
            for name, route in self._routes.items()
            if not (route.paused or route.is_loading or route.has(commit.position, is_old=is_old))
        ]
        if lacking:
            raise UnsupportedEvent(
                f"XA COMMIT {commit.name} at {commit.position}: its XA PREPARE is not in the log that was read, so rows"
                f" may be missing in {', '.join(sorted(lacking))}",
                hint="run `replicator drop`, then load again",
            )
        self._take(Transaction(commit.position, commit.commit_time, (), 0, 0))

    def _find_read_from(self, position: Position) -> Position:
        """The lowest of all that is stored, and what is undecided there.

        Not of the floor, for what it pins may not have been read again yet. A table that loads will stand somewhere
        between where this stream began and what is read now.
        """
        read_from, keep = self._read, False
        for route in self._routes.values() if self._is_filtering else ():
            keep |= route.held is not None or route.own is not None
            if route.own is not None:
                read_from = read_from.meet(route.own)
            elif route.is_loading:  # its load may be done, and stored, before we hear of it
                read_from = read_from.meet(self._began)
        read_from = self._restart_from(read_from, keep=keep)
        return read_from if self._floor is None else read_from.meet(position)

    # -- tables that load, catch up, or are paused --------------------------------------------------------------------

    def _filter(self, transaction: Transaction) -> Transaction:
        """The part of a transaction that goes on; what tables that load must wait for is kept aside."""
        return keep(transaction, self._set_aside(transaction))

    def _is_old(self, end: Position) -> bool:
        """Whether the stored position holds what ended there: that passes for tables that catch up alone, and always as a
        whole."""
        return self._floor is not None and self._floor.includes(end)

    def _set_aside(self, transaction: Transaction) -> frozenset[TableName]:
        """Keep what tables that load must wait for; the tables whose changes pass."""
        after = transaction.position
        is_old = self._is_old(after)
        for held in {id(route.held): route.held for route in self._routes.values() if route.held}.values():
            held.append(after, transaction.commit_time, transaction.changes)
        passing: set[TableName] = set()
        for name, route in self._routes.items():
            if not (route.paused or route.held is not None or route.has(after, is_old=is_old)):
                passing.add(name)
        return frozenset(passing)

    def _pass_positions(self) -> None:
        """Let go of the floor, and of tables' own positions, that the stream has passed."""
        if self._floor is not None and self._read.covers(self._floor):
            self._floor = None
        for name, route in self._routes.items():
            if route.own is None or route.held is not None or not self._read.covers(route.own):
                continue
            if self._floor is None:
                route.own = self._open.moved[name] = None
            elif not route.own.covers(self._read):
                route.own = self._open.moved[name] = self._read
        self._refilter()

    def _refilter(self) -> None:
        is_plain = self._floor is None and self._torn is None
        self._is_filtering = not (is_plain and all(r.is_plain for r in self._routes.values()))

    def _join_loaded(self) -> None:
        """Note what is loaded; a set of tables that foreign keys join enters the stream when its last one is."""
        self._flush()
        while self._loaded:
            name, position = self._loaded.popleft()
            route = self._routes[name]
            if not route.paused:
                route.own = position
        self._join_ready()

    def _join_ready(self) -> None:
        """Let the sets in that wait for none of their tables any more."""
        for group in list(self._groups):
            routes = [self._routes[name] for name in group]
            if any(route.held for route in routes) and not any(route.is_loading for route in routes):
                self._join(group)
        self._flush()

    def _join(self, group: frozenset[TableName]) -> None:
        """Replay what the tables of a set missed, in source order, then let them into the stream."""
        routes = [route for name in group if (route := self._routes[name]).held is not None]
        held = next((route.held for route in routes), None)
        for route in routes:
            route.held = None
        self._is_filtering = True
        self._constrain(group)
        if held is not None:
            self._replay(routes, held)

    def _constrain(self, group: frozenset[TableName]) -> None:
        """Where a set stands at one position, its foreign keys come before its changes: some sources do not log what
        their cascades do, and the target's keys must do it (SEMANTICS §5.3)."""
        routes = [route for name in group if not (route := self._routes[name]).paused]
        if group not in self._constrained and not any(r.is_loading for r in routes) and _is_level(routes):
            self._constrained.add(group)
            self._emit(Constrain(tuple(sorted(group))))

    def _replay(self, routes: Sequence[Route], held: Held) -> None:
        """Batches of a set's past: the pipeline's position stays, the tables' own move with each."""
        loaded = {route.table.source: route.own for route in routes if route.own is not None}
        for transaction in held.replay():
            passing = [name for name, own in loaded.items() if not own.includes(transaction.position)]
            kept = keep(transaction, frozenset(passing))
            truncated = find_truncated(kept)
            is_alone = kept.spilled or truncated is not None
            if is_alone:
                self._send_past()
            self._open.truncated = truncated
            self._add(kept)
            self._open.transactions += 1
            for name in passing:
                self._routes[name].own = self._open.moved[name] = kept.position
            if is_alone:
                self._send_past(kept if kept.spilled else None)
            elif self._open.rows >= self._limits.rows or self._open.size >= self._limits.size:
                self._send_past()
        self._send_past()

    def _send_past(self, spilled: Transaction | None = None) -> None:
        if self._open.rows:
            self._send(self._floor or self._read, spilled)

    def _settle(self) -> None:
        for group in list(self._groups):
            if all(self._routes[name].is_plain or self._routes[name].paused for name in group):
                self._constrain(group)
                self._groups.remove(group)
                self._emit(Settle(tuple(sorted(group))))

    def _take_schema_change(self, change: SchemaChange) -> None:
        self._flush()
        self._refuse_torn(change)
        self._read = change.position
        self._pause(change.tables, change.before, change.reason)
        for name in change.tables:
            reason = f"{name} is paused, and the source does not log what its foreign keys do to this table"
            self._pause(self._dependants.get(name, ()), change.before, reason)
        self._refilter()
        self._join_ready()

    def _refuse_torn(self, change: SchemaChange) -> None:
        """Rows that are applied are counted among those that are read: all of them must be there to be read."""
        if self._torn is not None and (lost := self._torn.tables.intersection(change.tables)):
            raise UnsupportedEvent(
                f"{', '.join(map(str, sorted(lost)))}: {change.reason}, within a transaction that is applied in part",
                hint="`replicator drop` the pipeline and load anew",
            )

    def _pause(self, names: Iterable[TableName], before: Position, reason: str) -> None:
        """Tables that are paused already stay at the position and with the reason they have."""
        leaving = tuple(sorted(name for name in names if not self._routes[name].paused))
        for name in leaving:
            route = self._routes[name]
            route.paused, route.own, route.held = reason, None, None
        if leaving:
            self._emit(Pause(leaving, before, reason))


def _is_level(routes: Sequence[Route]) -> bool:
    """Whether all stand at one position: their own, or all at the pipeline's."""
    owns = [route.own for route in routes]
    first = owns[0] if owns else None
    if first is None:
        return not any(owns)
    return all(own is not None and own.covers(first) and first.covers(own) for own in owns)
