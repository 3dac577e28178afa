"""Foreign keys that the target must have as the source has them, because what they do stands in no log (SEMANTICS §5.3).

Compared at every start, before a load as well as long after it: a key that somebody dropped or changed at the target
would lose what the source's cascades do, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from replicator import ddl
from replicator.model import ForeignKey, TableName, TableSchema
from replicator.tablestate import Found, State, TableState
from replicator.target import TargetForeignKey, TargetTable, plain_rule


class KeyFault(NamedTuple):
    """What is wrong with one key of a target table; ``fix`` are the statements that mend it, to be run at the target."""

    message: str
    fix: str


def find_key_faults(
    table: TableSchema,
    existing: TargetTable,
    selected: Mapping[TableName, TableSchema],
    state: TableState | None,
) -> list[KeyFault]:
    """Where the keys of ``existing`` to mirrored tables would not do what those of ``table`` do at the source.

    ``state`` is what is stored of the table: one that we made gets its keys only once it is loaded.
    """
    is_unfinished = state is not None and state.found is Found.MISSING and state.state is not State.STREAMING
    wanted = [key for key in table.foreign_keys if key.parent in selected]
    faults = [
        fault
        for key in wanted
        for fault in _compare_key(table, key, _find_made(existing, key, selected), selected, is_unfinished)
    ]
    return [*faults, *_find_strange(table, existing, wanted, selected)]


def _find_made(
    existing: TargetTable, key: ForeignKey, selected: Mapping[TableName, TableSchema]
) -> list[TargetForeignKey]:
    """The target's keys over the same columns to the same parent."""
    place = (selected[key.parent].target.lower(), tuple(map(str.lower, key.columns)))
    return [made for made in existing.foreign_keys if (made.parent.lower(), made.columns) == place]


def _compare_key(
    table: TableSchema,
    key: ForeignKey,
    made: list[TargetForeignKey],
    selected: Mapping[TableName, TableSchema],
    is_unfinished: bool,
) -> Iterator[KeyFault]:
    rules = (plain_rule(key.on_delete), plain_rule(key.on_update))
    parent = selected[key.parent].target
    add = "; ".join(ddl.build_foreign_keys(replace(table, foreign_keys=(key,)), selected))
    if key.cascades and not made and not is_unfinished:
        yield KeyFault(
            f"{table.target}: it lacks the foreign key {key.name} to {parent}, and the source does not log what that key"
            " does",
            add,
        )
    for found in made:
        if (found.on_delete, found.on_update) != rules:
            yield KeyFault(
                f"{table.target}: its foreign key {found.name} to {parent} is ON DELETE {found.on_delete} ON UPDATE"
                f" {found.on_update}, the source's is ON DELETE {rules[0]} ON UPDATE {rules[1]}, and the source does not"
                " log what that key does",
                f"{_build_drop(table, found)}; {add}",
            )


def _find_strange(
    table: TableSchema,
    existing: TargetTable,
    wanted: list[ForeignKey],
    selected: Mapping[TableName, TableSchema],
) -> Iterator[KeyFault]:
    """Cascading keys to mirrored tables that the source has not: they would change rows that it keeps."""
    known = {key.name for want in wanted for key in _find_made(existing, want, selected)}
    mirrored = {schema.target.lower() for schema in selected.values()}
    for key in existing.foreign_keys:
        if key.cascades and key.name not in known and key.parent.lower() in mirrored:
            yield KeyFault(
                f"{table.target}: its foreign key {key.name} to {key.parent} is not at the source, and its cascades would"
                " change rows that the source keeps",
                _build_drop(table, key),
            )


def _build_drop(table: TableSchema, key: TargetForeignKey) -> str:
    return f"ALTER TABLE {ddl.quote_name(table.target)} DROP FOREIGN KEY {ddl.quote_name(key.name)}"
