"""Bytes of single column values in a row image to their canonical form; pure, used by the code rowcodec generates.

Formats: the public descriptions of both servers' binary decimals, packed temporals (5.6 and older) and MariaDB's fixed
binary types; every one is proved against real servers by tests/integration/test_rowcodec_server.py.

Packed temporals and decimals repeat, so ``Cache`` keeps their text. One cache serves all columns of one type.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from datetime import date, timedelta
from functools import cache
from typing import Final, Generic, TypeVar

from replicator.readers.binlog import inflate_exactly

_K = TypeVar("_K")
_V = TypeVar("_V")

CACHE_ENTRIES: Final = 1 << 15
_SECONDS_A_DAY: Final = 86400
_EPOCH: Final = date(1970, 1, 1)


class Cache(dict[_K, _V], Generic[_K, _V]):
    """``cache[key]`` computes a value once; emptied when full, so that memory stays bounded (I9)."""

    __slots__ = ("_build", "_entries")

    def __init__(self, build: Callable[[_K], _V], entries: int = CACHE_ENTRIES) -> None:
        self._build = build
        self._entries = entries

    def __missing__(self, key: _K) -> _V:
        if len(self) >= self._entries:
            self.clear()
        value = self[key] = self._build(key)
        return value


# --- decimals ----------------------------------------------------------------------------------------------------------

_DIGIT_BYTES: Final = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)  # bytes that hold 0..9 decimal digits


def decimal_size(precision: int, scale: int) -> int:
    """Bytes of a DECIMAL in a row image."""
    whole = precision - scale
    return 4 * (whole // 9 + scale // 9) + _DIGIT_BYTES[whole % 9] + _DIGIT_BYTES[scale % 9]


def _digit_groups(precision: int, scale: int) -> tuple[list[int], list[int]]:
    """Digits of each stored group, before and after the point."""
    whole = precision - scale
    before = [whole % 9] * (whole % 9 > 0) + [9] * (whole // 9)
    after = [9] * (scale // 9) + [scale % 9] * (scale % 9 > 0)
    return before, after


def _combine(number: int, groups: list[int]) -> int:
    """The decimal number whose groups of digits lie in the bytes of ``number``."""
    value, factor = 0, 1
    for digits in reversed(groups):
        bits = 8 * _DIGIT_BYTES[digits]
        value += (number & (1 << bits) - 1) * factor
        factor *= 10**digits
        number >>= bits
    return value


def whole_size(precision: int, scale: int) -> int:
    """Bytes of a DECIMAL before its point."""
    return decimal_size(precision - scale, 0)


@cache
def wholes(digits: int) -> Cache[bytes, bytes]:
    """Stored bytes of a DECIMAL's ``digits`` before the point to text. The sign is their first bit, also of -0."""
    groups = _digit_groups(digits, 0)[0]
    bits = 8 * decimal_size(digits, 0)
    sign, ones = 1 << bits - 1, (1 << bits) - 1

    def build(raw: bytes) -> bytes:
        number = int.from_bytes(raw, "big")
        if number & sign:
            return b"%d" % _combine(number ^ sign, groups)
        return b"-%d" % _combine(number ^ ones ^ sign, groups)

    return Cache(build)


@cache
def points(scale: int) -> Cache[bytes, bytes]:
    """Stored bytes of a DECIMAL's digits after the point to ``.50``.

    A negative number has all its bits flipped; these groups never use their first bit, so it tells.
    """
    groups = _digit_groups(scale, scale)[1]
    bits = 8 * decimal_size(scale, scale)
    sign, ones = 1 << bits - 1, (1 << bits) - 1

    def build(raw: bytes) -> bytes:
        number = int.from_bytes(raw, "big")
        return b".%0*d" % (scale, _combine(number ^ ones if number & sign else number, groups))

    return Cache(build)


@cache
def pure_fractions(scale: int) -> Cache[bytes, bytes]:
    """Stored bytes of a DECIMAL with no digit before its point to text."""
    points_of = points(scale)
    sign = 128

    def build(raw: bytes) -> bytes:
        negative = not raw[0] & sign
        text = points_of[bytes([raw[0] ^ sign]) + raw[1:]]
        return (b"-0" if negative else b"0") + text

    return Cache(build)


def read_decimal(precision: int, scale: int, raw: bytes) -> bytes:
    """A DECIMAL's stored bytes to text with all its scale, as the server prints it."""
    if precision == scale:
        return pure_fractions(scale)[raw]
    size = whole_size(precision, scale)
    whole = wholes(precision - scale)[raw[:size]]
    return whole + points(scale)[raw[size:]] if scale else whole


# --- temporals ---------------------------------------------------------------------------------------------------------

_FRACTION_BYTES: Final = (0, 1, 1, 2, 2, 3, 3)

YEARS: Final = (b"0000", *(b"%d" % (1900 + number) for number in range(1, 256)))


def fraction_size(digits: int) -> int:
    return _FRACTION_BYTES[digits]


def _fraction(number: int, digits: int) -> bytes:
    """``.123``; what is stored has an even count of digits."""
    return b".%0*d" % (digits, number // 10 if digits % 2 else number)


@cache
def fractions(digits: int) -> Cache[int, bytes]:
    """The stored fraction of a temporal with 1 to 4 digits, read as a little-endian number, to ``.123``."""
    if digits < 3:
        return Cache(lambda number: _fraction(number, digits))
    return Cache(lambda swapped: _fraction((swapped & 255) << 8 | swapped >> 8, digits))


def _date(raw: bytes) -> bytes:
    number = int.from_bytes(raw, "little")
    return b"%04d-%02d-%02d" % (number >> 9, number >> 5 & 15, number & 31)


DATES: Final = Cache(_date)


def _clock(number: int) -> bytes:
    """Packed hour, minute, second (5, 6, 6 bits)."""
    return b" %02d:%02d:%02d" % (number >> 12, number >> 6 & 63, number & 63)


# The packed 40 bits of a DATETIME end with 17 bits of time: the third byte holds the hour's highest bit. So the first
# three bytes choose date and half of the day, the other two (read as a little-endian number) the time in that half.
_EARLY: Final = Cache[int, bytes](lambda swapped: _clock((swapped & 255) << 8 | swapped >> 8), _SECONDS_A_DAY)
_LATE: Final = Cache[int, bytes](
    lambda swapped: _clock(1 << 16 | (swapped & 255) << 8 | swapped >> 8), _SECONDS_A_DAY
)


def _datetime_half(raw: bytes) -> tuple[bytes, Cache[int, bytes]]:
    number = int.from_bytes(raw, "big")
    if not number & 0x800000:
        raise ValueError("a negative DATETIME")
    year, month = divmod(number >> 6 & 0x1FFFF, 13)
    return b"%04d-%02d-%02d" % (year, month, number >> 1 & 31), _LATE if number & 1 else _EARLY


DATETIME_HALVES: Final = Cache(_datetime_half)

DAYS: Final = Cache[int, bytes](lambda days: str(_EPOCH + timedelta(days=days)).encode())
SECONDS: Final = Cache[int, bytes](
    lambda second: b" %02d:%02d:%02d" % (second // 3600, second // 60 % 60, second % 60), _SECONDS_A_DAY
)
NO_TIMESTAMP: Final = b"0000-00-00 00:00:00"


@cache
def times(digits: int) -> Cache[bytes, bytes]:
    """Stored bytes of TIME with ``digits`` of fraction: one number, biased so that negative times sort first."""
    bits = 8 * _FRACTION_BYTES[digits]

    def build(raw: bytes) -> bytes:
        number = int.from_bytes(raw, "big") - (1 << 23 + bits)
        sign, number = (b"-", -number) if number < 0 else (b"", number)
        clock = number >> bits
        text = b"%b%02d:%02d:%02d" % (sign, clock >> 12 & 1023, clock >> 6 & 63, clock & 63)
        return text + _fraction(number & (1 << bits) - 1, digits) if digits else text

    return Cache(build)


def _old_time(raw: bytes) -> bytes:
    number = int.from_bytes(raw, "little", signed=True)
    sign, number = (b"-", -number) if number < 0 else (b"", number)
    return b"%b%02d:%02d:%02d" % (sign, number // 10000, number // 100 % 100, number % 100)


def _old_datetime(raw: bytes) -> bytes:
    day, second = divmod(int.from_bytes(raw, "little"), 1000000)
    date_text = b"%04d-%02d-%02d" % (day // 10000, day // 100 % 100, day % 100)
    return date_text + b" %02d:%02d:%02d" % (second // 10000, second // 100 % 100, second % 100)


OLD_TIMES: Final = Cache(_old_time)
OLD_DATETIMES: Final = Cache(_old_datetime)


# --- MariaDB's own -----------------------------------------------------------------------------------------------------


def read_uuid(raw: bytes) -> bytes:
    """The log holds the bytes in the order of the text (not the storage order), less trailing zeros."""
    text = raw.ljust(16, b"\0").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()


def read_inet4(raw: bytes) -> bytes:
    return b"%d.%d.%d.%d" % tuple(raw.ljust(4, b"\0"))


def read_inet6(raw: bytes) -> bytes:
    """As MariaDB prints it: the first longest run of zero words, even of one, is cut out; embedded IPv4 in dots."""
    data = raw.ljust(16, b"\0")
    words = [int.from_bytes(data[i : i + 2], "big") for i in range(0, 16, 2)]
    start, length = _longest_zeros(words)
    if start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        return (b"::ffff:" if length == 5 else b"::") + read_inet4(data[12:])
    text = [b"%x" % word for word in words]
    if length == 0:
        return b":".join(text)
    return b":".join(text[:start]) + b"::" + b":".join(text[start + length :])


def _longest_zeros(words: list[int]) -> tuple[int, int]:
    """Start and length of the first longest run of zeros."""
    best, at = (0, 0), 0
    while at < len(words):
        end = at
        while end < len(words) and words[end] == 0:
            end += 1
        if end - at > best[1]:
            best = (at, end - at)
        at = end + 1
    return best


def inflate_column(raw: bytes) -> bytes:
    """A value of a column with MariaDB's COMPRESSED attribute.

    First byte 0: the rest is the value. Else 0x80 (zlib) | 8 when raw deflate | n, n bytes of big-endian length, data.
    """
    if not raw or raw[0] == 0:
        return raw[1:]
    head = raw[0]
    if head & 0xF0 != 0x80:
        raise ValueError(f"a compressed value of method {head >> 4}")
    start = 1 + (head & 7)
    size = int.from_bytes(raw[1:start], "big")
    return inflate_exactly(raw[start:], size, -zlib.MAX_WBITS if head & 8 else zlib.MAX_WBITS)


@cache
def sets(labels: tuple[bytes, ...]) -> Cache[int, bytes]:
    """A SET's number to its members in definition order, joined by commas."""

    def build(number: int) -> bytes:
        if number >> len(labels):
            raise ValueError(f"SET number {number:#x} beyond its {len(labels)} members")
        return b",".join(label for i, label in enumerate(labels) if number >> i & 1)

    return Cache(build)
