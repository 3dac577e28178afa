"""The slot: whatever becomes of it or of its server, a run goes on exactly where it was, or says why it cannot."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import SourceLocked
from replicator.pgserver import PostgresServer, start_postgres
from replicator.readers import postgres_slot
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.pgcompare import assert_equal
from tests.pgsources import open_reader, run
from tests.pgstandby import Standby
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import wait_until

SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"


def load(
    source: PostgresAccount, target: Account, folder: Path, name: str = "shop"
) -> tuple[PipelineFile, str]:
    """A loaded pipeline of one table, and the name of its slot."""
    run(source, "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, v int)")
    run(source, "INSERT INTO t VALUES (1, 1) ON CONFLICT DO NOTHING")
    pipeline = write_pipeline(folder, source, target, name=name)
    before = source.query(SLOTS)
    pipeline.must("load", "FILE")
    [(slot,)] = [row for row in source.query(SLOTS) if row not in before]
    return pipeline, str(slot)


DEEDS = {
    "dropped": ["SELECT pg_drop_replication_slot('{slot}')"],
    "made anew": [
        "SELECT pg_drop_replication_slot('{slot}')",
        "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
    ],
    "another plugin": [
        "SELECT pg_drop_replication_slot('{slot}')",
        "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')",
    ],
    "physical": [
        "SELECT pg_drop_replication_slot('{slot}')",
        "SELECT pg_create_physical_replication_slot('{slot}')",
    ],
    "read by another": [
        "INSERT INTO t VALUES (7, 7)",
        "SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
    ],
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_slot_that_is_not_as_we_left_it_is_refused(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, deed: str
) -> None:
    """With the choice that helps; nothing is read from it, and nothing of the target is touched."""
    source, target = postgres_account, target_account
    pipeline, slot = load(source, target, tmp_path)
    run(source, *(text.format(slot=slot) for text in DEEDS[deed]), "INSERT INTO t VALUES (2, 2)")
    done = pipeline.run("run", "FILE", "--until-current")
    assert done.returncode == 4, done.stderr
    assert slot in done.stderr
    assert "replicator drop" in done.stderr
    assert target.query("SELECT * FROM t") == [(1, 1)]
    pipeline.must("drop", "FILE")
    assert source.query(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}'") == []
    pipeline.must("load", "FILE")
    assert_equal(source.server, source.database, target.server, target.database)


def test_a_slot_that_the_source_has_invalidated_is_refused(target_account: Account, tmp_path: Path) -> None:
    """For it held more of the log than max_slot_wal_keep_size allows."""
    target = target_account
    with (
        start_postgres(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB") as server,
        make_postgres_account(server) as source,
    ):
        pipeline, slot = load(source, target, tmp_path)
        status = f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'"

        def is_lost() -> bool:
            server.execute(["SELECT pg_switch_wal()", "CHECKPOINT"])
            return server.execute(status) == [("lost",)]

        run(source, "INSERT INTO t SELECT g, g FROM generate_series(10, 100000) g")
        wait_until(is_lost)
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 4, done.stderr
        assert "max_slot_wal_keep_size" in done.stderr
        pipeline.must("drop", "FILE")
        pipeline.must("load", "FILE")
        assert_equal(server, source.database, target.server, target.database)


def test_a_slot_that_another_account_reads_from(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """We may not end it: it is named, with the statement that does."""
    source, target = postgres_account, target_account
    pipeline, slot = load(source, target, tmp_path)
    server = source.server
    with contextlib.closing(
        server.connect(server.user, server.password, database=source.database, replication="database")
    ) as stranger:
        options = f"(proto_version '1', publication_names '{slot}')"
        stranger.pgconn.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 {options}".encode())
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 4, done.stderr
        fix = re.search(rf"SELECT pg_terminate_backend\({stranger.info.backend_pid}\);", done.stderr)
        assert fix is not None, done.stderr
        source.server.execute(fix[0])
    run(source, "INSERT INTO t VALUES (2, 2)")
    pipeline.must("run", "FILE", "--until-current")
    assert assert_equal(source.server, source.database, target.server, target.database) == 2


def test_two_pipelines_on_one_source_have_a_slot_each(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Also where their names look alike in that of a slot; dropping one leaves the other."""
    source, target = postgres_account, target_account
    first, slot = load(source, target, tmp_path, "shop-a")
    second = write_pipeline(
        tmp_path, source, target, name="shop_a", tables={f"{source.database}.t": {"to": "t2"}}
    )
    second.must("load", "FILE")
    assert len(source.query(SLOTS)) == 2
    run(source, "INSERT INTO t VALUES (2, 2)")
    first.must("drop", "FILE")
    [(left,)] = source.query(SLOTS)
    assert left != slot
    assert source.query("SELECT pubname FROM pg_publication") == [(left,)]
    second.must("run", "FILE", "--until-current")
    assert target.query("SELECT * FROM t2 ORDER BY id") == [(1, 1), (2, 2)]


def test_a_slot_that_cannot_be_made_in_time_leaves_nothing_at_the_source(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server would go on waiting for the open transaction, and count the slot, after we have gone."""
    monkeypatch.setattr(postgres_slot, "CREATE_SECONDS", 0.5)
    monkeypatch.setattr(postgres_slot, "TELL_SECONDS", 0.1)
    source = postgres_account
    run(source, "CREATE TABLE t (id int PRIMARY KEY)")
    stranger = source.server.connect(database=source.database, autocommit=False)
    with stranger as held, contextlib.closing(open_reader(source)) as reader:
        held.execute(f"INSERT INTO {source.database}.t VALUES (1)".encode())
        with pytest.raises(SourceLocked, match=rf"session {held.info.backend_pid} \(root ") as caught:
            reader.begin((), (), None, threading.Event())
        assert "None" not in str(caught.value)
        assert f"session {held.info.backend_pid} " in caplog.text  # said long before
        assert f"pg_terminate_backend({held.info.backend_pid});" in caught.value.hint
        wait_until(lambda: source.query(SLOTS) == [], seconds=5)
        held.rollback()


def test_a_prepared_transaction_that_keeps_a_slot_waiting_is_named(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_slot, "CREATE_SECONDS", 0.5)
    source = postgres_account
    name = f"of {source.database}'s"
    quoted = name.replace("'", "''")
    run(source, "CREATE TABLE t (id int PRIMARY KEY)")
    run(source, "BEGIN", "INSERT INTO t VALUES (1)", f"PREPARE TRANSACTION '{quoted}'")
    with contextlib.closing(open_reader(source)) as reader:
        with pytest.raises(SourceLocked, match=f"prepared {name} ") as caught:
            reader.begin((), (), None, threading.Event())
        fix = re.search(r"ROLLBACK PREPARED .*;", caught.value.hint)
        assert fix is not None
        run(source, fix[0])
        reader.begin((), (), None, threading.Event())
        reader.forget()


# --- other servers ----------------------------------------------------------------------------------------------------


def test_another_server_is_refused(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    pipeline, _ = load(source, target, tmp_path)
    with start_postgres() as server, make_postgres_account(server) as other:
        run(other, "CREATE TABLE t (id int PRIMARY KEY, v int)")
        pipeline.env["SOURCE_PASSWORD"] = other.password
        pipeline.edit("source", port=server.port, user=other.user, database=other.database)
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 4, done.stderr
        assert "drop" in done.stderr


def count_ahead(primary: PostgresServer, standby: PostgresServer) -> int:
    """How many bytes a standby has still to replay of what is committed; what else is inserted may stay unsent for long."""
    [(lsn,)] = primary.execute("SELECT pg_current_wal_flush_lsn()")
    return int(standby.execute(f"SELECT greatest(0, '{lsn}' - pg_last_wal_replay_lsn())")[0][0])


@pytest.fixture
def primary(postgres_source: PostgresServer) -> Iterator[PostgresServer]:
    """One that dies in the test."""
    with start_postgres(newest=postgres_source.installation.version[0] > 15) as server:
        yield server


def test_a_standby_is_no_source_and_a_promoted_one_without_the_slot_is_refused(
    primary: PostgresServer, target_account: Account, tmp_path: Path
) -> None:
    target = target_account
    with make_postgres_account(primary) as source:
        pipeline, slot = load(source, target, tmp_path)
        with Standby(primary, tmp_path) as standby:
            wait_until(lambda: count_ahead(primary, standby) == 0)
            pipeline.edit("source", port=standby.port)
            done = pipeline.run("run", "FILE", "--until-current")
            assert done.returncode == 4, done.stderr
            assert "source.primary" in done.stderr
            checked = json.loads(pipeline.must("check", "FILE", "--json", exit_code=3))["checks"]
            failed = [item["id"] for item in checked if item["status"] == "fail"]
            assert failed == ["source.primary", "pipeline.position"]
            standby.execute("SELECT pg_promote()")
            done = pipeline.run("run", "FILE", "--until-current")
            assert done.returncode == 4, done.stderr
            assert slot in done.stderr
            pipeline.must("drop", "FILE")
            pipeline.must("load", "FILE")
            assert assert_equal(standby, source.database, target.server, target.database) == 1


def test_a_failover_slot_goes_over_to_the_standby(
    primary: PostgresServer, target_account: Account, tmp_path: Path
) -> None:
    """While a run mirrors: it finds the promoted standby under the old name and goes on, nothing lost, nothing twice."""
    if primary.installation.version[0] < 17:
        pytest.skip("failover slots came with PostgreSQL 17")
    target = target_account
    with make_postgres_account(primary) as source:
        pipeline, slot = load(source, target, tmp_path)
        with Standby(primary, tmp_path, sync_replication_slots=True) as standby:
            synced = (
                f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND synced AND NOT temporary"
            )
            run(source, "INSERT INTO t VALUES (2, 2)")
            pipeline.must("run", "FILE", "--until-current")
            wait_until(lambda: primary.execute("CHECKPOINT") == [] and standby.execute(synced), seconds=60)
            run(source, "INSERT INTO t VALUES (3, 3)", "UPDATE t SET v = v + 1")
            wait_until(lambda: count_ahead(primary, standby) == 0)
            primary.kill()
            standby.execute("SELECT pg_promote()")
            pipeline.edit("source", port=standby.port)
            pipeline.must("run", "FILE", "--until-current")
            after = PostgresAccount(standby, source.user, source.password, source.database)
            run(after, "INSERT INTO t VALUES (4, 4)", "UPDATE t SET v = v + 1")
            pipeline.must("run", "FILE", "--until-current")
            assert assert_equal(standby, source.database, target.server, target.database) == 4
            assert (
                target.query("SELECT position FROM _replicator_checkpoint WHERE worker = 0")[0][0].split(" ")[
                    1
                ]
                == "2"
            )


def test_a_standby_that_lacked_what_we_had_read_is_refused(
    primary: PostgresServer, target_account: Account, tmp_path: Path
) -> None:
    """Even with a slot of the right name: the target has rows of a past that is not this server's."""
    target = target_account
    with make_postgres_account(primary) as source:
        pipeline, slot = load(source, target, tmp_path)
        with Standby(primary, tmp_path) as standby:
            wait_until(lambda: count_ahead(primary, standby) == 0)
            standby.execute("SELECT pg_wal_replay_pause()")
            run(source, "INSERT INTO t VALUES (2, 2)")
            standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            standby.stop()
            run(source, "INSERT INTO t VALUES (3, 3)")
            pipeline.must("run", "FILE", "--until-current")
            primary.kill()
            standby.start()
            standby.execute("SELECT pg_promote()")
            standby.execute(
                f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')", database=source.database
            )
            pipeline.edit("source", port=standby.port)
            done = pipeline.run("run", "FILE", "--until-current")
            assert done.returncode == 4, done.stderr
            assert "timeline 2" in done.stderr
            assert target.query("SELECT count(*) FROM t") == [(3,)]


def test_a_restart_and_a_kill_of_the_source_are_waited_through(
    primary: PostgresServer, target_account: Account, tmp_path: Path
) -> None:
    target = target_account
    with make_postgres_account(primary) as source:
        pipeline, _ = load(source, target, tmp_path)
        process = pipeline.start("run", "FILE")
        try:
            follow(process, "state=streaming")
            for turn, down in enumerate((primary.stop, primary.kill)):
                run(
                    source,
                    f"INSERT INTO t SELECT g, {turn} FROM generate_series({turn + 2}00, {turn + 2}50) g",
                )
                down()
                wait_until(lambda: "waiting" in follow(process, "waiting"))
                primary.start()
                run(source, f"UPDATE t SET v = v + 1 WHERE v = {turn}")
            wait_until(lambda: target.query("SELECT count(*) FROM t WHERE v = 2") == [(103,)])
        finally:
            code, output = end(process)
        assert code == 0, output
        assert_equal(primary, source.database, target.server, target.database)
