"""`replicator demo`, as a stranger runs it: it ends equal, and whatever ends it, nothing of it stays (I2, I3)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.demo.compare import Side, compare
from replicator.pgserver import PostgresServer
from replicator.servers import Server
from tests.targets import wait_until

SECONDS = 110.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the demo takes for the system's folder of temporary files."""
    (tmp_path / "t").mkdir()
    return tmp_path / "t"


def start_demo(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "replicator", "demo"],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def find_processes(folder: Path) -> list[str]:
    """The processes that inherited the folder from a demo, its own included."""
    mark, found = f"TMPDIR={folder}\0".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended, or is another user's
    return found


def read_until(demo: subprocess.Popen[str], text: str) -> None:
    assert demo.stdout is not None
    seen = []
    for line in demo.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} never came:\n{''.join(seen)}")


def test_the_demo_ends_equal_and_leaves_nothing(folder: Path) -> None:
    demo = start_demo(folder)
    output, _ = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, output
    for shop in ("lima", "kyoto"):
        assert re.search(rf"kill -9 of process \d+, the pipeline {shop}", output)
        assert f"{shop} streams again" in output
    rows = re.findall(r"(\w+): shop\.(\w+) = app\.(\w+) +([\d,]+) rows  equal", output)
    assert len(rows) == 12, output
    assert all(
        target == f"{shop}_{table}" and int(n.replace(",", "")) > 200 for shop, table, target, n in rows
    )
    assert re.search(r"12 tables, [\d,]+ rows: all equal", output)
    # Every pipeline was seen to mirror what its shop wrote.
    assert len(set(re.findall(r"pipeline=(\w+) state=streaming .* updates=[1-9]", output))) == 3
    assert not find_processes(folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("moment", ["starting four throwaway servers", "all pipelines are loaded and stream"])
def test_ctrl_c_leaves_nothing(folder: Path, moment: str) -> None:
    demo = start_demo(folder)
    read_until(demo, moment)
    os.killpg(demo.pid, signal.SIGINT)  # a terminal signals the whole group
    output, _ = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert not find_processes(folder)
    assert not list(folder.iterdir())


def test_a_killed_demo_takes_its_pipelines_along(folder: Path) -> None:
    demo = start_demo(folder)
    read_until(demo, "all shops are open")
    assert any("replicator run" in command for command in find_processes(folder))
    demo.kill()
    demo.communicate(timeout=SECONDS)
    wait_until(lambda: not find_processes(folder))
    wait_until(lambda: not list(folder.iterdir()))


def test_the_comparison_sees_every_difference(
    mysql_source: Server, mariadb_source: Server, database_name: str
) -> None:
    columns = "(id INT PRIMARY KEY, name VARCHAR(9), weight DOUBLE, at DATETIME(3), details JSON)"
    rows = [(1, "ä", 0.1, "2026-01-01 00:00:00.001", "[1]"), (2, None, 1.0, None, None)]
    sides = []
    for server in (mariadb_source, mysql_source):
        server.execute(f"CREATE DATABASE {database_name} CHARACTER SET utf8mb4")
        server.execute(f"CREATE TABLE t {columns}", database=database_name)
        for row in rows:
            server.execute("INSERT INTO t VALUES (%s, %s, %s, %s, %s)", row, database=database_name)
        sides.append(Side(server, database_name, "t"))
    source, target = sides
    try:
        assert compare(source, target).is_equal
        for damage in (
            "name = 'a' WHERE id = 1",
            "name = 'ä ' WHERE id = 1",
            "name = '' WHERE id = 2",
            "weight = 0.10000000000000002 WHERE id = 1",
            "at = '2026-01-01 00:00:00.002' WHERE id = 1",
            "details = '[2]' WHERE id = 1",
        ):
            target.server.execute(f"UPDATE t SET {damage}", database=database_name)
            found = compare(source, target)
            assert (found.missing, found.extra) == (1, 1), damage
            for row in rows:
                target.server.execute(
                    "REPLACE INTO t VALUES (%s, %s, %s, %s, %s)", row, database=database_name
                )
        target.server.execute("DELETE FROM t WHERE id = 2", database=database_name)
        assert (compare(source, target).missing, compare(target, source).extra) == (1, 1)
    finally:
        for server in (mariadb_source, mysql_source):
            server.execute(f"DROP DATABASE {database_name}")


def test_the_comparison_sees_every_difference_from_postgresql(
    postgres_newest: PostgresServer, mysql_source: Server, database_name: str
) -> None:
    postgres_newest.execute(f"CREATE DATABASE {database_name}")
    mysql_source.execute(f"CREATE DATABASE {database_name} CHARACTER SET utf8mb4")
    source, target = (Side(server, database_name, "t") for server in (postgres_newest, mysql_source))
    try:
        postgres_newest.execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text, weight float8, at timestamp(3), seen timestamptz,"
            " details jsonb, labels text[], price numeric(9,2), twice int GENERATED ALWAYS AS (id * 2) STORED);"
            "INSERT INTO t VALUES (1, 'ä', 0.1, '2026-01-01 00:00:00.001', '2026-01-01 01:00:00.5+01', '{\"b\": [1.5]}',"
            " '{a,\"b c\"}', 1.5)",
            database=database_name,
        )
        mysql_source.execute(
            "CREATE TABLE t (id INT PRIMARY KEY, name TEXT, weight DOUBLE, at DATETIME(3), seen DATETIME(6), details JSON,"
            " labels TEXT, price DECIMAL(9, 2))",
            database=database_name,
        )
        row = (
            1, "ä", 0.1, "2026-01-01 00:00:00.001", "2026-01-01 00:00:00.5", '{"b": [1.5]}', '{a,"b c"}', "1.50"
        )  # fmt: skip
        write = "REPLACE INTO t VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
        mysql_source.execute(write, row, database=database_name)
        assert compare(source, target).is_equal
        for damage in (
            "name = NULL",
            "name = 'a'",
            "weight = 0.10000000000000002",
            "at = '2026-01-01 00:00:00.002'",
            "seen = '2026-01-01 01:00:00.5'",
            "details = '{}'",
            "labels = '{a,b c}'",
            "price = 1.51",
        ):
            mysql_source.execute(f"UPDATE t SET {damage}", database=database_name)
            found = compare(source, target)
            assert (found.missing, found.extra) == (1, 1), damage
            mysql_source.execute(write, row, database=database_name)
    finally:
        postgres_newest.execute(f"DROP DATABASE {database_name}")
        mysql_source.execute(f"DROP DATABASE {database_name}")
