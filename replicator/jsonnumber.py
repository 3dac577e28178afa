"""Numbers in JSON text: how MySQL prints doubles, and which numbers would not be the same once the text is read again.

Used by ``readers`` and by ``literal`` (pure). A MySQL document can hold an exact decimal, which it shows with all its
digits: 12.50. No JSON text says so: read again, 12.50 is the double 12.5. Such numbers are found here with the paths
they stand at, so that they can be put back as decimals. Only text counts: where the double shows the same, nothing is
lost to see.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# Integers of 19 digits may be below BIGINT's range; of every fourth byte of their text four are digits in a row.
_ZEROS: Final = b"0000"
_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER: Final = re.compile(rb"\d{19}")
# A fraction that ends with a zero, or is part of at least 16 digits. It begins with a literal, which is found fast.
_FRACTION: Final = re.compile(rb"\.(?:\d+0(?![^\s,\]}])|\d{8}|(?<=\d{9}\.)\d)")
_EXPONENT: Final = rb"(?:[eE][-+]?\d+)?"
# What stands where a number can; in a string it may be part of the text.
_CANDIDATE: Final = re.compile(rb"(?<![^\s\[:,])-?(?:\d+\.\d+|\d{19,})" + _EXPONENT + rb"(?![^\s,\]}])")
_TOKEN: Final = re.compile(
    rb'("[^"\\]*(?:\\.[^"\\]*)*")\s*:|"[^"\\]*(?:\\.[^"\\]*)*"|(-?\d+(?:\.\d+)?'
    + _EXPONENT
    + rb")|([\[\]{},])",
    re.DOTALL,
)
_DECIMAL: Final = re.compile(rb"(-?)0*(\d*)(?:\.(\d+))?")
MAX_DIGITS: Final = 65
MAX_SCALE: Final = 30


class Place(NamedTuple):
    """A number in a document: its path, as MySQL writes them (``$."a"[3]``), and its text."""

    path: bytes
    number: bytes


class Digits(NamedTuple):
    """The smallest DECIMAL(precision, scale) that holds a number with all digits it shows."""

    precision: int
    scale: int


def may_be_fragile(texts: bytes) -> bool:
    """Whether JSON texts, joined by white space, are worth a closer look; nearly free per text, so ask for many at once.

    False where there is no fraction but short ones without a zero at the end, and no integer of 19 digits.
    """
    return (b"." in texts and _FRACTION.search(texts) is not None) or (
        _ZEROS in texts[::4].translate(_AS_ZEROS) and _LONG_INTEGER.search(texts) is not None
    )


def is_fragile(text: bytes | None) -> bool:
    """Whether JSON text may hold a number that is shown differently once it is read again.

    True also for strings that look like such numbers.
    """
    if text is None or not may_be_fragile(text):
        return False
    return any(_is_lost(match[0]) for match in _CANDIDATE.finditer(text))


def find_fragile(text: bytes) -> list[Place]:
    """The numbers of a document that are shown differently once the text is read again, in order."""
    found: list[Place] = []
    legs: list[bytes | int] = []  # of the containers around: an object's last key, an array's index
    for token in _TOKEN.finditer(text):
        key, number, mark = token.groups()
        if key is not None:
            legs[-1] = b"." + key
        elif number is not None:
            if _is_lost(number):
                found.append(Place(_build_path(legs), number))
        elif mark == b"," and isinstance(legs[-1], int):
            legs[-1] += 1
        elif mark in (b"[", b"{"):
            legs.append(0 if mark == b"[" else b"")
        elif mark in (b"]", b"}"):
            legs.pop()
    return found


def measure_decimal(number: bytes) -> Digits | None:
    """What it takes to hold the number as it is shown; None where no DECIMAL of MySQL can."""
    match = _DECIMAL.fullmatch(number)
    if match is None:
        return None
    sign, whole, fraction = match[1], match[2], match[3] or b""
    digits = Digits(max(1, len(whole) + len(fraction)), len(fraction))
    is_negative_zero = sign and not (whole + fraction).strip(b"0")
    if digits.precision > MAX_DIGITS or digits.scale > MAX_SCALE or is_negative_zero:
        return None
    return digits


def format_double(number: float) -> bytes:
    """The shortest text that reads back as the same double, never as an integer, as the server's my_gcvt lays it out.

    Plain digits for exponents from -15 to 14 (and 15 where there is a fraction), else ``1.5e20``.
    """
    text = repr(number)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return (text if abs(number) < 1e15 or not text.endswith(".0") else _format_e(text[:-2])).encode()
    power = int(exponent)
    if not -15 <= power < 0:
        return f"{mantissa}e{power}".encode()
    sign, digits = ("-", mantissa[1:]) if mantissa[0] == "-" else ("", mantissa)
    return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}".encode()


def _format_e(whole: str) -> str:
    """A whole number's digits as ``1.5e15``."""
    sign, digits = ("-", whole[1:]) if whole[0] == "-" else ("", whole)
    head, rest = digits[0], digits[1:].rstrip("0")
    return f"{sign}{head}{'.' * bool(rest)}{rest}e{len(digits) - 1}"


def _is_lost(number: bytes) -> bool:
    """Whether the number is shown differently once it is read again: as BIGINT, BIGINT UNSIGNED or a double."""
    if b"." not in number and b"e" not in number:
        return not -(2**63) <= int(number) < 2**64
    value = float(number)
    if number[-1] != 48 and repr(value).encode() == number:  # most are doubles, and this is quick
        return False
    return format_double(value) != number


def _build_path(legs: list[bytes | int]) -> bytes:
    return b"$" + b"".join(b"[%d]" % leg if isinstance(leg, int) else leg for leg in legs)
