"""What answers at an address where no MySQL server greets us: a server of another kind looks like an outage without end."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from typing import Any, Final, NamedTuple

import pymysql

GARBAGE: Final = (struct.error, IndexError, ValueError, AssertionError)
"""What PyMySQL raises, beside its own errors, over a greeting that is none."""

_LOST: Final = (2006, 2013)
_ANSWER_SECONDS: Final = 2.0
_LANGUAGES: Final = (
    ("HTTP", b"GET / HTTP/1.0\r\n\r\n", (b"HTTP/",)),
    ("PostgreSQL's protocol", struct.pack(">II", 8, 80_877_103), (b"S", b"N")),  # may we use TLS?
)


class Stranger(NamedTuple):
    """``is_certain``: waiting will not make a MySQL server of it."""

    message: str
    is_certain: bool


def find_stranger(connection: Any, error: Exception, host: str, port: int) -> Stranger | None:
    """Why a connect of PyMySQL's failed, where nothing greeted us as a MySQL server does; None where one did, or nobody
    answered at all."""
    if isinstance(error, GARBAGE):
        return Stranger(f"what answers there does not speak MySQL: {error}", is_certain=True)
    number = error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else None
    if isinstance(number, str):
        return Stranger(f"what answers there does not speak MySQL: {number}", is_certain=True)
    if number not in _LOST or hasattr(connection, "server_version"):
        return None
    language = _find_language(host, port)
    if language:
        return Stranger(f"what answers there speaks {language}, not MySQL", is_certain=True)
    return Stranger(
        "the port answers, and nothing there greets us as a MySQL server does: a proxy without a server behind it, a"
        " server that hangs, or another service that waits for us to speak first",
        is_certain=False,
    )


@functools.cache
def _find_language(host: str, port: int) -> str:
    """Speak first, once a run: a MySQL server counts such strangers, and shuts out a host that sends many."""
    for name, request, answers in _LANGUAGES:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, port), _ANSWER_SECONDS) as sock,
        ):
            sock.sendall(request)
            if sock.recv(16).startswith(answers):
                return name
    return ""
