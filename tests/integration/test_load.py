"""The initial load on real servers: exact for each table's position, resumable, and never at the cost of others' rows."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest

from replicator.checkpoint import acquire
from replicator.config import Endpoint, ExistingRows, Secret, Source, SourceType, TableRule, Tls, TlsMode
from replicator.config.selection import SelectedTable, Selection
from replicator.errors import DataError, SchemaMismatch, SnapshotLost, SourceError, TargetUnavailable
from replicator.load import Loader, add_foreign_keys, prepare_tables
from replicator.load.existing import find_keys_tables, forget_keys
from replicator.model import Position, Row, TableName, TableSchema
from replicator.readers.base import KeyRange, Snapshot
from replicator.readers.mysql import MysqlReader
from replicator.readers.mysql_catalog import describe
from replicator.session import Session
from replicator.tablestate import State, TableState, insert_pending, read_tables
from tests.accounts import Account
from tests.compare import assert_equal
from tests.integration.test_rowcodec_server import (
    DECIMALS,
    FLOATS,
    INTEGERS,
    JSONS,
    LABELS,
    MARIADB_ONLY,
    OPAQUE,
    SHAPES,
    STRINGS,
    temporals,
)
from tests.integration.test_rowcodec_server import create as create_types
from tests.integration.test_rowcodec_server import fill as fill_types
from tests.integration.test_snapshot import Counter, count_transactions, newest
from tests.targets import set_global

Interfere = Callable[[int], None]
"""Called in the middle of each chunk, with its number from 1 on."""


class Killed(Exception):
    """The process ends here."""


ORDERS = (
    "CREATE TABLE orders (id BIGINT UNSIGNED PRIMARY KEY AUTO_INCREMENT, customer_id INT NOT NULL, sku VARCHAR(32) NOT NULL,"
    " price DECIMAL(12,2) NOT NULL, note VARCHAR(200), created_at DATETIME(3) NOT NULL, weight DOUBLE,"
    " UNIQUE KEY by_sku (sku), KEY by_customer (customer_id)) CHARACTER SET latin1 COLLATE latin1_swedish_ci"
)


def insert_orders(first: int, last: int) -> str:
    return (
        "INSERT INTO orders (id, customer_id, sku, price, note, created_at, weight)"
        f" WITH RECURSIVE n AS (SELECT {first} i UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
        " SELECT i, i % 97, CONCAT('sku-', i), i / 100, IF(i % 5, CONCAT('tab\\t', i, '\\n\\\\'), NULL),"
        " '2024-02-29 12:00:00.123', i / 7e0 FROM n"
    )


class SourceReader(MysqlReader):
    """The real reader; ``interfere`` is called while rows are read."""

    def __init__(self, account: Account, interfere: Interfere | None = None) -> None:
        server = account.server
        super().__init__(
            Source(
                server.host,
                server.port,
                account.user,
                Secret(account.password),
                None,
                Tls(TlsMode.PREFERRED),
                SourceType(server.kind),
            )
        )
        self._interfere = interfere
        self.snapshots = self.reads = 0

    def open_snapshot(
        self,
        tables: Sequence[TableSchema],
        workers: int,
        stop: threading.Event,
        inseparable: Sequence[frozenset[TableName]] = (),
    ) -> Snapshot:
        self.snapshots += 1
        snapshot = super().open_snapshot(tables, workers, stop, inseparable)
        if self._interfere is not None:
            for session in snapshot.sessions:
                self._wrap(session)
        return snapshot

    def _wrap(self, session: Any) -> None:
        read = session.read

        def read_and_interfere(table: TableSchema, span: KeyRange) -> Iterator[list[Row]]:
            self.reads += 1
            number = self.reads
            blocks = read(table, span)
            yield from itertools.islice(blocks, 1)
            if self._interfere is not None:
                self._interfere(number)
            yield from blocks

        session.read = read_and_interfere


@dataclass
class Pipe:
    """Both ends of a pipeline under test; ``run`` prepares and loads what is not loaded yet."""

    source: Account
    target: Account
    tables: Sequence[TableSchema]
    selection: Selection
    reader: SourceReader
    session: Session
    positions: dict[str, Position]

    loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        self.lease = acquire(self.session, "load", "here")
        insert_pending(self.session, self.lease, self.tables)
        self.stop = threading.Event()

    @property
    def states(self) -> dict[str, TableState]:
        return {state.target: state for state in read_tables(self.session, "load")}

    def run(self, workers: int = 2) -> Loader:
        """As a start of the program does: take over, prepare, load what is pending."""
        self.lease = acquire(self.session, "load", "here")
        prepare_tables(self.session, self.lease, self.tables, self.selection, self.stop)
        loaded = {State.CATCHING_UP, State.STREAMING}
        pending = [table for table in self.tables if self.states[table.target].state not in loaded]
        self.loader = Loader(self, pending, workers=workers, on_loaded=self._take, stop=self.stop)
        self.loader.run()
        return self.loader

    def _take(self, table: TableSchema, position: Position) -> None:
        self.positions[table.target] = position

    def rows(self, sql: str) -> tuple[list[Any], list[Any]]:
        """The rows of one query at the source and at the target."""
        return self.source.query(sql), self.target.query(sql)


def endpoint_of(account: Account) -> Endpoint:
    server = account.server
    return Endpoint(
        server.host,
        server.port,
        account.user,
        Secret(account.password),
        account.database,
        Tls(TlsMode.REQUIRED),
    )


@contextlib.contextmanager
def pipe(
    source: Account,
    target: Account,
    *names: str,
    rows: ExistingRows = ExistingRows.REFUSE,
    create: bool = True,
    interfere: Interfere | None = None,
) -> Iterator[Pipe]:
    with source.connect() as connection:
        tables = describe(connection, {TableName(source.database, name): name for name in names})
    rule = cast("TableRule", None)
    chosen = tuple(SelectedTable(table.source, table.target, create, rows, rule) for table in tables)
    reader = SourceReader(source, interfere)
    with Session.connect(endpoint_of(target), loads=True) as session:
        yield Pipe(source, target, tables, Selection(chosen, ()), reader, session, {})


def run_at(account: Account, *statements: str) -> None:
    account.server.execute(["SET SESSION time_zone='+00:00'", *statements], database=account.database)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.load.worker.count_chunk_rows", lambda _table: 300)


# --- what is loaded ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_load_copies_rows_creates_indexes_and_counts(
    source_account: Account, target_account: Account
) -> None:
    run_at(source_account, ORDERS, insert_orders(1, 900), insert_orders(5001, 5900))
    run_at(source_account, "CREATE TABLE void (id INT PRIMARY KEY, v INT, KEY v (v))")
    with pipe(source_account, target_account, "orders", "void") as both:
        loader = both.run()
        source, target = both.rows("SELECT * FROM orders ORDER BY id")
        assert source == target
        states = both.states
        assert {state.state for state in states.values()} == {State.CATCHING_UP}
        assert states["orders"].rows_loaded == 1800
        assert states["orders"].position == str(both.positions["orders"])
        lines = {line.target: line for line in loader.summarize()}
        assert (lines["orders"].rows, lines["void"].rows) == (1800, 0)
        assert loader.progress.observe(1e9).fraction == 1.0
    indexes = target_account.query("SHOW INDEX FROM orders")
    assert {(row[2], row[1]) for row in indexes} == {("PRIMARY", 0), ("by_sku", 0), ("by_customer", 1)}
    assert len(target_account.query("SHOW INDEX FROM void")) == 2


def test_every_type_arrives_exactly(source_account: Account, target_account: Account) -> None:
    """Each column type at its extremes, compared by values that each server computes for itself (I10)."""
    groups = {
        "integers": INTEGERS,
        "decimals": DECIMALS,
        "floats": FLOATS,
        "temporals": temporals(),
        "strings": STRINGS,
        "labels": LABELS,
        "shapes": SHAPES,
        "jsons": JSONS,
        "own": MARIADB_ONLY if source_account.server.kind == "mariadb" else OPAQUE,
    }
    for name, columns in groups.items():
        create_types(source_account.server, source_account.database, name, columns)
        fill_types(source_account.server, source_account.database, name, columns)
    with pipe(source_account, target_account, *groups) as both:
        both.run()
    source, target = source_account, target_account
    assert assert_equal(source.server, source.database, target.server, target.database) > 50


DOCS = "CREATE TABLE docs (id INT PRIMARY KEY, n INT, doc JSON)"


def insert_docs(first: int, last: int, *, every: int = 3) -> str:
    """One row in ``every`` has decimals in its document that a file cannot keep."""
    return (
        f"INSERT INTO docs WITH RECURSIVE i AS (SELECT {first} i UNION ALL SELECT i + 1 FROM i WHERE i < {last})"
        f" SELECT i, i % 50, IF(i % {every} = 0, JSON_OBJECT('price', CAST(i AS DECIMAL(10,2)), 'n', i),"
        " JSON_OBJECT('price', i / 8e0, 'text', repeat('é', 50))) FROM i"
    )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("room", [2_000, 8 << 20])
def test_decimals_in_documents_arrive_beside_the_files(
    mysql_source_account: Account,
    target_account: Account,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    every: int,
) -> None:
    """No file keeps them: such rows follow by INSERT, in bounded numbers, in their chunk's transaction (I9, I10)."""
    monkeypatch.setattr("replicator.load.chunk.GROUP_BYTES", room)
    monkeypatch.setattr("replicator.readers.mysql_rows.RECEIVE", 1 << 12)  # many small blocks
    source, target = mysql_source_account, target_account
    run_at(source, DOCS, insert_docs(1, 1000, every=every))
    with pipe(source, target, "docs") as both:
        both.run()
        assert both.states["docs"].rows_loaded == 1000
    assert assert_equal(source.server, source.database, target.server, target.database) == 1000
    assert target.query("SELECT DISTINCT JSON_TYPE(doc->'$.price') t FROM docs ORDER BY t") == (
        [("DECIMAL",)] if every == 1 else [("DECIMAL",), ("DOUBLE",)]
    )


@pytest.mark.usefixtures("small_chunks")
def test_decimals_in_documents_arrive_beside_rows_of_others(
    mysql_source_account: Account, target_account: Account
) -> None:
    source, target = mysql_source_account, target_account
    run_at(source, DOCS, insert_docs(1, 900))
    run_at(target, DOCS, "INSERT INTO docs VALUES (3, 0, '{}'), (4, 0, '[1.5]')")
    with pipe(source, target, "docs", rows=ExistingRows.MERGE) as both:
        both.run()
    assert assert_equal(source.server, source.database, target.server, target.database) == 900


@pytest.mark.parametrize("fault", ["id = 300", "id = 700", "id = 701"])
def test_rows_with_and_without_decimals_are_refused_alike(
    mysql_source_account: Account, target_account: Account, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A warning of any of a chunk's files and INSERTs rolls all of it back and is told (SEMANTICS §6)."""
    monkeypatch.setattr("replicator.load.chunk.GROUP_BYTES", 2_000)
    monkeypatch.setattr("replicator.readers.mysql_rows.RECEIVE", 1 << 12)
    run_at(mysql_source_account, DOCS, insert_docs(1, 1000))
    run_at(target_account, DOCS, f"ALTER TABLE docs ADD CONSTRAINT others CHECK (NOT {fault})")
    with pipe(mysql_source_account, target_account, "docs") as both:
        with pytest.raises(DataError, match=r"docs, rows 1 of 1.*others"):
            both.run()
        assert both.states["docs"].state is State.ERROR
        assert both.target.query("SELECT COUNT(*) FROM docs") == [(0,)]


@pytest.mark.usefixtures("small_chunks")
def test_load_under_write_load_is_exact_for_its_position(
    source_account: Account, target_account: Account
) -> None:
    """One row a transaction: the rows loaded and the transactions in the position count the same (I1, I3)."""
    run_at(source_account, "CREATE TABLE hot (id INT PRIMARY KEY AUTO_INCREMENT)")
    begin = newest(source_account)
    counter = Counter(source_account.server, source_account.database, "hot")
    with counter, pipe(source_account, target_account, "hot") as both:
        both.run()
        loaded = both.target.query("SELECT COUNT(*), MAX(id) FROM hot")[0]
        transactions = count_transactions(both.positions["hot"], source_account) - begin
    assert loaded == (transactions, transactions or None)


@pytest.mark.usefixtures("small_chunks")
def test_load_without_local_files(source_account: Account, target_account: Account) -> None:
    run_at(source_account, ORDERS, insert_orders(1, 900))
    with (
        set_global(target_account.server, "local_infile", "OFF"),
        pipe(source_account, target_account, "orders") as both,
    ):
        assert both.session.capabilities.local_infile is False
        both.run()
        source, target = both.rows("SELECT * FROM orders ORDER BY id")
        assert source == target
        assert both.states["orders"].rows_loaded == 900


# --- accidents --------------------------------------------------------------------------------------------------------


def kill_sessions(account: Account, chunk: int) -> None:
    """End every session of an account in the second chunk, as a failing network would."""
    if chunk != 2:
        return
    rows = account.server.execute(
        f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{account.user}'"
    )
    for (number,) in rows:
        with contextlib.suppress(Exception):
            account.server.execute(f"KILL {number}")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("local_infile", ["ON", "OFF"])
def test_lost_target_in_mid_chunk_doubles_and_loses_nothing(
    mysql_source_account: Account, target_account: Account, local_infile: str
) -> None:
    run_at(mysql_source_account, ORDERS, insert_orders(1, 900))
    with set_global(target_account.server, "local_infile", local_infile):
        with pipe(
            mysql_source_account, target_account, "orders", interfere=partial(kill_sessions, target_account)
        ) as both:
            lease = both.lease
            prepare_tables(both.session, lease, both.tables, both.selection, both.stop)
            Loader(both, both.tables, workers=2, on_loaded=both._take, stop=both.stop).run()
        with Session.connect(endpoint_of(target_account)) as session:
            [state] = read_tables(session, "load")
        assert (state.state, state.rows_loaded) == (State.CATCHING_UP, 900)
        assert target_account.query("SELECT COUNT(*), SUM(id) FROM orders") == [(900, 900 * 901 // 2)]


@pytest.mark.usefixtures("small_chunks")
def test_commit_whose_answer_was_lost_counts_once(
    mysql_source_account: Account, target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's row, read with a lock, says that the chunk is in (SEMANTICS §4.2)."""
    run_at(mysql_source_account, ORDERS, insert_orders(1, 900))
    run = Session.run
    lost: list[bytes] = []

    def lose_one_answer(self: Session, packet: bytes, body: Any = None) -> Any:
        results = run(self, packet, body)
        if not lost and packet.endswith(b"COMMIT") and b"rows_loaded=rows_loaded+" in packet:
            lost.append(packet)
            self.abort()
            raise TargetUnavailable("the answer was lost")
        return results

    monkeypatch.setattr(Session, "run", lose_one_answer)
    with pipe(mysql_source_account, target_account, "orders") as both:
        loader = both.run()
        assert lost
        assert both.states["orders"].rows_loaded == 900
        assert loader.summarize()[0].rows == 900
        source, target = both.rows("SELECT * FROM orders ORDER BY id")
        assert source == target


def test_lost_snapshot_starts_the_table_again(
    source_account: Account, target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.load.worker.count_chunk_rows", lambda _table: 30)
    run_at(source_account, ORDERS, insert_orders(1, 900))
    interfere = partial(kill_sessions, source_account)
    with pipe(source_account, target_account, "orders", interfere=interfere) as both:
        both.run()
        assert both.reader.snapshots > 1
        source, target = both.rows("SELECT * FROM orders ORDER BY id")
        assert source == target
        assert both.states["orders"].rows_loaded == 900


@pytest.mark.usefixtures("small_chunks")
def test_the_age_of_the_snapshot_is_known_while_it_is_open(
    mysql_source_account: Account, target_account: Account
) -> None:
    """The source's undo grows with it (SEMANTICS §2.8)."""
    run_at(mysql_source_account, ORDERS, insert_orders(1, 900))
    ages: list[float | None] = []
    with pipe(mysql_source_account, target_account, "orders") as both:
        both.reader._interfere = lambda _chunk: ages.append(both.loader.snapshot_seconds)
        both.run(workers=1)
        assert len(ages) > 1
        assert all(age is not None and 0 < age < 60 for age in ages)
        assert ages == sorted(ages, key=lambda age: age or 0)
        assert both.loader.snapshot_seconds is None


def die_in_the_third_chunk(chunk: int) -> None:
    if chunk == 3:
        raise Killed


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("is_there", [False, True])
def test_half_loaded_table_is_emptied_and_loaded_again(
    mysql_source_account: Account, target_account: Account, is_there: bool
) -> None:
    """What only we filled is emptied; a table that was there, empty, keeps what its owner made of it."""
    run_at(
        mysql_source_account,
        ORDERS,
        insert_orders(1, 750),
        insert_orders(751, 1500),
        "CREATE TABLE done (id INT PRIMARY KEY)",
    )
    if is_there:
        run_at(target_account, ORDERS, "ALTER TABLE orders ADD mine INT NULL, ADD KEY mine (mine)")
    with pipe(mysql_source_account, target_account, "orders", "done") as both:
        both.reader._interfere = die_in_the_third_chunk
        with pytest.raises(Killed):
            both.run(workers=1)
        assert 0 < both.states["orders"].rows_loaded < 1500
        assert both.states["orders"].state is State.LOADING
    # Rows that the first, unfinished load may have copied are changed at the source before the second.
    run_at(
        mysql_source_account,
        "UPDATE orders SET customer_id = -1 WHERE id % 2",
        "DELETE FROM orders WHERE id < 50",
    )
    with pipe(mysql_source_account, target_account, "orders", "done") as both:
        both.run()
        columns = "id, customer_id, sku, price, note, created_at, weight"
        source, target = both.rows(f"SELECT {columns} FROM orders ORDER BY id")
        assert source == target
        assert both.states["orders"].rows_loaded == 1451
    indexes = {row[2] for row in target_account.query("SHOW INDEX FROM orders")}
    assert indexes == {"PRIMARY", "by_sku", "by_customer"} | ({"mine"} if is_there else set())


@pytest.mark.usefixtures("small_chunks")
def test_rows_that_others_added_to_a_half_loaded_table_keep_it_from_being_emptied(
    mysql_source_account: Account, target_account: Account
) -> None:
    """The program empties only what it alone has filled (SEMANTICS §6.1)."""
    run_at(mysql_source_account, ORDERS, insert_orders(1, 750), insert_orders(751, 1500))
    with pipe(mysql_source_account, target_account, "orders", interfere=die_in_the_third_chunk) as both:
        with pytest.raises(Killed):
            both.run(workers=1)
        run_at(target_account, insert_orders(100001, 100002))
        with pytest.raises(SchemaMismatch, match="holds 2 rows that this pipeline did not bring"):
            both.run()
    assert target_account.query("SELECT COUNT(*) FROM orders WHERE id > 100000") == [(2,)]


@pytest.mark.usefixtures("small_chunks")
def test_loaded_table_is_never_loaded_again(mysql_source_account: Account, target_account: Account) -> None:
    run_at(mysql_source_account, ORDERS, insert_orders(1, 100))
    with pipe(mysql_source_account, target_account, "orders") as both:
        both.run()
        run_at(target_account, "DELETE FROM orders WHERE id = 1")
        both.run()
        assert target_account.query("SELECT COUNT(*) FROM orders") == [(99,)]


def test_data_that_the_target_refuses_names_table_rows_and_reason(
    mysql_source_account: Account, target_account: Account
) -> None:
    """LOAD DATA LOCAL turns errors into warnings: none may pass (SEMANTICS §6)."""
    run_at(mysql_source_account, ORDERS, insert_orders(1, 100))
    run_at(target_account, ORDERS, "ALTER TABLE orders ADD CONSTRAINT cheap CHECK (price < 0.5)")
    with pipe(mysql_source_account, target_account, "orders") as both:
        with pytest.raises(DataError, match=r"orders, rows 1 of 1.*cheap"):
            both.run()
        assert both.states["orders"].state is State.ERROR
        assert "cheap" in (both.states["orders"].error or "")
        assert both.target.query("SELECT COUNT(*) FROM orders") == [(0,)]


# --- rows of others ---------------------------------------------------------------------------------------------------


def make_existing(source: Account, target: Account) -> None:
    """Three rows the source has (one of them different), two it lacks, and a column of the application's."""
    run_at(source, ORDERS, insert_orders(1, 900))
    run_at(target, ORDERS, insert_orders(1, 3), insert_orders(100001, 100002))
    run_at(target, "UPDATE orders SET note = 'old' WHERE id = 2", "ALTER TABLE orders ADD mine INT NULL")
    run_at(target, "UPDATE orders SET mine = id")


def test_rows_of_others_are_refused_with_their_number_and_the_choices(
    mysql_source_account: Account, target_account: Account
) -> None:
    make_existing(mysql_source_account, target_account)
    run_at(mysql_source_account, "CREATE TABLE wide (id BIGINT PRIMARY KEY)")
    run_at(target_account, "CREATE TABLE wide (id INT PRIMARY KEY)")
    with pipe(mysql_source_account, target_account, "orders", "wide") as both:
        with pytest.raises(SchemaMismatch, match="holds 5 rows") as caught:
            both.run()
        assert "wide" in caught.value.message  # every fault at once
        assert "merge" in caught.value.hint
    assert target_account.query("SELECT COUNT(*) FROM orders") == [(5,)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [ExistingRows.MERGE, ExistingRows.REPLACE])
def test_existing_rows_are_merged_or_replaced(
    source_account: Account, target_account: Account, rows: ExistingRows
) -> None:
    make_existing(source_account, target_account)
    columns = "id, customer_id, sku, price, note, created_at, weight"
    with pipe(source_account, target_account, "orders", rows=rows) as both:
        both.run()
        source, target = both.rows(f"SELECT {columns} FROM orders WHERE id < 100000 ORDER BY id")
        assert source == target
        assert both.states["orders"].state is State.CATCHING_UP
    kept = target_account.query("SELECT id, mine FROM orders WHERE mine IS NOT NULL ORDER BY id")
    others = [] if rows is ExistingRows.REPLACE else [(100001, 100001), (100002, 100002)]
    assert kept == [(1, 1), (2, 2), (3, 3), *others]
    assert not target_account.query("SHOW TABLES LIKE '\\\\_replicator\\\\_keys%'")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [ExistingRows.MERGE, ExistingRows.REPLACE])
def test_a_load_beside_rows_of_others_dies_and_dies_again(
    source_account: Account, target_account: Account, rows: ExistingRows
) -> None:
    """Each attempt finds what the earlier ones brought, changed and deleted at the source meanwhile.

    What the source deletes goes, whoever had it first: had the first attempt lived, the stream would have deleted it.
    """
    make_existing(source_account, target_account)
    for death in range(2):
        with pipe(
            source_account, target_account, "orders", rows=rows, interfere=die_in_the_third_chunk
        ) as both:
            with pytest.raises(Killed):
                both.run(workers=1)
            assert both.states["orders"].state is State.LOADING
        run_at(
            source_account,
            f"UPDATE orders SET note = 'after death {death}' WHERE id % 2 = {death}",
            f"DELETE FROM orders WHERE id BETWEEN {20 + 10 * death} AND {25 + 10 * death} OR id = {3 - death}",
            f"UPDATE orders SET id = {5000 + death}, sku = 'moved-{death}' WHERE id = {40 + death}",
        )
    with pipe(source_account, target_account, "orders", rows=rows) as both:
        both.run()
        columns = "id, customer_id, sku, price, note, created_at, weight"
        source, target = both.rows(f"SELECT {columns} FROM orders WHERE id < 100000 ORDER BY id")
        assert source == target
        assert both.states["orders"].rows_loaded == len(source)
    kept = target_account.query("SELECT id, mine FROM orders WHERE mine IS NOT NULL ORDER BY id")
    others = [] if rows is ExistingRows.REPLACE else [(100001, 100001), (100002, 100002)]
    assert kept == [(1, 1), *others]
    assert not target_account.query("SHOW TABLES LIKE '\\\\_replicator\\\\_keys%'")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [ExistingRows.MERGE, ExistingRows.REPLACE])
def test_a_snapshot_that_is_lost_beside_rows_of_others_leaves_nothing_behind(
    mysql_source_account: Account, target_account: Account, rows: ExistingRows
) -> None:
    """The same run begins the table again: what its first attempt brought and the source deleted since is gone."""

    def delete_and_lose(number: int) -> None:
        if number == 3:
            run_at(mysql_source_account, "DELETE FROM orders WHERE id BETWEEN 2 AND 9")
            raise SnapshotLost("planted")

    make_existing(mysql_source_account, target_account)
    with pipe(mysql_source_account, target_account, "orders", rows=rows, interfere=delete_and_lose) as both:
        both.run(workers=1)
        assert both.reader.snapshots == 2
        source, target = both.rows("SELECT id, note FROM orders WHERE id < 100000 ORDER BY id")
        assert source == target
    others = target_account.query("SELECT COUNT(*) FROM orders WHERE id > 100000")
    assert others == [(0 if rows is ExistingRows.REPLACE else 2,)]


@pytest.mark.usefixtures("small_chunks")
def test_what_a_forgotten_load_brought_beside_rows_of_others_is_theirs(
    mysql_source_account: Account, target_account: Account
) -> None:
    """After `drop` nothing is known of it any more; another pipeline never knew."""
    make_existing(mysql_source_account, target_account)
    rows = ExistingRows.MERGE
    with pipe(
        mysql_source_account, target_account, "orders", rows=rows, interfere=die_in_the_third_chunk
    ) as both:
        with pytest.raises(Killed):
            both.run(workers=1)
        assert len(target_account.query("SHOW TABLES LIKE '\\\\_replicator\\\\_keys%'")) == 1
        assert not find_keys_tables(both.session, "another", [(t.source, t.target) for t in both.tables])
        forget_keys(both.session, both.lease.pipeline)
        assert not target_account.query("SHOW TABLES LIKE '\\\\_replicator\\\\_keys%'")
        run_at(mysql_source_account, "DELETE FROM orders WHERE id BETWEEN 10 AND 19")
        both.reader._interfere = None
        both.run()
    kept = target_account.query("SELECT COUNT(*) FROM orders WHERE id BETWEEN 10 AND 19 OR id > 100000")
    assert kept == [(12,)]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_missing_table_without_create_is_refused(
    mysql_source_account: Account, target_account: Account
) -> None:
    run_at(mysql_source_account, ORDERS)
    with (
        pipe(mysql_source_account, target_account, "orders", create=False) as both,
        pytest.raises(SchemaMismatch, match="create: false"),
    ):
        both.run()
    assert not target_account.query("SHOW TABLES LIKE 'orders'")


@pytest.mark.usefixtures("small_chunks")
def test_foreign_keys_come_after_the_load_and_orphans_are_told(
    source_account: Account, target_account: Account
) -> None:
    run_at(
        source_account,
        "CREATE TABLE parent (id INT PRIMARY KEY)",
        "CREATE TABLE child (id INT PRIMARY KEY, parent INT, CONSTRAINT to_parent FOREIGN KEY (parent)"
        " REFERENCES parent (id) ON DELETE CASCADE)",
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO child VALUES (1, 1), (2, 2), (3, NULL)",
        "SET foreign_key_checks = 0",
        "INSERT INTO child VALUES (4, 44)",
    )
    with pipe(source_account, target_account, "child", "parent") as both:
        both.run()
        orphans = add_foreign_keys(both, both.tables, both.positions["child"], both.stop)
        assert [(orphan.table.target, orphan.key.name, orphan.rows) for orphan in orphans] == [
            ("child", "to_parent", 1)
        ]
        assert (
            add_foreign_keys(both, both.tables, both.positions["child"], both.stop) == orphans
        )  # they are there already
    [(_, create)] = target_account.query("SHOW CREATE TABLE child")
    assert (
        "CONSTRAINT `to_parent` FOREIGN KEY (`parent`) REFERENCES `parent` (`id`) ON DELETE CASCADE" in create
    )


def test_a_lock_that_cannot_be_had_ends_the_load_after_a_stated_time_and_names_the_holder(
    mysql_source_account: Account, target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt without a lock fails; whoever holds the table is named, and nobody waits for ever."""
    account = mysql_source_account
    for name, value in {"UNLOCKED_ATTEMPTS": 0, "LOCK_ROUNDS": 1, "LOCK_WAIT_SECONDS": 1}.items():
        monkeypatch.setattr(f"replicator.readers.mysql_snapshot.{name}", value)
    monkeypatch.setattr("replicator.load.BLOCKED_SECONDS", 0.1)
    account.server.execute(f"GRANT PROCESS ON *.* TO {account.user}")
    run_at(account, ORDERS)
    with (
        pipe(account, target_account, "orders") as both,
        account.server.connect(database=account.database, autocommit=False) as holder,
    ):
        holder.cursor().execute(insert_orders(1, 1))
        late = threading.Timer(12, both.stop.set)
        late.start()
        with pytest.raises(SourceError, match=rf"connection {holder.thread_id()}, root@.*given up") as caught:
            both.run()
        late.cancel()
        assert not caught.value.retryable
