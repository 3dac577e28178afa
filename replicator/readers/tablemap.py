"""TABLE_MAP events: what the log says of a table's columns, before the rows that use it; pure.

A table that nobody selected costs ``parse_table_name`` alone, so that no type or metadata of it can break the reader.
Format: the public documentation of Table_map_event and its optional metadata (both products write the same).
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from replicator.errors import UnsupportedEvent
from replicator.readers.binlog import read_lenenc

# Column types as the log numbers them.
TINY: Final = 1
SHORT: Final = 2
LONG: Final = 3
FLOAT: Final = 4
DOUBLE: Final = 5
TIMESTAMP: Final = 7
LONGLONG: Final = 8
INT24: Final = 9
DATE: Final = 10
TIME: Final = 11
DATETIME: Final = 12
YEAR: Final = 13
NEWDATE: Final = 14
VARCHAR: Final = 15
BIT: Final = 16
TIMESTAMP2: Final = 17
DATETIME2: Final = 18
TIME2: Final = 19
TYPED_ARRAY: Final = 20
BLOB_COMPRESSED: Final = 140
VARCHAR_COMPRESSED: Final = 141
VECTOR: Final = 242
JSON: Final = 245
NEWDECIMAL: Final = 246
ENUM: Final = 247
SET: Final = 248
BLOB: Final = 252
VAR_STRING: Final = 253
STRING: Final = 254
GEOMETRY: Final = 255

_ONE_BYTE_META: Final = frozenset(
    {FLOAT, DOUBLE, BLOB, GEOMETRY, JSON, VECTOR, BLOB_COMPRESSED, TIMESTAMP2, DATETIME2, TIME2}
)
_TWO_BYTE_META: Final = frozenset(
    {VARCHAR, VAR_STRING, VARCHAR_COMPRESSED, BIT, NEWDECIMAL, STRING, ENUM, SET}
)
_NO_META: Final = frozenset(
    {TINY, SHORT, LONG, LONGLONG, INT24, TIMESTAMP, DATE, TIME, DATETIME, YEAR, NEWDATE}
)
_NUMERIC: Final = frozenset({TINY, SHORT, INT24, LONG, LONGLONG, NEWDECIMAL, FLOAT, DOUBLE, YEAR})
# The columns that have a place in the lists of character sets: here the products differ.
_MYSQL_CHARACTER: Final = frozenset({STRING, VAR_STRING, VARCHAR, BLOB, VECTOR})
_MARIADB_CHARACTER: Final = frozenset(
    {STRING, VAR_STRING, VARCHAR, BLOB, GEOMETRY, BLOB_COMPRESSED, VARCHAR_COMPRESSED}
)


class TableName(NamedTuple):
    """The cheap part of a TABLE_MAP: all that is ever parsed for a table nobody selected."""

    table_id: (
        bytes  # 6 bytes as they stand: the key by which a rows event (buffer[start:start+6]) finds its map
    )
    schema: str
    table: str


class ColumnMap(NamedTuple):
    """One column of a TABLE_MAP.

    ``type`` is the real type (ENUM and SET told from STRING). ``meta``: bytes of the length prefix (BLOB, JSON,
    GEOMETRY, VECTOR), declared bytes (VARCHAR, STRING), fraction digits (temporals), bits (BIT), precision << 8 | scale
    (NEWDECIMAL), bytes of the number (ENUM, SET), else 0.
    """

    type: int
    meta: int
    nullable: bool
    unsigned: bool = False
    charset: int | None = None  # collation id of character, ENUM and SET columns; 63 is binary
    name: bytes | None = None  # utf8; None without binlog_row_metadata=FULL
    labels: tuple[bytes, ...] = ()  # ENUM and SET, in the column's character set
    geometry_type: int | None = None
    visible: bool = True
    dimension: int | None = None  # VECTOR's, when the server says it


class TableMap(NamedTuple):
    table_id: bytes
    flags: int
    schema: str
    table: str
    columns: tuple[ColumnMap, ...]
    primary_key: tuple[tuple[int, int], ...] = ()  # (column number from 0, prefix length or 0)

    @property
    def has_names(self) -> bool:
        """Whether the log carries full row metadata."""
        return all(column.name is not None for column in self.columns)


def parse_table_name(buffer: bytes, start: int, end: int) -> TableName:
    """Raises UnsupportedEvent when even the names do not parse."""
    try:
        schema_end = start + 9 + buffer[start + 8]
        table_start = schema_end + 2
        table_end = table_start + buffer[schema_end + 1]
        if table_end >= end:
            raise ValueError("it is too short")
        schema = buffer[start + 9 : schema_end].decode()
        return TableName(buffer[start : start + 6], schema, buffer[table_start:table_end].decode())
    except (IndexError, ValueError) as error:
        raise UnsupportedEvent(
            f"a table map event of the source's log does not parse: {error}",
            hint="Check the log with mysqlbinlog; if it reads well there, report this with the server's version.",
        ) from error


def parse_table_map(buffer: bytes, start: int, end: int, *, is_mariadb: bool) -> TableMap:
    """The whole event, FULL metadata included. Raises UnsupportedEvent naming the table.

    ``is_mariadb`` is the format description's: the products count character columns differently, and nothing in the
    event says which one wrote it.
    """
    table_id, schema, table = parse_table_name(buffer, start, end)
    try:
        at = start + 10 + buffer[start + 8]  # the length of the table's name; a zero byte ends each name
        at += buffer[at] + 2
        columns, at = _parse_columns(buffer, at, end)
        fields = _split_optional(buffer, at, end)
        flags = int.from_bytes(buffer[start + 6 : start + 8], "little")
        primary_key = _parse_primary_key(fields)
        character = _MARIADB_CHARACTER if is_mariadb else _MYSQL_CHARACTER
        described = _add_metadata(columns, fields, character)
        return TableMap(table_id, flags, schema, table, described, primary_key)
    except (LookupError, StopIteration, ValueError, struct.error) as error:
        raise UnsupportedEvent(
            f"{schema}.{table}: the columns of this table in the source's log do not parse: {error!r}",
            hint="Deselect this table (`skip: true`), or report it with its definition and the server's version.",
        ) from error


def _parse_columns(buffer: bytes, at: int, end: int) -> tuple[list[ColumnMap], int]:
    count, at = read_lenenc(buffer, at)
    types = buffer[at : at + count]
    meta_size, at = read_lenenc(buffer, at + count)
    nulls = at + meta_size
    after = nulls + (count + 7) // 8
    if len(types) != count or after > end:
        raise ValueError(f"{count} columns in {end - at} bytes")
    columns: list[ColumnMap] = []
    for i, kind in enumerate(types):
        real, meta, at = _parse_meta(kind, buffer, at)
        columns.append(ColumnMap(real, meta, bool(buffer[nulls + i // 8] >> i % 8 & 1)))
    if at != nulls:
        raise ValueError("the column metadata have another length")
    return columns, after


def _parse_meta(kind: int, buffer: bytes, at: int) -> tuple[int, int, int]:
    """(real type, meta as in ColumnMap, offset after)."""
    if kind in _NO_META:
        return kind, 0, at
    if kind in _ONE_BYTE_META:
        return kind, buffer[at], at + 1
    if kind not in _TWO_BYTE_META:
        raise ValueError(f"column type {kind} is not known")
    first, second = buffer[at], buffer[at + 1]
    if kind == NEWDECIMAL:
        return kind, first << 8 | second, at + 2
    if kind == BIT:
        return kind, second * 8 + first, at + 2
    if kind != STRING:
        return kind, second << 8 | first, at + 2
    if first & 0x30 != 0x30:  # CHAR and BINARY longer than 255 bytes: two bits of the length hide in the type
        return first | 0x30, second | (first & 0x30 ^ 0x30) << 4, at + 2
    return first, second, at + 2


# --- optional metadata -------------------------------------------------------------------------------------------------

_SIGNEDNESS: Final = 1
_DEFAULT_CHARSET: Final = 2
_COLUMN_CHARSET: Final = 3
_COLUMN_NAME: Final = 4
_SET_STR_VALUE: Final = 5
_ENUM_STR_VALUE: Final = 6
_GEOMETRY_TYPE: Final = 7
_SIMPLE_PRIMARY_KEY: Final = 8
_PRIMARY_KEY_WITH_PREFIX: Final = 9
_ENUM_AND_SET_DEFAULT_CHARSET: Final = 10
_ENUM_AND_SET_COLUMN_CHARSET: Final = 11
_COLUMN_VISIBILITY: Final = 12
_VECTOR_DIMENSIONALITY: Final = 13


def _split_optional(buffer: bytes, at: int, end: int) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    while at < end:
        kind = buffer[at]
        size, at = read_lenenc(buffer, at + 1)
        if at + size > end:
            raise ValueError(f"metadata field {kind} is cut off")
        fields[kind] = buffer[at : at + size]
        at += size
    return fields


def _add_metadata(
    columns: list[ColumnMap], fields: dict[int, bytes], character_types: frozenset[int]
) -> tuple[ColumnMap, ...]:
    numeric = [i for i, column in enumerate(columns) if column.type in _NUMERIC]
    character = [i for i, column in enumerate(columns) if column.type in character_types]
    labelled = [i for i, column in enumerate(columns) if column.type in (ENUM, SET)]
    everywhere = list(range(len(columns)))
    found: dict[str, dict[int, Any]] = {
        "unsigned": _bits(numeric, fields.get(_SIGNEDNESS)),
        "visible": _bits(everywhere, fields.get(_COLUMN_VISIBILITY)),
        "charset": _charsets(character, fields.get(_DEFAULT_CHARSET), fields.get(_COLUMN_CHARSET))
        | _charsets(
            labelled, fields.get(_ENUM_AND_SET_DEFAULT_CHARSET), fields.get(_ENUM_AND_SET_COLUMN_CHARSET)
        ),
        "name": dict(zip(everywhere, _strings(fields.get(_COLUMN_NAME, b"")), strict=False)),
        "labels": _labels(columns, ENUM, fields.get(_ENUM_STR_VALUE, b""))
        | _labels(columns, SET, fields.get(_SET_STR_VALUE, b"")),
        "geometry_type": _numbers_of(columns, GEOMETRY, fields.get(_GEOMETRY_TYPE, b"")),
        "dimension": _numbers_of(columns, VECTOR, fields.get(_VECTOR_DIMENSIONALITY, b"")),
    }
    return tuple(
        column._replace(**{key: values[i] for key, values in found.items() if i in values})
        for i, column in enumerate(columns)
    )


def _bits(ordinals: list[int], field: bytes | None) -> dict[int, Any]:
    if field is None:
        return {}
    return {column: bool(field[i // 8] >> 7 - i % 8 & 1) for i, column in enumerate(ordinals)}


def _numbers(field: bytes) -> list[int]:
    found: list[int] = []
    at = 0
    while at < len(field):
        number, at = read_lenenc(field, at)
        found.append(number)
    return found


def _strings(field: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(field):
        size, at = read_lenenc(field, at)
        found.append(field[at : at + size])
        at += size
    return found


def _charsets(ordinals: list[int], default: bytes | None, each: bytes | None) -> dict[int, Any]:
    if each is not None:
        return dict(zip(ordinals, _numbers(each), strict=True))
    if default is None:
        return {}
    first, *pairs = _numbers(default)
    found: dict[int, Any] = dict.fromkeys(ordinals, first)
    for index, collation in zip(pairs[::2], pairs[1::2], strict=True):
        found[ordinals[index]] = collation
    return found


def _labels(columns: list[ColumnMap], kind: int, field: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    ordinals = iter(i for i, column in enumerate(columns) if column.type == kind)
    at = 0
    while at < len(field):
        count, at = read_lenenc(field, at)
        labels: list[bytes] = []
        for _ in range(count):
            size, at = read_lenenc(field, at)
            labels.append(field[at : at + size])
            at += size
        found[next(ordinals)] = tuple(labels)
    return found


def _numbers_of(columns: list[ColumnMap], kind: int, field: bytes) -> dict[int, Any]:
    ordinals = [i for i, column in enumerate(columns) if column.type == kind]
    return dict(zip(ordinals, _numbers(field), strict=False))


def _parse_primary_key(fields: dict[int, bytes]) -> tuple[tuple[int, int], ...]:
    if _SIMPLE_PRIMARY_KEY in fields:
        return tuple((ordinal, 0) for ordinal in _numbers(fields[_SIMPLE_PRIMARY_KEY]))
    numbers = _numbers(fields.get(_PRIMARY_KEY_WITH_PREFIX, b""))
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
