"""The column types of PostgreSQL, one registration each, between the catalog and everything that touches values.

A registration says of which ``Kind`` the canonical values are and what the column's type is at the target. Load and
stream both get the text of the type's own output function, and ``pgvalues`` converts it for both (I6).

The session that reads must be set as ``SESSION`` says: it decides how that text looks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from replicator.jsonnumber import MAX_DIGITS, MAX_SCALE
from replicator.model import Kind
from replicator.typemap.capacity import parse_shape
from replicator.typemap.columntype import find_family
from replicator.typemap.pgvalues import FIXED, INTEGERS

SESSION: Final = {
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "search_path": "pg_catalog",  # so that names in values and types are spelt alike whatever an account's own is
}

INDEX_BYTES: Final = 3072  # InnoDB's limit for all columns of an index together
LONGEST_VARCHAR: Final = 1024  # characters; a row of MySQL holds 65,535 bytes of all its columns


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
        return f"decimal({MAX_DIGITS},{MAX_SCALE})"
    digits, scale = (*spot.arguments, 0)[:2]
    if scale < 0:  # rounded left of the point
        digits, scale = digits - scale, 0
    digits = max(digits, scale)
    return f"decimal({min(digits, MAX_DIGITS)},{min(scale, MAX_SCALE)})"


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
    """Without a length it holds any; so does ``bit``."""
    return f"char({spot.arguments[0]})" if spot.arguments and spot.arguments[0] <= 255 else _characters(spot)


def _bytes(spot: Spot) -> str:
    return f"varbinary({spot.indexed})" if spot.indexed else "longblob"


def _bits(spot: Spot) -> str:
    return f"bit({spot.arguments[0]})" if _is_bit(spot) else _characters(spot)


def _is_bit(spot: Spot) -> bool:
    return bool(spot.arguments) and spot.arguments[0] <= 64


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
        f"NaN and ±infinity are refused, without a precision also what {MAX_DIGITS} digits, {MAX_SCALE} of them behind"
        " the point, do not hold",
    ),
    SourceType(
        "money",
        Kind.PLAIN,
        _fixed("decimal(19,2)"),
        "the number alone; refused where lc_monetary, as the database or a role sets it, has other than two decimals",
    ),
    SourceType("float4", Kind.FLOAT, _fixed("float"), _REFUSED),
    SourceType("float8", Kind.DOUBLE, _fixed("double"), _REFUSED),
    SourceType("text", Kind.TEXT, _characters, "in an index a varchar as long as an index allows"),
    SourceType("varchar", Kind.TEXT, _characters, "longtext without a length or beyond 1,024 characters"),
    SourceType(
        "bpchar",
        Kind.TEXT,
        _blank_padded,
        "blanks at the end do not count in either; beyond 255 characters, or without a length, as text",
    ),
    SourceType("citext", Kind.TEXT, _characters, "case counts at the target: no two keys may become one"),
    SourceType("name", Kind.TEXT, _short_text(FIXED["name"])),
    SourceType("char", Kind.TEXT, _short_text(4), 'the internal "char" of one byte'),
    SourceType("bytea", Kind.BINARY, _bytes, "in an index a varbinary"),
    SourceType("date", Kind.PLAIN, _fixed("date"), "±infinity, BC and years after 9999 are refused"),
    SourceType("time", Kind.PLAIN, _clocked("time")),
    SourceType("timetz", Kind.TEXT, _short_text(FIXED["timetz"]), _TEXT_FORM),
    SourceType(
        "timestamp", Kind.PLAIN, _clocked("datetime"), "±infinity, BC and years after 9999 are refused"
    ),
    SourceType("timestamptz", Kind.PLAIN, _clocked("datetime"), "in UTC; else as timestamp"),
    SourceType("interval", Kind.TEXT, _short_text(FIXED["interval"]), "ISO 8601: P1Y2M3DT4H5M6.7S"),
    SourceType("uuid", Kind.PLAIN, _fixed("char(36)")),
    SourceType("json", Kind.JSON, _fixed("json"), "the value; blanks, key order and repeated keys go"),
    SourceType("jsonb", Kind.JSON, _fixed("json")),
    SourceType("xml", Kind.TEXT, _fixed("longtext")),
    SourceType("bit", Kind.BIT, _bits, "beyond 64 bits, or without a length: as text"),
    SourceType("varbit", Kind.TEXT, _characters, "as text, for its length counts"),
    *(SourceType(name, Kind.TEXT, _short_text(FIXED[name]), _TEXT_FORM) for name in ("inet", "cidr")),
    *(
        SourceType(name, Kind.TEXT, _short_text(FIXED[name]), _TEXT_FORM)
        for name in ("macaddr", "macaddr8", "pg_lsn")
    ),
)
TYPES: Final = {registration.name: registration for registration in _REGISTRATIONS}

# By pg_type.typtype, where the type has no registration of its own.
ENUM: Final = SourceType(
    "enum", Kind.TEXT, _short_text(FIXED["enum"]), "its label; new labels need no change"
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
    kind = Kind.TEXT if registration.name == "bit" and not _is_bit(spot) else registration.kind
    return kind, registration.target(spot)


def index_width(registration: SourceType, arguments: tuple[int, ...]) -> int | None:
    """The bytes that a column takes in an index at most; None where its own type sets no limit."""
    kind, target = map_type(registration, Spot(arguments))
    shape = parse_shape(target)
    if shape.base in ("longtext", "longblob"):
        return None
    return shape.arguments[0] * 4 if kind is Kind.TEXT else _LONGEST_NUMBER


_LONGEST_NUMBER: Final = 36  # bytes of a decimal, a moment or a UUID


def override_type(registration: SourceType, wanted: str) -> Kind:
    """The kind of a column whose target type the pipeline file gives (as ``columntype.parse_type`` spells it).

    Raises ValueError saying what is possible.
    """
    family = find_family(wanted)
    if family == "text":
        return Kind.TEXT
    kind = _KINDS.get(registration.name, {}).get(family)
    if registration.name == "uuid" and wanted == "binary(16)":
        return Kind.BINARY
    if kind is Kind.DOUBLE and wanted == "float":
        kind = Kind.FLOAT if registration.name == "float4" else None
    if kind is None or (wanted == "tinyint(1)" and registration.name not in ("bool", "bit")):
        names = " or ".join([*_KINDS.get(registration.name, {}), "text"])
        possible = "binary(16) or text" if registration.name == "uuid" else names
        raise ValueError(f"a {registration.name} of the source cannot become {wanted}: only {possible} types")
    return kind


_WHOLE: Final = {"integer": Kind.INTEGER, "decimal": Kind.PLAIN}
_KINDS: Final[dict[str, dict[str, Kind]]] = {
    **dict.fromkeys((*INTEGERS, "numeric", "money"), _WHOLE),
    "bool": {"integer": Kind.INTEGER, "bit": Kind.BIT},
    "bit": {"bit": Kind.BIT, "integer": Kind.INTEGER},
    "float4": {"float": Kind.DOUBLE},
    "float8": {"float": Kind.DOUBLE},
    "bytea": {"binary": Kind.BINARY},
    "date": {"date": Kind.PLAIN},
    "time": {"time": Kind.PLAIN},
    "timestamp": {"datetime": Kind.PLAIN},
    "timestamptz": {"datetime": Kind.PLAIN, "timestamp": Kind.PLAIN},
    "json": {"json": Kind.JSON},
    "jsonb": {"json": Kind.JSON},
}
"""By source type, what else than text it can be, by the family of the target's type."""


# --- the reference page -----------------------------------------------------------------------------------------------

REFERENCE: Final = "docs/reference/types-postgres.md"


def render_reference() -> str:
    """The text of ``REFERENCE``, one line a registration."""
    head = (
        "# Column types of PostgreSQL sources\n\n"
        "Made from `replicator/typemap/postgres.py`:"
        " `python -m replicator.typemap.postgres > docs/reference/types-postgres.md`.\n\n"
        "Load and stream bring the same values. A domain is what its base type is. Text is compared by\n"
        "`utf8mb4_0900_bin`: case, accents and blanks at the end count, as at the source. A column with a key gets the\n"
        "length that MySQL can index. Generated columns are left out.\n\n"
        "`type` under `columns` of a table gives a column another type at the target: any text (`varchar(30)` holds `NaN`\n"
        "and `infinity` too), or what the fourth column says.\n\n"
        "A value that the type cannot hold exactly stops the run, naming table, column and value. Under `columns`,\n"
        "`unrepresentable: clamp` stores the nearest value instead, `null` stores NULL; each is counted, and `status`\n"
        "shows how many and the last one with its row's key. NaN is near to nothing: `clamp` refuses it. The earliest\n"
        "date is 0000-01-01. Neither word is possible for a column of a primary or unique key.\n\n"
        "| source type | target type | canonical value | can also be | note |\n|---|---|---|---|---|\n"
    )
    return head + "".join(_render_line(registration) for registration in (*_REGISTRATIONS, ENUM, OTHER))


_EXAMPLES: Final = {"numeric": (10, 2), "varchar": (40,), "bpchar": (3,), "bit": (8,)}


def _render_line(registration: SourceType) -> str:
    arguments = _EXAMPLES.get(registration.name, ())
    source = registration.name + (f"({','.join(map(str, arguments))})" if arguments else "")
    target = registration.target(Spot(arguments))
    others = "binary(16)" if registration.name == "uuid" else ", ".join(_KINDS.get(registration.name, ()))
    return f"| `{source}` | `{target}` | {registration.kind.value} | {others} | {registration.note} |\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
