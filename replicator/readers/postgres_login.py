"""Logins at a PostgreSQL server, step by step: a refused one is known by its SQLSTATE, whatever language it is told in.

libpq tells the code of a refused login in its most verbose messages only. Those must be asked for before the answer comes:
psycopg connects in one go, and does not offer the call.
"""

from __future__ import annotations

import ctypes
import re
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

_DEFAULT, _VERBOSE = 1, 2  # PGVerbosity
_CODE: Final = re.compile(r"(?<=:  )([0-9A-Z]{5}): ")
_PLACE: Final = re.compile(r"^LOCATION:  .*$", re.MULTILINE)  # where in its own program the server said it


class LoginFailed(psycopg.OperationalError):
    """``states``: the SQLSTATE of each answer of the server, one without TLS after one with it; none where none came."""

    def __init__(self, text: str, states: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.states = tuple(states)


def open_connection(
    host: str, port: int, options: Mapping[str, str], seconds: float
) -> psycopg.Connection[Any]:
    """A session with autocommit on. ``options`` are libpq's; each address of the host has so many ``seconds``.

    Raises LoginFailed.
    """
    failures: list[LoginFailed] = []
    for address in _resolve(host, port):
        conninfo = make_conninfo(host=host, hostaddr=address, port=port, **options)
        try:
            connection = psycopg.Connection(_open(conninfo, seconds))
        except LoginFailed as error:
            failures.append(error)
            if error.states:  # the server has spoken
                break
        else:
            connection.autocommit = True
            return connection
    raise LoginFailed("; ".join(dict.fromkeys(map(str, failures))), failures[-1].states)


def _resolve(host: str, port: int) -> Sequence[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LoginFailed(f"failed to resolve host {host!r}: {error}") from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def _open(conninfo: str, seconds: float) -> pq.abc.PGconn:
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        _set_verbosity(pgconn, _VERBOSE)
        deadline = time.monotonic() + seconds
        while (status := pgconn.connect_poll()) != pq.PollingStatus.OK:
            if status == pq.PollingStatus.FAILED:
                raise _build_failure(pgconn.get_error_message())
            _wait(pgconn.socket, deadline, to_write=status == pq.PollingStatus.WRITING)
        _set_verbosity(pgconn, _DEFAULT)
        pgconn.nonblocking = 1  # as psycopg's own are
    except BaseException:
        pgconn.finish()
        raise
    return pgconn


def _wait(number: int, deadline: float, *, to_write: bool) -> None:
    left = max(0.0, deadline - time.monotonic())
    readable, writable = ([], [number]) if to_write else ([number], [])
    if not any(select.select(readable, writable, [], left)):
        raise LoginFailed("connection timeout expired")


def _build_failure(text: str) -> LoginFailed:
    plain = " ".join(_CODE.sub("", _PLACE.sub("", text)).split())
    return LoginFailed(f"connection failed: {plain}", _CODE.findall(text))


def _load_libpq() -> ctypes.CDLL:
    """The library that psycopg itself calls: it is found behind the module that was linked with it."""
    library = ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__)
    library.PQsetErrorVerbosity.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


_LIBPQ: Final = _load_libpq()


def _set_verbosity(pgconn: Any, verbosity: int) -> None:
    _LIBPQ.PQsetErrorVerbosity(pgconn.pgconn_ptr, verbosity)
