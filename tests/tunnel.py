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


def at_random(seed: int, *, most: int = 300_000) -> Cutter:
    """Connections that live for anything between a few bytes and ``most``, long and short ones alike."""
    chance = random.Random(seed)
    return lambda: int(chance.choice([1_000, 10_000, most, most]) * chance.random())


class Carrier:
    """One connection of the tunnel: the client's socket and the server's."""

    def __init__(self, client: socket.socket, server: socket.socket, limit: int) -> None:
        self.client = client
        self.server = server
        self._left = limit
        self._lock = threading.Lock()

    def take(self, data: bytes) -> bytes:
        """What of ``data`` may still pass."""
        with self._lock:
            allowed = data[: self._left]
            self._left -= len(allowed)
        return allowed

    def reset(self, *ends: socket.socket) -> None:
        """End these sides (both, unless said) as a lost link does: without a goodbye."""
        for end in ends or (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()


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
