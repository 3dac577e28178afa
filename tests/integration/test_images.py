"""Row images that a session cut short: known by the event itself, whatever the variables say (SEMANTICS §1.3)."""

from __future__ import annotations

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import StreamItem, Transaction
from tests.accounts import Account
from tests.streams import describe, list_changes, open_reader, read_until

LONG = "REPEAT('x', 2000)"
CHANGES = {
    "insert": "INSERT INTO t (id, w) VALUES (9, 1)",
    "update": "UPDATE t SET w = 2 WHERE id = 2",
    "delete": "DELETE FROM t WHERE id = 2",
    "json": "UPDATE t SET j = JSON_SET(j, '$.a', 5) WHERE id = 1",
}
CASES = [
    ("binlog_row_image", "MINIMAL", "insert"),
    ("binlog_row_image", "MINIMAL", "update"),
    ("binlog_row_image", "MINIMAL", "delete"),
    ("binlog_row_image", "NOBLOB", "update"),
    ("binlog_row_image", "NOBLOB", "delete"),
    ("binlog_row_value_options", "PARTIAL_JSON", "json"),
]


@pytest.mark.parametrize("compressed", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize(("variable", "value", "change"), CASES)
def test_a_transaction_with_a_partial_image_stops_the_source_as_a_whole(
    source_account: Account, variable: str, value: str, change: str, compressed: bool
) -> None:
    account, server = source_account, source_account.server
    if change == "json" and server.kind == "mariadb":
        pytest.skip("MariaDB logs no JSON in part")
    server.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, v TEXT, w INT, j JSON);"
        f" INSERT INTO t VALUES (1, {LONG}, 1, JSON_OBJECT('a', 1, 'b', {LONG})), (2, 'y', 1, NULL)",
        database=account.database,
    )
    reader = open_reader(account)
    start, tables = reader.position(), describe(reader, account.database, "t")
    compress = "SET SESSION binlog_transaction_compression = ON;"
    if server.kind == "mariadb":
        compress = "SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10;"
    cut = f"SET SESSION {variable} = '{value}'"
    begin = f"BEGIN; INSERT INTO t (id) VALUES (8); {cut}"
    if change == "json":  # not to be set within a transaction
        begin = f"{cut}; BEGIN; INSERT INTO t (id) VALUES (8)"
    try:
        server.execute(
            f"INSERT INTO t (id) VALUES (7); {compress * compressed} {begin}; {CHANGES[change]}; COMMIT",
            database=account.database,
        )
    finally:
        if server.kind == "mariadb":
            server.execute("SET GLOBAL log_bin_compress = OFF; SET GLOBAL log_bin_compress_min_len = DEFAULT")
    assert server.execute("SELECT @@GLOBAL.binlog_row_image")[0][0] == "FULL"
    seen = list[StreamItem]()
    with pytest.raises(UnsupportedEvent) as caught:
        read_until(reader, start, tables, visit=seen.append)
    done = [item for item in seen if isinstance(item, Transaction)]
    assert [row[0] for _, _, _, after in list_changes(done) for row in after] == [7]
    assert f"{account.database}.t" in caught.value.message
    assert f"in what follows {done[-1].position}" in caught.value.message
    assert variable in caught.value.message + caught.value.hint
    reader.close()
