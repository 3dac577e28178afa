"""What the demo's viewer sees: what happens, as it happens, and all pipelines at this moment.

On a terminal a table is drawn again four times a second below the story; elsewhere each pipeline has one line of
key=value every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 2.0

_COLOURS = {"streaming": "green", "loading": "cyan", "catching_up": "cyan", "killed": "bold red"}


@dataclass(frozen=True, slots=True)
class Figures:
    """One pipeline: ``commits`` are the shop's at the source, the rest is what the target says. ``lag`` in seconds."""

    pipeline: str
    product: str
    state: str = "starting"
    rows_loaded: int = 0
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    lag: float | None = None
    commits: int = 0

    def line(self) -> str:
        """The greppable form."""
        lag = "-" if self.lag is None else f"{self.lag:.1f}s"
        return (
            f"pipeline={self.pipeline} state={self.state} commits={self.commits} rows_loaded={self.rows_loaded}"
            f" inserts={self.inserts} updates={self.updates} deletes={self.deletes} lag={lag}"
        )


class DemoView(Protocol):
    """``tell`` adds a sentence to the story, ``show`` brings the figures up to date; ``close`` leaves both standing."""

    def tell(self, text: str) -> None: ...

    def show(self, figures: Sequence[Figures]) -> None: ...

    def close(self) -> None: ...


def open_view() -> DemoView:
    """The view that fits standard output."""
    console = Console(highlight=False)
    return _LiveView(console) if console.is_terminal else _LineView()


class _LineView:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self._due = 0.0

    def tell(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._began:5.1f}s  {text}\n")
        sys.stdout.flush()

    def show(self, figures: Sequence[Figures]) -> None:
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + LINE_SECONDS
        for one in figures:
            self.tell(one.line())

    def close(self) -> None:
        sys.stdout.flush()


class _LiveView:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()

    def tell(self, text: str) -> None:
        self._console.print(
            Text.assemble((f"{time.monotonic() - self._began:5.1f}s  ", "dim"), text), soft_wrap=True
        )

    def show(self, figures: Sequence[Figures]) -> None:
        self._live.update(_build_table(figures), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _build_table(figures: Sequence[Figures]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("pipeline", "source", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("app's commits", "loaded", "inserts", "updates", "deletes", "lag"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in figures:
        counts = (one.commits, one.rows_loaded, one.inserts, one.updates, one.deletes)
        lag = "-" if one.lag is None else f"{one.lag:.1f} s"
        state = Text(one.state, _COLOURS.get(one.state, "white"))
        table.add_row(
            Text(one.pipeline, "bold"), one.product, state, *(f"{count:,}" for count in counts), lag
        )
    return table
