"""A binary log with a wrong byte, which the server sends as it stands: the event's checksum tells (SEMANTICS §1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import StreamItem, Transaction
from replicator.servers import Server, start_mariadb, start_mysql
from tests.streams import describe, list_changes, open_root_reader, read_until

CHANGES = {
    "rows": ("INSERT INTO d.t VALUES (2, 'damaged')", b"damaged"),
    "table": ("INSERT INTO d.damaged VALUES (2, 'x')", b"damaged"),
    "statement": ("CREATE TABLE d.damaged2 (id INT)", b"damaged2 (id"),
}


@pytest.mark.parametrize(
    "what", ["rows", *(pytest.param(name, marks=pytest.mark.full) for name in ("table", "statement"))]
)
@pytest.mark.parametrize("start", [start_mysql, start_mariadb])
def test_a_damaged_event_stops_the_source(start: Callable[..., Server], what: str) -> None:
    statement, text = CHANGES[what]
    with start(
        binlog_checksum="CRC32", binlog_annotate_row_events=False if start is start_mariadb else None
    ) as server:
        server.execute("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v VARCHAR(20))")
        server.execute("CREATE TABLE d.damaged LIKE d.t; FLUSH BINARY LOGS")
        reader = open_root_reader(server)
        begin, tables = reader.position(), describe(reader, "d", "t", "damaged")
        server.execute(["INSERT INTO d.t VALUES (1, 'whole')", statement])
        file = server.datadir / str(server.execute("SHOW BINARY LOGS")[-1][0])
        end = reader.position()
        server.stop()
        data = file.read_bytes()
        assert data.count(text) == 1
        file.write_bytes(data.replace(text, text.replace(b"m", b"n", 1)))
        server.start()
        seen = list[StreamItem]()
        with pytest.raises(UnsupportedEvent, match="checksum is wrong") as caught:
            read_until(reader, begin, tables, end, visit=seen.append)
        done = [item for item in seen if isinstance(item, Transaction)]
        assert [c[3] for c in list_changes(done)] == [[(1, b"whole")]]
        assert "in what follows" in caught.value.message
        assert "mysqlbinlog" in caught.value.hint
        reader.close()
