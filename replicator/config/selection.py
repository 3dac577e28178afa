"""Which source tables a pipeline mirrors, and under which target name: pure, between config.py and
pipeline.py.

An exact name wins over a glob, a longer glob over a shorter one (by the characters of ``database.table``,
after ``source.database`` has completed it); what is still undecided is an error, never a guess. The parts
before and after the first dot are matched apart, so ``*`` never reaches across it. Names compare exactly as
written, case included. System databases and this program's own tables are never selected.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from replicator.config import (
    OWN_PREFIX,
    SYSTEM_SCHEMAS,
    ExistingRows,
    PipelineConfig,
    TableRule,
    target_name,
)
from replicator.config.keys import MAX_NAME
from replicator.config.yamlfile import Mark
from replicator.errors import ConfigError, Problem
from replicator.model import TableName


@dataclass(frozen=True, slots=True)
class SelectedTable:
    """A source table to mirror, its target table and the options that hold for it."""

    source: TableName
    target: str
    create: bool
    existing_rows: ExistingRows
    rule: TableRule


@dataclass(frozen=True, slots=True)
class Selection:
    """``tables`` in the order of their source names."""

    tables: tuple[SelectedTable, ...]
    warnings: tuple[Problem, ...]


def select(
    config: PipelineConfig, tables: Iterable[tuple[str, str]], *, fold_target_case: bool = False
) -> Selection:
    """Decide for every (database, table) of the source. Raises ConfigError with every fault.

    ``fold_target_case`` says that the target's lower_case_table_names is not 0: names that differ in case
    alone are then one table.
    """
    names = sorted({TableName(schema, table) for schema, table in tables})
    selector = _Selector(config, names)
    selected = [table for name in names if (table := selector.choose(name)) is not None]
    selector.check_unmatched()
    selector.check_targets(selected, fold_target_case)
    if not selected and not selector.problems:
        selector.report(Mark(1, 1), "no table of the source is selected", 'see "tables"')
    if selector.problems:
        raise ConfigError.of(sorted(selector.problems, key=lambda fault: (fault.line, fault.column)))
    return Selection(tuple(selected), tuple(selector.warnings))


class _Selector:
    """The rules of one pipeline file at work on one list of tables."""

    def __init__(self, config: PipelineConfig, names: list[TableName]) -> None:
        self._config = config
        self._names = names
        self._exact = {(rule.schema, rule.table): rule for rule in config.tables if not rule.is_glob}
        self._globs = sorted((rule for rule in config.tables if rule.is_glob), key=lambda r: -len(r.name))
        self._matched: set[TableRule] = set()
        self._clashes: set[tuple[TableRule, TableRule]] = set()
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def report(self, mark: Mark, message: str, suggestion: str) -> None:
        self.problems.append(self._build_problem(mark, message, suggestion))

    def _build_problem(self, mark: Mark, message: str, suggestion: str) -> Problem:
        return Problem(str(self._config.path), mark.line, mark.column, message, suggestion)

    def choose(self, name: TableName) -> SelectedTable | None:
        """The table under its rule, or None where no rule wants it."""
        globs = self._match_globs(name)
        rule = self._exact.get(name) or self._choose_longest(globs, name)
        if rule is None:
            return None
        self._matched.add(rule)
        if rule.skip:
            return None
        target = target_name(rule, *name)
        self._check_target(name, rule, target)
        return SelectedTable(name, target, rule.create, rule.existing_rows, rule)

    def _match_globs(self, name: TableName) -> list[TableRule]:
        if name.schema.casefold() in SYSTEM_SCHEMAS[self._config.source.type] or name.table.startswith(
            OWN_PREFIX
        ):
            return []
        matching = [rule for rule in self._globs if _is_match(rule, name)]
        self._matched.update(matching)  # also where an exact name wins: such a glob is not misspelt
        return matching

    def _choose_longest(self, globs: list[TableRule], name: TableName) -> TableRule | None:
        if not globs:
            return None
        first, rest = globs[0], globs[1:]
        for other in rest:
            if len(other.name) == len(first.name):
                self._report_clash(first, other, name)
        return first

    def _report_clash(self, first: TableRule, other: TableRule, name: TableName) -> None:
        if (first, other) in self._clashes:
            return
        self._clashes.add((first, other))
        message = f'{other.where}: matches "{name}", as does "{first.pattern}" of equal length'
        message += f" on line {first.mark.line}"
        self.report(other.mark, message, f'name the table itself: "{name}": {{}}')

    def _check_target(self, name: TableName, rule: TableRule, target: str) -> None:
        source, destination = self._config.source, self._config.target
        become = f'{rule.where}.to: "{name}" becomes "{target}"'
        if len(target) > MAX_NAME:
            message = f"{become}, {len(target)} characters; MySQL holds {MAX_NAME}"
            self.report(rule.to_mark, message, "choose a shorter name")
        elif target.startswith(OWN_PREFIX):
            message = f'{become}; "{OWN_PREFIX}…" tables belong to this program'
            self.report(rule.to_mark, message, "choose another name")
        elif source.address == destination.address and name == (destination.database, target):
            message = f'{rule.where}: "{name}" would be mirrored onto itself'
            self.report(rule.mark, message, "is the target right?")

    def check_unmatched(self) -> None:
        """An exact name must exist at the source; a glob without a table, or a skip without one, is a
        warning.
        """
        for rule in self._config.tables:
            if rule in self._matched:
                continue
            if rule.is_glob or rule.skip:
                message = f"{rule.where}: matches no table of the source"
                self.warnings.append(self._build_problem(rule.mark, message, "is it spelt right?"))
            else:
                self._report_missing(rule)

    def _report_missing(self, rule: TableRule) -> None:
        known = {str(name).casefold(): str(name) for name in self._names}
        near = difflib.get_close_matches(rule.name.casefold(), known, 1)
        suggestion = (
            f'did you mean "{known[near[0]]}"?' if near else "does it exist, and may the user read it?"
        )
        self.report(rule.mark, f'{rule.where}: the source has no table "{rule.name}"', suggestion)

    def check_targets(self, selected: list[SelectedTable], fold_case: bool) -> None:
        """No two source tables may go to one target table."""
        taken: dict[str, SelectedTable] = {}
        for table in sorted(selected, key=lambda t: (t.rule.mark, t.source)):
            name = table.target.lower() if fold_case else table.target
            first = taken.setdefault(name, table)
            if first is not table:
                self._report_collision(first, table)

    def _report_collision(self, first: SelectedTable, second: SelectedTable) -> None:
        mark = first.rule.to_mark
        place = f"{self._config.path}:{mark.line}:{mark.column}"
        message = (
            f'{second.rule.where}: "{second.source}" goes to target table "{second.target}", '
            f'and so does "{first.source}" ({place})'
        )
        if first.target != second.target:
            message += f' as "{first.target}": the target ignores case'
        self.report(second.rule.to_mark, message, 'tell them apart with "to", for example "{schema}_{table}"')


def _is_match(rule: TableRule, name: TableName) -> bool:
    return fnmatchcase(name.schema, rule.schema) and fnmatchcase(name.table, rule.table)
