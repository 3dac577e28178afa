"""Reading from real servers in tests: readers of test accounts, streams up to now, and rows replayed from changes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from replicator.config import Source
from replicator.config.keys import SourceType
from replicator.config.kinds import Secret
from replicator.model import (
    Op,
    Position,
    Row,
    SchemaChange,
    StreamItem,
    TableName,
    TableSchema,
    Transaction,
)
from replicator.readers.mysql import MysqlReader
from replicator.servers import Server
from replicator.tls import Tls, TlsMode
from tests.accounts import Account

Visit = Callable[[StreamItem], None]


def make_source(
    server: Server, user: str, password: str, *, tls: Tls | None = None, port: int | None = None
) -> Source:
    return Source(
        host=server.host,
        port=port or server.port,
        user=user,
        password=Secret(password),
        database=None,
        tls=tls or Tls(TlsMode.PREFERRED),
        type=SourceType(server.kind),
    )


def open_reader(account: Account, short_id: str = "", spill_dir: Path | None = None) -> MysqlReader:
    """A reader with the least rights that reading takes."""
    source = make_source(account.server, account.user, account.password)
    return MysqlReader(source, short_id=short_id, spill_dir=spill_dir)


def open_root_reader(server: Server, short_id: str = "") -> MysqlReader:
    return MysqlReader(make_source(server, server.user, server.password), short_id=short_id)


def describe(reader: MysqlReader, schema: str, *names: str) -> list[TableSchema]:
    return list(reader.describe({TableName(schema, name): name for name in names}))


def read_until(
    reader: MysqlReader,
    start: Position,
    tables: list[TableSchema],
    end: Position | None = None,
    *,
    visit: Visit | None = None,
) -> list[Transaction | SchemaChange]:
    """Everything after ``start`` up to ``end`` (default: the source's position now). ``visit`` sees every item."""
    wanted = end or reader.position()
    items = list[Transaction | SchemaChange]()
    with contextlib.closing(reader.read(start, tables, threading.Event())) as stream:
        for item in stream:
            if isinstance(item, Transaction | SchemaChange):
                items.append(item)
            if visit is not None:
                visit(item)
            if item.position.covers(wanted):
                break
    return items


def read_transactions(
    reader: MysqlReader, start: Position, tables: list[TableSchema], end: Position | None = None
) -> list[Transaction]:
    items = read_until(reader, start, tables, end)
    assert all(isinstance(item, Transaction) for item in items), items
    return [item for item in items if isinstance(item, Transaction)]


def list_changes(items: list[Transaction]) -> list[tuple[str, str, list[Row], list[Row]]]:
    """(table, op, before, after) of every change, in order."""
    return [
        (c.table.source.table, c.op.name, list(c.before), list(c.after))
        for item in items
        for c in item.changes
    ]


def replay(items: list[Transaction], rows: dict[str, dict[Any, Row]]) -> None:
    """Apply changes to ``rows`` (table → key → row), whose key is the first column; each before image must fit."""
    for item in items:
        for change in item.changes:
            table = rows.setdefault(change.table.source.table, {})
            if change.op is Op.TRUNCATE:
                table.clear()
            for row in change.before:
                assert table.pop(row[0]) == row
            for row in change.after:
                assert row[0] not in table
                table[row[0]] = row


def select_rows(server: Server, schema: str, table: str) -> dict[Any, Row]:
    """The source's rows of a table of integers and text, as canonical rows by their first column."""
    rows = server.execute(f"SELECT * FROM {schema}.{table}")
    return {row[0]: tuple(v.encode() if isinstance(v, str) else v for v in row) for row in rows}


def follow(reader: MysqlReader, start: Position, tables: list[TableSchema]) -> Iterator[StreamItem]:
    """The stream, for tests that step through it by hand."""
    return reader.read(start, tables, threading.Event())
