"""Turn steps into MySQL statements and packets: the only place with MySQL DML grammar (pure).

Between ``plan`` and ``apply`` (and ``load``). The shapes are those of PERFORMANCE rule 9: LOAD DATA or multi-row INSERT,
UPDATE joined with VALUES ROW, DELETE by list of keys. Every access to the target goes by the key's index, which is
forced: the optimizer would rather scan a small table, and a scan locks what other sessions write. Values are rendered
by ``literal``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple

from replicator.errors import DataError
from replicator.model import Column, Key, Kind, Op, Row, TableSchema, Value
from replicator.plan.descent import Descent
from replicator.plan.step import Action, Step
from replicator.sql.descent import build_clearing, build_descent, build_descent_check
from replicator.sql.literal import (
    ESCAPE,
    FIELD_END,
    LINE_END,
    LineRenderer,
    LoadColumn,
    Renderer,
    build_lines,
    build_literals,
    build_load_column,
    build_rows,
    build_text_column,
    escape_text,
)
from replicator.sql.names import force_index, key_index, on_key, quote_name

BODY_BLOCK: Final = 1 << 20
STATEMENT_BYTES: Final = 1 << 20  # a longer one gains nothing and costs the server's parser memory
PACKET_BYTES: Final = 16 << 20
LOAD_ROWS: Final = 50_000  # rows of one LOAD: its file is rendered as a whole
DELETE_KEYS: Final = 10_000  # SEMANTICS §5.7
DESCENT_BYTES: Final = 16 << 10  # keys that each statement of a descent names
LOAD_TOKEN: Final = b"replicator-rows"

CHECK_COUNT: Final = b"DO IF(ROW_COUNT()=%d,0,(SELECT 1 UNION ALL SELECT 2))"
CHECK_LOAD: Final = b"DO IF(ROW_COUNT()=%d AND @@warning_count=0,0,(SELECT 1 UNION ALL SELECT 2))"


class Statement(NamedTuple):
    """One statement of a batch.

    ``rows``: how many rows it stands for. ``expect``: the ROW_COUNT (rows matched: the session says FOUND_ROWS) that a
    DO right after it checks, None where it is only counted. ``check_warnings``: that DO checks for no warning too.
    ``body``: the blocks, of at most 1 MiB, of a LOAD DATA's file. ``conflict``: the type of conflict that each row it
    matches is.
    """

    sql: bytes
    table: TableSchema | None
    op: Op | None
    rows: int
    expect: int | None = None
    check_warnings: bool = False
    body: Sequence[bytes] | None = None
    conflict: str | None = None


class Packet(NamedTuple):
    """Statements that travel together, joined by ``;`` without head and tail.

    ``results``: one entry per result the server sends, in order; None for a DO. ``body``: of its only LOAD DATA, which
    then stands first.
    """

    sql: bytes
    results: tuple[Statement | None, ...]
    body: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the target allows: ``max_packet`` bytes a packet, LOAD DATA LOCAL or not; ``load_rows``: smallest LOAD."""

    max_packet: int
    local_infile: bool
    load_rows: int = 500

    @property
    def room(self) -> int:
        """Bytes for a packet's statements; the rest is for the head (the checkpoint's positions) and the tail."""
        return self.max_packet - min(256 << 10, self.max_packet // 4)


class LoadFormat(NamedTuple):
    """How rows of one table travel through LOAD DATA LOCAL.

    ``token`` is the file name in ``sql``, the only one whose request may be answered. ``render`` makes the file's bytes;
    its outputs can be joined and cut anywhere.
    """

    sql: bytes
    token: bytes
    render: LineRenderer


def quote_bytes(value: bytes) -> bytes:
    """A binary string literal."""
    return b"x'" + value.hex().encode() + b"'"


def quote_text(value: str) -> bytes:
    """A utf8mb4 string literal (sessions run with NAMES utf8mb4 and without NO_BACKSLASH_ESCAPES)."""
    return b"'" + escape_text(value.encode()) + b"'"


class _Frame(NamedTuple):
    """A statement around a list of rendered rows."""

    head: bytes
    between: bytes
    tail: bytes

    def fill(self, items: Sequence[bytes]) -> bytes:
        return self.head + self.between.join(items) + self.tail

    @property
    def overhead(self) -> int:
        return len(self.head) + len(self.tail)


class _Keys(NamedTuple):
    """How the rows under some keys are found in one table."""

    render: Renderer  # keys as they stand in Step.keys
    delete: _Frame
    sortable: bool


class _Update(NamedTuple):
    by_key: _Frame  # one item: the row
    by_old_key: _Frame  # one item: the old key, the row
    missing: _Frame  # INSERT of the rows whose key is not there
    every: _Frame  # as by_key, the key's columns too


# --- shapes, built once per table --------------------------------------------------------------------------------


def _names(table: TableSchema, ordinals: Iterable[int]) -> bytes:
    return b",".join(quote_name(table.columns[at].name) for at in ordinals)


def _set(table: TableSchema, ordinals: Iterable[int]) -> bytes:
    return b",".join(b"t.%b=n.c%d" % (quote_name(table.columns[at].name), at) for at in ordinals)


@lru_cache(maxsize=4096)
def build_load(table: TableSchema) -> LoadFormat:
    """The LOAD DATA LOCAL of a table; its rows must be new (REPLACE would delete other rows, IGNORE would lose ours)."""
    columns = [
        build_load_column(column, quote_name(column.name), at) for at, column in enumerate(table.columns)
    ]
    sql = _build_load_sql(table, columns, FIELD_END, ESCAPE, LINE_END)
    return LoadFormat(sql, LOAD_TOKEN, build_lines(table.columns))


@lru_cache(maxsize=4096)
def build_text_load(table: TableSchema) -> bytes:
    """The LOAD DATA LOCAL of a file in the form of ``readers.base.TextBlock``."""
    columns = [
        build_text_column(column, quote_name(column.name), at) for at, column in enumerate(table.columns)
    ]
    return _build_load_sql(table, columns, b"\t", b"\\", b"\n")


def _build_load_sql(
    table: TableSchema, columns: Sequence[LoadColumn], field_end: bytes, escape: bytes, line_end: bytes
) -> bytes:
    sql = b"LOAD DATA LOCAL INFILE '%b' INTO TABLE %b CHARACTER SET binary" % (
        LOAD_TOKEN,
        quote_name(table.target),
    )
    sql += b" FIELDS TERMINATED BY 0x%b ESCAPED BY 0x%b LINES TERMINATED BY 0x%b (%b)" % (
        field_end.hex().encode(),
        escape.hex().encode(),
        line_end.hex().encode(),
        b",".join(column.target for column in columns),
    )
    assignments = [column.assignment for column in columns if column.assignment is not None]
    return sql + b" SET " + b",".join(assignments) if assignments else sql


@lru_cache(maxsize=4096)
def _build_keys(table: TableSchema) -> _Keys:
    columns = [table.columns[at] for at in table.key]
    index = key_index(table)
    hint = b"" if index is None else b" /*+ INDEX(%b %b) */" % (quote_name(table.target), index)
    head = b"DELETE%b FROM %b WHERE " % (hint, quote_name(table.target))
    if len(columns) == 1:
        frame = _Frame(head + quote_name(columns[0].name) + b" IN (", b",", b")")
    else:
        frame = _Frame(head + b"(" + _names(table, table.key) + b") IN ((", b"),(", b"))")
    return _Keys(
        build_literals(columns, key=True), frame, all(column.kind is not Kind.ENUM for column in columns)
    )


@lru_cache(maxsize=4096)
def _build_insert(table: TableSchema) -> _Frame:
    names = _names(table, range(len(table.columns)))
    return _Frame(b"INSERT INTO %b (%b) VALUES (" % (quote_name(table.target), names), b"),(", b")")


@lru_cache(maxsize=4096)
def _build_update(table: TableSchema, present: tuple[int, ...] | None) -> _Update:
    ordinals = range(len(table.columns)) if present is None else present
    target, force = quote_name(table.target), force_index(table)
    values = b",".join(b"c%d" % at for at in ordinals)
    old_values = b",".join(b"o%d" % number for number in range(len(table.key)))
    join = b" STRAIGHT_JOIN " + target + b" AS t" + force + b" ON "
    by_key, by_old_key = on_key(table, b"n.c", b"t"), on_key(table, b"n.o", b"t")
    rest = [at for at in ordinals if at not in table.key or _is_loose(table.columns[at])]
    head, every = b"UPDATE (VALUES ROW(", _set(table, ordinals)
    # <=>, for a DATE that is NOT NULL and zero IS NULL
    missing = b")) AS n(%b) LEFT JOIN %b AS t%b ON %b WHERE t.%b<=>NULL" % (
        values,
        target,
        force,
        by_key,
        quote_name(table.columns[table.key[0]].name),
    )
    selected = b",".join(b"n.c%d" % at for at in ordinals)
    into = b"INSERT INTO %b (%b) SELECT %b FROM (VALUES ROW(" % (target, _names(table, ordinals), selected)
    tail = b")) AS n(" + values + b")" + join + by_key + b" SET "
    old_tail = b")) AS n(" + old_values + b"," + values + b")" + join + by_old_key + b" SET " + every
    return _Update(
        by_key=_Frame(head, b"),ROW(", tail + (_set(table, rest) if rest else every)),
        by_old_key=_Frame(head, b"),ROW(", old_tail),
        missing=_Frame(into, b"),ROW(", missing),
        every=_Frame(head, b"),ROW(", tail + every),
    )


def _is_loose(column: Column) -> bool:
    """Whether equal values need not be the same: 0 and -0 are one key."""
    return column.kind in (Kind.FLOAT, Kind.DOUBLE)


# --- statements --------------------------------------------------------------------------------------------------


def _cut(items: list[bytes], frame: _Frame, room: int) -> Iterator[list[bytes]]:
    """Runs of items whose statement stays below ``room``; an item too large for that comes alone."""
    gap = len(frame.between)
    space = room - frame.overhead
    if sum(map(len, items)) + gap * len(items) <= space:
        yield items
        return
    start = size = 0
    for at, item in enumerate(items):
        if size and size + len(item) + gap > space:
            yield items[start:at]
            start, size = at, 0
        size += len(item) + gap
    yield items[start:]


def _fill(  # noqa: PLR0917 (called once a statement)
    frame: _Frame,
    items: list[bytes],
    step: Step,
    op: Op,
    limits: Limits,
    rows: Sequence[Row | Key],
) -> Iterator[Statement]:
    """Statements of one frame; an UPDATE of a fast plan must match each of its rows. ``rows`` are those of ``items``."""
    checked = op is Op.UPDATE and not step.careful
    frame = _without_checks(frame) if step.unchecked else frame
    at = 0
    for run in _cut(items, frame, min(STATEMENT_BYTES, limits.room)):
        sql = frame.fill(run)
        if len(sql) > limits.room:
            key = rows[at] if op is Op.DELETE else [rows[at][place] for place in step.table.key]
            raise _too_large(step.table, op, len(sql), limits, key)
        at += len(run)
        yield Statement(sql, step.table, op, len(run), len(run) if checked else None)


def _without_checks(frame: _Frame) -> _Frame:
    """The statement as the source ran it: without foreign key checks and cascades, and no session is left so."""
    verb, rest = frame.head.split(b" ", 1)
    hint = b" /*+ SET_VAR(foreign_key_checks=OFF) "
    rest = rest.removeprefix(b"/*+ ") if rest.startswith(b"/*+ ") else b"*/ " + rest
    return frame._replace(head=verb + hint + rest)


def _too_large(table: TableSchema, op: Op, size: int, limits: Limits, key: Sequence[Value]) -> DataError:
    shown = ", ".join(
        f"{table.columns[at].name}={_show(value)}" for at, value in zip(table.key, key, strict=True)
    )
    return DataError(
        f"table {table.source}: the row {shown} to {op.name.lower()} takes {size:,} bytes as a statement, and the target's "
        f"max_allowed_packet is {limits.max_packet:,}",
        table=str(table.source),
        hint="raise max_allowed_packet at the target"
        + ("" if limits.local_infile else ", or allow local_infile there, which carries inserts of any size"),
    )


def _show(value: Value) -> str:
    """A value of a key for a message; a long one is cut."""
    text = value.decode("utf8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 100 else text[:100] + "…"


def build_insert(table: TableSchema, rows: Sequence[Row], limits: Limits) -> Iterator[Statement]:
    """Multi-row INSERTs of new rows, each below the packet limit; raises DataError where one row is above it."""
    step = Step(table, Action.INSERT, rows)
    return _fill(_build_insert(table), build_rows(table, None).render(rows), step, Op.INSERT, limits, rows)


def _build_load_statements(table: TableSchema, rows: Sequence[Row]) -> Iterator[Statement]:
    load = build_load(table)
    for start in range(0, len(rows), LOAD_ROWS):
        part = rows[start : start + LOAD_ROWS]
        data = load.render(part)
        body = [data[at : at + BODY_BLOCK] for at in range(0, len(data), BODY_BLOCK)]
        yield Statement(load.sql, table, Op.INSERT, len(part), len(part), check_warnings=True, body=body)


def _build_inserts(step: Step, limits: Limits) -> Iterator[Statement]:
    """INSERTs in the order given, with a LOAD for each row that no packet can hold."""
    table, frame = step.table, _build_insert(step.table)
    space = limits.room - frame.overhead
    items = build_rows(table, None).render(step.rows)
    if not limits.local_infile or max(map(len, items)) <= space:
        yield from _fill(frame, items, step, Op.INSERT, limits, step.rows)
        return
    start = 0
    for at in [at for at, item in enumerate(items) if len(item) > space]:
        if build_rows(table, None).split(step.rows[at : at + 1])[1]:
            raise _too_large(
                table, Op.INSERT, len(items[at]), limits, [step.rows[at][place] for place in table.key]
            )
        if items[start:at]:
            yield from _fill(frame, items[start:at], step, Op.INSERT, limits, step.rows[start:at])
        yield from _build_load_statements(table, step.rows[at : at + 1])
        start = at + 1
    if items[start:]:
        yield from _fill(frame, items[start:], step, Op.INSERT, limits, step.rows[start:])


def _sort_rows(table: TableSchema, rows: Sequence[Row]) -> Sequence[Row]:
    """By key: neighbours share pages, and two writers lock in one order. ENUM keys (bytes, or 0) are left as they are."""
    if len(rows) < 2 or not _build_keys(table).sortable:
        return rows
    return sorted(rows, key=itemgetter(*table.key))


def _build_updates(step: Step, limits: Limits) -> Iterator[Statement]:
    shape = _build_update(step.table, step.present)
    rows = _sort_rows(step.table, step.rows)
    items = build_rows(step.table, step.present).render(rows)
    frame = shape.every if step.careful else shape.by_key
    yield from _fill(frame, items, step, Op.UPDATE, limits, rows)


def _build_key_updates(step: Step, limits: Limits) -> Iterator[Statement]:
    frame = _build_update(step.table, step.present).by_old_key
    keys = _build_keys(step.table).render(step.keys)
    rows = build_rows(step.table, step.present).render(step.rows)
    items = [key + b"," + row for key, row in zip(keys, rows, strict=True)]
    yield from _fill(frame, items, step, Op.UPDATE, limits, step.rows)


def _build_merges(step: Step, limits: Limits) -> Iterator[Statement]:
    """Overwrite the rows that are there, then insert the others; the second statement stands for no rows of its own.

    Rows stay in their order: in a table that refers to itself parents come first.
    """
    shape = _build_update(step.table, None)
    items = build_rows(step.table, None).render(step.rows)
    for statement in _fill(shape.every, items, step, Op.UPDATE, limits, step.rows):
        yield statement._replace(conflict="insert_exists" if step.inserted else None)
    for statement in _fill(shape.missing, items, step, Op.INSERT, limits, step.rows):
        yield statement._replace(rows=0, conflict=None if step.inserted else "update_missing")


def _build_deletes(step: Step, limits: Limits) -> Iterator[Statement]:
    """DELETEs by key, never checked: a row that is not there is what was wanted (delete_missing)."""
    shape = _build_keys(step.table)
    keys: Sequence[Key] = sorted(step.keys) if shape.sortable else step.keys
    items = shape.render(keys)
    for start in range(0, len(items), DELETE_KEYS):
        part = slice(start, start + DELETE_KEYS)
        if step.descent is not None:
            yield from _build_descents(step, step.descent, shape.delete, items[part])
        yield from _fill(shape.delete, items[part], step, Op.DELETE, limits, keys[part])


def _build_descents(step: Step, descent: Descent, frame: _Frame, items: list[bytes]) -> Iterator[Statement]:
    """What goes along, or the check that nothing does: they stand for no change, so they have no op."""
    for run in _cut(items, frame, DESCENT_BYTES):
        if step.descends:
            for sql, table in build_descent(descent, run):
                yield Statement(sql, table, None, 0)
        else:
            yield Statement(build_descent_check(descent, run), step.table, None, 0)


def _build_clear(step: Step, _limits: Limits) -> Iterator[Statement]:
    clearing = None if step.descent is None else build_clearing(step.descent)
    if clearing is not None:
        yield Statement(clearing, step.table, None, 0)
    yield Statement(b"DELETE FROM " + quote_name(step.table.target), step.table, Op.TRUNCATE, 1)


_BUILDERS: Final = {
    Action.INSERT: _build_inserts,
    Action.UPDATE: _build_updates,
    Action.UPDATE_KEY: _build_key_updates,
    Action.DELETE: _build_deletes,
    Action.MERGE: _build_merges,
    Action.CLEAR: _build_clear,
}


# --- packets -----------------------------------------------------------------------------------------------------


class _Packing:
    """The packet being filled."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.results: list[Statement | None] = []
        self.body: Sequence[bytes] | None = None
        self.size = 0

    def add(self, statement: Statement, check: bytes | None) -> None:
        self.parts.append(statement.sql)
        self.results.append(statement._replace(body=None))
        if check is not None:
            self.parts.append(check)
            self.results.append(None)
        self.size += len(statement.sql) + len(check or b"") + 2
        self.body = self.body or statement.body

    def build(self) -> Packet:
        return Packet(b";".join(self.parts), tuple(self.results), self.body)


def _check(statement: Statement) -> bytes | None:
    if statement.expect is None:
        return None
    return (CHECK_LOAD if statement.check_warnings else CHECK_COUNT) % statement.expect


def build_packets(steps: Iterable[Step], limits: Limits) -> Iterator[Packet]:
    """The packets of a plan, in order: LOADs of independent rows first, one a packet, then all else.

    A packet's statements stay below ``limits.room``. Raises DataError for a row that fits in none.
    """
    packing = _Packing()
    room = min(limits.room, PACKET_BYTES)
    for statement in _build_statements(steps, limits):
        check = _check(statement)
        size = len(statement.sql) + len(check or b"") + 2
        if packing.parts and (statement.body is not None or packing.size + size > room):
            yield packing.build()
            packing = _Packing()
        packing.add(statement, check)
    if packing.parts:
        yield packing.build()


def _build_statements(steps: Iterable[Step], limits: Limits) -> Iterator[Statement]:
    loads: list[Step] = []
    rest: list[Step] = []
    for step in steps:
        is_load = (
            limits.local_infile and step.action is Action.INSERT and step.independent and not step.unchecked
        )
        if not is_load or len(step.rows) < limits.load_rows:
            rest.append(step)
            continue
        plain, exact = build_rows(step.table, None).split(step.rows)
        if plain:
            loads.append(step._replace(rows=plain))
        if exact:
            rest.append(step._replace(rows=exact))
    yield from chain.from_iterable(_build_load_statements(step.table, step.rows) for step in loads)
    for step in rest:
        yield from _BUILDERS[step.action](step, limits)
