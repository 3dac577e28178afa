"""Which columns of PostgreSQL can go from COPY into LOAD DATA as they are, and by which SELECT expression (pure).

The server converts what must be converted. A column is here only if the target then stores what the stream would bring
(I6), or warns: whatever ``pgvalues`` refuses must not get through in silence.
"""

from __future__ import annotations

from typing import Final

from replicator.model import Column, Kind, TableSchema, Unrepresentable
from replicator.typemap.capacity import Shape, parse_shape
from replicator.typemap.pgvalues import loses_digits, text_converter

_CLOCKS: Final = {
    ("date", "date"): "{}",
    ("datetime", "timestamp"): "{}",
    ("datetime", "timestamptz"): "({} AT TIME ZONE 'UTC')",
    ("time", "time"): "{}",
}
_NUMBERS: Final = {"numeric", "int2", "int4", "int8"}


def find_fields(table: TableSchema) -> tuple[str, ...] | None:
    """An expression a column, with ``{}`` for its quoted name; None where one of them needs us.

    BINARY values are hexadecimal digits then, all others what the file holds.
    """
    found = [_find_field(column) for column in table.columns]
    return None if None in found else tuple(field for field in found if field is not None)


def _find_field(column: Column) -> str | None:
    if column.unrepresentable is not Unrepresentable.FAIL:
        return None  # what stands for a value, and that it does, is ours to say
    shape = parse_shape(column.type)
    match column.kind:
        case Kind.INTEGER:
            return "{}::int" if column.base == "bool" else "{}" if text_converter(column) is int else None
        case Kind.FLOAT | Kind.DOUBLE:
            # A single's own digits could be rounded twice on their way through a double.
            return {"float4": "{}::float8", "float8": "{}"}.get(column.base)
        case Kind.BINARY:
            return _find_binary(column, shape)
        case Kind.TEXT:
            return _find_text(column, shape)
        case Kind.PLAIN:
            return _find_plain(column, shape)
    return None  # JSON may hold decimals that no file keeps; bits would become the codes of their digits


def _find_binary(column: Column, shape: Shape) -> str | None:
    if column.base == "uuid":
        return "encode(uuid_send({}), 'hex')"
    return "encode({}, 'hex')" if column.base == "bytea" and shape.base != "binary" else None


def _find_text(column: Column, shape: Shape) -> str | None:
    """What is too long the target refuses, or says that it cut it; but blanks at the end of a ``char`` it drops."""
    if shape.base == "char":
        return "{}::text" if column.base == "bpchar" else None
    return None if column.base == "char" else "{}"


def _find_plain(column: Column, shape: Shape) -> str | None:
    """Moments with too many digits would be rounded in silence; decimals with a note."""
    if shape.base == "decimal":
        return "{}" if column.base in _NUMBERS else None
    if shape.base == "char":
        return "{}" if column.base == "uuid" else None
    return None if loses_digits(column, shape) else _CLOCKS.get((shape.base, column.base))
