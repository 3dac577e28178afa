"""Short dumps beside the pipeline's own: questions about the log that no statement answers.

Each opens a connection of its own under a passing server_id, reads as little as it can, and closes it. Simple, not fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from replicator.errors import SourceUnavailable
from replicator.model import TableName
from replicator.readers import binlog
from replicator.readers.gtid import FilePosition, GtidPosition, binlog_number
from replicator.readers.tablemap import parse_table_name
from replicator.readers.transport import (
    EVENT_OFFSET,
    Connect,
    DumpEnded,
    Link,
    Replica,
    open_link,
    read_rotate,
)

_SILENT: Final = frozenset(
    {
        binlog.STOP,
        binlog.ROTATE,
        binlog.GTID,
        binlog.GTID_TAGGED,
        binlog.XID,
        binlog.FORMAT_DESCRIPTION,
        binlog.HEARTBEAT,
        binlog.HEARTBEAT_V2,
        binlog.ROWS_QUERY,
        binlog.PREVIOUS_GTIDS,
        *binlog.ROWS_TYPES,  # their tables were named by the table map before them
    }
)
_GROUP_WORDS: Final = (b"BEGIN", b"COMMIT", b"ROLLBACK", b"SAVEPOINT ")


class Event(NamedTuple):
    """One event in place: its body is ``buffer[start:end]``, checksum left out.

    ``timestamp`` is seconds since the epoch, ``place`` the number of the file and the event's end in it (0 when
    the dump made it up).
    """

    type: int
    timestamp: int
    place: tuple[int, int]
    buffer: bytes
    start: int
    end: int


def read_events(link: Link, seconds: float) -> Iterator[Event]:
    """Events one by one until the dump ends. Raises SourceUnavailable when none comes for ``seconds``."""
    checksum = number = 0
    while True:
        try:
            end = link.inspect(seconds)
        except DumpEnded:
            return
        if end is None:
            raise SourceUnavailable(f"{link.address}: the source sent nothing for {seconds:.0f} seconds")
        buffer, at = link.buffer, link.at + EVENT_OFFSET
        start = at + binlog.HEADER_SIZE
        timestamp, kind, _, _, log_pos, _ = binlog.HEADER.unpack_from(buffer, at)
        if kind == binlog.FORMAT_DESCRIPTION:
            description = binlog.parse_format_description(buffer, start, end)
            checksum = binlog.CHECKSUM_SIZE if description.checksum else 0
        if kind == binlog.ROTATE:
            rotate = read_rotate(buffer, at, end)
            number, log_pos = binlog_number(rotate.file), rotate.position
        yield Event(kind, timestamp, (number, log_pos), buffer, start, end - checksum)
        link.at = end


def read_created(connect: Connect, server: str, file: str, seconds: float = 30.0) -> int:
    """When a binlog file was made, in seconds since the epoch: the time in its format description's header.

    (The ``created`` in its body is 0 after a rotation.) Raises as ``open_link`` does.
    """
    link = open_link(connect, FilePosition(server, file, 0, 4), Replica.passing())
    try:
        events = read_events(link, seconds)
        return next(event.timestamp for event in events if event.type == binlog.FORMAT_DESCRIPTION)
    finally:
        link.close()


def touched_tables(
    connect: Connect, start: GtidPosition, file: str, offset: int, seconds: float = 30.0
) -> frozenset[TableName] | None:
    """The tables that any logged transaction outside ``start`` and up to a place in the log wrote to (SEMANTICS §2.2).

    None when something was seen that is not plainly rows of tables: DDL, statements, XA. Raises as ``open_link`` does.
    """
    link = open_link(connect, start, Replica.passing(), waits=False)
    try:
        return _collect(read_events(link, seconds), (binlog_number(file), offset))
    finally:
        link.close()


def _collect(events: Iterator[Event], place: tuple[int, int]) -> frozenset[TableName] | None:
    tables: set[TableName] = set()
    for event in events:
        if not _is_plain(event, tables):
            return None
        if event.place >= place:
            break
    return frozenset(tables)


def _is_plain(event: Event, tables: set[TableName]) -> bool:
    """Note the table of a table map. False when the event is not plainly rows."""
    kind, buffer, start, end = event.type, event.buffer, event.start, event.end
    if kind in _SILENT:
        return True
    if kind == binlog.TABLE_MAP:
        name = parse_table_name(buffer, start, end)
        tables.add(TableName(name.schema, name.table))
        return True
    if kind == binlog.QUERY:
        return binlog.parse_query(buffer, start, end).statement.startswith(_GROUP_WORDS)
    if kind == binlog.TRANSACTION_PAYLOAD:
        return all(_is_plain(inner, tables) for inner in _read_inner(buffer, start, end))
    return False


def _read_inner(buffer: bytes, start: int, end: int) -> Iterator[Event]:
    for block in binlog.read_payload(buffer, start, end):
        at = 0
        while at < len(block):
            timestamp, kind, _, size, _, _ = binlog.HEADER.unpack_from(block, at)
            yield Event(kind, timestamp, (0, 0), block, at + binlog.HEADER_SIZE, at + size)
            at += size
