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
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

from replicator.jsonnumber import MAX_SCALE
from replicator.model import Column, Kind, Unrepresentable, Value
from replicator.typemap.documents import check_document
from replicator.typemap.unfit import Converter, Unfit, shorten, under_rule

_WORD: Final = re.compile(r"[a-z0-9_]+")
_COMMENT: Final = re.compile(r"\s*/\*.*?\*/")
_DECIMAL: Final = re.compile(r"decimal\((\d+),(\d+)\)")
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


def _decimal(column_type: str) -> str:
    """MariaDB has eight digits more behind the point than MySQL."""
    match = _DECIMAL.match(column_type)
    if match is None or int(match[2]) <= MAX_SCALE:
        return column_type
    return f"decimal({match[1]},{MAX_SCALE}){column_type[match.end() :]}"


_UNSIGNED: Final = "CAST({} AS UNSIGNED)"
_DISPLAY: Final = "display width dropped, except with ZEROFILL and in tinyint(1)"
_DIGITS: Final = "(M,D) dropped: it would round what the source holds"

_REGISTRATIONS: Final = (
    *(
        SourceType(name, Kind.INTEGER, _integer, convert=_to_int, note=_DISPLAY)
        for name in ("tinyint", "smallint", "mediumint", "int", "bigint")
    ),
    SourceType("bit", Kind.BIT, _same, _UNSIGNED, _to_int),
    SourceType(
        "decimal",
        Kind.PLAIN,
        _decimal,
        convert=_to_decimal,
        note="at most 30 digits behind the point: of MariaDB's 38 the others must be 0, else `unrepresentable` decides",
    ),
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


def value_checker(column: Column) -> Converter | None:
    """What looks at a column's canonical values, never NULL, from load and stream alike, for those that the target does not
    hold; None for nearly every column. It raises Unfit where the column has no rule for them.
    """
    if column.kind is Kind.JSON and column.unrepresentable is not Unrepresentable.FAIL:
        return under_rule(column, check_document)
    scale = _DECIMAL.match(column.source_type)
    if scale is not None and int(scale[2]) > MAX_SCALE:
        return under_rule(column, _check_scale)
    if column.type.startswith("timestamp") and column.unrepresentable is not Unrepresentable.FAIL:
        return under_rule(column, _check_timestamp)
    return None


def _check_scale(text: bytes) -> bytes:
    whole, _, fraction = text.partition(b".")
    if fraction[MAX_SCALE:].strip(b"0"):
        rounded = Decimal(text.decode()).quantize(
            Decimal(1).scaleb(-MAX_SCALE), ROUND_HALF_UP, Context(prec=80)
        )
        raise Unfit(
            f"{shorten(text)} has more than {MAX_SCALE} digits behind the point", f"{rounded:f}".encode()
        )
    return whole + b"." + fraction[:MAX_SCALE]


def _check_timestamp(text: bytes) -> bytes:
    """MariaDB's go on to 2106 from 11.5 on."""
    if text > _LAST_TIMESTAMP and text[:19] > _LAST_TIMESTAMP:
        raise Unfit(f"{shorten(text)} is no timestamp of MySQL, which ends in 2038", _LAST_TIMESTAMP)
    return text


_LAST_TIMESTAMP: Final = b"2038-01-19 03:14:07"


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
        "MySQL holds nearly all that these servers hold: zero dates, invalid ones, the year 0, an ENUM's index 0, times to\n"
        "838 hours. What it does not hold stops the run, naming the column, or follows `unrepresentable` under `columns`:\n"
        "more than 30 digits behind the point and timestamps after 2038, both of MariaDB.\n\n"
        "| source type | target type | canonical value | read by the snapshot as | note |\n|---|---|---|---|---|\n"
    )
    return head + "".join(_render_line(registration) for registration in _REGISTRATIONS)


def _render_line(registration: SourceType) -> str:
    target = registration.target(registration.name)
    select = registration.select.format("`column`").replace("`", "")
    return f"| `{registration.name}` | `{target}` | {registration.kind.value} | `{select}` | {registration.note} |\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
