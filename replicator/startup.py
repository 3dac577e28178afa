"""From a pipeline file to everything a run needs: both ends open, tables chosen, positions agreed, the lease taken.

The lease comes last but one: whoever takes it puts out another process (SEMANTICS §4.4), and must not do so for the sake
of a run that its own configuration, its source or its grants would end at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from replicator.checkpoint import Lease, acquire
from replicator.config import PipelineConfig
from replicator.errors import PositionLost, ReplicatorError, SchemaMismatch, SourceError
from replicator.load import prepare_tables
from replicator.model import Position, TableName, TableSchema
from replicator.readers.base import Reader
from replicator.readers.mysql import MysqlReader
from replicator.selection import SelectedTable, Selection, select
from replicator.session import Session
from replicator.tablestate import (
    State,
    TableState,
    insert_pending,
    read_known_tables,
    read_tables,
    set_table,
)

log = logging.getLogger("replicator")

LONGEST_WAIT = 30.0
LOADED_STATES = frozenset({State.CATCHING_UP, State.STREAMING})

T = TypeVar("T")


@dataclass(slots=True)
class Opened:
    """Both ends of a pipeline, ready to move rows.

    ``tables`` in selection order; those that were loaded before carry the schema they were loaded with. ``states`` are
    the stored ones. ``position`` is the pipeline's, ``read_from`` where reading starts.
    """

    config: PipelineConfig
    reader: Reader
    session: Session
    lease: Lease
    selection: Selection
    tables: tuple[TableSchema, ...]
    states: Mapping[TableName, TableState]
    position: Position
    read_from: Position

    def own_position(self, name: TableName) -> Position | None:
        stored = self.states[name].position
        return self.reader.parse_position(stored) if stored else None

    def is_loaded(self, name: TableName) -> bool:
        return self.states[name].state in LOADED_STATES


def wait_for(
    action: Callable[[], T], waiting: Callable[[str], None], stop: threading.Event, *, is_patient: bool
) -> T:
    """Try until it works: an end that is away is ordinary life (SEMANTICS §8). Impatient commands fail at once."""
    delay = 0.5
    while True:
        try:
            result = action()
        except ReplicatorError as error:
            if not (error.retryable and is_patient):
                raise
            waiting(error.message)
            log.warning("waiting: %s", error.message)
            if stop.wait(delay):
                raise
            delay = min(delay * 2, LONGEST_WAIT)
        else:
            waiting("")
            return result


def open_pipeline(
    config: PipelineConfig,
    *,
    waiting: Callable[[str], None],
    stop: threading.Event,
    is_patient: bool,
    spill_dir: Path | None = None,
) -> Opened:
    """Open both ends and agree on where to start. Raises every error a run can end with before its first row."""
    session = wait_for(
        lambda: Session.connect(config.target, loads=True), waiting, stop, is_patient=is_patient
    )
    reader = wait_for(
        lambda: MysqlReader(config.source, spill_dir=spill_dir), waiting, stop, is_patient=is_patient
    )
    stored = {state.source: state for state in read_known_tables(session, config.pipeline)}
    selection = _select(config, session, reader, stored)
    tables = _describe(reader, selection, stored)
    _refuse_unready(reader, tables)
    lease = acquire(session, config.pipeline, reader.identity)
    reader.short_id = lease.short_id
    _refuse_other_source(config, lease, reader)
    insert_pending(session, lease, tables)
    _forget_unselected(session, lease, stored, tables)
    if lease.position is None:
        _start_anew(session, lease, stored, tables)
    prepare_tables(session, lease, tables, selection, stop)
    states = {state.source: state for state in read_tables(session, config.pipeline)}
    position = reader.parse_position(lease.position) if lease.position else reader.position()
    opened = Opened(config, reader, session, lease, selection, tables, states, position, position)
    opened.read_from = _find_read_from(opened)
    reader.verify_position(opened.read_from)
    return opened


def _select(
    config: PipelineConfig, session: Session, reader: Reader, stored: Mapping[TableName, TableState]
) -> Selection:
    """Choose tables; one that was mirrored and is gone from the source still counts: the log will say what became of it."""
    folds = session.query("SELECT @@lower_case_table_names")[0][0] != 0
    session.rollback()
    known = {*reader.list_tables(), *(name for name, state in stored.items() if state.state in LOADED_STATES)}
    selection = select(config, known, fold_target_case=folds)
    for warning in selection.warnings:
        log.warning("%s", warning)
    return selection


def _describe(
    reader: Reader, selection: Selection, stored: Mapping[TableName, TableState]
) -> tuple[TableSchema, ...]:
    """Schemas: as loaded where a table is loaded, as the source has it now where it is not."""
    loaded = {
        name: state.schema
        for name, state in stored.items()
        if state.schema is not None and state.state in LOADED_STATES | {State.PAUSED}
    }
    fresh = {t.source: t.target for t in selection.tables if t.source not in loaded}
    described = {schema.source: schema for schema in reader.describe(fresh)} if fresh else {}
    tables = tuple(loaded.get(t.source) or described[t.source] for t in selection.tables)
    _refuse_moved(selection.tables, loaded)
    _refuse_keyless(tables)
    return tables


def _refuse_moved(selected: Sequence[SelectedTable], loaded: Mapping[TableName, TableSchema]) -> None:
    for table in selected:
        schema = loaded.get(table.source)
        if schema is not None and schema.target != table.target:
            raise SchemaMismatch(
                f"{table.source} was loaded into {schema.target}, and the file now says {table.target}",
                hint=f'say "to: {schema.target}" again, or `drop` the pipeline and load anew',
            )


def _refuse_keyless(tables: Sequence[TableSchema]) -> None:
    keyless = [str(table.source) for table in tables if not table.key]
    if keyless:
        raise SourceError(
            f"without a primary key or a unique NOT NULL key: {', '.join(keyless)}",
            hint="give each a primary key, or leave it out with `skip: true`; this version mirrors no keyless table",
        )


def _refuse_unready(reader: Reader, tables: Sequence[TableSchema]) -> None:
    failed = [item for item in reader.check(tables) if item.status == "fail"]
    if failed:
        raise SourceError(
            "the source is not ready:\n"
            + "\n".join(f"  {item.id} {item.subject}: {item.message}" for item in failed),
            hint="\n  ".join(item.fix for item in failed if item.fix) or "run `replicator check`",
        )


def _refuse_other_source(config: PipelineConfig, lease: Lease, reader: Reader) -> None:
    if lease.identity and lease.identity != reader.identity:
        raise PositionLost(
            f"{config.source.address} is {reader.identity}, but pipeline {config.pipeline} follows {lease.identity}",
            hint="point the file at the right server; to follow this one from now on, `drop` the pipeline and load anew",
        )


def _forget_unselected(
    session: Session, lease: Lease, stored: Mapping[TableName, TableState], tables: Sequence[TableSchema]
) -> None:
    """A table that left the file misses changes from here on: should it come back, it is loaded again."""
    selected = {table.source for table in tables}
    for name, state in stored.items():
        if name not in selected and state.state is not State.NEEDS_RELOAD:
            set_table(session, lease, name, state=State.NEEDS_RELOAD, error="left the pipeline file")


def _start_anew(
    session: Session, lease: Lease, stored: Mapping[TableName, TableState], tables: Sequence[TableSchema]
) -> None:
    """Without a stored position (first start, or after `drop`) nothing that was loaded can be continued."""
    for table in tables:
        if table.source in stored:
            set_table(
                session, lease, table.source, state=State.PENDING, position=None, error=None, schema=table
            )


def _find_read_from(opened: Opened) -> Position:
    """The lowest of the pipeline's position and the own positions of tables that were catching up."""
    read_from = opened.position
    for table in opened.tables:
        own = opened.own_position(table.source) if opened.is_loaded(table.source) else None
        if own is not None:
            read_from = read_from.meet(own)
    return read_from

