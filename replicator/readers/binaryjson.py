"""MySQL's binary JSON, as the log and the storage engine hold it, to JSON text as the server prints it; pure.

Format: the comment that opens the server's json_binary.h. What matters: integers keep all 64 bits, a double always
reads as a double again (``1.0``, never ``1``), object members keep their stored order, and opaque values take the text
the server gives them: decimals as numbers, temporals as strings, everything else as ``base64:type<N>:<base64>``.
"""

from __future__ import annotations

import struct
from base64 import encodebytes
from collections.abc import Callable
from typing import Final

from replicator.jsonnumber import format_double
from replicator.readers.rowvalues import read_decimal

_SMALL_OBJECT: Final = 0
_LARGE_OBJECT: Final = 1
_SMALL_ARRAY: Final = 2
_LARGE_ARRAY: Final = 3
_LITERAL: Final = 4
_STRING: Final = 12
_OPAQUE: Final = 15

_LITERALS: Final = {0: b"null", 1: b"true", 2: b"false"}
_NUMBERS: Final = {
    5: struct.Struct("<h"),
    6: struct.Struct("<H"),
    7: struct.Struct("<i"),
    8: struct.Struct("<I"),
    9: struct.Struct("<q"),
    10: struct.Struct("<Q"),
}
_DOUBLE: Final = 11
_DOUBLE_FORMAT: Final = struct.Struct("<d")
_INLINE_SMALL: Final = frozenset({_LITERAL, 5, 6})
_INLINE_LARGE: Final = frozenset({_LITERAL, 5, 6, 7, 8})

# Opaque values carry the column type they came from.
_DATE_TYPES: Final = frozenset({10, 14})
_DATETIME_TYPES: Final = frozenset({7, 12, 17, 18})
_TIME_TYPES: Final = frozenset({11, 19})
_DECIMAL_TYPE: Final = 246

_SHORT_ESCAPES: Final = {8: r"\b", 9: r"\t", 10: r"\n", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}
_ESCAPES: Final = {code: _SHORT_ESCAPES.get(code, f"\\u{code:04x}") for code in [*range(32), 34, 92]}
_TO_ESCAPE: Final = bytes(_ESCAPES)


def read_json(data: bytes) -> bytes:
    """One stored document to text. Raises ValueError, IndexError, KeyError or struct.error when it does not parse.

    Zero bytes are what the server stores for an ignored NULL in a NOT NULL column, and prints as ``null``.
    """
    if not data:
        return b"null"
    out: list[bytes] = []
    _write_value(data, data[0], 1, out.append)
    return b"".join(out)


_Writer = Callable[[bytes], None]


def _write_value(data: bytes, kind: int, at: int, write: _Writer) -> None:
    """The value of type ``kind`` whose bytes begin at ``at``."""
    if kind == _STRING:
        size, at = _read_length(data, at)
        write(_quote(_take(data, at, size)))
    elif kind in _NUMBERS:
        write(b"%d" % int(_NUMBERS[kind].unpack_from(data, at)[0]))
    elif kind <= _LARGE_ARRAY:
        _write_container(data, kind, at, write)
    elif kind == _LITERAL:
        write(_LITERALS[data[at]])
    elif kind == _DOUBLE:
        write(format_double(_DOUBLE_FORMAT.unpack_from(data, at)[0]))
    elif kind == _OPAQUE:
        size, start = _read_length(data, at + 1)
        write(_format_opaque(data[at], _take(data, start, size)))
    else:
        raise ValueError(f"JSON value of type {kind}")


def _write_container(data: bytes, kind: int, at: int, write: _Writer) -> None:
    """Offsets inside a container count from its own first byte."""
    large = kind in (_LARGE_OBJECT, _LARGE_ARRAY)
    width = 4 if large else 2
    count = int.from_bytes(data[at : at + width], "little")
    entry = at + 2 * width
    if entry + count > len(data):
        raise ValueError("a JSON container is cut off")
    keys = [b""] * count
    if kind in (_SMALL_OBJECT, _LARGE_OBJECT):
        keys = _read_keys(data, at, entry, count, width)
        entry += count * (width + 2)
    inline = _INLINE_LARGE if large else _INLINE_SMALL
    opening, closing = (b"{", b"}") if kind <= _LARGE_OBJECT else (b"[", b"]")
    write(opening)
    for i, key in enumerate(keys):
        write(b", " + key if i else key)
        value_kind = data[entry]
        if value_kind in inline:
            _write_value(data, value_kind, entry + 1, write)
        else:
            offset = int.from_bytes(data[entry + 1 : entry + 1 + width], "little")
            _write_value(data, value_kind, at + offset, write)
        entry += 1 + width
    write(closing)


def _read_keys(data: bytes, at: int, entry: int, count: int, width: int) -> list[bytes]:
    keys: list[bytes] = []
    for _ in range(count):
        offset = at + int.from_bytes(data[entry : entry + width], "little")
        size = int.from_bytes(data[entry + width : entry + width + 2], "little")
        keys.append(_quote(_take(data, offset, size)) + b": ")
        entry += width + 2
    return keys


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("a JSON value is cut off")
    return data[at : at + size]


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first, the eighth says that more follow; at most five bytes."""
    size = 0
    for i in range(5):
        byte = data[at + i]
        size |= (byte & 127) << 7 * i
        if byte < 128:
            return size, at + i + 1
    raise ValueError("a JSON length of more than five bytes")


def _quote(text: bytes) -> bytes:
    """utf8mb4 text as a JSON string; the server escapes control characters, quote and backslash alone."""
    if len(text.translate(None, _TO_ESCAPE)) != len(text):
        text = text.decode("utf-8", "surrogateescape").translate(_ESCAPES).encode("utf-8", "surrogateescape")
    return b'"' + text + b'"'


def _format_opaque(kind: int, value: bytes) -> bytes:
    if kind == _DECIMAL_TYPE:
        return read_decimal(value[0], value[1], value[2:])
    if kind in _DATE_TYPES | _DATETIME_TYPES | _TIME_TYPES:
        return b'"' + _format_temporal(kind, int.from_bytes(value, "little", signed=True)) + b'"'
    return _quote(b"base64:type%d:%b" % (kind, encodebytes(value).rstrip(b"\n")))


def _format_temporal(kind: int, packed: int) -> bytes:
    """Packed as in memory: 24 bits of µs below hour, minute, second (12, 6, 6 bits) below day (5) and month (× 13)."""
    minus, packed = (b"-", -packed) if packed < 0 else (b"", packed)
    micros, clock = packed & 0xFFFFFF, packed >> 24
    if kind in _TIME_TYPES:
        return b"%b%02d:%02d:%02d.%06d" % (minus, clock >> 12 & 1023, clock >> 6 & 63, clock & 63, micros)
    days = clock >> 17
    year, month = divmod(days >> 5, 13)
    day = b"%04d-%02d-%02d" % (year, month, days & 31)
    if kind in _DATE_TYPES:
        return day
    return b"%b %02d:%02d:%02d.%06d" % (day, clock >> 12 & 31, clock >> 6 & 63, clock & 63, micros)
