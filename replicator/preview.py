"""`replicator plan`: what a run would do, asked of both ends and changing neither.

Built from the same parts that a run uses (selection, target comparison, DDL), so that what it prints is what happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from replicator import ddl, target
from replicator.check.verdict import Judge, Verdict
from replicator.config import PipelineConfig
from replicator.config.selection import SelectedTable, select
from replicator.console import format_count, open_console
from replicator.described import describe_tables
from replicator.errors import SchemaMismatch
from replicator.foreignkeys import build_groups, find_check_reasons
from replicator.load.jobs import count_chunk_rows
from replicator.model import TableName, TableSchema
from replicator.readers.base import Reader
from replicator.readers.opening import open_reader
from replicator.session import SQL_MODE, Session
from replicator.tablestate import read_known_tables


@dataclass(frozen=True, slots=True)
class TablePreview:
    """One table: what a run would do with it, and how its rows would come over."""

    verdict: Verdict
    load: str

    @property
    def schema(self) -> TableSchema:
        return self.verdict.schema

    @property
    def action(self) -> str:
        return self.verdict.action

    @property
    def remarks(self) -> list[str]:
        """Losses and differences that a run accepts."""
        return [_format(column, text) for column, text in self.verdict.remarks]

    @property
    def refusals(self) -> list[str]:
        return [_format(fault.column, fault.message) for fault in self.verdict.faults]


def _format(column: str, text: str) -> str:
    return f"{column}: {text}" if column else text


@dataclass(frozen=True, slots=True)
class Preview:
    """The whole plan. ``check_reasons``: why foreign_key_checks are on while changes are applied, empty when off."""

    pipeline: str
    source: str
    target: str
    tables: tuple[TablePreview, ...]
    groups: tuple[tuple[TableSchema, ...], ...]
    check_reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    ddl: str

    @property
    def refusals(self) -> list[str]:
        return [
            f"{table.schema.source} → {table.schema.target}: {text}"
            for table in self.tables
            for text in table.refusals
        ]


# --- building ---------------------------------------------------------------------------------------------------------


def build_preview(config: PipelineConfig) -> Preview:
    """Ask both ends. Raises ConfigError, SourceError, TargetError where they cannot be asked."""
    with Session.connect(config.target) as session:
        reader = open_reader(config)
        try:
            return _Builder(config, session, reader).build()
        finally:
            reader.close()


class _Builder:
    """One look at both ends."""

    def __init__(self, config: PipelineConfig, session: Session, reader: Reader) -> None:
        self._config = config
        self._session = session
        self._reader = reader

    def build(self) -> Preview:
        selection = select(
            self._config,
            self._reader.list_tables(),
            fold_target_case=target.folds_names(self._session),
        )
        schemas = describe_tables(self._reader, selection.tables, self._config.path)
        existing = target.read_tables(self._session, [schema.target for schema in schemas])
        states = {state.source: state for state in read_known_tables(self._session, self._config.pipeline)}
        judge = Judge.of(self._session, schemas, self._reader)
        previews = tuple(
            self._build_table(
                judge.judge(schema, table, existing.get(schema.target), states.get(table.source)), table
            )
            for schema, table in zip(schemas, selection.tables, strict=True)
        )
        reasons = find_check_reasons(
            schemas,
            cascades_logged=self._reader.foreign_key_cascades_logged(),
            external=target.external_children(self._session, {schema.target for schema in schemas}),
        )
        preview = Preview(
            pipeline=self._config.pipeline,
            source=f"{self._config.source.type} {self._config.source.address}",
            target=f"mysql {self._config.target.address}, database {self._config.target.database}",
            tables=previews,
            groups=tuple(group for group in build_groups(schemas) if len(group) > 1),
            check_reasons=tuple(reasons),
            warnings=tuple(map(str, [*self._config.warnings, *selection.warnings])),
            ddl=build_ddl(previews, relax=self._restricts_parents()),
        )
        self._session.rollback()
        return preview

    def _restricts_parents(self) -> bool:
        """Whether the target has the variable that forbids foreign keys to parents that are not unique."""
        return bool(self._session.query("SHOW VARIABLES LIKE 'restrict_fk_on_non_standard_key'"))

    def _build_table(self, verdict: Verdict, selected: SelectedTable) -> TablePreview:
        return TablePreview(verdict, self._describe_load(verdict, selected))

    def _describe_load(self, verdict: Verdict, selected: SelectedTable) -> str:
        if verdict.action in ("keep", "refuse"):
            return "-"
        rows = count_chunk_rows(verdict.schema)
        chunks = f"~{max(1, -(-verdict.schema.rows_estimate // rows)):,} chunks of {rows:,} rows"
        if verdict.action == "merge":
            return f"{chunks}, merged by key (existing_rows: {selected.existing_rows})"
        way = "LOAD DATA LOCAL" if self._session.capabilities.local_infile else "multi-row INSERT"
        return f"{chunks}, {way}"


# --- DDL --------------------------------------------------------------------------------------------------------------


def build_ddl(tables: Iterable[TablePreview], *, relax: bool) -> str:
    """The statements of all tables that would be created, as one script for the mysql client.

    ``relax``: the server must be told to take foreign keys to parents that are not unique.
    """
    every = list(tables)
    made = [table.schema for table in every if table.action == "create"]
    selected = {table.schema.source: table.schema for table in every}
    if not made:
        return "-- Every target table is there already: nothing to create.\n"
    settings = [f"SET NAMES utf8mb4, SESSION sql_mode = '{SQL_MODE}', SESSION time_zone = '+00:00'"]
    sections = [
        ("Session, as replicator sets it", settings),
        ("Tables, before the load", [ddl.build_create_table(schema) for schema in made]),
        ("Indexes, after each table's load", [s for schema in made for s in ddl.build_indexes(schema)]),
        ("Foreign keys, once both tables are loaded", _build_foreign_keys(made, selected, relax)),
    ]
    return "\n".join(
        f"-- {title}\n" + "".join(f"{statement};\n" for statement in statements)
        for title, statements in sections
        if statements
    )


def _build_foreign_keys(
    made: Sequence[TableSchema], selected: Mapping[TableName, TableSchema], relax: bool
) -> list[str]:
    statements = [s for schema in made for s in ddl.build_foreign_keys(schema, selected)]
    if statements and relax:
        statements.insert(0, "SET SESSION restrict_fk_on_non_standard_key = 0")
    return statements


# --- printing ---------------------------------------------------------------------------------------------------------


def print_preview(config: PipelineConfig, *, ddl_only: bool) -> None:
    """Print the plan, or its DDL alone. Raises SchemaMismatch after printing where a run would refuse a table."""
    preview = build_preview(config)
    if ddl_only:
        sys.stdout.write(preview.ddl)
    else:
        _print(preview)
    if preview.refusals:
        raise SchemaMismatch(
            "a run would refuse:\n" + "\n".join(f"  {text}" for text in preview.refusals),
            hint="`replicator check` prints a fix for each",
        )


def _print(preview: Preview) -> None:
    console = open_console()
    console.print(f"pipeline {preview.pipeline}: {preview.source} → {preview.target}\n", markup=False)
    console.print(_build_table(preview))
    out = [_list("warnings", preview.warnings)]
    out.append(
        _list(
            "what will differ, and what would be refused",
            [
                f"{table.schema.source}: {'REFUSED: ' if text in table.refusals else ''}{text}"
                for table in preview.tables
                for text in (*table.refusals, *table.remarks, *_list_unmade_keys(table, preview))
            ],
        )
    )
    out.append(
        _list(
            "joined by foreign keys: loaded in any order, applied with checks off until all have caught up",
            [", ".join(str(schema.source) for schema in group) for group in preview.groups],
        )
    )
    state = "on" if preview.check_reasons else "off, the source has checked every row already"
    out.append(_list(f"foreign key checks while mirroring: {state}", preview.check_reasons, always=True))
    out.append(f"\n{preview.ddl}")
    sys.stdout.write("".join(out))


def _list(title: str, lines: Sequence[str], *, always: bool = False) -> str:
    if not lines and not always:
        return ""
    return f"\n{title}\n" + "".join(f"  {line}\n" for line in lines)


def _list_unmade_keys(table: TablePreview, preview: Preview) -> list[str]:
    selected = {other.schema.source for other in preview.tables}
    if table.action != "create":
        return []
    return [
        f"foreign key {fk.name} is not created: {fk.parent} is not mirrored"
        for fk in table.schema.foreign_keys
        if fk.parent not in selected
    ]


def _build_table(preview: Preview) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("source", "target", "rows", "bytes", "target table", "load"):
        table.add_column(title, justify="right" if title in {"rows", "bytes"} else "left", no_wrap=True)
    for item in preview.tables:
        schema = item.schema
        rows, size = format_count(schema.rows_estimate), format_bytes(schema.bytes_estimate)
        table.add_row(str(schema.source), schema.target, f"~{rows}", f"~{size}", item.action, item.load)
    schemas = [item.schema for item in preview.tables]
    rows = format_count(sum(schema.rows_estimate for schema in schemas))
    size = format_bytes(sum(schema.bytes_estimate for schema in schemas))
    table.add_row(f"{len(schemas)} tables", "", f"~{rows}", f"~{size}", "", "")
    return table


def format_bytes(size: int) -> str:
    """640 B, 18.2 kB, 9.1 MB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
