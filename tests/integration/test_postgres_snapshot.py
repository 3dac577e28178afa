"""Snapshots of PostgreSQL: exact at a slot's consistent point, cut by pages, and never short behind a rewrite."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from replicator.errors import SnapshotLost, SourceError, SourceLocked
from replicator.model import TableName, TableSchema
from replicator.readers import postgres_slot
from replicator.readers.base import Snapshot
from replicator.readers.postgres import PostgresReader
from tests.pgaccounts import PostgresAccount
from tests.pgsources import open_reader, run


@pytest.fixture
def reader(postgres_account: PostgresAccount) -> Iterator[PostgresReader]:
    made = open_reader(postgres_account)
    yield made
    made.forget()
    made.close()


def describe(reader: PostgresReader, account: PostgresAccount, *tables: str) -> list[TableSchema]:
    return list(reader.describe({TableName(account.database, table): table for table in tables}))


def read_all(snapshot: Snapshot, table: TableSchema, rows: int) -> list[list[object]]:
    """The first column of each range, ranges in turn by each session."""
    sessions = snapshot.sessions
    spans = sessions[0].split(table, rows)
    return [
        [row[0] for block in sessions[at % len(sessions)].read(table, span) for row in block]
        for at, span in enumerate(spans)
    ]


@pytest.mark.parametrize("partitioned", [False, True])
def test_ranges_hold_every_row_once(
    reader: PostgresReader, postgres_account: PostgresAccount, partitioned: bool
) -> None:
    by = "PARTITION BY RANGE (id)" if partitioned else ""
    run(postgres_account, f"CREATE TABLE t (id int PRIMARY KEY, v text) {by}")
    if partitioned:
        run(
            postgres_account,
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5000)",
            "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (5000) TO (50000)",
        )
    run(postgres_account, "INSERT INTO t SELECT g, repeat('x', g % 100) FROM generate_series(1, 20000) g")
    tables = describe(reader, postgres_account, "t")
    stop = threading.Event()
    reader.begin(tables, (), None, stop)
    snapshot = reader.open_snapshot(tables, 2, stop)
    run(postgres_account, "DELETE FROM t WHERE id < 100", "INSERT INTO t VALUES (40000, 'later')")
    found = read_all(snapshot, tables[0], 1000)
    snapshot.close()
    assert len(found) > 5
    assert sorted(key for part in found for key in part) == list(range(1, 20001))  # type: ignore[type-var]


@pytest.mark.parametrize("change", ["TRUNCATE t", "VACUUM FULL t", "ALTER TABLE t ALTER v TYPE varchar"])
def test_a_table_that_is_rewritten_behind_the_snapshot(
    reader: PostgresReader, postgres_account: PostgresAccount, change: str
) -> None:
    """It would read as empty, without an error of the server's."""
    run(
        postgres_account, "CREATE TABLE t (id int PRIMARY KEY, v varchar(9))", "INSERT INTO t VALUES (1, 'a')"
    )
    tables = describe(reader, postgres_account, "t")
    stop = threading.Event()
    reader.begin(tables, (), None, stop)
    snapshot = reader.open_snapshot(tables, 1, stop)
    run(postgres_account, change)
    session = snapshot.sessions[0]
    if change == "ALTER TABLE t ALTER v TYPE varchar":  # no rewrite: the rows are what they were
        assert read_all(snapshot, tables[0], 10) == [[1]]
    else:
        with pytest.raises(SnapshotLost, match="rewritten or emptied"):
            session.split(tables[0], 10)
    snapshot.close()


def test_a_slot_waits_for_open_transactions_and_names_them(
    reader: PostgresReader, postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_slot, "CREATE_SECONDS", 0.5)
    run(postgres_account, "CREATE TABLE t (id int PRIMARY KEY)")
    tables = describe(reader, postgres_account, "t")
    with postgres_account.connect(autocommit=False) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        pid = writer.info.backend_pid
        with pytest.raises(SourceLocked, match=f"{pid} .{postgres_account.user}"):
            reader.begin(tables, (), None, threading.Event())
        writer.rollback()
    reader.begin(tables, (), None, threading.Event())


def test_a_value_that_cannot_be_shown_is_named_by_its_column(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    """The source names the type alone, and another column has it too."""
    account = postgres_account
    account.server.execute(
        ["CREATE EXTENSION pg_trgm", "CREATE CAST (text AS gtrgm) WITHOUT FUNCTION"],
        database=account.database,
    )
    run(account, "CREATE TABLE t (id int PRIMARY KEY, g public.gtrgm, h public.gtrgm)")
    run(account, "INSERT INTO t VALUES (1, NULL, 'abc'::text::public.gtrgm)")
    tables = describe(reader, account, "t")
    stop = threading.Event()
    reader.begin(tables, (), None, stop)
    snapshot = reader.open_snapshot(tables, 1, stop)
    with pytest.raises(SourceError, match=rf"^{account.database}\.t:h: a value that has no text"):
        read_all(snapshot, tables[0], 10)
    snapshot.close()


def test_later_tables_get_a_snapshot_of_their_own(
    reader: PostgresReader, postgres_account: PostgresAccount
) -> None:
    run(postgres_account, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    tables = describe(reader, postgres_account, "t")
    stop = threading.Event()
    begun = reader.begin(tables, (), None, stop)
    first = reader.open_snapshot(tables, 1, stop)
    run(postgres_account, "INSERT INTO t VALUES (2)")
    second = reader.open_snapshot(tables, 1, stop)
    assert read_all(first, tables[0], 10) == [[1]]
    assert read_all(second, tables[0], 10) == [[1, 2]]
    assert first.position == begun
    assert second.position.covers(begun)
    assert not begun.covers(second.position)
    slots = postgres_account.server.execute(
        f"SELECT slot_name FROM pg_replication_slots WHERE database = '{postgres_account.database}'"
    )
    assert slots == [(reader.slot,)]
    first.close()
    second.close()
