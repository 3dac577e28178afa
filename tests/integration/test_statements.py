"""Every class of statement that a real server logs, while rows of selected tables go by (SEMANTICS §1.3)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import Op
from replicator.readers.mysql import MysqlReader
from tests.accounts import Account
from tests.streams import describe, list_changes, open_reader, read_transactions, read_until

# Statement → what it is counted under; {0} is a name that only this test has.
HARMLESS = {
    "CREATE USER {0}u IDENTIFIED BY 'x'": "CREATE USER",
    "ALTER USER {0}u IDENTIFIED BY 'y'": "ALTER USER",
    "CREATE ROLE {0}r": "CREATE ROLE",
    "GRANT SELECT ON {0}.a TO {0}u": "GRANT",
    "GRANT {0}r TO {0}u": "GRANT",
    "REVOKE SELECT ON {0}.a FROM {0}u": "REVOKE",
    "SET PASSWORD FOR {0}u = {password}": "",  # each product logs it in words of its own
    "RENAME USER {0}u TO {0}w": "RENAME USER",
    "DROP USER {0}w": "DROP USER",
    "DROP ROLE {0}r": "DROP ROLE",
    "CREATE PROCEDURE p() BEGIN INSERT INTO a VALUES (99, 'x'); DELETE FROM a; END": "CREATE",
    "ALTER PROCEDURE p COMMENT 'table a'": "ALTER PROCEDURE",
    "DROP PROCEDURE p": "DROP PROCEDURE",
    "CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN (SELECT COUNT(*) FROM a)": "CREATE",
    "DROP FUNCTION f": "DROP FUNCTION",
    "CREATE TRIGGER g BEFORE INSERT ON a FOR EACH ROW SET NEW.v = CONCAT(NEW.v, '!')": "CREATE",
    "DROP TRIGGER g": "DROP TRIGGER",
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM a": "CREATE",
    "ALTER EVENT e DISABLE": "ALTER",
    "DROP EVENT e": "DROP EVENT",
    "CREATE OR REPLACE VIEW w AS SELECT * FROM a": "CREATE",
    "ALTER VIEW w AS SELECT id FROM a": "ALTER",
    "DROP VIEW w": "DROP VIEW",
    "ANALYZE TABLE a": "ANALYZE",
    "OPTIMIZE TABLE a": "OPTIMIZE",
    "REPAIR TABLE m": "REPAIR",
    "FLUSH TABLES a": "FLUSH",
    "FLUSH PRIVILEGES": "FLUSH",
    "CREATE DATABASE {0}_x": "CREATE DATABASE",
    "ALTER DATABASE {0}_x CHARACTER SET latin1": "ALTER DATABASE",
    "CREATE TABLE {0}_x.a (id INT PRIMARY KEY)": "CREATE TABLE",
    "CREATE INDEX i ON {0}_x.a (id)": "CREATE INDEX",
    "ALTER TABLE {0}_x.a COMMENT 'a'": "ALTER TABLE",
    "RENAME TABLE {0}_x.a TO {0}_x.b": "RENAME TABLE",
    "TRUNCATE {0}_x.b": "TRUNCATE",
    "DROP TABLE {0}_x.b": "DROP TABLE",
    "DROP DATABASE {0}_x": "DROP DATABASE",
    "CREATE SERVER {0}s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'h', DATABASE 'a', USER 'u')": "",
    "DROP SERVER {0}s": "",
}


@pytest.fixture
def reader(source_account: Account) -> Iterator[MysqlReader]:
    """A reader of a database with the selected table a, and c and m (MyISAM), which nobody selected."""
    table = "(id INT PRIMARY KEY, v VARCHAR(100))"
    source_account.server.execute(
        f"CREATE TABLE a {table}; CREATE TABLE c {table}; CREATE TABLE m {table} ENGINE = MyISAM",
        database=source_account.database,
    )
    opened = open_reader(source_account)
    yield opened
    opened.close()


def test_statements_about_anything_but_rows_are_passed_over_and_counted(
    reader: MysqlReader, source_account: Account
) -> None:
    account, server = source_account, source_account.server
    start, tables = reader.position(), describe(reader, account.database, "a")
    password = "'z'" if server.kind == "mysql" else "PASSWORD('z')"
    with server.connect(database=account.database) as connection, connection.cursor() as cursor:
        for number, statement in enumerate(HARMLESS):
            cursor.execute(statement.format(account.database, password=password))
            cursor.fetchall()
            cursor.execute("INSERT INTO a VALUES (%s, 'x')", (number,))
    items = read_transactions(reader, start, tables)
    assert [row[0] for c in list_changes(items) for row in c[3]] == list(range(len(HARMLESS)))
    for kind in filter(None, HARMLESS.values()):
        assert any(name.startswith(kind) for name in reader.counters.skipped), (kind, reader.counters.skipped)
    assert sum(reader.counters.skipped.values()) >= len(HARMLESS) - 3


# What managed services write beside the application's changes, in the log as statements although the format is ROW.
BEATS = [
    "INSERT INTO mysql.rds_heartbeat2(id, value) values (1,1483006080000) ON DUPLICATE KEY UPDATE value = 1483006080000",
    "DELETE FROM mysql.rds_sysinfo where name = 'innodb_txn_key'",
    "INSERT INTO mysql.rds_sysinfo(name, value) values ('innodb_txn_key','Thu Nov 15 10:24:16 UTC 2018')",
    "REPLACE INTO mysql.heartbeat SET id = 1, master_time = UTC_TIMESTAMP(6)",
    "UPDATE mysql.rds_heartbeat2 h JOIN mysql.heartbeat b USING (id) SET h.value = 5",
]


def test_heartbeats_of_managed_services_are_skipped_and_counted(
    reader: MysqlReader, source_account: Account
) -> None:
    server = source_account.server
    server.execute(
        "CREATE TABLE IF NOT EXISTS mysql.rds_heartbeat2 (id INT PRIMARY KEY, value BIGINT);"
        " CREATE TABLE IF NOT EXISTS mysql.rds_sysinfo (name VARCHAR(25) PRIMARY KEY, value VARCHAR(50));"
        " CREATE TABLE IF NOT EXISTS mysql.heartbeat (id INT PRIMARY KEY, master_time DATETIME(6))"
    )
    try:
        start, tables = reader.position(), describe(reader, source_account.database, "a")
        for number, beat in enumerate(BEATS):
            server.execute(f"SET SESSION binlog_format = 'STATEMENT'; {beat}")
            server.execute(f"INSERT INTO a VALUES ({number}, 'x')", database=source_account.database)
        items = read_transactions(reader, start, tables)
    finally:
        server.execute("DROP TABLE mysql.rds_heartbeat2, mysql.rds_sysinfo, mysql.heartbeat")
    assert [row[0] for c in list_changes(items) for row in c[3]] == list(range(len(BEATS)))
    assert reader.counters.skipped == {"INSERT": 2, "DELETE": 1, "REPLACE": 1, "UPDATE": 1}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO a VALUES (1, 'x')",
        "INSERT INTO c SELECT * FROM a",  # reads a: cannot be told from a write without knowing more
        "UPDATE c JOIN a USING (id) SET a.v = 'y'",
        "DELETE a FROM c, a WHERE a.id = c.id",
        "REPLACE INTO `a` SET id = 4",
        "INSERT /* a comment */ INTO a SET id = 5, v = 'two words; INSERT INTO c'",
        "DELETE FROM {0}.a WHERE id = 1 ORDER BY id LIMIT 1",
    ],
)
def test_dml_on_a_selected_table_stops_the_source(
    reader: MysqlReader, source_account: Account, statement: str
) -> None:
    account = source_account
    start, tables = reader.position(), describe(reader, account.database, "a")
    account.server.execute(
        f"SET SESSION binlog_format = 'STATEMENT'; {statement.format(account.database)}",
        database=account.database,
    )
    with pytest.raises(UnsupportedEvent, match=f"{account.database}.a was logged as a statement") as caught:
        read_until(reader, start, tables)
    assert "binlog_format=ROW" in caught.value.hint


def test_a_function_that_writes_stops_the_source(reader: MysqlReader, source_account: Account) -> None:
    """Its call is all that the log holds, and it may have written to anything."""
    account = source_account
    account.server.execute(
        [
            "SET GLOBAL log_bin_trust_function_creators = 1",
            "CREATE FUNCTION f() RETURNS INT BEGIN INSERT INTO a VALUES (5, 'x'); RETURN 1; END",
        ],
        database=account.database,
    )
    start, tables = reader.position(), describe(reader, account.database, "a")
    account.server.execute("SET SESSION binlog_format = 'STATEMENT'; SELECT f()", database=account.database)
    with pytest.raises(UnsupportedEvent, match="SELECT statement"):
        read_until(reader, start, tables)


@pytest.mark.parametrize(
    ("made", "statement", "match"),
    [
        ("CREATE VIEW w AS SELECT * FROM a", "INSERT INTO w VALUES (1, 'x')", "through the view {0}.w"),
        (
            "CREATE TRIGGER g BEFORE INSERT ON c FOR EACH ROW INSERT INTO a VALUES (NEW.id, 'x')",
            "INSERT INTO c VALUES (1, 'x')",
            "its trigger g did was not logged",
        ),
    ],
)
def test_statements_that_reach_further_than_they_say_stop_the_source(
    reader: MysqlReader, source_account: Account, made: str, statement: str, match: str
) -> None:
    """The table c and the view are not selected; a is, and has changed without one word of it in the log."""
    account = source_account
    account.server.execute(
        f"GRANT TRIGGER ON {account.database}.* TO {account.user}; {made}", database=account.database
    )
    start, tables = reader.position(), describe(reader, account.database, "a")
    account.server.execute(f"SET SESSION binlog_format = 'STATEMENT'; {statement}", database=account.database)
    assert account.server.execute("SELECT * FROM a", database=account.database) == [(1, "x")]
    with pytest.raises(UnsupportedEvent, match=match.format(account.database)):
        read_until(reader, start, tables)


def test_what_triggers_an_account_cannot_see_is_said(
    reader: MysqlReader, source_account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    account = source_account
    start, tables = reader.position(), describe(reader, account.database, "a")
    for number in (1, 2):
        account.server.execute(
            f"SET SESSION binlog_format = 'STATEMENT'; INSERT INTO c VALUES ({number}, 'x')",
            database=account.database,
        )
    account.server.execute("INSERT INTO a VALUES (3, 'x')", database=account.database)
    assert len(list_changes(read_transactions(reader, start, tables))) == 1
    [warning] = [record.getMessage() for record in caplog.records if "cannot be told" in record.getMessage()]
    assert f"{account.database}.c" in warning


def test_a_memory_table_is_emptied_when_its_server_was_restarted(
    reader: MysqlReader, source_account: Account
) -> None:
    """The server logs that once the table is used again."""
    account = source_account
    account.server.execute(
        "CREATE TABLE fleeting (id INT PRIMARY KEY) ENGINE = MEMORY", database=account.database
    )
    start, tables = reader.position(), describe(reader, account.database, "fleeting")
    account.server.execute("INSERT INTO fleeting VALUES (1), (2)", database=account.database)
    account.server.restart()
    account.server.execute("INSERT INTO fleeting VALUES (3)", database=account.database)
    items = read_transactions(reader, start, tables)
    assert [c.op for item in items for c in item.changes] == [Op.INSERT, Op.TRUNCATE, Op.INSERT]
