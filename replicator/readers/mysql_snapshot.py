"""Snapshots of MySQL and MariaDB sources with the position they stand at (SEMANTICS §2), below the reader, above the load.

MySQL with GTIDs takes no lock: a table that no logged transaction touched between the GTID set read before the sessions
opened and the log's end read after is the same in all of them, and stands exactly at that GTID set. MariaDB tells the
snapshot's place in the log itself. Elsewhere, and for tables never left alone, one table is locked for the moment.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import pymysql

from replicator.errors import SnapshotBlocked, SnapshotLost, SourceError, SourceLocked, spell_account
from replicator.model import Column, Position, Row, TableName, TableSchema
from replicator.readers.base import KeyRange, SnapshotSession
from replicator.readers.binlog import Xid
from replicator.readers.gtid import FilePosition, GtidPosition, MariadbPosition
from replicator.readers.mysql_giveway import GiveWay
from replicator.readers.mysql_ranges import Cut, build_condition, key_columns, split
from replicator.readers.mysql_rows import RowParser, build_error, build_parser, read_rows, watch_peer
from replicator.readers.xa import OldBranches, format_xid
from replicator.typemap.mysql import quote_name, select_expression

UNLOCKED_ATTEMPTS: Final = 5
SAME_POSITION_ATTEMPTS: Final = 10
SHARED_ROWS: Final = 20_000  # a MariaDB table of more has a snapshot of its own
LOCK_ROUNDS: Final = 8
LOCK_WAIT_SECONDS: Final = 2  # writes queue behind a lock that waits: never longer
LONGEST_BACK_OFF: Final = 10.0

_LOCK_ALL: Final = "FLUSH TABLES WITH READ LOCK"
_LOCK_WAIT: Final = 1205
_DENIED: Final = {1044, 1142, 1143, 1227}


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """What a snapshot needs of its reader.

    ``connect`` opens a fresh connection with autocommit on. ``server`` binds positions (I1). ``gtids``: MySQL runs with
    gtid_mode=ON. ``touched_tables(start, file, offset)``: the tables that any transaction in the log outside ``start``
    and up to that place in the log touched, None where that cannot be told. ``file_created``: when a binlog file was
    made, seconds since the epoch. ``branches``: what must be decided before a snapshot is taken.
    """

    connect: Callable[[], Any]
    kind: Literal["mysql", "mariadb"]
    server: str
    gtids: bool
    touched_tables: Callable[[GtidPosition, str, int], frozenset[TableName] | None]
    file_created: Callable[[str], int]
    branches: OldBranches


class MysqlSession:
    """One session inside a snapshot: it cuts tables into ranges and reads them. One thread at a time."""

    def __init__(self, connection: Any, kind: str) -> None:
        self._connection = connection
        self._kind = kind
        self._selects: dict[TableName, tuple[bytes, RowParser]] = {}
        self._held: frozenset[TableName] = frozenset()
        self._wanted: Sequence[TableName] = ()  # what it was killed for
        self.number: int = connection.thread_id()
        watch_peer(connection)
        _apply_settings(connection, kind)

    def begin(self) -> None:
        """Start the consistent read."""
        only = ", READ ONLY" if self._kind == "mysql" else ""
        self.query("START TRANSACTION WITH CONSISTENT SNAPSHOT" + only)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement of a cold path. Raises SnapshotLost, SourceError."""
        return _query(self._connection, sql)

    def split(self, table: TableSchema, rows: int) -> Sequence[KeyRange]:
        with self._holding(table):
            return split(self, table, rows)

    def read(self, table: TableSchema, span: KeyRange) -> Iterator[list[Row]]:
        select, parse = self._select(table)
        with self._holding(table):
            yield from read_rows(self._connection, select + _where(build_condition(table, span)), parse)

    def read_text(self, table: TableSchema, span: KeyRange) -> None:
        """No SELECT writes lines."""

    @contextlib.contextmanager
    def _holding(self, table: TableSchema) -> Iterator[None]:
        """Give the table's metadata lock back when done, so that an ALTER never waits long (SEMANTICS §2.6).

        MariaDB keeps the lock whatever is rolled back to.
        """
        self._held |= {table.source}
        try:
            if self._kind == "mysql":
                self.query("SAVEPOINT chunk")
            yield
        except SnapshotLost as error:
            if self._wanted:
                raise self._build_blocked() from None
            raise error
        finally:
            if self._kind == "mysql" and self._connection.open:
                with contextlib.suppress(SnapshotLost):  # what was read is whole; the next use will say it
                    self.query("ROLLBACK TO SAVEPOINT chunk")
            if self._kind == "mysql":
                self._held = frozenset()

    def _build_blocked(self) -> SnapshotLost:
        """On MariaDB all tables of the snapshot are in the way, on MySQL this one was."""
        names = ", ".join(map(str, self._wanted[:5]))
        kind = SnapshotLost if self._kind == "mysql" else SnapshotBlocked
        return kind(f"the snapshot was given up: a statement at the source waited for our reading of {names}")

    def held(self) -> frozenset[TableName]:
        return self._held

    def give_way(self, tables: Sequence[TableName]) -> None:
        self._wanted = tables

    def _select(self, table: TableSchema) -> tuple[bytes, RowParser]:
        known = self._selects.get(table.source)
        if known is None:
            select = _build_select(table, table.columns) + _build_from(table, force=bool(key_columns(table)))
            known = self._selects[table.source] = select, build_parser(table.columns, str(table.source))
        return known

    # -- what the cutting asks (mysql_ranges.Probe) --------------------------------------------------------------------

    def bounds(self, table: TableSchema, column: Column) -> tuple[int, int] | None:
        name = quote_name(column.name)
        low, high = self.query(f"SELECT MIN({name}), MAX({name}) FROM {_quote_table(table.source)}")[0]
        return None if low is None else (int(low), int(high))

    def estimate(self, table: TableSchema, span: KeyRange) -> int:
        explain = "EXPLAIN FORMAT=TRADITIONAL " if self._kind == "mysql" else "EXPLAIN "
        sql = (
            explain.encode()
            + b"SELECT 1"
            + _build_from(table, force=True)
            + _where(build_condition(table, span))
        )
        with _errors(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            place = [name for name, *_ in cursor.description].index("rows")
            return int(cursor.fetchone()[place] or 0)

    def next_cut(
        self, table: TableSchema, span: KeyRange, columns: Sequence[Column], rows: int
    ) -> Cut | None:
        order = ",".join(quote_name(column.name) for column in columns).encode()
        sql = b"%b%b%b ORDER BY %b LIMIT 1 OFFSET %d" % (
            _build_select(table, columns),
            _build_from(table, force=True),
            _where(build_condition(table, span)),
            order,
            rows - 1,
        )
        found = [row for block in read_rows(self._connection, sql, build_parser(columns)) for row in block]
        return found[0] if found else None

    def close(self) -> None:
        with contextlib.suppress(pymysql.MySQLError):
            self._connection.close()


class MysqlSnapshot:
    """Sessions that all see ``tables`` exactly as of ``position``, and give way to the source's own work."""

    def __init__(
        self,
        source: SnapshotSource,
        position: Position,
        tables: Sequence[TableSchema],
        sessions: Sequence[MysqlSession],
    ) -> None:
        self.position = position
        self.tables = tuple(tables)
        self.sessions: tuple[SnapshotSession, ...] = tuple(sessions)
        self._sessions = tuple(sessions)
        self._give_way = GiveWay(source.connect, source.kind, sessions)

    def close(self) -> None:
        self._give_way.close()
        _close(self._sessions)


def open_snapshot(
    source: SnapshotSource,
    tables: Sequence[TableSchema],
    workers: int,
    stop: threading.Event,
    inseparable: Sequence[frozenset[TableName]] = (),
) -> MysqlSnapshot:
    """A snapshot in ``workers`` sessions (or fewer) that is exact for at least one of ``tables``; of a set of
    ``inseparable`` ones for all or none.

    Raises SourceLocked where a lock cannot be had, naming who holds it; SourceError for a missing grant; SnapshotLost
    when ``stop`` is set, a connection is lost, or prepared XA transactions must be decided first (``xa.OldBranches``).
    """
    _require_decided(source)
    units = _build_units(tables, inseparable)
    if source.kind == "mariadb":
        return _open_mariadb(source, _pick_together(units), workers)
    if source.gtids:
        for _ in range(UNLOCKED_ATTEMPTS):
            snapshot = _open_unlocked(source, units, workers)
            if snapshot is not None:
                return snapshot
    return _open_locked(source, units, workers, stop)


Unit: TypeAlias = list[TableSchema]
"""Tables that are in a snapshot together or not at all."""


def _build_units(tables: Sequence[TableSchema], inseparable: Sequence[frozenset[TableName]]) -> list[Unit]:
    set_of = {name: number for number, names in enumerate(inseparable) for name in names}
    units: dict[object, Unit] = {}
    for table in tables:
        units.setdefault(set_of.get(table.source, table.source), []).append(table)
    return list(units.values())


# --- MySQL without a lock (SEMANTICS §2.2) ----------------------------------------------------------------------------


def _open_unlocked(source: SnapshotSource, units: Sequence[Unit], workers: int) -> MysqlSnapshot | None:
    """A snapshot of the tables that nothing touched while it opened; None where all were touched.

    A server adds a GTID to gtid_executed after the engine's commit, so every session sees all of it. It writes the log
    before the engine's commit, so what any session sees is in the log up to its end; gtid_executed read at the end may
    still lack it. The tables' position is the set at the start: of all that are exact, the one the log was read from.
    """
    with _sessions(source, workers) as sessions:
        position = _read_gtids(source, sessions[0])
        for session in sessions:
            session.begin()
        file, offset = _read_log_end(sessions[0])
        touched = source.touched_tables(position, file, offset)
        if touched is not None:
            quiet = [unit for unit in units if touched.isdisjoint(table.source for table in unit)]
            if quiet:
                return MysqlSnapshot(source, position, [table for unit in quiet for table in unit], sessions)
        _close(sessions)
        return None


def _read_gtids(source: SnapshotSource, session: MysqlSession) -> GtidPosition:
    return GtidPosition.of(source.server, _text(session.query("SELECT @@GLOBAL.gtid_executed")[0][0]))


def _read_log_end(session: MysqlSession) -> tuple[str, int]:
    """The file and offset behind the last transaction written to the log."""
    try:
        rows = session.query("SHOW BINARY LOG STATUS")
    except SnapshotLost:
        raise
    except SourceError:  # before MySQL 8.2
        rows = session.query("SHOW MASTER STATUS")
    if not rows:
        raise SourceError(
            "the source writes no binary log",
            hint="set log_bin at the source; SHOW BINARY LOG STATUS is empty",
        )
    return _text(rows[0][0]), int(rows[0][1])


# --- MySQL with a lock, for a moment ----------------------------------------------------------------------------------


def _open_locked(
    source: SnapshotSource, units: Sequence[Unit], workers: int, stop: threading.Event
) -> MysqlSnapshot:
    """Lock one table (or inseparable set) after the other until one lock is had in time; then all tables at once; else
    say who is in the way."""
    blocker = ""
    tables = [table for unit in units for table in unit]
    for number in range(LOCK_ROUNDS):
        for unit in units:
            names = ", ".join(f"{_quote_table(table.source)} READ" for table in unit)
            snapshot, blocker = _try_locked(source, f"LOCK TABLES {names}", unit, workers)
            if snapshot is not None:
                return snapshot
            if stop.wait(min(LONGEST_BACK_OFF, 0.1 * 2**number)):
                raise SnapshotLost("the load was stopped while it waited for a lock at the source")
    snapshot, _ = _try_locked(source, _LOCK_ALL, tables, workers)
    if snapshot is not None:
        return snapshot
    names = ", ".join(str(table.source) for table in tables)
    raise SourceLocked(
        f"no lock could be had in {LOCK_WAIT_SECONDS} s on any of {names}; {blocker}",
        hint="end the transaction that holds the table, or load when the source is quieter",
    )


def _try_locked(
    source: SnapshotSource, lock: str, tables: Sequence[TableSchema], workers: int
) -> tuple[MysqlSnapshot | None, str]:
    """One attempt at a lock; the snapshot is exact for ``tables`` because none of them can be written meanwhile.

    A writer gives its lock on the table back only after its commit is in the log, in the engine and in gtid_executed.
    """
    with _sessions(source, workers) as sessions, contextlib.closing(source.connect()) as control:
        if not _take_lock(control, lock):
            _close(sessions)
            return None, _find_blocker(control)
        try:
            for session in sessions:
                session.begin()
            place = _read_gtids(source, sessions[0]) if source.gtids else _read_log_end(sessions[0])
        finally:
            _query(control, "UNLOCK TABLES")
        return MysqlSnapshot(source, _build_position(source, place), tables, sessions), ""


def _take_lock(control: Any, lock: str) -> bool:
    """Whether the lock was had in time; the last resort, which needs RELOAD, may also be denied. Raises SourceError."""
    _query(control, f"SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}")
    try:
        with control.cursor() as cursor:
            cursor.execute(lock)
    except pymysql.MySQLError as error:
        code = error.args[0]
        if code == _LOCK_WAIT or (code in _DENIED and lock == _LOCK_ALL):
            return False
        if code in _DENIED:
            raise SourceError(
                f"the source refuses {lock}: {error.args[1]} (error {code})",
                hint=f"run at the source: {_build_grants(control, lock)}",
            ) from None
        raise build_error(error) from None
    return True


def _build_grants(control: Any, lock: str) -> str:
    """The right to lock the tables that ``lock`` names, for the account of this session."""
    account = spell_account(str(_query(control, "SELECT CURRENT_USER()")[0][0]))
    databases = dict.fromkeys(re.findall(r"(`(?:[^`]|``)+`)\.`", lock))
    return " ".join(f"GRANT LOCK TABLES ON {name}.* TO {account};" for name in databases)


def _build_position(source: SnapshotSource, place: GtidPosition | tuple[str, int]) -> Position:
    """Asking for the age of a file takes a dump of its own: not while the lock is held."""
    if isinstance(place, GtidPosition):
        return place
    file, offset = place
    return FilePosition(source.server, file, source.file_created(file), offset)


_BLOCKERS: Final = (
    "SELECT p.ID, p.USER, p.HOST, t.trx_started FROM information_schema.INNODB_TRX t"
    " JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id"
    " WHERE p.ID <> CONNECTION_ID() ORDER BY t.trx_started LIMIT 1"
)


def _find_blocker(control: Any) -> str:
    """Words for the oldest open transaction, the likeliest holder of the lock."""
    try:
        rows = _query(control, _BLOCKERS)
    except SourceError:
        return "grant PROCESS to the account to have the holder named"
    if not rows:
        return "the holder is gone by now"
    number, user, host, since = map(_text, rows[0])
    return f"the oldest open transaction is that of connection {number}, {user}@{host}, since {since}"


# --- MariaDB (SEMANTICS §2.3) -----------------------------------------------------------------------------------------


def _open_mariadb(source: SnapshotSource, tables: Sequence[TableSchema], workers: int) -> MysqlSnapshot:
    """All of ``tables`` at one position, in as many sessions as report that position, at least one."""
    with _sessions(source, workers) as sessions:
        places: list[tuple[str, int]] = []
        for _ in range(SAME_POSITION_ATTEMPTS):
            for session in sessions:
                session.begin()
            places = [_read_snapshot_place(session) for session in sessions]
            if len(set(places)) == 1:
                break
        place, same = _largest_group(places, sessions)
        _close([session for session in sessions if session not in same])
        file, offset = place
        rows = same[0].query(f"SELECT BINLOG_GTID_POS('{file}', {offset})")
        if rows[0][0] is None:
            raise SourceError(
                f"the source does not know the GTIDs at {file}:{offset}, where its snapshot stands"
            )
        position = MariadbPosition.of(source.server, _text(rows[0][0]))
        return MysqlSnapshot(source, position, tables, same)


def _pick_together(units: Sequence[Unit]) -> list[TableSchema]:
    """A snapshot keeps the lock of every table it has read, and is given up as a whole: a large table has its own, small
    ones share one, for they are soon read again."""
    if sum(table.rows_estimate for table in units[0]) > SHARED_ROWS:
        return units[0]
    return [table for unit in units if sum(t.rows_estimate for t in unit) <= SHARED_ROWS for table in unit]


def _largest_group(
    places: Sequence[tuple[str, int]], sessions: Sequence[MysqlSession]
) -> tuple[tuple[str, int], list[MysqlSession]]:
    pairs = sorted(zip(places, range(len(sessions)), strict=True))
    groups = [
        (place, [sessions[number] for _, number in group])
        for place, group in itertools.groupby(pairs, key=lambda pair: pair[0])
    ]
    return max(groups, key=lambda group: len(group[1]))


def _read_snapshot_place(session: MysqlSession) -> tuple[str, int]:
    rows = session.query("SHOW STATUS LIKE 'binlog_snapshot_%'")
    values = {_text(name).lower(): _text(value) for name, value in rows}
    file = values.get("binlog_snapshot_file", "")
    if not re.fullmatch(r"[^'\\]+\.[0-9]+", file):
        raise SourceError(
            f"the source's snapshot has no place in a binary log ({file!r})", hint="set log_bin at the source"
        )
    return file, int(values["binlog_snapshot_position"])


# --- sessions ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sessions(source: SnapshotSource, workers: int) -> Iterator[list[MysqlSession]]:
    """Fresh sessions, closed when the block fails: an open snapshot holds back the source's purge."""
    sessions: list[MysqlSession] = []
    try:
        for _ in range(max(1, workers)):
            sessions.append(MysqlSession(source.connect(), source.kind))
        yield sessions
    except BaseException:
        _close(sessions)
        raise


def _close(sessions: Sequence[MysqlSession]) -> None:
    for session in sessions:
        session.close()


def _apply_settings(connection: Any, kind: str) -> None:
    """Values as the log holds them: UTC, bytes as stored, no mode that changes what a SELECT shows."""
    longest = "max_execution_time" if kind == "mysql" else "max_statement_time"
    isolation = "transaction_isolation" if kind == "mysql" else "tx_isolation"
    _query(
        connection,
        "SET SESSION time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES', character_set_results = NULL,"
        f" net_write_timeout = 3600, net_read_timeout = 3600, wait_timeout = 86400, {longest} = 0,"
        f" {isolation} = 'REPEATABLE-READ', lock_wait_timeout = {LOCK_WAIT_SECONDS},"
        " sql_select_limit = 18446744073709551615, sql_big_selects = 1",
    )


def _require_decided(source: SnapshotSource) -> None:
    """What was prepared before the stream began is in no snapshot until it is decided (SEMANTICS §1.2)."""
    with contextlib.closing(source.connect()) as control:
        try:
            with control.cursor() as cursor:
                cursor.execute(
                    "XA RECOVER CONVERT XID" if source.kind == "mysql" else "XA RECOVER FORMAT='SQL'"
                )
                rows = cursor.fetchall()
        except pymysql.MySQLError as error:
            if error.args[0] not in {1401, *_DENIED}:
                raise build_error(error) from None
            raise SourceError(
                f"the source does not let this account see prepared XA transactions: {error.args[1]}",
                hint="run at the source: GRANT XA_RECOVER_ADMIN ON *.* TO <the account in the pipeline file>",
            ) from None
    source.branches.require_decided(_format_branch(row) for row in rows)


def _format_branch(row: Sequence[Any]) -> str:
    """The name as XA COMMIT takes it. MariaDB gives it so; MySQL gives lengths and hexadecimal digits."""
    format_id, gtrid, _, data = row
    text = _text(data)
    if not text.startswith("0x"):
        return text
    return format_xid(Xid(int(format_id), bytes.fromhex(text[2:])[:gtrid], bytes.fromhex(text[2:])[gtrid:]))


# --- statements -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except pymysql.MySQLError as error:
        raise build_error(error) from None


def _query(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    with _errors(), connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _quote_table(name: TableName) -> str:
    return f"{quote_name(name.schema)}.{quote_name(name.table)}"


def _build_select(table: TableSchema, columns: Sequence[Column]) -> bytes:
    # Columns are named through their table's name alone: no alias, or ORDER BY would sort the shown text.
    expressions = ",".join(select_expression(column) for column in columns)
    return b"SELECT " + expressions.encode()


def _build_from(table: TableSchema, *, force: bool = False) -> bytes:
    """``force``: along the key's index, in whose order the target takes rows fastest."""
    parts = [(table.columns[ordinal].name, None) for ordinal in table.key]
    # The names of ``unique_keys`` are the target's.
    keys = [
        index.name
        for index in table.indexes
        if index.kind in ("primary", "unique")
        and [(part.column, part.prefix) for part in index.parts] == parts
    ]
    index = f" FORCE INDEX ({quote_name(keys[0])})" if force and keys else ""
    return f" FROM {_quote_table(table.source)}{index}".encode()


def _where(condition: bytes) -> bytes:
    return b" WHERE " + condition if condition else b""
