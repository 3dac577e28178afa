"""GTIDs with tags (MySQL 8.3 and later) from a real server: as events, as positions, and as where a dump begins."""

from __future__ import annotations

import uuid

from replicator.model import TableName
from replicator.readers import binlog
from replicator.readers.gtid import GtidPosition, GtidSet
from tests.accounts import Account
from tests.rowlog import Log
from tests.streams import describe, list_changes, open_reader, read_transactions

OTHER = str(uuid.uuid4())


def write(account: Account, *statements: str) -> None:
    account.server.execute(list(statements), database=account.database)


def test_a_set_is_encoded_as_the_server_does(mysql_source_account: Account) -> None:
    server = mysql_source_account.server
    log = Log(server)
    server.execute(
        f"SET gtid_next = '{OTHER}:a_tag:4'; COMMIT; SET gtid_next = 'AUTOMATIC'; FLUSH BINARY LOGS"
    )
    event = [e for e in log.events() if e.type == binlog.PREVIOUS_GTIDS][-1]
    logged = event.buffer[event.start : event.end]
    executed = GtidSet.parse(str(server.execute("SELECT @@GLOBAL.gtid_executed")[0][0]))
    assert executed.contains(f"{OTHER}:a_tag", 4)
    assert executed.encode() == logged


def test_the_stream_goes_on_after_every_tagged_transaction(mysql_source_account: Account) -> None:
    account = mysql_source_account
    write(account, "CREATE TABLE a (id INT PRIMARY KEY)")
    reader = open_reader(account)
    start, tables = reader.position(), describe(reader, account.database, "a")
    write(
        account,
        "INSERT INTO a VALUES (1)",
        "SET gtid_next = 'AUTOMATIC:first'",
        "INSERT INTO a VALUES (2)",
        "INSERT INTO a VALUES (3)",
        "SET gtid_next = 'AUTOMATIC:second'",
        "INSERT INTO a VALUES (4)",
        f"SET gtid_next = '{OTHER}:first:70'",
        "INSERT INTO a VALUES (5)",
        f"SET gtid_next = '{OTHER}:71'",
        "INSERT INTO a VALUES (6)",
        "SET gtid_next = 'AUTOMATIC', SESSION binlog_transaction_compression = ON",
        "INSERT INTO a VALUES (7)",
        "SET gtid_next = 'AUTOMATIC:first'",
        "INSERT INTO a VALUES (8)",
    )
    items = read_transactions(reader, start, tables)
    inserted = [[row[0] for change in item.changes for row in change.after] for item in items]
    assert inserted == [[n] for n in range(1, 9)]
    assert items[-1].position == reader.position()
    position = items[4].position
    assert isinstance(position, GtidPosition)
    assert (position.key, position.last) == (f"{OTHER}:first", 70)
    for index, item in enumerate(items[:-1]):
        stored = reader.parse_position(str(item.position))
        assert [i.position for i in read_transactions(reader, stored, tables)] == [
            i.position for i in items[index + 1 :]
        ]
    assert {c[0] for c in list_changes(items)} == {"a"}
    moments = [item.commit_time for item in items]
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] < 60_000_000
    assert isinstance(start, GtidPosition)
    touched = reader.touched_tables(start, *last_place(account))
    assert touched == frozenset({TableName(account.database, "a")})
    reader.close()


def last_place(account: Account) -> tuple[str, int]:
    row = account.server.execute("SHOW BINARY LOG STATUS")[0]
    return str(row[0]), int(row[1])
