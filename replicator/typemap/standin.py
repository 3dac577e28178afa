"""Values that hardly any row holds, to stand in a unique column for a moment, by the column's type at the target (pure)."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final, TypeAlias

from replicator.model import Column, Kind, TableSchema, UniqueKey, Value
from replicator.typemap.capacity import Shape, parse_shape

StandIn: TypeAlias = Callable[[int], Value]
"""From a number, counted from 0, to a value; each number of a batch has its own, as far as the type reaches."""

_BITS: Final = {"smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}  # a tinyint has too few
_DIGITS: Final = 7  # of numbers in text: more rows than a batch has
_LEAST_DIGITS: Final = 5  # before the point of a decimal
_FIRST_DAY: Final = datetime.date(1212, 1, 1)
_DAYS: Final = 2_000_000
_LONGEST_NAME: Final = b"~replicator~"
_LAST_PRIVATE: Final = 0x10FFFD  # characters of Unicode that mean nothing to anyone, two planes of them
_PRIVATE: Final = 0x20000


def find_stand_in(column: Column) -> StandIn | None:
    """What stands for the column's values; None where its type has no values to spare."""
    if column.nullable:
        return lambda _number: None
    build = _BUILDERS.get(column.kind)
    return None if build is None else build(parse_shape(column.type))


def _build_integer(shape: Shape) -> StandIn | None:
    """Beside the ends of the type, where sentinels are."""
    bits = _BITS.get(shape.base)
    if bits is None:
        return None
    margin = 16 if bits == 16 else 1 << bits - 3
    if shape.unsigned:
        highest = (1 << bits) - 1 - margin
        return lambda number: highest - number
    lowest = margin - (1 << bits - 1)
    return lambda number: lowest + number


def _build_double(_shape: Shape) -> StandIn | None:
    return lambda number: -700_000_000_000_000.0 - number


def _build_plain(shape: Shape) -> StandIn | None:
    if shape.base == "decimal":
        digits = shape.arguments[0] - shape.arguments[1]
        highest = -8 * 10 ** (digits - 1)
        return None if digits < _LEAST_DIGITS else lambda number: b"%d" % (highest - number)
    if shape.base in ("date", "datetime"):
        return lambda number: (_FIRST_DAY + datetime.timedelta(number % _DAYS)).isoformat().encode()
    if shape == ("char", (36,), False):  # a UUID of no variant
        return lambda number: b"ffffffff-ffff-ffff-ffff-%012x" % number
    return None


def _build_text(shape: Shape) -> StandIn:
    room = shape.arguments[0] if shape.arguments else len(_LONGEST_NAME) + _DIGITS
    if room <= _DIGITS:
        return lambda number: chr(_LAST_PRIVATE - number % _PRIVATE).encode()
    name = _LONGEST_NAME[: room - _DIGITS]
    return lambda number: b"%b%0*d" % (name, _DIGITS, number)


def _build_binary(shape: Shape) -> StandIn | None:
    room = shape.arguments[0] if shape.arguments else 16
    return None if room < 8 else lambda number: b"\xff" * min(room - 4, 12) + number.to_bytes(4)


_BUILDERS: Final[dict[Kind, Callable[[Shape], StandIn | None]]] = {
    Kind.INTEGER: _build_integer,
    Kind.DOUBLE: _build_double,
    Kind.PLAIN: _build_plain,
    Kind.TEXT: _build_text,
    Kind.BINARY: _build_binary,
}


def find_deferrable(table: TableSchema) -> list[UniqueKey]:
    """The unique keys that the source does not check row by row: those within which no stricter key lies."""
    strict = [set(key.ordinals) for key in table.unique_keys if key.exact and not key.deferrable]
    return [
        key
        for key in table.unique_keys
        if key.deferrable and not any(ordinals <= set(key.ordinals) for ordinals in strict)
    ]


def find_spots(table: TableSchema, key: UniqueKey) -> list[tuple[int, StandIn]]:
    """The columns of a deferrable key in which stand-ins are possible: those with NULL first, small numbers last.

    A row's own key is left alone where another key than ``key`` is at stake.
    """
    kept = () if key.ordinals == table.key else table.key
    found = [
        (at, stand_in)
        for at in key.ordinals
        if at not in kept and (stand_in := find_stand_in(table.columns[at])) is not None
    ]
    return sorted(found, key=lambda spot: _rank(table.columns[spot[0]]))


def _rank(column: Column) -> tuple[bool, bool]:
    return not column.nullable, column.type.startswith("smallint")
