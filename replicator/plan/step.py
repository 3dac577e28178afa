"""The types between ``plan`` and ``sql``, and what a plan must respect (pure)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from replicator.model import ForeignKey, Key, Row, TableSchema
from replicator.plan.descent import Descent


class Action(enum.Enum):
    """What a step does with its rows.

    INSERT: ``rows``, none of which exists. UPDATE: ``rows`` replace the rows of the same key. UPDATE_KEY: ``rows``
    replace the rows found under ``keys`` (one each). DELETE: the rows under ``keys`` go. MERGE (careful plans only):
    ``rows`` are brought about whether or not a row of that key exists. CLEAR: every row of the table goes.
    """

    INSERT = "insert"
    UPDATE = "update"
    UPDATE_KEY = "update_key"
    DELETE = "delete"
    MERGE = "merge"
    CLEAR = "clear"


class Step(NamedTuple):
    """Rows of one table for one kind of statement.

    ``independent``: the rows depend on nothing else in the batch, so the step may run before all others. ``careful``:
    matches are only counted. ``inserted``: the source had inserted a MERGE's rows, so one that exists is a conflict; else
    one that is missing is. ``unchecked``: to be run without foreign key checks, as it was at the source. ``present``:
    the ordinals whose values the rows carry, None for all (UNCHANGED columns). ``descent``: what goes along where
    foreign keys form a circle must be done before; ``descends`` does it, else it is checked that there is nothing.
    """

    table: TableSchema
    action: Action
    rows: Sequence[Row] = ()
    keys: Sequence[Key] = ()
    independent: bool = False
    careful: bool = False
    unchecked: bool = False
    present: tuple[int, ...] | None = None
    inserted: bool = False
    descent: Descent | None = None
    descends: bool = False


class Edge(NamedTuple):
    """A foreign key of the target, as ordinals: ``columns`` of the child, ``parent_columns`` of table ``parent``.

    ``cascades``: ON DELETE or ON UPDATE writes to the child. ``exact`` is False where a column of it is in no row
    (generated): order then falls back to the source's.
    """

    columns: tuple[int, ...]
    parent: str
    parent_columns: tuple[int, ...]
    cascades: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a plan must respect.

    ``checks``: foreign_key_checks are on at the target. ``careful``: the fast plan was refused (SEMANTICS §5.6).
    ``cascades_logged``: the source logs the child rows that its cascades touch. ``parents``: by target name of the
    child table, its foreign keys (``build_edges``). ``partial``: the source may leave values out (UNCHANGED).
    ``first_stand_in``: the number of the first that no row of the batch has yet (``park``).
    ``descents``: by target name, the tables from which the target's cascades cannot be relied on (``build_descents``);
    ``descends``: there was something below what is deleted there.
    """

    checks: bool = False
    careful: bool = False
    cascades_logged: bool = False
    parents: Mapping[str, tuple[Edge, ...]] = field(default_factory=dict)
    partial: bool = False
    first_stand_in: int = 0
    descents: Mapping[str, Descent] = field(default_factory=dict)
    descends: bool = False


def build_edges(tables: Iterable[TableSchema]) -> dict[str, tuple[Edge, ...]]:
    """The foreign keys among ``tables``, by target name of the child: ``PlanSettings.parents``."""
    by_source = {table.source: table for table in tables}
    return {
        table.target: tuple(
            _build_edge(table, by_source[key.parent], key)
            for key in table.foreign_keys
            if key.parent in by_source
        )
        for table in by_source.values()
        if any(key.parent in by_source for key in table.foreign_keys)
    }


def _build_edge(child: TableSchema, parent: TableSchema, key: ForeignKey) -> Edge:
    columns, parent_columns = _find_ordinals(child, key.columns), _find_ordinals(parent, key.parent_columns)
    exact = len(columns) == len(key.columns) and len(parent_columns) == len(key.parent_columns)
    return Edge(columns, parent.target, parent_columns, key.cascades, exact)


def _find_ordinals(table: TableSchema, names: Sequence[str]) -> tuple[int, ...]:
    ordinals = {column.name.lower(): at for at, column in enumerate(table.columns)}
    return tuple(ordinals[name.lower()] for name in names if name.lower() in ordinals)
