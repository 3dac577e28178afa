"""Ends a snapshot's sessions that a statement of the source's own waits for (SEMANTICS §2.6), beside ``postgres_snapshot``.

An ALTER that waits for our lock makes every later SELECT of that table wait behind it. Anybody may see who waits, and the
session in the way is ended whatever it is about: it may be stuck in a chunk that the target does not take.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import psycopg

from replicator.errors import SourceError
from replicator.model import TableName
from replicator.readers.postgres_session import Connection, fetch

log = logging.getLogger("replicator")

LOOK_SECONDS: Final = 0.5

# Reading keeps nobody waiting but who wants a table all for himself.
_IN_THE_WAY: Final = (
    "SELECT DISTINCT ours.pid FROM pg_locks ours JOIN pg_locks theirs USING (locktype, database, relation)"
    " WHERE locktype = 'relation' AND ours.granted AND ours.pid = ANY(%s)"
    " AND NOT theirs.granted AND theirs.mode = 'AccessExclusiveLock'"
)


class Holder(Protocol):
    """A session that may be in the way; ``number`` is that of its server process."""

    number: int

    def held(self) -> TableName | None: ...

    def give_way(self) -> None: ...


class GiveWay:
    """Looks after ``sessions`` in a thread of its own until closed. ``connect`` opens a session with autocommit on."""

    def __init__(self, connect: Callable[[], Connection], sessions: Sequence[Holder]) -> None:
        self._connect = connect
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
            except (psycopg.Error, SourceError) as error:
                log.debug("cannot see who waits at the source: %s", error)
                self._over.wait(LOOK_SECONDS)

    def _look(self, control: Connection) -> None:
        while not self._over.wait(LOOK_SECONDS):
            holders = {session.number: session for session in self._sessions if session.held() is not None}
            if not holders:
                continue
            for row in fetch(control, _IN_THE_WAY, (list(holders),)):
                holders[row["pid"]].give_way()
                fetch(control, "SELECT pg_terminate_backend(%s)", (row["pid"],))
