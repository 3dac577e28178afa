"""The replication connection: messages come out of it, feedback goes into it, from its own thread (SEMANTICS §1.8).

Feedback goes on while nobody reads, with the LSN acked last, so that back-pressure does not look like death.
"""

from __future__ import annotations

import contextlib
import select
import struct
import threading
import time
from typing import Final

import psycopg
from psycopg import pq

from replicator.config import Source
from replicator.errors import SourceUnavailable
from replicator.readers.lsn import format_lsn
from replicator.readers.pgoutput import EPOCH
from replicator.readers.postgres_session import (
    Connection,
    build_error,
    connect,
    explain,
    fetch,
    quote_name,
    read_state,
)

BATCH: Final = 500  # messages that are taken at once
FEEDBACK_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 60.0  # a source that answers no question for so long is gone
_FEEDBACK: Final = struct.Struct(">cQQQqB")
_KEEPALIVE: Final = struct.Struct(">cQqB").unpack
_W: Final = ord("w")


class Link:
    """An open replication stream. ``fetch`` and ``ask`` belong to the reading thread, ``ack`` to any.

    ``reported`` is the newest LSN of a keepalive, 0 once it was taken; ``pid`` the server's session.
    """

    def __init__(self, connection: Connection, address: str, acked: int, timeout: float) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._address = address
        self._lock = threading.Lock()
        self._acked = acked
        self._unanswered = 0.0  # since when a question has been open; 0: none is
        self._closed = threading.Event()
        self.pid: int = connection.info.backend_pid
        self.reported = 0
        self.bytes_read = 0
        # A server that wants to hear from us every `timeout` seconds (0: never) hears three times as often.
        self._interval = min(FEEDBACK_SECONDS, timeout / 3) if timeout else FEEDBACK_SECONDS
        self._pgconn.nonblocking = 1
        threading.Thread(target=self._give_feedback, name="feedback", daemon=True).start()

    def fetch(self, seconds: float) -> list[bytes]:
        """The XLogData messages that have arrived, waiting up to ``seconds`` for the first. Raises SourceUnavailable."""
        messages = self._take()
        if not messages:
            select.select([self._pgconn.socket], [], [], seconds)
            with self._lock, self._errors():
                self._pgconn.consume_input()  # whether readable or not: TLS may hold what it has decrypted
            messages = self._take()
        # Judged after reading only: what came while nobody read is an answer, however old the question (SEMANTICS §1.8).
        if messages or self.reported:
            self._unanswered = 0.0
        elif self._unanswered and time.monotonic() - self._unanswered > SILENCE_SECONDS:
            raise SourceUnavailable(
                f"{self._address}: nothing was heard of the source for {SILENCE_SECONDS:.0f} s"
            )
        return messages

    def _take(self) -> list[bytes]:
        messages: list[bytes] = []
        size = 0
        with self._lock, self._errors():
            get = self._pgconn.get_copy_data
            while len(messages) < BATCH:
                got, view = get(1)
                if got <= 0:
                    break
                data = bytes(view)
                size += got
                if data[0] == _W:
                    messages.append(data)
                elif self._take_keepalive(data):
                    self._send(reply=False)
        self.bytes_read += size
        if got < 0:
            self._raise_end()
        return messages

    def _take_keepalive(self, data: bytes) -> bool:
        """Whether the server wants an answer at once."""
        _, lsn, _, wants_reply = _KEEPALIVE(data)
        self.reported = max(self.reported, lsn)
        return bool(wants_reply)

    def _raise_end(self) -> None:
        """The server ended the stream; what it said last is the result."""
        with self._lock, self._errors():
            result = self._pgconn.get_result()
        if result is None or result.status == pq.ExecStatus.COMMAND_OK:
            raise SourceUnavailable(f"{self._address}: the source has ended the replication stream")
        raise build_error(read_state(result), f"{self._address}: {result.get_error_message().strip()}")

    @contextlib.contextmanager
    def _errors(self):  # type: ignore[no-untyped-def]
        try:
            yield
        except psycopg.Error as error:
            raise SourceUnavailable(f"{self._address}: {' '.join(str(error).split())}") from error

    # --- feedback -----------------------------------------------------------------------------------------------------

    def ack(self, lsn: int) -> None:
        """What lies before ``lsn`` is stored at the target."""
        self._acked = max(self._acked, lsn)

    def ask(self) -> None:
        """Have the server say how far it is."""
        self._unanswered = self._unanswered or time.monotonic()
        with self._lock, self._errors():
            self._send(reply=True)

    def _send(self, *, reply: bool) -> None:
        now = time.time_ns() // 1000 - EPOCH
        acked = self._acked
        self._pgconn.put_copy_data(_FEEDBACK.pack(b"r", acked, acked, acked, now, reply))
        self._pgconn.flush()

    def _give_feedback(self) -> None:
        while not self._closed.wait(self._interval):
            with contextlib.suppress(SourceUnavailable), self._lock, self._errors():
                if not self._closed.is_set():
                    self._send(reply=False)

    def close(self) -> None:
        """Tell what was acked last, then end."""
        self._closed.set()
        with self._lock, contextlib.suppress(psycopg.Error):
            self._send(reply=False)
            self._connection.close()


def open_link(source: Source, slot: str, lsn: int, acked: int) -> Link:
    """Start to read from a slot behind ``lsn``; ``acked`` is what is stored, at or before it, 0 where that is not known.

    Raises SourceUnavailable, SourceError.
    """
    connection = connect(source, replication=True)
    try:
        row = fetch(
            connection,
            "SELECT current_setting('server_version_num') AS version, setting AS timeout FROM pg_settings"
            " WHERE name = 'wal_sender_timeout'",
        )[0]
        version = int(row["version"])
        options = [f"proto_version '{_protocol(version)}'", f"publication_names '{quote_name(slot)}'"]
        if version >= 140_000:
            options.append("streaming 'on'")
        sql = f"START_REPLICATION SLOT {quote_name(slot)} LOGICAL {format_lsn(lsn)} ({', '.join(options)})"
        result = connection.pgconn.exec_(sql.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise build_error(read_state(result), f"{source.address}: {result.get_error_message().strip()}")
        return Link(connection, source.address, acked, int(row["timeout"]) / 1000)
    except psycopg.Error as error:
        connection.close()
        raise explain(error, source.address) from error
    except BaseException:
        connection.close()
        raise


def _protocol(version: int) -> int:
    """The newest version of the protocol that the server speaks; 3 adds only two-phase commits, which stay off."""
    return 4 if version >= 160_000 else 2 if version >= 140_000 else 1
