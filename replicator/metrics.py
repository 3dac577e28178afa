"""What one run counts about itself; written by the applying thread, read by the status row and the display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.lag import Lag
from replicator.model import Batch, TableName
from replicator.tablestate import Counts


@dataclass(slots=True)
class Metrics:
    """Counters of one run; written by the applying thread, read by any."""

    lag: Lag = field(default_factory=Lag)
    batches: int = 0
    transactions: int = 0
    rows: int = 0
    conflicts: Counter[str] = field(default_factory=Counter)
    applied: dict[TableName, Counts] = field(default_factory=dict)

    def add(self, batch: Batch, counts: Mapping[TableName, Counts], conflicts: Mapping[str, int]) -> None:
        """A batch is committed."""
        self.batches += 1
        self.transactions += batch.transactions
        self.rows += batch.rows
        self.conflicts.update(conflicts)
        for name, new in counts.items():
            self.applied[name] = Counts(*map(int.__add__, self.counts(name), new))
        self.lag.applied(batch.checkpoint.position, batch.newest_commit)

    def counts(self, name: TableName) -> Counts:
        """What was applied to one table in this run."""
        return self.applied.get(name, Counts())
