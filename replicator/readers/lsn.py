"""Positions of PostgreSQL sources: an LSN of one database of one cluster (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from replicator.errors import PositionLost
from replicator.model import Position

START_AGAIN: Final = "run `replicator drop`, then load again"

_STORED = re.compile(r"(postgres:\d+/.*) (\d+) ([0-9A-F]+/[0-9A-F]+)", re.DOTALL)


def parse_lsn(text: str) -> int:
    """``16/B374D848`` as the 64-bit number it is."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class LsnPosition:
    """Everything that committed before ``lsn``. ``server``: ``postgres:<system identifier>/<database>``."""

    server: str
    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.server} {self.timeline} {format_lsn(self.lsn)}"

    def covers(self, other: Position) -> bool:
        return self.lsn >= _lsn(other)

    def includes(self, after: Position) -> bool:
        """A transaction's position is the end of its commit record: SEMANTICS §2.1."""
        return _lsn(after) <= self.lsn

    def meet(self, other: Position) -> Position:
        return self if self.lsn <= _lsn(other) else other


def _lsn(position: Position) -> int:
    assert isinstance(position, LsnPosition)
    return position.lsn


def parse_position(text: str) -> LsnPosition:
    """Read back what ``str()`` stored. Raises PositionLost."""
    match = _STORED.fullmatch(text)
    if match is None:
        raise PositionLost(f"the stored position {text!r} is not PostgreSQL's", hint=START_AGAIN)
    return LsnPosition(match[1], int(match[2]), parse_lsn(match[3]))
