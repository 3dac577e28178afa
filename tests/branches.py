"""XA transactions in tests: each branch has a connection of its own, as MariaDB wants it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pymysql

from replicator.servers import Server
from tests.targets import wait_until


class Branches:
    """Open branches by name; names are unique on the server."""

    def __init__(self, server: Server, database: str) -> None:
        self._server = server
        self._database = database
        self._open: set[str] = set()

    def xid(self, name: str) -> str:
        return f"'{self._database}','{name}',7"

    def prepare(self, name: str, *statements: str) -> None:
        """XA START to XA PREPARE; the session is gone afterwards, the branch stays.

        MariaDB tells nobody else of a branch (1397) before the session that prepared it has ended.
        """
        xid = self.xid(name)
        session = self._run(f"XA START {xid}", *statements, f"XA END {xid}", f"XA PREPARE {xid}")
        sql = "SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = %s"
        wait_until(lambda: not self._server.execute(sql, (session,)))
        self._open.add(name)

    def commit(self, name: str) -> None:
        self._run(f"XA COMMIT {self.xid(name)}")
        self._open.discard(name)

    def rollback(self, name: str) -> None:
        try:
            self._run(f"XA ROLLBACK {self.xid(name)}")
        except pymysql.err.OperationalError as error:
            if error.args[0] != 1402:  # MariaDB has rolled an empty branch back by itself
                raise
        self._open.discard(name)

    def forget_lost(self) -> None:
        """Strike out, and print, what a server that was killed does not know any more: nobody can decide it."""
        rows = self._server.execute("XA RECOVER")  # MySQL gives text, MariaDB bytes
        xids = {data.decode() if isinstance(data, bytes) else data for *_, data in rows}
        known = {name for name in self._open if self._database + name in xids}
        for name in sorted(self._open - known):
            print(f"           the killed server has lost the branch {name}", flush=True)
        self._open = known

    def one_phase(self, name: str, *statements: str) -> None:
        xid = self.xid(name)
        self._run(f"XA START {xid}", *statements, f"XA END {xid}", f"XA COMMIT {xid} ONE PHASE")

    def _run(self, *statements: str) -> int:
        """Run them in a session of their own; returns its id."""
        with (
            self._server.connect(database=self._database, autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)
            return int(connection.thread_id())

    @property
    def names(self) -> list[str]:
        """What is prepared and undecided."""
        return sorted(self._open)

    def roll_all_back(self) -> None:
        for name in self.names:
            self.rollback(name)


@contextlib.contextmanager
def branching(server: Server, database: str) -> Iterator[Branches]:
    """Branches of one test; none is left undecided, for it would hold up every later load of this server."""
    branches = Branches(server, database)
    try:
        yield branches
    finally:
        branches.roll_all_back()
