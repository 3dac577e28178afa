"""What a load's reading does to a PostgreSQL source and its own work: nobody waits for it long (SEMANTICS §2.6, §2.7)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from replicator.errors import SnapshotBlocked, SnapshotLost, SourceError, SourceLocked
from replicator.model import TableName, TableSchema
from replicator.readers import postgres_session, postgres_snapshot
from replicator.readers.base import KeyRange, Snapshot
from replicator.readers.postgres import PostgresReader
from tests.pgaccounts import PostgresAccount
from tests.pgsources import open_reader, run
from tests.targets import wait_until

LONGEST_WAIT = 3.0
WHOLE = KeyRange(None, None)


@pytest.fixture
def reader(postgres_account: PostgresAccount) -> Iterator[PostgresReader]:
    run(
        postgres_account,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n",
        "CREATE TABLE calm (id int PRIMARY KEY)",
    )
    made = open_reader(postgres_account)
    yield made
    made.forget()
    made.close()


def open_snapshot(
    reader: PostgresReader, account: PostgresAccount, workers: int
) -> tuple[Snapshot, TableSchema, TableSchema]:
    tables = reader.describe({TableName(account.database, name): name for name in ("t", "calm")})
    reader.begin(tables, (), None, threading.Event())
    by_name = {table.target: table for table in tables}
    return reader.open_snapshot(tables, workers, threading.Event()), by_name["t"], by_name["calm"]


class Alter(threading.Thread):
    """An ALTER of `t`; ``seconds`` it took, at most eight."""

    def __init__(self, account: PostgresAccount) -> None:
        super().__init__()
        self.seconds = 0.0
        self._account = account
        self.start()

    def run(self) -> None:
        begun = time.monotonic()
        try:
            run(self._account, "SET lock_timeout = '8s'", "ALTER TABLE t ADD extra int")
        except psycopg.errors.LockNotAvailable:
            pass
        self.seconds = time.monotonic() - begun

    def await_waiting(self) -> None:
        """Until it waits for a lock, or has what it wants."""
        query = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        while self.is_alive() and not self._account.server.execute(query):
            pass


def test_an_alter_and_the_selects_behind_it_do_not_wait_for_a_slow_load(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    """A chunk that is read in the middle while the target takes its time."""
    snapshot, table, calm = open_snapshot(reader, postgres_account, 2)
    rows = snapshot.sessions[0].read(table, WHOLE)
    next(rows)
    alter = Alter(postgres_account)
    alter.await_waiting()
    begun = time.monotonic()
    run(postgres_account, "SET lock_timeout = '20s'", "SELECT count(*) FROM t")
    selected = time.monotonic() - begun
    alter.join(60)
    with pytest.raises(SnapshotLost, match=rf"waited for our reading of {postgres_account.database}\.t"):
        list(rows)
    assert not list(snapshot.sessions[1].read(calm, WHOLE))  # which was not in the way
    snapshot.close()
    assert max(alter.seconds, selected) < LONGEST_WAIT


def test_an_alter_between_two_chunks_does_not_wait(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    snapshot, table, _ = open_snapshot(reader, postgres_account, 1)
    [session] = snapshot.sessions
    assert session.split(table, 1000)
    assert sum(map(len, session.read(table, WHOLE))) == 20_000
    run(postgres_account, "SET lock_timeout = '100ms'", "ALTER TABLE t ADD extra int")
    assert sum(map(len, session.read(table, WHOLE))) == 20_000  # no rewrite: the rows are what they were
    run(postgres_account, "SET lock_timeout = '100ms'", "DELETE FROM t", "TRUNCATE t")
    with pytest.raises(SnapshotLost, match="rewritten or emptied"):
        list(session.read(table, WHOLE))
    snapshot.close()


def test_a_chunk_that_is_given_up_half_read_can_be_read_again(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    """As when the target's connection is lost in the middle: the snapshot is as good as before."""
    snapshot, table, _ = open_snapshot(reader, postgres_account, 1)
    [session] = snapshot.sessions
    run(postgres_account, "DELETE FROM t")
    for _ in range(3):
        rows = session.read(table, WHOLE)
        next(rows)
        rows.close()  # type: ignore[attr-defined]
        text = session.read_text(table, WHOLE)
        assert text is not None
        next(text)
        text.close()  # type: ignore[attr-defined]
    assert sum(map(len, session.read(table, WHOLE))) == 20_000
    snapshot.close()


def test_a_table_that_was_dropped_and_made_again(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    """Its file is not in the snapshot's catalog, and so is none that differs; it would read as empty."""
    snapshot, table, _ = open_snapshot(reader, postgres_account, 1)
    run(
        postgres_account,
        "ALTER TABLE t RENAME TO old",
        "CREATE TABLE t (LIKE old INCLUDING ALL)",
        "INSERT INTO t TABLE old",
        "DROP TABLE old",
    )
    with pytest.raises(SnapshotLost, match="rewritten or emptied"):
        list(snapshot.sessions[0].read(table, WHOLE))
    snapshot.close()


# --- who has a table for himself alone --------------------------------------------------------------------------------


@contextlib.contextmanager
def holding(account: PostgresAccount, table: str, mode: str) -> Iterator[int]:
    """The table's lock in the hands of somebody else; yields the number of that session."""
    server = account.server
    with server.connect(database=account.database, autocommit=False) as connection:
        connection.execute(f"LOCK TABLE {account.database}.{table} IN {mode} MODE".encode())
        yield connection.info.backend_pid
        connection.rollback()


def test_a_look_at_the_catalog_waits_for_nobody(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    """The stream stands still meanwhile, and an ALTER may take hours."""
    source = postgres_account
    run(source, "ALTER TABLE calm ADD d int DEFAULT 1 + 1")
    tables = reader.describe({TableName(source.database, name): name for name in ("t", "calm")})
    reader.begin(tables, (), None, threading.Event())
    begun = time.monotonic()
    with holding(source, "calm", "ACCESS EXCLUSIVE"):
        assert reader._look({table.source: table for table in tables})[1] == {}
        assert TableName(source.database, "calm") in reader.list_tables()
    assert time.monotonic() - begun < postgres_session.LOCK_SECONDS


def test_who_keeps_a_table_from_being_described_is_named(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    source = postgres_account
    name = TableName(source.database, "calm")
    with holding(source, "calm", "ACCESS EXCLUSIVE") as pid:
        with pytest.raises(SourceLocked, match=rf"calm is held by session {pid} ") as caught:
            reader.describe({name: "calm"})
        assert f"pg_terminate_backend({pid})" in caught.value.hint
    assert len(reader.describe({name: "calm"})) == 1


def test_a_table_that_somebody_has_for_himself_is_waited_for_and_read(
    reader: PostgresReader,
    postgres_account: PostgresAccount,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The snapshot outlives it: that of large tables took hours to read."""
    monkeypatch.setattr(postgres_session, "_CAREFUL", {"lock_timeout": "200ms"})
    source = postgres_account
    snapshot, _, calm = open_snapshot(reader, source, 1)
    [session] = snapshot.sessions
    try:
        with holding(source, "calm", "ACCESS EXCLUSIVE") as pid:
            reading = threading.Thread(target=lambda: session.split(calm, 10))
            reading.start()
            wait_until(lambda: f"calm is held by session {pid} " in caplog.text)
            assert reading.is_alive()
        reading.join(5)
        assert not reading.is_alive()
        assert list(session.read(calm, WHOLE)) == []
    finally:
        snapshot.close()


def test_a_lock_that_is_never_given_back_ends_the_snapshot(
    reader: PostgresReader, postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_session, "_CAREFUL", {"lock_timeout": "200ms"})
    monkeypatch.setattr(postgres_snapshot, "LOCKED_SECONDS", 0.0)
    source = postgres_account
    snapshot, _, calm = open_snapshot(reader, source, 1)
    try:
        with (
            holding(source, "calm", "ACCESS EXCLUSIVE") as pid,
            pytest.raises(SnapshotBlocked, match=rf"held by session {pid} "),
        ):
            snapshot.sessions[0].split(calm, 10)
    finally:
        snapshot.close()


def test_row_security_that_comes_in_mid_load_hides_nothing(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    source = postgres_account
    snapshot, t, _ = open_snapshot(reader, source, 1)
    try:
        assert len([row for rows in snapshot.sessions[0].read(t, WHOLE) for row in rows]) == 20000
        run(source, "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "ALTER TABLE t FORCE ROW LEVEL SECURITY")
        with pytest.raises(SourceError, match="row-level security"):
            list(snapshot.sessions[0].read(t, WHOLE))
    finally:
        snapshot.close()
