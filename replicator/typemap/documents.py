"""JSON documents that a JSON column of MySQL would not hold as they are (pure; see ``jsonnumber`` for its numbers)."""

from __future__ import annotations

import re
from decimal import Decimal
from math import inf, isfinite
from typing import Final

from replicator.jsonnumber import find_fragile, format_double, is_fragile, measure_decimal
from replicator.typemap.unfit import Unfit, shorten

DEEPEST: Final = 100
"""Levels of arrays and objects that MySQL takes."""

_LARGEST: Final = 1.7976931348623157e308
_MOST_DIGITS: Final = 100  # of a number that is written out; more than any DECIMAL has
_HAS_EXPONENT: Final = re.compile(rb"\d[eE][-+]?\d")
_TOKEN: Final = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|([\[\]{}])', re.DOTALL
)


def expand_exponents(text: bytes) -> bytes:
    """The document with its numbers as MySQL shows them: without an exponent where the nearest double is not that very
    number, for MySQL would round it."""
    if _HAS_EXPONENT.search(text) is None:
        return text
    return _TOKEN.sub(_expand, text)


def _expand(match: re.Match[bytes]) -> bytes:
    number = match[1]
    if number is None or b"e" not in number.lower():
        return match[0]
    exact, double = Decimal(number.decode()), float(number)
    if isfinite(double) and Decimal(repr(double)) == exact:
        return format_double(double)
    if exact and abs(exact.adjusted()) > _MOST_DIGITS:
        raise Unfit(f"{shorten(number)} in a document is beyond what MySQL holds")
    return f"{exact:f}".encode()


def check_document(text: bytes) -> bytes:
    """The document, if MySQL holds it with every number as it is shown. Raises Unfit."""
    if text.count(b"[") + text.count(b"{") > DEEPEST:
        _check_depth(text)
    lost = [place for place in (find_fragile(text) if is_fragile(text) else ()) if _is_lost(place.number)]
    if lost:
        raise Unfit(
            f"MySQL has no DECIMAL for {shorten(lost[0].number)} in a document", _TOKEN.sub(_round, text)
        )
    return text


def _check_depth(text: bytes) -> None:
    depth = deepest = 0
    for match in _TOKEN.finditer(text):
        if match[2] is not None:
            depth += 1 if match[2] in b"[{" else -1
            deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise Unfit(f"a document of {deepest} levels: MySQL takes {DEEPEST}")


def _is_lost(number: bytes) -> bool:
    return is_fragile(number) and measure_decimal(number) is None


def _round(match: re.Match[bytes]) -> bytes:
    """The double nearest to a number that no DECIMAL holds."""
    number = match[1]
    if number is None or not _is_lost(number):
        return match[0]
    double = float(number)
    if double in (inf, -inf):
        double = _LARGEST if double > 0 else -_LARGEST
    return format_double(double)
