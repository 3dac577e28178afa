"""Checks of a source on real servers: each fault is named under a stable id, and its fix works when pasted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.model import TableSchema
from replicator.readers.base import Requirement
from replicator.readers.mysql_checks import check
from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account, make_source_account
from tests.streams import describe, open_reader, read_transactions
from tests.type_zoo import describe_all


def run_check(account: Account, schemas: list[TableSchema] | None = None) -> dict[str, Requirement]:
    """Outcomes by id; of several with one id the first that is no pass."""
    with account.connect() as connection:
        if schemas is None:
            schemas = describe_all(connection, account.database)
        found = check(connection, schemas, account.server.kind)
    by_id: dict[str, Requirement] = {}
    for item in found:
        if item.id not in by_id or item.status != "pass":
            by_id[item.id] = item
    return by_id


@pytest.fixture
def table(source_account: Account) -> Account:
    source_account.server.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, a INT)", database=source_account.database
    )
    return source_account


def test_a_ready_source_passes(table: Account) -> None:
    found = run_check(table)
    assert {item.status for item in found.values()} == {"pass"}
    assert {"source.log_bin", "source.binlog_row_metadata", "source.grant.replication_slave"} <= found.keys()


@pytest.mark.parametrize("right", ["REPLICATION SLAVE", "REPLICATION CLIENT", "XA_RECOVER_ADMIN"])
def test_a_missing_right_is_named_and_its_fix_works(table: Account, right: str) -> None:
    if table.server.kind == "mariadb":
        if right == "XA_RECOVER_ADMIN":
            pytest.skip("MariaDB lets everybody see XA transactions")
        right = right.replace("REPLICATION CLIENT", "BINLOG MONITOR")
    table.server.execute(f"REVOKE {right} ON *.* FROM {table.user}")
    check_id = "source.grant." + right.lower().replace(" ", "_")
    found = run_check(table)[check_id]
    assert (found.status, found.message) == ("fail", f"lacks {right}")
    assert f"GRANT {right} ON *.* TO `{table.user}`@`%`" in found.fix
    table.server.execute(found.fix)
    assert run_check(table)[check_id].status == "pass"


def test_a_table_that_may_not_be_read_is_named(table: Account) -> None:
    with table.server.connect() as connection:
        schemas = describe_all(connection, table.database)
    table.server.execute(f"REVOKE SELECT ON {table.database}.* FROM {table.user}")
    found = run_check(table, schemas)["source.grant.select"]
    assert (found.status, found.subject) == ("fail", f"{table.database}.t")
    table.server.execute(found.fix)
    assert run_check(table, schemas)["source.grant.select"].status == "pass"


def test_a_right_to_some_columns_is_not_enough(table: Account) -> None:
    """The catalog shows only the columns that an account may use: what it hides would be missing in silence."""
    table.server.execute(
        f"REVOKE SELECT ON {table.database}.* FROM {table.user};"
        f" GRANT SELECT (id) ON {table.database}.t TO {table.user}"
    )
    found = run_check(table)["source.grant.select"]
    assert (found.status, found.subject) == ("fail", f"{table.database}.t")


def test_a_right_by_an_active_role_counts(table: Account) -> None:
    role = f"{table.user}_role"
    default = f"SET DEFAULT ROLE {role} {'FOR' if table.server.kind == 'mariadb' else 'TO'} {table.user}"
    table.server.execute(
        f"REVOKE REPLICATION SLAVE ON *.* FROM {table.user}; CREATE ROLE {role};"
        f" GRANT REPLICATION SLAVE ON *.* TO {role}; GRANT {role} TO {table.user}; {default}"
    )
    try:
        assert run_check(table)["source.grant.replication_slave"].status == "pass"
    finally:
        table.server.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("engine", ["MyISAM", "MEMORY", "Aria"])
def test_engines_outside_snapshots_are_warned_of(table: Account, engine: str) -> None:
    if engine == "Aria" and table.server.kind == "mysql":
        pytest.skip("an engine of MariaDB's")
    table.server.execute(f"ALTER TABLE t ENGINE = {engine}", database=table.database)
    found = run_check(table)["tables.engine"]
    assert (found.status, found.subject) == ("warn", f"{table.database}.t")
    table.server.execute(found.fix)
    assert "tables.engine" not in run_check(table)


SETTINGS: dict[str, tuple[str, str]] = {
    "binlog_format": ("MIXED", "fail"),
    "binlog_row_image": ("MINIMAL", "fail"),
    "binlog_row_metadata": ("MINIMAL", "fail"),
    "binlog_row_value_options": ("PARTIAL_JSON", "fail"),
    "server_id": ("0", "fail"),
}


@pytest.fixture(params=["mysql", "mariadb"])
def unfit_source(request: pytest.FixtureRequest) -> Iterator[Server]:
    start = start_mysql if request.param == "mysql" else start_mariadb
    values: dict[str, Any] = {name: value for name, (value, _) in SETTINGS.items()}
    if request.param == "mariadb":
        del values["server_id"], values["binlog_row_value_options"]  # not to be had there
    with start(**values, binlog_expire_logs_seconds=3600, binlog_ignore_db="hidden") as server:
        yield server


def test_unfit_settings_are_named_and_their_fixes_work(unfit_source: Server) -> None:
    unfit_source.execute("CREATE DATABASE hidden; CREATE TABLE hidden.t (id INT PRIMARY KEY)")
    root = Account(unfit_source, "root", unfit_source.password, "hidden")
    found = run_check(root)
    expected = {
        f"source.{name}": status for name, (_, status) in SETTINGS.items() if f"source.{name}" in found
    }
    expected |= {"source.retention": "warn", "source.filters": "fail"}
    if unfit_source.kind == "mariadb":
        del expected["source.server_id"]
    assert "source.binlog_row_value_options" in found or unfit_source.kind == "mariadb"
    for check_id, status in expected.items():
        assert (check_id, found[check_id].status) == (check_id, status)
        if check_id != "source.filters":
            unfit_source.execute(found[check_id].fix)
    assert "binlog_ignore_db = hidden" in found["source.filters"].fix
    del unfit_source.settings["binlog_ignore_db"]
    unfit_source.settings |= {
        "binlog_format": "ROW",
        "binlog_row_image": "FULL",
        "binlog_row_metadata": "FULL",
    }
    unfit_source.settings |= {"server_id": 1, "binlog_expire_logs_seconds": 604800}
    again = run_check(root)
    assert {again[check_id].status for check_id in expected if check_id != "source.filters"} == {"pass"}
    unfit_source.settings["binlog_row_value_options"] = None
    unfit_source.restart()
    assert {run_check(root)[check_id].status for check_id in expected} == {"pass"}


@pytest.fixture(params=["mysql", "mariadb"])
def logless_source(request: pytest.FixtureRequest) -> Iterator[Server]:
    with (start_mysql if request.param == "mysql" else start_mariadb)(
        log_bin=False, gtid_mode=None
    ) as server:
        yield server


def test_a_source_without_a_log_fails(logless_source: Server) -> None:
    root = Account(logless_source, "root", logless_source.password, "mysql")
    found = run_check(root, [])["source.log_bin"]
    assert found.status == "fail"
    assert "log_bin = binlog" in found.fix


def paste_options(server: Server, fix: str) -> None:
    """Put the lines below ``[mysqld]`` into the option file and restart, as the comment above them asks."""
    head, _, lines = fix.partition("[mysqld]\n")
    assert "restart" in head
    server.settings |= dict(line.split(" = ", 1) for line in lines.splitlines())
    server.restart()


def test_a_replica_that_does_not_log_what_it_replicates_fails() -> None:
    with start_mariadb(log_slave_updates=False) as server:
        root = Account(server, "root", server.password, "mysql")
        assert run_check(root, [])["source.replica"].status == "pass"
        server.execute("SET GLOBAL gtid_slave_pos = '5-9-1'")
        found = run_check(root, [])["source.replica"]
        assert found.status == "fail"
        paste_options(server, found.fix)
        assert run_check(root, [])["source.replica"].status == "pass"


def test_a_mysql_replica_that_does_not_log_what_it_replicates_fails() -> None:
    with start_mysql(log_replica_updates=False) as server, make_source_account(server) as account:
        assert run_check(account, [])["source.replica"].status == "pass"
        server.execute("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1")
        found = run_check(account, [])["source.replica"]
        assert (found.status, found.subject) == ("fail", "log_replica_updates")
        paste_options(server, found.fix)
        assert run_check(account, [])["source.replica"].status == "pass"


@pytest.mark.parametrize("start", [start_mysql, start_mariadb])
def test_a_log_of_other_databases_only_is_named_and_its_fix_works(start: Callable[..., Server]) -> None:
    with start(binlog_do_db="other") as server:
        server.execute("CREATE DATABASE lost; CREATE TABLE lost.t (id INT PRIMARY KEY)")
        root = Account(server, "root", server.password, "lost")
        found = run_check(root)["source.filters"]
        assert (found.status, "lost" in found.message) == ("fail", True)
        paste_options(server, found.fix)
        assert (
            run_check(root)["source.filters"].status == "warn"
        )  # lost is logged, schema changes from elsewhere are not
        server.execute("INSERT INTO lost.t VALUES (1)")
        events = server.execute(f"SHOW BINLOG EVENTS IN '{server.execute('SHOW BINARY LOGS')[-1][0]}'")
        assert any("lost.t" in str(event) for event in events)


def test_a_source_without_gtids_is_warned_of_and_the_fix_works() -> None:
    with start_mysql(gtid_mode=False) as server:
        root = Account(server, "root", server.password, "mysql")
        found = run_check(root, [])["source.gtid_mode"]
        assert found.status == "warn"
        server.execute(found.fix)
        assert run_check(root, [])["source.gtid_mode"].status == "pass"


def test_a_hidden_generated_key_is_mirrored() -> None:
    """The catalog hides the key and the log holds it (SEMANTICS §1.9)."""
    settings: dict[str, Any] = {
        "sql_generate_invisible_primary_key": True,
        "show_gipk_in_create_table_and_information_schema": False,
    }
    with start_mysql(**settings) as server, make_source_account(server) as account:
        server.execute("CREATE TABLE t (a INT)", database=account.database)
        reader = open_reader(account)
        found = run_check(account)["source.generated_keys"]
        assert (found.status, "mirror" in found.message) == ("pass", True)
        start, tables = reader.position(), describe(reader, account.database, "t")
        assert [column.name for column in tables[0].columns] == ["my_row_id", "a"]
        server.execute(
            "INSERT INTO t VALUES (7), (8); UPDATE t SET a = 9 WHERE a = 7", database=account.database
        )
        changes = [c for item in read_transactions(reader, start, tables) for c in item.changes]
        assert [c.after for c in changes] == [[(1, 7), (2, 8)], [(1, 9)]]
        reader.close()
