"""What `status` says of a pipeline at each stage of its life, read from a real target (I2, I8)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.checkpoint import Lease, acquire, forget
from replicator.config import Endpoint, PipelineConfig, Secret, load
from replicator.errors import TargetUnavailable
from replicator.model import TableName
from replicator.session import Session
from replicator.status import read_status
from replicator.tablestate import (
    Counts,
    State,
    StatusLine,
    build_status_update,
    build_table_update,
    insert_pending,
    set_table,
)
from replicator.testing import build_table
from replicator.tls import Tls, TlsMode
from tests.accounts import Account
from tests.targets import wait_until

PIPELINE = """\
pipeline: shop
source: {type: mysql, host: nowhere.invalid, user: u, password: "${env:P}", database: app}
target: {type: mysql, host: 127.0.0.1, port: PORT, user: USER, password: "${env:P}", database: USER}
tables: {orders: {}}
"""


@pytest.fixture
def config(tmp_path: Path, target_account: Account) -> PipelineConfig:
    """A pipeline whose source cannot be reached: `status` must never ask it."""
    text = PIPELINE.replace("PORT", str(target_account.server.port)).replace("USER", target_account.user)
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    return load(path, {"P": target_account.password})


@pytest.fixture
def writer(target_account: Account) -> Iterator[Session]:
    """The session of a run under way."""
    endpoint = Endpoint(
        target_account.server.host,
        target_account.server.port,
        target_account.user,
        Secret(target_account.password),
        target_account.database,
        Tls(TlsMode.REQUIRED),
    )
    with Session.connect(endpoint) as session:
        yield session


def start(writer: Session, state: str = "streaming", lag: float | None = 0.25) -> Lease:
    """Take the pipeline over and say how it stands, as a run does."""
    lease = acquire(writer, "shop", "mysql:1234")
    insert_pending(writer, lease, [build_table("orders")])
    line = StatusLine(state, lag, True, snapshot_seconds=7.5)
    writer.run(build_status_update("shop", line, {"insert_exists": 2}))
    writer.commit()
    return lease


def test_before_the_first_start_it_is_idle_and_nothing_is_made(
    config: PipelineConfig, target_account: Account
) -> None:
    status = read_status(config)
    assert (status.state, status.tables, status.position) == ("idle", (), None)
    assert target_account.query("SHOW TABLES") == []


def test_a_run_under_way_is_shown_with_its_counts(config: PipelineConfig, writer: Session) -> None:
    lease = start(writer)
    set_table(writer, lease, TableName("app", "orders"), state=State.STREAMING)
    writer.run(build_table_update("shop", TableName("app", "orders"), counts=Counts(3, 2, 1), rows_loaded=40))
    writer.commit()
    answer = read_status(config).to_json()
    assert answer["state"] == "streaming"
    assert answer["lag_seconds"] == 0.25
    assert answer["snapshot_seconds"] == 7.5
    assert answer["conflicts"] == 2
    assert answer["consistent"] is True
    assert answer["torn"] is False
    assert answer["epoch"] == lease.epoch
    (table,) = answer["tables"]
    assert (table["source"], table["target"], table["state"]) == ("app.orders", "orders", "streaming")
    assert (table["rows_loaded"], table["applied"]) == (40, {"insert": 3, "update": 2, "delete": 1})


def test_looking_takes_no_lease_and_waits_for_no_lock(config: PipelineConfig, writer: Session) -> None:
    lease = start(writer)
    writer.query("SELECT * FROM _replicator_checkpoint FOR UPDATE")
    assert read_status(config).epoch == lease.epoch
    writer.rollback()
    assert acquire(writer, "shop", "mysql:1234").epoch > lease.epoch


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("streaming", "stopped"),
        ("loading", "stopped"),
        ("idle", "stopped"),
        ("error", "error"),
        ("paused", "paused"),
    ],
)
def test_once_the_session_is_gone_it_is_stopped_unless_it_ended_badly(
    config: PipelineConfig, writer: Session, target_account: Account, stored: str, shown: str
) -> None:
    start(writer, stored)
    writer.close()
    wait_until_gone(target_account, writer.connection_id)
    status = read_status(config)
    assert status.state == shown
    assert status.lag_seconds is None  # nobody measures it any more
    assert status.snapshot_seconds is None


def wait_until_gone(account: Account, connection_id: int) -> None:
    while connection_id in {row[0] for row in account.query("SHOW PROCESSLIST")}:
        pass


def test_a_session_number_that_was_silent_for_long_proves_nothing(
    config: PipelineConfig, writer: Session
) -> None:
    start(writer)
    make_silent(writer)
    assert read_status(config).state == "stopped"


def test_a_long_transaction_is_not_taken_for_an_end(
    config: PipelineConfig, writer: Session, target_account: Account
) -> None:
    start(writer)
    make_silent(writer)
    work = threading.Thread(target=run_until_killed, args=(writer,))
    work.start()
    try:
        while (writer.connection_id, "Query") not in list_commands(target_account):
            pass
        assert read_status(config).state == "streaming"
    finally:
        target_account.query(f"KILL {writer.connection_id}")
        work.join()


@pytest.mark.parametrize("letter", ["ü", "花", "🎂"])
@pytest.mark.parametrize("blanks", [1, 2, 3, 4])
def test_letters_of_several_bytes_in_what_a_run_writes(
    config: PipelineConfig, writer: Session, target_account: Account, blanks: int, letter: str
) -> None:
    """The server shows a hundred bytes of a statement, and so half a letter; a newcomer looks at it too."""
    start(writer)
    work = threading.Thread(
        target=run_until_killed, args=(writer, f"SELECT SLEEP(60),{' ' * blanks}'{letter * 100}'")
    )
    work.start()
    try:
        wait_until(lambda: (writer.connection_id, "Query") in list_commands(target_account))
        assert read_status(config).state == "streaming"
        with Session.connect(config.target) as newcomer:
            acquire(newcomer, "shop", "mysql:1234")
            assert newcomer.query("SELECT 'ü🎂'") == [("ü🎂",)]  # what it reads else is as before
    finally:
        target_account.query(f"KILL {writer.connection_id}")
        work.join()


def run_until_killed(session: Session, sql: str = "SELECT SLEEP(60)") -> None:
    with contextlib.suppress(TargetUnavailable):
        session.query(sql)


def list_commands(account: Account) -> set[tuple[Any, ...]]:
    with Session.connect(
        Endpoint(
            account.server.host,
            account.server.port,
            account.user,
            Secret(account.password),
            account.database,
            Tls(TlsMode.REQUIRED),
        )
    ) as session:
        return set(session.list_commands().items())


def make_silent(writer: Session) -> None:
    writer.execute("UPDATE _replicator_status SET updated_at = NOW(6) - INTERVAL 2 MINUTE")
    writer.commit()


def test_after_drop_it_is_idle_again(config: PipelineConfig, writer: Session) -> None:
    start(writer)
    forget(writer, "shop")
    assert read_status(config).state == "idle"
