"""Snapshots of PostgreSQL sources: sessions that import what a slot exported, and stand at its consistent point.

Tables are cut by the pages they lie in and read with COPY. PostgreSQL has no error for a table that was rewritten behind
the snapshot, it reads as empty: after each chunk its file must still be the one the snapshot knows (SEMANTICS §2.7).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import psycopg

from replicator.errors import SnapshotBlocked, SnapshotLost
from replicator.model import Position, Row, TableName, TableSchema
from replicator.readers.base import KeyRange, SnapshotSession, TextBlock
from replicator.readers.postgres_giveway import GiveWay
from replicator.readers.postgres_mute import name_mute
from replicator.readers.postgres_rows import RowParser, build_parser
from replicator.readers.postgres_session import (
    Connection,
    Refused,
    build_locked,
    copy_lines,
    fetch,
    quote_literal,
    quote_name,
    quote_table,
)
from replicator.typemap.pgfields import find_fields

log = logging.getLogger("replicator")

BLOCK_LINES: Final = 2_000
LOCKED_SECONDS: Final = 600.0  # how long somebody may have a table for himself alone
RANGE_SCANS: Final = 140_000  # from this version on a range of ctid reads its pages only

# What holds a table's rows: itself, or its partitions.
_FILES: Final = (
    "SELECT t.relid FROM pg_partition_tree(%(table)s::regclass) t WHERE t.isleaf"
    " UNION SELECT %(table)s::regclass"
)
_PAGES: Final = (
    "SELECT coalesce(max(pg_relation_size(c.oid) / current_setting('block_size')::int8), 0) AS pages FROM pg_class c"
    f" WHERE c.oid IN ({_FILES})"
)
# A table that was dropped and made again is not in the snapshot's catalog at all.
_REWRITTEN: Final = (
    f"SELECT f.relid::regclass::text AS name FROM ({_FILES}) f LEFT JOIN pg_class c ON c.oid = f.relid"
    " WHERE c.oid IS NULL OR (c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid))"
)
# What LOAD DATA would read as a letter.
_UNKNOWN_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_MEANING: Final = {b"f": b"\f", b"v": b"\v"}


class PostgresSession:
    """One session inside a snapshot. One thread at a time."""

    def __init__(self, connection: Connection, snapshot: str, stop: threading.Event) -> None:
        self._connection = connection
        self._stop = stop
        self._parsers: dict[TableName, RowParser] = {}
        self._held: TableName | None = None
        self._is_wanted = False  # it was ended, for somebody waited for what it held
        self.number: int = connection.info.backend_pid
        with self._errors():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(snapshot)}".encode())

    def split(self, table: TableSchema, rows: int) -> Sequence[KeyRange]:
        """Ranges of pages; one range in which all is read where the source cannot read a range by itself."""
        with self._holding(table), self._errors():
            pages = int(fetch(self._connection, _PAGES, {"table": quote_table(table.source)})[0]["pages"])
        if self._connection.info.server_version < RANGE_SCANS or pages == 0:
            return [KeyRange(None, None)]
        per_page = max(1, table.rows_estimate) / pages if table.rows_estimate else 50.0
        width = max(1, int(rows / per_page))
        cuts: list[tuple[int] | None] = [None, *((page,) for page in range(width, pages, width)), None]
        return [KeyRange(low, high) for low, high in itertools.pairwise(cuts)]

    def read(self, table: TableSchema, span: KeyRange) -> Iterator[list[Row]]:
        parse = self._parsers.get(table.source)
        if parse is None:
            parse = self._parsers[table.source] = build_parser(str(table.source), table.columns)
        for lines in self._copy(table, ["{}"] * len(table.columns), span):
            yield parse(lines)

    def read_text(self, table: TableSchema, span: KeyRange) -> Iterator[TextBlock] | None:
        fields = find_fields(table)
        if fields is None:
            return None
        return (join_lines(lines) for lines in self._copy(table, fields, span))

    def _copy(self, table: TableSchema, fields: Sequence[str], span: KeyRange) -> Iterator[list[bytes]]:
        """The lines of a range: of each column what its field says, ``{}`` being its name."""
        values = ", ".join(
            field.replace("{}", quote_name(column.name))
            for field, column in zip(fields, table.columns, strict=True)
        )
        try:
            with self._holding(table):
                with self._errors():
                    only = "" if self._is_partitioned(table) else "ONLY "
                sql = f"COPY (SELECT {values} FROM {only}{quote_table(table.source)}{_where(span)}) TO STDOUT"
                yield from copy_lines(self._connection, sql, BLOCK_LINES)
        except Refused as error:
            with self._errors():
                raise name_mute(self._connection, [table], error) from error

    @contextlib.contextmanager
    def _holding(self, table: TableSchema) -> Iterator[None]:
        """Keep the table's file from being exchanged while it is read, and look at last whether it was before.

        The lock is given back, so that an ALTER never waits long (SEMANTICS §2.6); the snapshot stays.
        """
        self._held = table.source
        try:
            with self._errors():
                self._connection.execute("SAVEPOINT chunk")
                self._lock(table)
            yield
            self._verify(table)
        except SnapshotLost:
            if self._is_wanted:
                raise SnapshotLost(
                    f"the snapshot was given up: a statement at the source waited for our reading of {table.source}"
                ) from None
            raise
        finally:
            with contextlib.suppress(psycopg.Error):  # what was read is whole; the next use will say it
                self._connection.execute("ROLLBACK TO SAVEPOINT chunk; RELEASE SAVEPOINT chunk")
            self._held = None

    def _lock(self, table: TableSchema) -> None:
        """Wait for who has the table for himself alone, by name; nobody who reads or writes queues behind us."""
        sql = f"LOCK TABLE {quote_table(table.source)} IN ACCESS SHARE MODE".encode()
        since = time.monotonic()
        while True:
            try:
                self._connection.execute(sql)
                return
            except psycopg.errors.LockNotAvailable:
                self._connection.execute("ROLLBACK TO SAVEPOINT chunk")
            locked = build_locked(self._connection, [table.source], f"{table.source} cannot be read")
            if self._stop.is_set() or time.monotonic() - since > LOCKED_SECONDS:
                raise SnapshotBlocked(locked.message)
            log.warning("load: %s", locked.message)

    def held(self) -> TableName | None:
        """The table that it may have locked."""
        return self._held

    def give_way(self) -> None:
        """It is about to be ended, for somebody waits for what it holds."""
        self._is_wanted = True

    def _is_partitioned(self, table: TableSchema) -> bool:
        rows = fetch(
            self._connection,
            "SELECT relkind = 'p' AS found FROM pg_class WHERE oid = %s::regclass",
            (quote_table(table.source),),
        )
        return any(row["found"] for row in rows)

    def _verify(self, table: TableSchema) -> None:
        with self._errors():
            rows = fetch(self._connection, _REWRITTEN, {"table": quote_table(table.source)})
        if rows:
            raise SnapshotLost(f"{rows[0]['name']} was rewritten or emptied behind the snapshot")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            text = " ".join(str(error).split())
            raise SnapshotLost(f"the snapshot is gone: {text}") from error

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.close()


class PostgresSnapshot:
    """Sessions that all see ``tables`` exactly as of ``position``, and give way to the source's own work.

    ``connect`` opens a session with autocommit on.
    """

    def __init__(
        self,
        position: Position,
        tables: Sequence[TableSchema],
        sessions: Sequence[PostgresSession],
        connect: Callable[[], Connection],
    ) -> None:
        self.position = position
        self.tables = tuple(tables)
        self.sessions: tuple[SnapshotSession, ...] = tuple(sessions)
        self._sessions = tuple(sessions)
        self._give_way = GiveWay(connect, sessions)

    def close(self) -> None:
        self._give_way.close()
        for session in self._sessions:
            session.close()


def join_lines(lines: Sequence[bytes]) -> TextBlock:
    """Lines of COPY as LOAD DATA reads them: it knows no ``\\f`` and no ``\\v``, and takes both for letters."""
    data = b"".join(lines)
    if b"\\f" in data or b"\\v" in data:
        data = _UNKNOWN_ESCAPE.sub(lambda match: _MEANING.get(match[1], match[0]), data)
    return TextBlock(data, len(lines))


def _where(span: KeyRange) -> str:
    """The condition of a range of pages: ``low <= page < high``."""
    parts = []
    if span.low is not None:
        parts.append(f"ctid >= '({span.low[0]!r},0)'::tid")
    if span.high is not None:
        parts.append(f"ctid < '({span.high[0]!r},0)'::tid")
    return " WHERE " + " AND ".join(parts) if parts else ""
