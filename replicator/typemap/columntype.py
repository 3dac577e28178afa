"""Column types in MySQL's words, as a pipeline file gives them: checked, and spelt in one way (pure)."""

from __future__ import annotations

import re
from typing import Final

from replicator.jsonnumber import MAX_DIGITS, MAX_SCALE
from replicator.typemap.capacity import parse_shape

_ALIASES: Final = {
    "integer": "int",
    "numeric": "decimal",
    "dec": "decimal",
    "fixed": "decimal",
    "real": "double",
    "double precision": "double",
    "bool": "tinyint(1)",
    "boolean": "tinyint(1)",
}
_SPELLING: Final = re.compile(r"([a-z]+(?: precision)?)(?: ?\( ?(\d+)(?: ?, ?(\d+))? ?\))?( unsigned)?")
_LONGEST: Final = {
    "char": 255,
    "binary": 255,
    "varchar": 16_383,
    "varbinary": 65_532,
    "bit": 64,
    "decimal": MAX_DIGITS,
    "time": 6,
    "datetime": 6,
    "timestamp": 6,
    "tinyint": 1,  # tinyint(1) is how MySQL spells a boolean
}
_NEEDS_LENGTH: Final = ("varchar", "varbinary")
_INTEGERS: Final = ("tinyint", "smallint", "mediumint", "int", "bigint")
_PLAIN: Final = (
    *("float", "double", "date", "json"),
    *("tinytext", "text", "mediumtext", "longtext", "tinyblob", "blob", "mediumblob", "longblob"),
)
_FILLED_IN: Final = {"char": "(1)", "binary": "(1)", "bit": "(1)", "decimal": "(10,0)"}


def parse_type(text: str) -> str:
    """The type as MySQL spells it: ``DECIMAL (20, 4)`` is ``decimal(20,4)``. Raises ValueError saying what is wrong."""
    match = _SPELLING.fullmatch(" ".join(text.lower().split()))
    if match is None:
        raise ValueError("is no column type of MySQL, such as bigint unsigned, decimal(20,4) or binary(16)")
    word, first, second, unsigned = match.groups()
    name = _ALIASES.get(word, word)
    if name not in (*_LONGEST, *_INTEGERS, *_PLAIN, "tinyint(1)"):
        raise ValueError(f"{word} is no column type that a value can be given here")
    if unsigned and name not in _INTEGERS:
        raise ValueError(f"{word} is never unsigned here")
    spelt = name + (_parse_arguments(name, first, second) or _FILLED_IN.get(name, ""))
    return spelt + (unsigned or "")


def _parse_arguments(name: str, first: str | None, second: str | None) -> str:
    if first is None:
        if name in _NEEDS_LENGTH:
            raise ValueError(f"{name} needs a length, such as {name}(100)")
        return ""
    longest = _LONGEST.get(name)
    if longest is None or (second and name != "decimal"):
        raise ValueError(f"{name} takes no such numbers in parentheses")
    length, scale = int(first), int(second or 0)
    lowest = 0 if name.startswith(("time", "date")) else 1
    if not lowest <= length <= longest:
        raise ValueError(f"{name} takes {lowest} to {longest}")
    if scale > min(length, MAX_SCALE):
        raise ValueError(
            f"decimal has at most {MAX_SCALE} digits behind the point, and no more than all its digits"
        )
    if name == "decimal":
        return f"({length},{scale})"
    return f"({length})" if length else ""


def find_family(column_type: str) -> str:
    """What a type is one of: integer, decimal, float, date, time, datetime, timestamp, text, binary, bit, json."""
    base = parse_shape(column_type).base
    if base in _INTEGERS:
        return "integer"
    if base in ("char", "varchar") or base.endswith("text"):
        return "text"
    if base.endswith(("binary", "blob")):
        return "binary"
    return "float" if base == "double" else base
