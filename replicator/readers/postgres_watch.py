"""Looks at the catalog now and then: the stream tells of a changed table with its next row, of a dropped one never."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from replicator.model import TableName, TableSchema
from replicator.readers.selected import Selection

LOOK_SECONDS: Final = 10.0

Look = Callable[[Mapping[TableName, TableSchema]], tuple[int, dict[TableName, str]]]
"""From the tables to an LSN, and why which of them are no longer what their schemas say as of that LSN."""


class Watch:
    """What the last look found: tables to be paused once the stream has passed ``lsn``, which has all rows they had."""

    def __init__(self, look: Look, selection: Selection) -> None:
        self._look = look
        self._selection = selection
        self._looked = 0.0
        self.lsn = 0
        self.found: dict[TableName, str] = {}

    def is_due(self) -> bool:
        return not self.found and time.monotonic() - self._looked > LOOK_SECONDS

    def look(self) -> int:
        """Look; the LSN that the stream must reach before what was found counts, 0 where nothing was."""
        self._looked = time.monotonic()
        self.lsn, self.found = self._look(self._selection.tables)
        return self.lsn if self.found else 0

    def take(self) -> list[tuple[TableName, str]]:
        """What was found, of the tables that the stream itself has not paused meanwhile."""
        found, self.found = self.found, {}
        return [(name, reason) for name, reason in found.items() if name in self._selection.tables]
