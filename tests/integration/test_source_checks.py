"""Checks of a source on real servers: each fault is named under a stable id, and its fix works when pasted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from replicator.model import TableSchema
from replicator.readers.base import Requirement
from replicator.readers.mysql_checks import check
from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account
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


def test_engines_outside_snapshots_are_warned_of(table: Account) -> None:
    table.server.execute("ALTER TABLE t ENGINE = MyISAM", database=table.database)
    found = run_check(table)["tables.engine"]
    assert (found.status, found.subject) == ("warn", f"{table.database}.t")
    table.server.execute(found.fix)
    assert "tables.engine" not in run_check(table)


SETTINGS: dict[str, tuple[str, str]] = {
    "binlog_format": ("MIXED", "fail"),
    "binlog_row_image": ("MINIMAL", "fail"),
    "binlog_row_metadata": ("MINIMAL", "fail"),
    "server_id": ("0", "fail"),
}


@pytest.fixture(params=["mysql", "mariadb"])
def unfit_source(request: pytest.FixtureRequest) -> Iterator[Server]:
    start = start_mysql if request.param == "mysql" else start_mariadb
    values: dict[str, Any] = {name: value for name, (value, _) in SETTINGS.items()}
    if request.param == "mariadb":
        del values["server_id"]  # not to be had there
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
    for check_id, status in expected.items():
        assert (check_id, found[check_id].status) == (check_id, status)
        if check_id != "source.filters":
            unfit_source.execute(found[check_id].fix)
    again = run_check(root)
    assert {again[check_id].status for check_id in expected if check_id != "source.filters"} == {"pass"}


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


def test_a_replica_that_does_not_log_what_it_replicates_fails() -> None:
    with start_mariadb(log_slave_updates=False) as server:
        root = Account(server, "root", server.password, "mysql")
        assert run_check(root, [])["source.replica"].status == "pass"
        server.execute("SET GLOBAL gtid_slave_pos = '5-9-1'")
        found = run_check(root, [])["source.replica"]
    assert found.status == "fail"
    assert "log_slave_updates = ON" in found.fix
