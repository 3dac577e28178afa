"""Ends a snapshot's sessions that a statement of the source's own waits for (SEMANTICS §2.6), beside ``mysql_snapshot``.

An ALTER that waits for a lock makes every later SELECT of that table wait behind it. So a SELECT of ours that reads no
row tells, without any grant, whether somebody waits: the session in the way is then killed, whatever it is about.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import pymysql

from replicator.errors import SourceError
from replicator.model import TableName
from replicator.typemap.mysql import quote_name

log = logging.getLogger("replicator")

LOOK_SECONDS: Final = 0.5
MOST_TABLES: Final = 50  # of one SELECT; a join takes 61
_LOCK_WAIT: Final = 1205


class Holder(Protocol):
    """A session that may be in the way."""

    number: int

    def held(self) -> frozenset[TableName]:
        """The tables whose metadata locks it may have."""
        ...

    def give_way(self, tables: Sequence[TableName]) -> None:
        """It is about to be killed, for somebody waits for one of ``tables``."""
        ...


class GiveWay:
    """Looks after ``sessions`` in a thread of its own until closed. ``connect`` opens a connection with autocommit on."""

    def __init__(self, connect: Callable[[], Any], kind: str, sessions: Sequence[Holder]) -> None:
        self._connect = connect
        self._kind = kind
        self._sessions = sessions
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="give-way", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with contextlib.closing(self._connect()) as control:
                    self._look(control)
            except (pymysql.MySQLError, OSError, SourceError) as error:
                log.debug("cannot see who waits at the source: %s", error)
                self._over.wait(LOOK_SECONDS)

    def _look(self, control: Any) -> None:
        """MySQL's locks are had for a chunk only, and its shortest wait is a second: one table a question. MariaDB does
        not wait at all."""
        shortest, together = (1, 1) if self._kind == "mysql" else (0, MOST_TABLES)
        with control.cursor() as cursor:
            cursor.execute(f"SET SESSION lock_wait_timeout = {shortest}")
        while not self._over.wait(LOOK_SECONDS):
            held = sorted(frozenset[TableName]().union(*(session.held() for session in self._sessions)))
            for start in range(0, len(held), together):
                tables = held[start : start + together]
                if _is_waited_for(control, tables):
                    self._clear(control, tables)

    def _clear(self, control: Any, tables: Sequence[TableName]) -> None:
        for session in self._sessions:
            if not session.held().isdisjoint(tables):
                session.give_way(tables)
                with contextlib.suppress(pymysql.MySQLError), control.cursor() as cursor:
                    cursor.execute(f"KILL {session.number}")  # it may have ended by itself


def _is_waited_for(control: Any, tables: Sequence[TableName]) -> bool:
    places = " UNION ALL ".join(
        f"(SELECT 1 FROM {quote_name(name.schema)}.{quote_name(name.table)} LIMIT 0)" for name in tables
    )
    try:
        with control.cursor() as cursor:
            cursor.execute(places)
    except pymysql.MySQLError as error:
        if error.args[0] == _LOCK_WAIT:
            return True
        if not control.open:
            raise
    return False
