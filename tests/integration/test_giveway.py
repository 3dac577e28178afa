"""The source's own work comes first: an ALTER and the SELECTs behind it wait for seconds at most (SEMANTICS §2.6)."""

from __future__ import annotations

import contextlib
import threading
import time

import pymysql
import pytest

from replicator.errors import SnapshotBlocked, SnapshotLost
from replicator.readers import mysql_snapshot
from tests.accounts import Account
from tests.integration.test_snapshot import (
    _WHOLE,
    describe_tables,
    make_source,
    opened,
    run_as_root,
)

LONGEST_WAIT = 3.0


def alter(account: Account, took: list[float]) -> threading.Thread:
    """An ALTER of `t` in a thread of its own; ``took`` gets its seconds."""

    def run() -> None:
        begun = time.monotonic()
        with contextlib.suppress(pymysql.MySQLError):  # timed out: the seconds say it
            run_as_root(account, "SET lock_wait_timeout = 8", "ALTER TABLE t ADD extra INT")
        took.append(time.monotonic() - begun)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def is_waiting(account: Account) -> bool:
    states = account.server.execute(
        f"SELECT STATE FROM information_schema.PROCESSLIST WHERE DB = '{account.database}'"
    )
    return any("metadata lock" in str(state) for (state,) in states)


def test_an_alter_and_the_selects_behind_it_do_not_wait_for_a_slow_load(source_account: Account) -> None:
    """A chunk that is read in the middle while the target takes its time; nobody but the server ends it."""
    account = source_account
    run_as_root(account, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(1000))")
    values = ",".join(f"({n}, REPEAT('x', 1000))" for n in range(20_000))
    run_as_root(account, f"INSERT INTO t VALUES {values}", "CREATE TABLE calm (id INT PRIMARY KEY)")
    tables = describe_tables(account, "t", "calm")
    took: list[float] = []
    with opened(make_source(account), tables, workers=2) as snapshot:
        table = next(table for table in snapshot.tables if table.source.table == "t")
        rows = snapshot.sessions[0].read(table, _WHOLE)
        next(rows)
        thread = alter(account, took)
        while not is_waiting(account) and thread.is_alive():
            pass
        begun = time.monotonic()
        run_as_root(account, "SET lock_wait_timeout = 20", "SELECT COUNT(*) FROM t")
        selected = time.monotonic() - begun
        thread.join(60)
        is_mariadb = account.server.kind == "mariadb"
        lost = SnapshotBlocked if is_mariadb else SnapshotLost
        with pytest.raises(lost, match=rf"waited for our reading of {account.database}\.t"):
            list(rows)
        if not is_mariadb:  # the other session, which was not in the way, goes on
            assert not list(snapshot.sessions[1].read(tables[1], _WHOLE))
    assert max(*took, selected) < LONGEST_WAIT


def test_a_large_mariadb_table_has_a_snapshot_of_its_own(
    mariadb_source_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an ALTER of a table that was read long ago would take the large one's snapshot away."""
    account = mariadb_source_account
    run_as_root(account, *(f"CREATE TABLE {name} (id INT PRIMARY KEY)" for name in ("large", "a", "b")))
    run_as_root(account, "INSERT INTO large VALUES (1), (2), (3), (4), (5)", "ANALYZE TABLE large, a, b")
    monkeypatch.setattr(mysql_snapshot, "SHARED_ROWS", 4)
    large, a, b = describe_tables(account, "large", "a", "b")
    with opened(make_source(account), [large, a, b], workers=2) as snapshot:
        assert snapshot.tables == (large,)
    with opened(make_source(account), [a, b], workers=2) as snapshot:
        assert snapshot.tables == (a, b)
