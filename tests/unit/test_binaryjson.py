"""Binary JSON written by hand in the server's format, and spoiled; real documents pass in the integration tests."""

from __future__ import annotations

import json
import math
import random
import struct
import zlib

import pytest

from replicator.jsonnumber import format_double
from replicator.readers.binaryjson import read_json
from replicator.readers.rowvalues import read_decimal

BAD = (ValueError, LookupError, struct.error, OverflowError, RecursionError, zlib.error)


def text(value: str) -> bytes:
    raw = value.encode()
    size, out = len(raw), b""
    while size > 127:
        out += bytes([size & 127 | 128])
        size >>= 7
    return out + bytes([size]) + raw


def container(
    kind: int, values: list[tuple[int, bytes]], keys: tuple[str, ...] = (), width: int = 2
) -> bytes:
    """``values`` are (type, bytes); those of at most ``width`` bytes that the format inlines are given whole."""
    inline = {4, 5, 6} | ({7, 8} if width == 4 else set())
    head = 2 * width + len(keys) * (width + 2) + len(values) * (1 + width)
    body = b"".join(key.encode() for key in keys)
    entries, at = b"", head
    for key in keys:
        entries += at.to_bytes(width, "little") + len(key.encode()).to_bytes(2, "little")
        at += len(key.encode())
    for code, value in values:
        if code in inline:
            entries += bytes([code]) + value.ljust(width, b"\0")
        else:
            entries += bytes([code]) + (head + len(body)).to_bytes(width, "little")
            body += value
    size = head + len(body)
    return len(values).to_bytes(width, "little") + size.to_bytes(width, "little") + entries + body


def array(*values: tuple[int, bytes], large: bool = False) -> bytes:
    return bytes([3 if large else 2]) + container(2, list(values), width=4 if large else 2)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", b"null"),
        (b"\x04\x00", b"null"),
        (b"\x04\x01", b"true"),
        (b"\x04\x02", b"false"),
        (b"\x05" + struct.pack("<h", -1), b"-1"),
        (b"\x06" + struct.pack("<H", 65535), b"65535"),
        (b"\x07" + struct.pack("<i", -70000), b"-70000"),
        (b"\x08" + struct.pack("<I", 4294967295), b"4294967295"),
        (b"\x09" + struct.pack("<q", -(2**63)), b"-9223372036854775808"),
        (b"\x0a" + struct.pack("<Q", 2**64 - 1), b"18446744073709551615"),
        (b"\x0b" + struct.pack("<d", 1.0), b"1.0"),
        (b"\x0c" + text("é" * 100), ('"' + "é" * 100 + '"').encode()),
        (b"\x0c" + text('a"\\/\b\t\n\f\r\x01\x1f\x7f'), b'"a\\"\\\\/\\b\\t\\n\\f\\r\\u0001\\u001f\x7f"'),
        (array(), b"[]"),
        (array((4, b"\x00"), (5, struct.pack("<h", 7)), (12, text("x"))), b'[null, 7, "x"]'),
        (array((7, struct.pack("<i", 70000))), b"[70000]"),
        (array((8, struct.pack("<I", 70000)), (12, text("y" * 200)), large=True), b'[70000, "' + b"y" * 200 + b'"]'),
        (b"\x00" + container(0, [(5, b"\x01\x00"), (2, array()[1:])], ("", "k\"é")), '{"": 1, "k\\"é": []}'.encode()),
        (b"\x01" + container(0, [(7, struct.pack("<i", -1))], ("a",), width=4), b'{"a": -1}'),
        (b"\x0f\xf6" + b"\x05" + bytes([5, 2]) + bytes.fromhex("800132"), b"1.50"),
        (b"\x0f\x0a\x08" + (((2024 * 13 + 1) << 5 | 2) << 41).to_bytes(8, "little"), b'"2024-01-02"'),
        (b"\x0f\x0b\x08" + struct.pack("<q", -((1 << 12 | 2 << 6 | 3) << 24 | 500000)), b'"-01:02:03.500000"'),
        (b"\x0f\xfc\x03\x00\x01\xff", b'"base64:type252:AAH/"'),
        (b"\x0f\x0f\x3a" + bytes(58), b'"base64:type15:' + b"A" * 76 + b'\\nAA=="'),
    ],
)  # fmt: skip
def test_values_read_as_the_server_prints_them(raw: bytes, expected: bytes) -> None:
    assert read_json(raw) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.0, b"0.0"), (-0.0, b"-0.0"), (1.0, b"1.0"), (0.1, b"0.1"), (1e14, b"100000000000000.0"), (1e15, b"1e15"),
        (-1.2345e15, b"-1.2345e15"), (1234567890123456.8, b"1234567890123456.8"), (1e16, b"1e16"), (1e-5, b"0.00001"),
        (-1.5e-15, b"-0.0000000000000015"), (1e-16, b"1e-16"), (1.7976931348623157e308, b"1.7976931348623157e308"),
        (5e-324, b"5e-324"), (2.0**53, b"9.007199254740992e15"),
    ],
)  # fmt: skip
def test_doubles_are_laid_out_as_the_server_does(number: float, expected: bytes) -> None:
    assert format_double(number) == expected


def test_any_double_reads_back_as_itself_and_as_no_integer() -> None:
    choose = random.Random(3)
    for _ in range(2000):
        (number,) = struct.unpack("<d", choose.randbytes(8))
        if math.isfinite(number):
            back = json.loads(format_double(number))
            assert isinstance(back, float)
            assert back.hex() == number.hex()


def test_spoiled_documents_are_refused_or_read() -> None:
    raw = array(
        (12, text("x" * 200)),
        (3, array((7, b"\1\2\3\4"), large=True)[1:]),
        (15, b"\xf6\x05\x05\x02\x80\x01\x32"),
    )
    choose = random.Random(4)
    for _ in range(5000):
        spoiled = bytearray(raw)
        for _ in range(choose.randrange(1, 4)):
            spoiled[choose.randrange(len(raw))] = choose.randrange(256)
        try:
            read_json(bytes(spoiled[: choose.randrange(1, len(raw) + 1)]))
        except BAD:
            pass


def test_a_document_that_holds_itself_is_refused() -> None:
    raw = b"\x02" + struct.pack("<HH", 1, 7) + b"\x02" + struct.pack("<H", 0)
    with pytest.raises(BAD):
        read_json(raw)


@pytest.mark.parametrize(
    ("precision", "scale", "raw", "expected"),
    [
        (5, 2, "800132", b"1.50"), (5, 2, "7ffecd", b"-1.50"), (5, 2, "7fffcd", b"-0.50"), (1, 1, "85", b"0.5"),
        (1, 1, "7a", b"-0.5"), (10, 0, "8100000000", b"1000000000"), (9, 9, "8000000a", b"0.000000010"),
    ],
)  # fmt: skip
def test_decimals(precision: int, scale: int, raw: str, expected: bytes) -> None:
    assert read_decimal(precision, scale, bytes.fromhex(raw)) == expected
