"""What a run would do with one table, told before it runs: shared by `check` and `plan`, so that they never disagree.

Reads the target through a session and leaves the transaction to the caller. The rules are those of startup and provision,
which refuse for the same reasons when it comes to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from replicator import target
from replicator.config import ExistingRows
from replicator.config.selection import SelectedTable
from replicator.errors import SchemaMismatch
from replicator.foreignkeys import build_inseparable
from replicator.model import TableName, TableSchema
from replicator.readers.base import Reader
from replicator.session import Session
from replicator.tablestate import State, TableState
from replicator.targetkeys import find_key_faults


class Fault(NamedTuple):
    """Why a run would refuse the table: the id of the check it fails, the column or '', and what mends it."""

    check: str
    column: str
    message: str
    fix: str


@dataclass(slots=True)
class Verdict:
    """``action``: create, fill (it is there, and nobody else's rows are in it), merge, keep (it is loaded), refuse.

    ``schema`` is what the table is made of, or was loaded with. ``remarks`` are what a run accepts: (column, text).
    """

    schema: TableSchema
    action: str
    faults: list[Fault] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides about tables one by one. ``tables`` are all that are selected, as the source has them now; ``cascading``
    those of them that depend on what the target's own foreign keys do, for the source does not log it."""

    session: Session
    tables: Mapping[TableName, TableSchema]
    cascading: frozenset[TableName]

    @classmethod
    def of(cls, session: Session, schemas: Sequence[TableSchema], reader: Reader) -> Self:
        sets = build_inseparable(schemas, cascades_logged=reader.foreign_key_cascades_logged())
        return cls(session, {s.source: s for s in schemas}, frozenset[TableName]().union(*sets))

    def judge(
        self,
        schema: TableSchema,
        selected: SelectedTable,
        existing: target.TargetTable | None,
        state: TableState | None,
    ) -> Verdict:
        """``schema`` is the source's now, ``state`` what is stored of it."""
        state = state and state.as_of(schema.target)
        if state is not None and state.is_kept:
            verdict = _judge_kept(schema, selected, existing, state)
        elif not schema.key:
            verdict = Verdict(schema, "refuse", [build_keyless(schema)])
        elif existing is None:
            verdict = _judge_missing(self.session, schema, selected)
        else:
            verdict = _judge_existing(self.session, schema, selected, existing, state)
        if existing is not None and not verdict.faults:
            verdict.faults += self._judge_keys(verdict.schema, existing, state)
        if verdict.faults:
            verdict.action = "refuse"
        return verdict

    def _judge_keys(
        self, schema: TableSchema, existing: target.TargetTable, state: TableState | None
    ) -> list[Fault]:
        if schema.source not in self.cascading or (state is not None and state.state is State.PAUSED):
            return []
        faults = find_key_faults(schema, existing, self.tables, state)
        return [
            Fault("target.table", "", fault.message, f"{fault.fix};    -- at the target") for fault in faults
        ]


def _judge_kept(
    schema: TableSchema, selected: SelectedTable, existing: target.TargetTable | None, state: TableState
) -> Verdict:
    verdict = Verdict(state.schema or schema, "keep")
    if state.target != selected.target:
        message = f"{selected.source} was loaded into {state.target}, and the file now says {selected.target}"
        fix = f'tables: {{"{selected.source}": {{to: {state.target}}}}}    # or replicator drop FILE, then load anew'
        verdict.faults.append(Fault("target.table", "", message, fix))
    elif existing is None:
        message = f"{selected.source} was loaded into it, and it is gone from the target"
        verdict.faults.append(Fault("target.table", "", message, "replicator drop FILE    # then load anew"))
    return verdict


def build_keyless(schema: TableSchema) -> Fault:
    """What is said of a table whose rows nothing identifies."""
    table = f"`{schema.source.schema}`.`{schema.source.table}`"
    taken = {column.name.lower() for column in schema.columns}
    name = next(name for name in ("id", "row_id", *(f"id{i}" for i in range(9999))) if name not in taken)
    return Fault(
        "tables.key",
        "",
        "no primary key and no unique key without NULLs: its changes cannot be matched to rows",
        f"ALTER TABLE {table} ADD COLUMN `{name}` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY;"
        f'    -- at the source, or leave it out: tables: {{"{schema.source}": {{skip: true}}}}',
    )


def _judge_missing(session: Session, schema: TableSchema, selected: SelectedTable) -> Verdict:
    if not selected.create:
        message = f"it is not there, and the file says create: false for {selected.source}"
        fix = f'tables: {{"{selected.source}": {{create: true}}}}    # or make it by hand: replicator plan FILE --ddl'
        return Verdict(schema, "create", [Fault("target.table", "", message, fix)])
    try:
        fitted = target.fit_expressions(session, schema)
    except SchemaMismatch as error:
        return Verdict(schema, "create", [Fault("target.table", "", error.message, error.hint)])
    return Verdict(fitted, "create", remarks=[("", note) for note in fitted.notes])


def _judge_existing(
    session: Session,
    schema: TableSchema,
    selected: SelectedTable,
    existing: target.TargetTable,
    state: TableState | None,
) -> Verdict:
    verdict = Verdict(schema, "fill")
    for item in target.compare(schema, existing):
        if item.fatal:
            message = f"cannot hold {schema.source}: {item.message}"
            verdict.faults.append(Fault("target.table", item.column, message, build_fix(schema, item)))
        else:
            verdict.remarks.append((item.column, item.message))
    rows = 0 if verdict.faults else count_rows_of_others(session, selected.target, state)
    if not rows:
        return verdict
    verdict.action = "merge"
    if selected.existing_rows is ExistingRows.REFUSE:
        message = f"it holds {rows:,} rows that this pipeline did not bring"
        fix = (
            f'tables: {{"{selected.source}": {{existing_rows: merge}}}}'
            "    # they stay; with replace, those that the source lacks go"
        )
        verdict.faults.append(Fault("target.rows", "", message, fix))
    return verdict


def count_rows_of_others(session: Session, table: str, state: TableState | None) -> int:
    """How many rows the table holds that this pipeline cannot have brought, as provision counts them."""
    if target.is_empty(session, table):
        return 0
    rows = target.count_rows(session, table)
    return max(0, rows - (state.count_ours() if state is not None else 0))


def build_fix(schema: TableSchema, difference: target.Difference) -> str:
    """The ALTER that makes a column fit, where the source's schema says what it must be."""
    column = next((c for c in schema.columns if c.name == difference.column), None)
    if column is None:
        other = f'tables: {{"{schema.source}": {{to: {schema.target}_mirror}}}}'
        return f"{other}    # another target table; or change `{schema.target}` by hand"
    charset = ""
    if column.collation:
        charset = f" CHARACTER SET {column.collation.partition('_')[0]} COLLATE {column.collation}"
    definition = f"`{column.name}` {column.type}{charset} {'NULL' if column.nullable else 'NOT NULL'}"
    verb = "ADD COLUMN" if "lacks this column" in difference.message else "MODIFY COLUMN"
    return f"ALTER TABLE `{schema.target}` {verb} {definition};    -- at the target"
