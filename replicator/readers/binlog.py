"""Binary log bytes of MySQL 8.0+ and MariaDB 10.5+ to parsed events; no I/O, and no row values (rowcodec has those).

Formats: the public documentation of both servers' replication protocols and the bytes real servers write. All functions
take ``(buffer, start, end)``: ``buffer`` is ``bytes`` (a slice of it must be hashable), ``start`` the offset of an
event's *body* (header offset + HEADER_SIZE), ``end`` the end of the body without its checksum. Nothing is copied but
what is returned. Bytes that do not parse are ``UnsupportedEvent``, never IndexError.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Final, NamedTuple, ParamSpec, TypeVar

import zstandard

from replicator.errors import UnsupportedEvent

# --- event types -------------------------------------------------------------------------------------------------------

QUERY: Final = 2
STOP: Final = 3
ROTATE: Final = 4
INTVAR: Final = 5
SLAVE: Final = 7
APPEND_BLOCK: Final = 9
DELETE_FILE: Final = 11
RAND: Final = 13
USER_VAR: Final = 14
FORMAT_DESCRIPTION: Final = 15
XID: Final = 16
BEGIN_LOAD_QUERY: Final = 17
EXECUTE_LOAD_QUERY: Final = 18
TABLE_MAP: Final = 19
WRITE_ROWS_V1: Final = 23
UPDATE_ROWS_V1: Final = 24
DELETE_ROWS_V1: Final = 25
INCIDENT: Final = 26
HEARTBEAT: Final = 27
IGNORABLE: Final = 28
ROWS_QUERY: Final = 29
WRITE_ROWS: Final = 30
UPDATE_ROWS: Final = 31
DELETE_ROWS: Final = 32
GTID: Final = 33
ANONYMOUS_GTID: Final = 34
PREVIOUS_GTIDS: Final = 35
TRANSACTION_CONTEXT: Final = 36
VIEW_CHANGE: Final = 37
XA_PREPARE: Final = 38  # the same number and body in both products
PARTIAL_UPDATE_ROWS: Final = 39
TRANSACTION_PAYLOAD: Final = 40
HEARTBEAT_V2: Final = 41
GTID_TAGGED: Final = 42

MARIADB_ANNOTATE_ROWS: Final = 160
MARIADB_BINLOG_CHECKPOINT: Final = 161
MARIADB_GTID: Final = 162
MARIADB_GTID_LIST: Final = 163
MARIADB_START_ENCRYPTION: Final = 164
MARIADB_QUERY_COMPRESSED: Final = 165
MARIADB_WRITE_ROWS_COMPRESSED_V1: Final = 166
MARIADB_UPDATE_ROWS_COMPRESSED_V1: Final = 167
MARIADB_DELETE_ROWS_COMPRESSED_V1: Final = 168
MARIADB_WRITE_ROWS_COMPRESSED: Final = 169
MARIADB_UPDATE_ROWS_COMPRESSED: Final = 170
MARIADB_DELETE_ROWS_COMPRESSED: Final = 171

INSERT_TYPES: Final = frozenset(
    {WRITE_ROWS_V1, WRITE_ROWS, MARIADB_WRITE_ROWS_COMPRESSED_V1, MARIADB_WRITE_ROWS_COMPRESSED}
)
UPDATE_TYPES: Final = frozenset(
    {UPDATE_ROWS_V1, UPDATE_ROWS, MARIADB_UPDATE_ROWS_COMPRESSED_V1, MARIADB_UPDATE_ROWS_COMPRESSED}
)
DELETE_TYPES: Final = frozenset(
    {DELETE_ROWS_V1, DELETE_ROWS, MARIADB_DELETE_ROWS_COMPRESSED_V1, MARIADB_DELETE_ROWS_COMPRESSED}
)
COMPRESSED_ROWS_TYPES: Final = frozenset(range(166, 172))
ROWS_V2_TYPES: Final = frozenset({30, 31, 32, PARTIAL_UPDATE_ROWS, 169, 170, 171})
# PARTIAL_UPDATE_ROWS is among them so that it reaches the decoder, which refuses it by the table's name.
ROWS_TYPES: Final = INSERT_TYPES | UPDATE_TYPES | DELETE_TYPES | {PARTIAL_UPDATE_ROWS}

EVENT_NAMES: Final[dict[int, str]] = {
    number: name
    for name, number in list(globals().items())
    if isinstance(number, int) and name.isupper() and not name.startswith("_")
}

# --- headers -----------------------------------------------------------------------------------------------------------

# (timestamp s, type, server_id, event_size with header and checksum, log_pos = end of the event in the file, flags)
HEADER: Final = struct.Struct("<IBIIIH")
HEADER_SIZE: Final = 19
CHECKSUM_SIZE: Final = 4
LOG_EVENT_BINLOG_IN_USE_F: Final = 0x0001
LOG_EVENT_ARTIFICIAL_F: Final = 0x0020  # made up by the dump thread (first rotate, first format description)
LOG_EVENT_IGNORABLE_F: Final = 0x0080  # an unknown event may be skipped only when it carries this
MARIADB_LOG_EVENT_SKIP_REPLICATION_F: Final = 0x8000

ROWS_STMT_END_F: Final = 0x0001
ROWS_NO_FOREIGN_KEY_CHECKS_F: Final = 0x0002

CHECKSUM_NONE: Final = 0
CHECKSUM_CRC32: Final = 1

DUMMY_TABLE_IDS: Final = frozenset(
    {b"\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\x00\x00", b"\xff\xff\xff\x00\x00\x00"}
)


class FormatDescription(NamedTuple):
    """``created`` is seconds (0 in artificial ones: rotation), and binds a file position to one life of the file."""

    binlog_version: int
    server_version: str
    created: int
    header_size: int
    checksum: int  # CHECKSUM_NONE | CHECKSUM_CRC32

    @property
    def is_mariadb(self) -> bool:
        return "mariadb" in self.server_version.lower()


class Rotate(NamedTuple):
    file: str
    position: int


class Query(NamedTuple):
    """A statement. ``statement`` is in the client character set (``charset`` is its collation id, None when not sent)."""

    thread_id: int
    execution_time: int
    error_code: int
    schema: bytes
    statement: bytes
    flags2: int | None = None
    sql_mode: int | None = None
    charset: int | None = None  # collation id of character_set_client
    time_zone: str | None = None
    microseconds: int = 0  # of the event's own time; adds to the header's timestamp


class TaggedGtid(NamedTuple):
    """A GTID_TAGGED event; the GTIDs of ordinary transactions are read in the loop itself."""

    sid: bytes  # 16 bytes of the UUID
    tag: str
    gno: int
    commit_time: int  # immediate_commit_timestamp, µs since the epoch


class Xid(NamedTuple):
    """An XA transaction's name."""

    format_id: int
    gtrid: bytes
    bqual: bytes


class MariadbGtid(NamedTuple):
    """``server_id`` is in the event's header. ``xid`` is set for prepared and completed XA transactions."""

    domain: int
    sequence: int
    flags: int
    xid: Xid | None = None
    flags_extra: int = 0
    start_alter_sequence: int = 0  # the START ALTER that a COMMIT or ROLLBACK ALTER ends

    @property
    def is_standalone(self) -> bool:
        """One event follows (DDL and the like), no terminator."""
        return bool(self.flags & 1)

    @property
    def is_transactional(self) -> bool:
        return bool(self.flags & 4)

    @property
    def is_ddl(self) -> bool:
        return bool(self.flags & 32)

    @property
    def is_xa_prepare(self) -> bool:
        return bool(self.flags & 64)

    @property
    def is_xa_completed(self) -> bool:
        return bool(self.flags & 128)

    @property
    def is_start_alter(self) -> bool:
        return bool(self.flags_extra & 2)

    @property
    def is_commit_alter(self) -> bool:
        return bool(self.flags_extra & 4)

    @property
    def is_rollback_alter(self) -> bool:
        return bool(self.flags_extra & 8)


class XaPrepare(NamedTuple):
    xid: Xid
    one_phase: bool  # XA COMMIT ... ONE PHASE: a terminator like COMMIT


class Incident(NamedTuple):
    number: int
    message: str


class RowsHeader(NamedTuple):
    """A rows event up to its images. ``rows_end`` and ``buffer`` differ from the event's own when it was compressed."""

    table_id: int
    flags: int
    columns: int
    before: bytes  # columns-present bitmap of the before image (the only one for inserts: the after image)
    after: bytes  # the second bitmap of updates, else b""
    buffer: bytes
    rows_start: int
    rows_end: int


def verify_checksum(buffer: bytes, offset: int, event_size: int) -> bool:
    """Whether the CRC32 at the end of the event at ``offset`` (its header's) is right. Copies the event once."""
    end = offset + event_size - CHECKSUM_SIZE
    return zlib.crc32(memoryview(buffer)[offset:end]) == int.from_bytes(buffer[end : end + 4], "little")


# --- parsers -----------------------------------------------------------------------------------------------------------

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ROTATE: Final = struct.Struct("<Q")
_FORMAT: Final = struct.Struct("<H50sIB")
_QUERY: Final = struct.Struct("<IIBHH")
_MARIADB_GTID: Final = struct.Struct("<QIB")
_XA_PREPARE: Final = struct.Struct("<BIII")


def _checked(parse: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn what bytes that are not the event's format raise into UnsupportedEvent (I7)."""

    @wraps(parse)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return parse(*args, **kwargs)
        except (struct.error, LookupError, ValueError, zlib.error, zstandard.ZstdError) as error:
            what = parse.__name__.removeprefix("parse_").replace("_", " ")
            raise UnsupportedEvent(
                f"a {what} event of the source's log does not parse: {error}",
                hint="Check the log with mysqlbinlog; if it reads well there, report this event type and server version.",
            ) from error

    return checked


def read_lenenc(buffer: bytes, at: int) -> tuple[int, int]:
    """The length-encoded integer at ``at`` and the offset after it. Raises IndexError beyond the buffer."""
    first = buffer[at]
    if first < 251:
        return first, at + 1
    size = {252: 2, 253: 3, 254: 8}[first]
    return int.from_bytes(buffer[at + 1 : at + 1 + size], "little"), at + 1 + size


def _take(buffer: bytes, at: int, size: int, end: int) -> bytes:
    """``buffer[at:at+size]``, which must lie before ``end``."""
    if size < 0 or at + size > end:
        raise ValueError(f"{size} bytes wanted, {end - at} left")
    return buffer[at : at + size]


@_checked
def parse_format_description(buffer: bytes, start: int, end: int) -> FormatDescription:
    """``end`` is the event's real end: this event alone always carries the checksum's four bytes."""
    version, server, created, header_size = _FORMAT.unpack_from(buffer, start)
    if header_size != HEADER_SIZE or version != 4:
        raise ValueError(f"binlog version {version} with headers of {header_size} bytes")
    algorithm = buffer[end - CHECKSUM_SIZE - 1]
    if algorithm not in (CHECKSUM_NONE, CHECKSUM_CRC32):
        raise ValueError(f"checksum algorithm {algorithm}")
    return FormatDescription(version, server.rstrip(b"\0").decode("ascii"), created, header_size, algorithm)


@_checked
def parse_rotate(buffer: bytes, start: int, end: int) -> Rotate:
    (position,) = _ROTATE.unpack_from(buffer, start)
    return Rotate(buffer[start + 8 : end].decode(), position)


@_checked
def parse_query(buffer: bytes, start: int, end: int) -> Query:
    return _parse_query(buffer, start, end, compressed=False)


@_checked
def parse_query_compressed(buffer: bytes, start: int, end: int) -> Query:
    """MariaDB's QUERY_COMPRESSED (log_bin_compress)."""
    return _parse_query(buffer, start, end, compressed=True)


def _parse_query(buffer: bytes, start: int, end: int, *, compressed: bool) -> Query:
    thread, seconds, schema_size, error, status_size = _QUERY.unpack_from(buffer, start)
    status = start + _QUERY.size
    schema_at = status + status_size
    schema = _take(buffer, schema_at, schema_size, end)
    statement = _take(buffer, schema_at + schema_size + 1, end - (schema_at + schema_size + 1), end)
    if compressed:
        statement = inflate(statement)
    variables = _parse_status_variables(buffer, status, schema_at)
    return Query(
        thread,
        seconds,
        error,
        schema,
        statement,
        flags2=variables.get(0),
        sql_mode=variables.get(1),
        charset=variables.get(4),
        time_zone=_time_zone(buffer, variables.get(5)),
        microseconds=variables.get(13, variables.get(128, 0)),
    )


def _time_zone(buffer: bytes, at: int | None) -> str | None:
    return None if at is None else buffer[at + 1 : at + 1 + buffer[at]].decode()


# Sizes of the status variables with a fixed size, by code, and how many bytes of each are its number.
_STATUS_SIZES: Final = {
    0: 4, 1: 8, 3: 4, 4: 6, 7: 2, 8: 2, 9: 8, 10: 4, 13: 3, 16: 1, 17: 8, 18: 2, 19: 1, 20: 1, 128: 3, 129: 8,
}  # fmt: skip
_STATUS_NUMBERS: Final = {4: 2}


def _parse_status_variables(buffer: bytes, at: int, end: int) -> dict[int, int]:
    """Numbers by code; of the time zone (5) the offset. Stops, like the servers do, at the first code it cannot size."""
    found: dict[int, int] = {}
    while at < end:
        code = buffer[at]
        at += 1
        if code in _STATUS_SIZES:
            size = _STATUS_SIZES[code]
            found[code] = int.from_bytes(buffer[at : at + _STATUS_NUMBERS.get(code, size)], "little")
        elif code in (2, 5, 6):
            found[code] = at
            size = 1 + buffer[at] + (code == 2)
        elif code == 11:
            size = 1 + buffer[at]
            size += 1 + buffer[at + size]
        elif code == 12:
            size = _updated_schemas_size(buffer, at, end)
        else:
            break
        at += size
    return found


def _updated_schemas_size(buffer: bytes, at: int, end: int) -> int:
    count = buffer[at]
    position = at + 1
    for _ in range(0 if count == 254 else count):  # 254: too many to list
        position = buffer.index(b"\0", position, end) + 1
    return position - at


def _read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """MySQL's serialization library: the count of trailing one bits in the first byte is that of further bytes."""
    first = buffer[at]
    more = 0
    while first >> more & 1:
        more += 1
    raw = int.from_bytes(buffer[at : at + more + 1], "little")
    return raw >> (more + 1 if more < 8 else 8), at + more + 1


def _read_signed_varint(buffer: bytes, at: int) -> tuple[int, int]:
    raw, at = _read_varint(buffer, at)
    return (-(raw + 1 >> 1) if raw & 1 else raw >> 1), at


@_checked
def parse_gtid_tagged(buffer: bytes, start: int, end: int) -> TaggedGtid:
    """GTID_TAGGED: a message of numbered fields. Source: mysql/serialization's documented format."""
    version, at = _read_varint(buffer, start)
    _size, at = _read_varint(buffer, at)
    _last_needed, at = _read_varint(buffer, at)
    if version not in {0, 1}:
        raise ValueError(f"serialization version {version}")
    fields: dict[int, int] = {}
    sid, tag = b"", ""
    while at < end:
        field, at = _read_varint(buffer, at)
        if field == 1:
            sid, at = _read_tagged_sid(buffer, at)
        elif field == 3:
            size, at = _read_varint(buffer, at)
            tag = _take(buffer, at, size, end).decode("ascii")
            at += size
        elif field in (2, 4, 5):
            fields[field], at = _read_signed_varint(buffer, at)
        else:
            fields[field], at = _read_varint(buffer, at)
    return TaggedGtid(sid, tag, fields[2], fields[6])


def _read_tagged_sid(buffer: bytes, at: int) -> tuple[bytes, int]:
    out = bytearray()
    for _ in range(16):
        byte, at = _read_varint(buffer, at)
        out.append(byte)
    return bytes(out), at


@_checked
def parse_mariadb_gtid(buffer: bytes, start: int, end: int) -> MariadbGtid:
    sequence, domain, flags = _MARIADB_GTID.unpack_from(buffer, start)
    if not flags & 0xC2 and end - start == 19:
        return MariadbGtid(domain, sequence, flags, None, buffer[start + 13])
    at = start + 13 + (8 if flags & 2 else 0)  # FL_GROUP_COMMIT_ID
    xid = None
    if flags & 0xC0:
        (format_id,) = struct.unpack_from("<i", buffer, at)
        gtrid, bqual = buffer[at + 4], buffer[at + 5]
        name = _take(buffer, at + 6, gtrid + bqual, end)
        xid = Xid(format_id, name[:gtrid], name[gtrid:])
        at += 6 + gtrid + bqual
    extra = buffer[at] if at < end else 0
    alter_at = at + 1 + (extra & 1)
    alter = int.from_bytes(buffer[alter_at : alter_at + 8], "little") if extra & 12 else 0
    return MariadbGtid(domain, sequence, flags, xid, extra, alter)


@_checked
def parse_xa_prepare(buffer: bytes, start: int, end: int) -> XaPrepare:
    one_phase, format_id, gtrid, bqual = _XA_PREPARE.unpack_from(buffer, start)
    name = _take(buffer, start + _XA_PREPARE.size, gtrid + bqual, end)
    return XaPrepare(Xid(format_id, name[:gtrid], name[gtrid:]), bool(one_phase))


@_checked
def parse_incident(buffer: bytes, start: int, end: int) -> Incident:
    number = int.from_bytes(_take(buffer, start, 2, end), "little")
    size = buffer[start + 2] if start + 2 < end else 0
    return Incident(number, buffer[start + 3 : start + 3 + size].decode(errors="replace"))


def parse_rows_header(event_type: int, buffer: bytes, start: int, end: int) -> RowsHeader:
    """Any rows event: v1 and v2 with extra data (partitions, NDB), compressed or not.

    Raises LookupError, ValueError or zlib.error: the decoder, which knows the table's name, makes the error of them.
    """
    table_id = int.from_bytes(_take(buffer, start, 6, end), "little")
    flags = int.from_bytes(_take(buffer, start + 6, 2, end), "little")
    at = start + 8
    if event_type in ROWS_V2_TYPES:
        at += int.from_bytes(_take(buffer, at, 2, end), "little")  # counts its own two bytes
    columns, at = read_lenenc(buffer, at)
    width = (columns + 7) // 8
    before = _take(buffer, at, width, end)
    at += width
    after = b""
    if event_type in UPDATE_TYPES or event_type == PARTIAL_UPDATE_ROWS:
        after = _take(buffer, at, width, end)
        at += width
    if event_type in COMPRESSED_ROWS_TYPES:
        rows = inflate(buffer[at:end])
        return RowsHeader(table_id, flags, columns, before, after, rows, 0, len(rows))
    return RowsHeader(table_id, flags, columns, before, after, buffer, at, end)


def inflate(data: bytes) -> bytes:
    """MariaDB's compressed piece of an event: 0x80 | algorithm << 4 | n, n bytes of big-endian length, zlib data."""
    if not data or data[0] & 0xF0 != 0x80:
        raise ValueError("not compressed with zlib")
    start = 1 + (data[0] & 7)
    size = int.from_bytes(data[1:start], "big")
    return inflate_exactly(data[start:], size, zlib.MAX_WBITS)


def inflate_exactly(data: bytes, size: int, window_bits: int) -> bytes:
    """zlib data to ``size`` bytes. Raises ValueError for any other length, without inflating much more than that."""
    out = zlib.decompressobj(window_bits).decompress(data, size + 1)
    if len(out) != size:
        raise ValueError(f"it does not inflate to the {size} bytes it names")
    return out


# --- compressed transactions -------------------------------------------------------------------------------------------

_PAYLOAD_BLOCK: Final = 1 << 20


def read_payload(buffer: bytes, start: int, end: int) -> Iterator[bytes]:
    """The inner events of a TRANSACTION_PAYLOAD in order, as buffers of whole events without checksums.

    Each buffer is about 1 MiB, or one larger event: memory stays bounded by the largest event, not the transaction (I9).
    """
    try:
        algorithm, size, at = _parse_payload_header(buffer, start, end)
        for block in _cut_events(_unpack_blocks(algorithm, buffer, at, end)):
            size -= len(block)
            yield block
        if size:
            raise ValueError(f"its events end {size} bytes before the size it names")
    except (struct.error, LookupError, ValueError, zstandard.ZstdError) as error:
        raise UnsupportedEvent(
            f"a compressed transaction (TRANSACTION_PAYLOAD) of the source's log does not parse: {error}",
            hint="Check the log with mysqlbinlog; if it reads well there, report this with the server's version.",
        ) from error


def _parse_payload_header(buffer: bytes, start: int, end: int) -> tuple[int, int, int]:
    """The compression's number (0 zstd, 255 none), the size of the events, and where the data begins."""
    algorithm, size, at = 255, -1, start
    while at < end:
        kind, at = read_lenenc(buffer, at)
        if kind == 0:
            return algorithm, size if size >= 0 else end - at, at
        length, at = read_lenenc(buffer, at)
        if kind == 2:
            algorithm = read_lenenc(buffer, at)[0]
        elif kind == 3:
            size = read_lenenc(buffer, at)[0]
        at += length
    raise ValueError("no end of its header")


def _unpack_blocks(algorithm: int, buffer: bytes, at: int, end: int) -> Iterator[bytes]:
    data = memoryview(buffer)[at:end]
    if algorithm == 255:
        yield from (bytes(data[i : i + _PAYLOAD_BLOCK]) for i in range(0, len(data), _PAYLOAD_BLOCK))
    elif algorithm == 0:
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        while block := reader.read(_PAYLOAD_BLOCK):
            yield block
    else:
        raise ValueError(f"compression type {algorithm} is not known")


def _cut_events(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks cut anywhere to blocks of whole events."""
    parts: list[bytes] = []
    have = 0
    want = HEADER_SIZE
    for block in blocks:
        parts.append(block)
        have += len(block)
        if have < want:
            continue
        data = b"".join(parts)
        cut, want = _last_event_end(data)
        if cut:
            yield data[:cut]
        parts, have = [data[cut:]], len(data) - cut
    if have:
        raise ValueError("ends within an event")


def _last_event_end(data: bytes) -> tuple[int, int]:
    """Where the last whole event ends, and how many bytes from there the next one needs."""
    at, size = 0, len(data)
    while size - at >= HEADER_SIZE:
        event_size = int.from_bytes(data[at + 9 : at + 13], "little")
        if event_size < HEADER_SIZE:
            raise ValueError(f"an event of {event_size} bytes")
        if at + event_size > size:
            return at, event_size
        at += event_size
    return at, HEADER_SIZE
