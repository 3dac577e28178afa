"""The reader of PostgreSQL: one replication connection that heals itself, and the questions around it.

Messages become transactions in ``pgstream``; here are identity, positions, the slot's life, feedback, and what happens
when the source goes away. An LSN is acked only after it is in the checkpoint (SEMANTICS §3.1): ``ack`` says so.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psycopg

from replicator.config import Source
from replicator.errors import PositionLost, SourceError, SourceTaken, SourceUnavailable, UnsupportedEvent
from replicator.model import Heartbeat, Idle, Position, StreamItem, TableName, TableSchema
from replicator.readers import (
    postgres_catalog,
    postgres_checks,
    postgres_publication,
    postgres_slot,
    postgres_wal,
)
from replicator.readers.base import Requirement, Snapshot
from replicator.readers.lsn import START_AGAIN, LsnPosition, format_lsn, parse_position
from replicator.readers.pgoutput import RelationColumn
from replicator.readers.pgstream import Transactions
from replicator.readers.postgres_link import Link, open_link
from replicator.readers.postgres_mute import name_mute
from replicator.readers.postgres_session import Connection, Crowded, Refused, connect, explain, fetch
from replicator.readers.postgres_slot import Exported
from replicator.readers.postgres_snapshot import PostgresSession, PostgresSnapshot
from replicator.readers.postgres_watch import Watch
from replicator.readers.selected import Counters, Selection

log = logging.getLogger("replicator")

FIRST_DELAY: Final = 0.2  # seconds before the first reconnect; doubles up to LONGEST_DELAY
LONGEST_DELAY: Final = 15.0
SOON, LATER = 0.005, 0.01  # seconds between two looks at a quiet connection
OLDER_SECONDS: Final = 2.0  # how long an older process may hold the slot before it learns of a newer one
ASK_SECONDS: Final = 1.0  # between two questions how far the source is, while it is quiet
BEHIND_SECONDS: Final = 2.0  # a server that has not decoded what was flushed so long ago is behind,
NEAR_BYTES: Final = 1 << 16  # unless that may be the first half of a record
ADVANCE_SECONDS: Final = 10.0  # between two commits that say only that nothing happened (SEMANTICS §3.1)


class PostgresReader:
    """A PostgreSQL source (see ``base.Reader``). Connects at once, to learn who the server is.

    ``pipeline`` and ``short_id`` name slot and publication; set ``short_id`` before ``begin``.
    """

    sends_whole_rows = False

    def __init__(
        self, source: Source, pipeline: str, *, short_id: str = "", spill_dir: Path | None = None
    ) -> None:
        self.short_id = short_id
        self.counters = Counters()
        self.clock_offset = 0.0
        self.confirm: Callable[[], None] = lambda: None
        self._source = source
        self._pipeline = pipeline
        self._spill_dir = spill_dir
        self._waiting = ""
        self._link: Link | None = None
        self._last_pid = 0  # of the last session that read from the slot in this stream
        self._acked = (
            0  # the newest position that is stored, as far as we were told; what was read is no such thing
        )
        self._asking = threading.Lock()
        self._asked = 0  # the newest position that somebody waits for
        self._flushed, self._looked = 0, 0.0  # how far the source was, and when somebody looked
        self._advanced = 0.0  # when an idle position was given away last
        self._exported: tuple[Connection, Exported] | None = None
        self._types: dict[tuple[int, int], str] = {}
        with self._session() as connection:
            self.identity, self._timeline = self._identify(connection)

    @property
    def slot(self) -> str:
        return postgres_slot.build_name(self._pipeline, self.short_id)

    # --- sessions -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection]:
        connection = connect(self._source)
        try:
            yield connection
        except psycopg.Error as error:
            raise explain(error, self._source.address) from error
        finally:
            connection.close()

    def _identify(self, connection: Connection) -> tuple[str, int]:
        began = time.time()
        row = fetch(
            connection,
            "SELECT s.system_identifier AS system, current_database() AS database,"
            " extract(epoch FROM clock_timestamp())::float8 AS now, CASE WHEN pg_is_in_recovery()"
            " THEN (SELECT timeline_id FROM pg_control_checkpoint())"
            " ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END AS timeline"
            " FROM pg_control_system() s",
        )[0]
        self.clock_offset = row["now"] - (began + time.time()) / 2
        return f"postgres:{row['system']}/{row['database']}", row["timeline"]

    def recognise(self, short_id: str) -> None:
        self.short_id = short_id

    # --- positions ----------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """The newest committed position: what is inserted into the WAL, for a commit may be visible before its flush."""
        with self._session() as connection:
            lsn = postgres_wal.find_committed(connection)
        self._await(lsn)
        return LsnPosition(self.identity, self._timeline, lsn)

    def parse_position(self, text: str) -> LsnPosition:
        return parse_position(text)

    def verify_position(self, position: Position) -> None:
        """Raise PositionLost, naming both sides, unless the source can resume at ``position``."""
        assert isinstance(position, LsnPosition)
        with self._session() as connection:
            identity, timeline = self._identify(connection)
            if position.server != identity:
                raise PositionLost(
                    f"{self._source.address} is another server or database: it is {identity}, the stored position is"
                    f" {position}",
                    hint=f"point the pipeline at the server it was loaded from; to follow this one, {START_AGAIN}",
                )
            self._verify_history(connection, position, timeline)
            self._timeline = timeline
            postgres_slot.verify_slot(postgres_slot.find_slot(connection, self.slot), self.slot, position)

    def _verify_history(self, connection: Connection, position: LsnPosition, timeline: int) -> None:
        """Whether the WAL up to ``position`` is this server's own, or of what it was a standby of."""
        wal = postgres_wal.read_ends(connection)
        if wal.is_standby:  # the primary's place while it fails over; `check` names one that was chosen
            raise SourceUnavailable(f"{self._source.address} is a standby")
        parted = wal.inserted
        if position.timeline != timeline:
            with contextlib.closing(connect(self._source, replication=True)) as replication:
                parted = postgres_wal.find_parting(replication, position.timeline, timeline)
        if position.lsn > parted:
            raise PositionLost(
                f"{self._source.address} is on timeline {timeline} and shares the past of {position} up to"
                f" {format_lsn(parted)} only: a standby was promoted that lacked the rest, or the server was restored to"
                " an older state",
                hint=START_AGAIN,
            )

    def begin(
        self,
        tables: Sequence[TableSchema],
        loaded: Collection[TableName],
        stored: Position | None,
        stop: threading.Event,
    ) -> Position:
        """See ``base.Reader.begin``. Without a stored position a slot of ours is what a crash left: it is made anew."""
        with self._session() as connection:
            present = set(postgres_catalog.list_tables(connection))
            names = [table.source for table in tables if table.source in present]
            if stored is not None:
                postgres_publication.settle(connection, self.slot, names, loaded)
                return stored
            postgres_publication.create(connection, self.slot, names)
            postgres_slot.drop_slot(connection, self.slot)
            replication = connect(self._source, replication=True)
            exported = postgres_slot.create_slot(replication, connection, self.slot, stop)
            self._exported = replication, exported
        return LsnPosition(self.identity, self._timeline, exported.lsn)

    def forget(self) -> None:
        """Remove what ``begin`` made; what is not there is no error."""
        with self._session() as connection:
            postgres_slot.drop_slot(connection, self.slot)
            postgres_publication.drop(connection, self.slot)

    # --- tables -------------------------------------------------------------------------------------------------------

    def list_tables(self) -> Sequence[TableName]:
        with self._session() as connection:
            return postgres_catalog.list_tables(connection)

    def describe(
        self, targets: Mapping[TableName, str], types: Mapping[TableName, Mapping[str, str]] | None = None
    ) -> Sequence[TableSchema]:
        with self._session() as connection:
            return postgres_catalog.describe(connection, targets, types or {})

    def foreign_key_cascades_logged(self) -> bool:
        return True

    def check(self, tables: Sequence[TableSchema]) -> Sequence[Requirement]:
        with self._session() as connection:
            slot = postgres_slot.find_slot(connection, self.slot) if self.short_id else None
            requirements = postgres_checks.check(connection, tables, slot)
            if slot is not None:
                requirements.append(postgres_publication.judge(connection, self.slot, tables))
        if money := postgres_checks.find_money(tables):
            with contextlib.closing(connect(self._source, as_found=True)) as found:
                requirements += postgres_checks.check_money(found, money)
        return requirements

    def open_snapshot(
        self,
        tables: Sequence[TableSchema],
        workers: int,
        stop: threading.Event,
        inseparable: Sequence[frozenset[TableName]] = (),
    ) -> Snapshot:
        """The snapshot of the slot just made, once; else that of a temporary slot. It is exact for all tables."""
        made, self._exported = self._exported, None
        if made is None:
            with self._session() as control:
                name = f"{self.slot[:50]}_{secrets.token_hex(4)}"
                replication = connect(self._source, replication=True)  # last: `create_slot` closes it
                made = (
                    replication,
                    postgres_slot.create_slot(replication, control, name, stop, temporary=True),
                )
        replication, exported = made
        self._await(exported.lsn)
        sessions: list[PostgresSession] = []
        try:
            for _ in range(workers):
                sessions.append(PostgresSession(connect(self._source), exported.snapshot, stop))
        except BaseException:
            for session in sessions:
                session.close()
            raise
        finally:
            replication.close()
        position = LsnPosition(self.identity, self._timeline, exported.lsn)
        return PostgresSnapshot(position, tables, sessions, lambda: connect(self._source))

    # --- the stream ---------------------------------------------------------------------------------------------------

    def read(
        self,
        start: Position,
        tables: Sequence[TableSchema],
        stop: threading.Event,
        since: Mapping[TableName, Position] | None = None,
    ) -> Generator[StreamItem, None, None]:
        """See ``base.Reader.read``. A lost connection is waited for, however long; everything else is raised."""
        assert isinstance(start, LsnPosition)
        selection = Selection(tables, since=since)
        position, delay = start, FIRST_DELAY
        self._last_pid = 0
        while not stop.is_set():
            transactions: Transactions | None = None
            try:
                self.verify_position(position)
                position = LsnPosition(position.server, self._timeline, position.lsn)
                self._link = self._open_link(position)
                self._waiting = ""
                transactions = Transactions(
                    position,
                    selection=selection,
                    counters=self.counters,
                    describe_types=self._describe_types,
                    spill_dir=self._spill_dir,
                )
                watch = Watch(self._look, selection)
                yield from self._follow(self._link, transactions, watch, stop)
                return
            except SourceUnavailable as error:
                if transactions is not None and transactions.position.lsn > position.lsn:
                    position, delay = transactions.position, FIRST_DELAY
                self._note_loss(error, delay)
            except Refused as error:
                raise (error if transactions is None else self._name_mute(error, selection)) from error
            except UnsupportedEvent as error:
                place = transactions.position if transactions is not None else position
                raise UnsupportedEvent(
                    f"{error.message}; in what follows {place}", hint=error.hint
                ) from error
            finally:
                if transactions is not None:
                    transactions.close()
                self._close_link()
            yield from self._wait(delay, position, stop)
            delay = min(delay * 2, LONGEST_DELAY)

    def _open_link(self, position: LsnPosition) -> Link:
        """The slot's one reader: a newcomer ends whoever has it; who finds it taken after a loss was replaced, unless by an
        older process that is just about to learn that it was replaced itself.
        """
        with self._session() as control:
            slot = postgres_slot.find_slot(control, self.slot)
            if not self._last_pid:
                self.confirm()
            if slot is not None and slot.active_pid:
                is_strange = self._last_pid not in (0, slot.active_pid)
                if is_strange and not postgres_slot.await_free(control, self.slot, OLDER_SECONDS):
                    raise SourceTaken(
                        f"{self._source.address}: session {slot.active_pid} has begun to read from {self.slot}",
                        hint="another process runs this pipeline: stop one of them",
                    )
                if not is_strange:
                    postgres_slot.end_reader(control, self.slot, slot.active_pid)
        link = open_link(self._source, self.slot, position.lsn, self._acked)
        self._last_pid = link.pid
        return link

    def _follow(
        self, link: Link, transactions: Transactions, watch: Watch, stop: threading.Event
    ) -> Iterator[StreamItem]:
        pause, asked, left = SOON, time.monotonic(), self.counters.transactions
        self._watch(watch)
        while not stop.is_set():
            messages = link.fetch(pause)
            if messages:
                yield from transactions.take(messages)
                pause = SOON
            if link.reported and transactions.is_between:
                yield from self._take_report(link, transactions)
            if watch.is_due():
                self._watch(watch)
            if watch.found and transactions.is_between and transactions.position.lsn >= watch.lsn:
                yield from (transactions.pause(name, reason) for name, reason in watch.take())
            if self.counters.transactions == left:  # also while a large one arrives
                yield Idle(transactions.position)
            left = self.counters.transactions
            if not messages:
                pause = LATER
                if time.monotonic() - asked > ASK_SECONDS or (
                    self._asked > transactions.position.lsn and time.monotonic() - asked > 0.05
                ):
                    asked = time.monotonic()
                    link.ask()

    def _watch(self, watch: Watch) -> None:
        """Look at the catalog. A source that is full goes on sending, and is not left for that: the next look tells all."""
        try:
            self._await(watch.look())
            self._waiting = ""
        except Crowded as error:
            self._waiting = f"source: its catalog cannot be looked at: {error.message}"
            log.warning("%s", self._waiting)

    def _await(self, lsn: int) -> None:
        """Somebody waits until the stream is there, though nothing more may come. Any thread may say so."""
        with self._asking:
            self._asked = max(self._asked, lsn)

    def _take_report(self, link: Link, transactions: Transactions) -> Iterator[StreamItem]:
        """A keepalive: everything of ours up to there has been sent.

        Said too often, that would be a commit a second at the target; never said, the slot would hold the WAL of every
        other database of the server. A server that decodes slowly is further than it says.
        """
        lsn, link.reported = link.reported, 0
        now = time.monotonic()
        is_wanted = transactions.position.lsn < self._asked <= lsn
        if lsn > transactions.position.lsn and (is_wanted or now - self._advanced > ADVANCE_SECONDS):
            self._advanced = now
            transactions.advance(lsn)
        is_behind = self._flushed - lsn > NEAR_BYTES and now - self._looked > BEHIND_SECONDS
        known = LsnPosition(self.identity, self._timeline, self._flushed)
        yield Heartbeat(known if is_behind else transactions.position, now)

    def _look(self, tables: Mapping[TableName, TableSchema]) -> tuple[int, dict[TableName, str]]:
        """Which tables are no longer what their schemas say, and why; all that made them so lies before the LSN."""
        with self._session() as connection:
            found = postgres_publication.find_left_out(connection, self.slot, tables)
            found |= postgres_catalog.find_changed(connection, tables)
            wal = postgres_wal.read_ends(connection)
        self._flushed, self._looked = wal.flushed, time.monotonic()
        return wal.inserted, found

    def _describe_types(self, columns: Sequence[RelationColumn]) -> Sequence[str]:
        wanted = [(column.type, column.modifier) for column in columns]
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in self._types]
        if missing:
            with self._session() as connection:
                found = postgres_catalog.describe_types(connection, missing)
            self._types.update(zip(missing, found, strict=True))
        return [self._types[pair] for pair in wanted]

    def _name_mute(self, error: Refused, selection: Selection) -> SourceError:
        """What the source refused to send, by its column where a value of it is why."""
        try:
            with self._session() as connection:
                return name_mute(connection, list(selection.tables.values()), error)
        except SourceError:  # it cannot be asked: its own words must do
            return error

    def _note_loss(self, error: SourceUnavailable, delay: float) -> None:
        self.counters.reconnects += 1
        self._waiting = f"source: {error.message}"
        log.warning("waiting for the source, next try in %.1f s: %s", delay, error.message)

    @staticmethod
    def _wait(seconds: float, position: LsnPosition, stop: threading.Event) -> Iterator[StreamItem]:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, LATER)):
            yield Idle(position)

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.counters.bytes_read += link.bytes_read
            link.close()

    def restart_from(self, position: Position, *, keep: bool = False) -> Position:
        """The server itself keeps what is undecided at a position: the slot reads it again."""
        return position

    def undecided(self) -> Sequence[str]:
        return ()

    def ack(self, position: Position) -> None:
        """This is stored at the target: the source may forget what lies before it."""
        assert isinstance(position, LsnPosition)
        self._acked = max(self._acked, position.lsn)
        if (link := self._link) is not None:
            link.ack(self._acked)

    def is_waiting(self) -> str:
        return self._waiting

    def close(self) -> None:
        """Ends a stream that is not iterated any more; ``stop`` ends one that is."""
        self._close_link()
        if self._exported is not None:
            self._exported[0].close()
            self._exported = None


__all__ = ["PostgresReader", "SourceError"]
