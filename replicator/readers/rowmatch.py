"""Whether the columns of an event are those of the table's schema, so that the decoder is never wrong about them; pure."""

from __future__ import annotations

import re
from typing import Final

from replicator.errors import UnsupportedEvent
from replicator.model import Column, Kind, TableSchema
from replicator.readers import collations
from replicator.readers import tablemap as types
from replicator.readers.tablemap import ColumnMap, TableMap

_HIDDEN: Final = re.compile(r"DB_ROW_HASH_\d+")
_SPELLING: Final = re.compile(r"([a-z0-9_]+)(?:\s+precision)?\s*(?:\(([^)]*)\))?")

_STRINGS: Final = frozenset({types.STRING, types.VARCHAR, types.VAR_STRING, types.VARCHAR_COMPRESSED})
_BLOBS: Final = frozenset({types.BLOB, types.BLOB_COMPRESSED})
_LOG_TYPES: Final[dict[str, frozenset[int]]] = {
    "tinyint": frozenset({types.TINY}),
    "smallint": frozenset({types.SHORT}),
    "mediumint": frozenset({types.INT24}),
    "int": frozenset({types.LONG}),
    "bigint": frozenset({types.LONGLONG}),
    "decimal": frozenset({types.NEWDECIMAL}),
    "float": frozenset({types.FLOAT}),
    "double": frozenset({types.DOUBLE}),
    "bit": frozenset({types.BIT}),
    "date": frozenset({types.DATE, types.NEWDATE}),
    "time": frozenset({types.TIME, types.TIME2}),
    "datetime": frozenset({types.DATETIME, types.DATETIME2}),
    "timestamp": frozenset({types.TIMESTAMP, types.TIMESTAMP2}),
    "year": frozenset({types.YEAR}),
    "char": frozenset({types.STRING}),
    "binary": frozenset({types.STRING}),
    "varchar": _STRINGS - {types.STRING},
    "varbinary": _STRINGS - {types.STRING},
    **{f"{size}{name}": _BLOBS for size in ("tiny", "", "medium", "long") for name in ("text", "blob")},
    "enum": frozenset({types.ENUM}),
    "set": frozenset({types.SET}),
    "json": frozenset({types.JSON}),
    "vector": frozenset({types.VECTOR, types.VARCHAR}),
    "uuid": frozenset({types.STRING}),
    "inet4": frozenset({types.STRING}),
    "inet6": frozenset({types.STRING}),
}
_FIXED_SIZES: Final = {"uuid": 16, "inet4": 4, "inet6": 16}
_SYNONYMS: Final = {"integer": "int", "real": "double", "numeric": "decimal"}
_TEMPORALS_WITH_FRACTION: Final = frozenset({types.TIME2, types.DATETIME2, types.TIMESTAMP2})


def explain_mismatch(table_map: TableMap, schema: TableSchema) -> str | None:
    """Why the columns of this event are not those of ``schema``, for a human, or None.

    Raises UnsupportedEvent (remedy binlog_row_metadata=FULL) when the log does not name its columns.
    """
    if not table_map.has_names:
        raise UnsupportedEvent(
            f"{schema.source}: the source's log does not name the columns of its rows",
            hint="SET GLOBAL binlog_row_metadata=FULL; then load this table again: older events stay unnamed.",
        )
    logged = [(column.name or b"").decode() for column in table_map.columns]
    generated = {column.name for column in schema.generated}
    expected = [column.name for column in schema.columns]
    written = [name for name in logged if name not in generated and not _is_hidden(name, expected)]
    if written != expected:
        return _explain_names(written, expected)
    by_name = {column.name: column for column in schema.columns}
    for name, one in zip(logged, table_map.columns, strict=True):
        reason = _explain_column(one, by_name[name]) if name in by_name else None
        if reason:
            return f"column {name}: {reason}"
    return None


def _is_hidden(name: str, columns: list[str]) -> bool:
    """MariaDB computes a column of its own for a unique index on long columns; the log has it, the catalog does not."""
    return _HIDDEN.fullmatch(name) is not None and name not in columns


def _explain_names(logged: list[str], expected: list[str]) -> str:
    gone = [name for name in logged if name not in expected]
    new = [name for name in expected if name not in logged]
    if gone or new:
        parts = [f"the log has {', '.join(gone)}"] * bool(gone) + [f"the table has {', '.join(new)}"] * bool(
            new
        )
        return f"its columns changed: {', '.join(parts)}"
    return (
        f"its columns changed their order: {', '.join(logged)} in the log, {', '.join(expected)} in the table"
    )


def _split_type(spelling: str) -> tuple[str, tuple[int, ...]]:
    """``decimal(10,2) unsigned`` → ("decimal", (10, 2))."""
    match = _SPELLING.match(spelling.lower())
    name, arguments = (match[1], match[2] or "") if match else ("", "")
    numbers = tuple(int(part) for part in arguments.split(",") if part.strip().isdigit())
    return _SYNONYMS.get(name, name), numbers


def _explain_column(one: ColumnMap, column: Column) -> str | None:
    name, numbers = _split_type(column.source_type)
    expected = frozenset({types.GEOMETRY}) if column.kind is Kind.GEOMETRY else _LOG_TYPES.get(name)
    if expected is None or one.type not in expected:
        return f"type number {one.type} in the log is not {column.source_type}"
    if column.kind in {Kind.INTEGER, Kind.FLOAT, Kind.DOUBLE} or name == "decimal":
        unsigned = "unsigned" in column.source_type or "zerofill" in column.source_type
        if one.unsigned != unsigned:
            return f"{'unsigned' if one.unsigned else 'signed'} in the log, {column.source_type} in the table"
    return (
        _explain_digits(one, name, numbers, column)
        or _explain_charset(one, column)
        or _explain_labels(one, column)
    )


def _explain_digits(one: ColumnMap, name: str, numbers: tuple[int, ...], column: Column) -> str | None:
    """What ``meta`` says where it is part of the value: digits, fractions, bits, padding."""
    logged: tuple[int, ...]
    if one.type == types.NEWDECIMAL:
        logged, declared = (one.meta >> 8, one.meta & 255), (*numbers, *(10, 0)[len(numbers) :])
    elif one.type in _TEMPORALS_WITH_FRACTION:
        logged, declared = (one.meta,), numbers or (0,)
    elif one.type == types.BIT or name == "binary":
        logged, declared = (one.meta,), numbers or (1,)
    elif name in _FIXED_SIZES:
        logged, declared = (one.meta,), (_FIXED_SIZES[name],)
    else:
        return None
    spelled = ",".join(map(str, logged))
    return None if logged == declared else f"{name}({spelled}) in the log, {column.source_type} in the table"


def _explain_charset(one: ColumnMap, column: Column) -> str | None:
    if one.charset is None:
        return None
    logged = collations.charset_of(one.charset)
    if logged is None:
        return f"collation number {one.charset} in the log is not known to this version"
    if column.kind is Kind.TEXT:
        declared = "utf8mb3" if column.charset == "utf8" else column.charset
        return None if logged == declared else f"{logged} in the log, {declared} in the table"
    if column.kind not in {Kind.ENUM, Kind.SET} and logged != "binary":
        return f"{logged} text in the log, {column.source_type} in the table"
    return None


def _explain_labels(one: ColumnMap, column: Column) -> str | None:
    if column.kind not in {Kind.ENUM, Kind.SET}:
        return None
    charset = (collations.charset_of(one.charset) if one.charset is not None else None) or "utf8mb4"
    if len(one.labels) != len(column.labels):
        return f"{len(one.labels)} members in the log, {len(column.labels)} in the table"
    for raw, label in zip(one.labels, column.labels, strict=True):
        text = collations.decode_label(raw, charset)
        if text is not None and text.encode() != label:
            return f"its member {text!r} in the log is {label.decode(errors='replace')!r} in the table"
    return None
