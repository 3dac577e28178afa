"""TRUNCATE at the source: of a large table it is one at the target, too, and as safe as a batch (SEMANTICS §4.5)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from replicator.truncation import FEW_ROWS
from tests.accounts import Account
from tests.compare import Side, describe_difference
from tests.processes import STOPPING, PipelineFile, end, follow, is_stopped, write_pipeline
from tests.targets import wait_until

DIGITS = (
    "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6)"
)
SOME = f"SELECT 'x' FROM {' CROSS JOIN '.join(f'{DIGITS} {name}' for name in 'abcde')}"  # 7^5
LARGE = f"INSERT INTO big (v) {SOME}; INSERT INTO big (v) SELECT v FROM big LIMIT 10000"


@pytest.fixture
def pipeline(source_account: Account, target_account: Account, tmp_path: Path) -> PipelineFile:
    """A large table and a small one, loaded."""
    write(source_account, "CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(10), KEY (v))")
    write(source_account, LARGE)
    write(source_account, "CREATE TABLE small (id INT PRIMARY KEY); INSERT INTO small VALUES (1), (2)")
    file = write_pipeline(tmp_path, source_account, target_account)
    file.must("load", "FILE")
    assert target_account.query("SELECT COUNT(*) FROM big")[0][0] > FEW_ROWS
    return file


def write(account: Account, sql: str) -> None:
    account.server.execute(sql, database=account.database)


def differs(source: Account, target: Account, *tables: str) -> str:
    sides = [
        [Side(account.server, account.database, table) for account in (source, target)] for table in tables
    ]
    return "".join(describe_difference(*pair) for pair in sides)


def read_counters(target: Account) -> tuple[int, int]:
    """How often a table was truncated at the target's server, and how many rows were deleted there one by one."""
    rows = target.server.execute(
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_truncate', 'Innodb_rows_deleted')"
    )
    found = {str(name): int(value) for name, value in rows}
    return found["Com_truncate"], found["Innodb_rows_deleted"]


def test_a_large_table_is_truncated_between_what_came_before_and_after(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """One backlog; the small table's rows are deleted, the large one's are not."""
    source, target = source_account, target_account
    for sql in (
        "UPDATE big SET v = 'y' WHERE id <= 100",
        "INSERT INTO small VALUES (3)",
        "TRUNCATE TABLE big",
        "INSERT INTO big (v) VALUES ('first'), ('second')",
        "TRUNCATE small",
        "INSERT INTO small VALUES (7)",
        "UPDATE big SET v = 'third' WHERE id = 2",
    ):
        write(source, sql)
    truncated, deleted = read_counters(target)
    pipeline.must("run", "FILE", "--until-current")
    truncated_then, deleted_then = read_counters(target)
    assert truncated_then - truncated == 1
    assert deleted_then - deleted < 100
    assert not differs(source, target, "big", "small")
    assert [row[1] for row in target.query("SELECT * FROM big ORDER BY id")] == ["first", "third"]
    write_at_target = "INSERT INTO big (v) VALUES ('ours')"
    target.query(write_at_target)
    assert target.query("SELECT MAX(id) FROM big") == [(3,)]  # numbers begin again, as at the source


def test_a_large_table_that_a_foreign_key_refers_to_is_emptied_in_its_batch(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """Also where the table that refers to it is nothing the pipeline knows of."""
    source, target = source_account, target_account
    target.query(
        "CREATE TABLE apps_own (id INT PRIMARY KEY, big INT, FOREIGN KEY (big) REFERENCES big (id) ON DELETE SET NULL)"
    )
    target.query("INSERT INTO apps_own VALUES (1, 5)")
    write(source, "TRUNCATE TABLE big; INSERT INTO big (v) VALUES ('first')")
    truncated, _ = read_counters(target)
    pipeline.must("run", "FILE", "--until-current")
    assert read_counters(target)[0] == truncated
    assert not differs(source, target, "big", "small")
    assert target.query("SELECT big FROM apps_own") == [(None,)]


def test_a_table_that_the_application_holds_is_waited_for_and_shown(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    source, target = source_account, target_account
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    with target.connect(autocommit=False) as app, app.cursor() as cursor:
        cursor.execute("SELECT * FROM big LIMIT 1")
        write(source, "TRUNCATE TABLE big; INSERT INTO big (v) VALUES ('first')")
        assert "1205" in follow(process, "waiting_for=target").splitlines()[-1]
        wait_until(lambda: "1205" in pipeline.status()["waiting_for"])
        app.rollback()
    wait_until(lambda: not differs(source, target, "big"))
    code, output = end(process)
    assert code == 0, output
    assert pipeline.status()["waiting_for"] == ""


def test_an_older_process_that_was_stopped_before_its_truncate_takes_no_row_of_the_newcomers(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """Its epoch was checked, the statement comes next: the newcomer ends its session before it applies anything, also
    where it has nothing to truncate itself, for the table is large only in the older one's eyes."""
    source, target = source_account, target_account
    older = pipeline.start("run", "FILE", program=(*STOPPING, "before-truncate", "1"))
    follow(older, "state=streaming")
    write(source, "TRUNCATE TABLE small")
    wait_until(lambda: is_stopped(older.pid))
    try:
        write(source, "INSERT INTO small VALUES (3), (4)")
        pipeline.must("run", "FILE", "--until-current")
        assert target.query("SELECT id FROM small") == [(3,), (4,)]
    finally:
        older.send_signal(signal.SIGCONT)
    output, _ = older.communicate(timeout=60)
    assert older.returncode == 5, output
    assert "was taken over by" in output
    assert not differs(source, target, "big", "small")
