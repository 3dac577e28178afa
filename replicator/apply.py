"""Bring a plan and its checkpoint into the target in one transaction, once, whatever happens to the connection.

The last stage: packets from ``sql`` go between a head (``checkpoint``: undo, compare-and-swap, check) and a tail (counters,
status, COMMIT). A batch of one packet is one round trip. Of a larger one only the first packet has the head, and the
COMMIT is sent after all others were answered (PERFORMANCE rule 8). What is not known after a loss is read with a locking
read before anything is sent again, so a batch that was delivered late, twice, or by a process that was replaced, changes
nothing (I2, I3, I8).

``Committer`` is that and nothing else, for the stream's row and for load workers' rows alike; ``Applier`` adds what the
stream needs: careful plans after a refusal, counts, conflicts, status.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from replicator.checkpoint import CHECK_ONE, CHECKED, Lease, build_head, run_fenced, settle
from replicator.coercion import Tally
from replicator.errors import (
    CheckpointMismatch,
    CheckRefused,
    DataError,
    DuplicateKey,
    TargetError,
    TargetRetry,
    TargetUnavailable,
)
from replicator.model import Batch, Changes, Checkpoint, Op, Position, TableName
from replicator.patience import build_delays
from replicator.refusals import LOCK_WAIT_TIMEOUT
from replicator.session import Result, Session, connect_patiently
from replicator.sql import Packet, Statement
from replicator.tablestate import (
    Counts,
    State,
    StatusLine,
    build_coerced,
    build_status_update,
    build_table_update,
    set_table,
)

T = TypeVar("T")

STATUS_SECONDS = 1.0
KEEPALIVE_SECONDS = 10.0
_PATIENT_RETRIES = 3
"""Deadlocks in a row that are ordinary; from then on, and at once for a lock time-out, ``waiting_for`` tells of them."""


class Answer(NamedTuple):
    """One statement of a batch and what the target said to it."""

    statement: Statement
    result: Result


class Committer:
    """Commits transactions that begin with a lease's compare-and-swap. Used by one thread.

    ``waiting_for`` says what an outage waits for, "" when nothing. When ``stop`` is set, an outage is raised
    (TargetUnavailable or TargetRetry) instead of waited for; the checkpoint then tells whether the batch was applied.
    ``tell`` writes what is waited for where others look, on a target that answers and still does not take the batch.
    """

    def __init__(
        self,
        session: Session,
        lease: Lease,
        *,
        stop: threading.Event,
        loads: bool = True,
        tell: Callable[[Session], None] | None = None,
    ) -> None:
        self.session = session
        self.lease = lease
        self._tell = tell
        self.foreign_key_checks = session.foreign_key_checks
        self.refused: Statement | None = None  # what the last refusal was about
        self.waiting_for = ""
        self.committed = time.monotonic()
        self._stop = stop
        self._loads = loads

    def commit(self, build: Callable[[Lease], Iterable[Packet]]) -> list[Answer] | None:
        """Run one transaction: the packets of ``build``, which begin with a head of this lease and end with COMMIT.

        ``build`` is called again for every attempt. Returns the answers to its statements, or None where the answers
        were lost and the target holds the commit. On any error the transaction is rolled back. Raises Fenced,
        CheckpointMismatch, CheckRefused, DuplicateKey and DataError (with the table's name), TargetError.
        """
        answers = self._commit(build)
        self.committed = time.monotonic()
        self.waiting_for = ""
        return answers

    def call(self, action: Callable[[Session, Lease], T]) -> T:
        """Run a fenced action that may be repeated, through deadlocks and outages."""
        delays, outages = build_delays(), self._build_outages()
        while True:
            try:
                done = action(self.session, self.lease)
            except TargetUnavailable as error:
                self._reconnect(error, next(outages))
            except TargetRetry as error:
                self._wait(error, next(delays), 0)
            else:
                self.waiting_for = ""
                return done

    def close(self) -> None:
        self.session.close()

    def _commit(self, build: Callable[[Lease], Iterable[Packet]]) -> list[Answer] | None:
        delays, outages = build_delays(longest=2.0), self._build_outages()
        for attempt in range(1 << 62):
            try:
                return self._send(build)
            except _Superseded as error:
                # Another process, or an earlier attempt of this very batch that arrived late: the row says which.
                if self._reconnect(error, 0.0):
                    return None
                raise CheckpointMismatch(
                    f"pipeline {self.lease.pipeline}: the target refuses its own checkpoint"
                ) from None
            except TargetUnavailable as error:
                if self._reconnect(error, next(outages)):
                    return None
            except TargetRetry as error:
                self._wait(error, next(delays), attempt)
        raise AssertionError("attempts have no end")

    def _send(self, build: Callable[[Lease], Iterable[Packet]]) -> list[Answer]:
        self.refused = None
        try:
            if not self.session.is_open:
                raise TargetUnavailable("the connection is closed")
            self.session.set_foreign_key_checks(self.foreign_key_checks)
            answers: list[Answer] = []
            for number, packet in enumerate(build(self.lease)):
                answers += self._run(packet, is_first=number == 0)
        except BaseException:
            self._undo()
            raise
        self.lease.seq += 1
        return answers

    def _run(self, packet: Packet, *, is_first: bool) -> list[Answer]:
        try:
            results = self.session.run(packet.sql, packet.body)
        except TargetError as error:
            if is_first and isinstance(error, CheckRefused) and error.result_index == CHECKED:
                raise _Superseded("the checkpoint has moved") from None
            self._name_table(error, packet)
            raise
        pairs = zip(packet.results, results, strict=True)
        return [Answer(statement, result) for statement, result in pairs if statement is not None]

    def _name_table(self, error: TargetError, packet: Packet) -> None:
        """Say which statement's table the error is about: the statement itself, or the one its check belongs to."""
        statement = self.refused = _statement_at(packet, error.result_index)
        if statement is not None and statement.table is not None:
            error.message = f"{statement.table.target}: {error.message}"
            if isinstance(error, DataError):
                error.table = statement.table.target

    def _undo(self) -> None:
        """Give up what was sent, so that no lock outlives the attempt; a session that cannot is left behind."""
        try:
            if self.session.is_open:
                self.session.rollback()
        except TargetError:
            self.session.abort()

    def _build_outages(self) -> Iterator[float]:
        """Delays before each new session: none before the first; a target that takes sessions and no rows (a full disk)
        must not be asked again without end."""
        return itertools.chain((0.0,), build_delays())

    def _reconnect(self, error: TargetUnavailable, delay: float) -> bool:
        """After ``delay``, a new session and the truth about the batch in flight: whether it was committed."""
        self._report(f"target: {error.message}")
        if delay and self._stop.wait(delay):
            raise error
        self.session.close()  # not before: `status` knows by it that this run is alive
        self.session, was_committed = connect_patiently(
            self.session.endpoint,
            loads=self._loads,
            stop=self._stop,
            report=self._report,
            prepare=lambda session: self._settle(session, is_again=delay > 0),
        )
        return was_committed

    def _settle(self, session: Session, *, is_again: bool) -> bool:
        was_committed = settle(session, self.lease)
        if is_again and not was_committed and self._tell is not None:
            self._tell(session)
        return was_committed

    def _wait(self, error: TargetRetry, delay: float, attempt: int) -> None:
        if attempt >= _PATIENT_RETRIES or error.errno == LOCK_WAIT_TIMEOUT:
            self._report(f"target: {error.message}")
        if self._stop.wait(delay):
            raise error

    def _report(self, text: str) -> None:
        if text:  # a new session alone ends no outage: what was to be done may be refused again
            self.waiting_for = text


class _Superseded(TargetUnavailable):
    """The compare-and-swap matched no row."""


def _statement_at(packet: Packet, index: int) -> Statement | None:
    places = packet.results[max(0, index - 1) : index + 1]
    return next((statement for statement in reversed(places) if statement is not None), None)


# --- the stream's batches ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch, planned and rendered.

    ``packets`` (without head and tail) can be iterated again for a second attempt. ``counts`` is read after them, so a
    lazy plan may fill it on the way. ``replan`` prepares the same batch carefully; None when it is careful already.
    ``descend`` prepares it so that deletes take along what hangs below them in circles of foreign keys.
    ``tally``: values that are not what the source has.
    """

    batch: Batch
    packets: Iterable[Packet]
    counts: Mapping[TableName, Counts]
    replan: Callable[[], Prepared] | None = None
    descend: Callable[[], Prepared] | None = None
    tally: Tally = field(default_factory=Tally)


class Applied(NamedTuple):
    """What a batch did: changes by source table, and conflicts by type."""

    counts: Mapping[TableName, Counts]
    conflicts: Mapping[str, int]


def count_changes(changes: Iterable[Changes]) -> dict[TableName, Counts]:
    """The source's changes by table and op, as ``Prepared.counts`` wants them."""
    found: dict[TableName, list[int]] = {}
    for change in changes:
        if (place := _PLACES.get(change.op)) is not None:
            row = found.setdefault(change.table.source, [0, 0, 0])
            row[place] += change.rows
    return {name: Counts(*row) for name, row in found.items()}


_PLACES = {Op.READ: 0, Op.INSERT: 0, Op.UPDATE: 1, Op.DELETE: 2}


class Applier:
    """Applies the stream's batches in order. ``status`` gives the line that ``_replicator_status`` shows.

    Foreign key checks are off unless a packet turns them on: plans are in order by themselves, and
    checks are wanted only where they do work (SEMANTICS §5.4).
    """

    def __init__(
        self, session: Session, lease: Lease, *, status: Callable[[], StatusLine], stop: threading.Event
    ) -> None:
        self.committer = Committer(session, lease, stop=stop, tell=self._tell)
        self.committer.foreign_key_checks = False
        self._status = status
        self._status_written = float("-inf")
        self._is_status_old = True
        self._is_torn = lease.torn is not None  # as the target has it
        self._conflicts: dict[str, int] = {}
        self._max_packet = session.capabilities.max_allowed_packet
        self._position: Position | str = lease.position or ""  # what the target stands at

    @property
    def session(self) -> Session:
        """The session at this moment; a lost one is replaced."""
        return self.committer.session

    @property
    def lease(self) -> Lease:
        return self.committer.lease

    @property
    def waiting_for(self) -> str:
        return self.committer.waiting_for

    def apply(self, prepared: Prepared) -> Applied:
        """Apply one batch; returns when the target holds it, through deadlocks and outages.

        A refusal of a fast plan leads to the careful one, or to one that descends. What a careful plan cannot bring in is
        a DataError: the batch is rolled back and the table's state set to ``error``.
        """
        try:
            answers = self._commit(
                prepared.batch.checkpoint, prepared.packets, prepared.counts, prepared.tally
            )
        except (CheckRefused, DuplicateKey) as error:
            again = prepared.descend if self._is_descent_refused() else prepared.replan
            if again is not None:
                return self.apply(again())
            raise self._refuse(error, prepared) from None
        except DataError as error:
            raise self._refuse(error, prepared) from None
        self._position = prepared.batch.checkpoint.position
        conflicts = _count_conflicts(answers or ())
        for name, number in conflicts.items():
            self._conflicts[name] = self._conflicts.get(name, 0) + number
        return Applied(prepared.counts, conflicts)

    def keepalive(self, checkpoint: Checkpoint | None, *, now: bool = False) -> bool:
        """While nothing is to be applied: keep the session, move the stored position, refresh the status.

        Commits an empty batch at most every ``KEEPALIVE_SECONDS``, at once when ``now`` or when the last batch went out
        without the status. Raises Fenced when a newer process has taken over. Returns whether it committed.
        """
        idle = time.monotonic() - self.committer.committed
        due = STATUS_SECONDS if self._is_status_old else KEEPALIVE_SECONDS
        if not now and idle < due:
            return False
        self._status_written = float("-inf")
        self._commit(checkpoint, (), {}, Tally())
        return True

    def set_table(self, name: TableName, **values: object) -> None:
        """Change a table's row in a fenced transaction (``tablestate.set_table``), through deadlocks and outages."""
        self.committer.call(lambda session, lease: set_table(session, lease, name, **values))

    def close(self) -> None:
        self.committer.close()

    def _tell(self, session: Session) -> None:
        lease = self.lease
        run_fenced(
            session, lease, build_status_update(lease.pipeline, self._build_line(is_torn=self._is_torn), {})
        )

    # --- building -----------------------------------------------------------------------------------------------------

    def _commit(
        self,
        checkpoint: Checkpoint | None,
        packets: Iterable[Packet],
        counts: Mapping[TableName, Counts],
        tally: Tally,
    ) -> list[Answer] | None:
        sent: dict[str, int] | None = None
        is_torn = self._is_torn if checkpoint is None else checkpoint.torn is not None
        if is_torn is not self._is_torn:
            self._status_written = float("-inf")  # the app must see it at once

        def build(lease: Lease) -> Iterator[Packet]:
            nonlocal sent
            head = build_head(lease, checkpoint)
            waiting = Packet(head.sql, (None,) * head.results)
            for number, packet in enumerate(packets):
                if number == 0 and self._fits(waiting, packet):
                    waiting = _join(waiting, packet)
                else:
                    yield waiting
                    waiting = packet
            sent = (
                dict(self._conflicts) if time.monotonic() - self._status_written >= STATUS_SECONDS else None
            )
            tail = self._build_tail(counts, tally, sent, is_torn=is_torn)
            if self._fits(waiting, tail):
                yield _join(waiting, tail)
            else:
                yield waiting
                yield tail

        answers = self.committer.commit(build)
        self._is_torn = is_torn
        self._is_status_old = sent is None
        if sent is not None:
            self._status_written = time.monotonic()
            self._conflicts.clear()
        return answers

    def _build_tail(
        self,
        counts: Mapping[TableName, Counts],
        tally: Tally,
        conflicts: Mapping[str, int] | None,
        *,
        is_torn: bool,
    ) -> Packet:
        """What a batch ends with; ``conflicts`` is None when the status is not due."""
        pipeline = self.lease.pipeline
        updates = [build_table_update(pipeline, name, counts=count) for name, count in counts.items()]
        if conflicts is not None:
            updates.append(build_status_update(pipeline, self._build_line(is_torn=is_torn), conflicts))
        statements = [part for update in updates for part in (update, CHECK_ONE)]
        statements += build_coerced(pipeline, tally)
        return Packet(b";".join([*statements, b"COMMIT"]), (None,) * (len(statements) + 1))

    def _fits(self, first: Packet, second: Packet) -> bool:
        return len(first.sql) + len(second.sql) + 2 < self._max_packet

    def _build_line(self, *, is_torn: bool) -> StatusLine:
        line = self._status()
        return line._replace(is_consistent=False, is_torn=True) if is_torn else line

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _is_descent_refused(self) -> bool:
        """Whether what was refused is a check of no change: that nothing hangs below a row that is deleted."""
        return self.committer.refused is not None and self.committer.refused.op is None

    def _refuse(self, error: TargetError, prepared: Prepared) -> TargetError:
        """The error that ends the run, after the table it is about was marked."""
        statement = self.committer.refused
        if statement is not None and statement.table is not None:
            name, target = statement.table.source, statement.table.target
        elif isinstance(error, DataError):  # a row that sql could not render
            name = next(name for name in prepared.counts if str(name) == error.table)
            target = error.table
        else:
            return TargetError(
                f"rows of pipeline {self.lease.pipeline} in the control tables are gone: {error.message}"
            )
        self.set_table(name, state=State.ERROR, error=error.message, stands_at=str(self._position))
        if isinstance(error, DuplicateKey):
            hint = "multiple_unique_conflicts: another row holds this unique value; change one of them and start again"
        elif isinstance(error, CheckRefused):
            hint = "the target holds other rows than the source's history leads to"
        elif statement is None and error.hint:
            hint = error.hint  # sql knows what would let the row pass
        else:
            hint = "the batch was rolled back; mend the row or the target's column, then start again"
        return DataError(error.message, table=target, hint=hint)


def _count_conflicts(answers: Iterable[Answer]) -> dict[str, int]:
    """Conflicts by type: rows that were there or not there against the source's history, and keys not there to delete."""
    found: Counter[str] = Counter()
    for statement, result in answers:
        if statement.conflict is not None:
            found[statement.conflict] += result.affected_rows
        elif statement.op is Op.DELETE:
            found["delete_missing"] += statement.rows - result.affected_rows
    return dict(+found)


def _join(first: Packet, second: Packet) -> Packet:
    return Packet(
        b"%b;%b" % (first.sql, second.sql), first.results + second.results, first.body or second.body
    )
