"""The source is up and has nothing left for us: no WAL sender, no slot, no connection. A run waits for it, by name."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from replicator.pgserver import PostgresServer, start_postgres
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.pgsources import run
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import wait_until

ROOM = 2  # a table that is loaded beside the stream needs a second one


@pytest.fixture(scope="module")
def narrow() -> Iterator[PostgresServer]:
    with start_postgres(newest=True, max_wal_senders=ROOM, max_replication_slots=ROOM) as server:
        yield server


@pytest.fixture
def source(narrow: PostgresServer) -> Iterator[PostgresAccount]:
    with make_postgres_account(narrow) as account:
        yield account


@pytest.fixture
def pipeline(source: PostgresAccount, target_account: Account, tmp_path: Path) -> PipelineFile:
    """Loaded, with a table of one row."""
    run(source, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    made = write_pipeline(tmp_path, source, target_account)
    made.must("load", "FILE")
    return made


@contextlib.contextmanager
def senders_taken(server: PostgresServer) -> Iterator[None]:
    """By other clients, that of a run too."""
    with contextlib.ExitStack() as others:

        def take() -> bool:
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE usename <> %s",
                (server.user,),
            )
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    others.enter_context(contextlib.closing(server.connect(replication="database")))
            [(left,)] = server.execute(
                "SELECT count(*) FROM pg_stat_replication WHERE usename = %s", (server.user,)
            )
            return bool(left == ROOM)

        wait_until(take)
        yield


def is_equal(source: PostgresAccount, target: Account, table: str = "t") -> bool:
    sql = f"SELECT id FROM {table} ORDER BY id"
    return source.query(sql) == target.query(sql)


def await_sender(process: subprocess.Popen[str], pipeline: PipelineFile) -> None:
    """Until the run says that it waits for a WAL sender."""
    follow(process, "max_wal_senders")
    wait_until(lambda: "max_wal_senders" in pipeline.status()["waiting_for"])


def test_a_wal_sender_that_others_took_from_a_run_is_waited_for(
    source: PostgresAccount, target_account: Account, pipeline: PipelineFile
) -> None:
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    with senders_taken(source.server):
        run(source, "INSERT INTO t VALUES (2)")
        await_sender(process, pipeline)
    wait_until(lambda: is_equal(source, target_account))
    assert end(process)[0] == 0
    assert pipeline.status()["waiting_for"] == ""


def test_a_run_that_starts_waits_for_a_wal_sender(
    source: PostgresAccount, target_account: Account, pipeline: PipelineFile
) -> None:
    """What it has begun with is there, its slot: `check` warns, and a run waits."""
    with senders_taken(source.server):
        run(source, "INSERT INTO t VALUES (2)")
        process = pipeline.start("run", "FILE")
        await_sender(process, pipeline)
        found = json.loads(pipeline.must("check", "FILE", "--json"))["checks"]
        [warned] = [item for item in found if item["id"] == "source.senders"]
        assert (warned["status"], "waits" in warned["message"]) == ("warn", True)
    wait_until(lambda: is_equal(source, target_account))
    assert end(process)[0] == 0


def test_a_slot_for_a_table_that_comes_is_waited_for(
    source: PostgresAccount, target_account: Account, pipeline: PipelineFile
) -> None:
    """The others stream on."""
    source.server.execute("SELECT pg_create_physical_replication_slot('others')")
    run(source, "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)")
    process = pipeline.start("run", "FILE")
    follow(process, "all replication slots are in use")
    wait_until(lambda: "all replication slots are in use" in pipeline.status()["waiting_for"])
    run(source, "INSERT INTO t VALUES (2)")
    wait_until(lambda: is_equal(source, target_account))
    source.server.execute("SELECT pg_drop_replication_slot('others')")
    wait_until(lambda: pipeline.status()["waiting_for"] == "")
    wait_until(lambda: is_equal(source, target_account, "u"))
    assert end(process)[0] == 0
    assert pipeline.status()["waiting_for"] == ""
