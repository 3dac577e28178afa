"""What a person sees of a run: a live table on a terminal, one greppable line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replicator.load.progress import TableSummary

LINE_SECONDS = 10.0
WIDE = 240


@dataclass(frozen=True, slots=True)
class TableView:
    """One table of the live display; ``fraction`` of its load is None once it streams."""

    source: str
    target: str
    state: str
    rows_loaded: int
    applied: tuple[int, int, int]  # insert, update, delete
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The whole of a run at one moment. ``rate`` is rows a second, ``eta`` seconds or None."""

    pipeline: str
    state: str
    position: str
    lag: float | None
    rate: float
    applied: int
    conflicts: int
    waiting_for: str
    mode: str
    load: str = ""
    tables: Sequence[TableView] = field(default_factory=tuple)

    def line(self) -> str:
        """The greppable form."""
        parts = [
            f"pipeline={self.pipeline}",
            f"state={self.state}",
            f"position={self.position or '-'}",
            f"lag={format_lag(self.lag) or '-'}",
            f"rate={self.rate:.0f}/s",
            f"applied={format_count(self.applied)}",
            f"conflicts={self.conflicts}",
            "journal=0MB",
            f"mode={self.mode}",
            f"waiting_for={self.waiting_for.replace(' ', '_') or '-'}",
        ]
        if self.load:
            parts.insert(2, f"load={self.load.replace(' ', '_')}")
        return " ".join(parts)


def format_lag(seconds: float | None) -> str:
    """Seconds with a unit; '' where nobody can tell."""
    return "" if seconds is None else f"{seconds:.1f}s"


def format_count(number: int) -> str:
    """9.1M, 18.2k, 640."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f}{unit}"
    return str(number)


class Display(Protocol):
    """Shows views; ``close`` leaves the last one standing."""

    def show(self, view: View) -> None: ...

    def close(self) -> None: ...


class LineDisplay:
    """One line at each change of state, and every ten seconds."""

    def __init__(self) -> None:
        self._shown = ("", "")
        self._due = 0.0

    def show(self, view: View) -> None:
        now = time.monotonic()
        shown = (view.state, view.waiting_for)
        if shown == self._shown and now < self._due:
            return
        self._shown, self._due = shown, now + LINE_SECONDS
        sys.stdout.write(view.line() + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


class LiveDisplay:
    """A table that is drawn again four times a second."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, view: View) -> None:
        self._live.update(render(view), refresh=True)

    def close(self) -> None:
        self._live.stop()


def open_console() -> Console:
    """Standard output; a file or a pipe is wide enough for any table."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDE
    return console


def open_display() -> Display:
    """The display that fits standard output."""
    console = open_console()
    return LiveDisplay(console) if console.is_terminal else LineDisplay()


_COLOURS = {
    "streaming": "green",
    "loading": "cyan",
    "catching_up": "cyan",
    "paused": "yellow",
    "error": "red",
}
MOST_TABLES = 20


def render(view: View) -> RenderableType:
    """The live table as rich draws it; the busiest tables first when there are many."""
    head = Text.assemble(
        (view.pipeline, "bold"),
        "  ",
        (view.state, _COLOURS.get(view.state, "white")),
        f"  lag {format_lag(view.lag) or '-'}  {view.rate:,.0f} rows/s  applied {format_count(view.applied)}",
        f"  conflicts {view.conflicts}" if view.conflicts else "",
        (f"  waiting for {view.waiting_for}", "bold yellow") if view.waiting_for else "",
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("table", "state", "loaded", "inserts", "updates", "deletes"):
        table.add_column(title, justify="left" if title in {"table", "state"} else "right", no_wrap=True)
    busiest = sorted(view.tables, key=lambda t: -(sum(t.applied) + t.rows_loaded))
    shown = {t.source for t in busiest[:MOST_TABLES]}
    for row in view.tables:
        if row.source in shown:
            name = row.source if row.source.endswith(f".{row.target}") else f"{row.source} → {row.target}"
            state: RenderableType = Text(row.state, _COLOURS.get(row.state, "white"))
            if row.fraction is not None and row.state == "loading":
                state = ProgressBar(total=1.0, completed=row.fraction, width=20)
            table.add_row(name, state, f"{row.rows_loaded:,}", *(f"{count:,}" for count in row.applied))
    more = len(view.tables) - len(shown)
    parts: list[RenderableType] = [head]
    if view.load:
        parts.append(Text(view.load, "cyan"))
    parts.append(table)
    if more > 0:
        parts.append(Text(f"… and {more} more tables", "dim"))
    return Group(*parts)


def render_loaded(rows: Sequence[TableSummary]) -> Table:
    """What a load did, table by table, for its end."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("loaded", "into", "rows", "MB", "seconds", "rows/s"):
        table.add_column(title, justify="left" if title in {"loaded", "into"} else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.source),
            row.target,
            f"{row.rows:,}",
            f"{row.bytes / 1e6:,.1f}",
            f"{row.seconds:.1f}",
            f"{row.rows_per_second:,.0f}",
        )
    return table
