"""Snapshots of PostgreSQL sources: sessions that import what a slot exported, and stand at its consistent point.

Tables are cut by the pages they lie in and read with COPY. PostgreSQL has no error for a table that was rewritten behind
the snapshot, it reads as empty: after each chunk its file must still be the one the snapshot knows (SEMANTICS §2.7).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from replicator.errors import SnapshotLost
from replicator.model import Position, Row, TableName, TableSchema
from replicator.readers.base import KeyRange, SnapshotSession
from replicator.readers.postgres_rows import RowParser, build_parser
from replicator.readers.postgres_session import (
    Connection,
    copy_lines,
    fetch,
    quote_literal,
    quote_name,
    quote_table,
)

BLOCK_LINES: Final = 2_000
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
_REWRITTEN: Final = (
    f"SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.oid IN ({_FILES})"
    " AND c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid)"
)


class PostgresSession:
    """One session inside a snapshot. One thread at a time."""

    def __init__(self, connection: Connection, snapshot: str) -> None:
        self._connection = connection
        self._parsers: dict[TableName, RowParser] = {}
        with self._errors():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(snapshot)}".encode())

    def split(self, table: TableSchema, rows: int) -> Sequence[KeyRange]:
        """Ranges of pages; one range in which all is read where the source cannot read a range by itself."""
        with self._errors():
            self._hold(table)
            pages = int(fetch(self._connection, _PAGES, {"table": quote_table(table.source)})[0]["pages"])
            self._verify(table)
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
        columns = ", ".join(quote_name(column.name) for column in table.columns)
        with self._errors():
            self._hold(table)
            only = "" if self._is_partitioned(table) else "ONLY "
        sql = f"COPY (SELECT {columns} FROM {only}{quote_table(table.source)}{_where(span)}) TO STDOUT"
        for lines in copy_lines(self._connection, sql, BLOCK_LINES):
            yield parse(lines)
        with self._errors():
            self._verify(table)

    def _is_partitioned(self, table: TableSchema) -> bool:
        rows = fetch(
            self._connection,
            "SELECT relkind = 'p' AS found FROM pg_class WHERE oid = %s::regclass",
            (quote_table(table.source),),
        )
        return bool(rows[0]["found"])

    def _hold(self, table: TableSchema) -> None:
        """Keep the table's file from being exchanged while it is read; the transaction's end lets go."""
        self._connection.execute(f"LOCK TABLE {quote_table(table.source)} IN ACCESS SHARE MODE".encode())

    def _verify(self, table: TableSchema) -> None:
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
    """Sessions that all see ``tables`` exactly as of ``position``."""

    def __init__(
        self, position: Position, tables: Sequence[TableSchema], sessions: Sequence[PostgresSession]
    ) -> None:
        self.position = position
        self.tables = tuple(tables)
        self.sessions: tuple[SnapshotSession, ...] = tuple(sessions)
        self._sessions = tuple(sessions)

    def close(self) -> None:
        for session in self._sessions:
            session.close()


def _where(span: KeyRange) -> str:
    """The condition of a range of pages: ``low <= page < high``."""
    parts = []
    if span.low is not None:
        parts.append(f"ctid >= '({span.low[0]!r},0)'::tid")
    if span.high is not None:
        parts.append(f"ctid < '({span.high[0]!r},0)'::tid")
    return " WHERE " + " AND ".join(parts) if parts else ""
