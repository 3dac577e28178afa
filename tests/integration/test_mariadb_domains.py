"""Several MariaDB domains in one log: each counts for itself, and a restart goes on in all of them (SEMANTICS §1.6)."""

from __future__ import annotations

import pytest

from replicator.errors import PositionLost
from replicator.readers.gtid import MariadbPosition
from replicator.servers import start_mariadb
from tests.streams import describe, list_changes, open_root_reader, read_transactions, read_until


def test_domains_that_take_turns_and_begin_late_lose_nothing() -> None:
    with start_mariadb() as server:
        server.execute("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)")
        reader = open_root_reader(server)
        start, tables = reader.position(), describe(reader, "d", "t")
        for number, domain in enumerate((0, 7, 0, 3, 7, 7, 0, 3, 9, 0)):
            server.execute(f"SET SESSION gtid_domain_id = {domain}; INSERT INTO d.t VALUES ({number})")
            if number % 3 == 2:
                server.execute("FLUSH BINARY LOGS")
        items = read_transactions(reader, start, tables)
        numbers = [row[0] for change in list_changes(items) for row in change[3]]
        assert numbers == list(range(10))
        assert items[-1].position == reader.position()
        assert isinstance(items[-1].position, MariadbPosition)
        assert set(items[-1].position.domains) == {0, 3, 7, 9}
        for index, item in enumerate(items[:-1]):
            assert not item.position.covers(items[index + 1].position)
            rest = read_transactions(reader, reader.parse_position(str(item.position)), tables)
            assert [i.position for i in rest] == [i.position for i in items[index + 1 :]]

        # A domain whose first transactions are purged is missed by name.
        last = server.execute("SHOW BINARY LOGS")[-1][0]
        while len(server.execute("SHOW BINARY LOGS")) > 1:
            server.execute(f"PURGE BINARY LOGS TO '{last}'")
        with pytest.raises(PositionLost, match=r"purged .*7-\d+-1 to 7-") as caught:
            read_until(reader, start, tables)
        assert str(start) in caught.value.message

        # A server that was reset has fewer of a domain than we know.
        server.execute("RESET MASTER; INSERT INTO d.t VALUES (100)")
        with pytest.raises(PositionLost, match="has never committed") as caught:
            read_until(reader, items[-1].position, tables)
        assert str(items[-1].position) in caught.value.message
        reader.close()
