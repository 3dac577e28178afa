"""A table that is changed while it loads is paused and stays so; the others load and stream on (SEMANTICS §2.6, I7)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.config import load as load_config
from replicator.errors import PausedTables
from replicator.load import jobs
from replicator.pipeline import Options, Pipeline
from replicator.readers.mysql_snapshot import MysqlSession
from replicator.startup import open_pipeline
from tests.accounts import Account
from tests.compare import Side, describe_difference
from tests.processes import PipelineFile, write_pipeline

ROWS = ",".join(f"({n}, 'x')" for n in range(100))


@pytest.fixture
def pipeline(
    source_account: Account, target_account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PipelineFile:
    """Two tables of ten chunks each."""
    for table in "ab":
        write(
            source_account,
            f"CREATE TABLE {table} (id INT PRIMARY KEY, v VARCHAR(10)); INSERT INTO {table} VALUES {ROWS}",
        )
    file = write_pipeline(tmp_path, source_account, target_account)
    for name, value in file.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jobs, "CHUNK_ROWS", 10)
    monkeypatch.setattr(jobs, "FEWEST_ROWS", 10)
    return file


def write(account: Account, sql: str) -> None:
    account.server.execute(sql, database=account.database)


def run_while_loading(pipeline: PipelineFile, source: Account, sql: str, patch: pytest.MonkeyPatch) -> None:
    """Load; ``sql`` runs at the source behind the third chunk of `a`, as far as it need not wait for us."""
    read = MysqlSession.read
    chunks = 0
    begun, done = threading.Event(), threading.Event()

    def change() -> None:
        write(source, sql)
        done.set()

    def wrapped(self: MysqlSession, table: Any, span: Any) -> Iterator[Any]:
        nonlocal chunks
        yield from read(self, table, span)
        if table.source.table != "a":
            return
        chunks += 1
        if chunks == 3:
            threading.Thread(target=change, daemon=True).start()
            begun.set()
        if begun.is_set():
            done.wait(0.3)

    patch.setattr(MysqlSession, "read", wrapped)
    stop = threading.Event()
    opened = open_pipeline(load_config(pipeline.path), waiting=lambda _: None, stop=stop, is_patient=False)
    try:
        Pipeline(opened, Options(until="loaded"), stop).run(lambda _: None)
    finally:
        opened.reader.close()
        assert done.wait(20)


def assert_same(source: Account, target: Account, table: str) -> None:
    assert not describe_difference(
        Side(source.server, source.database, table), Side(target.server, target.database, table)
    )


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE a ADD COLUMN extra INT",
        "ALTER TABLE a DROP COLUMN v",
        "DROP TABLE a",
        "RENAME TABLE a TO z",
    ],
)
def test_it_is_paused_and_the_others_go_on(
    pipeline: PipelineFile,
    source_account: Account,
    target_account: Account,
    monkeypatch: pytest.MonkeyPatch,
    sql: str,
) -> None:
    with pytest.raises(PausedTables, match=rf"{source_account.database}\.a"):
        run_while_loading(pipeline, source_account, sql, monkeypatch)
    write(source_account, "INSERT INTO b VALUES (1000, 'x')")
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    states = {table["source"]: table for table in pipeline.status()["tables"]}
    assert states.pop(f"{source_account.database}.a")["state"] == "paused"
    assert {table["state"] for table in states.values()} == {"streaming"}
    assert_same(source_account, target_account, "b")
    if sql.startswith("RENAME"):
        assert_same(source_account, target_account, "z")


def test_truncate_is_a_change_like_any_other(
    pipeline: PipelineFile,
    source_account: Account,
    target_account: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_while_loading(pipeline, source_account, "TRUNCATE TABLE a", monkeypatch)
    write(source_account, "INSERT INTO a VALUES (7, 'new')")
    pipeline.must("run", "FILE", "--until-current")
    assert_same(source_account, target_account, "a")
    assert_same(source_account, target_account, "b")
