"""A TCP tunnel between the replicator and a server, for tests that cut it, at any byte, or keep back what it carries.

Bytes pass as they come. A ``Cutter`` bounds how many of them each connection lets through before both its ends are reset.
A ``Trick`` looks at whole client packets (the first three bytes are the length), which needs a link without TLS.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

BLOCK = 1 << 16
_NO_LIMIT = 1 << 62
_RESET = struct.pack("ii", 1, 0)

Cutter = Callable[[], int]
"""How many bytes, of both directions together, the next connection lets through."""


def never() -> int:
    """No connection is cut."""
    return _NO_LIMIT


def at_random(seed: int, *, most: int = 200_000) -> Cutter:
    """Connections that live for anything up to ``most`` bytes; one in six ends within its first thousand."""
    chance = random.Random(seed)
    return lambda: int(chance.choice([1_000, *[most] * 5]) * chance.random())


class Carrier:
    """One connection of the tunnel: the client's socket and the server's."""

    def __init__(self, client: socket.socket, server: socket.socket, limit: int) -> None:
        self.client = client
        self.server = server
        self.is_detached = False  # the client is gone and the server does not know
        self._left = limit
        self._lock = threading.Lock()
        self._heard: bytearray | None = None
        self._hearing = threading.Condition()

    def take(self, data: bytes) -> bytes:
        """What of ``data`` may still pass."""
        with self._lock:
            allowed = data[: self._left]
            self._left -= len(allowed)
        return allowed

    def hear(self, data: bytes) -> bool:
        """Keep what the server says from the client, when ``ask`` wants it."""
        with self._hearing:
            if self._heard is None:
                return False
            self._heard += data
            self._hearing.notify_all()
            return True

    def ask(self, packet: bytes) -> bytes:
        """Send a packet to the server and return the whole answer, of which the client hears nothing."""
        with self._hearing:
            self._heard = bytearray()
            self.server.sendall(packet)
            self._hearing.wait_for(lambda: _is_complete(bytes(self._heard or b"")), timeout=20)
            answer, self._heard = bytes(self._heard), None
        return answer

    def detach(self) -> None:
        """Lose the client; the server still waits for it."""
        self.is_detached = True
        self.reset(self.client)

    def reset(self, *ends: socket.socket) -> None:
        """End these sides (both, unless said) as a lost link does: without a goodbye."""
        for end in ends or (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def is_refused(answer: bytes) -> bool:
    """Whether an answer ends with an error."""
    packets = _split(answer)
    return bool(packets) and packets[-1][:1] == b"\xff"


def _is_complete(answer: bytes) -> bool:
    """Whether the server has said all: an error, or an OK that says that no more results follow."""
    packets = _split(answer)
    if not packets or packets[-1][:1] == b"\xff":
        return bool(packets)
    at = _skip_number(packets[-1], _skip_number(packets[-1], 1))
    return not packets[-1][at] & 8  # SERVER_MORE_RESULTS_EXISTS


def _skip_number(packet: bytes, at: int) -> int:
    """Past a length-encoded integer."""
    return at + {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(packet[at], 1)


def _split(data: bytes) -> list[bytes]:
    """The payloads of whole packets; a half one at the end is left out, and then nothing is said to be complete."""
    packets = []
    while len(data) >= 4:
        size = 4 + int.from_bytes(data[:3], "little")
        if len(data) < size:
            return []
        packets.append(data[4:size])
        data = data[size:]
    return packets


Trick = Callable[[Carrier, bytes], bool]
"""What happens to one whole packet of a client; False: it passes as if nobody had looked."""


class Tunnel:
    """Listens on a port of its own and carries every connection to the server behind it."""

    def __init__(self, host: str, port: int, *, cutter: Cutter = never, trick: Trick | None = None) -> None:
        self.behind = (host, port)
        self.cutter = cutter
        self.trick = trick
        self.cuts = 0
        self._carriers: set[Carrier] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._listen, name="tunnel", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.behind)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            carrier = Carrier(client, server, self.cutter())
            self._carriers.add(carrier)
            outward = self._watch if self.trick else self._carry
            for work, ends in ((outward, (client, server)), (self._carry, (server, client))):
                threading.Thread(target=work, args=(carrier, *ends), name="tunnel", daemon=True).start()

    def _carry(self, carrier: Carrier, origin: socket.socket, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := origin.recv(BLOCK):
                if origin is carrier.server and carrier.hear(data):
                    continue
                allowed = carrier.take(data)
                end.sendall(allowed)
                if len(allowed) < len(data):
                    self.cuts += 1
                    break
        carrier.reset()
        self._carriers.discard(carrier)

    def _watch(self, carrier: Carrier, origin: socket.socket, end: socket.socket) -> None:
        trick = self.trick
        assert trick is not None
        with contextlib.suppress(OSError):
            for packet in _read_packets(origin):
                if not trick(carrier, packet):
                    end.sendall(packet)
        if not carrier.is_detached:
            carrier.reset()
            self._carriers.discard(carrier)

    def cut(self) -> None:
        """Reset every connection of this moment."""
        for carrier in list(self._carriers):
            self.cuts += 1
            carrier.reset()

    def close(self) -> None:
        # A thread that is blocked in accept() keeps the listener alive until it is shut down.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_packets(origin: socket.socket) -> Iterator[bytes]:
    """Whole packets, headers included."""
    pending = bytearray()
    while data := origin.recv(BLOCK):
        pending += data
        while len(pending) >= 4 and len(pending) >= (size := 4 + int.from_bytes(pending[:3], "little")):
            yield bytes(pending[:size])
            del pending[:size]
