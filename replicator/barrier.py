"""Statements that commit by themselves, fenced: DDL for load and pipeline, TRUNCATE, beside apply (SEMANTICS §4.5).

No transaction can hold a DDL and its checkpoint together. So it runs on a session that holds the pipeline's GET_LOCK
(which dies with its session), after the epoch was checked there, and between two committed notes in ``_replicator_ddl``:
what is about to run on a table of which fingerprint, and that it is done. After a crash ``recover`` compares the table with
both and runs the statement, marks it done, or reports that it can be neither. A catalog does not tell whether a TRUNCATE
ran; the checkpoint does, for its batch is committed behind it: until then the stream brings it again (``repeat``).

The fingerprint of a table (a hash of its catalog, "" when it is not there) is a function passed in; nothing here reads
catalogs. Any thread may call; statements run one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from replicator.checkpoint import Lease, lock_name, run_fenced
from replicator.config import Endpoint
from replicator.errors import TargetError, TargetRetry, TargetUnavailable
from replicator.patience import persist
from replicator.refusals import REFERRED_TO
from replicator.session import Session, connect_patiently
from replicator.sql import quote_text

T = TypeVar("T")
Fingerprint = Callable[[Session, str], str]

LOCK_SECONDS = 2
"""How long an older process is waited for, and a table that the application uses: others queue behind who waits for it."""

LONGEST_DELAY = 5.0
DDL_SECONDS = 24 * 3600.0
"""How long one statement may take: an index on a large table takes hours."""


# Whoever holds the lock at the server is taken for an older process and ended: this process must not compete with itself.
_mutexes: dict[tuple[str, str, str], threading.Lock] = {}


class Unsettled(NamedTuple):
    """A statement whose table is neither as it was before it nor as it should be after it."""

    target: str
    statement: str
    position: str
    before: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"{self.target}: its catalog is {self.found or 'empty'}, neither {self.before or 'empty'} as before nor "
            f"{self.expected or 'empty'} as after `{self.statement}`"
        )


class Barrier:
    """Runs one pipeline's DDL. ``stop`` ends waiting for outages and locks (the error is then raised)."""

    def __init__(
        self,
        endpoint: Endpoint,
        lease: Lease,
        *,
        fingerprint: Fingerprint,
        stop: threading.Event,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._endpoint = endpoint
        self._lease = lease
        self._fingerprint = fingerprint
        self._stop = stop
        self._report = report
        self._session: Session | None = None
        key = (endpoint.address, endpoint.database or "", lease.pipeline)
        self._mutex = _mutexes.setdefault(key, threading.Lock())

    def run(
        self,
        target: str,
        statement: str,
        *,
        position: str = "",
        expected: str | None = None,
    ) -> None:
        """Run one statement on table ``target`` and return when it is done, through outages and lock time-outs.

        ``position``: where in the source's log it stands. ``expected``: the table's fingerprint after it; without one,
        any change of the table counts as the statement's own after a crash (a single statement is atomic). Foreign keys
        are not checked, now or after a crash: a table that others refer to may be dropped, and a key is added without a
        scan. Raises Fenced, TargetError.
        """
        wanted = _Wanted(target, statement, position, expected)
        with self._mutex:
            self._persist(lambda session: self._run(session, wanted))

    def repeat(self, target: str, statement: str, *, position: str) -> bool:
        """Run a statement that a crash may bring again and that leaves the catalog as it is: a TRUNCATE.

        Its batch must be committed after it. False, with nothing done, where the table is referred to by a foreign key,
        and while another statement of this pipeline runs, which may take hours. Raises Fenced, TargetError.
        """
        wanted = _Wanted(target, statement, position, None)
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            return self._persist(lambda session: self._run_again(session, wanted))
        finally:
            self._mutex.release()

    def recover(self) -> list[Unsettled]:
        """Bring every statement that a crash left pending to its end; returns those that only a human can judge.

        Must come right after the lease was taken: it also ends the session of an older process that still stands between
        its epoch check and its statement.
        """
        with self._mutex:
            return self._persist(self._recover)

    def close(self) -> None:
        with self._mutex:
            self._drop_session()

    # --- one attempt --------------------------------------------------------------------------------------------------

    def _run(self, session: Session, wanted: _Wanted) -> None:
        pending = [note for note in self._read_pending(session) if note.is_for(wanted)]
        if not pending:
            before = self._fingerprint(session, wanted.target)
            run_fenced(session, self._lease, _build_note(self._lease.pipeline, wanted, before))
            pending = [note for note in self._read_pending(session) if note.is_for(wanted)]
        for note in pending:
            if (unsettled := self._settle(session, note)) is not None:
                raise TargetError(str(unsettled), hint=_UNSETTLED_HINT)

    def _run_again(self, session: Session, wanted: _Wanted) -> bool:
        """One note a table is kept of such statements: sources empty their staging tables every night."""
        session.run(b"SET SESSION lock_wait_timeout=%d" % LOCK_SECONDS)
        session.set_foreign_key_checks(True)  # without, a table that others refer to would be emptied
        forget = _build_forget(self._lease.pipeline, wanted)
        run_fenced(session, self._lease, forget, _build_note(self._lease.pipeline, wanted, _REPEATED))
        (note,) = (note for note in self._read_pending(session) if note.is_for(wanted))
        try:
            self._execute(session, note)
        except TargetError as error:
            if error.errno != REFERRED_TO:
                raise
            return False
        self._mark(session, note, "done", None)
        return True

    def _recover(self, session: Session) -> list[Unsettled]:
        run_fenced(session, self._lease, _build_forget(self._lease.pipeline))
        found = [self._settle(session, note) for note in self._read_pending(session)]
        return [unsettled for unsettled in found if unsettled is not None]

    def _settle(self, session: Session, note: _Note) -> Unsettled | None:
        session.set_foreign_key_checks(False)
        found = self._fingerprint(session, note.target)
        run_fenced(session, self._lease)
        if found == note.before:
            self._execute(session, note)
        elif note.expected not in (None, found):
            return Unsettled(
                note.target, note.statement, note.position, note.before, note.expected or "", found
            )
        self._mark(session, note, "done", None)
        return None

    def _execute(self, session: Session, note: _Note) -> None:
        try:
            session.run(note.statement.encode())
        except (TargetRetry, TargetUnavailable):
            raise
        except TargetError as error:
            self._mark(session, note, "failed", error.message)
            raise

    def _mark(self, session: Session, note: _Note, state: str, error: str | None) -> None:
        session.execute(
            "UPDATE _replicator_ddl SET state=%s, error=%s, finished_at=NOW(6) WHERE id=%s",
            state,
            error,
            note.number,
        )
        session.commit()

    def _read_pending(self, session: Session) -> list[_Note]:
        rows = session.query(
            "SELECT id, target, statement, COALESCE(position, ''), fingerprint_before, fingerprint_after "
            "FROM _replicator_ddl WHERE pipeline=%s AND state='pending' ORDER BY id",
            self._lease.pipeline,
        )
        session.rollback()
        return [_Note(*row) for row in rows]

    # --- the session and its lock -------------------------------------------------------------------------------------

    def _persist(self, action: Callable[[Session], T]) -> T:
        """Hold the lock and run ``action``, which may be repeated, until no outage and no lock is in its way."""

        def attempt() -> T:
            try:
                done = action(self._hold())
                self._release()
            except BaseException:
                self._drop_session()
                raise
            return done

        done = persist(
            attempt,
            tell=lambda error: self._report(f"target: {error.message}"),
            stop=self._stop,
            longest=LONGEST_DELAY,
        )
        self._report("")
        return done

    def _hold(self) -> Session:
        """Our session, with the lock; one that was silent for too long is replaced."""
        if self._session is not None and not self._is_alive(self._session):
            self._drop_session()
        if self._session is None:
            self._session, _ = connect_patiently(
                self._endpoint,
                loads=False,
                stop=self._stop,
                report=self._report,
                prepare=_prepare,
                read_seconds=DDL_SECONDS,
            )
        self._take_lock(self._session)
        return self._session

    def _is_alive(self, session: Session) -> bool:
        try:
            session.ping()
        except TargetUnavailable:
            return False
        return True

    def _take_lock(self, session: Session) -> None:
        """GET_LOCK; whoever holds it for longer than ``LOCK_SECONDS`` is an older process of this pipeline: end it."""
        name = lock_name(session, self._lease.pipeline)
        while session.query("SELECT GET_LOCK(%s, %s)", name, LOCK_SECONDS)[0][0] != 1:
            run_fenced(session, self._lease)  # unless that older process is us
            holder = session.query("SELECT IS_USED_LOCK(%s)", name)[0][0]
            session.rollback()
            if holder is not None:
                session.kill(int(holder))
        session.rollback()

    def _release(self) -> None:
        if self._session is not None:
            self._session.query("DO RELEASE_LOCK(%s)", lock_name(self._session, self._lease.pipeline))

    def _drop_session(self) -> None:
        """Close it, and with it the lock."""
        if self._session is not None:
            self._session.close()
        self._session = None


class _Wanted(NamedTuple):
    target: str
    statement: str
    position: str
    expected: str | None


class _Note(NamedTuple):
    """A pending row of ``_replicator_ddl``."""

    number: int
    target: str
    statement: str
    position: str
    before: str
    expected: str | None

    def is_for(self, wanted: _Wanted) -> bool:
        return (self.target, self.statement) == (wanted.target, wanted.statement)


_UNSETTLED_HINT = (
    "someone else altered this table; make it as it should be, then delete its row of _replicator_ddl"
)


_REPEATED = "repeated"
"""In place of the fingerprint before: the catalog does not tell whether it ran, and the stream brings it again."""


def _prepare(session: Session) -> None:
    """Foreign keys to non-unique parents are legal at sources (SEMANTICS §8); servers before 8.4 have no such setting."""
    if session.query("SHOW SESSION VARIABLES LIKE 'restrict_fk_on_non_standard_key'"):
        session.run(b"SET SESSION restrict_fk_on_non_standard_key=0")


def _build_note(pipeline: str, wanted: _Wanted, before: str) -> bytes:
    expected = b"NULL" if wanted.expected is None else quote_text(wanted.expected)
    return (
        b"INSERT INTO _replicator_ddl"
        b" (pipeline,target,position,statement,fingerprint_before,fingerprint_after,state,started_at)"
        b" VALUES (%b,%b,%b,%b,%b,%b,'pending',NOW(6))"
        % (
            *(quote_text(pipeline), quote_text(wanted.target), quote_text(wanted.position)),
            *(quote_text(wanted.statement), quote_text(before), expected),
        )
    )


def _build_forget(pipeline: str, wanted: _Wanted | None = None) -> bytes:
    """Remove the notes of statements that the stream brings again: all that are pending, or all of one table."""
    which = b"state='pending'" if wanted is None else b"target=%b" % quote_text(wanted.target)
    return b"DELETE FROM _replicator_ddl WHERE pipeline=%b AND fingerprint_before=%b AND %b" % (
        *(quote_text(pipeline), quote_text(_REPEATED)),
        which,
    )
