"""What a delete does to other rows on ways that come back to a table (pure).

Beside ``step``. MySQL from 9.6 on cascades from table to table as one expects, but where foreign keys form a circle, be it
a table that refers to itself, it leaves rows behind without a word, or refuses (error 6575). What they do among such
tables is therefore done by statements of our own, the deepest rows first; all else stays the work of the target's keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from replicator.model import ForeignKey, TableSchema

LEVELS: Final = 15
"""No source cascades further down."""


class Link(NamedTuple):
    """A foreign key from the table at place ``child`` of ``Descent.tables`` to the one at ``parent``."""

    parent: int
    child: int
    key: ForeignKey


class Descent(NamedTuple):
    """The ways from the first of ``tables``, where rows are deleted, to all that are on circles.

    ``circular``: the places of those whose rows go along; ``levels``: how far down the ways lead.
    """

    tables: tuple[TableSchema, ...]
    links: tuple[Link, ...]
    circular: tuple[int, ...]
    levels: int


class _Cascade(NamedTuple):
    parent: TableSchema
    child: TableSchema
    key: ForeignKey


def build_descents(tables: Iterable[TableSchema]) -> dict[str, Descent]:
    """By target name, the tables whose deletes reach circular ones: ``PlanSettings.descents``."""
    by_source = {table.source: table for table in tables}
    cascades = [
        _Cascade(by_source[key.parent], table, key)
        for table in by_source.values()
        for key in table.foreign_keys
        if key.on_delete in ("CASCADE", "SET NULL") and key.parent in by_source
    ]
    circular = _find_circular(cascades)
    deleting = [cascade for cascade in cascades if cascade.key.deletes]
    leading = _grow(circular, _join((cascade.child, cascade.parent) for cascade in deleting))
    down: dict[TableSchema, list[_Cascade]] = {table: [] for table in leading}
    for cascade in cascades:
        if cascade.parent in leading and cascade.child in leading:
            down[cascade.parent].append(cascade)
    return {table.target: _build_descent(table, down, circular) for table in leading if down[table]}


def _find_circular(cascades: list[_Cascade]) -> frozenset[TableSchema]:
    """Tables from which a cascade may come back to them."""
    below = _join((cascade.parent, cascade.child) for cascade in cascades)
    return frozenset(table for table, children in below.items() if table in _grow(children, below))


def _join(pairs: Iterable[tuple[TableSchema, TableSchema]]) -> dict[TableSchema, set[TableSchema]]:
    joined: dict[TableSchema, set[TableSchema]] = {}
    for start, end in pairs:
        joined.setdefault(start, set()).add(end)
    return joined


def _grow(
    tables: Iterable[TableSchema], ways: Mapping[TableSchema, set[TableSchema]]
) -> frozenset[TableSchema]:
    """``tables``, and all to which ``ways`` lead from them."""
    found = set(tables)
    ahead = list(found)
    while ahead:
        new = ways.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return frozenset(found)


def _build_descent(
    table: TableSchema, down: Mapping[TableSchema, list[_Cascade]], circular: frozenset[TableSchema]
) -> Descent:
    found = [table]
    for parent in found:  # grows while it is walked
        found += dict.fromkeys(c.child for c in down[parent] if c.key.deletes and c.child not in found)
    ways = [(place, cascade) for place, parent in enumerate(found) for cascade in down[parent]]
    found += dict.fromkeys(cascade.child for _, cascade in ways if cascade.child not in found)
    links = [Link(place, found.index(cascade.child), cascade.key) for place, cascade in ways]
    ends = {link.child for link in links if link.key.deletes}
    places = tuple(place for place in sorted(ends) if found[place] in circular)
    return Descent(tuple(found), tuple(links), places, _count_levels(links) if places else 0)


def _count_levels(links: list[Link]) -> int:
    """The longest way that deletes, ``LEVELS`` where there is none that is longest."""
    reached = {0}
    for level in range(LEVELS):
        reached = {link.child for link in links if link.key.deletes and link.parent in reached}
        if not reached:
            return level
    return LEVELS
