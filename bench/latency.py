"""From a commit at the source to the row being visible at the target, one clock for both.

A writer commits one row at a time on a fixed schedule and notes when each COMMIT returned. A reader asks the target for its
highest id again and again and notes when an id was first there. The reader's own pause counts against the contestant.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pymysql

from bench.data import TABLE
from bench.peers import BenchFailed
from replicator.servers import Server

POLL_SECONDS = 0.001
LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of each row, in the order of commits, and how many commits a second were really made."""

    seconds: list[float]
    commits_per_second: float


def measure_latencies(
    source: Server, target: Server, database: str, statements: list[str], commits_per_second: float
) -> Latencies:
    """Write ``statements`` (one new row each, ids without gaps) at the source and see them arrive at the target."""
    first = 1 + _highest_id(source, database)
    committed: list[float] = []
    visible: list[float] = []
    failed: list[BaseException] = []
    threads = [
        threading.Thread(target=_guard, args=(failed, action))
        for action in (
            lambda: _write(source, database, statements, 1 / commits_per_second, committed),
            lambda: _read(target, database, range(first, first + len(statements)), visible, failed),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    spent = committed[-1] - committed[0]
    return Latencies(
        [seen - done for done, seen in zip(committed, visible, strict=True)], (len(committed) - 1) / spent
    )


def _guard(failed: list[BaseException], action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
        failed.append(error)


def _highest_id(server: Server, database: str) -> int:
    return int(server.execute(f"SELECT COALESCE(MAX(id), 0) FROM {TABLE}", database=database)[0][0])


def _write(
    source: Server, database: str, statements: list[str], interval: float, committed: list[float]
) -> None:
    with source.connect(database=database) as connection, connection.cursor() as cursor:
        due = time.perf_counter()
        for statement in statements:
            time.sleep(max(0.0, due - time.perf_counter()))
            cursor.execute(statement)
            committed.append(time.perf_counter())
            due += interval


def _read(
    target: Server, database: str, ids: range, visible: list[float], failed: list[BaseException]
) -> None:
    deadline = time.perf_counter() + LIMIT_SECONDS
    with target.connect(database=database) as connection, connection.cursor() as cursor:
        while len(visible) < len(ids):
            highest = _poll(cursor)
            now = time.perf_counter()
            visible.extend([now] * (highest - ids.start + 1 - len(visible)))
            if failed or now > deadline:
                raise BenchFailed(f"{len(visible)} of {len(ids)} rows arrived in {LIMIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)


def _poll(cursor: pymysql.cursors.Cursor) -> int:
    cursor.execute(f"SELECT COALESCE(MAX(id), 0) FROM {TABLE}")
    row = cursor.fetchone()
    return int(row[0]) if row else 0
