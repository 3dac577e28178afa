"""In-memory parts for tests of what is built on this package: positions, tables and a source without a server.

They obey the same contracts as the real ones (readers/base.py) and are held to them by tests of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from replicator.model import (
    Changes,
    Column,
    Idle,
    Kind,
    Op,
    Position,
    Row,
    StreamItem,
    TableName,
    TableSchema,
    Transaction,
    UniqueKey,
)


@dataclass(frozen=True, slots=True)
class MemoryPosition:
    """The position after the ``number``-th transaction of a source in memory."""

    number: int

    def __str__(self) -> str:
        return f"memory:{self.number}"

    def covers(self, other: Position) -> bool:
        return self.number >= _number(other)

    def includes(self, after: Position) -> bool:
        return self.number >= _number(after)

    def meet(self, other: Position) -> Position:
        return MemoryPosition(min(self.number, _number(other)))


def _number(position: Position) -> int:
    if not isinstance(position, MemoryPosition):
        raise TypeError(f"not a position of a source in memory: {position}")
    return position.number


def build_table(name: str, *, columns: Sequence[Column] = (), schema: str = "app") -> TableSchema:
    """A table whose first column is its primary key; by default ``id`` (int) and ``v`` (text)."""
    chosen = tuple(columns) or (
        Column("id", Kind.INTEGER, "int", nullable=False),
        Column("v", Kind.TEXT, "varchar(50)", charset="utf8mb4"),
    )
    primary = UniqueKey("PRIMARY", (0,))
    return TableSchema(TableName(schema, name), name, chosen, key=(0,), unique_keys=(primary,))


def build_transaction(
    number: int, *changes: Changes, commit_time: int = 0, spilled: bool = False
) -> Transaction:
    """The ``number``-th transaction, committed at second ``number`` unless told otherwise."""
    rows = sum(part.rows for part in changes)
    size = sum(part.size for part in changes)
    commit = commit_time or number * 1_000_000
    return Transaction(MemoryPosition(number), commit, list(changes), rows, size, spilled)


def build_insert(table: TableSchema, *rows: Row) -> Changes:
    """Rows inserted, each counted as 100 bytes."""
    return Changes(table, Op.INSERT, (), list(rows), size=100 * len(rows))


def read_items(transactions: Iterable[Transaction]) -> Iterator[StreamItem]:
    """A stream that says these transactions, each followed by ``Idle``."""
    for transaction in transactions:
        yield transaction
        yield Idle(transaction.position)
