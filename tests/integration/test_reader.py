"""The reader against real servers: what leaves it, in which order, and what stops it (SEMANTICS §1, I1, I7)."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from replicator.errors import SourceError, UnsupportedEvent
from replicator.model import Op, SchemaChange, StreamItem, TableName, Transaction
from replicator.readers import transactions
from replicator.readers.mysql import MysqlReader
from replicator.servers import Server
from tests.accounts import Account
from tests.streams import (
    describe,
    list_changes,
    open_reader,
    read_transactions,
    read_until,
    replay,
    select_rows,
)

TABLE = "id INT PRIMARY KEY, v VARCHAR(100)"


@pytest.fixture
def reader(source_account: Account) -> Iterator[MysqlReader]:
    """A reader of a database with the tables a and b (selected by the tests), c (never) and m (MyISAM)."""
    source_account.server.execute(
        [f"CREATE TABLE {source_account.database}.{name} ({TABLE})" for name in "abc"]
        + [f"CREATE TABLE {source_account.database}.m ({TABLE}) ENGINE=MyISAM"]
    )
    opened = open_reader(source_account)
    yield opened
    opened.close()


def run(account: Account, *statements: str) -> None:
    with account.server.connect(database=account.database) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_transactions_leave_whole_and_in_order(reader: MysqlReader, source_account: Account) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    before = time.time()
    run(
        source_account,
        "INSERT INTO a VALUES (1, 'x'), (2, NULL)",
        "BEGIN",
        "UPDATE a SET v = 'y' WHERE id = 1",
        "INSERT INTO b VALUES (1, 'b')",
        "DELETE FROM a WHERE id = 2",
        "COMMIT",
        "INSERT INTO c VALUES (1, 'c')",
    )
    items = read_transactions(reader, start, tables)
    assert [list_changes([item]) for item in items] == [
        [("a", "INSERT", [], [(1, b"x"), (2, None)])],
        [
            ("a", "UPDATE", [(1, b"x")], [(1, b"y")]),
            ("b", "INSERT", [], [(1, b"b")]),
            ("a", "DELETE", [(2, None)], []),
        ],
        [],
    ]
    assert [item.rows for item in items] == [2, 3, 0]
    assert all(before - 1.1 < item.commit_time / 1e6 < time.time() + 1 for item in items)
    assert str(items[-1].position) == str(reader.position())


def test_stream_resumes_at_every_boundary(reader: MysqlReader, source_account: Account) -> None:
    """I1: each position is a boundary, and what follows it is always the same."""
    start, tables = reader.position(), describe(reader, source_account.database, "a", "b")
    run(
        source_account,
        *(f"INSERT INTO {'ab'[n % 2]} VALUES ({n}, 'x')" for n in range(4)),
        "CREATE TABLE other (id INT)",
        "FLUSH BINARY LOGS",
        "BEGIN",
        "INSERT INTO a VALUES (10, 'x')",
        "UPDATE b SET v = 'z'",
        "COMMIT",
        "TRUNCATE b",
        "INSERT INTO m VALUES (1, 'x')",
        "INSERT INTO b VALUES (11, 'x')",
    )
    items = read_transactions(reader, start, tables)
    end = reader.position()
    assert len(items) >= 9
    for number, item in enumerate(items):
        again = reader.parse_position(str(item.position))
        reader.verify_position(again)
        suffix = read_transactions(reader, again, tables, end)
        assert list_changes(suffix) == list_changes(items[number + 1 :])
        assert [str(s.position) for s in suffix] == [str(s.position) for s in items[number + 1 :]]


def test_random_writes_with_savepoints_and_rollbacks_replay_equal(
    reader: MysqlReader, source_account: Account
) -> None:
    """SEMANTICS §1.1; on MariaDB the MyISAM table makes rolled-back rows stand in the log."""
    account, pick = source_account, random.Random(11)
    is_mixed = account.server.kind == "mariadb"  # GTID consistency forbids the mixture on MySQL
    tables = describe(reader, account.database, "a", "b", "m")
    start = reader.position()
    statements = []
    for number in range(120):
        statements.append("BEGIN")
        for step in range(pick.randrange(1, 6)):
            table = pick.choice("abm") if is_mixed else pick.choice("ab")
            statements.append(
                pick.choice(
                    [
                        f"INSERT INTO {table} VALUES ({number * 10 + step}, 'n{number}')",
                        f"UPDATE {table} SET v = 'u{number}' WHERE id < {pick.randrange(1200)} ORDER BY id DESC LIMIT 3",
                        f"DELETE FROM {table} WHERE id > {pick.randrange(1200)} ORDER BY id LIMIT 2",
                        f"SAVEPOINT s{step % 2}",
                        f"SAVEPOINT `s{step % 2}`",
                    ]
                )
            )
            if statements[-1].startswith("SAVEPOINT"):
                statements.append(f"INSERT INTO {table} VALUES ({number * 10 + 7}, 'back')")
                statements.append(f"UPDATE {table} SET v = 'back' LIMIT 2")
                statements.append(f"ROLLBACK TO s{step % 2}")
                if table == "m":
                    statements.append("DELETE FROM m WHERE v = 'back'")
                statements.append(f"DELETE FROM {table} WHERE id = {number * 10 + 7}")
        statements.append(pick.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
    run(account, *statements)
    items = read_transactions(reader, start, tables)
    rows: dict[str, dict[object, tuple[object, ...]]] = {name: {} for name in "abm"}
    replay(items, rows)  # type: ignore[arg-type]
    for name in "ab":
        assert rows[name] == select_rows(account.server, account.database, name)


def test_mariadb_rolled_back_group_leaves_without_rows(mariadb_source_account: Account) -> None:
    account = mariadb_source_account
    run(account, f"CREATE TABLE a ({TABLE})", f"CREATE TABLE m ({TABLE}) ENGINE=MyISAM")
    reader = open_reader(account)
    start, tables = reader.position(), describe(reader, account.database, "a")
    run(account, "BEGIN", "INSERT INTO a VALUES (1, 'x')", "INSERT INTO m VALUES (1, 'x')", "ROLLBACK")
    run(
        account,
        "BEGIN",
        "INSERT INTO a VALUES (2, 'x')",
        "SAVEPOINT s",
        "INSERT INTO a VALUES (3, 'x')",
        "INSERT INTO m VALUES (3, 'x')",
        "ROLLBACK TO s",
        "INSERT INTO a VALUES (4, 'x')",
        "COMMIT",
    )
    items = read_transactions(reader, start, tables)
    assert [[row[0] for c in item.changes for row in c.after] for item in items if item.rows] == [[2, 4]]
    logged = [row[2] for row in account.server.execute(f"SHOW BINLOG EVENTS IN '{last_log(account.server)}'")]
    assert "Write_rows_v1" in logged
    assert items[-1].position.covers(reader.position())


def last_log(server: Server) -> str:
    return str(server.execute("SHOW BINARY LOGS")[-1][0])


def test_savepoints_cut_back_a_spilled_transaction(
    reader: MysqlReader, source_account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transactions, "SPILL_BYTES", 20_000)
    account = source_account
    reader = open_reader(account, spill_dir=tmp_path)
    start, tables = reader.position(), describe(reader, account.database, "a")
    fill = "INSERT INTO a SELECT {0} + seq.n, REPEAT('x', 90) FROM ({1}) seq"
    numbers = " UNION ALL ".join(f"SELECT {n} AS n" for n in range(200))
    steps = ["BEGIN", fill.format(0, numbers), fill.format(1000, numbers), "SAVEPOINT s"]
    steps += [fill.format(2000, numbers), fill.format(3000, numbers)]
    if account.server.kind == "mariadb":  # keeps the rolled-back rows in the log
        steps += ["INSERT INTO m VALUES (1, 'x')"]
    run(account, *steps, "ROLLBACK TO s", "UPDATE a SET v = 'y' WHERE id = 5", "COMMIT")
    [item] = [i for i in read_transactions(reader, start, tables) if i.rows]
    assert item.spilled
    assert item.rows == 401
    assert sum(c.rows for c in item.changes) == 401
    rows: dict[str, dict[object, tuple[object, ...]]] = {}
    replay([item], rows)  # type: ignore[arg-type]
    assert rows["a"] == select_rows(account.server, account.database, "a")
    assert list(item.changes) == list(item.changes)
    assert list(tmp_path.iterdir()) == []


def test_compressed_transactions_lose_nothing(reader: MysqlReader, source_account: Account) -> None:
    """DESIGN §7: the library drops these rows in silence."""
    account = source_account
    start, tables = reader.position(), describe(reader, account.database, "a")
    values = ", ".join(f"({n}, REPEAT('x', 90))" for n in range(2000))
    if account.server.kind == "mysql":
        switch_on, switch_off = "SET SESSION binlog_transaction_compression = 1", "DO 1"
    else:
        switch_on, switch_off = "SET GLOBAL log_bin_compress = 1", "SET GLOBAL log_bin_compress = 0"
    run(account, "INSERT INTO a VALUES (5000, 'plain')", switch_on)
    run(
        account,
        *([switch_on] if account.server.kind == "mysql" else []),
        f"INSERT INTO a VALUES {values}",
        "UPDATE a SET v = REPEAT('y', 80) WHERE id < 100",
        "DELETE FROM a WHERE id BETWEEN 50 AND 1500",
        "BEGIN",
        "INSERT INTO c VALUES (1, 'x')",
        "INSERT INTO a VALUES (6000, 'more')",
        "COMMIT",
    )
    run(account, switch_off, "INSERT INTO a VALUES (7000, 'plain')")
    items = read_transactions(reader, start, tables)
    rows: dict[str, dict[object, tuple[object, ...]]] = {}
    replay(items, rows)  # type: ignore[arg-type]
    assert rows["a"] == select_rows(account.server, account.database, "a")
    assert len(items) == 6


@pytest.mark.parametrize("spill", [False, True])
def test_a_compressed_transaction_of_many_blocks_loses_nothing(
    reader: MysqlReader, source_account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spill: bool
) -> None:
    """Cut anywhere by the decompressor: events across blocks, one larger than a block, savepoints between them."""
    account = source_account
    account.server.execute("CREATE TABLE w (id INT PRIMARY KEY, v LONGBLOB)", database=account.database)
    monkeypatch.setattr(transactions, "SPILL_BYTES", 1 << 20 if spill else 64 << 20)
    reader = open_reader(account, spill_dir=tmp_path)
    start, tables = reader.position(), describe(reader, account.database, "a", "w")
    numbers = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT"
    statements = [
        "BEGIN",
        f"INSERT INTO w {numbers} i, REPEAT(CONCAT(i, '/'), 900) FROM n",
        "INSERT INTO w VALUES (5000, REPEAT('long', 700000)), (5001, 'short')",
        "SAVEPOINT s",
        "UPDATE w SET v = 'gone'",
        "ROLLBACK TO s",
        "DELETE FROM w WHERE id % 3 = 0",
        f"INSERT INTO a {numbers} i, REPEAT('z', 90) FROM n",
        "COMMIT",
        "INSERT INTO a VALUES (9999, 'after')",
    ]
    if account.server.kind == "mysql":
        run(account, "SET SESSION binlog_transaction_compression = ON", *statements)
    else:
        account.server.execute("SET GLOBAL log_bin_compress = ON")
        try:
            run(account, *statements)
        finally:
            account.server.execute("SET GLOBAL log_bin_compress = OFF")
    items = read_transactions(reader, start, tables)
    assert len(items) == 2
    assert items[0].spilled is spill
    rows: dict[str, dict[object, tuple[object, ...]]] = {}
    replay(items, rows)  # type: ignore[arg-type]
    for name in "aw":
        assert rows[name] == select_rows(account.server, account.database, name)
    reader.close()


def test_events_of_several_packets_arrive_in_one_piece(reader: MysqlReader, source_account: Account) -> None:
    account = source_account
    run(account, "CREATE TABLE big (id INT PRIMARY KEY, b LONGBLOB)")
    account.server.execute("SET GLOBAL max_allowed_packet = 64 << 20")
    start, tables = reader.position(), describe(reader, account.database, "big")
    size = (1 << 24) + 5  # beyond a packet's limit
    with account.server.connect(database=account.database) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO big VALUES (1, REPEAT('z', %s)), (2, 'small')", (size,))
        cursor.execute("INSERT INTO big VALUES (9, 'small')")
    items = read_transactions(reader, start, tables)
    assert list_changes(items) == [
        ("big", "INSERT", [], [(1, b"z" * size)]),
        ("big", "INSERT", [], [(2, b"small")]),
        ("big", "INSERT", [], [(9, b"small")]),
    ]


def test_original_commit_times_are_not_taken_for_ours(mysql_source_account: Account) -> None:
    """SEMANTICS §1.5: the source's own commit, also where a replica logs that of its source beside it."""
    account = mysql_source_account
    run(account, f"CREATE TABLE a ({TABLE})")
    reader = open_reader(account)
    start, tables = reader.position(), describe(reader, account.database, "a")
    now = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)"
    before = account.server.execute(now)[0][0]
    original = "SET SESSION original_commit_timestamp = 1500000000000000"
    run(account, original, "INSERT INTO a VALUES (1, 'x')")
    run(account, original, "SET gtid_next = 'AUTOMATIC:t'", "INSERT INTO a VALUES (2, 'x')")
    after = account.server.execute(now)[0][0]
    times = [item.commit_time for item in read_transactions(reader, start, tables)]
    assert [before <= time <= after for time in times] == [True, True]
    reader.close()


def test_annotated_rows_are_rows(reader: MysqlReader, source_account: Account) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a")
    name = "annotate_row_events" if source_account.server.kind == "mariadb" else "rows_query_log_events"
    run(
        source_account,
        f"SET SESSION binlog_{name} = ON",
        f"INSERT INTO a VALUES (1, '{'x' * 90}') /* {'y' * 300} */",
    )
    assert [c[3] for c in list_changes(read_transactions(reader, start, tables))] == [[(1, b"x" * 90)]]


def test_truncate_is_a_change(reader: MysqlReader, source_account: Account) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a")
    run(
        source_account,
        "INSERT INTO a VALUES (1, 'x')",
        "TRUNCATE TABLE a",
        "TRUNCATE c",
        "INSERT INTO a VALUES (1, 'y')",
    )
    items = read_transactions(reader, start, tables)
    assert [c.op for item in items for c in item.changes] == [Op.INSERT, Op.TRUNCATE, Op.INSERT]
    assert [len(list(item.changes)) for item in items] == [1, 1, 0, 1]


def test_ddl_of_a_selected_table_is_a_barrier_and_ends_its_rows(
    reader: MysqlReader, source_account: Account
) -> None:
    database = source_account.database
    start, tables = reader.position(), describe(reader, database, "a", "b")
    run(
        source_account,
        "INSERT INTO a VALUES (1, 'x')",
        "CREATE TABLE IF NOT EXISTS a (id INT)",
        "ALTER TABLE c ADD COLUMN w INT",
        "ALTER TABLE a ADD COLUMN w INT",
        "INSERT INTO a VALUES (2, 'x', 3)",
        "INSERT INTO b VALUES (2, 'x')",
        "ALTER TABLE a DROP COLUMN w",
    )
    items = read_until(reader, start, tables)
    changes = [item for item in items if isinstance(item, SchemaChange)]
    assert len(changes) == 1
    place = items.index(changes[0])
    assert changes[0].tables == (TableName(database, "a"),)
    assert changes[0].statement == "ALTER TABLE a ADD COLUMN w INT"
    assert changes[0].before == items[place - 1].position
    assert not changes[0].before.covers(changes[0].position)
    rest = [item for item in items if isinstance(item, Transaction)]
    assert [c[0] for c in list_changes(rest)] == ["a", "b"]


def test_columns_that_changed_behind_the_log_are_noticed(
    reader: MysqlReader, source_account: Account
) -> None:
    """I7: the decoder is never wrong about the columns of an event."""
    database = source_account.database
    start, tables = reader.position(), describe(reader, database, "a", "b")
    run(
        source_account,
        "INSERT INTO a VALUES (1, 'x')",
        "SET sql_log_bin = 0",
        "ALTER TABLE a MODIFY COLUMN id BIGINT",
        "SET sql_log_bin = 1",
        "INSERT INTO a VALUES (2, 'x')",
        "INSERT INTO b VALUES (2, 'x')",
    )
    items = read_until(reader, start, tables)
    [change] = [item for item in items if isinstance(item, SchemaChange)]
    assert change.tables == (TableName(database, "a"),)
    assert "id" in change.reason
    assert change.position == change.before
    assert [c[0] for c in list_changes([i for i in items if isinstance(i, Transaction)])] == ["a", "b"]


def test_create_table_select_of_other_tables_passes(reader: MysqlReader, source_account: Account) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a")
    run(
        source_account,
        "INSERT INTO a VALUES (1, 'x')",
        "CREATE TABLE copy (PRIMARY KEY (id)) SELECT * FROM a",
    )
    run(source_account, "DROP TABLE copy", "INSERT INTO a VALUES (2, 'x')")
    assert [c[3] for c in list_changes(read_transactions(reader, start, tables))] == [
        [(1, b"x")],
        [(2, b"x")],
    ]


def test_statements_instead_of_rows_stop_the_source(reader: MysqlReader, source_account: Account) -> None:
    start, tables = reader.position(), describe(reader, source_account.database, "a")
    run(
        source_account,
        "INSERT INTO a VALUES (1, 'x')",
        "SET SESSION binlog_format = 'STATEMENT'",
        "INSERT INTO c VALUES (1, 'x')",
        "INSERT INTO a VALUES (2, 'x')",
    )
    seen = list[StreamItem]()
    with pytest.raises(UnsupportedEvent) as caught:
        read_until(reader, start, tables, visit=seen.append)
    assert f"INSERT on {source_account.database}.a" in caught.value.message
    assert "server=" in caught.value.message
    assert "binlog_format=ROW" in caught.value.hint
    assert reader.counters.skipped["INSERT"] == 1
    assert [c[3] for c in list_changes([i for i in seen if isinstance(i, Transaction)])] == [[(1, b"x")]]


def test_load_data_logged_as_a_statement_is_judged(
    reader: MysqlReader, source_account: Account, tmp_path: Path
) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("7\tx\n")
    tmp_path.chmod(0o755)
    start, tables = reader.position(), describe(reader, source_account.database, "a")
    with source_account.server.connect(database=source_account.database, local_infile=True) as connection:
        cursor = connection.cursor()
        cursor.execute("SET SESSION binlog_format = 'STATEMENT'")
        cursor.execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE c")
        other = reader.position()
        cursor.execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE a")
    assert list_changes(read_transactions(reader, start, tables, other)) == []
    with pytest.raises(UnsupportedEvent, match="LOAD on"):
        read_until(reader, start, tables)


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_partial_row_images_stop_the_source(reader: MysqlReader, source_account: Account, image: str) -> None:
    run(
        source_account,
        "CREATE TABLE t (id INT PRIMARY KEY, v TEXT, w INT)",
        "INSERT INTO t VALUES (1, 'x', 1)",
    )
    start, tables = reader.position(), describe(reader, source_account.database, "t")
    run(source_account, f"SET SESSION binlog_row_image = '{image}'", "UPDATE t SET w = 2")
    with pytest.raises(UnsupportedEvent) as caught:
        read_until(reader, start, tables)
    assert f"{source_account.database}.t" in caught.value.message
    assert "server=" in caught.value.message
    assert "binlog_row_image" in caught.value.message + caught.value.hint


def test_tables_nobody_selected_can_hold_anything(reader: MysqlReader, source_account: Account) -> None:
    account = source_account
    odd = ["CREATE TABLE `odd ``x` (id INT PRIMARY KEY, j JSON, g GEOMETRY, b BIT(64), e ENUM('a'))"]
    if account.server.kind == "mysql":
        odd.append("CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3))")
        odd.append("INSERT INTO vectors VALUES (1, TO_VECTOR('[1,2,3]'))")
    start, tables = reader.position(), describe(reader, account.database, "a")
    run(
        account,
        *odd,
        "INSERT INTO `odd ``x` VALUES (1, '[1]', ST_GeomFromText('POINT(1 2)'), b'1', 'a')",
        "SET SESSION binlog_row_image = 'MINIMAL'",
        "UPDATE `odd ``x` SET b = 0",
        "INSERT INTO a VALUES (1, 'x')",
    )
    assert list_changes(read_transactions(reader, start, tables)) == [("a", "INSERT", [], [(1, b"x")])]
    assert reader.counters.other_rows_events >= 2


def test_mariadb_two_phase_alter_is_a_barrier_at_its_commit(mariadb_source_account: Account) -> None:
    """SEMANTICS §10: START ALTER is noted, COMMIT ALTER is the barrier, ROLLBACK ALTER forgets it."""
    account = mariadb_source_account
    run(
        account,
        f"CREATE TABLE a ({TABLE})",
        f"CREATE TABLE b ({TABLE})",
        "INSERT INTO b VALUES (1, 'x'), (2, 'x')",
    )
    reader = open_reader(account)
    start, tables = reader.position(), describe(reader, account.database, "a", "b")
    run(
        account,
        "SET SESSION binlog_alter_two_phase = 1",
        "ALTER TABLE a ADD COLUMN w INT",
        "INSERT INTO b VALUES (3, 'y')",
    )
    with contextlib.suppress(pymysql.MySQLError):
        run(
            account,
            "SET SESSION binlog_alter_two_phase = 1",
            "ALTER TABLE b ADD UNIQUE (v), ALGORITHM = COPY",
        )
    run(account, "INSERT INTO b VALUES (4, 'y')")
    items = read_until(reader, start, tables)
    [change] = [item for item in items if isinstance(item, SchemaChange)]
    assert change.tables == (TableName(account.database, "a"),)
    assert [c[3] for c in list_changes([i for i in items if isinstance(i, Transaction)])] == [
        [(3, b"y")],
        [(4, b"y")],
    ]
    log = "".join(
        str(row) for row in account.server.execute(f"SHOW BINLOG EVENTS IN '{last_log(account.server)}'")
    )
    assert "START ALTER" in log
    assert "ROLLBACK ALTER" in log


def test_login_problems_have_names(source_account: Account) -> None:
    account = source_account
    wrong = Account(account.server, account.user, "wrong", account.database)
    with pytest.raises(SourceError) as caught:
        open_reader(wrong)
    assert caught.value.code == "source"
    assert "password" in caught.value.hint


def test_missing_grant_is_named(source_account: Account) -> None:
    account = source_account
    reader = open_reader(account)
    start = reader.position()
    account.server.execute(f"REVOKE REPLICATION SLAVE ON *.* FROM {account.user}")
    with pytest.raises(SourceError) as caught:
        read_until(reader, start, [])
    assert caught.value.code == "source"
    assert "REPLICATION SLAVE" in str(caught.value)


def test_a_clock_that_moved_is_measured_again_at_each_connect(
    reader: MysqlReader, source_account: Account
) -> None:
    """SEMANTICS §11: lag is in the source's clock, which may be set while we are connected."""
    server = source_account.server
    assert abs(reader.clock_offset) < 30
    server.execute("SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP(NOW(6)) + 3600'")
    try:
        reader.close()  # so that no session at rest is used again
        reader.verify_position(reader.position())
        assert 3570 < reader.clock_offset < 3630
    finally:
        server.execute("SET GLOBAL init_connect = ''")
