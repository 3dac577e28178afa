"""Say which values a change frees, takes or refers to, so that changes which share one keep their order (pure).

Beside ``order``. A role is one key seen from one table: a unique key, the parent's or the child's side of a foreign key.
Roles of the two sides of a foreign key share a Space, in which equal values meet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from replicator.model import UNCHANGED, Row, TableSchema, UniqueKey
from replicator.plan.fold import DOUBT, Fold, build_fold
from replicator.plan.step import Edge

Getter: TypeAlias = Callable[[Row], Any]

_NOTHING: Final = object()


class Space:
    """The values of one key, each with the nodes that touched it, in source order."""

    __slots__ = ("doubt", "frees", "is_shared", "last", "readers", "reads", "touching", "writes")

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared  # the two sides of a foreign key, not a unique key
        self.doubt = False  # some touched value may equal any other
        self.frees = self.reads = self.writes = False
        self.last: dict[Hashable, Any] = {}
        self.readers: dict[Hashable, list[Any]] = {}
        self.touching: list[Any] = []

    @property
    def is_uncertain(self) -> bool:
        """Whether order matters among values that cannot be told apart."""
        return self.doubt and (self.reads and self.writes if self.is_shared else self.frees)


class Role(NamedTuple):
    """One key of a table. ``reads``: it only refers (child side). ``holds``: rows that stay put count too."""

    space: Space
    raw: Getter
    fold: Fold
    reads: bool = False
    holds: bool = False

    def find_touched(self, before: Row | None, after: Row | None) -> list[tuple[Hashable, bool]]:
        """The (folded value, freed) that a change from ``before`` to ``after`` touches here."""
        old = _NOTHING if before is None else self.raw(before)
        new = _NOTHING if after is None else self.raw(after)
        if old == new:
            return [(self._fold(new), False)] if self.holds else []
        touched = [] if old is _NOTHING else [(self._fold(old), True)]
        if new is not _NOTHING:
            touched.append((self._fold(new), False))
        return touched

    def _fold(self, raw: Any) -> Hashable:
        unknown = raw is UNCHANGED or (raw.__class__ is tuple and UNCHANGED in raw)
        return DOUBT if unknown else self.fold(raw)


def find_watched(table: TableSchema) -> tuple[int, ...]:
    """The ordinals a unique key looks at, the key's first; all of them where one looks at what is in no row."""
    if any(_find_ordinals(table, key) is None for key in table.unique_keys):
        return tuple(range(len(table.columns)))
    watched = dict.fromkeys(table.key)
    for key in table.unique_keys:
        watched.update(dict.fromkeys(_find_ordinals(table, key) or ()))
    return tuple(watched)


def _find_ordinals(table: TableSchema, key: UniqueKey) -> tuple[int, ...] | None:
    """The columns that decide a unique key's value, None where not all of them are in the rows."""
    if key.exact:
        return key.ordinals
    index = next((index for index in table.indexes if index.name == key.name), None)
    names = {column.name: at for at, column in enumerate(table.columns)}
    if index is None or any(part.column not in names for part in index.parts):
        return None
    return tuple(names[part.column] for part in index.parts if part.column is not None)


def build_unique_roles(table: TableSchema, parked: Collection[str] = ()) -> list[Role]:
    """The table's unique keys; the key itself where no unique key is declared over it. ``parked`` ones order nothing."""
    keys = list(table.unique_keys)
    if all(key.ordinals != table.key for key in keys):
        keys.append(UniqueKey("", table.key))
    return [_build_unique_role(table, key) for key in keys if key.name not in parked]


def _build_unique_role(table: TableSchema, key: UniqueKey) -> Role:
    ordinals = _find_ordinals(table, key)
    if key.exact and ordinals:
        return Role(Space(), itemgetter(*ordinals), build_fold([table.columns[at] for at in ordinals]))
    watched = ordinals or tuple(range(len(table.columns)))
    return Role(Space(), itemgetter(*watched), lambda _value: DOUBT)


def build_edge_roles(
    child: TableSchema, parent: TableSchema, edge: Edge, *, holds: bool
) -> tuple[Role, Role]:
    """The child's and the parent's role of a foreign key; ``holds``: see PlanSettings.cascades_logged.

    Both fold as the parent's columns do: MySQL demands one character set and collation on both sides.
    """
    space = Space(is_shared=True)
    if not edge.exact:
        return _build_doubtful_role(child, space, reads=True), _build_doubtful_role(
            parent, space, reads=False
        )
    fold = build_fold([parent.columns[at] for at in edge.parent_columns])
    return (
        Role(space, itemgetter(*edge.columns), fold, reads=True, holds=holds),
        Role(space, itemgetter(*edge.parent_columns), fold),
    )


def _build_doubtful_role(table: TableSchema, space: Space, *, reads: bool) -> Role:
    return Role(space, itemgetter(*range(len(table.columns))), lambda _value: DOUBT, reads=reads)


def merge_unchanged(before: Row, after: Row) -> Row:
    """``after`` with what it leaves out taken from ``before``."""
    if UNCHANGED not in after:
        return after
    return tuple(old if new is UNCHANGED else new for old, new in zip(before, after, strict=True))


def find_present(row: Row) -> tuple[int, ...]:
    """The ordinals whose values the row carries."""
    return tuple(at for at, value in enumerate(row) if value is not UNCHANGED)


def build_key(table: TableSchema) -> Getter:
    """From a row to its Key, a tuple for keys of one column too."""
    if len(table.key) > 1:
        return itemgetter(*table.key)
    (at,) = table.key
    return lambda row: (row[at],)


def build_moves(table: TableSchema, parent_columns: Sequence[Sequence[int]]) -> Getter:
    """From a row to all that other rows may be waiting for: its unique values and what children refer to."""
    ordinals = dict.fromkeys(find_watched(table))
    for columns in parent_columns:
        ordinals.update(dict.fromkeys(columns))
    return itemgetter(*ordinals)
