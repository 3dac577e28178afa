"""The source's part of `check`: its version, what its reader asks of it, and the tables the file selects."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicator.check.checklist import Findings
from replicator.check.probe import Probe
from replicator.check.verdict import build_keyless
from replicator.config import PipelineConfig, SourceType
from replicator.config.selection import Selection, select
from replicator.described import describe_tables
from replicator.errors import ConfigError, ReplicatorError, SourceError, TableUnfit
from replicator.foreignkeys import find_unseen_cascades
from replicator.model import TableName, TableSchema
from replicator.readers.base import Reader
from replicator.readers.opening import open_reader

OLDEST = {SourceType.MYSQL: (8, 0), SourceType.MARIADB: (10, 5)}


@dataclass(slots=True)
class Source:
    """The source as far as it answers; ``known`` are its tables, None where nobody could ask."""

    reader: Reader | None = None
    known: Sequence[TableName] | None = None

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()


@dataclass(slots=True)
class Tables:
    """What the file selects, as far as it can be told."""

    selection: Selection | None = None
    schemas: Sequence[TableSchema] = field(default_factory=tuple)


def check_source(findings: Findings, config: PipelineConfig, found: Probe) -> Source:
    """Version and reader; the reader's own checks come with the tables."""
    subject = f"source {config.source.address}"
    is_mysql = config.source.type is not SourceType.POSTGRES  # whose reader looks at it by itself
    if is_mysql and not _check_version(findings, config, found, subject):
        return Source()
    try:
        reader = open_reader(config)
    except ReplicatorError as error:
        findings.failed("source.reader", subject, error.message, error.hint or "see the source's error log")
        return Source()
    source = Source(reader)
    try:
        source.known = reader.list_tables()
        position = reader.position()
    except ReplicatorError as error:
        findings.failed("source.reader", subject, error.message, error.hint or "see the source's error log")
        return source
    findings.passed("source.reader", subject, f"{reader.identity} at {position}")
    return source


def _check_version(findings: Findings, config: PipelineConfig, found: Probe, subject: str) -> bool:
    """Whether product and version are right; without that no further question makes sense."""
    with contextlib.closing(found.connection.cursor()) as cursor:
        cursor.execute("SELECT VERSION(), @@version_comment")
        version, comment = map(str, cursor.fetchone())
    product = SourceType.MARIADB if "mariadb" in f"{version}{comment}".lower() else SourceType.MYSQL
    if product is not config.source.type:
        message = f"the server is {version} ({comment}), the file says {config.source.type}"
        findings.failed("source.version", subject, message, f"source: {{type: {product}}}")
        return False
    oldest = OLDEST[product]
    if parse_version(version) < oldest:
        message = f"{version} is older than {'.'.join(map(str, oldest))}"
        findings.failed(
            "source.version",
            subject,
            message,
            f"upgrade the source to {product} {oldest[0]}.{oldest[1]} or newer",
        )
        return False
    findings.passed("source.version", subject, f"{product} {version}")
    return True


def parse_version(text: str) -> tuple[int, ...]:
    """``8.0.36-28`` → (8, 0, 36)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


# --- tables -----------------------------------------------------------------------------------------------------------


def describe_selected(
    findings: Findings, config: PipelineConfig, source: Source, *, fold_target_case: bool
) -> Tables:
    """Select and describe the tables, then let the reader check what it needs of them."""
    tables = Tables()
    if source.reader is None:
        return tables
    tables.selection = _select(findings, config, source, fold_target_case)
    if tables.selection is not None:
        tables.schemas = _describe(findings, source.reader, tables.selection, config.path)
        _check_keys(findings, tables.schemas)
        _check_cascades(findings, source.reader, tables.schemas)
    for item in source.reader.check(tables.schemas):
        findings.add(*item)
    return tables


def _select(
    findings: Findings, config: PipelineConfig, source: Source, fold_target_case: bool
) -> Selection | None:
    if source.known is None:
        return None
    try:
        selection = select(config, source.known, fold_target_case=fold_target_case)
    except ConfigError as error:
        _report_problems(findings, "tables.selected", error, "correct the entry under tables")
        return None
    for problem in selection.warnings:
        where = f"{problem.file}:{problem.line}:{problem.column}"
        findings.warned("tables.selected", where, problem.message, problem.suggestion)
    count = f"{len(selection.tables)} of {len(source.known)} tables of the source"
    findings.passed("tables.selected", str(config.path), count)
    return selection


def _describe(findings: Findings, reader: Reader, selection: Selection, path: Path) -> Sequence[TableSchema]:
    """All at once; one by one where something is wrong, so that every table at fault is named."""
    try:
        schemas = describe_tables(reader, selection.tables, path)
    except (SourceError, ConfigError):
        schemas = _describe_singly(findings, reader, selection, path)
    if schemas:
        findings.passed("tables.readable", f"{len(schemas)} tables", "their columns and keys can be mirrored")
    return schemas


def _describe_singly(
    findings: Findings, reader: Reader, selection: Selection, path: Path
) -> list[TableSchema]:
    schemas: list[TableSchema] = []
    for table in selection.tables:
        try:
            schemas += describe_tables(reader, [table], path)
        except ConfigError as error:
            _report_problems(findings, "tables.column_rules", error, "correct the entry under columns")
        except SourceError as error:
            fix = error.hint or f'tables: {{"{table.source}": {{skip: true}}}}'
            check = error.check if isinstance(error, TableUnfit) else "tables.readable"
            findings.failed(check, str(table.source), error.message, fix)
    return schemas


def _report_problems(findings: Findings, check: str, error: ConfigError, fix: str) -> None:
    for problem in error.problems:
        where = f"{problem.file}:{problem.line}:{problem.column}"
        findings.failed(check, where, problem.message, problem.suggestion or fix)


def _check_keys(findings: Findings, schemas: Sequence[TableSchema]) -> None:
    keyless = [schema for schema in schemas if not schema.key]
    for schema in keyless:
        fault = build_keyless(schema)
        findings.failed(fault.check, str(schema.source), fault.message, fault.fix)
    if schemas and not keyless:
        findings.passed("tables.key", f"{len(schemas)} tables", "each has a key")


def _check_cascades(findings: Findings, reader: Reader, schemas: Sequence[TableSchema]) -> None:
    unseen = find_unseen_cascades(schemas, cascades_logged=reader.foreign_key_cascades_logged())
    for item in unseen:
        findings.failed("tables.cascades", str(item.child), item.message, item.hint)
    if schemas and not unseen:
        findings.passed("tables.cascades", f"{len(schemas)} tables", "what their foreign keys do arrives")
