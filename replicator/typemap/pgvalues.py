"""The text of PostgreSQL's values into canonical values (pure).

What converts a column's values follows from its ``base`` (the source's type, domains resolved) and from the type it has at
the target, whether the type map chose that or the pipeline file. Load and stream ask here alike (I6). Most columns need
nothing, or ``int``; a check is made only where the target's type is narrower than the source's.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

from replicator.model import Column, Kind, Unrepresentable, Value
from replicator.typemap.capacity import Shape, parse_shape
from replicator.typemap.documents import check_document, expand_exponents
from replicator.typemap.unfit import Converter, Unfit, shorten, under_rule

SHORT: Final = frozenset(
    [
        *("bool", "int2", "int4", "int8", "oid", "xid", "cid", "xid8", "float4", "float8", "money"),
        *("date", "time", "timestamp", "timestamptz", "uuid"),
    ]
)
"""The types whose values' text never has 256 bytes."""

INTEGERS: Final = {
    "int2": (-(1 << 15), (1 << 15) - 1),
    "int4": (-(1 << 31), (1 << 31) - 1),
    "int8": (-(1 << 63), (1 << 63) - 1),
    "oid": (0, (1 << 32) - 1),
    "xid": (0, (1 << 32) - 1),
    "cid": (0, (1 << 32) - 1),
    "xid8": (0, (1 << 64) - 1),
}
_BITS: Final = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_TEXT_BYTES: Final = {"tinytext": 255, "text": 65_535, "mediumtext": 16_777_215}
_BLOB_BYTES: Final = {"tinyblob": 255, "blob": 65_535, "mediumblob": 16_777_215}

_NUMBER: Final = re.compile(rb"-?(\d+)(?:\.(\d+))?")
_MONEY: Final = re.compile(rb"[$,]")
_DECLARED: Final = re.compile(r"(?:character(?: varying)?|time|timestamp|bit(?: varying)?)\((\d+)\)")
_BOOLEANS: Final = {b"t": 1, b"f": 0}
_SINGLE: Final = struct.Struct("<f")
_LARGEST: Final = {Kind.FLOAT: 3.4028234663852886e38, Kind.DOUBLE: 1.7976931348623157e308}

_MOMENTS: Final = {  # the least and the greatest
    "date": ("0000-01-01", "9999-12-31"),
    "datetime": ("0000-01-01 00:00:00", "9999-12-31 23:59:59"),
    "timestamp": ("1970-01-01 00:00:01", "2038-01-19 03:14:07"),
}


def text_converter(column: Column) -> Converter | None:
    """What turns the text of a column's value into the canonical value; None where the bytes are the value.

    It raises Unfit for a value that the column's type at the target does not hold, unless the column has a rule for it.
    """
    convert = _find_converter(column, parse_shape(column.type))
    if convert is None or convert is int:
        return convert
    return under_rule(column, convert)


def _find_converter(column: Column, shape: Shape) -> Converter | None:
    match column.kind:
        case Kind.INTEGER:
            return _build_integer(column.base, column.type, shape)
        case Kind.FLOAT | Kind.DOUBLE:
            return _build_float(column)
        case Kind.BIT:
            return _build_bits(column.base, shape)
        case Kind.BINARY:
            return _build_binary(column.base, column.type, shape)
        case Kind.JSON:
            return _build_document(column)
        case Kind.TEXT:
            return _build_text(column, shape)
    if shape.base == "decimal":
        return _build_decimal(column, shape)
    if shape.base in _MOMENTS or shape.base == "time":
        return _build_moment(column, shape)
    return None


def _declared_length(column: Column) -> int | None:
    """The number in the parentheses of the source's own type; None for domains and where there is none."""
    match = _DECLARED.match(column.source_type)
    return int(match[1]) if match else None


# --- numbers ----------------------------------------------------------------------------------------------------------


def _build_integer(base: str, target: str, shape: Shape) -> Converter:
    if base == "bool":
        return _BOOLEANS.__getitem__
    bits = _BITS[shape.base]
    low, high = (0, (1 << bits) - 1) if shape.unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if base in INTEGERS and low <= INTEGERS[base][0] and INTEGERS[base][1] <= high:
        return int

    def convert(text: bytes) -> int:
        number = _parse_bits(text) if base == "bit" else _parse_whole(text, target, low, high)
        if not low <= number <= high:
            raise Unfit(f"{shorten(text)} does not fit in {target}", min(max(number, low), high))
        return number

    return convert


def _parse_bits(text: bytes) -> int:
    return int(text, 2)


def _parse_whole(text: bytes, target: str, low: int, high: int) -> int:
    """A number that may have a fraction, or more digits than Python takes."""
    parts = _split_number(_strip_currency(text))
    if parts is None:
        raise _refuse_special(text, target, low, high)
    whole, fraction = parts
    if len(whole) > _LONGEST_INTEGER:
        return low - 1 if text.startswith(b"-") else high + 1
    if fraction:
        nearest = min(max(int(_round(text, 0)), low), high)
        raise Unfit(f"{shorten(text)} does not fit in {target}", nearest)
    return -int(whole or b"0") if text.startswith(b"-") else int(whole or b"0")


_LONGEST_INTEGER: Final = 20  # digits


def _split_number(text: bytes) -> tuple[bytes, bytes] | None:
    """The digits before and behind the point that count; None for what has none."""
    match = _NUMBER.fullmatch(text)
    return None if match is None else (match[1].lstrip(b"0"), (match[2] or b"").rstrip(b"0"))


def _refuse_special(text: bytes, target: str, low: int | bytes, high: int | bytes) -> Unfit:
    """For a number without digits: NaN, which is near to nothing, and the infinities."""
    nearest = {b"Infinity": high, b"-Infinity": low}.get(text)
    return Unfit(f"{shorten(text)} does not fit in {target}", nearest)


def _strip_currency(text: bytes) -> bytes:
    return _MONEY.sub(b"", text) if text.startswith((b"$", b"-$")) else text


def _round(text: bytes, scale: int) -> Decimal:
    number = _strip_currency(text).decode()
    context = Context(prec=len(number) + scale + 8)
    return Decimal(number).quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, context)


def _build_decimal(column: Column, shape: Shape) -> Converter | None:
    digits, scale = shape.arguments
    target, whole = column.type, digits - scale
    if column.source_type == f"numeric({digits},{scale})":
        return _refuse_nan  # all else was checked there
    if column.base in INTEGERS and whole >= 20:
        return None
    largest = (b"9" * whole or b"0") + (b"." + b"9" * scale if scale else b"")

    def convert(text: bytes) -> bytes:
        text = _strip_currency(text)
        parts = _split_number(text)
        if parts is None:
            raise _refuse_special(text, target, b"-" + largest, largest)
        if len(parts[0]) > whole or len(parts[1]) > scale:
            raise Unfit(f"{shorten(text)} does not fit in {target}", find_nearest(text))
        # Zeros at the end, with which a literal would have more digits than any DECIMAL.
        excess = len(text) - text.find(b".") - 1 - scale
        return text[:-excess] if excess > 0 and b"." in text else text

    def find_nearest(text: bytes) -> bytes:
        rounded = f"{_round(text, scale):f}".encode()
        parts = _split_number(rounded)
        fits = parts is not None and len(parts[0]) <= whole
        return rounded if fits else b"-" * text.startswith(b"-") + largest

    return convert


def _refuse_nan(text: bytes) -> bytes:
    if text == b"NaN":
        raise Unfit("NaN is no decimal of MySQL")
    return text


def _build_float(column: Column) -> Converter:
    largest = _LARGEST[column.kind]
    ends: dict[bytes, float | None] = {b"NaN": None, b"Infinity": largest, b"-Infinity": -largest}
    is_single = column.base == "float4"

    def to_double(text: bytes) -> float:
        if text in ends:
            raise Unfit(f"{text.decode()} has no place in a {column.type} of MySQL", ends[text])
        return float(text)

    def to_single(text: bytes) -> float:
        """The double that is the single, not the one nearest to its shortest text."""
        return float(_SINGLE.unpack(_SINGLE.pack(to_double(text)))[0])

    return to_single if is_single else to_double


def _build_bits(base: str, shape: Shape) -> Converter:
    if base == "bool":
        return _BOOLEANS.__getitem__
    width = shape.arguments[0]

    def convert(text: bytes) -> int:
        number = int(text, 2)
        if len(text) != width:  # its length counts
            raise Unfit(f"{shorten(text)} does not have the {width} bits of bit({width})")
        return number

    return convert


# --- moments ----------------------------------------------------------------------------------------------------------


def _build_moment(column: Column, shape: Shape) -> Converter | None:
    digits = shape.arguments[0] if shape.arguments else 0
    is_cut = loses_digits(column, shape)
    if shape.base == "time":
        return _build_cut(column.type, digits) if is_cut else None
    if shape.base == "date":
        return _to_date
    low, high = _MOMENTS[shape.base]
    end = b"." + b"9" * digits if digits and shape.base == "datetime" else b""
    lowest, highest = low.encode(), high.encode() + end
    is_narrow = shape.base == "timestamp"
    cut = _build_cut(column.type, digits) if is_cut else None

    def convert(text: bytes) -> bytes:
        """``2024-01-02 03:04:05.678``; a timestamptz ends with ``+00``."""
        if text[10:11] != b" " or text[-1:] == b"C":
            nearest = lowest if text[-1:] == b"C" or text[:1] == b"-" else highest
            raise Unfit(f"{shorten(text)} is no {column.type} of MySQL: {_YEARS}", nearest)
        if text[-3:-2] == b"+":
            text = text[:-3]
        if is_narrow and not lowest <= text[:19] <= highest:
            nearest = lowest if text < lowest else highest
            raise Unfit(f"{shorten(text)} is no timestamp of MySQL, which ends in 2038", nearest)
        return text if cut is None else cut(text)  # type: ignore[return-value]

    return convert


def loses_digits(column: Column, shape: Shape) -> bool:
    """Whether the target's type has fewer digits of a second than the source's."""
    digits = shape.arguments[0] if shape.arguments else 0
    given = _declared_length(column)
    return shape.base != "date" and digits < (6 if given is None else given)


_YEARS: Final = "it has the years 0 to 9999"


def _build_cut(target: str, digits: int) -> Converter:
    def cut(text: bytes) -> bytes:
        whole, _, fraction = text.partition(b".")
        if len(fraction) > digits:
            shorter = fraction[:digits]
            raise Unfit(
                f"{shorten(text)} has more digits than {target}", whole + (b"." + shorter if shorter else b"")
            )
        return text

    return cut


def _to_date(text: bytes) -> bytes:
    if len(text) != 10:
        low, high = _MOMENTS["date"]
        is_early = text.endswith(b"BC") or text.startswith(b"-")
        raise Unfit(f"{shorten(text)} is no date of MySQL: {_YEARS}", (low if is_early else high).encode())
    return text


def _build_document(column: Column) -> Converter | None:
    """Only the type json keeps numbers as they were written; a document is looked into only where a rule wants that."""
    expand = expand_exponents if column.base == "json" else None
    if column.unrepresentable is Unrepresentable.FAIL:
        return expand
    return check_document if expand is None else lambda text: check_document(expand_exponents(text))


# --- text and bytes ---------------------------------------------------------------------------------------------------


def _build_text(column: Column, shape: Shape) -> Converter | None:
    if column.base == "bpchar" and shape.base == "char":
        return _strip_blanks
    if column.base == "char":
        return _escape_byte
    if shape.base in _TEXT_BYTES:
        return _build_limit(column.type, _TEXT_BYTES[shape.base], _cut_bytes)
    given = _declared_length(column)
    if shape.base == "longtext" or (given is not None and given <= shape.arguments[0]):
        return None
    if column.base in FIXED and shape.arguments[0] >= FIXED[column.base] and shape.base == "varchar":
        return None
    limit = _build_limit(column.type, shape.arguments[0], _cut_characters)
    return _build_unpadded(column.type, limit) if shape.base == "char" else limit


FIXED: Final = {
    "name": 63,
    "enum": 63,
    "timetz": 24,
    "interval": 128,
    "uuid": 36,
    "inet": 50,
    "cidr": 50,
    "macaddr": 24,
    "macaddr8": 24,
    "pg_lsn": 24,
}
"""The types whose text has at most so many characters, however large the value."""


def _strip_blanks(text: bytes) -> bytes:
    return text.rstrip(b" ")


def _escape_byte(text: bytes) -> bytes:
    """As PostgreSQL 15 shows a byte beyond ASCII; older ones send it bare, and it is no UTF-8."""
    return b"\\%03o" % text[0] if len(text) == 1 and text[0] > 127 else text


def _cut_bytes(text: bytes, limit: int) -> bytes:
    """As many whole characters as fit in ``limit`` bytes."""
    return text[:limit].decode("utf8", "ignore").encode()


def _cut_characters(text: bytes, limit: int) -> bytes:
    return text.decode("utf8")[:limit].encode()


def _build_limit(target: str, limit: int, cut: Callable[[bytes, int], bytes]) -> Converter:
    """A check for text; most needs no look at its characters, which are never more than its bytes."""

    def check(text: bytes) -> bytes:
        if len(text) > limit and (shorter := cut(text, limit)) != text:
            raise Unfit(f"{shorten(text)} ({len(text)} bytes) is too long for {target}", shorter)
        return text

    return check


def _build_unpadded(target: str, check: Converter) -> Converter:
    """A ``char`` of MySQL loses the blanks at the end."""

    def convert(text: bytes) -> Value:
        if text.endswith(b" "):
            raise Unfit(f"{target} of MySQL keeps no blanks at the end: {shorten(text)!r}", text.rstrip(b" "))
        return check(text)

    return convert


def _build_binary(base: str, target: str, shape: Shape) -> Converter:
    if base == "uuid":
        return _to_uuid_bytes
    if shape.base == "longblob":
        return _to_bytes
    limit = _BLOB_BYTES.get(shape.base) or shape.arguments[0]
    is_padded = shape.base == "binary"

    def convert(text: bytes) -> bytes:
        value = _to_bytes(text)
        if len(value) > limit or (is_padded and len(value) != limit):
            raise Unfit(
                f"{shorten(text)} ({len(value)} bytes) does not fit in {target}",
                value[:limit].ljust(limit * is_padded, b"\0"),
            )
        return value

    return convert


def _to_bytes(text: bytes) -> bytes:
    return bytes.fromhex(text[2:].decode("ascii"))


def _to_uuid_bytes(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"-", b"").decode("ascii"))
