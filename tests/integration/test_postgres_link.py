"""The replication connection: what it acks, what it takes for death, and how far behind it says the source is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator

import pytest

from replicator.model import Heartbeat, Position, SchemaChange, StreamItem, TableName, Transaction
from replicator.readers import postgres, postgres_link, postgres_watch
from replicator.readers.lsn import format_lsn
from replicator.readers.postgres import PostgresReader
from tests.pgaccounts import PostgresAccount
from tests.pgsources import open_reader, run
from tests.targets import Line, wait_until

SLOT = "pg_replication_slots WHERE database = current_database()"


class Reading:
    """A reader at work on table ``t``; its items are taken by hand, and nothing is acked but by hand."""

    def __init__(self, account: PostgresAccount, *, port: int = 0) -> None:
        self.account = account
        self.stop = threading.Event()
        self.reader: PostgresReader = open_reader(account, port=port)
        tables = self.reader.describe({TableName(account.database, "t"): "t"})
        self.begun: Position = self.reader.begin(tables, (), None, self.stop)
        self.items: Generator[StreamItem, None, None] = self.reader.read(self.begun, tables, self.stop)

    def take(self, rows: int) -> Position:
        """Take items until so many rows have come; the position behind them."""
        while rows > 0:
            item = next(self.items)
            if isinstance(item, Transaction):
                rows -= item.rows
        assert rows == 0
        return item.position if isinstance(item, Transaction) else self.begun

    def close(self) -> None:
        self.stop.set()
        self.items.close()
        self.reader.close()


@contextlib.contextmanager
def reading(account: PostgresAccount, *, port: int = 0) -> Iterator[Reading]:
    run(account, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    with contextlib.closing(Reading(account, port=port)) as made:
        yield made


def confirmed(account: PostgresAccount) -> str:
    return str(account.query(f"SELECT confirmed_flush_lsn FROM {SLOT}")[0][0])


def hear(account: PostgresAccount, turns: int = 3) -> None:
    """Wait until the source has had this many more words of feedback."""
    sql = f"SELECT pid, reply_time FROM pg_stat_replication WHERE usename = '{account.user}'"
    seen: set[tuple[object, ...]] = set()

    def has_heard() -> bool:
        seen.update(account.server.execute(sql))
        return len(seen) > turns

    wait_until(has_heard)


def test_what_was_read_is_not_acked_before_it_is_stored(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor after a reconnect, which reads on behind what was read and is not stored (SEMANTICS §3.1)."""
    monkeypatch.setattr(postgres_link, "FEEDBACK_SECONDS", 0.05)
    source = postgres_account
    with reading(source) as work:
        before = confirmed(source)
        run(source, "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 10) g")
        first = work.take(10)
        source.query(f"SELECT pg_terminate_backend(active_pid) FROM {SLOT}")
        run(source, "INSERT INTO t SELECT g, 'b' FROM generate_series(11, 20) g")
        second = work.take(10)
        hear(source)
        assert confirmed(source) == before
        work.reader.ack(first)
        wait_until(lambda: confirmed(source) == str(first).split(" ")[-1])
        hear(source)
        assert confirmed(source) == str(first).split(" ")[-1]
        work.reader.ack(second)
        wait_until(lambda: confirmed(source) == str(second).split(" ")[-1])


def test_a_reader_that_stands_still_is_not_taken_for_dead(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the source, whose patience is short, nor the source by us when we go on: one session, all rows, no ack moves."""
    monkeypatch.setattr(postgres_link, "SILENCE_SECONDS", 0.5)
    source = postgres_account
    source.server.execute(f"ALTER ROLE {source.user} SET wal_sender_timeout = '1s'")
    with reading(source) as work:
        run(source, "INSERT INTO t VALUES (0, 'first')")
        work.take(1)
        [(pid,)] = source.query(f"SELECT active_pid FROM {SLOT}")
        before = confirmed(source)
        run(source, "INSERT INTO t SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 20000) g")
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 3.5)
        assert source.query(f"SELECT active_pid, confirmed_flush_lsn FROM {SLOT}") == [(pid, before)]
        work.take(20000)
        assert source.query(f"SELECT active_pid FROM {SLOT}") == [(pid,)]
        assert work.reader.counters.reconnects == 0


def test_a_source_that_does_not_answer_is_left(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that is dead and does not say so: given up, told, and opened again, without a storm of attempts."""
    monkeypatch.setattr(postgres_link, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(postgres, "ASK_SECONDS", 0.1)
    source = postgres_account
    with Line(source.server.port) as line, reading(source, port=line.port) as work:
        run(source, "INSERT INTO t VALUES (1, 'a')")
        work.take(1)
        line.to_client.clear()
        run(source, "INSERT INTO t VALUES (2, 'b')")
        while not work.reader.is_waiting():
            next(work.items)
        assert "nothing was heard" in work.reader.is_waiting()
        line.to_client.set()
        work.take(1)
        assert work.reader.is_waiting() == ""
        assert work.reader.counters.reconnects == 1


def test_a_source_that_decodes_slowly_is_not_level(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, and says how far it has decoded; that it has written more is known from looking (SEMANTICS §11)."""
    monkeypatch.setattr(postgres, "BEHIND_SECONDS", 0.0)
    monkeypatch.setattr(postgres, "ASK_SECONDS", 0.05)
    with reading(postgres_account) as work:
        while not isinstance(item := next(work.items), Heartbeat):
            pass
        assert work.begun.covers(item.position) or item.position.covers(work.begun)
        ahead = work.reader._flushed = work.reader._flushed + (1 << 30)
        while not isinstance(item := next(work.items), Heartbeat):
            pass
        assert str(item.position).endswith(format_lsn(ahead))


def test_a_later_snapshot_is_reached_although_nothing_more_comes(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever joins waits for its position, and an idle one is told every ten seconds only."""
    monkeypatch.setattr(postgres, "ADVANCE_SECONDS", float("inf"))
    source = postgres_account
    with reading(source) as work:
        tables = work.reader.describe({TableName(source.database, "t"): "t"})
        work.reader.open_snapshot(tables, 1, work.stop).close()
        run(source, "CREATE TABLE elsewhere (id int PRIMARY KEY)", "INSERT INTO elsewhere VALUES (1)")
        with contextlib.closing(work.reader.open_snapshot(tables, 1, work.stop)) as later:
            assert not work.begun.covers(later.position)

            def is_reached() -> bool:
                item = next(work.items)
                return not isinstance(item, SchemaChange) and item.position.covers(later.position)

            wait_until(is_reached)


def test_a_source_that_takes_no_further_session_goes_on_sending(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog cannot be looked at then: that is said, and ends no stream."""
    monkeypatch.setattr(postgres_watch, "LOOK_SECONDS", 0.05)
    source = postgres_account
    with reading(source) as work:
        run(source, "INSERT INTO t VALUES (0, 'first')")
        work.take(1)
        source.server.execute(f"ALTER ROLE {source.user} CONNECTION LIMIT 0")
        while "too many connections" not in work.reader.is_waiting():
            next(work.items)
        source.server.execute(f"INSERT INTO {source.database}.t VALUES (1, 'a')", database=source.database)
        work.take(1)
        assert work.reader.counters.reconnects == 0
        source.server.execute(f"ALTER ROLE {source.user} CONNECTION LIMIT -1")
        while work.reader.is_waiting():
            next(work.items)
        source.query("DROP TABLE t")
        while not isinstance(next(work.items), SchemaChange):
            pass
