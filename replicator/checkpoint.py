"""The control tables in the target, the epoch, and the compare-and-swap that every commit begins with.

Below apply, load and barrier. A ``Lease`` is the right to write for one pipeline; ``acquire`` takes it from whoever held
it. A batch names the (epoch, seq) it follows and the target refuses it when those are not the stored ones (I3, I8): that,
and nothing about the statements, makes applying idempotent (SEMANTICS §4.1–4.4). Whoever must know what is stored reads
it with a locking read: a plain one would not see a COMMIT that is still in flight.

Each load worker has a row of its own beside the stream's (worker 0), under the same rules (SEMANTICS §6.1).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from replicator.errors import (
    CheckpointMismatch,
    CheckRefused,
    DuplicateKey,
    Fenced,
    TargetError,
    TargetRetry,
)
from replicator.model import Checkpoint, TableName, Torn
from replicator.session import LOCK_WAIT_SECONDS, Session
from replicator.sql import CHECK_COUNT, quote_text

STREAM = 0
"""The worker number of the stream's own row; load workers count from 1."""

CHECK_ONE = CHECK_COUNT % 1
LOCK_PREFIX = "_replicator:"

_NAME = "varchar(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL"
_COUNT = "bigint unsigned NOT NULL DEFAULT 0"
_TABLE_OPTIONS = "ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin"

CONTROL_TABLES: dict[str, dict[str, str]] = {
    "_replicator_checkpoint": {
        "pipeline": _NAME,
        "worker": "int unsigned NOT NULL",
        "epoch": "bigint unsigned NOT NULL",
        "seq": _COUNT,
        "position": "mediumtext",
        "read_from": "mediumtext",
        "skip_changes": _COUNT,
        "source_identity": "varchar(512) NOT NULL",
        "short_id": "char(8) NOT NULL",
        "source_table": "varchar(200) NULL",
        "chunk": "mediumtext",
        "connection_id": "bigint unsigned NULL",
        "host": "varchar(255) NOT NULL",
        "pid": "bigint unsigned NOT NULL",
        "started_at": "datetime(6) NOT NULL",
        "updated_at": "datetime(6) NOT NULL",
        "": "PRIMARY KEY (pipeline, worker)",
    },
    "_replicator_tables": {
        "pipeline": _NAME,
        "source_schema": _NAME,
        "source_table": _NAME,
        "target": _NAME,
        "state": "varchar(20) NOT NULL",
        "found": "varchar(20) NOT NULL DEFAULT ''",
        "rows_at_start": "bigint unsigned NULL",
        "position": "mediumtext",
        "rows_loaded": _COUNT,
        "inserted": _COUNT,
        "updated": _COUNT,
        "deleted": _COUNT,
        "error": "mediumtext",
        "source_columns": "longtext",
        "updated_at": "datetime(6) NOT NULL",
        "": "PRIMARY KEY (pipeline, source_schema, source_table)",
    },
    "_replicator_status": {
        "pipeline": _NAME,
        "state": "varchar(20) NOT NULL",
        "consistent": "tinyint NOT NULL DEFAULT 0",
        "lag_seconds": "double NULL",
        "snapshot_seconds": "double NULL",
        "torn": "tinyint NOT NULL DEFAULT 0",
        "insert_exists": _COUNT,
        "update_missing": _COUNT,
        "delete_missing": _COUNT,
        "waiting_for": "varchar(255) NOT NULL DEFAULT ''",
        "updated_at": "datetime(6) NOT NULL",
        "": "PRIMARY KEY (pipeline)",
    },
    "_replicator_coerced": {
        "pipeline": _NAME,
        "source_schema": _NAME,
        "source_table": _NAME,
        "column_name": _NAME,
        "rule": "varchar(20) NOT NULL",
        "coerced": _COUNT,
        "sample_key": "text NOT NULL",
        "sample_value": "text NOT NULL",
        "updated_at": "datetime(6) NOT NULL",
        "": "PRIMARY KEY (pipeline, source_schema, source_table, column_name)",
    },
    "_replicator_ddl": {
        "id": "bigint unsigned NOT NULL AUTO_INCREMENT",
        "pipeline": _NAME,
        "target": _NAME,
        "position": "mediumtext",
        "statement": "longtext NOT NULL",
        "fingerprint_before": "varchar(128) NOT NULL",
        "fingerprint_after": "varchar(128) NULL",
        "state": "varchar(20) NOT NULL",
        "error": "mediumtext",
        "started_at": "datetime(6) NOT NULL",
        "finished_at": "datetime(6) NULL",
        "": "PRIMARY KEY (id), KEY pipeline (pipeline, state)",
    },
}


class Head(NamedTuple):
    """The beginning of a batch's first packet; ``results`` is how many answers belong to it, ``checked`` which of them
    is the compare-and-swap's."""

    sql: bytes
    results: int


CHECKED = 2
"""The place, among a head's answers, of the compare-and-swap's check."""


@dataclass(slots=True)
class Lease:
    """The right to write one row of ``_replicator_checkpoint``; ``seq`` is the last one known to be committed.

    ``position``, ``read_from``, ``skip``, ``table`` and ``chunk`` are what was stored when the lease was taken.
    ``identity`` is the *stored* identity of the source: comparing it with the one at hand is the pipeline's. ``short_id``
    (8 hexadecimal digits) is kept for the pipeline's life.
    """

    pipeline: str
    worker: int
    epoch: int
    seq: int
    identity: str
    short_id: str
    position: str | None = None
    read_from: str | None = None
    skip: int = 0
    table: str | None = None
    chunk: str | None = None

    @property
    def torn(self) -> Torn | None:
        """Of the stream's lease: how far the transaction after ``position`` was applied."""
        return parse_torn(self.skip, self.chunk)

    @property
    def row(self) -> bytes:
        """The condition that finds this lease's row."""
        return b"pipeline=%b AND worker=%d" % (quote_text(self.pipeline), self.worker)


# --- taking over ------------------------------------------------------------------------------------------------------


def lock_name(session: Session, pipeline: str) -> str:
    """The GET_LOCK name under which a pipeline's statements that commit by themselves run.

    Such names are the whole server's: the session's database is part of it, or a pipeline of the same name in another
    database would be taken for an older process. By its hash: a lock's name has at most 64 characters.
    """
    rows = session.query("SELECT LEFT(SHA2(DATABASE(), 256), 8)")
    session.rollback()
    return f"{LOCK_PREFIX}{rows[0][0]}:{pipeline}"


def create_tables(session: Session, pipeline: str) -> None:
    """Make the control tables that are missing, and refuse ones that another version made."""
    if not _missing_columns(session):
        return
    lock = lock_name(session, pipeline)
    session.query("DO GET_LOCK(%s, 30)", lock)
    for table, columns in CONTROL_TABLES.items():
        parts = ", ".join(f"{name} {kind}".strip() for name, kind in columns.items())
        session.query(f"CREATE TABLE IF NOT EXISTS {table} ({parts}) {_TABLE_OPTIONS}")
    session.query("DO RELEASE_LOCK(%s)", lock)
    if missing := _missing_columns(session):
        raise TargetError(
            f"the control tables lack the columns {', '.join(sorted(missing))}",
            hint="another version of the replicator made them: use that one, or `drop` its pipelines and the tables",
        )


def _missing_columns(session: Session) -> set[str]:
    names = ", ".join(f"'{table}'" for table in CONTROL_TABLES)
    rows = session.query(
        "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS "
        f"WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({names})"
    )
    session.rollback()
    found = {f"{table}.{column}" for table, column in rows}
    wanted = {f"{table}.{name}" for table, columns in CONTROL_TABLES.items() for name in columns if name}
    return wanted - found


def acquire(session: Session, pipeline: str, identity: str) -> Lease:
    """Take the pipeline over: make what is missing, then raise the epoch in all its rows before anything else.

    The newcomer always wins; a session that holds a row's lock for longer than ``TAKE_OVER_SECONDS`` is killed. The
    source's ``identity`` is stored at the first start only.
    """
    create_tables(session, pipeline)
    try:
        return _raise_epoch(session, pipeline, identity)
    except DuplicateKey:  # another first start was faster
        return _raise_epoch(session, pipeline, identity)


def _raise_epoch(session: Session, pipeline: str, identity: str) -> Lease:
    rows = _lock_rows(session, pipeline)
    # Not a plain counter: after a `drop` it would start again at numbers that a forgotten process may still hold.
    epoch = max([time.time_ns() // 1_000_000, *(epoch + 1 for _, epoch, _ in rows)])
    if not rows:
        session.execute(
            "INSERT INTO _replicator_checkpoint "
            "(pipeline, worker, epoch, source_identity, short_id, host, pid, started_at, updated_at) "
            "VALUES (%s, 0, %s, %s, %s, '', 0, NOW(6), NOW(6))",
            *(pipeline, epoch, identity, secrets.token_hex(4)),
        )
    session.execute(
        "UPDATE _replicator_checkpoint SET epoch=%s, connection_id=%s, host=%s, pid=%s, started_at=NOW(6), "
        "updated_at=NOW(6) WHERE pipeline=%s",
        *(epoch, session.connection_id, socket.gethostname(), os.getpid(), pipeline),
    )
    session.execute(
        "INSERT IGNORE INTO _replicator_status (pipeline, state, updated_at) VALUES (%s, 'idle', NOW(6))",
        pipeline,
    )
    lease = _read_lease(session, pipeline, STREAM)
    session.commit()
    return lease


def acquire_worker(session: Session, lease: Lease, worker: int) -> Lease:
    """The lease of a load worker (1…), its row made in a transaction on the pipeline's own row.

    ``table`` and ``chunk`` are what the worker of that number committed last, in this run or in an earlier one.
    """
    run_fenced(
        session,
        lease,
        b"INSERT INTO _replicator_checkpoint (pipeline, worker, epoch, source_identity, short_id, connection_id, host, pid,"
        b" started_at, updated_at) SELECT pipeline, %d, epoch, source_identity, short_id, %d, host, pid, NOW(6), NOW(6)"
        b" FROM _replicator_checkpoint WHERE pipeline=%b AND worker=0"
        b" ON DUPLICATE KEY UPDATE connection_id=%d, updated_at=NOW(6)"
        % (worker, session.connection_id, quote_text(lease.pipeline), session.connection_id),
    )
    found = _read_lease(session, lease.pipeline, worker)
    session.commit()
    if found.epoch != lease.epoch:
        raise _fenced(session, lease)
    return found


TAKE_OVER_SECONDS = 2
_PATIENCE_SECONDS = 600
"""How long a large transaction may take to finish or to roll back before we stop waiting for its row lock."""


def _lock_rows(session: Session, pipeline: str, lease: Lease | None = None) -> list[tuple[int, int, int]]:
    """Lock the pipeline's rows, or the one of ``lease``: (worker, epoch, seq) each. The transaction stays open.

    A session stored in one of them that holds a lock for longer than ``TAKE_OVER_SECONDS`` is killed: the half-open
    session of a dead process would hold it for as long as the server believes in it (SEMANTICS §4.4). Raises Fenced where
    the lock is that of a newer process than the one of ``lease``.
    """
    which = "pipeline=%s" if lease is None else "pipeline=%s AND worker=%s"
    args = (pipeline,) if lease is None else (pipeline, lease.worker)
    sql = f"SELECT worker, epoch, seq FROM _replicator_checkpoint WHERE {which} ORDER BY worker FOR UPDATE"
    session.run(b"ROLLBACK; SET SESSION innodb_lock_wait_timeout=%d" % TAKE_OVER_SECONDS)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            rows = session.query(sql, *args)
            break
        except TargetRetry:
            session.rollback()
            if not _kill_holders(session, which, args, lease) and time.monotonic() > deadline:
                raise
    session.run(b"SET SESSION innodb_lock_wait_timeout=%d" % LOCK_WAIT_SECONDS)
    return [(int(worker), int(epoch), int(seq)) for worker, epoch, seq in rows]


def _kill_holders(session: Session, which: str, args: tuple[object, ...], lease: Lease | None) -> bool:
    """Kill the sessions stored in these rows, as far as they are of our account; whether one was still there.

    A newer process than that of ``lease`` may hold a row for as long as a large batch takes: it is left at work (Fenced).
    """
    rows = session.query(f"SELECT connection_id, epoch FROM _replicator_checkpoint WHERE {which}", *args)
    session.rollback()
    if lease is not None and any(row[1] != lease.epoch for row in rows):
        raise _fenced(session, lease)
    ours = session.list_commands().keys() - {session.connection_id}
    holders = {int(row[0]) for row in rows if row[0] is not None} & ours
    for connection_id in holders:
        session.kill(connection_id)
    return bool(holders)


def _read_lease(session: Session, pipeline: str, worker: int) -> Lease:
    rows = session.query(
        "SELECT epoch, seq, source_identity, short_id, position, read_from, skip_changes, source_table, chunk "
        "FROM _replicator_checkpoint WHERE pipeline=%s AND worker=%s FOR UPDATE",
        *(pipeline, worker),
    )
    if not rows:
        raise Fenced(f"pipeline {pipeline}: its checkpoint is gone: `drop` was run meanwhile")
    return Lease(pipeline, worker, *rows[0])


# --- after a refusal or a lost connection -----------------------------------------------------------------------------


def settle(session: Session, lease: Lease) -> bool:
    """Learn by a locking read, on the session that will go on, whether the batch after ``lease.seq`` was committed.

    Also stores this session's id for successors, and frees the row from a half-open session of ours. When it was
    committed, ``lease.seq`` moves on and the answer is True. Raises Fenced when a newer process has taken over, and
    CheckpointMismatch for a seq that this process cannot have caused.
    """
    rows = _lock_rows(session, lease.pipeline, lease)
    if not rows or rows[0][1] != lease.epoch:
        raise _fenced(session, lease)
    session.execute(
        "UPDATE _replicator_checkpoint SET connection_id=%s WHERE pipeline=%s AND worker=%s",
        *(session.connection_id, lease.pipeline, lease.worker),
    )
    session.commit()
    seq = rows[0][2]
    if seq not in (lease.seq, lease.seq + 1):
        raise CheckpointMismatch(
            f"pipeline {lease.pipeline}, worker {lease.worker}: the target stands at seq {seq}, we at {lease.seq}",
            hint="the checkpoint row was changed by hand or restored from a backup; start again to go on from it",
        )
    was_committed = seq == lease.seq + 1
    lease.seq = seq
    return was_committed


def _fenced(session: Session, lease: Lease) -> Fenced:
    rows = session.query(
        "SELECT host, pid, started_at, epoch FROM _replicator_checkpoint WHERE pipeline=%s AND worker=0",
        lease.pipeline,
    )
    session.rollback()
    if not rows:
        return Fenced(f"pipeline {lease.pipeline}: its checkpoint is gone: `drop` was run meanwhile")
    host, pid, started_at, epoch = rows[0]
    return Fenced(
        f"pipeline {lease.pipeline} was taken over by process {pid} on {host}, started {started_at} UTC "
        f"(epoch {epoch}, ours was {lease.epoch})",
        hint="two replicators run with this pipeline name; stop one, or give it another name",
    )


# --- building what a transaction begins with --------------------------------------------------------------------------


def build_head(lease: Lease, checkpoint: Checkpoint | None, extras: Sequence[bytes] = ()) -> Head:
    """What a batch begins with (SEMANTICS §4.3): undo leftovers, swap (epoch, seq), check that it matched.

    ``extras`` are statements of this module or ``tablestate`` that must each match one row. Without a ``checkpoint``
    the stored one stays.
    """
    if checkpoint is None:
        return _build_swap(lease, b"", extras)
    moved = [
        b"UPDATE _replicator_tables SET position=%b WHERE %b"
        % (
            b"NULL" if position is None else quote_text(str(position)),
            build_table_condition(lease.pipeline, name),
        )
        for name, position in checkpoint.tables
    ]
    assignments = b"position=%b,read_from=%b,%b," % (
        quote_text(str(checkpoint.position)),
        quote_text(str(checkpoint.read_from)),
        b"skip_changes=0" if checkpoint.torn is None else _build_torn(checkpoint.torn),
    )
    return _build_swap(lease, assignments, [*moved, *extras])


def _build_torn(torn: Torn) -> bytes:
    """The stream has no chunks: its row keeps the tables that are counted there."""
    return b"skip_changes=%d,chunk=%b" % (torn.skip, quote_text(json.dumps(sorted(torn.tables))))


def parse_torn(skip: int, chunk: str | None) -> Torn | None:
    """What the stream's row says of a transaction that is applied in part."""
    return Torn(skip, frozenset(TableName(*name) for name in json.loads(chunk or "[]"))) if skip else None


def build_chunk_head(lease: Lease, table: TableName, chunk: str, extras: Sequence[bytes] = ()) -> Head:
    """What a load worker's chunk begins with; ``chunk`` is whatever load.py resumes from."""
    assignments = b"source_table=%b,chunk=%b," % (quote_text(str(table)), quote_text(chunk))
    return _build_swap(lease, assignments, extras)


def _build_swap(lease: Lease, assignments: bytes, extras: Sequence[bytes]) -> Head:
    swap = (
        b"UPDATE _replicator_checkpoint SET seq=seq+1,%bupdated_at=NOW(6) WHERE %b AND epoch=%d AND seq=%d"
        % (
            *(assignments, lease.row),
            *(lease.epoch, lease.seq),
        )
    )
    statements = [b"ROLLBACK", swap, CHECK_ONE]
    for extra in extras:
        statements += (extra, CHECK_ONE)
    return Head(b";".join(statements), len(statements))


def build_table_condition(pipeline: str, name: TableName) -> bytes:
    """The condition that finds a table's row in ``_replicator_tables``."""
    return b"pipeline=%b AND source_schema=%b AND source_table=%b" % (
        *(quote_text(pipeline), quote_text(name.schema)),
        quote_text(name.table),
    )


def run_fenced(session: Session, lease: Lease, *statements: bytes) -> None:
    """Run small statements in one transaction that the target refuses when the pipeline has a newer epoch.

    They must give the same result when run twice: after a lost connection the caller runs them again.
    """
    stream = replace(lease, worker=STREAM)
    fence = b"ROLLBACK;UPDATE _replicator_checkpoint SET updated_at=NOW(6) WHERE %b AND epoch=%d;%b" % (
        *(stream.row, lease.epoch),
        CHECK_ONE,
    )
    _run_with_patience(session, lease, b";".join((fence, *statements, b"COMMIT")))


def _run_with_patience(session: Session, lease: Lease, packet: bytes) -> None:
    """The stream may hold the pipeline's row for as long as a large transaction takes: wait for it, and say nothing."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            session.run(packet)
            return
        except CheckRefused as error:
            session.rollback()
            if error.result_index == CHECKED:
                raise _fenced(session, lease) from None
            raise
        except TargetRetry:
            session.rollback()
            if time.monotonic() > deadline:
                raise


# --- ending -----------------------------------------------------------------------------------------------------------


def forget(session: Session, pipeline: str) -> None:
    """Remove the pipeline's checkpoint and status; its ``_replicator_tables`` rows stay, to tell a later load which
    tables this program alone has filled. A process that still runs is refused at its next commit."""
    _lock_rows(session, pipeline)
    for table in ("_replicator_checkpoint", "_replicator_status", "_replicator_ddl", "_replicator_coerced"):
        session.execute(f"DELETE FROM {table} WHERE pipeline=%s", pipeline)
    session.commit()


def read_short_id(session: Session, pipeline: str) -> str:
    """What the pipeline's names at the source end with, '' where it never began."""
    rows = session.query(
        "SELECT short_id FROM _replicator_checkpoint WHERE pipeline=%s AND worker=0", pipeline
    )
    session.rollback()
    return str(rows[0][0]) if rows else ""


def list_pipelines(session: Session) -> Iterable[str]:
    """The pipelines that have a checkpoint in this database."""
    rows = session.query("SELECT pipeline FROM _replicator_checkpoint WHERE worker=0 ORDER BY pipeline")
    session.rollback()
    return [str(row[0]) for row in rows]
