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

DUMMY_TABLE_IDS: Final = frozenset({b"\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\x00\x00", b"\xff\xff\xff\x00\x00\x00"})


class EventHeader(NamedTuple):
    """What ``HEADER.unpack_from(buffer, offset)`` gives, named; the driver's loop unpacks the plain tuple."""

    timestamp: int
    type: int
    server_id: int
    event_size: int
    log_pos: int
    flags: int


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


class Gtid(NamedTuple):
    """MySQL's GTID, ANONYMOUS_GTID (``gno`` 0) and GTID_TAGGED. Times are µs since the epoch."""

    sid: bytes  # 16 bytes of the UUID
    gno: int
    commit_time: int  # immediate_commit_timestamp
    last_committed: int
    sequence_number: int
    transaction_length: int  # bytes, this event included; 0 when the server did not say
    flags: int
    tag: str = ""


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


class GtidInterval(NamedTuple):
    """GTIDs ``first..last`` (both included) of one server and tag."""

    sid: bytes
    tag: str
    first: int
    last: int


class MariadbGtidPosition(NamedTuple):
    domain: int
    server_id: int
    sequence: int


class Heartbeat(NamedTuple):
    """Where the source's log ends; a v1 heartbeat has its position in the event header's ``log_pos``."""

    file: str
    position: int | None


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


class TableName(NamedTuple):
    """The cheap part of a TABLE_MAP: all that is ever parsed for a table nobody selected."""

    table_id: bytes  # the 6 bytes as they stand, the key by which a rows event (buffer[start:start+6]) finds its map
    schema: str
    table: str
    columns_start: int  # offset of the column count


class ColumnMap(NamedTuple):
    """One column of a TABLE_MAP. ``type`` is the real type (ENUM, SET told from STRING); see rowcodec for ``meta``."""

    type: int
    meta: int
    nullable: bool
    unsigned: bool = False
    charset: int | None = None  # collation id of character, ENUM and SET columns
    name: bytes | None = None  # utf8; None without binlog_row_metadata=FULL
    labels: tuple[bytes, ...] = ()
    geometry_type: int | None = None
    visible: bool = True
    dimension: int | None = None  # VECTOR's, when sent


class TableMap(NamedTuple):
    table_id: int
    flags: int
    schema: str
    table: str
    columns: tuple[ColumnMap, ...]
    primary_key: tuple[tuple[int, int], ...] = ()  # (column ordinal, prefix length or 0)

    @property
    def has_names(self) -> bool:
        """Whether the log carries full row metadata."""
        return bool(self.columns) and all(column.name is not None for column in self.columns)


def verify_checksum(buffer: bytes, offset: int, event_size: int) -> bool:
    """Whether the CRC32 at the end of the event at ``offset`` (its header's) is right. Copies the event once."""
    end = offset + event_size - CHECKSUM_SIZE
    return zlib.crc32(memoryview(buffer)[offset:end]) == int.from_bytes(buffer[end : end + 4], "little")


# parse_format_description(buffer, start, end) -> FormatDescription   (end NOT stripped: it always carries 4 bytes)
# parse_rotate(buffer, start, end) -> Rotate
# parse_query(buffer, start, end) -> Query;  parse_query_compressed(...) -> Query
# parse_gtid(...) -> Gtid (33, 34);  parse_gtid_tagged(...) -> Gtid (42)
# parse_mariadb_gtid(...) -> MariadbGtid;  parse_mariadb_gtid_list(...) -> tuple[MariadbGtidPosition, ...]
# parse_xid(...) -> int
# parse_previous_gtids(...) -> tuple[GtidInterval, ...]
# parse_heartbeat(type, ...) -> Heartbeat
# parse_xa_prepare(...) -> XaPrepare
# parse_rows_query(...) -> bytes;  parse_annotate_rows(...) -> bytes
# parse_incident(...) -> Incident
# read_payload(...) -> Iterator[bytes]: buffers of whole inner events (no checksums), each about 1 MiB or one event
# parse_table_name(...) -> TableName;  parse_table_map(...) -> TableMap
# parse_rows_header(type, ...) -> RowsHeader (cold; Decoder.decode does this itself)
