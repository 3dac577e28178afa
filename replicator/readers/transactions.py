"""Packets of one dump to whole transactions: framing, boundaries, savepoints, table maps, what statements mean.

A transaction leaves only after its terminator (SEMANTICS §1.1). What cannot be understood stops the source (I7); what
belongs to tables that nobody selected is stepped over, by lengths, and cannot break anything.

``Transactions.items`` is one flat loop over offsets: five events make a one-row transaction, and each function call or
object per event shows in the throughput. Everything that is rare is a method beside it.
"""

from __future__ import annotations

import enum
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from replicator.errors import PositionLost, UnsupportedEvent
from replicator.model import (
    Changes,
    Heartbeat,
    Idle,
    Op,
    SchemaChange,
    StreamItem,
    TableName,
    TableSchema,
    Transaction,
    UnseenCommit,
)
from replicator.readers import binlog, rowcodec, statement, tablemap
from replicator.readers.gtid import FilePosition, GtidPosition, MariadbPosition, MysqlPosition, format_sid
from replicator.readers.selected import Counters, Selection
from replicator.readers.statement import Meaning
from replicator.readers.transport import MAX_PACKET, Link, read_rotate
from replicator.readers.xa import Group, Undecided, format_xid, parse_decision
from replicator.spill import Spill

# Of row images, which in memory may be ten times that: beyond it a transaction is kept on disk.
SPILL_BYTES: Final = 4 << 20
SOON: Final = 0.001  # seconds without a packet after which the source has nothing more to say just now
LATER: Final = 0.01  # a batch may be waiting for the applier: how soon it is thought of again

BACKWARDS: Final = (
    "give each writing server a gtid_domain_id of its own, then `replicator drop` and load again"
)

_PACKET: Final = struct.Struct("<IBIBIIIH")  # packet header, status byte, event header
_CHECKSUM: Final = struct.Struct("<I")
_GTID: Final = struct.Struct("<x16sqB16xQ")  # flags, SID, number, type, logical clock, commit time (55 bits)
_COMMIT_TIME_BITS: Final = (1 << 55) - 1
_MARIADB_GTID: Final = struct.Struct("<QIB")  # sequence, domain, flags
_MYSQL_GTIDS: Final = (binlog.GTID, binlog.ANONYMOUS_GTID)
_STATEMENTS: Final = (binlog.QUERY, binlog.MARIADB_QUERY_COMPRESSED, binlog.EXECUTE_LOAD_QUERY)
_MARIADB_RARE: Final = 1 | 32 | 64 | 128  # standalone, DDL, prepared XA, completed XA

Decode = Callable[[int, bytes, int, int], Changes]

_PASSED_OVER: Final = frozenset(
    {
        binlog.STOP,
        binlog.INTVAR,
        binlog.RAND,
        binlog.USER_VAR,
        binlog.BEGIN_LOAD_QUERY,
        binlog.APPEND_BLOCK,
        binlog.DELETE_FILE,
        binlog.ROWS_QUERY,
        binlog.PREVIOUS_GTIDS,
        binlog.TRANSACTION_CONTEXT,
        binlog.VIEW_CHANGE,
        binlog.MARIADB_ANNOTATE_ROWS,
        binlog.MARIADB_BINLOG_CHECKPOINT,
        binlog.MARIADB_GTID_LIST,
        binlog.MARIADB_START_ENCRYPTION,
    }
)
"""Events that hold neither rows nor boundaries: what they belong to is judged by the event that follows."""

# What may come next.
_BETWEEN: Final = 0  # between groups
_OPENED: Final = 1  # after MySQL's GTID: BEGIN, one statement, or a compressed transaction
_IN_GROUP: Final = 2
_STANDALONE: Final = 3  # after a MariaDB GTID that one statement follows
_UNDECIDED: Final = 4  # the same, and that statement takes no effect (START ALTER, ROLLBACK ALTER)


class _End(enum.Enum):
    """The group has ended."""

    END = "end"


_END: Final = _End.END


class Savepoint(NamedTuple):
    """Where the group stood when it was set."""

    name: str
    changes: int
    rows: int
    size: int


class Transactions:
    """The transactions of one dump, from ``start`` on. ``position`` is the end of the last one that left."""

    def __init__(
        self,
        link: Link,
        start: MysqlPosition,
        *,
        selection: Selection,
        counters: Counters,
        stop: threading.Event,
        undecided: Undecided,
        spill_dir: Path | None = None,
    ) -> None:
        self.position: MysqlPosition = start
        self._link = link
        self._selection = selection
        self._counters = counters
        self._stop = stop
        self._undecided = undecided
        self._spill_dir = spill_dir
        self._checksum = 0
        self._is_mariadb = False
        self._is_filed = isinstance(start, FilePosition)
        self._file, self._file_start, self._created = "", 4, 0
        self._maps: dict[bytes, bytes] = {}  # table id → the table map's body, as it stands in the log
        # table id → its decoder; None for tables nobody selected, and for events that only end a statement
        self._decoders: dict[bytes, Decode | None] = dict.fromkeys(binlog.DUMMY_TABLE_IDS)
        self._built: dict[bytes, tuple[TableSchema, Decode]] = {}  # the same map under other table ids
        self._sids: dict[bytes, str] = {}
        self._state = _BETWEEN
        self._next: MysqlPosition = (
            start  # where we stand once the open group ends; a file position ends elsewhere
        )
        self._commit_time = 0
        self._reset()

    def _reset(self) -> None:
        """Nothing of a group is held."""
        self._store: list[Changes] | Spill = []
        self._rows = self._size = 0
        self._limit = SPILL_BYTES
        self._savepoints: list[Savepoint] = []

    # --- the loop -----------------------------------------------------------------------------------------------------

    def items(self) -> Iterator[StreamItem]:  # noqa: PLR0912, PLR0915 (flat on purpose: see the module's docstring)
        """Every item until ``stop`` is set. Raises what the link raises, UnsupportedEvent and PositionLost."""
        link, counters = self._link, self._counters
        unpack_packet, unpack_event = _PACKET.unpack_from, binlog.HEADER.unpack_from
        maps, decoders, rows_types = self._maps, self._decoders, binlog.ROWS_TYPES
        refuse_rows, crc32, unpack_checksum = self._refuse_rows, zlib.crc32, _CHECKSUM.unpack_from
        payload: Iterator[bytes] | None = None
        outer: tuple[bytes, int, int] = (b"", 0, 0)
        buffer, at, limit = link.buffer, link.at, len(link.buffer)
        inspected: int | None = None
        patience = SOON
        while True:
            if payload is None:
                try:
                    head, status, timestamp, kind, server_id, size, log_pos, flags = unpack_packet(buffer, at)
                    following = at + 5 + size
                except struct.error:
                    following = limit + 1
                if following > limit or status or (head & MAX_PACKET != size + 1 and following != inspected):
                    if self._stop.is_set():
                        return
                    link.at = at
                    inspected = link.inspect(patience)
                    buffer, at, limit = link.buffer, link.at, len(link.buffer)
                    patience = SOON
                    if inspected is None:
                        yield Idle(self.position)
                        patience = LATER
                    continue
                start, end, at = at + 24, following - self._checksum, following
            elif at < limit:
                timestamp, kind, server_id, size, _, flags = unpack_event(buffer, at)
                start, end, at = at + 19, at + size, at + size
            else:
                block = next(payload, None)
                if block is None:
                    payload, (buffer, at, limit) = None, outer
                    if self._state:
                        self._refuse_order(binlog.TRANSACTION_PAYLOAD)
                else:
                    buffer, at, limit = block, 0, len(block)
                continue

            if kind == binlog.TABLE_MAP:
                table_id = buffer[start : start + 6]
                if maps.get(table_id) != buffer[start:end]:
                    self._verify(kind, buffer, start, end, at)
                    change = self._map(table_id, log_pos, buffer, start, end)
                    if change is not None:
                        yield change
                continue
            if kind in rows_types:
                decode = decoders.get(buffer[start : start + 6], refuse_rows)
                if decode is None:
                    counters.other_rows_events += 1
                    continue
                if self._state != _IN_GROUP:
                    self._refuse_order(kind)
                if end < at and crc32(buffer[start - 19 : end]) != unpack_checksum(buffer, end)[0]:
                    self._refuse_checksum(kind)
                changes = decode(kind, buffer, start, end)
                self._store.append(changes)
                self._rows += len(changes.after) or len(changes.before)
                self._size += changes.size
                if self._size > self._limit:
                    self._spill()
                continue
            if kind in _MYSQL_GTIDS and end - start >= 50 and not self._state:
                sid, gno, _, moment = _GTID.unpack_from(buffer, start)
                self._open(sid, gno, moment & _COMMIT_TIME_BITS)
                continue
            if kind == binlog.QUERY and self._state == _OPENED and _is_begin(buffer, start, end):
                self._state = _IN_GROUP
                continue
            if kind == binlog.MARIADB_GTID and not self._state:
                sequence, domain, bits = _MARIADB_GTID.unpack_from(buffer, start)
                self._open_mariadb(domain, server_id, sequence, timestamp)
                if bits & _MARIADB_RARE:
                    self._inspect_mariadb_gtid(binlog.parse_mariadb_gtid(buffer, start, end))
                continue
            if kind == binlog.XID:
                if self._state != _IN_GROUP:
                    self._refuse_order(kind)
            elif kind == binlog.TRANSACTION_PAYLOAD and self._state == _OPENED and payload is None:
                self._verify(kind, buffer, start, end, at)
                outer = (buffer, at, limit)
                payload = binlog.read_payload(buffer, start, end)
                at = limit
                continue
            else:
                outcome = self._take_rare(kind, timestamp, log_pos, flags, buffer, start, end, at)
                if outcome is not _END:
                    if outcome is not None:
                        yield outcome
                    continue

            # The group has ended: it leaves.
            self.position = position = self._place(log_pos) if self._is_filed else self._next
            store, rows = self._store, self._rows
            self._state = _BETWEEN
            counters.transactions += 1
            if store:
                counters.rows += rows
                size = self._size
                self._reset()
                yield Transaction(position, self._commit_time, store, rows, size, type(store) is Spill)
            else:
                self._discard()
                yield Transaction(position, self._commit_time, (), 0, 0)

    # --- groups -------------------------------------------------------------------------------------------------------

    def _open(self, sid: bytes, gno: int, moment: int) -> None:
        """MySQL's GTID: what follows is one group; ``moment`` is its commit in µs."""
        self._state = _OPENED
        self._commit_time = moment
        position = self.position
        if type(position) is GtidPosition:
            key = self._sids.get(sid)
            if key is None:
                key = self._sids[sid] = format_sid(sid)
            if not gno:
                self._refuse(
                    binlog.ANONYMOUS_GTID, "a transaction without a GTID", "set gtid_mode=ON for good"
                )
            self._next = position.after(key, gno)

    def _open_tagged(self, gtid: binlog.TaggedGtid) -> None:
        """MySQL's GTID with a tag (8.3): numbers count apart for each tag."""
        self._state = _OPENED
        self._commit_time = gtid.commit_time
        position = self.position
        if type(position) is GtidPosition:
            self._next = position.after(f"{format_sid(gtid.sid)}:{gtid.tag}", gtid.gno)

    def _open_mariadb(self, domain: int, server_id: int, sequence: int, timestamp: int) -> None:
        self._state = _IN_GROUP
        self._commit_time = timestamp * 1_000_000
        position = self.position
        if type(position) is MariadbPosition:
            if sequence <= position.sequence_of(domain):
                raise PositionLost(
                    f"{domain}-{server_id}-{sequence} follows {position}: sequence numbers go backwards in its domain",
                    hint=BACKWARDS,
                )
            self._next = position.after(domain, server_id, sequence)

    def _inspect_mariadb_gtid(self, gtid: binlog.MariadbGtid) -> None:
        if gtid.is_start_alter or gtid.is_rollback_alter:
            self._state = _UNDECIDED  # COMMIT ALTER is the barrier (SEMANTICS §10)
        elif gtid.is_standalone:
            self._state = _STANDALONE

    def _place(self, log_pos: int) -> FilePosition:
        position = self.position
        assert isinstance(position, FilePosition)
        if log_pos < position.offset and self._file == position.file:
            raise UnsupportedEvent(
                f"{self._file} is longer than 4 GiB, where offsets begin anew",
                hint="set gtid_mode=ON at the source, or write no transactions of this size",
            )
        return FilePosition(position.server, self._file, self._created, log_pos)

    def _spill(self) -> None:
        """The group has become too large for memory."""
        self._store = Spill.of(self._store, self._spill_dir)
        self._limit = sys.maxsize

    def _discard(self) -> None:
        """Forget what the group did; it has no effect."""
        if isinstance(self._store, Spill):
            self._store.close()
        self._reset()

    def _cut_back(self, name: str) -> None:
        """ROLLBACK TO SAVEPOINT: later savepoints are gone with the rows, this one stays."""
        folded = name.casefold()
        while self._savepoints and self._savepoints[-1].name != folded:
            self._savepoints.pop()
        if not self._savepoints:
            self._refuse(
                binlog.QUERY,
                f"ROLLBACK TO {name}, which was never set",
                "report this with the server's version",
            )
        point = self._savepoints[-1]
        if isinstance(self._store, Spill):
            self._store.truncate(point.changes)
        else:
            del self._store[point.changes :]
        self._rows, self._size = point.rows, point.size

    # --- rare events --------------------------------------------------------------------------------------------------

    def _take_rare(  # noqa: PLR0917 (what the loop has at hand)
        self,
        kind: int,
        timestamp: int,
        log_pos: int,
        flags: int,
        buffer: bytes,
        start: int,
        end: int,
        following: int,
    ) -> StreamItem | _End | None:
        """Everything but the events of ordinary transactions. ``_END``: the open group has ended."""
        if kind in (binlog.HEARTBEAT, binlog.HEARTBEAT_V2):
            return self._take_heartbeat(log_pos)
        if kind == binlog.ROTATE:
            rotate = read_rotate(buffer, start - binlog.HEADER_SIZE, following)
            self._file, self._file_start = rotate.file, rotate.position
            return None
        if kind == binlog.FORMAT_DESCRIPTION:
            self._begin_file(timestamp, binlog.parse_format_description(buffer, start, following))
            return None
        self._verify(kind, buffer, start, end, following)
        if kind in _STATEMENTS:
            return self._take_statement(kind, log_pos, buffer, start, end)
        if kind == binlog.GTID_TAGGED and not self._state:
            self._open_tagged(binlog.parse_gtid_tagged(buffer, start, end))
        elif kind == binlog.XA_PREPARE:
            return self._take_prepare(binlog.parse_xa_prepare(buffer, start, end), log_pos)
        elif kind not in _PASSED_OVER:
            self._take_unknown(kind, flags, buffer, start, end)
        return None

    def _take_heartbeat(self, log_pos: int) -> Heartbeat:
        position = self.position
        if isinstance(position, FilePosition) and not self._state and self._file == position.file:
            self.position = self._place(max(log_pos, position.offset))
        return Heartbeat(self.position, time.monotonic())

    def _begin_file(self, timestamp: int, description: binlog.FormatDescription) -> None:
        """A binlog file begins, or the dump tells about the one it starts within.

        A group never spans files: one that is open was cut off by a crash of the source and never committed.
        """
        self._checksum = binlog.CHECKSUM_SIZE if description.checksum else 0
        self._state = _BETWEEN
        self._discard()
        self._maps.clear()
        self._decoders.clear()
        self._decoders.update(dict.fromkeys(binlog.DUMMY_TABLE_IDS))
        self._created = timestamp
        self._is_mariadb = description.is_mariadb
        position = self.position
        if not isinstance(position, FilePosition):
            return
        if self._file == position.file and timestamp != position.created:
            raise PositionLost(
                f"{self._file} was made at {timestamp}, but {position} belongs to a file of the same name made at "
                f"{position.created}: the source's binary logs were reset",
                hint="run `replicator drop`, then load again",
            )
        if self._file != position.file:
            self.position = FilePosition(position.server, self._file, timestamp, self._file_start)

    def _take_prepare(self, prepare: binlog.XaPrepare, log_pos: int) -> _End:
        """The end of an XA group: in one phase it is committed, otherwise it is kept until it is decided."""
        if self._state != _IN_GROUP:
            self._refuse_order(binlog.XA_PREPARE)
        if not prepare.one_phase:
            place = self._find_end(log_pos)
            self._undecided.keep(
                Group(prepare.xid, self.position, place, self._store, self._rows, self._size)
            )
            self._reset()
        return _END

    def _find_end(self, log_pos: int) -> MysqlPosition:
        return self._place(log_pos) if self._is_filed else self._next

    def _take_unknown(self, kind: int, flags: int, buffer: bytes, start: int, end: int) -> None:
        name = binlog.EVENT_NAMES.get(kind, f"type {kind}")
        if kind == binlog.INCIDENT:
            incident = binlog.parse_incident(buffer, start, end)
            self._refuse(
                kind, f"the source lost events: {incident.message}", "run `replicator drop`, then load again"
            )
        if kind in binlog.EVENT_NAMES and kind != binlog.IGNORABLE:
            self._refuse_order(kind)
        if not flags & binlog.LOG_EVENT_IGNORABLE_F:
            self._refuse(
                kind, "an event that this version does not know", "report it with the server's version"
            )
        self._counters.skipped[name] += 1

    # --- statements ---------------------------------------------------------------------------------------------------

    def _take_statement(
        self, kind: int, log_pos: int, buffer: bytes, start: int, end: int
    ) -> StreamItem | _End | None:
        if kind == binlog.EXECUTE_LOAD_QUERY:  # 13 bytes about the file stand before the rest of a query
            buffer = buffer[start : start + 13] + buffer[start + 26 : end]
            start, end = 0, len(buffer)
        parse = (
            binlog.parse_query_compressed if kind == binlog.MARIADB_QUERY_COMPRESSED else binlog.parse_query
        )
        query = parse(buffer, start, end)
        if self._state == _BETWEEN:
            self._refuse_order(kind)
        if self._state == _UNDECIDED:
            return _END
        verdict = statement.classify(
            query.statement,
            query.schema.decode("utf8", "surrogateescape"),
            self._selection.tables.keys(),
            charset=query.charset,
            fold=self._selection.fold,
        )
        if verdict.meaning in (
            Meaning.BEGIN,
            Meaning.COMMIT,
            Meaning.ROLLBACK,
            Meaning.SAVEPOINT,
            Meaning.ROLLBACK_TO,
        ):
            return self._take_boundary(verdict)
        if verdict.meaning is Meaning.XA:
            return self._take_xa(verdict, query, log_pos)
        return self._take_effect(verdict, query, log_pos)

    def _take_boundary(self, verdict: statement.Verdict) -> _End | None:
        meaning = verdict.meaning
        if meaning is Meaning.BEGIN and self._state == _OPENED:
            self._state = _IN_GROUP
            return None
        if self._state != _IN_GROUP:
            self._refuse_order(binlog.QUERY)
        if meaning is Meaning.SAVEPOINT:
            name = verdict.name.casefold()
            self._savepoints.append(Savepoint(name, len(self._store), self._rows, self._size))
            return None
        if meaning is Meaning.ROLLBACK_TO:
            self._cut_back(verdict.name)
            return None
        if meaning is Meaning.ROLLBACK:
            self._discard()
        return _END

    def _take_xa(
        self, verdict: statement.Verdict, query: binlog.Query, log_pos: int
    ) -> UnseenCommit | _End | None:
        """XA START and END frame a group that XA PREPARE ends; XA COMMIT and ROLLBACK are groups of their own."""
        if verdict.name in ("START", "BEGIN"):
            self._state = _IN_GROUP
            return None
        if verdict.name == "END":
            return None
        xid = parse_decision(query.statement)
        if xid is None or verdict.name not in ("COMMIT", "ROLLBACK") or self._store:
            self._refuse(
                binlog.QUERY,
                f"{_shorten(query.statement)} cannot be understood here",
                "report this with the server's version",
            )
        place = self._find_end(log_pos)
        group = self._undecided.decide(xid, place)
        if verdict.name == "ROLLBACK":
            if group is not None:
                group.close()
            return _END
        if group is None:
            self._state, self.position = _BETWEEN, place
            self._counters.transactions += 1
            return UnseenCommit(place, self._commit_time, format_xid(xid))
        self._store, self._rows, self._size = group.store, group.rows, group.size
        group.store = []
        return _END

    def _take_effect(
        self, verdict: statement.Verdict, query: binlog.Query, log_pos: int
    ) -> StreamItem | _End | None:
        is_alone = self._state != _IN_GROUP
        if verdict.tables:
            end = self._find_end(log_pos)
            current = tuple(name for name in verdict.tables if not self._selection.is_past(name, end))
            if not current:
                return _END if is_alone else None
            verdict = verdict._replace(tables=current)
        reason = verdict.reason if verdict.meaning is Meaning.STOP else ""
        if verdict.others:
            reason = self._selection.explain_reach(verdict.others)
        elif verdict.verb.startswith(("CREATE", "RENAME")):
            self._selection.forget_reach()
        if reason:
            self._refuse(
                binlog.QUERY,
                f"{reason} ({_shorten(query.statement)})",
                "set binlog_format=ROW at the source, globally and in the sessions that set it; then load again",
            )
        if verdict.meaning is Meaning.SKIP:
            self._counters.skipped[verdict.verb] += 1
        elif verdict.meaning is Meaning.TRUNCATE:
            self._store.append(Changes(self._selection.tables[verdict.tables[0]], Op.TRUNCATE, (), ()))
            self._rows += 1
        else:
            return self._take_schema_change(verdict, query, log_pos if is_alone else None)
        return _END if is_alone else None

    def _take_schema_change(
        self, verdict: statement.Verdict, query: binlog.Query, log_pos: int | None
    ) -> SchemaChange:
        """A barrier. Within a group it stands before the group, whose other rows follow with its position."""
        self._drop(verdict.tables)
        before = self.position
        if log_pos is not None:
            self._state = _BETWEEN
            self.position = self._place(log_pos) if self._is_filed else self._next
        text = statement.decode_statement(query.statement, query.charset)
        return SchemaChange(self.position, before, self._commit_time, verdict.tables, text, verdict.reason)

    # --- tables -------------------------------------------------------------------------------------------------------

    def _map(self, table_id: bytes, log_pos: int, buffer: bytes, start: int, end: int) -> SchemaChange | None:
        """A table map that is new, or differs from the last one of its id."""
        body = self._maps[table_id] = buffer[start:end]
        name = tablemap.parse_table_name(buffer, start, end)
        table = self._selection.find(name.schema, name.table)
        self._decoders[table_id] = None
        if table is None:
            return None
        built = self._built.get(body[6:])
        if built is None or built[0] is not table:
            table_map = tablemap.parse_table_map(buffer, start, end, is_mariadb=self._is_mariadb)
            reason = rowcodec.explain_mismatch(table_map, table)
            if reason is not None:
                if not self._selection.is_past(table.source, self._find_end(log_pos)):
                    return self._take_mismatch(table.source, reason)
                del self._maps[
                    table_id
                ]  # judged anew each time: beyond the table's position it is a mismatch
                return None
            built = self._built[body[6:]] = (table, rowcodec.build_decoder(table_map, table).decode)
        self._decoders[table_id] = built[1]
        return None

    def _take_mismatch(self, name: TableName, reason: str) -> SchemaChange:
        self._drop((name,))
        return SchemaChange(self.position, self.position, self._commit_time, (name,), "", reason)

    def _drop(self, names: Sequence[TableName]) -> None:
        """These tables are read no further: whoever gets the schema change pauses them."""
        self._selection.drop(names)
        self._maps.clear()  # the next table map of each table decides anew

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _refuse_rows(self, kind: int, buffer: bytes, start: int, end: int) -> NoReturn:
        number = int.from_bytes(buffer[start : start + 6], "little")
        self._refuse(
            kind,
            f"rows of table id {number}, which no table map named",
            "report it with the server's version",
        )

    def _verify(self, kind: int, buffer: bytes, start: int, end: int, following: int) -> None:
        """Refuse an event whose checksum is wrong; within a compressed transaction events have none.

        GTIDs, BEGIN and XID are taken unseen: that would cost a small transaction a twentieth of its time.
        """
        if end < following and not binlog.verify_checksum(
            buffer, start - binlog.HEADER_SIZE, following - start + binlog.HEADER_SIZE
        ):
            self._refuse_checksum(kind)

    def _refuse_checksum(self, kind: int) -> NoReturn:
        self._refuse(
            kind,
            "its checksum is wrong: the event was damaged in the source's log, or on its way",
            "start again; when that does not help, look at the file with `mysqlbinlog --verify-binlog-checksum`; a log that "
            "is damaged ends this pipeline: run `replicator drop`, then load again",
        )

    def _refuse_order(self, kind: int) -> NoReturn:
        self._refuse(
            kind, "an event that cannot stand here", "report it with the server's version and this position"
        )

    def _refuse(self, kind: int, what: str, hint: str) -> NoReturn:
        name = binlog.EVENT_NAMES.get(kind, f"type {kind}")
        raise UnsupportedEvent(f"{name}: {what}", hint=hint)


def _is_begin(buffer: bytes, start: int, end: int) -> bool:
    """Whether a query event is BEGIN, without parsing it: five letters behind its variables and its schema."""
    head = start + 13 + buffer[start + 11] + (buffer[start + 12] << 8) + buffer[start + 8] + 1
    return head + 5 == end and buffer.startswith(b"BEGIN", head)


def _shorten(text: bytes) -> str:
    return text[:200].decode("utf8", "replace") + ("…" if len(text) > 200 else "")
