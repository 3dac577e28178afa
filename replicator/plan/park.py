"""Rewrite a history whose unique keys hold only at its end into one in which they hold after each row (pure).

Beside ``order``. A key that the source may defer says nothing of the rows within a transaction, and MySQL looks at each
row. A batch begins and ends between transactions, where the key holds: so all rows that leave a value of it are parked
first, with a stand-in of their own, keep it through all changes, and the last change of each brings what the source
ended with. Rows that move nothing are left alone. Sources with such keys log the rows that their cascades touch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import zip_longest
from operator import itemgetter
from typing import Any, Final, NamedTuple

from replicator.model import UNCHANGED, Changes, Key, Kind, Op, Row, TableSchema, Value
from replicator.plan.step import Action, Step
from replicator.plan.touch import build_key, find_present, merge_unchanged
from replicator.typemap.standin import StandIn, find_deferrable, find_spots

Pair = tuple[Row | None, Row | None]
"""Before and after of one change: an insert has no before, a delete no after."""


_LONG: Final = (Kind.TEXT, Kind.BINARY)


class _Parkable(NamedTuple):
    """A deferrable key: what a row's value in it is, and where a stand-in may be put."""

    value: Callable[[Row], Any]
    spots: Sequence[tuple[int, StandIn]]


class Lot(NamedTuple):
    """What parking needs to know of a table.

    ``names``: its deferrable keys. ``is_ambiguous``: the table's own key is one of them, and rows are told apart by all
    their values alone; before images must be whole. ``is_told``: no stand-in is put in text or bytes, which an update may
    leave out.
    """

    parkables: Sequence[_Parkable]
    names: frozenset[str]
    is_ambiguous: bool
    is_told: bool


@lru_cache(maxsize=4096)
def build_lot(table: TableSchema) -> Lot | None:
    """None for a table without deferrable keys, or whose keys have no room for stand-ins."""
    spots = {key: found for key in find_deferrable(table) if (found := find_spots(table, key))}
    if not spots:
        return None
    return Lot(
        [_Parkable(itemgetter(*key.ordinals), found) for key, found in spots.items()],
        frozenset(key.name for key in spots),
        any(key.ordinals == table.key for key in spots),
        not any(table.columns[at].kind in _LONG for found in spots.values() for at, _ in found),
    )


def may_repeat_keys(table: TableSchema, blocks: Iterable[Changes]) -> bool:
    """Whether two rows of the batch may have had one key at the same time, although no update moves it."""
    lot = build_lot(table)
    return lot is not None and lot.is_ambiguous and len({block.op for block in blocks} - {Op.UPDATE}) > 1


def park_ahead(changes: Iterable[Changes], first: int) -> list[Step]:
    """Steps that park what one slice of a transaction moves, to be run before all slices; rows may not be there yet.

    Not where stand-ins would be the rows' keys: the next slices look for them under their own. And a row that is there
    may have another's key, until a slice that moves it: that one must bring the value which is cleared here.
    """
    pairs: dict[TableSchema, list[Pair]] = {}
    for block in changes:
        if (lot := build_lot(block.table)) is not None and lot.is_told and not lot.is_ambiguous:
            pairs.setdefault(block.table, []).extend(
                (before, after if before is None or after is None else merge_unchanged(before, after))
                for before, after in zip_longest(block.before, block.after)
            )
    steps: list[Step] = []
    for table, found in pairs.items():
        lot = build_lot(table)
        assert lot is not None
        build = partial(Step, table, careful=True, unchecked=True)
        steps += park_rows(table, lot, found, build, first)[0]
    return steps


def find_ambiguous(changes: Iterable[Changes]) -> TableSchema | None:
    """A table among these whose rows are told apart by all their values alone."""
    lots = ((block.table, build_lot(block.table)) for block in changes)
    return next((table for table, lot in lots if lot is not None and lot.is_ambiguous), None)


class _Track:
    """One row's way through a batch."""

    __slots__ = ("end", "moves", "places", "start")

    def __init__(self, start: Row | None) -> None:
        self.start = start  # None: not there before
        self.end: Row | None = None  # None: gone
        self.places: list[int] = []
        self.moves = False

    def find_stand_ins(self, lot: Lot, number: int) -> dict[int, Value]:
        """By ordinal. A column that no change has told is not cleared: nobody could fill it again."""
        found: dict[int, Value] = {}
        for parkable in lot.parkables:
            for at, stand_in in parkable.spots:
                if self.end is None or self.end[at] is not UNCHANGED:
                    found[at] = stand_in(number)
                    break
        return found


def park_rows(
    table: TableSchema, lot: Lot, pairs: Sequence[Pair], build: Callable[..., Step], first: int
) -> tuple[list[Step], list[Pair]]:
    """The steps that park, and the changes after them; ``build`` makes a step, ``first`` is the first stand-in's number."""
    rewritten = list(pairs)
    parked: dict[tuple[int, ...], tuple[list[Key], list[Row]]] = {}
    key = build_key(table)
    for number, track in enumerate(_follow(table, lot, pairs), first):
        if not track.moves and track.end is not None:
            continue
        stand_ins = track.find_stand_ins(lot, number)
        ends = stand_ins if track.end is None else {at: track.end[at] for at in stand_ins}
        for place in track.places:
            before, after = pairs[place]
            values = ends if place == track.places[-1] else stand_ins
            rewritten[place] = (before and _put(before, stand_ins), after and _put(after, values))
        if track.start is not None and stand_ins:
            row = _blank(table, track.start, stand_ins)
            keys, rows = parked.setdefault(find_present(row), ([], []))
            keys.append(key(track.start))
            rows.append(row)
    if lot.is_ambiguous:
        steps = [build(Action.UPDATE_KEY, rows, keys, present=at) for at, (keys, rows) in parked.items()]
    else:
        steps = [build(Action.UPDATE, rows, present=at) for at, (_, rows) in parked.items()]
    return steps, rewritten


def _follow(table: TableSchema, lot: Lot, pairs: Sequence[Pair]) -> list[_Track]:
    tracks: list[_Track] = []
    current: dict[Hashable, list[_Track]] = {}
    tell = (lambda row: row) if lot.is_ambiguous else build_key(table)
    for place, (before, after) in enumerate(pairs):
        found = None if before is None else current.get(tell(before))
        if found:
            track = found.pop()
        else:
            track = _Track(before)
            tracks.append(track)
        track.places.append(place)
        if after is None:
            track.end = None
            continue
        if before is not None:
            track.moves |= any(p.value(before) != p.value(after) for p in lot.parkables)
        known = track.end if track.end is not None else before
        track.end = after if known is None else merge_unchanged(known, after)
        current.setdefault(tell(after), []).append(track)
    return tracks


def _put(row: Row, values: dict[int, Value]) -> Row:
    return tuple(values.get(at, value) for at, value in enumerate(row))


def _blank(table: TableSchema, row: Row, values: dict[int, Value]) -> Row:
    """The row's key and ``values``, nothing else."""
    return tuple(values.get(at, value if at in table.key else UNCHANGED) for at, value in enumerate(row))
