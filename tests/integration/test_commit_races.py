"""Snapshots opened while transactions commit: each shows exactly what the log holds up to its position (I1, SEMANTICS §2).

A server writes its log, its engine and its GTID set one after the other, and XA COMMIT takes a path of its own through
them. A snapshot that fell in between would lose or double a transaction without a word.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from replicator.model import Position, Row, TableSchema
from replicator.readers import mysql_snapshot
from replicator.readers.base import KeyRange
from replicator.readers.gtid import GtidPosition
from replicator.readers.mysql import MysqlReader
from replicator.servers import start_mysql
from tests.accounts import Account, make_source_account
from tests.streams import describe, open_reader, read_transactions

_WHOLE = KeyRange(None, None)

Commit = Callable[[Account, Any, str, str], None]
"""Runs one update as one transaction: account, cursor of the writer's connection, the statement, the transaction's xid."""


class Seen(NamedTuple):
    """What one session of a snapshot showed: each writer's newest number."""

    position: Position
    numbers: dict[int, int]


def plainly(_account: Account, cursor: Any, update: str, _xid: str) -> None:
    cursor.execute(update)


def in_one_phase(_account: Account, cursor: Any, update: str, xid: str) -> None:
    for statement in (f"XA START {xid}", update, f"XA END {xid}", f"XA COMMIT {xid} ONE PHASE"):
        cursor.execute(statement)


def in_two_phases(_account: Account, cursor: Any, update: str, xid: str) -> None:
    for statement in (f"XA START {xid}", update, f"XA END {xid}", f"XA PREPARE {xid}", f"XA COMMIT {xid}"):
        cursor.execute(statement)


def by_another_session(account: Account, cursor: Any, update: str, xid: str) -> None:
    """As a transaction manager does that lost its connection.

    MariaDB 10.11 calls a branch committed, and logs that, while the session that prepared it is still going: the branch
    then stays prepared in the engine. So the session must be gone.
    """
    with account.server.connect(database=account.database, autocommit=True) as preparing:
        for statement in (f"XA START {xid}", update, f"XA END {xid}", f"XA PREPARE {xid}"):
            preparing.cursor().execute(statement)
    left = f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {preparing.thread_id()}"
    while cursor.execute(left):
        pass
    cursor.execute(f"XA COMMIT {xid}")


class Writers:
    """Writers that count as fast as they can, one number a transaction, each in a row of its own."""

    def __init__(self, account: Account, commits: Sequence[Commit]) -> None:
        self._account = account
        self._stop = threading.Event()
        self._failed: list[Exception] = []
        self._threads = [threading.Thread(target=self._write, args=pair) for pair in enumerate(commits)]

    def _write(self, writer: int, commit: Commit) -> None:
        account, number = self._account, 0
        try:
            with account.server.connect(database=account.database, autocommit=True) as connection:
                while not self._stop.is_set():
                    number += 1
                    update = f"UPDATE hot SET n = {number} WHERE id = {writer}"
                    commit(account, connection.cursor(), update, f"'{account.database}','{writer}.{number}'")
        except Exception as error:  # noqa: BLE001 (the test's thread raises it)
            self._failed.append(error)

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self._failed


@contextlib.contextmanager
def watched(account: Account, writers: int) -> Iterator[tuple[MysqlReader, TableSchema, list[Seen]]]:
    """A reader of the table ``hot``; what is put into the list is compared with the log in the end."""
    rows = ",".join(f"({writer}, 0)" for writer in range(writers))
    account.server.execute(
        ["CREATE TABLE hot (id INT PRIMARY KEY, n INT)", f"INSERT INTO hot VALUES {rows}"],
        database=account.database,
    )
    with contextlib.closing(open_reader(account)) as reader:
        [table] = describe(reader, account.database, "hot")
        # What is prepared from here on is in the log that is read in the end.
        reader.open_snapshot([table], 1, threading.Event()).close()
        start, seen = reader.position(), list[Seen]()
        yield reader, table, seen
        log = read_transactions(reader, start, [table])
    commits: dict[int, list[Position]] = {}
    for item in log:
        for writer, number in read_numbers(changes.after for changes in item.changes).items():
            commits.setdefault(writer, []).append(item.position)
            assert number == len(commits[writer])
    assert commits
    for position, numbers in seen:
        expected = dict.fromkeys(range(writers), 0)
        for writer, positions in commits.items():
            expected[writer] = bisect_left(positions, True, key=lambda place: not position.includes(place))
        assert numbers == expected, position


def look(reader: MysqlReader, table: TableSchema) -> list[Seen]:
    """What each session of a fresh snapshot shows."""
    with contextlib.closing(reader.open_snapshot([table], 2, threading.Event())) as snapshot:
        return [
            Seen(snapshot.position, read_numbers(session.read(table, _WHOLE)))
            for session in snapshot.sessions
        ]


def read_numbers(blocks: Iterable[Sequence[Row]]) -> dict[int, int]:
    """Rows of ``hot``: writer → number."""
    return {int(row[0]): int(row[1]) for block in blocks for row in block}  # type: ignore[arg-type]


def look_under_load(account: Account, commits: Sequence[Commit], seconds: float) -> None:
    """Snapshots for so long beside the writers, three at least."""
    with watched(account, len(commits)) as (reader, table, seen), Writers(account, commits):
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(seen) < 6:
            seen += look(reader, table)


MIXED = [plainly, in_one_phase, in_two_phases, by_another_session]


def lock(account: Account, monkeypatch: pytest.MonkeyPatch, *, all_tables: bool) -> None:
    """Have MySQL's snapshots opened by a lock: beside such writers nothing is quiet enough for the way without one."""
    monkeypatch.setattr(mysql_snapshot, "UNLOCKED_ATTEMPTS", 0)
    if all_tables:
        monkeypatch.setattr(mysql_snapshot, "LOCK_ROUNDS", 0)
        account.server.execute(f"GRANT RELOAD ON *.* TO {account.user}")


@pytest.mark.parametrize("seconds", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_mariadb_snapshots_beside_commits_of_every_kind(
    mariadb_source_account: Account, seconds: float
) -> None:
    look_under_load(mariadb_source_account, MIXED, seconds)


@pytest.mark.parametrize("all_tables", [False, True], ids=["one table", "all tables"])
@pytest.mark.parametrize("seconds", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_locked_snapshots_beside_commits_of_every_kind(
    mysql_source_account: Account, monkeypatch: pytest.MonkeyPatch, seconds: float, all_tables: bool
) -> None:
    lock(mysql_source_account, monkeypatch, all_tables=all_tables)
    look_under_load(mysql_source_account, MIXED, seconds)


@pytest.mark.slow
def test_file_positions_beside_commits_of_every_kind() -> None:
    with start_mysql(gtid_mode=False) as server, make_source_account(server) as account:
        look_under_load(account, MIXED, 10)


@pytest.mark.parametrize("rounds", [5, pytest.param(150, marks=pytest.mark.slow)])
def test_unlocked_snapshots_around_one_commit(
    mysql_source_account: Account, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """One XA COMMIT at a time, while the GTID set is read: MySQL's way without a lock needs quiet around it."""
    account, pick, commit = mysql_source_account, random.Random(5), threading.Event()
    read_gtids = mysql_snapshot._read_gtids

    def read_gtids_beside_a_commit(*args: Any) -> GtidPosition:
        if not commit.is_set():
            commit.set()
            time.sleep(pick.uniform(0, 0.003))  # somewhere within the commit
        return read_gtids(*args)

    def decide(cursor: Any, xid: str) -> None:
        assert commit.wait(60)
        cursor.execute(f"XA COMMIT {xid}")

    with watched(account, 1) as (reader, table, seen), account.server.connect(autocommit=True) as connection:
        monkeypatch.setattr(mysql_snapshot, "_read_gtids", read_gtids_beside_a_commit)
        for number in range(1, rounds + 1):
            commit.clear()
            xid = f"'{account.database}','{number}'"
            update = f"UPDATE {account.database}.hot SET n = {number} WHERE id = 0"
            for statement in (f"XA START {xid}", update, f"XA END {xid}", f"XA PREPARE {xid}"):
                connection.cursor().execute(statement)
            deciding = threading.Thread(target=decide, args=(connection.cursor(), xid))
            deciding.start()
            seen += look(reader, table)
            deciding.join()
