"""The column types of MySQL and MariaDB, one registration each, between the catalog and everything that touches values.

A registration says of which ``Kind`` the canonical values are, what the column's type is at the target, with which
expression the snapshot reads it, and how the bytes of that expression in the text protocol become a canonical value.
The stream decodes its own bytes (readers/rowcodec.py) into the same canonical values (I6).

The session that reads must be in UTC with ``character_set_results = NULL``, so that text arrives as the bytes stored.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from replicator.model import Column, Kind, Value

Converter: TypeAlias = Callable[[bytes], Value]

_WORD: Final = re.compile(r"[a-z0-9_]+")
_COMMENT: Final = re.compile(r"\s*/\*.*?\*/")
_ARGUMENTS: Final = re.compile(r"\(.*?\)")


@dataclass(frozen=True, slots=True)
class SourceType:
    """One type of ``information_schema.COLUMNS.DATA_TYPE``.

    ``target`` turns the cleaned COLUMN_TYPE into the target's type; ``select`` has one ``{}`` for the quoted column;
    ``convert`` makes the converter of one column, None where the bytes are the value; ``note`` is for the reference.
    """

    name: str
    kind: Kind
    target: Callable[[str], str]
    select: str = "{}"
    convert: Callable[[Column], Converter | None] = lambda _column: None
    note: str = ""


def _same(column_type: str) -> str:
    return column_type


def _fixed(target: str) -> Callable[[str], str]:
    return lambda _column_type: target


def _without_arguments(column_type: str) -> str:
    return _ARGUMENTS.sub("", column_type)


def _integer(column_type: str) -> str:
    """Drop the display width, which MariaDB still prints, except where it is seen: ZEROFILL and the boolean."""
    if "zerofill" in column_type or column_type == "tinyint(1)":
        return column_type
    return _without_arguments(column_type)


def _to_int(_column: Column) -> Converter:
    return int


def _to_float(_column: Column) -> Converter:
    return float


def _strip_zeros(text: bytes) -> bytes:
    digits = text.lstrip(b"0")
    return digits if digits[:1].isdigit() else b"0" + digits


def _to_decimal(column: Column) -> Converter | None:
    """ZEROFILL pads what a SELECT shows, not what the log holds."""
    return _strip_zeros if "zerofill" in column.source_type else None


def _to_label(column: Column) -> Converter:
    members: tuple[Value, ...] = (0, *column.labels)
    return lambda text: members[int(text)]


def _to_labels(column: Column) -> Converter:
    known: dict[bytes, bytes] = {}

    def convert(text: bytes) -> bytes:
        value = known.get(text)
        if value is None:
            bits = int(text)
            value = b",".join(label for i, label in enumerate(column.labels) if bits >> i & 1)
            if len(known) < 65536:
                known[text] = value
        return value

    return convert


_UNSIGNED: Final = "CAST({} AS UNSIGNED)"
_DISPLAY: Final = "display width dropped, except with ZEROFILL and in tinyint(1)"
_DIGITS: Final = "(M,D) dropped: it would round what the source holds"

_REGISTRATIONS: Final = (
    *(
        SourceType(name, Kind.INTEGER, _integer, convert=_to_int, note=_DISPLAY)
        for name in ("tinyint", "smallint", "mediumint", "int", "bigint")
    ),
    SourceType("bit", Kind.BIT, _same, _UNSIGNED, _to_int),
    SourceType("decimal", Kind.PLAIN, _same, convert=_to_decimal),
    # Text of a FLOAT has six digits; a product is a double, and unlike a sum it keeps the sign of zero.
    SourceType("float", Kind.FLOAT, _without_arguments, "{} * 1e0", _to_float, _DIGITS),
    SourceType("double", Kind.DOUBLE, _without_arguments, "{} * 1e0", _to_float, _DIGITS),
    SourceType("date", Kind.PLAIN, _same),
    *(SourceType(name, Kind.PLAIN, _same) for name in ("time", "datetime")),
    SourceType("timestamp", Kind.PLAIN, _same, note="read and written in UTC"),
    SourceType("year", Kind.PLAIN, _without_arguments),
    *(
        SourceType(name, Kind.TEXT, _same)
        for name in ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")
    ),
    *(
        SourceType(name, Kind.BINARY, _same)
        for name in ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
    ),
    SourceType("enum", Kind.ENUM, _same, _UNSIGNED, _to_label, "by label"),
    SourceType("set", Kind.SET, _same, _UNSIGNED, _to_labels, "by label"),
    SourceType("json", Kind.JSON, _same, note="MySQL's; decimals in it stay decimals; MariaDB's is longtext"),
    *(
        SourceType(name, Kind.GEOMETRY, _same)
        for name in (
            "geometry",
            "point",
            "linestring",
            "polygon",
            "multipoint",
            "multilinestring",
            "multipolygon",
            "geomcollection",
            "geometrycollection",
        )
    ),
    SourceType("vector", Kind.VECTOR, _same, note="MySQL ≥ 9.0, MariaDB ≥ 11.7"),
    SourceType("uuid", Kind.PLAIN, _fixed("char(36)"), note="MariaDB; as text"),
    SourceType("inet4", Kind.PLAIN, _fixed("varchar(15)"), note="MariaDB; as text"),
    SourceType("inet6", Kind.PLAIN, _fixed("varchar(39)"), note="MariaDB; as text"),
)

TYPES: Final = {registration.name: registration for registration in _REGISTRATIONS}


def type_name(column_type: str) -> str:
    """``int`` of ``int(10) unsigned``."""
    match = _WORD.match(column_type.lower())
    return match.group() if match else ""


def clean_type(column_type: str) -> str:
    """COLUMN_TYPE without MariaDB's comments (``/*M!100301 COMPRESSED*/``, ``/* mariadb-5.3 */``)."""
    return _COMMENT.sub("", column_type).strip()


def quote_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def select_expression(column: Column) -> str:
    """The SQL expression, with the column's name quoted, whose text ``text_converter`` understands."""
    return TYPES[type_name(column.source_type)].select.format(quote_name(column.name))


def text_converter(column: Column) -> Converter | None:
    """What turns the bytes of ``select_expression`` in the text protocol, never NULL, into a canonical value.

    None where the bytes are the value.
    """
    return TYPES[type_name(column.source_type)].convert(column)


REFERENCE: Final = "docs/reference/types-mysql.md"


def render_reference() -> str:
    """The text of ``REFERENCE``, one line a registration."""
    head = (
        "# Column types of MySQL and MariaDB sources\n\n"
        "Made from `replicator/typemap/mysql.py`: `python -m replicator.typemap.mysql > docs/reference/types-mysql.md`.\n\n"
        "Every value arrives exactly, from load and stream alike. A type that is not listed is refused by name. Defaults,\n"
        "comments, invisible columns, AUTO_INCREMENT, generated columns, indexes and foreign keys between mirrored tables\n"
        "are created too; CHECK constraints and partitions are not. `plan` prints each collation, default and index that\n"
        "will differ at the target.\n\n"
        "| source type | target type | canonical value | read by the snapshot as | note |\n|---|---|---|---|---|\n"
    )
    return head + "".join(_render_line(registration) for registration in _REGISTRATIONS)


def _render_line(registration: SourceType) -> str:
    target = registration.target(registration.name)
    select = registration.select.format("`column`").replace("`", "")
    return f"| `{registration.name}` | `{target}` | {registration.kind.value} | `{select}` | {registration.note} |\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
