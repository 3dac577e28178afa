"""The dump connection: opened by mysql-replication, then read by us as bytes. The only place that touches private names.

``BinLogStreamReader`` does what it is good at (checksum negotiation, registration, heartbeats, the dump command), on a
session that we opened and set up; then its connection is ours and its slow per-event wrapper is never entered.
``PRIVATE_NAMES`` lists what we touch without a promise from these libraries; a test fails when one moves.

A ``Link`` hands out bytes, not packets: the readers of it scan headers in place (PERFORMANCE, rule 1).
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

import pymysql
from pymysqlreplication import BinLogStreamReader

from replicator.errors import PositionLost, SourceError, SourceTaken, SourceUnavailable, UnsupportedEvent
from replicator.readers import binlog
from replicator.readers.gtid import FilePosition, GtidPosition, MariadbPosition, MysqlPosition
from replicator.stranger import GARBAGE, find_stranger

Connect = Callable[[], "pymysql.Connection[Any]"]
"""Opens a session at the source that runs ordinary SQL; resolves the host anew each time."""

PRIVATE_NAMES: Final = (
    (BinLogStreamReader, "_BinLogStreamReader__connect_to_stream"),
    (pymysql.connections.Connection, "_sock"),
    (pymysql.connections.Connection, "_write_bytes"),
    (pymysql.connections.Connection, "_force_close"),
)

HANDSHAKE_SECONDS: Final = 30
HEARTBEAT_SECONDS: Final = 1.0
SILENT_HEARTBEATS: Final = 30  # a link that says nothing for so many heartbeats is dead
RECEIVE_BYTES: Final = 1 << 19
MAX_PACKET: Final = 0xFFFFFF  # a packet of this length is continued by the next one

PACKET_HEADER: Final = struct.Struct("<IB")  # length and sequence number, then the status byte
_COM_BINLOG_DUMP_GTID: Final = 0x1E
_EMPTY_SET_BYTES: Final = 4 + 8  # how the library's command ends: the set's length, and a count of 0
STATUS_OK: Final = 0x00
STATUS_ERROR: Final = 0xFF
EVENT_OFFSET: Final = 5  # from the packet's first byte to its event

# The server cuts a dump that nobody reads for net_write_timeout: back-pressure is no death (SEMANTICS §1.8).
# That we know checksums must be said also where the server writes none just now: its older files may have them.
SESSION_SQL: Final = (
    "SET SESSION net_write_timeout = 3600, net_read_timeout = 3600,"
    " @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'"
)

AWAY_CODES: Final = frozenset(
    {
        1040,
        1053,
        1158,
        1159,
        1160,
        1161,
        1203,
        1226,
        1317,
        1927,
        2002,
        2003,
        2005,
        2006,
        2013,
        2055,
        3169,
        4031,
    }
)
"""Server and client error numbers after which the same connect may work later."""

LOGIN_CODES: Final = frozenset({1044, 1045, 1130, 1251, 1698, 1862, 2059, 3118, 3159, 4151})
GRANT: Final = "`replicator check` prints the GRANT that this account lacks"
PRIVILEGE_CODES: Final = frozenset({1142, 1143, 1227, 1370})


class DumpEnded(SourceUnavailable):
    """The source has sent all it has: only asked for in a dump that does not wait."""


class Replica(NamedTuple):
    """What we are to the source: a server_id and a uuid that no other replica of it may have."""

    server_id: int
    uuid: str

    @classmethod
    def of(cls, short_id: str) -> Replica:
        """The same for the same pipeline at every start (SEMANTICS §1.7)."""
        own = uuid.uuid5(uuid.NAMESPACE_URL, f"replicator:{short_id}")
        return cls((1 << 31) | (own.int & 0x7FFFFFFF), str(own))

    @classmethod
    def passing(cls) -> Replica:
        """For a short dump beside the pipeline's own, which it must not push out."""
        return cls((1 << 30) | random.getrandbits(30), str(uuid.uuid4()))


class _Members(list[str]):
    """An empty GTID set for the library, which takes one for "no GTIDs"; ``_send_gtids`` puts the real one in its place."""

    def __bool__(self) -> bool:
        return True


class Link:
    """The connection once the dump runs. ``buffer`` holds what was received; the reader of it moves ``at`` forward.

    Not for two threads. ``bytes_read`` counts what came; ``address`` is for messages.
    """

    def __init__(self, connection: pymysql.Connection[Any], address: str) -> None:
        self.address = address
        self.buffer = b""
        self.at = 0
        self.bytes_read = 0
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._silence = 0.0

    def inspect(self, timeout: float) -> int | None:
        """Wait for the whole packet at ``at``; gives the end of its event, which begins five bytes behind ``at``.

        ``buffer`` and ``at`` may be other ones afterwards. None: not all of it came within ``timeout`` seconds. An event
        of several packets is put in one piece. Raises SourceUnavailable when the link is cut, or silent for too long
        while we wait; DumpEnded; and what an error packet means.
        """
        if not self._has(EVENT_OFFSET, timeout):
            return None
        head, status = PACKET_HEADER.unpack_from(self.buffer, self.at)
        length = head & MAX_PACKET
        if not self._has(4 + length, timeout):
            return None
        if status != STATUS_OK:
            self._end(status, self.buffer[self.at + 5 : self.at + 4 + length])
        end = self.at + 4 + length if length < MAX_PACKET else self._join(timeout)
        if end is not None and not self._is_event(end):
            raise UnsupportedEvent(
                f"{self.address}: a packet of the dump does not hold one event of its own length",
                hint="connect to the server itself, not through a proxy that changes packets",
            )
        return end

    def _end(self, status: int, body: bytes) -> NoReturn:
        if status != STATUS_ERROR:
            raise DumpEnded(f"{self.address}: the source ended the dump")
        code, rest = int.from_bytes(body[:2], "little"), body[2:]
        text = rest[6 if rest.startswith(b"#") else 0 :].decode(
            "utf8", "replace"
        )  # an SQLSTATE may stand first
        raise explain(pymysql.err.OperationalError(code, text), self.address)

    def _is_event(self, end: int) -> bool:
        start = self.at + EVENT_OFFSET
        size = int.from_bytes(self.buffer[start + 9 : start + 13], "little")
        return end - start >= binlog.HEADER_SIZE and start + size == end

    def _has(self, need: int, timeout: float) -> bool:
        """Receive until ``need`` bytes stand behind ``at``; False: they did not come in time."""
        have = len(self.buffer) - self.at
        if have >= need:
            return True
        have += self._pending_size
        while have < need:
            received = self._receive(timeout)
            if not received:
                return False
            have += received
        self.buffer = b"".join((self.buffer[self.at :], *self._pending))
        self.at, self._pending, self._pending_size = 0, [], 0
        return True

    def _join(self, timeout: float) -> int | None:
        """Take the headers out of an event longer than 16 MB; None: not all here yet, and nothing has changed."""
        pieces, offset, length = [], 0, MAX_PACKET
        while length == MAX_PACKET:
            if not self._has(offset + 4, timeout):
                return None
            at = self.at + offset
            length = int.from_bytes(self.buffer[at : at + 3], "little")
            if not self._has(offset + 4 + length, timeout):
                return None
            pieces.append((offset + 4, offset + 4 + length))
            offset += 4 + length
        view = memoryview(self.buffer)[self.at :]
        self.buffer = b"".join((view[:4], *(view[a:b] for a, b in pieces), view[offset:]))
        self.at = 0
        return 4 + sum(b - a for a, b in pieces)

    def _receive(self, timeout: float) -> int:
        """Take what has come, waiting for the first of it. A cut link is reported once all that came before is taken:
        an error packet may say why it was cut.
        """
        received = 0
        while received < RECEIVE_BYTES:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                if received or not self._wait(timeout):
                    break
                continue
            except OSError as error:
                if received:
                    break
                raise SourceUnavailable(f"{self.address}: lost the connection: {error}") from error
            if not data:
                if received:
                    break
                raise SourceUnavailable(f"{self.address}: the source closed the connection")
            received += len(data)
            self._pending.append(data)
        self._pending_size += received
        self.bytes_read += received
        return received

    def _wait(self, timeout: float) -> bool:
        """Only time spent here counts as silence: while nobody reads, nothing can be heard (SEMANTICS §1.8)."""
        begun = time.monotonic()
        if self._poll.poll(timeout * 1000):
            self._silence = 0.0
            return True
        self._silence += time.monotonic() - begun
        if self._silence > SILENT_HEARTBEATS * HEARTBEAT_SECONDS:
            raise SourceUnavailable(
                f"{self.address}: no event and no heartbeat for {self._silence:.0f} seconds"
            )
        return False

    def close(self) -> None:
        self._connection._force_close()


def open_session(options: Mapping[str, Any], address: str) -> pymysql.Connection[Any]:
    """Connect as ``options`` of ``pymysql.connect`` say. A server that never greets us is not waited for without end,
    however long its answers may take afterwards. Raises what ``explain`` makes of it."""
    connection = pymysql.Connection(**options, defer_connect=True)
    patience = connection._read_timeout
    connection._read_timeout = patience or HANDSHAKE_SECONDS
    try:
        connection.connect()
    except (pymysql.MySQLError, OSError, RuntimeError, *GARBAGE) as error:
        stranger = find_stranger(connection, error, options["host"], options["port"])
        if stranger is not None:
            kind = SourceError if stranger.is_certain else SourceUnavailable
            raise kind(f"{address}: {stranger.message}", hint="correct source.port") from error
        raise explain(error, address) from error
    connection._read_timeout = patience
    return connection


def open_link(connect: Connect, start: MysqlPosition, replica: Replica, *, waits: bool = True) -> Link:
    """Start a dump right after ``start``; ``waits``: go on when the log's end is reached.

    Raises SourceUnavailable, PositionLost or SourceError.
    """
    opened: list[pymysql.Connection[Any]] = []

    def open_session(**_: object) -> pymysql.Connection[Any]:
        opened.append(connect())
        with opened[0].cursor() as cursor:
            cursor.execute(SESSION_SQL)
        if isinstance(start, GtidPosition):
            _send_gtids(opened[0], start)
        return opened[0]

    stream = BinLogStreamReader(
        connection_settings={},
        pymysql_wrapper=open_session,
        server_id=replica.server_id,
        slave_uuid=replica.uuid,
        report_slave=socket.gethostname()[:60],
        slave_heartbeat=HEARTBEAT_SECONDS,
        blocking=waits,
        resume_stream=True,
        filter_non_implemented_events=False,
        enable_logging=False,
        **_start_options(start),
    )
    try:
        stream._BinLogStreamReader__connect_to_stream()
        _watch_peer(opened[0]._sock)
        return Link(opened[0], f"{opened[0].host}:{opened[0].port}")
    except BaseException as error:
        for connection in opened:
            connection._force_close()
        if isinstance(error, (pymysql.err.Error, OSError)):
            raise _explain_start(error, opened) from error
        raise


def _explain_start(error: pymysql.err.Error | OSError, opened: list[pymysql.Connection[Any]]) -> SourceError:
    """Once the session is open, "access denied" (1045, to a registration) is about the right to read the log."""
    address = f"{opened[0].host}:{opened[0].port}" if opened else "source"
    if opened and error.args and error.args[0] in LOGIN_CODES | PRIVILEGE_CODES:
        return SourceError(
            f"{address}: {error.args[1]} ({error.args[0]}): the account may not read the binary log,"
            " for want of REPLICATION SLAVE",
            hint=GRANT,
        )
    return explain(error, address)


def _start_options(start: MysqlPosition) -> dict[str, object]:
    """The library's words for a position (its ``is_mariadb`` ignores a file position)."""
    if isinstance(start, MariadbPosition):
        return {"auto_position": start.gtids, "is_mariadb": True}
    if isinstance(start, FilePosition):
        if start.offset >= 1 << 32:
            raise PositionLost(f"{start}: a dump cannot start beyond 4 GiB of a file")
        return {"log_file": start.file, "log_pos": start.offset}
    return {"auto_position": _Members()}


def _send_gtids(connection: pymysql.Connection[Any], start: GtidPosition) -> None:
    """Let the dump command that the library is about to send carry our set: its own knows no tags."""
    write = connection._write_bytes

    def send(packet: bytes) -> None:
        if packet[4] == _COM_BINLOG_DUMP_GTID:
            gtids = start.gtids.encode()
            command = packet[4:-_EMPTY_SET_BYTES] + struct.pack("<I", len(gtids)) + gtids
            packet = struct.pack("<I", len(command)) + command
        write(packet)

    connection._write_bytes = send


def _watch_peer(sock: socket.socket) -> None:
    """Find out about a dead peer in half a minute: tunnels die without a word."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 30_000),
    ):
        if hasattr(socket, name):  # the last one is Linux's own
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def read_rotate(buffer: bytes, at: int, end: int) -> binlog.Rotate:
    """The rotate event at ``at`` (its header's offset).

    The dump makes some up before it says whether events carry checksums, so the checksum itself must tell.
    """
    if binlog.verify_checksum(buffer, at, end - at):
        end -= binlog.CHECKSUM_SIZE
    return binlog.parse_rotate(buffer, at + binlog.HEADER_SIZE, end)


# --- errors ------------------------------------------------------------------------------------------------------------


def explain(error: Exception, address: str) -> SourceError:
    """The class, message and hint for what a driver or server said at the source (SEMANTICS §8)."""
    if isinstance(error, pymysql.err.InterfaceError):  # the driver's word for a session that was lost before
        return SourceUnavailable(f"{address}: the connection is closed")
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = f"{address}: {error.args[1] if len(error.args) > 1 else error}"
    cause = getattr(error, "original_exception", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SourceError(text, hint="check tls.ca and the host name in the source's certificate")
    if isinstance(cause, ssl.SSLEOFError | ConnectionError):  # lost within the handshake
        return SourceUnavailable(text)
    if code == 1236:
        return _explain_dump(text)
    if code in AWAY_CODES or (isinstance(error, OSError) and not isinstance(error, pymysql.err.Error)):
        return SourceUnavailable(text)
    if code in LOGIN_CODES:
        return SourceError(
            f"{text} ({code})", hint="check source.user, source.password and the account's host"
        )
    if code in PRIVILEGE_CODES:
        return SourceError(f"{text} ({code})", hint=GRANT)
    return SourceError(f"{text} ({code})")


_GONE: Final = (
    "purged",
    "could not find",
    "not in the master",
    "not in the source",
    "position > file size",
    "impossible position",
)


def _explain_dump(text: str) -> SourceError:
    """Error 1236 has many meanings; only its text tells them apart."""
    lower = text.lower()
    if "same server_uuid/server_id" in lower:
        return SourceTaken(
            f"{text} (1236)",
            hint="another process reads with this pipeline's server_id: stop it, or give one of them its own pipeline",
        )
    if "log is not open" in lower:
        return SourceError(f"{text} (1236)", hint="set log_bin at the source and restart it")
    if any(word in lower for word in _GONE):
        return PositionLost(
            f"{text} (1236)",
            hint="the source no longer has what follows the stored position: run `replicator drop`, then load again; "
            "keep binary logs for longer (binlog_expire_logs_seconds)",
        )
    return SourceError(f"{text} (1236)", hint="see the source's error log; its binary log may be damaged")
