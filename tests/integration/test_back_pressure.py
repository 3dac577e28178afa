"""A target that stands still for longer than the source waits for a reader: no reconnect, no growth, no gap (§1.8)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.accounts import Account
from tests.compare import Side, describe_difference
from tests.processes import end, follow, write_pipeline
from tests.targets import set_global, wait_until

ROW = 1_000_000  # bytes
ROWS = 500  # more than the queues, the batches and the sockets' buffers hold together
SOURCE_SECONDS = 2  # the source's own patience with a reader that does not read
STALL_SECONDS = 8
GROWTH = 320 << 20  # what the queues and batches take of any backlog, at most; 300 rows and 600 took 265 MB


@contextlib.contextmanager
def frozen(target: Account) -> Iterator[None]:
    """The target's machine stands still; its sockets answer."""
    os.kill(target.server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(target.server.pid, signal.SIGCONT)


@contextlib.contextmanager
def locked(target: Account) -> Iterator[None]:
    """Somebody holds the table."""
    with target.server.connect(database=target.database) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLES t WRITE")
        yield


def find_dumps(cursor: Any, account: Account) -> list[tuple[int, str]]:
    """(number, what it does) of each session that sends the log to the account."""
    cursor.execute("SHOW PROCESSLIST")
    return [(row[0], row[6]) for row in cursor.fetchall() if row[1] == account.user and "Dump" in row[4]]


def count_connections(cursor: Any) -> int:
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Connections'")
    return int(cursor.fetchone()[1])


def read_memory(pid: int, name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of a process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@pytest.mark.full
@pytest.mark.parametrize("stall", [frozen, locked])
def test_a_target_that_stands_still_costs_neither_connections_nor_memory_nor_rows(
    source_account: Account,
    target_account: Account,
    tmp_path: Path,
    stall: Callable[[Account], AbstractContextManager[None]],
) -> None:
    source, target = source_account, target_account
    source.server.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGBLOB)", database=source.database)
    with (
        set_global(source.server, "net_write_timeout", str(SOURCE_SECONDS)),
        source.server.connect(database=source.database) as administrator,
        administrator.cursor() as cursor,
    ):
        process = write_pipeline(tmp_path, source, target).start("run", "FILE")
        follow(process, "state=streaming")
        cursor.execute("INSERT INTO t VALUES (%s, 'first')", (ROWS,))
        administrator.commit()
        wait_until(lambda: target.query("SELECT 1 FROM t") != [], 60)  # every session is open by then
        ((dump, _),) = find_dumps(cursor, source)
        begun, memory = count_connections(cursor), read_memory(process.pid, "VmRSS")
        with stall(target):
            for number in range(ROWS):
                cursor.execute("INSERT INTO t VALUES (%s, REPEAT('x', %s))", (number, ROW))
                administrator.commit()
            # The dump does nothing but wait for us, for several times the source's own patience.
            state = find_dumps(cursor, source)
            cursor.execute("SELECT SLEEP(%s)", (STALL_SECONDS,))
            assert find_dumps(cursor, source) == state
            assert [number for number, _ in state] == [dump]
            assert count_connections(cursor) == begun
        sides = Side(source.server, source.database, "t"), Side(target.server, target.database, "t")
        wait_until(lambda: not describe_difference(*sides), 120)
        assert [number for number, _ in find_dumps(cursor, source)] == [dump]
        assert read_memory(process.pid, "VmHWM") - memory < GROWTH
    code, output = end(process)
    assert code == 0, output
