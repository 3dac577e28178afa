"""Which mirrored tables foreign keys join, and whether the target must check them (pure; SEMANTICS §2.5, §5.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from replicator.model import ForeignKey, TableName, TableSchema


class ExternalChild(NamedTuple):
    """A table outside the pipeline whose foreign key refers to a mirrored one: checks must stay on for it."""

    child: str
    constraint: str
    parent: str


def build_groups(schemas: Sequence[TableSchema]) -> list[tuple[TableSchema, ...]]:
    """The sets of tables that foreign keys join, in the order of ``schemas``; a table that none joins is a set too."""
    selected = {schema.source: schema for schema in schemas}
    leader = {name: name for name in selected}

    def find(name: TableName) -> TableName:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    for schema in schemas:
        for fk in schema.foreign_keys:
            if fk.parent in selected:
                leader[find(schema.source)] = find(fk.parent)
    groups: dict[TableName, list[TableSchema]] = {}
    for schema in schemas:
        groups.setdefault(find(schema.source), []).append(schema)
    return [tuple(group) for group in groups.values()]


def build_inseparable(schemas: Sequence[TableSchema], *, cascades_logged: bool) -> list[frozenset[TableName]]:
    """The sets that must be loaded at one position: a cascade between two of them would otherwise be lost.

    What a cascade does is seen in no log where the source does not log it: from the set's snapshot on, the target's own
    foreign keys must do it, and they can only be made where all tables stand at the same moment.
    """
    if cascades_logged:
        return []
    return [
        frozenset(schema.source for schema in group)
        for group in build_groups(schemas)
        if any(fk.cascades and fk.parent in {s.source for s in group} for s in group for fk in s.foreign_keys)
    ]


def build_dependants(
    schemas: Sequence[TableSchema], *, cascades_logged: bool
) -> dict[TableName, frozenset[TableName]]:
    """By table, those that can only be mirrored while it is: its rows' cascades write to them, and no log says so."""
    selected = {schema.source for schema in schemas}
    children: dict[TableName, set[TableName]] = {name: set() for name in selected}
    for schema in schemas if not cascades_logged else ():
        for fk in schema.foreign_keys:
            if fk.cascades and fk.parent in selected:
                children[fk.parent].add(schema.source)
    found: dict[TableName, frozenset[TableName]] = {}
    for name in selected:
        reached: set[TableName] = set()
        ahead = [name]
        while ahead:
            new = children[ahead.pop()] - reached
            reached |= new
            ahead += new
        found[name] = frozenset(reached - {name})
    return found


class UnseenCascade(NamedTuple):
    """A foreign key through which a table that is not mirrored writes to one that is, without a word in the log."""

    child: TableName
    key: ForeignKey

    @property
    def message(self) -> str:
        return (
            f"{self.child}: its foreign key {self.key.name} (ON DELETE {self.key.on_delete}, ON UPDATE"
            f" {self.key.on_update}) lets {self.key.parent} change it, which the source does not log"
        )

    @property
    def hint(self) -> str:
        return f"mirror {self.key.parent} as well, or leave {self.child} out with `skip: true`"


def find_unseen_cascades(schemas: Sequence[TableSchema], *, cascades_logged: bool) -> list[UnseenCascade]:
    """Changes that would never arrive, because their cause is not mirrored and their effect not logged."""
    if cascades_logged:
        return []
    selected = {schema.source for schema in schemas}
    return [
        UnseenCascade(schema.source, fk)
        for schema in schemas
        for fk in schema.foreign_keys
        if fk.cascades and fk.parent not in selected
    ]


def find_check_reasons(
    schemas: Sequence[TableSchema], *, cascades_logged: bool, external: Iterable[ExternalChild]
) -> list[str]:
    """Why foreign_key_checks must be on while changes are applied; empty: they do no work and are off.

    ``external``: tables outside the pipeline that refer to mirrored ones.
    """
    reasons: list[str] = []
    selected = {schema.source for schema in schemas}
    if not cascades_logged:
        reasons += [
            f"{schema.source}: the source does not log what its foreign key {fk.name} "
            f"(ON DELETE {fk.on_delete}, ON UPDATE {fk.on_update}) does, so the target's must do it"
            for schema in schemas
            for fk in schema.foreign_keys
            if fk.cascades and fk.parent in selected
        ]
    reasons += [
        f"{child.child}: this table outside the pipeline refers to {child.parent} by {child.constraint}"
        for child in external
    ]
    return reasons
