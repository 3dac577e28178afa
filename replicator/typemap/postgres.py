"""The column types of PostgreSQL, one registration each, between the catalog and everything that touches values.

A registration says of which ``Kind`` the canonical values are and what the column's type is at the target. Load and
stream both get the text of the type's own output function, so one converter a column serves both (I6); it follows from
the column's kind and target type alone. What MySQL cannot hold exactly raises Unrepresentable.

The session that reads must be set as ``SESSION`` says: it decides how that text looks.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from replicator.model import Column, Kind, Value

Converter: TypeAlias = Callable[[bytes], Value]

SESSION: Final = {
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
}

INDEX_BYTES: Final = 3072  # InnoDB's limit for all columns of an index together
LONGEST_VARCHAR: Final = 1024  # characters; a row of MySQL holds 65,535 bytes of all its columns
LABEL_CHARACTERS: Final = 63  # PostgreSQL's own limit for a name or an enum's label, in bytes

MOST_DIGITS: Final = 65
MOST_SCALE: Final = 30


class Unrepresentable(ValueError):
    """A value that the target's type cannot hold exactly."""


@dataclass(frozen=True, slots=True)
class Spot:
    """What a column's target type depends on beside its source type.

    ``arguments`` are the numbers of ``numeric(10,2)``; ``indexed`` is in how many bytes the column must fit to be part of
    an index, 0 where it is in none.
    """

    arguments: tuple[int, ...] = ()
    indexed: int = 0


@dataclass(frozen=True, slots=True)
class SourceType:
    """One type of ``pg_type.typname``, domains and arrays resolved before."""

    name: str
    kind: Kind
    target: Callable[[Spot], str]
    note: str = ""


def _fixed(target: str) -> Callable[[Spot], str]:
    return lambda _spot: target


def _clocked(target: str) -> Callable[[Spot], str]:
    return lambda spot: f"{target}({spot.arguments[0] if spot.arguments else 6})"


def _numeric(spot: Spot) -> str:
    if not spot.arguments:
        return f"decimal({MOST_DIGITS},{MOST_SCALE})"
    digits, scale = (*spot.arguments, 0)[:2]
    if scale < 0:  # rounded left of the point
        digits, scale = digits - scale, 0
    digits = max(digits, scale)
    return f"decimal({min(digits, MOST_DIGITS)},{min(scale, MOST_SCALE)})"


def _characters(spot: Spot) -> str:
    """``varchar(n)`` where that is sure to fit, else a text type; in an index always a varchar."""
    wanted = spot.arguments[0] if spot.arguments else 0
    if spot.indexed:
        fits = spot.indexed // 4
        return f"varchar({min(wanted or fits, fits)})"
    if 0 < wanted <= LONGEST_VARCHAR:
        return f"varchar({wanted})"
    return "longtext"


def _blank_padded(spot: Spot) -> str:
    wanted = spot.arguments[0] if spot.arguments else 1
    return f"char({wanted})" if wanted <= 255 else _characters(spot)


def _bytes(spot: Spot) -> str:
    return f"varbinary({spot.indexed})" if spot.indexed else "longblob"


def _bits(spot: Spot) -> str:
    wanted = spot.arguments[0] if spot.arguments else 1
    return f"bit({wanted})"


def _short_text(characters: int) -> Callable[[Spot], str]:
    return lambda _spot: f"varchar({characters})"


_TEXT_FORM: Final = "its text"
_REFUSED: Final = "NaN and ±infinity are refused"

_REGISTRATIONS: Final = (
    SourceType("bool", Kind.INTEGER, _fixed("tinyint(1)")),
    SourceType("int2", Kind.INTEGER, _fixed("smallint")),
    SourceType("int4", Kind.INTEGER, _fixed("int")),
    SourceType("int8", Kind.INTEGER, _fixed("bigint")),
    *(SourceType(name, Kind.INTEGER, _fixed("int unsigned")) for name in ("oid", "xid", "cid")),
    SourceType("xid8", Kind.INTEGER, _fixed("bigint unsigned")),
    SourceType(
        "numeric",
        Kind.PLAIN,
        _numeric,
        f"NaN and ±infinity are refused, without a precision also what {MOST_DIGITS} digits, {MOST_SCALE} of them behind"
        " the point, do not hold",
    ),
    SourceType("money", Kind.PLAIN, _fixed("decimal(19,2)"), "the number alone"),
    SourceType("float4", Kind.FLOAT, _fixed("float"), _REFUSED),
    SourceType("float8", Kind.DOUBLE, _fixed("double"), _REFUSED),
    SourceType("text", Kind.TEXT, _characters, "in an index a varchar as long as an index allows"),
    SourceType("varchar", Kind.TEXT, _characters, "longtext without a length or beyond 1,024 characters"),
    SourceType("bpchar", Kind.TEXT, _blank_padded, "blanks at the end do not count in either"),
    SourceType("citext", Kind.TEXT, _characters, "case counts at the target: no two keys may become one"),
    SourceType("name", Kind.TEXT, _short_text(LABEL_CHARACTERS)),
    SourceType("char", Kind.TEXT, _short_text(4), 'the internal "char" of one byte'),
    SourceType("bytea", Kind.BINARY, _bytes, "in an index a varbinary"),
    SourceType("date", Kind.PLAIN, _fixed("date"), "±infinity, BC and years after 9999 are refused"),
    SourceType("time", Kind.PLAIN, _clocked("time")),
    SourceType("timetz", Kind.TEXT, _short_text(24), _TEXT_FORM),
    SourceType(
        "timestamp", Kind.PLAIN, _clocked("datetime"), "±infinity, BC and years after 9999 are refused"
    ),
    SourceType("timestamptz", Kind.PLAIN, _clocked("datetime"), "in UTC; else as timestamp"),
    SourceType("interval", Kind.TEXT, _short_text(128), "ISO 8601: P1Y2M3DT4H5M6.7S"),
    SourceType("uuid", Kind.PLAIN, _fixed("char(36)")),
    SourceType("json", Kind.JSON, _fixed("json"), "the value; blanks, key order and repeated keys go"),
    SourceType("jsonb", Kind.JSON, _fixed("json")),
    SourceType("xml", Kind.TEXT, _fixed("longtext")),
    SourceType("bit", Kind.BIT, _bits, "longer than 64 bits: as text"),
    SourceType("varbit", Kind.TEXT, _characters, "as text, for its length counts"),
    *(SourceType(name, Kind.TEXT, _short_text(50), _TEXT_FORM) for name in ("inet", "cidr")),
    *(SourceType(name, Kind.TEXT, _short_text(24), _TEXT_FORM) for name in ("macaddr", "macaddr8", "pg_lsn")),
)
TYPES: Final = {registration.name: registration for registration in _REGISTRATIONS}

# By pg_type.typtype, where the type has no registration of its own.
ENUM: Final = SourceType(
    "enum", Kind.TEXT, _short_text(LABEL_CHARACTERS), "its label; new labels need no change"
)
OTHER: Final = SourceType(
    "other",
    Kind.TEXT,
    _characters,
    "arrays, ranges, multiranges, composites, geometric types, tsvector, hstore and all other types: their text",
)


def find_type(name: str, typtype: str) -> SourceType:
    """The registration of a type, domains resolved: ``typtype`` is pg_type's b, c, e, m or r."""
    if typtype == "e":
        return ENUM
    return TYPES.get(name, OTHER) if typtype == "b" else OTHER


def map_type(registration: SourceType, spot: Spot) -> tuple[Kind, str]:
    """Kind and target type of one column."""
    if registration.name == "bit" and spot.arguments and spot.arguments[0] > 64:
        return Kind.TEXT, _characters(spot)
    return registration.kind, registration.target(spot)


# --- values -----------------------------------------------------------------------------------------------------------

_NUMBER: Final = re.compile(rb"-?(\d+)(?:\.(\d+))?")
_MONEY: Final = re.compile(rb"[$,]")
_BOOLEANS: Final = {b"t": 1, b"f": 0}
_SINGLE: Final = struct.Struct("<f")
_INFINITE: Final = (b"NaN", b"Infinity", b"-Infinity")


def text_converter(column: Column) -> Converter | None:
    """What turns the text of a column's value into the canonical value; None where the bytes are the value."""
    match column.kind:
        case Kind.INTEGER:
            return _BOOLEANS.__getitem__ if column.type == "tinyint(1)" else int
        case Kind.FLOAT:
            return _to_single
        case Kind.DOUBLE:
            return _to_double
        case Kind.BIT:
            return _to_bits
        case Kind.BINARY:
            return _to_bytes
        case Kind.TEXT if column.type.startswith("char("):
            return _strip_blanks
        case Kind.PLAIN if column.type.startswith("decimal"):
            return _build_decimal(column.type)
        case Kind.PLAIN if column.type == "date":
            return _to_date
        case Kind.PLAIN if column.type.startswith("datetime"):
            return _to_datetime
    return None


def _to_double(text: bytes) -> float:
    if text in _INFINITE:
        raise Unrepresentable(f"{text.decode()} has no place in a double of MySQL")
    return float(text)


def _to_single(text: bytes) -> float:
    """The double that is the single, not the one nearest to its shortest text."""
    return float(_SINGLE.unpack(_SINGLE.pack(_to_double(text)))[0])


def _to_bits(text: bytes) -> int:
    return int(text, 2)


def _to_bytes(text: bytes) -> bytes:
    return bytes.fromhex(text[2:].decode("ascii"))


def _strip_blanks(text: bytes) -> bytes:
    return text.rstrip(b" ")


def _build_decimal(target: str) -> Converter:
    digits, scale = map(int, target[8:-1].split(","))
    whole = digits - scale

    def convert(text: bytes) -> bytes:
        if text.startswith((b"$", b"-$")):
            text = _MONEY.sub(b"", text)
        match = _NUMBER.fullmatch(text)
        if match is None or len(match[1].lstrip(b"0")) > whole or len((match[2] or b"").rstrip(b"0")) > scale:
            raise Unrepresentable(f"{_shorten(text)} does not fit in {target}")
        return text

    return convert


def _to_date(text: bytes) -> bytes:
    if len(text) != 10:
        raise Unrepresentable(f"{text.decode()} is no date of MySQL, which has the years 0 to 9999")
    return text


def _to_datetime(text: bytes) -> bytes:
    """``2024-01-02 03:04:05.678``; a timestamptz ends with ``+00``."""
    if text[10:11] != b" " or text[-1:] == b"C":
        raise Unrepresentable(f"{text.decode()} is no datetime of MySQL, which has the years 0 to 9999")
    return text[:-3] if text[-3:-2] == b"+" else text


def _shorten(text: bytes) -> str:
    return text[:80].decode("utf8", "replace") + ("…" if len(text) > 80 else "")


# --- the reference page -----------------------------------------------------------------------------------------------

REFERENCE: Final = "docs/reference/types-postgres.md"


def render_reference() -> str:
    """The text of ``REFERENCE``, one line a registration."""
    head = (
        "# Column types of PostgreSQL sources\n\n"
        "Made from `replicator/typemap/postgres.py`:"
        " `python -m replicator.typemap.postgres > docs/reference/types-postgres.md`.\n\n"
        "Load and stream bring the same values. A domain is what its base type is. Text is compared by\n"
        "`utf8mb4_0900_bin`: case, accents and blanks at the end count, as at the source. A value that the target's type\n"
        "cannot hold exactly stops the run, naming table and column. Generated columns are left out.\n\n"
        "| source type | target type | canonical value | note |\n|---|---|---|---|\n"
    )
    return head + "".join(_render_line(registration) for registration in (*_REGISTRATIONS, ENUM, OTHER))


_EXAMPLES: Final = {"numeric": (10, 2), "varchar": (40,), "bpchar": (3,), "bit": (8,)}


def _render_line(registration: SourceType) -> str:
    arguments = _EXAMPLES.get(registration.name, ())
    source = registration.name + (f"({','.join(map(str, arguments))})" if arguments else "")
    target = registration.target(Spot(arguments))
    return f"| `{source}` | `{target}` | {registration.kind.value} | {registration.note} |\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
