"""Turn a batch into ordered steps: the net change per key, ordered by dependency (pure; SEMANTICS §5).

Between ``stream`` and ``sql``. Most tables take the straight path: as long as no update moves a value of a unique key
and no foreign key is in play, deletes, then updates, then inserts break nothing on the way, whatever the collations
call equal, because every state in between is part of the first or of the last one. All else is ordered by ``order``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from replicator.model import Changes, Key, Op, Row, TableSchema
from replicator.plan.descent import Descent, build_descents
from replicator.plan.fold import is_exact
from replicator.plan.order import Relations, order_changes
from replicator.plan.park import may_repeat_keys
from replicator.plan.step import Action, Edge, PlanSettings, Step, build_edges
from replicator.plan.touch import find_present, find_watched, merge_unchanged

__all__ = ["Action", "Descent", "Edge", "PlanSettings", "Step", "build_descents", "build_edges", "build_plan"]

_NEW: Final = frozenset({Op.INSERT, Op.READ})


class _Shape(NamedTuple):
    """What collapsing needs to know of a table. ``watched``: the columns a unique key looks at, the key's included."""

    key: Any  # from a row to its key: a bare value where the key has one column
    watched: Any
    is_bare: bool
    is_exact: bool  # one key, and equal only when identical: inserts never meet what the batch deletes


class _Net(NamedTuple):
    """The net change of each key so far."""

    inserts: dict[Any, Row]
    updates: dict[Any, Row]
    deletes: dict[Any, Row]


@lru_cache(maxsize=4096)
def _build_shape(table: TableSchema) -> _Shape:
    watched = find_watched(table)
    alone = set(watched) == set(table.key)
    columns = [table.columns[at] for at in table.key]
    return _Shape(
        itemgetter(*table.key), itemgetter(*watched), len(table.key) == 1, alone and is_exact(columns)
    )


def build_plan(changes: Iterable[Changes], settings: PlanSettings) -> list[Step]:
    """Order a batch's changes into steps that end where the source's own order ends and break nothing on the way.

    Changes come as the source made them, whole before images included. A table is one TableSchema, or the batch is
    planned piece by piece. TRUNCATE is a barrier for its table, and for all tables where foreign keys join it to others.
    """
    relations = Relations.build(settings)
    steps: list[Step] = []
    for segment in _cut(changes, relations):
        steps += _plan_segment(segment, relations, settings, is_first=not steps)
    if settings.checks and settings.descents:
        steps = [_descend(step, settings) for step in steps]
    if settings.descends:
        steps = list(_join_deletes(steps, relations))
    return steps


@dataclass(slots=True)
class _Segment:
    """Changes without a barrier between them; ``cleared`` tables are emptied first."""

    blocks: list[Changes] = field(default_factory=list)
    by_table: dict[TableSchema, list[Changes]] = field(default_factory=dict)
    by_target: dict[str, TableSchema] = field(default_factory=dict)
    cleared: dict[TableSchema, None] = field(default_factory=dict)


def _cut(changes: Iterable[Changes], relations: Relations) -> Iterator[_Segment]:
    segment = _Segment()
    for block in changes:
        table = block.table
        blocks = segment.by_table.get(table)
        is_truncate = block.op is Op.TRUNCATE
        if blocks is None:
            if segment.by_target.get(table.target, table) is not table:
                yield segment
                segment = _Segment()
            segment.by_target[table.target] = table
            segment.by_table[table] = blocks = []
        if is_truncate:
            if relations.has(table):
                yield segment
                segment = _Segment(by_target={table.target: table})
            segment.by_table[table] = []
            segment.cleared[table] = None
        else:
            blocks.append(block)
            segment.blocks.append(block)
    yield segment


def _plan_segment(
    segment: _Segment, relations: Relations, settings: PlanSettings, *, is_first: bool
) -> list[Step]:
    steps: list[Step] = []
    for tables in relations.group(list(segment.by_table)):
        for table in tables:
            if table in segment.cleared:
                steps.append(Step(table, Action.CLEAR))
        planned = _plan_tables(tables, segment, relations, settings)
        if settings.partial:
            planned = [part for step in planned for part in _split_present(step)]
        if settings.careful:
            planned = [part for step in planned for part in _soften(step)]
        if not is_first or any(table in segment.cleared for table in tables):
            planned = [step._replace(independent=False) for step in planned]
        steps += planned
    return steps


def _plan_tables(
    tables: list[TableSchema], segment: _Segment, relations: Relations, settings: PlanSettings
) -> list[Step]:
    if len(tables) > 1:
        chosen = set(tables)
        return order_changes([b for b in segment.blocks if b.table in chosen], relations, settings)
    (table,) = tables
    blocks = segment.by_table[table]
    steps = None
    if not _needs_order(table, blocks, relations):
        steps = _collapse(table, blocks, settings, keep_apart=table.target in relations.silent)
    return order_changes(blocks, relations, settings) if steps is None else steps


def _needs_order(table: TableSchema, blocks: list[Changes], relations: Relations) -> bool:
    """Whether a table that stands alone in the batch still cannot take the straight path."""
    if may_repeat_keys(table, blocks):
        return True
    if not relations.has(table):
        return False
    if table.target in relations.tangled or relations.find_within([table]):
        return True
    return any(block.no_foreign_key_checks for block in blocks)


# --- the straight path -------------------------------------------------------------------------------------------


def _collapse(
    table: TableSchema, blocks: list[Changes], settings: PlanSettings, *, keep_apart: bool
) -> list[Step] | None:
    """Net changes by key, or None where a value of a unique key moves.

    ``keep_apart``: a delete and an insert of one key must stay two changes (SEMANTICS §5.2).
    """
    shape = _build_shape(table)
    if _NEW.issuperset([block.op for block in blocks]):
        rows = blocks[0].after if len(blocks) == 1 else list(chain.from_iterable([b.after for b in blocks]))
        return [Step(table, Action.INSERT, rows, independent=True)] if rows else []
    net = _Net({}, {}, {})
    for block in blocks:
        if block.op is Op.UPDATE:
            fits = _collapse_updates(block, shape, net, settings.partial)
        elif block.op is Op.DELETE:
            fits = _collapse_deletes(block, shape, net, settings.careful)
        else:
            fits = _collapse_inserts(block, shape, net, keep_apart)
        if not fits:
            return None
    return _build_straight(table, shape, net)


def _collapse_updates(block: Changes, shape: _Shape, net: _Net, partial: bool) -> bool:
    key, watched = shape.key, shape.watched
    inserts, updates = net.inserts, net.updates
    for before, after in zip(block.before, block.after, strict=True):
        if partial:
            after = merge_unchanged(before, after)
        if watched(before) != watched(after):
            return False
        found = key(after)
        rows = inserts if found in inserts else updates
        if partial and found in rows:
            after = merge_unchanged(rows[found], after)
        rows[found] = after
    return True


def _collapse_deletes(block: Changes, shape: _Shape, net: _Net, careful: bool) -> bool:
    """What came and went leaves nothing; a careful plan deletes it, for the target may have had such a row."""
    key = shape.key
    for before in block.before:
        found = key(before)
        if net.inserts.pop(found, None) is None:
            net.updates.pop(found, None)
            net.deletes[found] = before
        elif careful:
            net.deletes[found] = before
    return True


def _collapse_inserts(block: Changes, shape: _Shape, net: _Net, keep_apart: bool) -> bool:
    key, watched = shape.key, shape.watched
    if not net.deletes:
        net.inserts.update(zip(map(key, block.after), block.after, strict=True))
        return True
    for after in block.after:
        found = key(after)
        gone = net.deletes.pop(found, None)
        if gone is None:
            net.inserts[found] = after
        elif keep_apart or watched(gone) != watched(after):
            return False
        else:
            net.updates[found] = after
    return True


def _build_straight(table: TableSchema, shape: _Shape, net: _Net) -> list[Step]:
    steps: list[Step] = []
    if net.deletes:
        keys: Sequence[Key] = [(key,) for key in net.deletes] if shape.is_bare else list(net.deletes)
        steps.append(Step(table, Action.DELETE, keys=keys))
    if net.updates:
        steps.append(Step(table, Action.UPDATE, list(net.updates.values())))
    if net.inserts:
        independent = shape.is_exact or not net.deletes
        steps.append(Step(table, Action.INSERT, list(net.inserts.values()), independent=independent))
    return steps


# --- variants of a step ------------------------------------------------------------------------------------------


def _split_present(step: Step) -> Iterator[Step]:
    """A step for each set of columns that its rows carry: an UPDATE assigns no other (SEMANTICS §3.5)."""
    if step.action not in (Action.UPDATE, Action.UPDATE_KEY):
        yield step
        return
    places: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(step.rows):
        places.setdefault(find_present(row), []).append(place)
    width = len(step.table.columns)
    for present, found in places.items():
        yield step._replace(
            rows=[step.rows[place] for place in found],
            keys=[step.keys[place] for place in found] if step.keys else (),
            present=None if len(present) == width else present,
        )


def _soften(step: Step) -> Iterator[Step]:
    """The careful form of a step: rows may be there or not. A row with values left out can never be inserted."""
    if step.careful or step.action in (Action.DELETE, Action.CLEAR) or step.present is not None:
        yield step
        return
    if step.action is Action.UPDATE_KEY:
        yield step._replace(careful=True)
    inserted = step.action is Action.INSERT
    yield Step(step.table, Action.MERGE, step.rows, careful=True, unchecked=step.unchecked, inserted=inserted)


def _descend(step: Step, settings: PlanSettings) -> Step:
    """The form of a step that leaves no circle to the target's cascades; one that is unchecked has none."""
    if step.action not in (Action.DELETE, Action.CLEAR) or step.unchecked:
        return step
    return step._replace(descent=settings.descents.get(step.table.target), descends=settings.descends)


def _join_deletes(steps: Iterable[Step], relations: Relations) -> Iterator[Step]:
    """Deletes in a row as one, so that what goes along is looked for once; not where one must come before another."""

    def find_joined(step: Step) -> TableSchema | None:
        is_joined = (
            step.action is Action.DELETE and step.descent and step.table.target not in relations.tangled
        )
        return step.table if is_joined else None

    for table, group in groupby(steps, find_joined):
        if table is None:
            yield from group
        else:
            first, *rest = group
            yield first._replace(keys=[key for step in (first, *rest) for key in step.keys])
