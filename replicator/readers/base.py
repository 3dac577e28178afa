"""The seam between sources and the rest: what every reader offers to pipeline and load, and nothing else.

One contract suite runs over every implementation (tests/contract).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from replicator.model import Column, Position, Row, StreamItem, TableName, TableSchema, Value


class KeyRange(NamedTuple):
    """Rows with ``low < key <= high`` by the source's own order of the table's key; None is an open end."""

    low: tuple[Value, ...] | None
    high: tuple[Value, ...] | None


class TextBlock(NamedTuple):
    """``rows`` rows as lines of a file: fields end with a tab, lines with a line feed, a backslash escapes what LOAD DATA
    knows an escape for, ``\\N`` is NULL. BINARY values are hexadecimal digits, others what a column takes.
    """

    data: bytes
    rows: int


class SnapshotSession(Protocol):
    """One session inside a snapshot; used by one load worker at a time."""

    def split(self, table: TableSchema, rows: int) -> Sequence[KeyRange]:
        """Cut the whole key space of ``table`` into ranges of about ``rows`` rows each; never empty."""
        ...

    def read(self, table: TableSchema, span: KeyRange) -> Iterator[list[Row]]:
        """The rows of one range in blocks of canonical rows, memory bounded. Raises SnapshotLost (1412, lost link)."""
        ...

    def read_text(self, table: TableSchema, span: KeyRange) -> Iterator[TextBlock] | None:
        """The same rows as the source itself writes them, None where some column needs our conversion.

        The target stores of it what it would of ``read``'s rows, or gives a warning.
        """
        ...


class Snapshot(Protocol):
    """A consistent read: every session of it sees ``tables`` exactly as of ``position`` (SEMANTICS §2)."""

    position: Position
    tables: tuple[TableSchema, ...]
    sessions: tuple[SnapshotSession, ...]

    def close(self) -> None: ...


class Requirement(NamedTuple):
    """The outcome of one check at the source; ``status``: pass | warn | fail. ``id`` is stable."""

    id: str
    status: str
    subject: str
    message: str
    fix: str = ""


class Reader(Protocol):
    """A source. Cold methods open what sessions they need; ``read`` owns the one dump connection."""

    identity: str  # binds positions to this server: "mysql:<server_uuid>", …
    clock_offset: float  # the source's clock minus ours when the stream last connected, in seconds
    sends_whole_rows: bool  # False: updates and deletes may leave values out (UNCHANGED)
    short_id: str  # the pipeline's, set before `begin` and `read`
    confirm: Callable[
        [], None
    ]  # asked before another process's reading is ended; raises where ours is the older one

    def recognise(self, short_id: str) -> None:
        """The pipeline has begun under this ``short_id``: `check` and `verify_position` look for what is its own."""
        ...

    def position(self) -> Position:
        """The newest committed position of the source."""
        ...

    def parse_position(self, text: str) -> Position: ...

    def verify_position(self, position: Position) -> None:
        """Raise PositionLost, naming both sides, unless the source can resume at ``position`` (SEMANTICS §1.6)."""
        ...

    def begin(
        self,
        tables: Sequence[TableSchema],
        loaded: Collection[TableName],
        stored: Position | None,
        stop: threading.Event,
    ) -> Position:
        """Make or mend what the source must keep for the pipeline; the position that the pipeline stands at: ``stored``,
        or the one from which a new pipeline can read on. The caller stores it before anything is loaded.

        Of the tables that are ``loaded`` the source must have kept every change: where it has not, this raises, or `read`
        pauses the table.
        """
        ...

    def list_tables(self) -> Sequence[TableName]:
        """Every base table of the source that could be selected."""
        ...

    def describe(
        self, targets: Mapping[TableName, str], types: Mapping[TableName, Mapping[str, str]] | None = None
    ) -> Sequence[TableSchema]:
        """The schemas of these tables; ``targets`` gives each one's target name, ``types`` the target types that the
        pipeline file wants for columns. Raises SourceError naming a column, ColumnUnfit for a type it cannot have.
        """
        ...

    def foreign_key_cascades_logged(self) -> bool:
        """Whether the source writes the rows of its cascades to its log (SEMANTICS §5.3)."""
        ...

    def check(self, tables: Sequence[TableSchema]) -> Sequence[Requirement]:
        """Everything that must hold before reading: grants, settings, retention. Never raises for a failed check."""
        ...

    def open_snapshot(
        self,
        tables: Sequence[TableSchema],
        workers: int,
        stop: threading.Event,
        inseparable: Sequence[frozenset[TableName]] = (),
    ) -> Snapshot:
        """A snapshot that is exact for at least one of ``tables``; the caller comes back for the rest.

        Of a set of ``inseparable`` tables it holds all or none.
        """
        ...

    def read(
        self,
        start: Position,
        tables: Sequence[TableSchema],
        stop: threading.Event,
        since: Mapping[TableName, Position] | None = None,
    ) -> Generator[StreamItem, None, None]:
        """The change stream after ``start`` until ``stop`` is set. Reconnects by itself; raises what waiting cannot heal.

        ``since`` has positions, by table, that the stored rows stand at: what changed a table's shape at or before its
        own is past, and so are rows of an older shape.

        While nothing arrives it yields ``Idle`` at least every 5 ms after the last transaction once, then every
        10 ms, so that the caller can act on time.
        """
        ...

    def restart_from(self, position: Position, *, keep: bool = False) -> Position:
        """Where reading must begin after a restart at ``position``, at or before it: what was prepared and is undecided
        there is read again (SEMANTICS §1.2). For the thread that iterates ``read``.

        ``keep``: an earlier position may yet be asked about; otherwise what is decided at this one is forgotten.
        """
        ...

    def undecided(self) -> Sequence[str]:
        """The names of transactions with rows of selected tables that are prepared and neither committed nor rolled back."""
        ...

    def ack(self, position: Position) -> None:
        """Tell the source what is safe to forget: all that no restart reads again. Any thread."""
        ...

    def is_waiting(self) -> str:
        """What a reconnect waits for (for ``waiting_for=``), or ''."""
        ...

    def close(self) -> None: ...


__all__ = [
    "Column",
    "KeyRange",
    "Reader",
    "Requirement",
    "Snapshot",
    "SnapshotSession",
    "TextBlock",
]
