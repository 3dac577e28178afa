"""Rows of a SELECT straight from the text protocol's packets, for the snapshot's sessions.

A parser is generated for each list of columns: it scans large receives in place and makes canonical values, without an
object per packet. PyMySQL sends the statement and reads the header; its private names are touched in this module and
nowhere else in the snapshot.

Source: MySQL client/server protocol, "Text Resultset": each row is one packet of length-encoded strings, 0xFB is NULL;
EOF (0xFE, shorter than 9 bytes) or ERR (0xFF) ends them; a payload of 2^24-1 bytes goes on in the next packet.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pymysql
from pymysql.constants import COMMAND

from replicator.errors import SnapshotBlocked, SnapshotLost, SourceError
from replicator.model import Column, Kind, Row, Value
from replicator.readers.unfit import name_column
from replicator.typemap.mysql import text_converter, value_checker

RECEIVE: Final = 1 << 18
_FULL: Final = 0xFFFFFF
_LOST: Final = {1053, 1317, 1412, 1927, 2006, 2013, 3024, 3169, 4031}  # the snapshot or its session is gone
_ALTERED: Final = {1054, 1146}  # a column or the table went behind the snapshot
_BLOCKED: Final = 1205

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}

RowParser = Callable[[bytes, int, list[Row]], tuple[int, int]]
"""Parse whole row packets of a buffer from an offset on, append the rows, return (offset, why it stopped)."""

MORE, END, LONG = 0, 1, 2


def read_rows(connection: Any, sql: bytes, parse: RowParser) -> Iterator[list[Row]]:
    """Run one SELECT and yield its rows in blocks, as they arrive; nothing of it is kept.

    A caller that stops early leaves the session usable: what is still coming is read and dropped. Raises SnapshotLost
    (lost link, error 1412), SourceError for what the server refuses.
    """
    _send(connection, sql)
    rows: list[Row] = []
    buffer, offset = b"", 0
    ended = False
    try:
        while True:
            offset, state = parse(buffer, offset, rows)
            if rows:
                yield rows
                rows = []
            if state == END:
                ended = True
                _finish(buffer, offset)
                return
            buffer, offset = _receive(connection, buffer, offset, state)
    except GeneratorExit:
        if not ended:
            with contextlib.suppress(
                SnapshotLost
            ):  # nobody listens any more; the session's next use will say it
                _drain(connection, buffer, offset)
        raise


def watch_peer(connection: Any) -> None:
    """Find out about a dead peer in half a minute, however long a row is waited for: tunnels die without a word."""
    sock = connection._sock
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: Any, sql: bytes) -> None:
    """Send the statement and read the answer's header: a column count, one packet a column, EOF."""
    try:
        connection._execute_command(COMMAND.COM_QUERY, sql)
        for _ in range(connection._read_packet().read_length_encoded_integer() + 1):
            connection._read_packet()
    except pymysql.MySQLError as error:
        raise build_error(error) from None


def _receive(connection: Any, buffer: bytes, offset: int, state: int) -> tuple[bytes, int]:
    """The unparsed rest of the buffer with more behind it; a row of several packets becomes one that is whole."""
    rest = buffer[offset:] + _read_some(connection)
    while state == LONG or (len(rest) >= 4 and len(rest) < 4 + int.from_bytes(rest[:3], "little")):
        wanted = _needed(rest)
        if len(rest) >= wanted:
            break
        parts, size = [rest], len(rest)
        while size < wanted:
            parts.append(_read_some(connection))
            size += len(parts[-1])
        rest = b"".join(parts)
    return rest, 0


def _needed(buffer: bytes) -> int:
    """The bytes that the first row takes, as far as the headers that have arrived tell."""
    offset = 0
    while True:
        if len(buffer) < offset + 4:
            return offset + 4
        length = int.from_bytes(buffer[offset : offset + 3], "little")
        offset += 4 + length
        if length < _FULL:
            return offset


def _read_some(connection: Any) -> bytes:
    try:
        data: bytes = connection._rfile.read1(RECEIVE)
    except (OSError, AttributeError, ValueError) as error:  # the last two: closed by another thread
        connection._force_close()
        raise SnapshotLost(f"the connection to the source was lost during a snapshot: {error}") from None
    if not data:
        connection._force_close()
        raise SnapshotLost("the source closed the connection during a snapshot")
    return data


def _finish(buffer: bytes, offset: int) -> None:
    """Read the packet that ends the rows: EOF in order, ERR raises."""
    payload = buffer[offset + 4 : offset + 4 + int.from_bytes(buffer[offset : offset + 3], "little")]
    if payload[:1] == b"\xff":
        try:
            pymysql.err.raise_mysql_exception(payload)
        except pymysql.MySQLError as error:
            raise build_error(error) from None


def _drain(connection: Any, buffer: bytes, offset: int) -> None:
    """Read to the end of the rows without looking at them."""
    continues = False
    while True:
        while len(buffer) - offset < 5:
            buffer, offset = buffer[offset:] + _read_some(connection), 0
        length = int.from_bytes(buffer[offset : offset + 3], "little")
        first = buffer[offset + 4]
        if not continues and (first == 0xFF or (first == 0xFE and length < 9)):
            return
        continues = length == _FULL
        offset += 4 + length
        while offset > len(buffer):
            offset -= len(buffer)
            buffer = _read_some(connection)


def build_error(error: pymysql.MySQLError) -> SourceError:
    """The error of our tree for one that a snapshot's session met."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 2006
    text = f"{error.args[-1] if error.args else error} (error {code})"
    if code == _BLOCKED:
        return SnapshotBlocked(f"a statement at the source waits for the snapshot: {text}")
    if code in _LOST | _ALTERED or isinstance(error, pymysql.err.InterfaceError):
        return SnapshotLost(f"the snapshot is gone: {text}")
    return SourceError(f"the source refused to be read: {text}")


# --- the generated parser ---------------------------------------------------------------------------------------------


def build_parser(columns: Sequence[Column], table: str = "") -> RowParser:
    """A parser for rows of exactly these columns, selected with ``typemap.mysql.select_expression``; ``table`` is for
    errors."""
    names: dict[str, Any] = {"int": int, "float": float, "long": _read_long, "join": _join, "fail": _fail}
    names["unpack"] = struct.Struct("<I").unpack_from
    body: list[str] = []
    for number, column in enumerate(columns):
        body.extend(_column_code(table, number, column, names))
    values = "".join(f"c{number}, " for number in range(len(columns)))
    source = "\n".join(
        [
            "def parse(buf, pos, rows):",
            "    append = rows.append",
            "    end = len(buf) - 4",
            "    while pos < end:",
            f"        n = unpack(buf, pos)[0] & {_FULL}",
            "        p = pos + 4",
            "        after = p + n",
            "        if after > end + 4:",
            "            break",
            "        if buf[p] > 253 and (buf[p] == 255 or n < 9):",
            f"            return pos, {END}",
            "        data = buf",
            f"        if n == {_FULL}:",
            "            data, after = join(buf, pos)",
            "            if data is None:",
            f"                return pos, {LONG}",
            "            p, stop = 0, len(data)",
            "        else:",
            "            stop = after",
            *("        " + line for line in body),
            "        if p != stop:",
            "            fail()",
            "        pos = after",
            f"        append(({values}))",
            f"    return pos, {MORE}",
        ]
    )
    exec(compile(source, "<row parser>", "exec"), names)
    parser: RowParser = names["parse"]
    return parser


_SHORT: Final = {Kind.INTEGER, Kind.BIT, Kind.FLOAT, Kind.DOUBLE, Kind.PLAIN, Kind.ENUM, Kind.SET}
_CHARACTERS: Final = re.compile(r"(?:var)?(?:char|binary)\((\d+)\)", re.IGNORECASE)
_SHORTEST_LONG: Final = 251  # bytes from which a length takes more than one


def _is_short(column: Column) -> bool:
    """Whether every value's length fits in one byte; no character set has more than four bytes a character."""
    if column.kind in _SHORT:
        return True
    match = _CHARACTERS.match(column.source_type)
    return match is not None and int(match[1]) * 4 < _SHORTEST_LONG


def _column_code(table: str, number: int, column: Column, names: dict[str, Any]) -> list[str]:
    """The lines that read one column at ``p`` of ``data``; what cannot be NULL or long is not asked about."""
    wrap = _converter_code(table, number, column, names)
    plain = f"c{number} = {wrap.format('data[p + 1:q]')}; p = q"
    is_short = _is_short(column)
    if is_short and not column.nullable:
        return [f"q = p + 1 + data[p]; {plain}"]
    lines = [
        "b = data[p]",
        f"if b < {_SHORTEST_LONG}:",
        f"    q = p + 1 + b; {plain}",
        f"elif b == {_SHORTEST_LONG}:",
        f"    c{number} = None; p += 1",
    ]
    if not is_short:
        lines += ["else:", f"    value, p = long(data, p); c{number} = {wrap.format('value')}"]
    return lines


def _converter_code(table: str, number: int, column: Column, names: dict[str, Any]) -> str:
    code = _plain_converter_code(number, column, names)
    check = value_checker(column)
    if check is None:
        return code
    names[f"check{number}"] = name_column(table, column, check)
    return f"check{number}({code})"


def _plain_converter_code(number: int, column: Column, names: dict[str, Any]) -> str:
    converter = text_converter(column)
    if converter is None:
        return "{}"
    if converter in (int, float):
        return f"{converter.__name__}({{}})"
    names[f"convert{number}"] = converter
    if column.kind is Kind.ENUM:
        names[f"labels{number}"] = _Labels(converter)
        return f"labels{number}[{{}}]"
    return f"convert{number}({{}})"


class _Labels(dict[bytes, Value]):
    """The labels that were met, by the text of their number."""

    def __init__(self, convert: Callable[[bytes], Value]) -> None:
        super().__init__()
        self._convert = convert

    def __missing__(self, text: bytes) -> Value:
        value = self[text] = self._convert(text)
        return value


def _read_long(data: bytes, p: int) -> tuple[bytes, int]:
    """A string of 251 bytes or more, whose length stands in 2, 3 or 8 bytes."""
    width = {252: 2, 253: 3, 254: 8}[data[p]]
    start = p + 1 + width
    end = start + int.from_bytes(data[p + 1 : start], "little")
    return data[start:end], end


def _join(buf: bytes, pos: int) -> tuple[bytes | None, int]:
    """The payload of a row of several packets and the offset behind it; None while the last has not arrived."""
    parts: list[bytes] = []
    while True:
        if len(buf) < pos + 4:
            return None, pos
        length = int.from_bytes(buf[pos : pos + 3], "little")
        if len(buf) < pos + 4 + length:
            return None, pos
        parts.append(buf[pos + 4 : pos + 4 + length])
        pos += 4 + length
        if length < _FULL:
            return b"".join(parts), pos


def _fail() -> None:
    raise SourceError(
        "a row of the snapshot does not have the columns it was asked for",
        hint="this is a defect of the program or of a proxy before the source",
    )
