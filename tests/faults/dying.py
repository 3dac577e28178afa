"""The replicator with one planted death: `dying.py POINT TIMES COMMAND…` is `replicator COMMAND…` that kills itself
(SIGKILL) when the named point is reached for the TIMES-th time.

The points are the edges between stages; they are planted from outside, the package knows nothing of them.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

import pymysql.connections

from replicator import (
    apply,
    barrier,
    cli,
    held,
    pipeline,
    prepare,
    runner,
    session,
    spill,
    stream,
    truncation,
)
from replicator.load import chunk, jobs
from replicator.readers import (
    mysql,
    mysql_snapshot,
    pgstream,
    postgres,
    postgres_publication,
    postgres_slot,
    postgres_snapshot,
    transactions,
)

CHUNK_ROWS = 10
"""So small that the workload's tables have several chunks each."""


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
    raise AssertionError("unreachable")


class Point:
    """Counts visits, which may come from any thread; the last one is deadly."""

    def __init__(self, times: int) -> None:
        self._visits = itertools.count(1)
        self._times = times

    def is_due(self) -> bool:
        return next(self._visits) == self._times

    def visit(self) -> None:
        if self.is_due():
            _die()


Plant = Callable[[Point], None]


def _before(owner: type | ModuleType, name: str) -> Plant:
    def plant(point: Point) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            point.visit()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    return plant


def _after(owner: type | ModuleType, name: str) -> Plant:
    def plant(point: Point) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            point.visit()
            return result

        setattr(owner, name, wrapped)

    return plant


def _in_each(plant: Callable[[type, str], Plant], name: str) -> Plant:
    """The same point in each reader."""
    plants = [plant(reader, name) for reader in (mysql.MysqlReader, postgres.PostgresReader)]

    def plant_all(point: Point) -> None:
        for one in plants:
            one(point)

    return plant_all


def _in_chunk_body(point: Point) -> None:
    """Rows of a chunk are on their way to the target."""
    _between_blocks(mysql_snapshot.MysqlSession, "read", point)
    _between_blocks(postgres_snapshot.PostgresSession, "_copy", point)


def _between_blocks(owner: Any, name: str, point: Point) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any) -> Iterator[Any]:
        for block in original(*args):
            yield block
            point.visit()

    setattr(owner, name, wrapped)


def _spill_early() -> None:
    """Transactions go to disk from their second change on."""
    transactions.SPILL_BYTES = pgstream.SPILL_BYTES = 64  # type: ignore[misc]


def _first_streamed_batch(point: Point) -> None:
    original = apply.Applier.apply

    def wrapped(self: apply.Applier, prepared: apply.Prepared) -> Any:
        if prepared.batch.rows:
            point.visit()
        return original(self, prepared)

    apply.Applier.apply = wrapped  # type: ignore[method-assign]


def _small_spill(point: Point) -> None:
    """The process dies with a spill half written."""
    _spill_early()
    _before(spill.Spill, "append")(point)


def _spilled_batch(point: Point) -> None:
    """Spilled transactions are batches of their own, and the process dies when one is half sent."""
    _spill_early()
    prepare.SLICE_BYTES = 1  # type: ignore[misc]
    _spilled_packets(point)


def _spilled_packets(point: Point) -> None:
    original = prepare.Preparer._build_slices

    def wrapped(*args: Any) -> Iterator[Any]:
        for packet in original(*args):
            yield packet
            point.visit()

    prepare.Preparer._build_slices = wrapped  # type: ignore[assignment, method-assign]


def _between_slices(point: Point) -> None:
    """A slice of a huge transaction is committed, and it is not the last one."""
    original = apply.Applier.apply

    def wrapped(self: apply.Applier, prepared: apply.Prepared) -> Any:
        result = original(self, prepared)
        if prepared.batch.checkpoint.torn is not None and prepared.batch.rows:
            point.visit()
        return result

    apply.Applier.apply = wrapped  # type: ignore[method-assign]


def _between_small_slices(point: Point) -> None:
    """Transactions come in slices from their third change or so on."""
    _spill_early()
    limits = stream.BatchLimits
    vars(runner)["BatchLimits"] = lambda **_: limits(transaction=128)
    _between_slices(point)


def _truncating(plant: Plant) -> Plant:
    """Every table with a row is large enough for a TRUNCATE of its own."""

    def planted(point: Point) -> None:
        truncation.FEW_ROWS = 0  # type: ignore[misc]
        plant(point)

    return planted


def _is_batch(packet: object) -> bool:
    """A whole batch of the stream that holds rows; names of mirrored tables alone are quoted."""
    return (
        isinstance(packet, bytes)
        and b"_replicator_checkpoint" in packet
        and b"`" in packet
        and packet.endswith(b"COMMIT")
    )


def _in_mid_packet(point: Point) -> None:
    original = session.Session.run

    def wrapped(self: session.Session, packet: bytes, body: Any = None) -> Any:
        if _is_batch(packet) and point.is_due():
            whole = (len(packet) + 1).to_bytes(3, "little") + b"\0\x03" + packet
            self._connection._sock.sendall(whole[: len(whole) // 2])
            _die()
        return original(self, packet, body)

    session.Session.run = wrapped  # type: ignore[method-assign]


def _commit_unanswered(point: Point) -> None:
    original = pymysql.connections.Connection._execute_command

    def wrapped(self: Any, command: int, sql: Any) -> None:
        original(self, command, sql)
        if _is_batch(sql):
            point.visit()

    pymysql.connections.Connection._execute_command = wrapped


POINTS: dict[str, Plant] = {
    "before-snapshot": _in_each(_before, "open_snapshot"),
    "after-snapshot": _in_each(_after, "open_snapshot"),
    "in-chunk-body": _in_chunk_body,
    "after-chunk-commit": _after(chunk.ChunkWriter, "write"),
    "before-stream": _before(pipeline.Pipeline, "_take_loaded"),
    "held-while-loading": _after(held.Held, "append"),
    "first-streamed-batch": _first_streamed_batch,
    "before-foreign-keys": _before(pipeline.Pipeline, "_constrain"),
    "settling": _before(pipeline.Pipeline, "_settle"),
    "in-spill": _small_spill,
    "spilled-batch": _spilled_batch,
    "between-small-slices": _between_small_slices,
    "plan-not-sent": _after(prepare.Preparer, "prepare"),
    "mid-packet": _in_mid_packet,
    "commit-unanswered": _commit_unanswered,
    "before-ack": _in_each(_before, "ack"),
    "before-truncate": _truncating(_before(barrier.Barrier, "_execute")),
    "after-truncate": _truncating(_after(barrier.Barrier, "repeat")),
    "shutdown": _before(apply.Applier, "close"),
}

POSTGRES_POINTS: dict[str, Plant] = {
    "before-publication": _before(postgres_publication, "create"),
    "before-slot": _before(postgres_slot, "create_slot"),
    "after-slot": _after(postgres_slot, "create_slot"),
    "in-streamed-transaction": _after(pgstream.Transactions, "_end_block"),
}
"""Points that only PostgreSQL has: what it keeps is made, and transactions are sent while they are open."""

HUGE_POINTS: dict[str, Plant] = {
    "between-slices": _between_slices,
    "large-batch-half-sent": _spilled_packets,
}
"""Points that only a transaction of many megabytes reaches."""

OTHER_POINTS: dict[str, Plant] = {
    "before-claim": _before(mysql.MysqlReader, "_claim"),
}
"""Points where it matters to be slow (``stopping.py``), not to die."""


def main() -> None:
    name, times, *command = sys.argv[1:]
    jobs.CHUNK_ROWS = jobs.FEWEST_ROWS = CHUNK_ROWS  # type: ignore[misc]
    (POINTS | POSTGRES_POINTS | HUGE_POINTS | OTHER_POINTS)[name](Point(int(times)))
    sys.argv = ["replicator", *command]
    cli.main()


if __name__ == "__main__":
    main()
