"""The reader of MySQL and MariaDB: one dump connection that heals itself, and the questions around it.

The stream itself is ``transactions``'s, the connection under it ``transport``'s; here are identity, positions, and what
happens when the source goes away: wait, verify that the same server with the same history came back, and go on after
the last transaction that left.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn

import pymysql

from replicator.config import Source, connect_options
from replicator.errors import (
    ColumnUnfit,
    PositionLost,
    SourceError,
    SourceTaken,
    SourceUnavailable,
    UnsupportedEvent,
)
from replicator.model import Idle, Position, StreamItem, TableName, TableSchema
from replicator.patience import build_delays
from replicator.readers import mysql_catalog, mysql_checks, mysql_snapshot, shortdump
from replicator.readers.base import Requirement, Snapshot
from replicator.readers.gtid import (
    FilePosition,
    GtidPosition,
    MariadbPosition,
    MysqlPosition,
    parse_position,
)
from replicator.readers.mysql_query import fetch
from replicator.readers.selected import Counters, Selection
from replicator.readers.transactions import BACKWARDS, LATER, SPILL_BYTES, Transactions
from replicator.readers.transport import HANDSHAKE_SECONDS, Link, Replica, explain, open_link, open_session
from replicator.readers.xa import OldBranches, Undecided
from replicator.tls import assert_encrypted

log = logging.getLogger("replicator")

IDLE_SECONDS: Final = 2.0  # how long a session for questions is kept for the next one
FIRST_DELAY: Final = 0.2  # seconds before the first reconnect; doubles up to LONGEST_DELAY
LONGEST_DELAY: Final = 15.0
OLDER_SECONDS: Final = 2  # how long an older process may hold the log before it learns of a newer one
START_AGAIN: Final = "run `replicator drop`, then load again"

Kind = Literal["mysql", "mariadb"]


class Server(NamedTuple):
    """What a server says about itself. ``gtids``: its positions are GTIDs; ``fold``: table names ignore case;
    ``clock_offset``: its clock minus ours, in seconds.
    """

    identity: str
    kind: Kind
    gtids: bool
    fold: bool
    clock_offset: float


class MysqlReader:
    """A MySQL or MariaDB source (see ``base.Reader``). Connects at once, to learn who the server is.

    ``short_id`` makes the server_id that reading takes; set it before ``read``. ``confirm`` is asked before the log is
    taken from another process, and raises where this one was replaced. ``counters`` are for metrics.
    """

    sends_whole_rows = True

    def __init__(self, source: Source, *, short_id: str = "", spill_dir: Path | None = None) -> None:
        self.short_id = short_id
        self.confirm: Callable[[], None] = lambda: None
        self.counters = Counters()
        self._source = source
        self._spill_dir = spill_dir
        self._waiting = ""
        self._link: Link | None = None
        self._undecided = Undecided(SPILL_BYTES, spill_dir)
        self._left: MysqlPosition | None = None  # where the last stream was left
        self._branches = OldBranches()
        self._dump_id = 0  # connection id of the last dump of this stream
        self._idle: tuple[pymysql.Connection[Any], float] | None = None  # a session at rest, and since when
        self._idle_lock = threading.Lock()
        with self._session() as connection:
            server = _identify(connection)
        self.identity = server.identity
        self.clock_offset = server.clock_offset
        self._server = server
        if server.kind != str(source.type):
            raise SourceError(
                f"{source.address} is a {server.kind} server, but the pipeline file says {source.type}",
                hint=f"write `type: {server.kind}`",
            )

    # --- sessions -----------------------------------------------------------------------------------------------------

    def connect(self) -> pymysql.Connection[Any]:
        """A fresh session with autocommit on, the host resolved anew. Raises SourceUnavailable or SourceError."""
        return self._connect()

    def _connect(self, **more: object) -> pymysql.Connection[Any]:
        options = connect_options(self._source) | {"database": None, "autocommit": True} | more
        connection = open_session(options, self._source.address)
        try:
            assert_encrypted(connection, self._source.tls, SourceError)
        except SourceError:
            connection.close()
            raise
        return connection

    def _connect_dump(self) -> pymysql.Connection[Any]:
        return self._connect(read_timeout=HANDSHAKE_SECONDS, write_timeout=HANDSHAKE_SECONDS)

    def _connect_stream(self) -> pymysql.Connection[Any]:
        """The session that becomes the pipeline's dump; nobody else reads under its server_id from here on."""
        connection = self._connect_dump()
        try:
            if self.short_id:
                self._claim(connection)
            self._dump_id = connection.thread_id()
        except BaseException:
            connection.close()
            raise
        return connection

    def _claim(self, connection: pymysql.Connection[Any]) -> None:
        """Take the lock that says who reads for this pipeline; a newcomer ends whoever has it.

        A server ends the older of two dumps with one server_id, and MariaDB does not say why: without the lock two
        processes would push each other out for ever. Who finds it taken after a loss was replaced, unless by the ghost
        of its own lost connection, or by an older process that is just about to learn that it was replaced. Such a one
        asks only once it knows the holder: a newcomer raises its epoch before it can be that.
        """
        lock = f"replicator:{self.short_id}"
        sql = "SELECT IF(GET_LOCK(%s, 0), 0, IS_USED_LOCK(%s)) AS holder"
        holder = int(fetch(connection, sql, [lock, lock])[0]["holder"] or 0)
        if not self._dump_id:
            self.confirm()
        if not holder:
            return
        if self._dump_id not in (0, holder):
            if fetch(connection, "SELECT GET_LOCK(%s, %s) AS got", [lock, OLDER_SECONDS])[0]["got"]:
                return
            raise SourceTaken(
                f"{self._source.address}: connection {holder} has begun to read with this pipeline's server_id",
                hint="another process runs this pipeline: stop one of them",
            )
        with contextlib.suppress(pymysql.MySQLError), connection.cursor() as cursor:
            cursor.execute(f"KILL {holder}")  # it may have gone by itself
        if not fetch(connection, "SELECT GET_LOCK(%s, 10) AS got", [lock])[0]["got"]:
            raise SourceUnavailable(
                f"{self._source.address}: connection {holder} still reads for this pipeline"
            )

    @contextlib.contextmanager
    def _session(self) -> Iterator[pymysql.Connection[Any]]:
        """A session for some questions. One that was used just before is used again: a start asks many, and each
        connect over TLS is several round trips."""
        connection = self._take_idle() or self._connect()
        try:
            yield connection
        except BaseException as error:
            _close(connection)
            if isinstance(error, pymysql.MySQLError | OSError):
                raise explain(error, self._source.address) from error
            raise
        with self._idle_lock:
            surplus, self._idle = self._idle, (connection, time.monotonic())
        if surplus is not None:
            _close(surplus[0])

    def _take_idle(self) -> pymysql.Connection[Any] | None:
        with self._idle_lock:
            idle, self._idle = self._idle, None
        if idle is None:
            return None
        connection, since = idle
        if time.monotonic() - since < IDLE_SECONDS:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                connection.ping(reconnect=False)  # the server may have gone, and come back, meanwhile
                return connection
        _close(connection)
        return None

    # --- positions ----------------------------------------------------------------------------------------------------

    def recognise(self, short_id: str) -> None:
        """Nothing here carries its name until it reads."""

    def position(self) -> Position:
        """The newest committed position of the source."""
        with self._session() as connection:
            return self._read_position(connection)

    def _read_position(self, connection: pymysql.Connection[Any]) -> MysqlPosition:
        if self._server.kind == "mariadb":
            gtids = fetch(connection, "SELECT @@GLOBAL.gtid_binlog_pos AS p")[0]["p"]
            return MariadbPosition.of(self.identity, gtids)
        if self._server.gtids:
            return GtidPosition.of(self.identity, _read_gtid_set(connection, "gtid_executed"))
        file, offset = _read_log_end(connection)
        return FilePosition(self.identity, file, self._file_created(file), offset)

    def _file_created(self, file: str) -> int:
        return shortdump.read_created(self._connect_dump, self.identity, file)

    def parse_position(self, text: str) -> MysqlPosition:
        return parse_position(text)

    def begin(
        self,
        tables: Sequence[TableSchema],
        loaded: Collection[TableName],
        stored: Position | None,
        stop: threading.Event,
    ) -> Position:
        """The source keeps nothing for a pipeline: its log is there by its own rules."""
        return self.position() if stored is None else stored

    def verify_position(self, position: Position) -> None:
        """Raise PositionLost, naming both sides, unless the source can resume at ``position`` (SEMANTICS §1.6)."""
        with self._session() as connection:
            server = _identify(connection)
            self.clock_offset = server.clock_offset
            if not isinstance(position, MysqlPosition) or position.server != server.identity:
                raise PositionLost(
                    f"{self._source.address} is another server: it is {server.identity}, the stored position is {position}",
                    hint=f"point the pipeline at the server it was loaded from; to follow this one, {START_AGAIN}",
                )
            if isinstance(position, MariadbPosition):
                _verify_mariadb(connection, position)
            elif isinstance(position, GtidPosition) and server.gtids:
                _verify_gtids(connection, position)
            elif isinstance(position, FilePosition) and not server.gtids:
                self._verify_file(connection, position)
            else:
                raise PositionLost(
                    f"gtid_mode at {self._source.address} was changed since {position} was stored",
                    hint=f"set gtid_mode back, or {START_AGAIN}",
                )

    def _verify_file(self, connection: pymysql.Connection[Any], position: FilePosition) -> None:
        files = {row["log_name"]: int(row["file_size"]) for row in fetch(connection, "SHOW BINARY LOGS")}
        if position.file not in files:
            have = f"{min(files)} to {max(files)}" if files else "none"
            raise PositionLost(
                f"{position.file} is gone from the source, and with it what follows {position}; it has {have}",
                hint=f"{START_AGAIN}; keep binary logs for longer (binlog_expire_logs_seconds)",
            )
        created = self._file_created(position.file)
        if created != position.created or position.offset > files[position.file]:
            raise PositionLost(
                f"the source's {position.file} was made at {created} and has {files[position.file]} bytes, which does "
                f"not fit {position}: its binary logs were reset",
                hint=START_AGAIN,
            )

    # --- tables -------------------------------------------------------------------------------------------------------

    def list_tables(self) -> Sequence[TableName]:
        with self._session() as connection:
            return mysql_catalog.list_tables(connection)

    def describe(
        self, targets: Mapping[TableName, str], types: Mapping[TableName, Mapping[str, str]] | None = None
    ) -> Sequence[TableSchema]:
        for table, wanted in (types or {}).items():
            for column in wanted:
                raise ColumnUnfit(
                    "columns of MySQL and MariaDB keep their type at the target", table=table, column=column
                )
        with self._session() as connection:
            return mysql_catalog.describe(connection, targets)

    def _explain_reach(self, names: Sequence[TableName]) -> str:
        with self._session() as connection:
            reason = mysql_catalog.explain_reach(connection, names)
            others = [str(name) for name in names if name.schema not in mysql_catalog.SYSTEM_SCHEMAS]
            if others and not reason and not mysql_checks.may_see_triggers(connection):
                log.warning(
                    "%s: changed by a statement, not by rows; whether a trigger of it changed selected tables cannot be "
                    "told: GRANT TRIGGER on it to this account, or set binlog_format=ROW in that session",
                    ", ".join(others),
                )
        return reason

    def foreign_key_cascades_logged(self) -> bool:
        with self._session() as connection:
            return mysql_catalog.cascades_logged(connection)

    def check(self, tables: Sequence[TableSchema]) -> Sequence[Requirement]:
        with self._session() as connection:
            return mysql_checks.check(connection, tables, self._server.kind)

    def open_snapshot(
        self,
        tables: Sequence[TableSchema],
        workers: int,
        stop: threading.Event,
        inseparable: Sequence[frozenset[TableName]] = (),
    ) -> Snapshot:
        source = mysql_snapshot.SnapshotSource(
            connect=self.connect,
            kind=self._server.kind,
            server=self.identity,
            gtids=self._server.gtids,
            touched_tables=self.touched_tables,
            file_created=self._file_created,
            branches=self._branches,
        )
        return mysql_snapshot.open_snapshot(source, tables, workers, stop, inseparable)

    def touched_tables(self, start: GtidPosition, file: str, offset: int) -> frozenset[TableName] | None:
        """See ``shortdump.touched_tables``."""
        return shortdump.touched_tables(self._connect_dump, start, file, offset)

    # --- the stream ---------------------------------------------------------------------------------------------------

    def read(
        self,
        start: Position,
        tables: Sequence[TableSchema],
        stop: threading.Event,
        since: Mapping[TableName, Position] | None = None,
    ) -> Generator[StreamItem, None, None]:
        """See ``base.Reader.read``. A lost connection is waited for, however long; everything else is raised.

        A stream that goes on where the last one was left knows what is undecided there.
        """
        assert isinstance(start, MysqlPosition)
        fold = self._server.fold
        selection = Selection(tables, fold=fold, explain_reach=self._explain_reach, since=since)
        position: MysqlPosition = start
        if self._left != start:
            self._undecided.close()
        delay, delays = 0.0, build_delays(FIRST_DELAY, LONGEST_DELAY)
        self._dump_id = 0
        while not stop.is_set():
            transactions: Transactions | None = None
            try:
                self.verify_position(position)
                link = self._link = open_link(self._connect_stream, position, self._replica())
                self._waiting = ""
                transactions = Transactions(
                    link,
                    position,
                    selection=selection,
                    counters=self.counters,
                    stop=stop,
                    undecided=self._undecided,
                    spill_dir=self._spill_dir,
                )
                yield from transactions.items()
            except SourceUnavailable as error:
                if transactions is not None and transactions.position is not position:
                    position, delays = transactions.position, build_delays(FIRST_DELAY, LONGEST_DELAY)
                delay = next(delays)
                self._note_loss(error, delay)
            except UnsupportedEvent as error:
                place = transactions.position if transactions is not None else position
                raise UnsupportedEvent(
                    f"{error.message}; in what follows {place}", hint=error.hint
                ) from error
            finally:
                self._close_link()
                self._left = transactions.position if transactions is not None else position
            yield from self._wait(delay, position, stop)

    def _replica(self) -> Replica:
        return Replica.of(self.short_id) if self.short_id else Replica.passing()

    def _note_loss(self, error: SourceUnavailable, delay: float) -> None:
        self.counters.reconnects += 1
        self._waiting = f"source: {error.message}"
        log.warning("waiting for the source, next try in %.1f s: %s", delay, error.message)

    @staticmethod
    def _wait(seconds: float, position: MysqlPosition, stop: threading.Event) -> Iterator[StreamItem]:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, LATER)):
            yield Idle(position)

    def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.counters.bytes_read += link.bytes_read
            link.close()

    @property
    def bytes_read(self) -> int:
        """Bytes received by dumps, the running one included."""
        link = self._link
        return self.counters.bytes_read + (link.bytes_read if link is not None else 0)

    def restart_from(self, position: Position, *, keep: bool = False) -> MysqlPosition:
        """See ``base.Reader.restart_from``."""
        assert isinstance(position, MysqlPosition)
        return self._undecided.restart_from(position, keep=keep)

    def undecided(self) -> Sequence[str]:
        return self._undecided.names()

    def ack(self, position: Position) -> None:
        """The source keeps its log by its own rules: there is nothing to tell."""

    def is_waiting(self) -> str:
        return self._waiting

    def close(self) -> None:
        """Ends a stream that is not iterated any more; ``stop`` ends one that is."""
        self._close_link()
        if (connection := self._take_idle()) is not None:
            _close(connection)


# --- what a server says ------------------------------------------------------------------------------------------------


def _close(connection: pymysql.Connection[Any]) -> None:
    with contextlib.suppress(pymysql.MySQLError):
        connection.close()


def _identify(connection: pymysql.Connection[Any]) -> Server:
    variables = {
        row["variable_name"].lower(): row["value"]
        for row in fetch(
            connection,
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_uid', 'server_id', 'hostname',"
            " 'port', 'gtid_mode', 'lower_case_table_names')",
        )
    }
    fold = variables["lower_case_table_names"] != "0"
    clock_offset = float(fetch(connection, "SELECT UNIX_TIMESTAMP(NOW(6)) AS now")[0]["now"]) - time.time()
    if not mysql_catalog.is_mariadb(connection):
        identity = f"mysql:{variables['server_uuid']}"
        return Server(identity, "mysql", variables.get("gtid_mode", "").upper() == "ON", fold, clock_offset)
    # MariaDB has no UUID. server_uid (10.6.16, 10.11.6 and later) is a hash of the machine's network address and the
    # port, the same after every restart; server_id alone is 1 on every server that nobody configured.
    place = variables.get("server_uid") or f"{variables['hostname']}:{variables['port']}"
    return Server(f"mariadb:{variables['server_id']}:{place}", "mariadb", True, fold, clock_offset)


def _read_gtid_set(connection: pymysql.Connection[Any], variable: str) -> str:
    return str(fetch(connection, f"SELECT @@GLOBAL.{variable} AS gtids")[0]["gtids"])


def _read_log_end(connection: pymysql.Connection[Any]) -> tuple[str, int]:
    """File and offset behind the last transaction; the older statement where the newer is not known."""
    try:
        rows = fetch(connection, "SHOW BINARY LOG STATUS")
    except pymysql.err.ProgrammingError:
        rows = fetch(connection, "SHOW MASTER STATUS")
    if not rows:
        raise SourceError("the source writes no binary log", hint="set log_bin at the source and restart it")
    return str(rows[0]["file"]), int(rows[0]["position"])


def _verify_gtids(connection: pymysql.Connection[Any], position: GtidPosition) -> None:
    executed = GtidPosition.of(position.server, _read_gtid_set(connection, "gtid_executed")).gtids
    purged = GtidPosition.of(position.server, _read_gtid_set(connection, "gtid_purged")).gtids
    unknown = position.gtids.subtract(executed)
    if unknown:
        _refuse_unknown(position, str(executed), str(unknown))
    missing = purged.subtract(position.gtids)
    if missing:
        _refuse_purged(position, f"gtid_purged is {purged}", str(missing))


def _verify_mariadb(connection: pymysql.Connection[Any], position: MariadbPosition) -> None:
    logged = MariadbPosition.of(position.server, _read_gtid_set(connection, "gtid_binlog_pos"))
    for domain, (server_id, sequence) in position.domains.items():
        last_server, last = logged.domains.get(domain, (server_id, 0))
        if last < sequence and last_server != server_id:
            raise PositionLost(
                f"{domain}-{last_server}-{last} follows {domain}-{server_id}-{sequence}: sequence numbers go backwards in "
                f"their domain (stored {position}, source {logged.gtids})",
                hint=BACKWARDS,
            )
        if last < sequence:
            _refuse_unknown(position, logged.gtids, f"{domain}-{server_id}-{sequence}")
    files = fetch(connection, "SHOW BINARY LOGS")
    if not files:
        raise SourceError("the source writes no binary log", hint="set log_bin at the source and restart it")
    first = fetch(connection, "SELECT BINLOG_GTID_POS(%s, 4) AS gtids", [files[0]["log_name"]])[0]["gtids"]
    oldest = MariadbPosition.of(position.server, first or "")
    missing = [
        f"{domain}-{server_id}-{position.sequence_of(domain) + 1} to {domain}-{server_id}-{sequence}"
        for domain, (server_id, sequence) in oldest.domains.items()
        if position.sequence_of(domain) < sequence
    ]
    if missing:
        _refuse_purged(position, f"its oldest log begins after {oldest.gtids}", ", ".join(missing))


def _refuse_unknown(position: MysqlPosition, have: str, unknown: str) -> NoReturn:
    raise PositionLost(
        f"the source has never committed {unknown}, which the stored position has: stored {position}, source {have}",
        hint=f"the source was reset or restored to an older state: {START_AGAIN}",
    )


def _refuse_purged(position: MysqlPosition, have: str, missing: str) -> NoReturn:
    raise PositionLost(
        f"the source has purged transactions that were not read yet: {missing} (stored {position}; {have})",
        hint=f"{START_AGAIN}; keep binary logs for longer (binlog_expire_logs_seconds, expire_logs_days)",
    )
