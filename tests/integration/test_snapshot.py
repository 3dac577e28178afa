"""Snapshots on real servers: ranges that are the table, rows that are the values, positions that are exact (I1, I9)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from replicator.errors import SnapshotLost, SourceError, SourceUnavailable
from replicator.model import Row, TableName, TableSchema
from replicator.readers.base import KeyRange
from replicator.readers.gtid import FilePosition, GtidPosition, MariadbPosition
from replicator.readers.mysql_catalog import describe
from replicator.readers.mysql_snapshot import MysqlSnapshot, SnapshotSource, open_snapshot
from replicator.readers.xa import OldBranches
from replicator.servers import Server, start_mysql
from tests.accounts import Account, make_source_account

_WHOLE = KeyRange(None, None)

KEYS = {
    "int_small": ("id INT PRIMARY KEY", [f"({n})" for n in range(1, 401)]),
    "int_negative": ("id BIGINT PRIMARY KEY", [f"({n * 7 - 1000})" for n in range(300)]),
    "int_extremes": (
        "id BIGINT PRIMARY KEY",
        ["(-9223372036854775808)", "(-1)", "(0)", "(9223372036854775807)"],
    ),
    "unsigned_extremes": (
        "id BIGINT UNSIGNED PRIMARY KEY",
        ["(0)", "(1)", "(18446744073709551614)", "(18446744073709551615)"],
    ),
    "varchar_ci": (
        "id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY",
        [f"('{letter}{n}é''\\\\')" for letter in "aBcDeF" for n in range(40)] + ["('')", "('Z')", "('_')"],
    ),
    "char_latin1": (
        "id CHAR(8) CHARACTER SET latin1 COLLATE latin1_swedish_ci PRIMARY KEY",
        [f"('ä{n}')" for n in range(100)] + ["('')"],
    ),
    "varchar_utf16": ("id VARCHAR(8) CHARACTER SET utf16 PRIMARY KEY", [f"('k{n}')" for n in range(100)]),
    "varbinary": ("id VARBINARY(8) PRIMARY KEY", [f"(x'{n:02x}00')" for n in range(200)] + ["('')"]),
    "composite": (
        "a INT, b VARCHAR(10), c INT, PRIMARY KEY (a, b, c)",
        [f"({n // 100}, 'x{n % 7}', {n})" for n in range(300)],
    ),
    "composite_text": (
        "a VARCHAR(10), b INT, PRIMARY KEY (a, b)",
        [f"('t{n % 3}', {n})" for n in range(300)],
    ),
    "datetime": (
        "id DATETIME(3) PRIMARY KEY",
        [f"('2020-01-{n % 28 + 1:02} 00:00:{n % 60:02}.{n:03}')" for n in range(200)]
        + ["('0000-00-00 00:00:00')", "('9999-12-31 23:59:59.999')"],
    ),
    "date": ("id DATE PRIMARY KEY", ["('2020-02-31')", "('2020-00-00')", "('0000-00-00')", "('2021-01-01')"]),
    "decimal": (
        "id DECIMAL(40,10) PRIMARY KEY",
        [f"(123456789012345678901234567890.{n:010})" for n in range(200)] + ["(-0.5)", "(0)"],
    ),
    "year": ("id YEAR PRIMARY KEY", ["(0)", *(f"({n})" for n in range(1901, 2030))]),
    "time": ("id TIME PRIMARY KEY", ["('-838:59:59')", "('00:00:00')", "('838:59:59')"]),
    "timestamp": ("id TIMESTAMP PRIMARY KEY", [f"('2020-01-01 00:00:{n:02}')" for n in range(60)]),
    "bit": ("id BIT(20) PRIMARY KEY", [f"({n})" for n in range(100)]),
    "enum": ("id ENUM('z','y','x') PRIMARY KEY", ["('x')", "('y')", "('z')"]),
    "int_and_enum": (
        "a INT, e ENUM('z','y') , PRIMARY KEY (a, e)",
        [f"({n},'{e}')" for n in range(50) for e in "yz"],
    ),
    "unique_not_null": ("v INT NOT NULL, UNIQUE KEY u (v)", [f"({n})" for n in range(100)]),
    "empty": ("id INT PRIMARY KEY", []),
    "one": ("id INT PRIMARY KEY", ["(5)"]),
}


def make_source(account: Account, touched: frozenset[TableName] = frozenset()) -> SnapshotSource:
    server = account.server
    gtids = server.kind == "mysql" and server.settings["gtid_mode"] is True
    return SnapshotSource(
        connect=account.connect,
        kind="mariadb" if server.kind == "mariadb" else "mysql",
        server="here",
        gtids=gtids,
        touched_tables=lambda _start, _file, _offset: touched,
        file_created=lambda _file: 7,
        branches=OldBranches(),
    )


@contextlib.contextmanager
def opened(source: SnapshotSource, tables: list[TableSchema], workers: int = 1) -> Iterator[MysqlSnapshot]:
    with contextlib.closing(open_snapshot(source, tables, workers, threading.Event())) as snapshot:
        yield snapshot


def describe_tables(account: Account, *names: str) -> list[TableSchema]:
    with account.connect() as connection:
        return describe(connection, {TableName(account.database, name): name for name in names})


def read_all(snapshot: MysqlSnapshot, table: TableSchema, rows: int = 1000) -> list[Row]:
    session = snapshot.sessions[0]
    spans = session.split(table, rows)
    return [row for span in spans for block in session.read(table, span) for row in block]


def run_as_root(account: Account, *statements: str) -> None:
    account.server.execute(
        ["SET SESSION sql_mode='ALLOW_INVALID_DATES'", "SET SESSION time_zone='+00:00'", *statements],
        database=account.database,
    )


def test_ranges_hold_every_row_once(source_account: Account) -> None:
    """Every kind of key, in ranges so small that each boundary matters."""
    run_as_root(
        source_account,
        *(
            f"CREATE TABLE `{name}` ({columns}, payload VARCHAR(9) NULL)"
            for name, (columns, _) in KEYS.items()
        ),
        *(
            f"INSERT INTO `{name}` VALUES {','.join(row[:-1] + ', NULL)' for row in rows)}"
            for name, (_, rows) in KEYS.items()
            if rows
        ),
        *(f"ANALYZE TABLE `{name}`" for name in KEYS),
    )
    tables = describe_tables(source_account, *KEYS)
    with opened(make_source(source_account), tables) as snapshot:
        for table in tables:
            expected = [row for block in snapshot.sessions[0].read(table, _WHOLE) for row in block]
            assert len(expected) == len(KEYS[table.target][1]), table.target
            for rows in (1, 7, 1000):
                assert sorted(read_all(snapshot, table, rows), key=repr) == sorted(expected, key=repr), (
                    table.target
                )


VALUES = {
    "id": ("INT PRIMARY KEY", "7", 7),
    "u": ("BIGINT UNSIGNED", "18446744073709551615", 2**64 - 1),
    "d": ("DOUBLE", "'-0e0'", -0.0),
    "f": ("FLOAT", "0.1", 0.10000000149011612),
    "exact": ("DECIMAL(65,30)", "'-0.000000000000000000000000000001'", b"-0.000000000000000000000000000001"),
    "bits": ("BIT(64)", "18446744073709551615", 2**64 - 1),
    "t6": ("DATETIME(6)", "'0000-00-00 00:00:00.000001'", b"0000-00-00 00:00:00.000001"),
    "late": ("TIME(6)", "'-838:59:59.000000'", b"-838:59:59.000000"),
    "e": ("ENUM('a','ö') CHARACTER SET latin1", "'ö'", "ö".encode()),
    "s": ("SET('x','y','z')", "'z,x'", b"x,z"),
    "l1": ("VARCHAR(300) CHARACTER SET latin1", "REPEAT(_latin1 x'80e4', 126)", b"\x80\xe4" * 126),
    "u16": ("VARCHAR(10) CHARACTER SET utf16", "'aé'", "aé".encode("utf-16-be")),
    "blob3": ("LONGBLOB", "REPEAT('k', 70000)", b"k" * 70000),
    "nothing": ("LONGTEXT", "NULL", None),
}


def test_rows_are_canonical_values(source_account: Account) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in VALUES.items())
    literals = ", ".join(literal for _, literal, _ in VALUES.values())
    run_as_root(source_account, f"CREATE TABLE t ({columns})", f"INSERT INTO t VALUES ({literals})")
    [table] = describe_tables(source_account, "t")
    with opened(make_source(source_account), [table]) as snapshot:
        [row] = read_all(snapshot, table)
    assert {column.name: value for column, value in zip(table.columns, row, strict=True)} == {
        name: value for name, (_, _, value) in VALUES.items()
    }
    if source_account.server.kind == "mysql":  # MariaDB's parser has no negative zero
        assert str(row[2]) == "-0.0"


@pytest.mark.parametrize("size", [250, 251, 65535, 65536, 2**24 - 10, 2**24 + 5, 33_000_000])
def test_row_of_any_length_arrives_whole(mysql_source_account: Account, size: int) -> None:
    """Length prefixes of each width, and rows of several packets, with ordinary rows on both sides."""
    account = mysql_source_account
    run_as_root(account, "CREATE TABLE t (id INT PRIMARY KEY, body LONGBLOB)")
    run_as_root(account, "INSERT INTO t VALUES (1, 'before'), (3, 'after')")
    with account.server.connect(database=account.database, max_allowed_packet=2**27) as connection:
        connection.cursor().execute("INSERT INTO t VALUES (2, %s)", (b"\xfe" * size,))
    [table] = describe_tables(account, "t")
    source = make_source(account)
    with opened(source, [table]) as snapshot:
        rows = read_all(snapshot, table)
        assert [(row[0], len(row[1])) for row in rows] == [(1, 6), (2, size), (3, 5)]  # type: ignore[arg-type]
        assert rows[1][1] == b"\xfe" * size
        early = snapshot.sessions[0].read(table, _WHOLE)
        next(early)
        early.close()  # type: ignore[attr-defined]
        assert len(read_all(snapshot, table)) == 3


def test_caller_that_stops_early_leaves_the_session_usable(source_account: Account) -> None:
    run_as_root(
        source_account,
        "CREATE TABLE t (id INT PRIMARY KEY, body VARCHAR(200))",
        "INSERT INTO t WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
        " SELECT a.i * 1000 + b.i, REPEAT('x', 200) FROM n a JOIN n b ON b.i <= 20",
    )
    [table] = describe_tables(source_account, "t")
    with opened(make_source(source_account), [table]) as snapshot:
        rows = snapshot.sessions[0].read(table, _WHOLE)
        assert len(next(rows)) < 18000
        rows.close()  # type: ignore[attr-defined]
        assert len(read_all(snapshot, table, 5000)) == 18000


def test_alter_does_not_wait_for_a_snapshot_and_ends_it_for_that_table(mysql_source_account: Account) -> None:
    """SEMANTICS §2.6: the metadata lock goes with each chunk, and error 1412 is a lost snapshot."""
    account = mysql_source_account
    run_as_root(account, "CREATE TABLE t (id INT PRIMARY KEY)", "CREATE TABLE calm (id INT PRIMARY KEY)")
    run_as_root(account, "INSERT INTO t VALUES (1)", "INSERT INTO calm VALUES (1)")
    tables = describe_tables(account, "t", "calm")
    with opened(make_source(account), tables) as snapshot:
        assert len(read_all(snapshot, tables[0])) == 1
        run_as_root(account, "SET lock_wait_timeout = 1", "ALTER TABLE t ADD c INT, ALGORITHM=COPY")
        with pytest.raises(SnapshotLost, match="1412"):
            read_all(snapshot, tables[0])
        assert len(read_all(snapshot, tables[1])) == 1


def test_killed_session_is_a_lost_snapshot(source_account: Account) -> None:
    run_as_root(source_account, "CREATE TABLE t (id INT PRIMARY KEY)")
    [table] = describe_tables(source_account, "t")
    with opened(make_source(source_account), [table]) as snapshot:
        number = snapshot.sessions[0].query("SELECT CONNECTION_ID()")[0][0]  # type: ignore[attr-defined]
        source_account.server.execute(f"KILL {int(number)}")
        with pytest.raises(SnapshotLost):
            read_all(snapshot, table)


# --- positions --------------------------------------------------------------------------------------------------------


class Counter:
    """Writes one row a transaction, as fast as it can, beside the test."""

    def __init__(self, server: Server, database: str, table: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(server, database, table))

    def _write(self, server: Server, database: str, table: str) -> None:
        with server.connect(database=database) as connection:
            cursor = connection.cursor()
            while not self._stop.is_set():
                cursor.execute(f"INSERT INTO {table} () VALUES ()")

    def __enter__(self) -> Counter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def count_transactions(position: object, account: Account) -> int:
    """How many transactions of the server are in a position: its server must write one row a transaction."""
    if isinstance(position, GtidPosition):
        return dict(position.gtids.sources)[account.server.uuid][-1][1]
    assert isinstance(position, MariadbPosition)
    return position.sequence_of(0)


def newest(account: Account) -> int:
    """The number of the server's last transaction."""
    if account.server.kind == "mysql":
        text = str(account.server.execute("SELECT @@GLOBAL.gtid_executed")[0][0])
        return count_transactions(GtidPosition.of("here", text.replace("\n", "")), account)
    text = str(account.server.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
    return MariadbPosition.of("here", text).sequence_of(0)


def test_snapshot_under_write_load_is_exact_for_its_position(source_account: Account) -> None:
    """One row a transaction: the rows seen and the position's transactions must count the same (I1)."""
    account = source_account
    run_as_root(account, "CREATE TABLE hot (id INT PRIMARY KEY AUTO_INCREMENT)")
    hidden = frozenset([TableName(account.database, "hot")])
    tables = describe_tables(account, "hot")
    begin = newest(account)
    with Counter(account.server, account.database, "hot"):
        for _ in range(5):
            with opened(make_source(account, hidden), tables, workers=3) as snapshot:
                seen = {
                    sum(len(block) for block in session.read(tables[0], _WHOLE))
                    for session in snapshot.sessions
                }
                assert seen == {count_transactions(snapshot.position, account) - begin}


def test_touched_tables_are_left_for_another_snapshot(mysql_source_account: Account) -> None:
    account = mysql_source_account
    run_as_root(account, "CREATE TABLE hot (id INT PRIMARY KEY)", "CREATE TABLE calm (id INT PRIMARY KEY)")
    tables = describe_tables(account, "hot", "calm")
    touched = frozenset([TableName(account.database, "hot")])
    with opened(make_source(account, touched), tables, workers=2) as snapshot:
        assert [table.target for table in snapshot.tables] == ["calm"]
        assert count_transactions(snapshot.position, account) == newest(account)
    with opened(make_source(account, touched), tables[:1], workers=2) as snapshot:  # by a lock
        assert [table.target for table in snapshot.tables] == ["hot"]
        assert len(snapshot.sessions) == 2
    run_as_root(account, "SET lock_wait_timeout = 1", "INSERT INTO hot VALUES (1)")  # and it was given back


def test_lock_that_cannot_be_had_names_the_one_in_the_way(
    mysql_source_account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = mysql_source_account
    monkeypatch.setattr("replicator.readers.mysql_snapshot.LOCK_ROUNDS", 1)
    monkeypatch.setattr("replicator.readers.mysql_snapshot.LOCK_WAIT_SECONDS", 1)
    account.server.execute(f"GRANT PROCESS ON *.* TO {account.user}")
    run_as_root(account, "CREATE TABLE hot (id INT PRIMARY KEY)")
    tables = describe_tables(account, "hot")
    source = make_source(account, frozenset([tables[0].source]))
    with account.server.connect(database=account.database, autocommit=False) as holder:
        holder.cursor().execute("INSERT INTO hot VALUES (1)")
        with pytest.raises(SourceUnavailable, match=f"connection {holder.thread_id()}, root@"):
            open_snapshot(source, tables, 1, threading.Event())


def test_stop_ends_the_wait_for_a_lock(mysql_source_account: Account) -> None:
    account = mysql_source_account
    run_as_root(account, "CREATE TABLE hot (id INT PRIMARY KEY)")
    tables = describe_tables(account, "hot")
    stop = threading.Event()
    stop.set()
    with account.server.connect(database=account.database, autocommit=False) as holder:
        holder.cursor().execute("INSERT INTO hot VALUES (1)")
        begun = time.monotonic()
        with pytest.raises(SnapshotLost, match="stopped"):
            open_snapshot(make_source(account, frozenset([tables[0].source])), tables, 1, stop)
        assert time.monotonic() - begun < 10


def test_missing_right_to_lock_is_named(mysql_source_account: Account) -> None:
    account = mysql_source_account
    run_as_root(account, "CREATE TABLE hot (id INT PRIMARY KEY)")
    account.server.execute(f"REVOKE LOCK TABLES ON {account.database}.* FROM {account.user}")
    tables = describe_tables(account, "hot")
    with pytest.raises(SourceError, match="LOCK TABLES") as caught:
        open_snapshot(make_source(account, frozenset([tables[0].source])), tables, 1, threading.Event())
    assert "GRANT LOCK TABLES" in caught.value.hint


def test_prepared_xa_transaction_is_waited_for_by_name(source_account: Account) -> None:
    account = source_account
    run_as_root(account, "CREATE TABLE t (id INT PRIMARY KEY)")
    tables = describe_tables(account, "t")
    with account.server.connect(database=account.database) as connection:
        cursor = connection.cursor()
        for statement in (
            "XA START 'doubt'",
            "INSERT INTO t VALUES (1)",
            "XA END 'doubt'",
            "XA PREPARE 'doubt'",
        ):
            cursor.execute(statement)
        try:
            with pytest.raises(SnapshotLost, match="XA"):
                open_snapshot(make_source(account), tables, 1, threading.Event())
        finally:
            cursor.execute("XA ROLLBACK 'doubt'")


def test_file_position_is_read_under_a_lock() -> None:
    """MySQL without GTIDs: the place in the log is exact for the locked table."""
    with start_mysql(gtid_mode=False) as server, make_source_account(server) as account:
        run_as_root(account, "CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        tables = describe_tables(account, "t")
        file, offset, *_ = server.execute("SHOW BINARY LOG STATUS")[0]
        with opened(make_source(account), tables, workers=2) as snapshot:
            assert snapshot.position == FilePosition("here", file, 7, offset)
            assert len(read_all(snapshot, tables[0])) == 1
