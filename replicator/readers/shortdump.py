"""Short dumps beside the pipeline's own: questions about the log that no statement answers.

Each opens a connection of its own under a passing server_id, reads as little as it can, and closes it. Simple, not fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from replicator.errors import SourceUnavailable
from replicator.model import Position, TableName
from replicator.readers import binlog
from replicator.readers.gtid import FilePosition, GtidPosition, format_sid
from replicator.readers.tablemap import parse_table_name
from replicator.readers.transport import EVENT_OFFSET, Connect, Link, Replica, open_link

_SILENT: Final = frozenset(
    {
        binlog.STOP,
        binlog.ROTATE,
        binlog.FORMAT_DESCRIPTION,
        binlog.HEARTBEAT,
        binlog.HEARTBEAT_V2,
        binlog.ROWS_QUERY,
        binlog.PREVIOUS_GTIDS,
        *binlog.ROWS_TYPES,  # their tables were named by the table map before them
    }
)
_ENDS: Final = frozenset({b"COMMIT", b"ROLLBACK"})


class Event(NamedTuple):
    """One event in place: its body is ``buffer[start:end]``, checksum left out. ``timestamp`` is seconds."""

    type: int
    timestamp: int
    buffer: bytes
    start: int
    end: int


def read_events(link: Link, seconds: float) -> Iterator[Event]:
    """Events one by one, without end. Raises SourceUnavailable when none comes for ``seconds``."""
    checksum = at = 0
    while True:
        end = link.inspect(at, seconds)
        if end is None:
            raise SourceUnavailable(f"{link.address}: the source sent nothing for {seconds:.0f} seconds")
        buffer, start = link.buffer, EVENT_OFFSET + binlog.HEADER_SIZE
        timestamp, kind, *_ = binlog.HEADER.unpack_from(buffer, EVENT_OFFSET)
        if kind == binlog.FORMAT_DESCRIPTION:
            description = binlog.parse_format_description(buffer, start, end)
            checksum = binlog.CHECKSUM_SIZE if description.checksum else 0
        yield Event(kind, timestamp, buffer, start, end - checksum)
        at = end


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
    connect: Connect, start: Position, end: Position, seconds: float = 30.0
) -> set[TableName] | None:
    """The tables that transactions after ``start`` and up to ``end`` wrote to (SEMANTICS §2.2); MySQL GTID positions.

    None when something was seen that is not plainly rows of tables: DDL, statements, XA. Raises as ``open_link`` does,
    and SourceUnavailable when the log does not reach ``end`` for ``seconds``.
    """
    if not isinstance(start, GtidPosition) or not isinstance(end, GtidPosition):
        return None
    if start.covers(end):
        return set()
    link = open_link(connect, start, Replica.passing())
    try:
        return _collect(read_events(link, seconds), start, end)
    finally:
        link.close()


def _collect(events: Iterator[Event], start: GtidPosition, end: GtidPosition) -> set[TableName] | None:
    tables: set[TableName] = set()
    missing = end.gtids.subtract(start.gtids)
    sid, gno = "", 0
    for event in events:
        if event.type == binlog.GTID:
            gtid = binlog.parse_gtid(event.buffer, event.start, event.end)
            sid, gno = format_sid(gtid.sid), gtid.gno
            continue
        is_end = _visit(event, tables)
        if is_end is None:
            return None
        if is_end:
            missing = missing.remove(sid, gno)
            if not missing:
                break
    return tables


def _visit(event: Event, tables: set[TableName]) -> bool | None:
    """Note the table of a table map. True when the event ends its group, None when it is not plainly rows."""
    kind, buffer, start, end = event.type, event.buffer, event.start, event.end
    if kind in _SILENT:
        return False
    if kind == binlog.TABLE_MAP:
        name = parse_table_name(buffer, start, end)
        tables.add(TableName(name.schema, name.table))
        return False
    if kind == binlog.XID:
        return True
    if kind == binlog.QUERY:
        statement = binlog.parse_query(buffer, start, end).statement
        if statement in _ENDS:
            return True
        return (
            False if statement == b"BEGIN" or statement.startswith((b"SAVEPOINT ", b"ROLLBACK TO ")) else None
        )
    if kind == binlog.TRANSACTION_PAYLOAD:
        return _visit_payload(buffer, start, end, tables)
    return None


def _visit_payload(buffer: bytes, start: int, end: int, tables: set[TableName]) -> bool | None:
    for block in binlog.read_payload(buffer, start, end):
        at = 0
        while at < len(block):
            timestamp, kind, _, size, _, _ = binlog.HEADER.unpack_from(block, at)
            if _visit(Event(kind, timestamp, block, at + binlog.HEADER_SIZE, at + size), tables) is None:
                return None
            at += size
    return True
