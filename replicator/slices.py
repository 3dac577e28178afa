"""A huge transaction in slices that are committed one by one, and what is left of one that was cut off (SEMANTICS §1.4).

Below ``stream``; pure. What is applied so far is told by a number of row changes and by the tables that were counted, so
that it means the same after a restart: tables that were loading, paused or not mirrored meanwhile count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from replicator.errors import PositionLost
from replicator.model import Changes, TableName, Torn
from replicator.spill import Spill

NOTHING: Final = Torn(0, frozenset())


class Slice(NamedTuple):
    """A part of a transaction. ``torn``: how far the transaction is applied with it; None with the last one.

    ``changes`` can be iterated more than once, like the transaction they come from. ``size`` is bytes of row images.
    """

    changes: Iterable[Changes]
    torn: Torn | None
    rows: int
    size: int


def cut(
    changes: Iterable[Changes], passing: frozenset[TableName], torn: Torn | None, limit: int
) -> Iterator[Slice]:
    """The slices of what a transaction does to the ``passing`` tables, without what was applied before (``torn``).

    A slice ends with the change that brings it to ``limit`` bytes. At least one comes, which may be empty. Raises
    PositionLost when the transaction does not hold what was applied of it.
    """
    applied = torn or NOTHING
    left = applied.skip
    counted = set(applied.tables)
    count = rows = size = begin = 0
    for at, part in enumerate(changes):
        name = part.table.source
        if name not in passing and name not in counted:
            continue
        # Tables that were not counted before catch up with those that were: until then there is no prefix to store.
        if size >= limit and not left:
            torn_here = Torn(count, frozenset(counted))
            yield Slice(_Section(changes, begin, at, passing, applied), torn_here, rows, size)
            begin, rows, size, applied = at, 0, 0, NOTHING
        count += part.rows
        if left and name in applied.tables:
            left -= part.rows
            if left < 0:
                break
        elif name in passing:
            counted.add(name)
            rows += part.rows
            size += part.size
    if left:
        raise PositionLost(
            f"{applied.skip} changes of the next transaction are applied, and it has other ones now",
            hint="the source's log is not the one that was read before: `replicator drop`, then load again",
        )
    yield Slice(_Section(changes, begin, None, passing, applied), None, rows, size)


@dataclass(frozen=True, slots=True)
class _Section:
    """The changes from one place to another of some tables, less those that are applied."""

    changes: Iterable[Changes]
    begin: int
    end: int | None
    passing: frozenset[TableName]
    applied: Torn

    def __iter__(self) -> Iterator[Changes]:
        left = self.applied.skip
        for part in _between(self.changes, self.begin, self.end):
            name = part.table.source
            if left and name in self.applied.tables:
                left -= part.rows
            elif name in self.passing:
                yield part


def _between(changes: Iterable[Changes], begin: int, end: int | None) -> Iterator[Changes]:
    if isinstance(changes, Spill):
        return changes.between(begin, end)
    return islice(changes, begin, end)
