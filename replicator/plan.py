"""Turn a batch into ordered steps: the net change per key, ordered by dependency (pure; SEMANTICS §5).

Between ``stream`` and ``sql``. A step names rows of one table that one kind of statement can carry, and steps run in the
order given.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from replicator.model import Changes, Key, Row, TableSchema


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
    counts are only counted. ``present``: the ordinals whose values the rows carry, None for all (UNCHANGED columns).
    """

    table: TableSchema
    action: Action
    rows: Sequence[Row] = ()
    keys: Sequence[Key] = ()
    independent: bool = False
    careful: bool = False
    present: tuple[int, ...] | None = None


class Edge(NamedTuple):
    """A foreign key of the target, as ordinals: ``columns`` of the child, ``parent_columns`` of table ``parent``.

    ``exact`` is False where a column of it is in no row (generated): order then falls back to the source's.
    """

    columns: tuple[int, ...]
    parent: str
    parent_columns: tuple[int, ...]
    cascades: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a plan must respect.

    ``checks``: foreign_key_checks are on at the target. ``cascades_logged``: the source logs the child rows that its
    cascades touch. ``parents``: by target name of the child table, its foreign keys (``build_edges``). ``partial``:
    the source may leave values out (UNCHANGED).
    """

    checks: bool = False
    careful: bool = False
    cascades_logged: bool = False
    parents: Mapping[str, tuple[Edge, ...]] = field(default_factory=dict)
    partial: bool = False


def build_plan(changes: Iterable[Changes], settings: PlanSettings) -> list[Step]:
    """Order a batch's changes into steps that end where the source's own order ends and break no constraint on the way."""
    raise NotImplementedError
