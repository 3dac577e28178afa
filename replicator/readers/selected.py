"""What the reader is asked for, and what it has seen: the selected tables, and the counters behind its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from replicator.model import TableName, TableSchema


@dataclass(slots=True)
class Counters:
    """What the reader has seen since it was made. ``skipped`` counts events by kind."""

    bytes_read: int = 0
    reconnects: int = 0
    transactions: int = 0
    rows: int = 0
    other_rows_events: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class Selection:
    """The tables whose changes are read; a table leaves with its schema change. ``fold``: names compare without case."""

    def __init__(self, tables: Iterable[TableSchema], *, fold: bool = False) -> None:
        self.fold = fold
        self.tables = {table.source: table for table in tables}
        self._by_name = {self._key(table.source): table for table in tables}

    def _key(self, name: TableName) -> TableName:
        return TableName(name.schema.casefold(), name.table.casefold()) if self.fold else name

    def find(self, schema: str, table: str) -> TableSchema | None:
        return self._by_name.get(self._key(TableName(schema, table)))

    def drop(self, names: Sequence[TableName]) -> None:
        for name in names:
            self.tables.pop(name, None)
            self._by_name.pop(self._key(name), None)
