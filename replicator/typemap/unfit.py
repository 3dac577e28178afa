"""Values that the target's type cannot hold exactly: how they are refused, and what stands for them (pure; I10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from replicator.model import Coerced, Column, Unrepresentable, Value

Converter: TypeAlias = Callable[[bytes], Value]


class Unfit(ValueError):
    """A value that the target's type cannot hold exactly. ``nearest`` is the one closest to it that it holds, None where
    there is no such thing."""

    def __init__(self, reason: str, nearest: int | float | bytes | None = None) -> None:
        super().__init__(reason)
        self.nearest = nearest


def shorten(text: bytes) -> str:
    """A value for a message."""
    return text[:80].decode("utf8", "replace") + ("…" if len(text) > 80 else "")


def under_rule(column: Column, convert: Converter) -> Converter:
    """``convert``, with what the column's rule puts in place of a value that does not fit; without a rule as it is."""
    rule = column.unrepresentable
    if rule is Unrepresentable.FAIL:
        return convert

    def convert_or_coerce(text: bytes) -> Value:
        try:
            return convert(text)
        except Unfit as error:
            if rule is Unrepresentable.NULL:
                return Coerced(None, text)
            if error.nearest is None:
                raise Unfit(
                    f"{error}, and nothing is near to it: `unrepresentable: null` would pass"
                ) from None
            return Coerced(error.nearest, text)

    return convert_or_coerce
