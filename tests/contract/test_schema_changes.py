"""A table whose schema changes at the source is paused with a reason; the others stream on, whenever it is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.servers import Server
from tests.accounts import Account, pick_name
from tests.contract.paths import run_all
from tests.processes import write_pipeline

TABLES = [
    "CREATE TABLE kept (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE changed (id INT PRIMARY KEY, v INT)",
    "INSERT INTO kept VALUES (1, 1)",
    "INSERT INTO changed VALUES (1, 1)",
]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE changed ADD w INT",
        "DROP TABLE changed",
        "RENAME TABLE changed TO other",
        "ALTER TABLE changed DROP v",
    ],
)
def test_a_change_made_while_the_program_is_away_pauses_one_table(
    source_account: Account, target_account: Account, tmp_path: Path, change: str
) -> None:
    source, target = source_account, target_account
    run_all(source, TABLES)
    tables: dict[str, object] = {f"{source.database}.{name}": {} for name in ("kept", "changed")}
    pipeline = write_pipeline(tmp_path, source, target, tables=tables)
    pipeline.must("load", "FILE")
    run_all(source, ["INSERT INTO changed VALUES (2, 2)", change, "INSERT INTO kept VALUES (2, 2)"])
    for _ in range(2):
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 6, done.stderr
        assert "changed" in done.stderr
        states = {table["target"]: table for table in pipeline.status()["tables"]}
        assert states["kept"]["state"] == "streaming"
        assert states["changed"]["state"] == "paused"
        assert states["changed"]["error"]
        assert target.query("SELECT * FROM kept ORDER BY id") == [(1, 1), (2, 2)]
        assert target.query("SELECT * FROM changed ORDER BY id") == [(1, 1), (2, 2)]


def test_a_database_dropped_while_the_program_is_away_pauses_its_tables(
    source_server: Server, target_account: Account, tmp_path: Path
) -> None:
    names = [pick_name(), pick_name()]
    root = Account(source_server, source_server.user, source_server.password, names[0])
    source_server.execute([f"CREATE DATABASE {name}" for name in names])
    source_server.execute([f"CREATE TABLE {name}.t (id INT PRIMARY KEY)" for name in names])
    tables: dict[str, object] = {f"{name}.t": {"to": f"t_{place}"} for place, name in enumerate(names)}
    pipeline = write_pipeline(tmp_path, root, target_account, tables=tables)
    pipeline.must("load", "FILE")
    source_server.execute([f"DROP DATABASE {names[1]}", f"INSERT INTO {names[0]}.t VALUES (1)"])
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    assert target_account.query("SELECT id FROM t_0") == [(1,)]
    states = {table["target"]: table["state"] for table in pipeline.status()["tables"]}
    assert states == {"t_0": "streaming", "t_1": "paused"}
    source_server.execute(f"DROP DATABASE {names[0]}")
