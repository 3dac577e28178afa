"""Tables that only MariaDB has: what is refused is named, and what is left out is written in the file (SEMANTICS §1.9)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from replicator.check.checklist import Outcome
from replicator.check.report import check_files
from tests.accounts import Account
from tests.processes import PipelineFile, write_pipeline


@pytest.fixture
def pipeline(
    mariadb_source_account: Account,
    target_account: Account,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> PipelineFile:
    """All tables of a database with an ordinary one, a SYSTEM VERSIONED one and a sequence."""
    account = mariadb_source_account
    account.server.execute(
        "CREATE TABLE plain (id INT PRIMARY KEY, v INT); CREATE SEQUENCE numbers;"
        " CREATE TABLE versioned (id INT PRIMARY KEY, v INT) WITH SYSTEM VERSIONING;"
        " INSERT INTO plain VALUES (1, 1); INSERT INTO versioned VALUES (1, 1)",
        database=account.database,
    )
    file = write_pipeline(tmp_path, account, target_account)
    for name, value in file.env.items():
        monkeypatch.setenv(name, value)
    return file


def find_failures(pipeline: PipelineFile) -> list[Outcome]:
    return [item for item in check_files([pipeline.path]).outcomes if item.status == "fail"]


def test_a_system_versioned_table_is_refused_until_the_file_leaves_it_out(
    pipeline: PipelineFile, mariadb_source_account: Account, target_account: Account
) -> None:
    source = mariadb_source_account
    [failed] = find_failures(pipeline)
    assert (failed.id, failed.subject) == ("tables.system_versioned", f"{source.database}.versioned")
    for command in (["load", "FILE"], ["run", "FILE", "--until-current"]):
        done = pipeline.run(*command)
        assert done.returncode == 4
        assert f"{source.database}.versioned: a SYSTEM VERSIONED table" in done.stderr + done.stdout
    assert target_account.query("SHOW TABLES") == []
    pipeline.edit("tables", **yaml.safe_load(failed.fix)["tables"])
    assert find_failures(pipeline) == []
    pipeline.must("load", "FILE")
    source.server.execute(
        "UPDATE versioned SET v = 2; INSERT INTO plain SELECT NEXTVAL(numbers) + 1, 5; UPDATE plain SET v = v + 1;"
        " ALTER SEQUENCE numbers RESTART 50; DELETE HISTORY FROM versioned",
        database=source.database,
    )
    pipeline.must("run", "FILE", "--until-current")
    assert target_account.query("SELECT id, v FROM plain ORDER BY id") == [(1, 2), (2, 6)]
    assert ("versioned",) not in target_account.query("SHOW TABLES")


def test_a_sequence_is_no_table_to_select(pipeline: PipelineFile, mariadb_source_account: Account) -> None:
    pipeline.edit("tables", **{f"{mariadb_source_account.database}.numbers": {}})
    assert "numbers" in json.dumps(
        [item.message for item in find_failures(pipeline) if item.id == "tables.selected"]
    )


def test_a_table_that_became_system_versioned_is_refused_at_the_next_start(
    pipeline: PipelineFile, mariadb_source_account: Account, target_account: Account
) -> None:
    source = mariadb_source_account
    pipeline.edit("tables", **{f"{source.database}.versioned": {"skip": True}})
    source.server.execute("CREATE TABLE other (id INT PRIMARY KEY)", database=source.database)
    pipeline.must("load", "FILE")
    source.server.execute(
        "ALTER TABLE plain ADD SYSTEM VERSIONING; UPDATE plain SET v = 7; INSERT INTO other VALUES (1)",
        database=source.database,
    )
    done = pipeline.run("run", "FILE", "--until-current")
    assert done.returncode == 4, done.stderr
    assert f"{source.database}.plain: a SYSTEM VERSIONED table" in done.stderr + done.stdout
    assert target_account.query("SELECT id, v FROM plain") == [(1, 1)]
