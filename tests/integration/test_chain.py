"""A source that is itself a replica: server A, its replica B, and B read by us, on both products (SEMANTICS §1.5, §1.9)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import PositionLost
from replicator.readers.base import Requirement
from replicator.readers.mysql_checks import check
from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account, make_source_account
from tests.processes import write_pipeline
from tests.streams import describe, list_changes, open_reader, read_transactions


class Chain:
    """``first`` and its replica ``second``, which holds the account that reads."""

    def __init__(self, first: Server, second: Server) -> None:
        self.first, self.second = first, second
        self.is_mysql = first.kind == "mysql"

    def link(self) -> None:
        self.first.execute(
            "CREATE USER copier IDENTIFIED BY 'copier'; GRANT REPLICATION SLAVE ON *.* TO copier"
        )
        word = "SOURCE" if self.is_mysql else "MASTER"
        login = (
            f"{word}_HOST = '{self.first.host}', {word}_PORT = {self.first.port}, {word}_USER = 'copier',"
            f" {word}_PASSWORD = 'copier', {word}_CONNECT_RETRY = 1"
        )
        if self.is_mysql:
            options = "SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1"
            self.second.execute(f"CHANGE REPLICATION SOURCE TO {login}, {options}; START REPLICA")
        else:
            self.second.execute(f"CHANGE MASTER TO {login}, MASTER_USE_GTID = slave_pos; START SLAVE")

    def catch_up(self) -> None:
        """Wait until the replica has applied what its source has committed."""
        if self.is_mysql:
            gtids = self.first.execute("SELECT @@GLOBAL.gtid_executed")[0][0]
            sql = f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{gtids}', 30)"
        else:
            gtids = self.first.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0]
            sql = f"SELECT MASTER_GTID_WAIT('{gtids}', 30)"
        assert self.second.execute(sql)[0][0] == 0, self.second.log_tail()


@pytest.fixture(params=["mysql", "mariadb"])
def chain(request: pytest.FixtureRequest) -> Iterator[Chain]:
    start = start_mysql if request.param == "mysql" else start_mariadb
    with start() as first, start() as second:
        chain = Chain(first, second)
        chain.link()
        yield chain


@pytest.fixture
def account(chain: Chain) -> Iterator[Account]:
    """An account of the replica on a database that its source made."""
    with make_source_account(chain.second) as made:
        chain.second.execute(f"SET sql_log_bin = 0; DROP DATABASE {made.database}")
        chain.first.execute(f"CREATE DATABASE {made.database}")
        chain.first.execute("CREATE TABLE a (id INT PRIMARY KEY, v INT)", database=made.database)
        chain.catch_up()
        yield made


def find(account: Account, check_id: str) -> Requirement:
    with account.connect() as connection:
        return next(i for i in check(connection, [], account.server.kind) if i.id == check_id)


def test_what_a_replica_replicates_arrives_with_its_time(chain: Chain, account: Account) -> None:
    reader = open_reader(account)
    assert find(account, "source.replica").status == "pass"
    if not chain.is_mysql:
        chain.second.execute(find(account, "source.gtid_domain").fix)
        assert find(account, "source.gtid_domain").status == "pass"
    start, tables = reader.position(), describe(reader, account.database, "a")
    before = time.time() - 1
    chain.first.execute("INSERT INTO a VALUES (1, 1); UPDATE a SET v = 2", database=account.database)
    chain.catch_up()
    chain.second.execute("INSERT INTO a VALUES (2, 2)", database=account.database)
    chain.first.execute(
        "BEGIN; INSERT INTO a VALUES (3, 3); DELETE FROM a WHERE id = 1; COMMIT", database=account.database
    )
    chain.catch_up()
    items = read_transactions(reader, start, tables)
    assert [change[1:] for change in list_changes(items)] == [
        ("INSERT", [], [(1, 1)]),
        ("UPDATE", [(1, 1)], [(1, 2)]),
        ("INSERT", [], [(2, 2)]),
        ("INSERT", [], [(3, 3)]),
        ("DELETE", [(1, 2)], []),
    ]
    assert all(before < item.commit_time / 1e6 < time.time() + 1 for item in items)
    assert items[-1].position == reader.position()
    for index, item in enumerate(items):
        assert len(read_transactions(reader, item.position, tables)) == len(items) - 1 - index
    reader.close()


def test_two_servers_that_write_to_one_domain_are_refused() -> None:
    """MariaDB: the replica gives its own transaction the number that the next one of its source has too."""
    with start_mariadb() as first, start_mariadb() as second, make_source_account(second) as account:
        chain = Chain(first, second)
        second.execute(f"SET sql_log_bin = 0; DROP DATABASE {account.database}")
        chain.link()
        first.execute(
            f"CREATE DATABASE {account.database}; CREATE TABLE {account.database}.a (id INT PRIMARY KEY)"
        )
        chain.catch_up()
        assert find(account, "source.gtid_domain").status == "warn"
        reader = open_reader(account)
        start, tables = reader.position(), describe(reader, account.database, "a")
        second.execute(f"INSERT INTO {account.database}.a VALUES (1)")
        between = reader.position()
        first.execute(f"INSERT INTO {account.database}.a VALUES (2)")
        chain.catch_up()
        assert not between.covers(reader.position())  # 0-b-n and 0-a-n
        with pytest.raises(PositionLost, match="go backwards") as caught:
            read_transactions(reader, start, tables)
        assert "gtid_domain_id" in caught.value.hint
        second.execute(
            f"INSERT INTO {account.database}.a VALUES (3), (4); INSERT INTO {account.database}.a VALUES (5)"
        )
        ahead = reader.position()
        first.execute(f"INSERT INTO {account.database}.a VALUES (6)")
        chain.catch_up()
        with pytest.raises(PositionLost, match="go backwards"):
            reader.verify_position(ahead)
        reader.close()


@pytest.mark.full
def test_a_pipeline_follows_a_replica_through_its_outage(
    chain: Chain, account: Account, target_account: Account, tmp_path: Path
) -> None:
    pipeline = write_pipeline(tmp_path, account, target_account)
    chain.first.execute("INSERT INTO a VALUES (1, 1)", database=account.database)
    chain.catch_up()
    pipeline.must("load", "FILE")
    chain.second.stop()
    chain.first.execute(
        "INSERT INTO a VALUES (2, 2); UPDATE a SET v = 9 WHERE id = 1", database=account.database
    )
    chain.second.start()
    with contextlib.suppress(Exception):
        chain.second.execute("START REPLICA" if chain.is_mysql else "START SLAVE")  # it may run already
    chain.catch_up()
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT id, v FROM a ORDER BY id") == [(1, 9), (2, 2)]
