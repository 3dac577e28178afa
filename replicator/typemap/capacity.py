"""Whether a column that exists at the target can hold every value of a source's column (pure).

``Column.type`` is what the type map would have created; an existing column may be wider, never narrower. Where that is
not certain the answer is a reason, not a guess.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from replicator.model import Column, Kind
from replicator.typemap import collation
from replicator.typemap.expression import parse_labels

_SPLIT: Final = re.compile(r"(\w+)(?:\(([\d,]+)\))?(.*)", re.DOTALL)
_WIDE: Final = re.compile("[\U00010000-\U0010ffff]")
_INTEGER_BITS: Final = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_BYTES: Final = {
    "tinytext": 255,
    "text": 65_535,
    "mediumtext": 16_777_215,
    "longtext": 4_294_967_295,
    "tinyblob": 255,
    "blob": 65_535,
    "mediumblob": 16_777_215,
    "longblob": 4_294_967_295,
}
_CHAR_BYTES: Final = {
    "utf8mb4": 4,
    "utf16": 4,
    "utf16le": 4,
    "utf32": 4,
    "gb18030": 4,
    "utf8mb3": 3,
    "ujis": 3,
    "eucjpms": 3,
    **dict.fromkeys(("ucs2", "big5", "cp932", "euckr", "gb2312", "gbk", "sjis"), 2),
}
_ALIASES: Final = {"geometrycollection": "geomcollection"}


class Shape(NamedTuple):
    """A column type taken apart: ``decimal(10,2) unsigned`` is ('decimal', (10, 2), True)."""

    base: str
    arguments: tuple[int, ...]
    unsigned: bool


def parse_shape(column_type: str) -> Shape:
    match = _SPLIT.match(column_type.lower())
    if match is None:
        return Shape(column_type, (), False)
    base, arguments, rest = match.groups()
    numbers = tuple(int(x) for x in arguments.split(",")) if arguments else ()
    return Shape(_ALIASES.get(base, base), numbers, "unsigned" in rest)


def find_loss(column: Column, actual_type: str, actual_charset: str | None) -> str:
    """Why a target column of ``actual_type`` (and character set) cannot hold ``column``'s values; '' when it can."""
    wanted, actual = parse_shape(column.type), parse_shape(actual_type)
    if column.kind in (Kind.ENUM, Kind.SET):
        return _compare_labels(column, wanted, actual, actual_type)
    if wanted.base in _INTEGER_BITS:
        fits = _holds_integer(wanted, actual)
    elif wanted.base == "decimal":
        fits = _holds_decimal(wanted, actual)
    elif wanted.base in ("float", "double"):
        fits = _holds_float(wanted, actual)
    elif _is_text(wanted.base):
        # Room counts in the source's own bytes: ``column.type`` may be wider already, where the character set is another.
        is_own = column.kind is Kind.TEXT and column.source_type and column.charset != "utf8mb4"
        source = parse_shape(column.source_type) if is_own else wanted
        return _compare_text(column, source, actual, actual_charset)
    elif wanted.base in ("binary", "varbinary") or wanted.base.endswith("blob"):
        fits = _holds_binary(wanted, actual)
    else:
        fits = _holds_other(wanted, actual)
    return "" if fits else f"the target has {actual_type}, the source needs {column.type}"


def _first(shape: Shape, default: int) -> int:
    return shape.arguments[0] if shape.arguments else default


def _integer_range(shape: Shape) -> tuple[int, int]:
    bits = _INTEGER_BITS[shape.base]
    return (0, 2**bits - 1) if shape.unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _holds_integer(wanted: Shape, actual: Shape) -> bool:
    low, high = _integer_range(wanted)
    if actual.base == "decimal":
        precision, scale = (
            (*actual.arguments, 10, 0)[:2] if len(actual.arguments) != 1 else (actual.arguments[0], 0)
        )
        return precision - scale >= len(str(high)) and (low >= 0 or not actual.unsigned)
    if actual.base not in _INTEGER_BITS:
        return False
    actual_low, actual_high = _integer_range(actual)
    return actual_low <= low and high <= actual_high


def _holds_decimal(wanted: Shape, actual: Shape) -> bool:
    if actual.base != "decimal" or (actual.unsigned and not wanted.unsigned):
        return False
    precision, scale = _decimal_digits(wanted)
    actual_precision, actual_scale = _decimal_digits(actual)
    return actual_scale >= scale and actual_precision - actual_scale >= precision - scale


def _decimal_digits(shape: Shape) -> tuple[int, int]:
    return _first(shape, 10), shape.arguments[1] if len(shape.arguments) > 1 else 0


def _holds_float(wanted: Shape, actual: Shape) -> bool:
    if actual.arguments or (actual.unsigned and not wanted.unsigned):
        return False  # (M,D) rounds
    return actual.base in ("double", wanted.base)


def _holds_binary(wanted: Shape, actual: Shape) -> bool:
    size = _BYTES.get(wanted.base, _first(wanted, 1))
    if actual.base == "binary":  # it pads what is shorter
        return wanted.base == "binary" and _first(actual, 1) == size
    if actual.base == "varbinary":
        return _first(actual, 0) >= size
    return actual.base.endswith("blob") and _BYTES[actual.base] >= size


def _holds_other(wanted: Shape, actual: Shape) -> bool:
    """Temporal types, BIT, VECTOR (all: at least as many digits), JSON, YEAR, geometry."""
    if actual.base == "geometry" and _is_geometry(wanted.base):
        return True
    if actual.base == "datetime" and wanted.base == "timestamp":
        return _first(actual, 0) >= _first(wanted, 0)
    if actual.base != wanted.base:
        return False
    default = {"bit": 1, "vector": 2048}.get(wanted.base, 0)
    return wanted.base == "year" or _first(actual, default) >= _first(wanted, default)


def _is_geometry(base: str) -> bool:
    return base.startswith(("geom", "multi", "point", "linestring", "polygon"))


# --- text -----------------------------------------------------------------------------------------


def _is_text(base: str) -> bool:
    return base in ("char", "varchar") or base.endswith("text")


def _compare_text(column: Column, wanted: Shape, actual: Shape, actual_charset: str | None) -> str:
    if not _is_text(actual.base) or actual_charset is None:
        return f"the target has {actual.base}, the source needs {column.type}"
    source_charset = column.charset or "ascii"
    if not collation.can_hold(actual_charset, source_charset):
        return f"the target's character set {actual_charset} cannot hold every character of {source_charset}"
    if not _holds_text(wanted, actual, source_charset, actual_charset):
        return f"the target has {_name(actual)} {actual_charset}, the source needs {column.type} of {source_charset}"
    return ""


def _holds_text(wanted: Shape, actual: Shape, source_charset: str, actual_charset: str) -> bool:
    width = _CHAR_BYTES.get(actual_charset, 1)
    if actual.base == "char":  # it loses trailing spaces
        return wanted.base == "char" and _first(actual, 1) >= _first(wanted, 1)
    if wanted.base in ("char", "varchar"):
        length = _first(wanted, 1)
        if actual.base == "varchar":
            return _first(actual, 0) >= length
        return _BYTES[actual.base] >= length * width
    # A TEXT is so many bytes of its own character set, each at most one character.
    size = min(_BYTES[wanted.base], _BYTES["longtext"])
    if actual.base == "varchar":
        return _first(actual, 0) >= size
    if actual_charset == source_charset or wanted.base == actual.base == "longtext":
        return _BYTES[actual.base] >= size
    return _BYTES[actual.base] >= min(size * width, _BYTES["longtext"])


def _name(shape: Shape) -> str:
    return shape.base + (f"({','.join(map(str, shape.arguments))})" if shape.arguments else "")


def widen_text(column_type: str, source_charset: str, target_charset: str) -> str:
    """``column_type`` with room for the same characters in another character set."""
    if source_charset == target_charset:
        return column_type
    shape = parse_shape(column_type)
    sizes = ("tinytext", "text", "mediumtext", "longtext")
    if shape.base in sizes:
        return sizes[min(sizes.index(shape.base) + 1, 3)]
    if shape.base == "varchar" and _first(shape, 0) * _CHAR_BYTES.get(target_charset, 1) > _BYTES["text"]:
        return "mediumtext"
    return column_type


# --- labels ---------------------------------------------------------------------------------------


def _compare_labels(column: Column, wanted: Shape, actual: Shape, actual_type: str) -> str:
    """ENUM and SET values travel as labels: more labels, or another order, do no harm."""
    if actual.base != wanted.base:
        return f"the target has {actual_type}, the source needs {column.type}"
    known = set(parse_labels(actual_type))
    # The catalog prints characters beyond U+FFFF as ``?``.
    missing = [label for label in (x.decode() for x in column.labels) if _WIDE.sub("?", label) not in known]
    return f"the target's {actual.base} lacks {', '.join(map(repr, missing))}" if missing else ""
