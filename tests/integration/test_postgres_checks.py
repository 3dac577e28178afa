"""What a PostgreSQL source must be before it is read: each fault is named by `check`, ends `load`, and goes by its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from replicator.pgserver import start_postgres
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.processes import PipelineFile, end, follow, write_pipeline

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


def test_wal_level_slots_and_senders(target_account: Account, tmp_path: Path) -> None:
    """All at their worst, mended by what is said; then all are used up by the pipeline itself, which is no fault."""
    with (
        start_postgres(wal_level=None, max_replication_slots=None, max_wal_senders=None) as server,
        make_postgres_account(server) as account,
    ):
        server.execute(["ALTER SYSTEM SET max_replication_slots = 0", "ALTER SYSTEM SET max_wal_senders = 0"])
        server.restart()
        pipeline = make(account, target_account, tmp_path)
        failed = check(pipeline)
        assert {item["id"] for item in failed} == {"source.wal_level", "source.slots", "source.senders"}
        refused = pipeline.run("load", "FILE")
        assert refused.returncode == 4, refused.stderr
        for item in failed:
            server.execute(item["fix"].partition("--")[0])
        server.restart()
        assert check(pipeline) == []
        pipeline.must("load", "FILE")
        server.execute(["ALTER SYSTEM SET max_replication_slots = 1", "ALTER SYSTEM SET max_wal_senders = 1"])
        server.restart()
        assert check(pipeline) == []
        process = pipeline.start("run", "FILE")
        follow(process, "state=streaming")
        assert check(pipeline) == []
        other = write_pipeline(tmp_path, account, target_account, name="other")
        assert {item["id"] for item in check(other)} >= {"source.slots", "source.senders"}
        pipeline.must("run", "FILE", "--until-current")  # the newcomer takes slot and sender over
        assert end(process)[0] == 5


def test_a_publication_that_somebody_changed(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source = postgres_account
    pipeline = make(source, target_account, tmp_path)
    pipeline.must("load", "FILE")
    [(name,)] = source.query("SELECT pubname FROM pg_publication")
    found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
    assert [item["status"] for item in found if item["id"] == "source.publication"] == ["pass"]
    source.query(f"ALTER PUBLICATION {name} DROP TABLE t")
    found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
    [warned] = [item for item in found if item["id"] == "source.publication"]
    assert warned["status"] == "warn"
    assert f"{source.database}.t" in warned["message"]
    source.query(f"ALTER PUBLICATION {name} SET (publish = 'insert')")
    [failed] = check(pipeline)
    assert failed["id"] == "source.publication"
    source.query(f"DROP PUBLICATION {name}")
    [failed] = check(pipeline)
    assert (failed["id"], failed["subject"]) == ("source.publication", name)
    assert "replicator drop" in failed["fix"]
    pipeline.must("drop", "FILE")
    assert check(pipeline) == []


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
