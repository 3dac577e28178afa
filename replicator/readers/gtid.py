"""Positions of MySQL and MariaDB (pure): what the reader stamps on transactions and the checkpoint stores.

Three kinds, each bound to the identity of one server (I1): a GTID set (MySQL with gtid_mode=ON), one GTID per domain
(MariaDB), and a place in a binlog file (MySQL without GTIDs), which is bound to the file's creation time as well: the
same name and offset exist again after a reset.

A position is made after every transaction, so making one must not copy a set: a ``GtidPosition`` is a set and one
interval that grows beside it, and the two become one set only when the interval cannot grow.

Stored form: ``<kind>:<value>;server=<identity>``, with ``gtid:``, ``mariadb:`` and ``file:`` as kinds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from typing import TypeVar

from replicator.errors import PositionLost
from replicator.model import Position

Interval = tuple[int, int]
"""First and last transaction number, both included."""

_SID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_INTERVAL = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_NUMBER = struct.Struct("<Q")
_RANGE = struct.Struct("<qq")
_TAGGED_SET = 1 << 56 | 1  # of the number of sources in a set with tags: its first and last byte


class GtidSet:
    """An immutable set of MySQL GTIDs. ``sources`` maps ``uuid`` or ``uuid:tag`` to sorted, disjoint, never adjacent
    intervals.
    """

    __slots__ = ("sources",)

    def __init__(self, sources: Mapping[str, tuple[Interval, ...]] | None = None) -> None:
        self.sources: dict[str, tuple[Interval, ...]] = dict(sources or {})

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """Read a set as servers print it, in any order and overlapping. Raises ValueError naming the bad part."""
        found: dict[str, list[Interval]] = {}
        for member in re.split(r"\s*,\s*", text.strip().lower()):
            if member:
                for key, interval in _parse_member(member):
                    found.setdefault(key, []).append(interval)
        return cls({key: _normalise(intervals) for key, intervals in found.items()})

    def __str__(self) -> str:
        members: dict[str, list[str]] = {}
        for key in sorted(self.sources):
            sid, _, tag = key.partition(":")
            numbers = [f"{low}-{high}" if high > low else str(low) for low, high in self.sources[key]]
            members.setdefault(sid, [sid]).extend([tag, *numbers] if tag else numbers)
        return ",".join(":".join(parts) for parts in members.values())

    def __repr__(self) -> str:
        return f"GtidSet({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidSet) and self.sources == other.sources

    def __hash__(self) -> int:
        return hash(frozenset(self.sources.items()))

    def __bool__(self) -> bool:
        return bool(self.sources)

    def count(self) -> int:
        """How many GTIDs are in the set."""
        return sum(high - low + 1 for intervals in self.sources.values() for low, high in intervals)

    def contains(self, key: str, gno: int) -> bool:
        """Whether one GTID is in the set; ``key`` is ``uuid`` or ``uuid:tag``."""
        return any(low <= gno <= high for low, high in self.sources.get(key, ()))

    def covers(self, other: GtidSet) -> bool:
        """Whether every GTID of ``other`` is in this set."""
        return not other.subtract(self).sources

    def add(self, key: str, first: int, last: int) -> GtidSet:
        """This set and the GTIDs ``first`` to ``last`` of one source."""
        grown = GtidSet(self.sources)
        grown.sources[key] = _normalise([*self.sources.get(key, ()), (first, last)])
        return grown

    def union(self, other: GtidSet) -> GtidSet:
        grown = GtidSet(self.sources)
        for key, intervals in other.sources.items():
            grown.sources[key] = _normalise([*self.sources.get(key, ()), *intervals])
        return grown

    def subtract(self, other: GtidSet) -> GtidSet:
        """The GTIDs of this set that are not in ``other``."""
        left: dict[str, tuple[Interval, ...]] = {}
        for key, intervals in self.sources.items():
            kept = _subtract(intervals, other.sources.get(key, ()))
            if kept:
                left[key] = kept
        return GtidSet(left)

    def intersection(self, other: GtidSet) -> GtidSet:
        return self.subtract(self.subtract(other))

    def encode(self) -> bytes:
        """The set as a dump command carries it. Tags (MySQL 8.3) have a form of their own, which older servers do not
        know: it is used where the set has one.
        """
        tagged = any(":" in key for key in self.sources)
        count = len(self.sources)
        pieces = [_NUMBER.pack(_TAGGED_SET | count << 8 if tagged else count)]
        for key in sorted(self.sources):
            sid, _, tag = key.partition(":")
            intervals = self.sources[key]
            pieces.append(bytes.fromhex(sid.replace("-", "")))
            if tagged:  # the length as the server's serialization library writes one below 128
                pieces.append(bytes((len(tag) << 1,)) + tag.encode("ascii"))
            pieces.append(_NUMBER.pack(len(intervals)))
            pieces += [_RANGE.pack(low, high + 1) for low, high in intervals]
        return b"".join(pieces)


def _parse_member(member: str) -> Iterable[tuple[str, Interval]]:
    """The intervals of one ``uuid:1-3:5:tag:1-2`` under their keys."""
    sid, *parts = re.split(r"\s*:\s*", member)
    if not _SID.fullmatch(sid) or not parts:
        raise ValueError(f"{member!r} is not a set of GTIDs of one server")
    key = sid
    for part in parts:
        if match := _INTERVAL.fullmatch(part):
            low, high = int(match[1]), int(match[2] or match[1])
            if low < 1:
                raise ValueError(f"{member!r}: transaction numbers begin at 1")
            if low <= high:  # servers read an interval that runs backwards as an empty one
                yield key, (low, high)
        elif _TAG.fullmatch(part):
            key = f"{sid}:{part}"
        else:
            raise ValueError(f"{member!r}: {part!r} is neither an interval nor a tag")


def _normalise(intervals: list[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _subtract(intervals: tuple[Interval, ...], holes: tuple[Interval, ...]) -> tuple[Interval, ...]:
    kept: list[Interval] = []
    for low, high in intervals:
        for hole_low, hole_high in holes:
            if hole_high < low:
                continue
            if hole_low > high:
                break
            if hole_low > low:
                kept.append((low, hole_low - 1))
            low = hole_high + 1
        if low <= high:
            kept.append((low, high))
    return tuple(kept)


class GtidPosition:
    """A MySQL GTID set: ``base`` and the GTIDs ``first`` to ``last`` of ``key`` (none when ``key`` is '').

    ``last`` of ``key`` is the transaction that ended here, when the stream made this position.
    """

    __slots__ = ("_whole", "base", "first", "key", "last", "server")

    def __init__(self, server: str, base: GtidSet, key: str = "", first: int = 0, last: int = 0) -> None:
        self.server = server
        self.base = base
        self.key = key
        self.first = first
        self.last = last
        self._whole: GtidSet | None = None

    @classmethod
    def of(cls, server: str, gtid_set: str) -> GtidPosition:
        """From the set as a server prints it (``gtid_executed``). Raises ValueError."""
        return cls(server, GtidSet.parse(gtid_set))

    @property
    def gtids(self) -> GtidSet:
        """The whole set; made once, when somebody asks."""
        if self._whole is None:
            self._whole = self.base.add(self.key, self.first, self.last) if self.key else self.base
        return self._whole

    def after(self, key: str, gno: int) -> GtidPosition:
        """The position once the transaction ``key:gno`` has ended as well."""
        if gno == self.last + 1 and key == self.key:
            return GtidPosition(self.server, self.base, key, self.first, gno)
        return GtidPosition(self.server, self.gtids, key, gno, gno)

    def covers(self, other: Position) -> bool:
        if not isinstance(other, GtidPosition) or other.server != self.server:
            return False
        if other.base is self.base and other.key == self.key and other.first == self.first:
            return other.last <= self.last
        return self.gtids.covers(other.gtids)

    def includes(self, after: Position) -> bool:
        if not isinstance(after, GtidPosition) or not after.key or after.server != self.server:
            return self.covers(after)
        if after.key == self.key and self.first <= after.last <= self.last:
            return True
        return self.base.contains(after.key, after.last)

    def meet(self, other: Position) -> GtidPosition:
        other = _same_kind(self, other)
        return GtidPosition(self.server, self.gtids.intersection(other.gtids))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidPosition) and self.server == other.server and self.gtids == other.gtids

    def __hash__(self) -> int:
        return hash((self.server, self.gtids))

    def __str__(self) -> str:
        return f"gtid:{self.gtids};server={self.server}"

    def __repr__(self) -> str:
        return f"<{self}>"


class MariadbPosition:
    """The last GTID of each domain of a MariaDB server: ``base`` maps domain → (server_id, sequence number).

    ``domain``, ``server_id`` and ``sequence`` override the base; they are the transaction that ended here, when the
    stream made this position (``domain`` -1: none).
    """

    __slots__ = ("base", "domain", "sequence", "server", "server_id")

    def __init__(
        self,
        server: str,
        base: Mapping[int, tuple[int, int]],
        domain: int = -1,
        server_id: int = 0,
        sequence: int = 0,
    ) -> None:
        self.server = server
        self.base = base
        self.domain = domain
        self.server_id = server_id
        self.sequence = sequence

    @classmethod
    def of(cls, server: str, gtids: str) -> MariadbPosition:
        """From a list as a server prints it (``0-1-100,5-2-7``). Raises ValueError."""
        base: dict[int, tuple[int, int]] = {}
        for part in filter(None, (p.strip() for p in gtids.split(","))):
            match = re.fullmatch(r"([0-9]+)-([0-9]+)-([0-9]+)", part)
            if match is None:
                raise ValueError(f"{part!r} is not a MariaDB GTID")
            domain, server_id, sequence = (int(n) for n in match.groups())
            if domain in base:
                raise ValueError(f"{gtids!r} names domain {domain} twice")
            base[domain] = (server_id, sequence)
        return cls(server, base)

    @property
    def domains(self) -> Mapping[int, tuple[int, int]]:
        """Domain → (server_id, sequence number)."""
        if self.domain < 0:
            return self.base
        return {**self.base, self.domain: (self.server_id, self.sequence)}

    @property
    def gtids(self) -> str:
        """The list as servers print and read it."""
        return ",".join(f"{d}-{server}-{seq}" for d, (server, seq) in sorted(self.domains.items()))

    def sequence_of(self, domain: int) -> int:
        """The last sequence number in a domain, 0 where there is none."""
        return self.sequence if domain == self.domain else self.base.get(domain, (0, 0))[1]

    def after(self, domain: int, server_id: int, sequence: int) -> MariadbPosition:
        """The position once the transaction ``domain-server_id-sequence`` has ended as well."""
        base = self.base if domain == self.domain else self.domains
        return MariadbPosition(self.server, base, domain, server_id, sequence)

    def covers(self, other: Position) -> bool:
        if not isinstance(other, MariadbPosition) or other.server != self.server:
            return False
        if other.base is self.base and other.domain == self.domain:
            return _is_reached((self.server_id, self.sequence), (other.server_id, other.sequence))
        mine = self.domains
        return all(_is_reached(mine.get(domain, (0, 0)), gtid) for domain, gtid in other.domains.items())

    def includes(self, after: Position) -> bool:
        if not isinstance(after, MariadbPosition) or after.domain < 0 or after.server != self.server:
            return self.covers(after)
        return after.sequence <= self.sequence_of(after.domain)

    def meet(self, other: Position) -> MariadbPosition:
        other = _same_kind(self, other)
        mine, theirs = self.domains, other.domains
        lower = {d: min(mine[d], theirs[d], key=lambda gtid: gtid[1]) for d in mine.keys() & theirs.keys()}
        return MariadbPosition(self.server, lower)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MariadbPosition):
            return False
        return self.server == other.server and self.domains == other.domains

    def __hash__(self) -> int:
        return hash((self.server, frozenset(self.domains.items())))

    def __str__(self) -> str:
        return f"mariadb:{self.gtids};server={self.server}"

    def __repr__(self) -> str:
        return f"<{self}>"


def _is_reached(mine: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether one domain stands at a (server_id, sequence number), or behind it.

    Two servers may give one number in one domain; whoever has read the one has not read the other.
    """
    return wanted[1] < mine[1] or wanted == mine


class FilePosition:
    """A place in a binlog file: the end of a transaction. ``created`` is when the file was made, in epoch seconds."""

    __slots__ = ("created", "file", "offset", "server")

    def __init__(self, server: str, file: str, created: int, offset: int) -> None:
        self.server = server
        self.file = file
        self.created = created
        self.offset = offset

    @property
    def number(self) -> int:
        """The file's number: its suffix."""
        return binlog_number(self.file)

    def covers(self, other: Position) -> bool:
        if not isinstance(other, FilePosition) or other.server != self.server:
            return False
        if self.file == other.file:
            return self.created == other.created and other.offset <= self.offset
        return other.number < self.number and other.created <= self.created

    def includes(self, after: Position) -> bool:
        return self.covers(after)

    def meet(self, other: Position) -> FilePosition:
        other = _same_kind(self, other)
        if self.covers(other):
            return other
        if other.covers(self):
            return self
        raise PositionLost(
            f"{self} and {other} belong to different histories of one server: its binary logs were reset in between",
            hint="run `replicator drop`, then load again",
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FilePosition) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"file:{self.file}:{self.offset};created={self.created};server={self.server}"

    def __repr__(self) -> str:
        return f"<{self}>"


MysqlPosition = GtidPosition | MariadbPosition | FilePosition
P = TypeVar("P", GtidPosition, MariadbPosition, FilePosition)


def _same_kind(mine: P, other: Position) -> P:
    if type(other) is not type(mine) or other.server != mine.server:
        raise PositionLost(
            f"{mine} and {other} cannot be compared: they belong to different servers or kinds of position",
            hint="run `replicator drop`, then load again",
        )
    return other


def format_sid(sid: bytes) -> str:
    """A UUID's 16 bytes as servers print them."""
    text = sid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def binlog_number(file: str) -> int:
    """The number in a binlog file's name (``binlog.000007`` → 7). Raises PositionLost where there is none."""
    suffix = file.rpartition(".")[2]
    if not suffix.isdecimal():
        raise PositionLost(f"{file!r} is not the name of a binary log")
    return int(suffix)


_STORED = re.compile(
    r"(?P<kind>gtid|mariadb|file):(?P<value>[^;]*)(?:;created=(?P<created>[0-9]+))?;server=(?P<server>.+)"
)


def parse_position(text: str) -> MysqlPosition:
    """Read a stored position back. Raises PositionLost where it is not one."""
    match = _STORED.fullmatch(text)
    if match is None:
        raise PositionLost(f"{text!r} is not a position of a MySQL or MariaDB server")
    kind, value, server = match["kind"], match["value"], match["server"]
    try:
        if kind == "gtid":
            return GtidPosition.of(server, value)
        if kind == "mariadb":
            return MariadbPosition.of(server, value)
        file, _, offset = value.rpartition(":")
        return FilePosition(server, file, int(match["created"]), int(offset))
    except (ValueError, TypeError) as error:
        raise PositionLost(f"{text!r} is not a position of a MySQL or MariaDB server: {error}") from error
