"""XA transactions between their two halves: what XA PREPARE leaves behind until XA COMMIT or XA ROLLBACK (SEMANTICS §1.2).

A prepared group's changes are kept here, in memory or on disk, and leave as one transaction at the XA COMMIT. Until then
the group's start holds the place where reading begins again after a restart. ``OldBranches`` is the other half of the
rule: no snapshot is taken while something is undecided that was prepared before we read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from replicator.errors import SnapshotLost, SourceError
from replicator.model import Changes, Position
from replicator.readers.binlog import Xid
from replicator.readers.gtid import GtidPosition, GtidSet, MysqlPosition
from replicator.spill import Spill

DECISION_SECONDS: Final = 600.0  # how long a load waits for what was prepared before it

_DECISION: Final = re.compile(
    rb"XA\s+(?:COMMIT|ROLLBACK)\s+X'([0-9a-f]*)'\s*,\s*X'([0-9a-f]*)'\s*,\s*(-?[0-9]+)", re.IGNORECASE
)


def parse_decision(statement: bytes) -> Xid | None:
    """The name in ``XA COMMIT X'..',X'..',n``, which is how both products log it; None when it is written otherwise."""
    match = _DECISION.match(statement)
    if match is None:
        return None
    # XA PREPARE's event has the format id without its sign.
    return Xid(int(match[3]) & 0xFFFFFFFF, bytes.fromhex(match[1].decode()), bytes.fromhex(match[2].decode()))


def format_xid(xid: Xid) -> str:
    """As XA COMMIT takes it."""
    return f"X'{xid.gtrid.hex()}',X'{xid.bqual.hex()}',{xid.format_id}"


@dataclass(slots=True)
class Group:
    """One prepared group: ``start`` is the position before it, ``end`` the one after its XA PREPARE. ``decided`` is where
    its decision ended; ``spilled``: ``store`` is on disk. ``size`` is bytes of row images."""

    xid: Xid
    start: MysqlPosition
    end: MysqlPosition
    store: list[Changes] | Spill
    rows: int
    size: int
    decided: MysqlPosition | None = None

    def close(self) -> None:
        if isinstance(self.store, Spill):
            self.store.close()


class Undecided:
    """The prepared groups of one stream, and those whose decision may not be stored yet.

    It outlives the dump connection. What the groups hold in memory together is bounded by ``memory`` bytes of row images;
    beyond it a group goes to disk, as a large transaction does.
    """

    def __init__(self, memory: int, spill_dir: Path | None = None) -> None:
        self._memory = memory
        self._spill_dir = spill_dir
        self._groups: dict[Xid, Group] = {}
        self._leaving: list[Group] = []

    def keep(self, group: Group) -> None:
        """A group was prepared. One of the same name is an earlier reading of it."""
        earlier = self._groups.pop(group.xid, None)
        if earlier is not None:
            earlier.close()
        held = sum(other.size for other in self._groups.values() if not isinstance(other.store, Spill))
        if isinstance(group.store, list) and group.store and held + group.size > self._memory:
            group.store = Spill.of(group.store, self._spill_dir)
        self._groups[group.xid] = group

    def decide(self, xid: Xid, place: MysqlPosition) -> Group | None:
        """The group that the decision ending at ``place`` is about; None where its XA PREPARE was never read."""
        group = self._groups.pop(xid, None)
        if group is not None:
            group.decided = place
            self._leaving.append(group)
        return group

    def restart_from(self, position: MysqlPosition, *, keep: bool) -> MysqlPosition:
        """Where reading must begin so that all that is undecided at ``position`` is read again.

        ``keep``: an earlier position may yet be asked about; otherwise what is decided at this one is forgotten.
        """
        if not self._groups and not self._leaving:
            return position
        leaving = [group for group in self._leaving if not _is_decided(group, position)]
        if not keep:
            self._leaving = leaving
        pinning = [group for group in (*self._groups.values(), *leaving) if position.includes(group.end)]
        if isinstance(position, GtidPosition):
            return _leave_out(position, pinning)
        start: MysqlPosition = position
        for group in pinning:
            start = _meet(start, group.start)
        return start

    def names(self) -> list[str]:
        """The undecided ones with rows of selected tables, as XA COMMIT takes them."""
        return [format_xid(group.xid) for group in list(self._groups.values()) if group.rows]

    def close(self) -> None:
        for group in self._groups.values():
            group.close()
        self._groups.clear()
        self._leaving.clear()


def _is_decided(group: Group, position: MysqlPosition) -> bool:
    return group.decided is not None and position.includes(group.decided)


def _leave_out(position: GtidPosition, groups: Iterable[Group]) -> GtidPosition:
    """The source sends again exactly what is left out of the set: nothing else need be read again."""
    gtids = position.gtids
    for group in groups:
        if isinstance(group.end, GtidPosition):
            gtids = gtids.subtract(GtidSet({group.end.key: ((group.end.last, group.end.last),)}))
    return GtidPosition(position.server, gtids)


def _meet(mine: MysqlPosition, other: Position) -> MysqlPosition:
    lower = mine.meet(other)
    assert isinstance(lower, MysqlPosition)
    return lower


class OldBranches:
    """XA transactions that were prepared before the stream began: their rows are in no log we read, and in a snapshot
    only once they are decided.

    ``list_prepared`` asks the source for the names of all prepared ones (XA RECOVER). What the first answer holds must
    be decided before a snapshot is taken; what was prepared since, the stream has read.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._old: frozenset[str] | None = None
        self._since = 0.0

    def require_decided(self, prepared: Iterable[str]) -> None:
        """Raise SnapshotLost, to be tried again, while some are left; SourceError when that takes too long."""
        if self._old is None:
            self._old, self._since = frozenset(prepared), self._clock()
        else:
            self._old &= frozenset(prepared)
        if self._old:
            self._refuse(self._old)

    def _refuse(self, old: frozenset[str]) -> NoReturn:
        shown = ", ".join(sorted(old)[:5]) + (", …" if len(old) > 5 else "")
        message = (
            f"{len(old)} prepared XA transaction(s) at the source ({shown}): their rows are logged already, and no "
            "snapshot shows them"
        )
        if self._clock() - self._since < DECISION_SECONDS:
            raise SnapshotLost(message)
        raise SourceError(
            f"{message}; they were not decided in {DECISION_SECONDS:.0f} s",
            hint="run XA RECOVER at the source and XA COMMIT or XA ROLLBACK each of them, then start again",
        )
