"""A batch becomes packets: plan and sql put together, for batches in memory and for those that live on disk.

Foreign key checks are a matter of each statement: they are on for a set of tables only once the set is consistent, and
only where they do work (SEMANTICS §2.5, §5.4). A batch that touches both kinds is planned in two parts, which no
foreign key joins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

from replicator.apply import Prepared, count_changes
from replicator.coercion import Tally, settle
from replicator.errors import DataError
from replicator.model import Batch, Changes, TableName
from replicator.plan import Descent, Edge, PlanSettings, build_plan
from replicator.plan.park import find_ambiguous, park_ahead
from replicator.sql import Limits, Packet, build_packets

SLICE_BYTES: Final = 16 << 20
SLICE_ROWS: Final = 100_000  # small rows take ten times their bytes while they are planned
_CHECKS: Final = {True: b"SET foreign_key_checks=1", False: b"SET foreign_key_checks=0"}


class Preparer:
    """Plans and renders for one pipeline. ``constrain`` is called in stream order, by the thread that prepares.

    ``is_checking``: foreign key checks are needed at all; ``parents``: the foreign keys of each target table;
    ``unsettled``: tables whose foreign keys are not there, or not true, yet. ``partial``: rows may leave values out;
    ``is_coercing``: readers may have put other values in place of some; ``is_deferring``: some table has a deferrable key.
    ``descents``: see PlanSettings.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        is_checking: bool,
        cascades_logged: bool,
        parents: Mapping[str, tuple[Edge, ...]],
        unsettled: Iterable[TableName],
        partial: bool = False,
        is_coercing: bool = False,
        is_deferring: bool = False,
        descents: Mapping[str, Descent] = MappingProxyType({}),
    ) -> None:
        self._is_coercing = is_coercing
        self._is_deferring = is_deferring
        self._limits = limits
        self._is_checking = is_checking
        self._unsettled = frozenset(unsettled)
        self._settings = PlanSettings(
            checks=False,
            cascades_logged=cascades_logged,
            parents=parents,
            partial=partial,
            descents=descents,
        )

    def constrain(self, tables: Iterable[TableName]) -> None:
        """The foreign keys of these tables hold from the next batch on."""
        self._unsettled -= frozenset(tables)

    def prepare(self, batch: Batch) -> Prepared:
        """The fast plan of a batch, rendered; of a batch on disk that happens while it is sent."""
        unsettled = self._unsettled  # a careful plan made later must see what this one sees
        tally = Tally()
        if self._is_coercing:
            batch = _settle(batch, tally)
        return self._prepare(batch, unsettled, tally, self._settings)

    def _prepare(
        self, batch: Batch, unsettled: frozenset[TableName], tally: Tally, settings: PlanSettings
    ) -> Prepared:
        again = partial(self._prepare, batch, unsettled, tally)
        packets: Iterable[Packet] = _Lazily(lambda: self._build_slices(batch, unsettled, settings))
        if not batch.spilled:
            packets = list(packets)
        return Prepared(
            batch,
            packets,
            count_changes(batch.changes),
            replan=None if settings.careful else lambda: again(replace(settings, careful=True)),
            descend=None if settings.descends else lambda: again(replace(settings, descends=True)),
            tally=tally,
        )

    def _build_slices(
        self, batch: Batch, unsettled: frozenset[TableName], settings: PlanSettings
    ) -> Iterator[Packet]:
        if not batch.spilled:
            yield from self._build(batch.changes, unsettled, settings)
        elif not self._is_deferring:
            for changes in _slice(batch.changes):
                yield from self._build(changes, unsettled, settings)
        else:
            yield from self._build_deferring(batch, unsettled, settings)

    def _build_deferring(
        self, batch: Batch, unsettled: frozenset[TableName], settings: PlanSettings
    ) -> Iterator[Packet]:
        """A slice may bring a value that a row of a later one still holds: the rows of all are parked before the first."""
        number = 0
        for changes in _slice(batch.changes):
            yield from build_packets(park_ahead(changes, number), self._limits)
            number += sum(part.rows for part in changes)
        for changes in _slice(batch.changes):
            if settings.careful:
                _refuse_ambiguous(changes)
            yield from self._build(changes, unsettled, replace(settings, first_stand_in=number))
            number += sum(part.rows for part in changes)

    def _build(
        self, changes: Iterable[Changes], unsettled: frozenset[TableName], settings: PlanSettings
    ) -> Iterator[Packet]:
        if not self._is_checking:
            yield from build_packets(build_plan(changes, settings), self._limits)
            return
        parts: dict[bool, list[Changes]] = {False: [], True: []}
        for change in changes:
            parts[change.table.source not in unsettled].append(change)
        for checks, part in parts.items():
            if part:
                steps = build_plan(part, replace(settings, checks=checks))
                yield from _switch_checks(checks, build_packets(steps, self._limits))


def _settle(batch: Batch, tally: Tally) -> Batch:
    """The batch without marks of coerced values; one on disk is read once more, to count them."""
    if not batch.spilled:
        return replace(batch, changes=list(settle(batch.changes, tally)))
    for _ in settle(batch.changes, tally):
        pass
    return replace(batch, changes=_Settled(batch.changes))


@dataclass(frozen=True, slots=True)
class _Settled:
    """Changes on disk, each time without their marks."""

    changes: Iterable[Changes]

    def __iter__(self) -> Iterator[Changes]:
        return settle(self.changes)


@dataclass(frozen=True, slots=True)
class _Lazily:
    """Packets made anew at each iteration: of a batch on disk no more than a slice is in memory."""

    build: Callable[[], Iterator[Packet]]

    def __iter__(self) -> Iterator[Packet]:
        return self.build()


def _switch_checks(checks: bool, packets: Iterator[Packet]) -> Iterator[Packet]:
    """Say at the beginning of the first packet whether foreign keys are checked from there on."""
    for first in packets:
        switch = _CHECKS[checks]
        yield first._replace(sql=switch + b";" + first.sql, results=(None, *first.results))
        yield from packets


def _refuse_ambiguous(changes: Iterable[Changes]) -> None:
    """Carefully, a row is what has its key: the one that comes is taken for the one that has yet to go."""
    table = find_ambiguous(changes)
    if table is not None:
        raise DataError(
            f"{table.source}: the target refuses a part of a transaction that is too large to be planned as a whole, and"
            " nothing but a deferrable key tells rows apart",
            table=str(table.source),
            hint="`replicator drop FILE`, then load anew; or give the table another key, NOT DEFERRABLE",
        )


def _slice(changes: Iterable[Changes]) -> Iterator[list[Changes]]:
    part: list[Changes] = []
    size = rows = 0
    for change in changes:
        part.append(change)
        size += change.size
        rows += change.rows
        if size >= SLICE_BYTES or rows >= SLICE_ROWS:
            yield part
            part, size, rows = [], 0, 0
    if part:
        yield part
