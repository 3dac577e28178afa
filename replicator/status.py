"""`replicator status`: what the control tables in the target say of a pipeline, whether or not a run is under way.

A plain session, no lease, no lock: looking never disturbs a run. A run that is gone cannot say so itself: it is
``stopped`` when its session is gone or its row has not been written for a while.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replicator import tablestate
from replicator.config import PipelineConfig
from replicator.console import format_count, format_lag
from replicator.session import Session
from replicator.tablestate import CoercedColumn, TableState

SILENT_SECONDS = 30
"""A run writes its status row about once a second; one that has not for so long, and is idle, is not there."""

_LASTING = frozenset({"error", "paused"})


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """What is shown. ``state``: idle (never started, or dropped), loading, streaming, paused, error, stopped.

    ``lag_seconds`` is None while nobody measures it, ``snapshot_seconds`` (the age of the snapshot that a load reads, which
    holds back the source's purge) while there is none. Times are UTC text; ``epoch`` is the last writer's.
    """

    pipeline: str
    state: str = "idle"
    position: str | None = None
    read_from: str | None = None
    lag_seconds: float | None = None
    snapshot_seconds: float | None = None
    conflicts: int = 0
    conflict_types: dict[str, int] | None = None
    torn: bool = False
    consistent: bool = False
    waiting_for: str = ""
    source_identity: str = ""
    epoch: int | None = None
    host: str = ""
    pid: int | None = None
    started_at: str | None = None
    updated_at: str | None = None
    tables: tuple[TableState, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The keys of docs/reference, and a few more."""
        return {
            "pipeline": self.pipeline,
            "state": self.state,
            "position": self.position,
            "lag_seconds": self.lag_seconds,
            "journal_bytes": 0,
            "conflicts": self.conflicts,
            "tables": [_table_to_json(table) for table in self.tables],
            "torn": self.torn,
            "consistent": self.consistent,
            "updated_at": self.updated_at,
            "read_from": self.read_from,
            "waiting_for": self.waiting_for,
            "snapshot_seconds": self.snapshot_seconds,
            "conflict_types": self.conflict_types or {},
            "source_identity": self.source_identity,
            "epoch": self.epoch,
            "host": self.host,
            "pid": self.pid,
            "started_at": self.started_at,
        }


def _table_to_json(table: TableState) -> dict[str, Any]:
    return {
        "source": str(table.source),
        "target": table.target,
        "state": str(table.state),
        "rows_loaded": table.rows_loaded,
        "applied": {
            "insert": table.applied.inserted,
            "update": table.applied.updated,
            "delete": table.applied.deleted,
        },
        "error": table.error,
        "coerced": [column._asdict() for column in table.coerced],
        "position": table.position,
        "updated_at": table.updated_at,
    }


# --- reading ----------------------------------------------------------------------------------------------------------


def read_status(config: PipelineConfig) -> PipelineStatus:
    """Ask the target. Raises TargetError where it cannot be asked."""
    with Session.connect(config.target) as session:
        stored = tablestate.read_status(session, config.pipeline)
        if stored is None:
            return PipelineStatus(config.pipeline)
        epoch, is_heard = _read_writer(session, stored)
        closed = _read_closed(session)
    is_running = stored.is_running and is_heard
    return PipelineStatus(
        pipeline=config.pipeline,
        state=stored.state if is_running or stored.state in _LASTING else "stopped",
        position=stored.position,
        read_from=stored.read_from,
        lag_seconds=stored.lag_seconds if is_running else None,
        snapshot_seconds=stored.snapshot_seconds if is_running else None,
        conflicts=sum(stored.conflicts.values()),
        conflict_types=stored.conflicts,
        torn=stored.torn is not None,
        consistent=stored.is_consistent and stored.torn is None,
        waiting_for=closed or (stored.waiting_for if is_running else ""),
        source_identity=stored.identity,
        epoch=epoch,
        host=stored.host,
        pid=stored.pid,
        started_at=stored.started_at,
        updated_at=stored.updated_at,
        tables=stored.tables,
    )


def _read_closed(session: Session) -> str:
    """Why nobody can write at the target just now, '' where they can: a run that waits for that cannot say so there."""
    names = ("read_only", "innodb_read_only", "transaction_read_only")
    values = session.query(f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in names)}")[0]
    closed = [name for name, value in zip(names, values, strict=True) if value]
    session.rollback()
    return f"target: {closed[0]} is on; the rest of this was written before" if closed else ""


def _read_writer(session: Session, stored: tablestate.Status) -> tuple[int | None, bool]:
    """The writer's epoch, and whether it was heard of lately or is at work right now.

    A large transaction keeps it silent for long. Its session alone proves nothing: after a restart of the target the
    same number may be another's.
    """
    rows = session.query(
        "SELECT epoch, connection_id, TIMESTAMPDIFF(SECOND, %s, NOW(6)) FROM _replicator_checkpoint"
        " WHERE pipeline = %s AND worker = 0",
        *(stored.updated_at, stored.pipeline),
    )
    session.rollback()
    if not rows:
        return None, False
    epoch, connection_id, silence = rows[0]
    commands = session.list_commands()
    return int(epoch), silence <= SILENT_SECONDS or commands.get(connection_id, "Sleep") != "Sleep"


# --- printing ---------------------------------------------------------------------------------------------------------

_COLOURS = {
    "streaming": "green",
    "loading": "cyan",
    "catching_up": "cyan",
    "paused": "yellow",
    "stopped": "yellow",
    "needs_reload": "yellow",
    "error": "bold red",
}


def print_status(status: PipelineStatus, *, as_json: bool) -> None:
    """Print for a program, for a person on a terminal, or as greppable lines elsewhere."""
    if as_json:
        sys.stdout.write(orjson.dumps(status.to_json()).decode() + "\n")
        return
    console = Console(highlight=False)
    if console.is_terminal:
        _print_table(console, status)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in build_lines(status)))


def build_lines(status: PipelineStatus) -> list[str]:
    """One line of key=value for the pipeline, one for each table."""
    pairs = {
        "pipeline": status.pipeline,
        "state": status.state,
        "position": status.position,
        "lag": format_lag(status.lag_seconds),
        "conflicts": status.conflicts,
        "journal": "0MB",
        "consistent": int(status.consistent),
        "torn": int(status.torn),
        "waiting_for": status.waiting_for,
        "snapshot": format_lag(status.snapshot_seconds),
        "epoch": status.epoch,
        "host": status.host,
        "pid": status.pid,
        "updated_at": status.updated_at,
    }
    return [_build_line(pairs), *(_build_line(_table_pairs(status, table)) for table in status.tables)]


def _table_pairs(status: PipelineStatus, table: TableState) -> dict[str, object]:
    return {
        "pipeline": status.pipeline,
        "table": table.source,
        "target": table.target,
        "state": table.state,
        "rows_loaded": table.rows_loaded,
        "inserts": table.applied.inserted,
        "updates": table.applied.updated,
        "deletes": table.applied.deleted,
        "coerced": "; ".join(map(_describe_coerced, table.coerced)),
        "error": table.error,
    }


def _describe_coerced(coerced: CoercedColumn) -> str:
    sample = f"key {coerced.sample_key}: {coerced.sample_value}"
    return f"{coerced.column} {coerced.rule} {coerced.values} times, such as {sample}"


def _build_line(pairs: Mapping[str, object]) -> str:
    """Values hold no blank, so that a line can be cut at them; what is not there is ``-``."""
    return " ".join(f"{key}={'_'.join(_text(value).split()) or '-'}" for key, value in pairs.items())


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _print_table(console: Console, status: PipelineStatus) -> None:
    console.print(
        Text.assemble(
            (status.pipeline, "bold"),
            "  ",
            (status.state, _COLOURS.get(status.state, "white")),
            f"  lag {format_lag(status.lag_seconds) or '-'}  conflicts {status.conflicts}",
            f"  snapshot {format_lag(status.snapshot_seconds)} old"
            if status.snapshot_seconds is not None
            else "",
            "  consistent" if status.consistent else "  not consistent yet",
            ("  torn: a huge transaction is half applied", "bold yellow") if status.torn else "",
            (f"  waiting for {status.waiting_for}", "bold yellow") if status.waiting_for else "",
        )
    )
    if status.position:
        writer = f"written {status.updated_at} UTC by process {status.pid} on {status.host}"
        console.print(Text(f"at {status.position}\n{writer}", "dim"), soft_wrap=True)
    if status.tables:
        console.print(_build_table(status))
    for table in status.tables:
        if table.error:
            console.print(Text(f"{table.source}: {table.error}", _COLOURS["error"]), soft_wrap=True)
        for coerced in table.coerced:
            text = f"{table.source}: not as at the source: {_describe_coerced(coerced)}"
            console.print(Text(text, _COLOURS["paused"]), soft_wrap=True)


def _build_table(status: PipelineStatus) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("table", "state", "loaded", "inserts", "updates", "deletes"):
        table.add_column(title, justify="left" if title in {"table", "state"} else "right", no_wrap=True)
    for row in status.tables:
        name = str(row.source) if row.source.table == row.target else f"{row.source} → {row.target}"
        state = Text(row.state, _COLOURS.get(row.state, "white"))
        counts = (row.rows_loaded, *row.applied)
        table.add_row(name, state, *(format_count(count) for count in counts))
    return table
