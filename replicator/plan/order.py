"""Order the changes of tables whose rows depend on one another (pure; SEMANTICS §5.1 to §5.3).

Between ``plan`` and its steps. Source order never breaks a constraint, and two changes that touch no common value can
be exchanged. So each net change is a node, nodes that touch a common value keep their source order, and levels of the
graph are what can run together. A collapsed node stands at all its places at once; where that makes a cycle, where
equality is in doubt, and where the source writes what it does not log, the connected part goes through in source order,
uncollapsed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

from replicator.model import Changes, Key, Op, Row, TableSchema
from replicator.plan.fold import DOUBT
from replicator.plan.park import build_lot, park_rows
from replicator.plan.step import Action, Edge, PlanSettings, Step
from replicator.plan.touch import (
    Role,
    build_edge_roles,
    build_key,
    build_moves,
    build_unique_roles,
    merge_unchanged,
)


@dataclass(frozen=True, slots=True)
class Relations:
    """The foreign keys that a plan must respect: none where the target does not check them."""

    edges: tuple[tuple[str, Edge], ...] = ()  # (target name of the child, its foreign key)
    tables: frozenset[str] = frozenset()  # targets with a foreign key or referred to by one
    silent: frozenset[str] = frozenset()  # parents whose cascades the source does not log
    tangled: frozenset[str] = (
        frozenset()
    )  # of these, where one row's cascade may free another row of the same table
    cascades_logged: bool = True

    @classmethod
    def build(cls, settings: PlanSettings) -> Relations:
        if not settings.checks:
            return cls()
        edges = tuple((child, edge) for child, keys in settings.parents.items() for edge in keys)
        return _build_relations(edges, settings.cascades_logged)

    def has(self, table: TableSchema) -> bool:
        return table.target in self.tables

    def find_within(self, tables: Iterable[TableSchema]) -> list[tuple[str, Edge]]:
        """The foreign keys with both sides among ``tables``."""
        names = {table.target for table in tables}
        return [(child, edge) for child, edge in self.edges if child in names and edge.parent in names]

    def group(self, tables: Sequence[TableSchema]) -> list[list[TableSchema]]:
        """``tables`` in sets that foreign keys join, each in the order given."""
        group_of = {table.target: {table.target} for table in tables}
        for child, edge in self.find_within(tables):
            joined = group_of[child] | group_of[edge.parent]
            group_of |= dict.fromkeys(joined, joined)
        found: dict[int, list[TableSchema]] = {}
        for table in tables:
            found.setdefault(id(group_of[table.target]), []).append(table)
        return list(found.values())


@lru_cache(maxsize=16)
def _build_relations(edges: tuple[tuple[str, Edge], ...], cascades_logged: bool) -> Relations:
    silent = frozenset(edge.parent for _, edge in edges if edge.cascades and not cascades_logged)
    tables = frozenset(child for child, _ in edges) | frozenset(edge.parent for _, edge in edges)
    tangled = frozenset(parent for parent in silent if _is_tangled(parent, edges))
    return Relations(edges, tables, silent, tangled, cascades_logged)


def _find_below(starts: set[str], edges: Iterable[tuple[str, Edge]]) -> set[str]:
    """The tables that a write to ``starts`` may cascade to, however far."""
    below: set[str] = set()
    while (
        grown := {child for child, edge in edges if edge.cascades and edge.parent in starts | below} - below
    ):
        below |= grown
    return below


def _is_tangled(parent: str, edges: Sequence[tuple[str, Edge]]) -> bool:
    """Whether a table below ``parent`` refers to it or to the tables below on more ways than one."""
    below = _find_below({parent}, edges)
    ways = [child for child, edge in edges if child in below and edge.parent in below | {parent}]
    return len(ways) > len(below)


class _Change(NamedTuple):
    """One row's change: before None is an insert, after None a delete."""

    table: _Table
    before: Row | None
    after: Row | None
    unchecked: bool


@dataclass(slots=True, eq=False)
class _Table:
    """One table while its batch is being ordered."""

    schema: TableSchema
    key: Callable[[Row], Key]
    moves: Callable[[Row], Any] = lambda row: row
    roles: list[Role] = field(default_factory=list)
    is_silent_parent: bool = False
    deletes_alone: bool = False  # a deleted row may refer to another one, by itself or through what cascades
    nodes: dict[Key, _Node] = field(default_factory=dict)  # by current key; deleted ones by the key they had


class _Node:
    """The net change of one row, from key ``origin`` (None: not there before) to ``row`` (None: gone)."""

    __slots__ = (
        "blocked",
        "changes",
        "forced",
        "key",
        "level",
        "next",
        "origin",
        "row",
        "table",
        "unchecked",
    )

    def __init__(self, table: _Table, origin: Key | None, key: Key) -> None:
        self.table = table
        self.origin = origin
        self.key = key
        self.row: Row | None = None
        self.changes: list[int] = []
        self.unchecked = False
        self.forced = False
        self.level = 0
        self.next: list[_Node] = []
        self.blocked = 0

    def put_before(self, other: _Node) -> None:
        if other is not self:
            self.next.append(other)
            other.blocked += 1


def order_changes(blocks: Iterable[Changes], relations: Relations, settings: PlanSettings) -> list[Step]:
    """Steps for ``blocks`` (in source order, of tables that foreign keys may join)."""
    blocks = list(blocks)
    tables = _build_tables(blocks, relations)
    changes = [change for block in blocks for change in _split(block, tables[block.table], relations)]
    parked = _park(changes, tables, relations, settings)
    nodes = _collapse(changes)
    _force(nodes, changes, tables, relations)
    levelled, in_order = _level(nodes)
    steps = _build_levels(levelled, settings.careful)
    if parked:
        steps = [step._replace(independent=False) for step in steps]
    places = sorted(place for node in in_order for place in node.changes)
    return parked + steps + _build_in_source_order([changes[place] for place in places])


def _park(
    changes: list[_Change],
    tables: dict[TableSchema, _Table],
    relations: Relations,
    settings: PlanSettings,
) -> list[Step]:
    """The steps that park rows of deferrable keys; ``changes`` become what follows them."""
    steps: list[Step] = []
    for schema in tables:
        lot = build_lot(schema)
        if lot is None:
            continue
        places = [place for place, change in enumerate(changes) if change.table.schema is schema]
        pairs = [(changes[place].before, changes[place].after) for place in places]
        build = partial(Step, schema, careful=settings.careful, unchecked=relations.has(schema))
        parked, pairs = park_rows(schema, lot, pairs, build, settings.first_stand_in)
        for place, (before, after) in zip(places, pairs, strict=True):
            changes[place] = changes[place]._replace(before=before, after=after)
        steps += parked
    return steps


def _build_tables(blocks: list[Changes], relations: Relations) -> dict[TableSchema, _Table]:
    tables = {block.table: _Table(block.table, build_key(block.table)) for block in blocks}
    by_target = {table.schema.target: table for table in tables.values()}
    referred: dict[str, list[Sequence[int]]] = {}
    for table in tables.values():
        lot = build_lot(table.schema)
        table.roles += build_unique_roles(table.schema, lot.names if lot else frozenset())
        table.is_silent_parent = table.schema.target in relations.silent
        table.deletes_alone = table.schema.target in relations.tangled
    for child_name, edge in relations.find_within(tables):
        child, parent = by_target[child_name], by_target[edge.parent]
        holds = edge.cascades and not relations.cascades_logged
        child_role, parent_role = build_edge_roles(child.schema, parent.schema, edge, holds=holds)
        child.roles.append(child_role)
        parent.roles.append(parent_role)
        parent.deletes_alone |= child is parent
        referred.setdefault(edge.parent, []).append(edge.parent_columns)
    for target, table in by_target.items():
        table.moves = build_moves(table.schema, referred.get(target, ()))
    return tables


def _split(block: Changes, table: _Table, relations: Relations) -> Iterable[_Change]:
    unchecked = block.no_foreign_key_checks and relations.has(block.table)
    if block.op is Op.UPDATE:
        return [
            _Change(table, b, merge_unchanged(b, a), unchecked)
            for b, a in zip(block.before, block.after, strict=True)
        ]
    if block.op is Op.DELETE:
        return [_Change(table, row, None, unchecked) for row in block.before]
    return [_Change(table, None, row, unchecked) for row in block.after]


# --- collapse ----------------------------------------------------------------------------------------------------


def _collapse(changes: list[_Change]) -> list[_Node]:
    nodes: dict[_Node, None] = {}
    for place, change in enumerate(changes):
        node = _find_node(change)
        nodes[node] = None
        if node.changes and node.unchecked != change.unchecked:
            node.forced = True
        node.unchecked |= change.unchecked
        node.changes.append(place)
        _move(node, change)
        for role in change.table.roles:
            for value, freed in role.find_touched(change.before, change.after):
                _touch(role, value, node, freed)
    return list(nodes)


def _find_node(change: _Change) -> _Node:
    """The node of the row that this change continues, or a new one."""
    table = change.table
    if change.before is not None:
        key = table.key(change.before)
        node = table.nodes.get(key)
        return node if node is not None and node.row is not None else _Node(table, key, key)
    assert change.after is not None
    key = table.key(change.after)
    node = table.nodes.get(key)
    if node is None or node.row is not None or node.origin != key:
        return _Node(table, None, key)
    # The delete took children along, and the insert did not bring them back.
    node.forced |= table.is_silent_parent
    return node


def _move(node: _Node, change: _Change) -> None:
    nodes = change.table.nodes
    if change.after is None:
        node.row = None
        nodes[node.key] = node
        return
    key = change.table.key(change.after)
    if key != node.key and nodes.get(node.key) is node:
        del nodes[node.key]
    nodes[key] = node
    node.key = key
    known = node.row if node.row is not None else change.before
    node.row = change.after if known is None else merge_unchanged(known, change.after)


def _touch(role: Role, value: Hashable, node: _Node, freed: bool) -> None:
    """Put the node behind those that touched the value before: all of them, or for a mere reference the last change."""
    if value is None:
        return
    space = role.space
    space.touching.append(node)
    space.frees |= freed
    space.reads |= role.reads
    space.writes |= not role.reads
    if value is DOUBT:
        space.doubt = True
        return
    last = space.last.get(value)
    if last is not None:
        last.put_before(node)
    if role.reads:
        node.forced |= last is node  # it refers to itself
        space.readers.setdefault(value, []).append(node)
        return
    for reader in space.readers.pop(value, ()):
        node.forced |= reader is node
        reader.put_before(node)
    space.last[value] = node


# --- what must go in source order ----------------------------------------------------------------------------------


def _force(
    nodes: list[_Node], changes: list[_Change], tables: dict[TableSchema, _Table], relations: Relations
) -> None:
    for space in {id(role.space): role.space for table in tables.values() for role in table.roles}.values():
        for node in space.touching if space.is_uncertain else ():
            node.forced = True
    silent = _find_silent_descent(changes, relations)
    for node in nodes:
        node.forced |= node.table.schema.target in silent


def _find_silent_descent(changes: list[_Change], relations: Relations) -> set[str]:
    """Tables whose rows the target's cascades write in this batch while the source logs nothing of it.

    Such a row may free values that no change names. A parent starts it by a delete or by a new referred value.
    """
    starts = {
        change.table.schema.target
        for change in changes
        if change.table.is_silent_parent and change.before is not None and _moves(change)
    }
    below = _find_below(starts, relations.edges)
    present = {change.table.schema.target for change in changes}
    return starts | below if below & present else starts & relations.tangled


def _moves(change: _Change) -> bool:
    if change.before is None or change.after is None:
        return True
    return bool(change.table.moves(change.before) != change.table.moves(change.after))


def _level(nodes: list[_Node]) -> tuple[list[_Node], list[_Node]]:
    """Nodes with their levels, and those that go in source order: cycles, forced ones, and all connected with either."""
    waiting = {node: node.blocked for node in nodes}
    ready = [node for node in nodes if node.blocked == 0]
    for node in ready:  # grows while it is walked
        for after in node.next:
            after.level = max(after.level, node.level + 1)
            waiting[after] -= 1
            if waiting[after] == 0:
                ready.append(after)
    starts = [node for node in nodes if node.forced or waiting[node]]
    if not starts:
        return nodes, []
    connected = _find_connected(nodes, starts)
    return [node for node in nodes if node not in connected], list(connected)


def _find_connected(nodes: list[_Node], starts: list[_Node]) -> dict[_Node, None]:
    neighbours: dict[_Node, list[_Node]] = {node: list(node.next) for node in nodes}
    for node in nodes:
        for after in node.next:
            neighbours[after].append(node)
    found = dict.fromkeys(starts)
    stack = list(found)
    while stack:
        for node in neighbours[stack.pop()]:
            if node not in found:
                found[node] = None
                stack.append(node)
    return found


# --- steps ---------------------------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """The rows of one step being gathered."""

    table: _Table
    action: Action
    unchecked: bool
    rows: list[Row]
    keys: list[Key]

    def build(self, *, independent: bool = False) -> Step:
        return Step(
            self.table.schema, self.action, self.rows, self.keys, independent, unchecked=self.unchecked
        )


def _build_levels(nodes: list[_Node], careful: bool) -> list[Step]:
    groups: dict[tuple[int, TableSchema, Action, bool], _Group] = {}
    for node in nodes:
        action = _find_action(node, careful)
        if action is None:
            continue
        key = (node.level, node.table.schema, action, node.unchecked)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(node.table, action, node.unchecked, [], [])
        if node.row is not None:
            group.rows.append(node.row)
        if action in (Action.DELETE, Action.UPDATE_KEY):
            group.keys.append(node.key if node.origin is None else node.origin)
    return [
        groups[key].build(independent=key[0] == 0 and key[2] is Action.INSERT)
        for key in sorted(groups, key=lambda key: key[0])
    ]


def _find_action(node: _Node, careful: bool) -> Action | None:
    """What brings the net change about; None where nothing is left of it.

    A careful plan deletes what came and went, too: the target may have had such a row.
    """
    if node.row is None:
        return Action.DELETE if node.origin is not None or careful else None
    if node.origin is None:
        return Action.INSERT
    return Action.UPDATE if node.origin == node.key else Action.UPDATE_KEY


def _build_in_source_order(changes: list[_Change]) -> list[Step]:
    """One step a change, but for runs that cannot meet: inserts, deletes, and updates that move nothing."""
    groups: list[_Group] = []
    updated: set[Key] = set()
    is_open = False
    for change in changes:
        action, key = _describe(change)
        moves = action in (Action.UPDATE, Action.UPDATE_KEY) and _moves(change)
        alone = moves or (action is Action.DELETE and change.table.deletes_alone)
        kind = (change.table, action, change.unchecked)
        joins = is_open and not alone and groups[-1][:3] == kind
        if not joins or (action is Action.UPDATE and key in updated):
            groups.append(_Group(*kind, [], []))
            updated.clear()
        is_open = not alone
        updated.add(key)
        last = groups[-1]
        if change.after is not None:
            last.rows.append(change.after)
        if action in (Action.DELETE, Action.UPDATE_KEY):
            last.keys.append(key)
    return [group.build() for group in groups]


def _describe(change: _Change) -> tuple[Action, Key]:
    """The change's action by itself, and the key under which its row is found."""
    if change.before is None:
        assert change.after is not None
        return Action.INSERT, change.table.key(change.after)
    key = change.table.key(change.before)
    if change.after is None:
        return Action.DELETE, key
    return (Action.UPDATE if change.table.key(change.after) == key else Action.UPDATE_KEY), key
