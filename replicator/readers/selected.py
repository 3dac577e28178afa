"""What the reader is asked for, and what it has seen: the selected tables, and the counters behind its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from replicator.model import Position, TableName, TableSchema


@dataclass(slots=True)
class Counters:
    """What the reader has seen since it was made. ``skipped`` counts events by kind."""

    bytes_read: int = 0
    reconnects: int = 0
    transactions: int = 0
    rows: int = 0
    other_rows_events: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def _reach_nothing(_: Sequence[TableName]) -> str:
    return ""


class Selection:
    """The tables whose changes are read; a table leaves with its schema change. ``fold``: names compare without case.

    ``explain_reach`` says why a statement that names these other tables may have changed further ones, '' when not.
    ``since`` has the positions at which tables had the shape they are described with: what the log says of their shape
    at or before that is past.
    """

    def __init__(
        self,
        tables: Iterable[TableSchema],
        *,
        fold: bool = False,
        explain_reach: Callable[[Sequence[TableName]], str] = _reach_nothing,
        since: Mapping[TableName, Position] | None = None,
    ) -> None:
        self.fold = fold
        self._since = since or {}
        self._explain_reach = explain_reach
        self._plain: set[TableName] = set()  # other tables, found to reach no further
        self.tables = {table.source: table for table in tables}
        self._by_name = {self._key(table.source): table for table in tables}

    def _key(self, name: TableName) -> TableName:
        return TableName(name.schema.casefold(), name.table.casefold()) if self.fold else name

    def find(self, schema: str, table: str) -> TableSchema | None:
        return self._by_name.get(self._key(TableName(schema, table)))

    def is_past(self, name: TableName, end: Position) -> bool:
        """Whether a group that ends at ``end`` is older than the shape this table is described with."""
        since = self._since.get(name)
        return since is not None and since.includes(end)

    def drop(self, names: Sequence[TableName]) -> None:
        for name in names:
            self.tables.pop(name, None)
            self._by_name.pop(self._key(name), None)

    def explain_reach(self, names: Sequence[TableName]) -> str:
        """Why a statement that names these other tables may have changed selected ones; '' when it has not."""
        asked = [name for name in names if name not in self._plain]
        reason = self._explain_reach(asked) if asked else ""
        if not reason:
            self._plain.update(asked)
        return reason

    def forget_reach(self) -> None:
        """A view or a trigger may have been made."""
        self._plain.clear()
