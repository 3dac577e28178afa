"""The tables of a source as its catalog has them, under what the pipeline file says of their columns.

Between selection and everything that needs schemas: a run, `check` and `plan` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from replicator.config import ColumnRule, TableRule
from replicator.config.selection import SelectedTable
from replicator.config.yamlfile import Mark
from replicator.errors import ColumnUnfit, ConfigError, Problem
from replicator.model import Column, TableSchema, Unrepresentable
from replicator.readers.base import Reader

_NOTES: Final = {
    Unrepresentable.CLAMP: "what MySQL does not hold becomes the nearest value that it holds, and is counted",
    Unrepresentable.NULL: "what MySQL does not hold becomes NULL, and is counted",
}


def describe_tables(reader: Reader, tables: Sequence[SelectedTable], path: Path) -> list[TableSchema]:
    """The schemas of these tables, in their order. ``path`` is the pipeline file's.

    Raises SourceError, and ConfigError for what the file says of a column that is not there or cannot be so.
    """
    rules = {table.source: table.rule for table in tables}
    types = {
        table.source: types
        for table in tables
        if (types := {rule.name: rule.type for rule in table.rule.columns if rule.type})
    }
    try:
        schemas = reader.describe({table.source: table.target for table in tables}, types)
    except ColumnUnfit as error:
        rule = next(table.rule for table in tables if table.source == error.table)
        mark = next(column.type_mark for column in rule.columns if column.name == error.column)
        fault = _Fault(mark, error.reason, "the reference of types says what is possible")
        raise ConfigError.of([fault.build_problem(path, rule, error.column)]) from None
    return [_note(apply_rules(schema, rules[schema.source], path)) for schema in schemas]


def apply_rules(schema: TableSchema, rule: TableRule, path: Path) -> TableSchema:
    """``schema`` with the column rules of the file as it is now. Raises ConfigError with every rule that cannot be."""
    if not rule.columns and all(c.unrepresentable is Unrepresentable.FAIL for c in schema.columns):
        return schema
    rules = {column.name: column for column in rule.columns}
    problems = [
        fault.build_problem(path, rule, wanted.name)
        for wanted in rule.columns
        for fault in _find_faults(schema, rule, wanted)
    ]
    if problems:
        raise ConfigError.of(problems)
    return replace(
        schema,
        columns=tuple(
            replace(column, unrepresentable=_find_rule(column, rules.get(column.name)))
            for column in schema.columns
        ),
    )


def _find_rule(column: Column, rule: ColumnRule | None) -> Unrepresentable:
    return Unrepresentable.FAIL if rule is None else rule.unrepresentable


def _find_faults(schema: TableSchema, rule: TableRule, wanted: ColumnRule) -> list[_Fault]:
    at = next((at for at, column in enumerate(schema.columns) if column.name == wanted.name), None)
    if at is None:
        missing = _Fault(
            wanted.mark, f"{schema.source} has no such column that is mirrored", "correct the name"
        )
        return [] if rule.is_glob else [missing]
    column, faults = schema.columns[at], []
    if wanted.type and column.type != wanted.type:
        message = f"the table was loaded with {column.type}, and the file now says {wanted.type}"
        suggestion = "say the former again, or `drop` the pipeline and load anew"
        faults.append(_Fault(wanted.type_mark, message, suggestion))
    mark = wanted.unrepresentable_mark
    if wanted.unrepresentable is Unrepresentable.FAIL:
        return faults
    if at in schema.key or any(at in key.ordinals for key in schema.unique_keys):
        message = "two rows could become one: the column is part of a primary or unique key"
        faults.append(_Fault(mark, message, "leave it at `fail`, or give the column a wider `type`"))
    elif wanted.unrepresentable is Unrepresentable.NULL and not column.nullable:
        faults.append(_Fault(mark, "the column is NOT NULL", "`unrepresentable: clamp`"))
    return faults


class _Fault(NamedTuple):
    """What cannot be, where the file says it, and what to do."""

    mark: Mark
    message: str
    suggestion: str

    def build_problem(self, path: Path, rule: TableRule, column: str) -> Problem:
        message = f'{rule.where}.columns."{column}": {self.message}'
        return Problem(str(path), self.mark.line, self.mark.column, message, self.suggestion)


def _note(schema: TableSchema) -> TableSchema:
    notes = tuple(
        f"{schema.source}:{column.name}: {_NOTES[column.unrepresentable]}"
        for column in schema.columns
        if column.unrepresentable in _NOTES
    )
    return replace(schema, notes=schema.notes + notes) if notes else schema
