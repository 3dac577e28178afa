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
    assert re.search(r"kill -9 of process \d+, the pipeline kyoto", output)
    assert "kyoto streams again" in output
    rows = re.findall(r"(\w+): shop\.(\w+) = app\.(\w+) +([\d,]+) rows  equal", output)
    assert len(rows) == 8, output
    assert all(
        target == f"{shop}_{table}" and int(n.replace(",", "")) > 200 for shop, table, target, n in rows
    )
    assert re.search(r"8 tables, [\d,]+ rows: all equal", output)
    # Every pipeline was seen to mirror what its shop wrote.
    assert len(set(re.findall(r"pipeline=(\w+) state=streaming .* updates=[1-9]", output))) == 2
    assert not find_processes(folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "moment", ["starting three throwaway servers", "both pipelines are loaded and stream"]
)
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
    read_until(demo, "both shops are open")
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
