"""What the target knows of each mirrored table, and what `replicator status` reads, on top of checkpoint.

``_replicator_tables`` has one row per pipeline and table. Every write to it is fenced by the pipeline's epoch, either in
a transaction of its own (``set_table``) or inside a batch's (``build_table_update`` among a head's extras). The columns
a table had when it was loaded are stored as JSON, so that older events can be decoded by the columns of their time.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson

from replicator.checkpoint import CHECK_ONE, Lease, build_table_condition, parse_torn, run_fenced
from replicator.coercion import Tally
from replicator.errors import TargetError
from replicator.model import TableName, TableSchema, Torn
from replicator.refusals import NO_SUCH_TABLE
from replicator.session import Session
from replicator.sql import quote_text


class State(enum.StrEnum):
    """The life of a table; ``status`` prints these words."""

    PENDING = "pending"
    LOADING = "loading"
    CATCHING_UP = "catching_up"
    STREAMING = "streaming"
    PAUSED = "paused"
    NEEDS_RELOAD = "needs_reload"
    ERROR = "error"


class Found(enum.StrEnum):
    """How a target table was found at the start (SEMANTICS §6.1): only what was MISSING or EMPTY may be emptied."""

    UNKNOWN = ""
    MISSING = "missing"
    EMPTY = "empty"
    ROWS = "rows"

    @property
    def is_ours_alone(self) -> bool:
        return self in (Found.MISSING, Found.EMPTY)


class Counts(NamedTuple):
    """Changes applied to one table."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class CoercedColumn(NamedTuple):
    """A column whose values could not all be held: how many other values were stored under its rule since the table was
    loaded, and the last of them by its row's key and the source's text."""

    column: str
    rule: str
    values: int
    sample_key: str
    sample_value: str


@dataclass(frozen=True, slots=True)
class TableState:
    """A row of ``_replicator_tables``. ``position`` is the table's own (None: the pipeline's); ``error`` says why."""

    source: TableName
    target: str
    state: State
    found: Found
    rows_at_start: int | None
    position: str | None
    rows_loaded: int
    applied: Counts
    error: str | None
    schema: TableSchema | None
    updated_at: str
    coerced: tuple[CoercedColumn, ...] = ()

    @property
    def is_loaded(self) -> bool:
        """Whether its rows are complete, so that the stream can go on; an error while streaming keeps the position."""
        if self.state is State.ERROR:
            return self.position is not None
        return self.state in (State.CATCHING_UP, State.STREAMING)

    @property
    def is_kept(self) -> bool:
        """Whether a load leaves the table alone."""
        return self.is_loaded or self.state is State.PAUSED

    def count_ours(self) -> int:
        """How many rows of ours the table can hold at most; more than that, and somebody else has written to it too."""
        if not self.found.is_ours_alone:
            return 0
        return self.rows_loaded + self.applied.inserted - self.applied.deleted

    def as_of(self, target: str) -> TableState:
        """What is noted of this target table: nothing, where the rows went to another one so far."""
        if self.target == target or self.is_kept:
            return self
        return replace(
            self, target=target, found=Found.UNKNOWN, rows_at_start=None, rows_loaded=0, applied=Counts()
        )


@dataclass(frozen=True, slots=True)
class Status:
    """A pipeline as `status` shows it. ``is_running`` is whether the session of the last writer is still there."""

    pipeline: str
    state: str
    is_running: bool
    position: str | None
    read_from: str | None
    identity: str
    lag_seconds: float | None
    snapshot_seconds: float | None
    is_consistent: bool
    torn: Torn | None
    conflicts: dict[str, int]
    waiting_for: str
    host: str
    pid: int
    started_at: str
    updated_at: str
    tables: tuple[TableState, ...]


# --- reading ----------------------------------------------------------------------------------------------------------

_COLUMNS = (
    "source_schema, source_table, target, state, found, rows_at_start, position, rows_loaded, inserted, updated, deleted, "
    "error, source_columns, updated_at"
)


def read_tables(session: Session, pipeline: str) -> list[TableState]:
    """Every table the pipeline has ever known, by source name."""
    rows = session.query(
        f"SELECT {_COLUMNS} FROM _replicator_tables WHERE pipeline=%s ORDER BY source_schema, source_table",
        pipeline,
    )
    session.rollback()
    return [_build_table_state(row) for row in rows]


def _build_table_state(row: Sequence[Any]) -> TableState:
    return TableState(
        source=TableName(row[0], row[1]),
        target=row[2],
        state=State(row[3]),
        found=Found(row[4]),
        rows_at_start=row[5],
        position=row[6],
        rows_loaded=row[7],
        applied=Counts(*row[8:11]),
        error=row[11],
        schema=schema_from_json(row[12]) if row[12] else None,
        updated_at=row[13],
    )


def read_known_tables(session: Session, pipeline: str) -> list[TableState]:
    """The pipeline's tables as its next start takes them; empty before the first.

    What is stored of tables outlives `drop`; without a position nothing of it can be continued, and all are loaded anew.
    """
    try:
        tables = read_tables(session, pipeline)
        stored = session.query(
            "SELECT 1 FROM _replicator_checkpoint WHERE pipeline = %s AND worker = 0 AND position IS NOT NULL",
            pipeline,
        )
    except TargetError as error:
        if error.errno == NO_SUCH_TABLE:
            return []
        raise
    session.rollback()
    return tables if stored else [replace(table, state=State.PENDING, position=None) for table in tables]


def read_status(session: Session, pipeline: str) -> Status | None:
    """All that is known of a pipeline, without taking it over; None when it never started here."""
    try:
        rows = session.query(
            "SELECT s.state, s.lag_seconds, s.consistent, c.skip_changes, s.insert_exists, s.update_missing,"
            " s.delete_missing, s.waiting_for, s.updated_at, c.position, c.read_from, c.source_identity, c.connection_id,"
            " c.host, c.pid, c.started_at, c.chunk, s.snapshot_seconds"
            " FROM _replicator_status s JOIN _replicator_checkpoint c USING (pipeline)"
            " WHERE s.pipeline=%s AND c.worker=0",
            pipeline,
        )
    except TargetError as error:
        if error.errno == NO_SUCH_TABLE:
            return None
        raise
    session.rollback()
    if not rows:
        return None
    ours = session.list_commands()
    row = rows[0]
    return Status(
        pipeline=pipeline,
        state=row[0],
        is_running=row[12] in ours,
        position=row[9],
        read_from=row[10],
        identity=row[11],
        lag_seconds=row[1],
        snapshot_seconds=row[17],
        is_consistent=bool(row[2]),
        torn=parse_torn(row[3], row[16]),
        conflicts=dict(zip(("insert_exists", "update_missing", "delete_missing"), row[4:7], strict=True)),
        waiting_for=row[7],
        host=row[13],
        pid=row[14],
        started_at=row[15],
        updated_at=row[8],
        tables=tuple(_add_coerced(session, pipeline, read_tables(session, pipeline))),
    )


def _add_coerced(session: Session, pipeline: str, tables: Iterable[TableState]) -> list[TableState]:
    try:
        rows = session.query(
            "SELECT source_schema, source_table, column_name, rule, coerced, sample_key, sample_value"
            " FROM _replicator_coerced WHERE pipeline=%s ORDER BY column_name",
            pipeline,
        )
    except TargetError as error:
        if error.errno != NO_SUCH_TABLE:  # an older version's pipeline, not started since
            raise
        rows = []
    session.rollback()
    found: dict[TableName, list[CoercedColumn]] = {}
    for schema, table, *values in rows:
        found.setdefault(TableName(schema, table), []).append(CoercedColumn(*values))
    return [replace(table, coerced=tuple(found.get(table.source, ()))) for table in tables]


# --- writing ----------------------------------------------------------------------------------------------------------


def insert_pending(session: Session, lease: Lease, tables: Iterable[TableSchema]) -> None:
    """Register tables that the pipeline does not know yet as ``pending``; known ones keep their row."""
    rows = [
        b"(%b,%b,%b,%b,'pending',%b,NOW(6))"
        % (
            *(quote_text(lease.pipeline), quote_text(table.source.schema), quote_text(table.source.table)),
            *(quote_text(table.target), quote_text(schema_to_json(table).decode())),
        )
        for table in tables
    ]
    if not rows:
        return
    run_fenced(
        session,
        lease,
        b"INSERT INTO _replicator_tables (pipeline, source_schema, source_table, target, state, source_columns, updated_at)"
        b" VALUES %b ON DUPLICATE KEY UPDATE state=state" % b",".join(rows),
    )


def set_table(session: Session, lease: Lease, name: TableName, **values: Any) -> None:
    """Change columns of a table's row, in a fenced transaction of its own; see ``build_table_update``."""
    run_fenced(session, lease, build_table_update(lease.pipeline, name, **values), CHECK_ONE)


def build_table_update(
    pipeline: str,
    name: TableName,
    *,
    counts: Counts = Counts(),  # noqa: B008 - immutable
    rows_loaded: int = 0,
    **values: object,
) -> bytes:
    """The UPDATE of one table's row: what was applied and loaded is added, ``values`` are set.

    ``values``: any of state (State), found (Found), rows_at_start, position (stored text or None), error (text or None),
    schema (TableSchema), target, stands_at (the position, where the table has none of its own), and reset (True: the
    counters start again at 0 before anything is added).
    """
    reset = bool(values.pop("reset", False))
    parts = [] if not reset else [b"rows_loaded=0,inserted=0,updated=0,deleted=0"]
    added = {"rows_loaded": rows_loaded, **counts._asdict()}
    parts += [b"%b=%b+%d" % (key.encode(), key.encode(), number) for key, number in added.items() if number]
    parts += [b"%b=%b" % _build_assignment(key, value) for key, value in values.items()]
    return b"UPDATE _replicator_tables SET %b WHERE %b" % (
        b",".join([*parts, b"updated_at=NOW(6)"]),
        build_table_condition(pipeline, name),
    )


_SETTABLE = frozenset(("state", "found", "rows_at_start", "position", "error", "target"))


def _build_assignment(key: str, value: object) -> tuple[bytes, bytes]:
    if key == "stands_at":
        return b"position", b"COALESCE(position,%b)" % quote_text(str(value))
    if isinstance(value, TableSchema):
        return b"source_columns", quote_text(schema_to_json(value).decode())
    if key not in _SETTABLE:
        raise TypeError(f"_replicator_tables has no column {key!r} to set")
    if value is None:
        return key.encode(), b"NULL"
    return key.encode(), b"%d" % value if isinstance(value, int) else quote_text(str(value))


def build_coerced(pipeline: str, tally: Tally) -> list[bytes]:
    """The statement, none where nothing was coerced, that adds a transaction's ``tally`` to what is stored."""
    rows = [
        b"(%b,%b,%b,%b,%b,%d,%b,%b,NOW(6))"
        % (
            *(quote_text(pipeline), quote_text(table.schema), quote_text(table.table)),
            *(quote_text(column), quote_text(sample.rule), sample.count),
            *(quote_text(sample.key), quote_text(sample.value)),
        )
        for (table, column), sample in tally.samples.items()
    ]
    if not rows:
        return []
    return [
        b"INSERT INTO _replicator_coerced (pipeline, source_schema, source_table, column_name, rule, coerced, sample_key,"
        b" sample_value, updated_at) VALUES %b AS n ON DUPLICATE KEY UPDATE rule=n.rule,"
        b" coerced=_replicator_coerced.coerced+n.coerced, sample_key=n.sample_key, sample_value=n.sample_value,"
        b" updated_at=n.updated_at" % b",".join(rows)
    ]


def forget_coerced(session: Session, lease: Lease, name: TableName) -> None:
    """What was coerced in a table that is loaded anew."""
    condition = build_table_condition(lease.pipeline, name)
    run_fenced(session, lease, b"DELETE FROM _replicator_coerced WHERE %b" % condition)


class StatusLine(NamedTuple):
    """What a running pipeline tells the app about itself."""

    state: str
    lag_seconds: float | None
    is_consistent: bool
    is_torn: bool = False
    waiting_for: str = ""
    snapshot_seconds: float | None = None


_STATUS_UPDATE = (
    b"UPDATE _replicator_status SET state=%b,consistent=%d,lag_seconds=%b,torn=%d,snapshot_seconds=%b,waiting_for=%b%b,"
    b"updated_at=NOW(6) WHERE pipeline=%b"
)


def build_status_update(pipeline: str, line: StatusLine, conflicts: Mapping[str, int]) -> bytes:
    """The UPDATE of ``_replicator_status``; ``conflicts`` (by conflict type) are added."""
    added = b"".join(b",%b=%b+%d" % (name.encode(), name.encode(), n) for name, n in conflicts.items() if n)
    return _STATUS_UPDATE % (
        *(quote_text(line.state), line.is_consistent, _build_seconds(line.lag_seconds), line.is_torn),
        _build_seconds(line.snapshot_seconds),
        *(quote_text(line.waiting_for[:255]), added, quote_text(pipeline)),
    )


def _build_seconds(value: float | None) -> bytes:
    return b"NULL" if value is None else b"%.3f" % value


# --- a table's columns as JSON ----------------------------------------------------------------------------------------


def schema_to_json(table: TableSchema) -> bytes:
    """A table's schema without loss; bytes (labels in their own character set) become one character a byte."""
    return orjson.dumps(table, default=_encode)


def _encode(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, TableName):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no place in a schema")


def schema_from_json(text: str | bytes) -> TableSchema:
    """The schema that ``schema_to_json`` wrote; a field it did not know yet gets its default."""
    table: TableSchema = _decode(TableSchema, orjson.loads(text))
    return table


def _decode(kind: Any, value: Any) -> Any:
    """Rebuild ``value`` as the annotated type ``kind``."""
    if value is None:
        return None
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode(next(k for k in typing.get_args(kind) if k is not types.NoneType), value)
    if origin is tuple:
        return tuple(_decode(typing.get_args(kind)[0], item) for item in value)
    if kind is bytes:
        return value.encode("latin-1")
    if kind is TableName:
        return TableName(*value)
    if dataclasses.is_dataclass(kind):
        hints = _hints(typing.cast(type, kind))
        return typing.cast(Any, kind)(**{name: _decode(hints[name], part) for name, part in value.items()})
    return kind(value) if isinstance(kind, enum.EnumType) else value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
