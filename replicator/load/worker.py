"""One worker of an initial load: a session inside the snapshot, a session at the target, and the jobs between them.

``load`` starts as many as there are sessions; each chunk goes through ``chunk`` into one target transaction.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Protocol

from replicator.barrier import Barrier
from replicator.config import ExistingRows
from replicator.errors import DataError, ReplicatorError, SchemaMismatch, SnapshotBlocked, SnapshotLost
from replicator.load import existing
from replicator.load.chunk import ChunkWriter
from replicator.load.jobs import Copy, Job, Jobs, count_chunk_rows
from replicator.load.progress import Progress
from replicator.load.provision import add_indexes, empty_table
from replicator.model import Position, TableName, TableSchema
from replicator.readers.base import SnapshotSession
from replicator.session import Session
from replicator.tablestate import State, forget_coerced

log = logging.getLogger("replicator")


class Owner(Protocol):
    """The load, as its workers see it; all of it may be called by several of them at once."""

    progress: Progress
    barrier: Barrier

    @property
    def pipeline(self) -> str: ...
    def note_blocked(self, reason: str) -> None: ...
    def is_abandoned(self, name: TableName) -> bool: ...
    def count_attempt(self) -> int: ...
    def finish(self, table: TableSchema, position: Position) -> None: ...
    def set_state(self, writer: ChunkWriter, name: TableName, **values: object) -> None: ...


class Abandoned(Exception):
    """The stream has paused the table meanwhile."""


class Worker:
    """One session of a snapshot and one at the target, at work on the jobs of that snapshot."""

    def __init__(
        self, owner: Owner, source: SnapshotSession, writer: ChunkWriter, position: Position, jobs: Jobs
    ) -> None:
        self._owner = owner
        self._progress = owner.progress
        self._source = source
        self._writer = writer
        self._position = position
        self._jobs = jobs

    def run(self, halt: threading.Event) -> None:
        """Work until there is no job, or until this session has lost its snapshot: its table is then loaded again."""
        while (job := self._jobs.take(halt)) is not None:
            try:
                self._do(job)
                if self._jobs.finish(job.copy):
                    self._complete(job.copy)
                    self._jobs.finish(job.copy)
            except Abandoned:
                self._jobs.finish(job.copy, lost=True)
                self._progress.fail(job.copy.table.source)
            except SnapshotLost as error:
                is_blocked = isinstance(error, SnapshotBlocked)
                if is_blocked:
                    self._owner.note_blocked(error.message)
                for table in self._jobs.give_up() if is_blocked else [job.copy.table]:
                    log.warning("%s: the load starts again: %s", table.source, error.message)
                    self._progress.restart(table.source)
                self._jobs.finish(job.copy, lost=True)
                return
            except BaseException as error:
                self._jobs.finish(job.copy, lost=True)
                self._progress.fail(job.copy.table.source)
                if self._owner.is_abandoned(job.copy.table.source) and isinstance(error, ReplicatorError):
                    return
                self._mark(job.copy.table, error)
                raise

    def _do(self, job: Job) -> None:
        if job.span is None:
            self._begin(job.copy)
            return
        table, span = job.copy.table, job.span
        written = self._writer.write(
            table,
            _format_chunk(table, job),
            lambda: self._source.read(table, span),
            job.copy.merge,
            lambda: self._source.read_text(table, span),
        )
        self._progress.finish_chunk(table.source, written.rows, written.size, time.monotonic())

    def _begin(self, copy: Copy) -> None:
        """Empty what an earlier load left behind, then cut the table into ranges."""
        table, barrier = copy.table, self._owner.barrier
        self._set(
            table, state=State.LOADING, error=None, position=None
        )  # before anything of it is taken away
        if copy.found.is_ours_alone:
            self._writer.call(lambda session, lease: empty_table(session, lease, barrier, table, copy.found))
        else:
            copy.merge = self._writer.call(lambda session, _: self._prepare_merge(session, copy))
        self._set(table, reset=True, schema=table)
        self._writer.call(lambda session, lease: forget_coerced(session, lease, table.source))
        spans = self._source.split(table, count_chunk_rows(table))
        self._progress.begin(table.source, len(spans), time.monotonic())
        self._jobs.add(copy, spans)

    def _prepare_merge(self, session: Session, copy: Copy) -> existing.Merge:
        keys = existing.open_keys_table(session, self._owner.barrier, self._owner.pipeline, copy.table)
        return existing.Merge(keys, self._owner.count_attempt())

    def _complete(self, copy: Copy) -> None:
        """Every row is in: what the table still lacks, and then its position."""
        table, barrier = copy.table, self._owner.barrier
        if copy.merge is not None:
            self._finish_merge(copy, copy.merge)
        self._writer.call(lambda session, _: add_indexes(session, barrier, table, copy.found))
        self._set(table, state=State.CATCHING_UP, position=str(self._position))
        self._owner.finish(table, self._position)

    def _finish_merge(self, copy: Copy, merge: existing.Merge) -> None:
        table, rows = copy.table, copy.rows
        removed = self._writer.call(
            lambda session, lease: existing.remove_others(session, lease, table, merge, rows)
        )
        log.info("%s: removed %d rows that %s lacks", table.target, removed, table.source)
        if rows is ExistingRows.MERGE:
            loaded = self._progress.observe_table(table.source)
            brought = loaded[0] if loaded else 0
            kept = self._writer.call(lambda session, _: existing.count_others(session, table, brought))
            log.info("%s: kept %d rows that %s lacks", table.target, kept, table.source)

    def _set(self, table: TableSchema, **values: object) -> None:
        self._owner.set_state(self._writer, table.source, **values)

    def _mark(self, table: TableSchema, error: BaseException) -> None:
        """Note at the table what it failed of; an error of the program or the pipeline as a whole is not the table's."""
        if isinstance(error, DataError | SchemaMismatch):
            with suppress(Abandoned):
                self._set(table, state=State.ERROR, error=error.message)


def _format_chunk(table: TableSchema, job: Job) -> str:
    """What names a chunk to people: its number and the key at its ends."""
    assert job.span is not None
    names = ", ".join(table.columns[ordinal].name for ordinal in table.key)
    low, high = _format_key(job.span.low, "the first"), _format_key(job.span.high, "the last")
    return f"{job.number} of {job.copy.chunks}, ({names}) from {low} to {high}"


def _format_key(values: tuple[object, ...] | None, end: str) -> str:
    if values is None:
        return end
    texts = (
        value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
        for value in values
    )
    return f"({', '.join(texts)})"
