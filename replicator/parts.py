"""Parts of a transaction: what it does to some of its tables, and whether it only empties one (pure).

Below ``stream``, which sends the parts on different ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from replicator.model import Changes, Op, TableName, TableSchema, Transaction


def keep(transaction: Transaction, tables: frozenset[TableName]) -> Transaction:
    """The part of a transaction that concerns ``tables``."""
    changes = Passing(transaction.changes, tables)
    rows = size = 0
    for part in changes:
        rows += part.rows
        size += part.size
    kept: Iterable[Changes] = changes if transaction.spilled else list(changes)
    return transaction._replace(changes=kept, rows=rows, size=size)


@dataclass(frozen=True, slots=True)
class Passing:
    """The changes of some tables in a transaction; can be iterated again."""

    changes: Iterable[Changes]
    tables: frozenset[TableName]

    def __iter__(self) -> Iterator[Changes]:
        return (c for c in self.changes if c.table.source in self.tables)


def find_truncated(transaction: Transaction) -> TableSchema | None:
    """The table that a transaction empties: a source commits each TRUNCATE by itself, so it does nothing else."""
    if transaction.size or transaction.rows != 1:
        return None
    change = next(iter(transaction.changes))
    return change.table if change.op is Op.TRUNCATE else None
