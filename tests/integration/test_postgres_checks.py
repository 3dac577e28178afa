"""What a PostgreSQL source must be before it is read: each fault is named by `check`, ends `load`, and goes by its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from replicator.pgserver import start_postgres
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.processes import PipelineFile, write_pipeline

FAULTS: dict[str, tuple[str, list[str]]] = {
    "no replication": ("source.grant.replication", ["ALTER ROLE {account} NOREPLICATION"]),
    "no create": ("source.grant.create", ["REVOKE CREATE ON DATABASE {account} FROM {account}"]),
    "not the owner": (
        "source.owner",
        ["ALTER TABLE {account}.t OWNER TO root", "GRANT SELECT ON {account}.t TO {account}"],
    ),
    "may not read": ("source.grant.select", ["REVOKE SELECT ON {account}.t FROM {account}"]),
    "unlogged": ("tables.unlogged", ["ALTER TABLE {account}.t SET UNLOGGED"]),
    "no identity": ("tables.identity", ["ALTER TABLE {account}.t REPLICA IDENTITY NOTHING"]),
    "row security": (
        "source.row_security",
        [
            "ALTER TABLE {account}.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE {account}.t FORCE ROW LEVEL SECURITY",
        ],
    ),
}


def check(pipeline: PipelineFile) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pipeline.run("check", "FILE", "--json").stdout)["checks"]
    return [item for item in found if item["status"] == "fail"]


def make(account: PostgresAccount, target: Account, folder: Path) -> PipelineFile:
    with account.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    return write_pipeline(folder, account, target)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_mended_by_what_is_said(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, fault: str
) -> None:
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    assert check(pipeline) == []
    expected, statements = FAULTS[fault]
    filled = [text.format(account=source.database) for text in statements]
    source.server.execute(filled, database=source.database)
    failed = check(pipeline)
    assert [item["id"] for item in failed] == [expected]
    refused = pipeline.run("load", "FILE")
    assert refused.returncode == 4, refused.stderr
    assert (
        source.server.execute("SELECT 1 FROM pg_replication_slots WHERE database = %s", (source.database,))
        == []
    )
    source.server.execute(failed[0]["fix"], database=source.database)
    assert check(pipeline) == []
    pipeline.must("load", "FILE")


def test_a_deferrable_key_is_no_identity(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Once it is published, PostgreSQL refuses the application's own UPDATE."""
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    source.query("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE")
    fixes = {item["id"]: item["fix"] for item in check(pipeline)}
    assert set(fixes) == {"tables.key", "tables.identity"}
    assert pipeline.run("load", "FILE").returncode == 4
    source.query(fixes["tables.identity"])
    assert check(pipeline) == []
    pipeline.must("load", "FILE")
    source.query("INSERT INTO t VALUES (1)")
    source.query("UPDATE t SET id = 2")
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT id FROM t") == [(2,)]


def test_wal_level_and_slots(target_account: Account, tmp_path: Path) -> None:
    with (
        start_postgres(wal_level="replica", max_replication_slots=0) as server,
        make_postgres_account(server) as account,
    ):
        pipeline = make(account, target_account, tmp_path)
        assert {item["id"] for item in check(pipeline)} == {"source.wal_level", "source.slots"}
        assert pipeline.run("load", "FILE").returncode == 4
        server.settings |= {"wal_level": "logical", "max_replication_slots": 2}
        server.restart()
        pipeline.must("load", "FILE")


def test_a_password_that_is_wrong_and_a_database_that_is_not_there(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    pipeline = make(postgres_account, target_account, tmp_path)
    pipeline.edit("source", database="nowhere")
    assert [item["id"] for item in check(pipeline)] == ["source.login"]
    assert pipeline.run("load", "FILE").returncode == 4
    pipeline.edit("source", database=postgres_account.database)
    pipeline.env["SOURCE_PASSWORD"] = "wrong"
    [failed] = check(pipeline)
    assert failed["id"] == "source.login"
    assert "password authentication failed" in failed["message"]
    assert pipeline.run("run", "FILE").returncode == 4
