"""A target as the program sees it, and a line to it that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from replicator.config import Target
from replicator.config.kinds import Secret
from replicator.servers import Server
from replicator.tls import Tls, TlsMode
from tests.accounts import Account

SECONDS = 30.0


def build_endpoint(account: Account, *, port: int = 0, tls: TlsMode = TlsMode.REQUIRED) -> Target:
    """The account's database as a pipeline's target, through another port when one is given."""
    return Target(
        host=account.server.host,
        port=port or account.server.port,
        user=account.user,
        password=Secret(account.password),
        database=account.database,
        tls=Tls(tls),
    )


def wait_until(is_true: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Look again and again until it holds; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@contextlib.contextmanager
def set_global(server: Server, name: str, value: str) -> Iterator[None]:
    """A server variable for a while; what it was comes back, whatever the server was started with."""
    before = server.execute(f"SELECT @@GLOBAL.{name}")[0][0]
    server.execute(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        server.execute(f"SET GLOBAL {name} = %s", (before,))


class Line:
    """A TCP proxy in front of a server, whose two directions can be held and whose connections can be cut.

    Held bytes stay in the proxy. ``cut`` drops the client's side of all connections; ``deliver`` hands over
    what was held on its way to the server, as a network would that kept a packet too long. What the server says in
    ``words`` arrives as their translation, which is as long.
    """

    def __init__(self, port: int, *, words: Mapping[bytes, bytes] | None = None) -> None:
        self._server_port = port
        self._words = dict(words or {})
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.to_server = threading.Event()
        self.to_client = threading.Event()
        self.to_server.set()
        self.to_client.set()
        self.held = bytearray()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._pairs.append((client, server))
                for source, sink, gate in (
                    (client, server, self.to_server),
                    (server, client, self.to_client),
                ):
                    threading.Thread(target=self._pump, args=(source, sink, gate), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        is_request = gate is self.to_server
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_request and not gate.is_set():
                    self.held += data
                    continue
                gate.wait()
                for word, translated in self._words.items():
                    data = data.replace(word, translated)
                sink.sendall(data)
        if not is_request:  # the server never hears that a client has gone, unless the client said so
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Drop every client; the server's sides stay open, as after a tunnel's death."""
        self._cut, self._pairs = self._pairs, []
        for client, _ in self._cut:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def deliver(self) -> None:
        """Give the server what was held of the connection that was cut."""
        ((_, server),) = self._cut
        server.sendall(self.held)
        self.held.clear()

    def refuse(self) -> None:
        """Let nobody in any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        self.refuse()
        for client, server in [*self._pairs, *self._cut]:
            client.close()
            server.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stranger:
    """A server of another protocol: it greets everybody, or waits a moment for them to speak first and ``answer``s."""

    def __init__(self, greeting: bytes, *, answer: bytes = b"") -> None:
        self._greeting = greeting
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(0.5)
                with (
                    client,
                    contextlib.suppress(OSError),
                ):  # it does not wait long for a client that says nothing
                    client.sendall(self._greeting)
                    if self._answer and client.recv(1024):
                        client.sendall(self._answer)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
