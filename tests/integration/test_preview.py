"""`plan` against real servers: it says what a run would do, its DDL really runs, and nothing changes at the target."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.config import load
from replicator.errors import SchemaMismatch
from replicator.preview import Preview, build_preview, print_preview
from tests.accounts import Account
from tests.processes import PipelineFile, write_pipeline
from tests.targets import set_global

SHOP = """
CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(50) NOT NULL, KEY by_name (name));
CREATE TABLE orders (id INT PRIMARY KEY AUTO_INCREMENT, customer INT NOT NULL, note TEXT,
  CONSTRAINT fk_customer FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE);
CREATE TABLE log (id INT PRIMARY KEY, line VARCHAR(20), FULLTEXT KEY words (line));
INSERT INTO customers VALUES (1, 'a'), (2, 'b');
ANALYZE TABLE customers
"""


@pytest.fixture
def file(
    tmp_path: Path, source_account: Account, target_account: Account, monkeypatch: pytest.MonkeyPatch
) -> PipelineFile:
    source_account.server.execute(f"USE {source_account.database}; {SHOP}")
    file = write_pipeline(tmp_path, source_account, target_account)
    for name, value in file.env.items():
        monkeypatch.setenv(name, value)
    return file


def change(file: PipelineFile, **tables: Any) -> None:
    content = json.loads(file.path.read_text())
    content["tables"] |= tables
    file.path.write_text(json.dumps(content))


def actions(preview: Preview) -> dict[str, str]:
    return {item.schema.source.table: item.action for item in preview.tables}


@pytest.mark.parametrize(("local_infile", "way"), [("ON", "LOAD DATA LOCAL"), ("OFF", "multi-row INSERT")])
def test_nothing_changes_at_the_target(
    file: PipelineFile, target_account: Account, local_infile: str, way: str
) -> None:
    with set_global(target_account.server, "local_infile", local_infile):
        preview = build_preview(load(file.path))
    assert actions(preview) == {"customers": "create", "log": "create", "orders": "create"}
    assert target_account.query("SHOW TABLES") == []
    customers = preview.tables[0]
    assert customers.schema.rows_estimate == 2
    assert customers.load.endswith(way)
    assert customers.load.startswith("~1 chunks of ")


def test_its_ddl_runs_as_it_stands(
    file: PipelineFile, target_account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    print_preview(load(file.path), ddl_only=True)
    script = capsys.readouterr().out
    server = target_account.server
    command = server.client_command("mysql", target_account.database)
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {row[0] for row in target_account.query("SHOW TABLES")}
    assert made == {"customers", "orders", "log"}
    assert "fk_customer" in str(target_account.query("SHOW CREATE TABLE orders"))
    assert "by_name" in str(target_account.query("SHOW CREATE TABLE customers"))
    # Now they are there, fit, and nothing is left to create.
    preview = build_preview(load(file.path))
    assert set(actions(preview).values()) == {"fill"}
    assert [item.remarks for item in preview.tables] == [[], [], []]


def test_tables_joined_by_foreign_keys_and_why_checks_are_on(
    file: PipelineFile, source_account: Account, target_account: Account
) -> None:
    preview = build_preview(load(file.path))
    (group,) = preview.groups
    assert {schema.source.table for schema in group} == {"customers", "orders"}
    cascades = [reason for reason in preview.check_reasons if "fk_customer" in reason]
    # MySQL 9.6 and newer log their cascades; MariaDB never does (SEMANTICS §5.3).
    newer = source_account.server.kind == "mysql" and source_account.server.version >= (9, 6)
    assert len(cascades) == (0 if newer else 1)
    target_account.query("CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(50) NOT NULL)")
    target_account.query(
        "CREATE TABLE app (c INT, CONSTRAINT ours FOREIGN KEY (c) REFERENCES customers (id))"
    )
    assert any("ours" in reason for reason in build_preview(load(file.path)).check_reasons)


def test_a_table_that_does_not_fit_is_refused_after_the_plan_is_printed(
    file: PipelineFile, target_account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    target_account.query("CREATE TABLE log (id INT PRIMARY KEY, line VARCHAR(10))")
    with pytest.raises(SchemaMismatch, match="line"):
        print_preview(load(file.path), ddl_only=False)
    printed = capsys.readouterr().out
    assert "REFUSED" in printed
    assert "CREATE TABLE `customers`" in printed
    assert "CREATE TABLE `log`" not in printed


def test_rows_of_others_are_never_planned_away(
    file: PipelineFile, source_account: Account, target_account: Account
) -> None:
    target_account.query("CREATE TABLE log (id INT PRIMARY KEY, line VARCHAR(20))")
    target_account.server.execute(f"INSERT INTO {target_account.database}.log VALUES (9, 'theirs')")
    preview = build_preview(load(file.path))
    assert actions(preview)["log"] == "refuse"
    assert "1 rows that this pipeline did not bring" in preview.refusals[0]
    change(file, **{f"{source_account.database}.log": {"existing_rows": "merge"}})
    preview = build_preview(load(file.path))
    assert actions(preview)["log"] == "merge"
    assert "merged by key" in preview.tables[1].load


def test_what_is_lost_is_named(
    tmp_path: Path,
    mariadb_source_account: Account,
    target_account: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mariadb_source_account.server.execute(
        f"USE {mariadb_source_account.database};"
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(10) COLLATE uca1400_as_cs) DEFAULT CHARSET utf8mb4"
    )
    file = write_pipeline(tmp_path, mariadb_source_account, target_account)
    for name, value in file.env.items():
        monkeypatch.setenv(name, value)
    (table,) = build_preview(load(file.path)).tables
    assert any("uca1400_as_cs" in text for text in table.remarks)


def test_an_end_that_cannot_be_asked_is_named_by_the_exit_code(file: PipelineFile) -> None:
    for variable, code in (("SOURCE_PASSWORD", 4), ("TARGET_PASSWORD", 5)):
        wrong = replace(file, env=file.env | {variable: "wrong"})
        wrong.must("plan", "FILE", exit_code=code)


def test_the_command_prints_every_table(file: PipelineFile) -> None:
    printed = file.must("plan", "FILE")
    for word in ("customers", "orders", "log", "foreign key checks while mirroring", "CREATE TABLE"):
        assert word in printed
