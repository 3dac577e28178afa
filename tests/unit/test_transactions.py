"""Packets to transactions, on bytes made here: what no real server can be made to send at will (I1, I7)."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.errors import PositionLost, SourceError, SourceUnavailable, UnsupportedEvent
from replicator.model import Column, Idle, Kind, StreamItem, TableName, TableSchema, Transaction
from replicator.readers import binlog, transport
from replicator.readers.gtid import FilePosition, GtidPosition
from replicator.readers.selected import Counters, Selection
from replicator.readers.transactions import Transactions
from replicator.readers.transport import MAX_PACKET, DumpEnded, Link
from replicator.readers.xa import Undecided

SID = bytes(range(16))
KEY = "00010203-0405-0607-0809-0a0b0c0d0e0f"
START = GtidPosition.of("mysql:x", f"{KEY}:1-10")


def make_event(kind: int, body: bytes, *, log_pos: int = 0, flags: int = 0, time: int = 1000) -> bytes:
    return binlog.HEADER.pack(time, kind, 1, binlog.HEADER_SIZE + len(body), log_pos, flags) + body


def make_description(version: str = "9.7.0", time: int = 1000) -> bytes:
    body = struct.pack("<H50sIB", 4, version.encode(), 0, 19) + bytes(42) + b"\x00" + bytes(4)
    return make_event(binlog.FORMAT_DESCRIPTION, body, time=time)


def make_rotate(file: str, position: int = 4) -> bytes:
    return make_event(binlog.ROTATE, struct.pack("<Q", position) + file.encode(), flags=0x20)


def make_gtid(number: int, moment: int = 77) -> bytes:
    body = struct.pack("<B16sqBQQ", 1, SID, number, 2, 0, 0) + moment.to_bytes(7, "little") + b"\xff"
    return make_event(binlog.GTID, body + b"\x00" * 8)


def make_query(text: str, schema: str = "d", **more: int) -> bytes:
    body = struct.pack("<IIBHH", 1, 0, len(schema), 0, 0) + schema.encode() + b"\0" + text.encode()
    return make_event(binlog.QUERY, body, **more)


def make_xid(**more: int) -> bytes:
    return make_event(binlog.XID, bytes(8), **more)


TABLE = TableSchema(TableName("d", "t"), "t", (Column("id", Kind.INTEGER, "int"),), (0,))
HEAD = make_rotate("binlog.000001") + make_description()


class Stream:
    """A link whose other end is in the test's hand."""

    def __init__(self, start: Any = START) -> None:
        near, self.far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        connection = SimpleNamespace(_sock=near, _force_close=near.close)
        self.link = Link(cast(Any, connection), "test:1")
        self.stop = threading.Event()
        self.counters = Counters()
        self.transactions = Transactions(
            self.link,
            start,
            selection=Selection([TABLE]),
            counters=self.counters,
            stop=self.stop,
            undecided=Undecided(1 << 20),
        )
        self._number = 0

    def send(self, *events: bytes) -> None:
        self.far.sendall(b"".join(self.frame(b"\0" + event) for event in split(b"".join(events))))

    def frame(self, payload: bytes) -> bytes:
        packets = [payload[at : at + MAX_PACKET] for at in range(0, len(payload) + 1, MAX_PACKET)]
        framed = b""
        for packet in packets:
            framed += len(packet).to_bytes(3, "little") + bytes([self._number % 256]) + packet
            self._number += 1
        return framed

    def read(self) -> list[StreamItem]:
        """What comes until nothing more is waiting."""
        items = list[StreamItem]()
        for item in self.items:
            if isinstance(item, Idle):
                return items
            items.append(item)
        return items

    @property
    def items(self) -> Iterator[StreamItem]:
        return self.transactions.items()


def split(events: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(events):
        size = int.from_bytes(events[at + 9 : at + 13], "little")
        yield events[at : at + size]
        at += size


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_transaction_needs_its_terminator(stream: Stream) -> None:
    stream.send(HEAD, make_gtid(11), make_query("BEGIN"))
    assert stream.read() == []
    assert stream.transactions.position == START
    stream.send(make_xid())
    [item] = stream.read()
    assert isinstance(item, Transaction)
    assert item.position == START.after(KEY, 11)
    assert item.commit_time == 77


def test_bytes_may_come_in_any_pieces(stream: Stream) -> None:
    pick = random.Random(5)
    events = HEAD + b"".join(make_gtid(n) + make_query("BEGIN") + make_xid() for n in range(11, 60))
    data = b"".join(stream.frame(b"\0" + event) for event in split(events))
    seen = list[StreamItem]()
    while data:
        size = pick.randrange(1, 90)
        stream.far.sendall(data[:size])
        data = data[size:]
        seen += stream.read()
    assert [str(item.position) for item in seen] == [
        f"gtid:{KEY}:1-{n};server=mysql:x" for n in range(11, 60)
    ]


@pytest.mark.parametrize("extra", [-1, 0, 1, MAX_PACKET - 1, MAX_PACKET, MAX_PACKET + 1])
def test_events_of_many_packets(stream: Stream, extra: int) -> None:
    """A payload of exactly the limit is followed by an empty packet."""
    body = bytes(MAX_PACKET - 1 - binlog.HEADER_SIZE + extra)
    events = [HEAD, make_event(binlog.ROWS_QUERY, body), make_gtid(11), make_query("BEGIN"), make_xid()]
    sender = threading.Thread(target=stream.send, args=events)
    sender.start()
    items = list[StreamItem]()
    while not items:
        items = stream.read()
    sender.join()
    assert items[0].position == START.after(KEY, 11)


def test_a_group_cut_off_by_a_crash_is_forgotten(stream: Stream) -> None:
    stream.send(HEAD, make_gtid(11), make_query("BEGIN"), make_query("SAVEPOINT a"))
    stream.send(make_query("TRUNCATE t"))
    stream.send(make_rotate("binlog.000002"), make_description(), make_gtid(12), make_query("BEGIN"))
    stream.send(make_query("COMMIT"))
    [item] = stream.read()
    assert isinstance(item, Transaction)
    assert not item.changes
    assert item.position == START.after(KEY, 12)


def test_rollback_moves_the_position(stream: Stream) -> None:
    stream.send(HEAD, make_gtid(11), make_query("BEGIN"), make_query("TRUNCATE t"), make_query("ROLLBACK"))
    [item] = stream.read()
    assert isinstance(item, Transaction)
    assert not item.changes
    assert item.position == START.after(KEY, 11)


def test_rollback_to_a_savepoint_cuts_back(stream: Stream) -> None:
    truncate = make_query("TRUNCATE t")
    stream.send(HEAD, make_gtid(11), make_query("BEGIN"), truncate, make_query("SAVEPOINT `a`"), truncate)
    stream.send(make_query("SAVEPOINT b"), truncate, make_query("ROLLBACK TO `A`"), truncate)
    stream.send(make_query("ROLLBACK TO a"), make_xid())
    [item] = stream.read()
    assert isinstance(item, Transaction)
    assert (len(list(item.changes)), item.rows) == (1, 1)
    stream.send(make_gtid(12), make_query("BEGIN"), make_query("ROLLBACK TO a"))
    with pytest.raises(UnsupportedEvent, match="never set"):
        stream.read()


def test_unknown_event_is_skipped_only_when_it_may_be(stream: Stream) -> None:
    flag = binlog.LOG_EVENT_IGNORABLE_F
    stream.send(HEAD, make_event(99, b"abc", flags=flag), make_event(binlog.IGNORABLE, b"", flags=flag))
    stream.send(make_gtid(11), make_query("BEGIN"), make_event(99, b"", flags=flag), make_xid())
    assert len(stream.read()) == 1
    assert stream.counters.skipped == {"type 99": 2, "IGNORABLE": 1}
    stream.send(make_event(99, b"abc"))
    with pytest.raises(UnsupportedEvent, match="type 99"):
        stream.read()


@pytest.mark.parametrize(
    ("events", "match"),
    [
        ([make_xid()], "cannot stand here"),
        ([make_query("BEGIN")], "cannot stand here"),
        ([make_gtid(11), make_gtid(12)], "cannot stand here"),
        ([make_gtid(11), make_query("COMMIT")], "cannot stand here"),
        ([make_gtid(11), make_query("BEGIN"), make_query("ROLLBACK TO nowhere")], "never set"),
        (
            [make_gtid(11), make_query("BEGIN"), make_event(binlog.WRITE_ROWS, bytes(40))],
            "no table map named",
        ),
        ([make_event(binlog.INCIDENT, struct.pack("<HB", 1, 4) + b"lost")], "lost events: lost"),
        ([make_event(binlog.GTID_TAGGED, bytes(40))], "tag"),
        ([make_event(binlog.ANONYMOUS_GTID, make_gtid(0)[19:].replace(SID, bytes(16)))], "without a GTID"),
    ],
)
def test_what_does_not_fit_stops_the_source(stream: Stream, events: list[bytes], match: str) -> None:
    stream.send(HEAD, *events)
    with pytest.raises(UnsupportedEvent, match=match):
        stream.read()


def test_rows_events_without_a_table_end_a_statement(stream: Stream) -> None:
    dummy = b"\xff\xff\xff\x00\x00\x00" + bytes(10)
    stream.send(HEAD, make_gtid(11), make_query("BEGIN"), make_event(binlog.WRITE_ROWS, dummy), make_xid())
    assert len(stream.read()) == 1


def test_error_packets_are_read_even_when_the_link_is_cut(stream: Stream) -> None:
    text = b"\xff" + (1236).to_bytes(2, "little") + b"#HY000the source purged required binary logs"
    stream.send(HEAD, make_gtid(11), make_query("BEGIN"), make_xid())
    stream.far.sendall(stream.frame(text))
    stream.far.close()
    items = stream.items
    assert next(items).position == START.after(KEY, 11)
    with pytest.raises(PositionLost, match="purged required"):
        next(items)


def test_end_of_the_dump_and_cut_links_are_outages(stream: Stream) -> None:
    stream.far.sendall(stream.frame(b"\xfe\0\0\0\0"))
    with pytest.raises(DumpEnded):
        stream.read()
    stream.far.close()
    stream.link.at = len(stream.link.buffer)
    with pytest.raises(SourceUnavailable, match="closed the connection"):
        stream.read()


def test_packets_that_are_no_events_are_refused(stream: Stream) -> None:
    stream.far.sendall(stream.frame(b"\0" + make_xid() + b"more"))
    with pytest.raises(SourceError, match="does not hold one event"):
        stream.read()


def test_silence_counts_only_while_we_listen(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEMANTICS §1.8: back-pressure is not death."""
    now = [100.0]
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert stream.link.inspect(0.001) is None
    now[0] += 1e6  # nobody reads for days
    assert stream.link.inspect(0.001) is None
    real = stream.link._poll

    def poll(_: float) -> list[tuple[int, int]]:
        now[0] += 20
        return []

    stream.link._poll = cast(Any, SimpleNamespace(poll=poll))
    assert stream.link.inspect(0.001) is None
    with pytest.raises(SourceUnavailable, match="no heartbeat"):
        stream.link.inspect(0.001)
    stream.link._poll = real


def test_file_positions_move_by_the_log() -> None:
    start = FilePosition("mysql:x", "binlog.000001", 1000, 4)
    stream = Stream(start)
    anonymous = make_event(binlog.ANONYMOUS_GTID, make_gtid(0)[19:].replace(SID, bytes(16)))
    stream.send(HEAD, anonymous, make_query("BEGIN"), make_xid(log_pos=300))
    stream.send(make_rotate("binlog.000002"), make_description(time=2000))
    [first] = stream.read()
    assert first.position == FilePosition("mysql:x", "binlog.000001", 1000, 300)
    assert stream.transactions.position == FilePosition("mysql:x", "binlog.000002", 2000, 4)
    stream.send(anonymous, make_query("BEGIN"), make_xid(log_pos=500))
    [second] = stream.read()
    assert second.position == FilePosition("mysql:x", "binlog.000002", 2000, 500)


def test_offsets_beyond_4_gib_are_refused() -> None:
    """Four bytes tell where an event ends: a file that one huge transaction made longer begins anew."""
    stream = Stream(FilePosition("mysql:x", "binlog.000001", 1000, (1 << 32) - 50))
    anonymous = make_event(binlog.ANONYMOUS_GTID, make_gtid(0)[19:].replace(SID, bytes(16)))
    stream.send(HEAD, anonymous, make_query("BEGIN"), make_xid(log_pos=300))
    with pytest.raises(UnsupportedEvent, match=r"binlog.000001 is longer than 4 GiB"):
        stream.read()


def test_a_file_of_the_same_name_is_not_the_same_file() -> None:
    stream = Stream(FilePosition("mysql:x", "binlog.000001", 999, 4))
    stream.send(HEAD)
    with pytest.raises(PositionLost, match="were reset"):
        stream.read()
