"""Tell whether values may be equal in a key of the target, never finer than its collations do (pure; SEMANTICS §4.6).

Beside ``order``: two values with different folds are surely different there. Where that cannot be told, the fold is
DOUBT, which may equal anything.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeAlias

from replicator.model import Column, Kind, Value


class Doubt(enum.Enum):
    """May equal any value of the key."""

    DOUBT = "doubt"


DOUBT: Final = Doubt.DOUBT

Fold: TypeAlias = Callable[[Any], Hashable]
"""From a key's raw value (one value, or a tuple where the key has several columns) to its fold; None: holds a NULL."""

_WIDE: Final = frozenset({"utf16", "utf16le", "utf32", "ucs2"})
# Collations that tell printable ASCII characters apart, but for case and trailing spaces; a test asks the server about
# each. Others have their own ideas (roman: i = j and u = v; lithuanian: i = y; gbk: y = ~; geostd8: @ = `).
_PLAIN_CHARSETS: Final = frozenset(
    {"utf8mb4", "utf8mb3", "latin1", "latin2", "latin5", "ascii", "cp1250", "cp1251"}
)
_PLAIN_RULES: Final = frozenset(
    {
        *("general_ci", "general_cs", "general_mysql500_ci", "tolower_ci"),
        *("unicode_ci", "unicode_520_ci", "0900_ai_ci", "0900_as_ci", "0900_as_cs"),
    }
)
_PLAIN_COLLATIONS: Final = frozenset(
    {
        *("latin1_swedish_ci", "euckr_korean_ci"),
        *("sjis_japanese_ci", "cp932_japanese_ci", "ujis_japanese_ci", "eucjpms_japanese_ci"),
    }
)
_CONTROL: Final = bytes([*range(32), 127])


def _fold_padded(value: bytes) -> Hashable:
    return value.rstrip(b" ")


def _fold_ascii(value: bytes) -> Hashable:
    """Collations ignore control characters or not, and equate what no table here knows beyond ASCII."""
    if not value.isascii() or len(value.translate(None, _CONTROL)) != len(value):
        return DOUBT
    return value.lower().rstrip(b" ")


def _fold_nothing(_value: Value) -> Hashable:
    return DOUBT


def is_plain_collation(collation: str) -> bool:
    """Whether printable ASCII folds by case and trailing spaces under this collation (of MySQL)."""
    charset, _, rest = collation.partition("_")
    return collation in _PLAIN_COLLATIONS or (charset in _PLAIN_CHARSETS and rest in _PLAIN_RULES)


def _build_column_fold(column: Column) -> Callable[[Any], Hashable] | None:
    """None: equal only when the values are (Python's 0.0 == -0.0 is MySQL's too)."""
    if column.kind is not Kind.TEXT:
        return None
    collation = column.collation or ""
    if collation.endswith("_0900_bin"):
        return None
    if column.charset in _WIDE:
        return _fold_nothing
    if collation.endswith("_bin"):
        return _fold_padded
    return _fold_ascii if is_plain_collation(collation) else _fold_nothing


def is_exact(columns: Sequence[Column]) -> bool:
    """Whether a key over ``columns`` calls only identical values equal."""
    return all(_build_column_fold(column) is None for column in columns)


def build_fold(columns: Sequence[Column]) -> Fold:
    """The fold of a key over ``columns``. A key that holds a NULL equals nothing: its fold is None."""
    folds = [_build_column_fold(column) for column in columns]
    if len(folds) == 1:
        single = folds[0]
        return (
            (lambda value: value)
            if single is None
            else lambda value: None if value is None else single(value)
        )
    if all(fold is None for fold in folds):
        return lambda values: None if None in values else values
    return lambda values: _fold_tuple(folds, values)


def _fold_tuple(folds: Sequence[Callable[[Any], Hashable] | None], values: tuple[Value, ...]) -> Hashable:
    if None in values:
        return None
    folded = tuple(value if fold is None else fold(value) for fold, value in zip(folds, values, strict=True))
    return DOUBT if DOUBT in folded else folded
