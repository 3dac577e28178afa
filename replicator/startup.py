"""From a pipeline file to everything a run needs: both ends open, tables chosen, positions agreed, the lease taken.

The lease comes last but one: whoever takes it puts out another process (SEMANTICS §4.4), and must not do so for the sake
of a run that its own configuration, its source or its grants would end at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from replicator.checkpoint import Lease, acquire, read_short_id, run_fenced, settle
from replicator.config import Endpoint, PipelineConfig
from replicator.config.selection import SelectedTable, Selection, select
from replicator.described import apply_rules, describe_tables
from replicator.errors import PositionLost, ReplicatorError, SchemaMismatch, SourceError
from replicator.foreignkeys import (
    ExternalChild,
    UnseenCascade,
    build_dependants,
    build_inseparable,
    find_unseen_cascades,
)
from replicator.load import prepare_tables
from replicator.model import Position, TableName, TableSchema, Torn
from replicator.patience import log_outage, persist
from replicator.readers.base import Reader
from replicator.readers.opening import open_reader
from replicator.session import Session, connect_patiently
from replicator.tablestate import (
    State,
    Status,
    TableState,
    insert_pending,
    read_known_tables,
    read_status,
    read_tables,
    set_table,
)
from replicator.target import external_children, fit_statements
from replicator.target import read_tables as read_target_tables

log = logging.getLogger("replicator")

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0

T = TypeVar("T")


@dataclass(slots=True)
class Opened:
    """Both ends of a pipeline, ready to move rows.

    ``tables`` in selection order; those that were loaded before carry the schema they were loaded with. ``states`` are
    the stored ones. ``inseparable`` sets are loaded at one position. ``position`` is the pipeline's, ``read_from`` where
    reading starts, ``torn`` what is applied of the transaction after ``position``, ``current`` what the source had
    committed before the run began. ``external``: tables outside the pipeline that refer to mirrored ones.
    """

    config: PipelineConfig
    reader: Reader
    session: Session
    lease: Lease
    selection: Selection
    tables: tuple[TableSchema, ...]
    states: Mapping[TableName, TableState]
    inseparable: tuple[frozenset[TableName], ...]
    cascades_logged: bool
    external: tuple[ExternalChild, ...]
    position: Position
    read_from: Position
    torn: Torn | None
    current: Position

    def own_position(self, name: TableName) -> Position | None:
        stored = self.states[name].position
        return self.reader.parse_position(stored) if stored else None

    def is_loaded(self, name: TableName) -> bool:
        return self.states[name].is_loaded


def wait_for(
    action: Callable[[], T], waiting: Callable[[str], None], stop: threading.Event, *, is_patient: bool
) -> T:
    """Try until it works: an end that is away is ordinary life (SEMANTICS §8). Impatient commands fail at once."""
    if not is_patient:
        return action()

    def tell(error: ReplicatorError) -> None:
        waiting(error.message)
        log_outage(error.message)

    result = persist(action, tell=tell, stop=stop, first=FIRST_WAIT, longest=LONGEST_WAIT)
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
    """Open both ends and agree on where to start. Raises every error a run can end with before its first row.

    An end may go away at any question: all of them are asked again then, but the pipeline is taken from nobody who took
    it from us meanwhile.
    """
    opening = _Opening(config, stop, spill_dir)
    return wait_for(opening.open, waiting, stop, is_patient=is_patient)


class _Opening:
    """Attempts to open one pipeline; ``lease`` is what the last of them had taken."""

    def __init__(self, config: PipelineConfig, stop: threading.Event, spill_dir: Path | None) -> None:
        self._config = config
        self._stop = stop
        self._spill_dir = spill_dir
        self._lease: Lease | None = None

    def open(self) -> Opened:
        reader = open_reader(self._config, spill_dir=self._spill_dir)
        session = Session.connect(self._config.target, loads=True)
        try:
            if self._lease is not None:
                settle(session, self._lease)  # Fenced, when a newer process has come since
            return self._open(reader, session)
        except BaseException:
            session.close()
            raise

    def _open(self, reader: Reader, session: Session) -> Opened:
        config = self._config
        current = reader.position()
        status = read_status(session, config.pipeline)
        _refuse_other_source(config, status, reader)
        stored = {state.source: state for state in read_known_tables(session, config.pipeline)}
        selection = _select(config, session, reader, stored)
        _refuse_torn(status, selection)
        described = _describe(config, reader, selection, stored)
        _refuse_keyless(described.values())
        if status is not None:
            reader.recognise(read_short_id(session, config.pipeline))
        _refuse_unready(reader, tuple(described.values()))
        cascades_logged = reader.foreign_key_cascades_logged()
        _refuse_unseen_cascades(
            find_unseen_cascades(tuple(described.values()), cascades_logged=cascades_logged)
        )
        inseparable = build_inseparable(tuple(described.values()), cascades_logged=cascades_logged)
        lease = self._lease = acquire(session, config.pipeline, reader.identity)
        reader.short_id = lease.short_id
        reader.confirm = lambda: _confirm(config.target, lease, self._stop)
        known = reader.parse_position(lease.position) if lease.position else None
        loaded = {name for name, state in stored.items() if state.is_loaded}
        position = reader.begin(tuple(described.values()), loaded, known, self._stop)
        again = _find_torn_sets(reader, position, inseparable, stored)
        tables = _choose_schemas(config, selection, described, stored, again)
        insert_pending(session, lease, tables)
        _forget_unselected(session, lease, stored, tables)
        if lease.position is None:
            again |= stored.keys() & described.keys()
        _start_again(session, lease, [table for table in tables if table.source in again])
        _pause_orphans(session, lease, stored, build_dependants(tables, cascades_logged=cascades_logged))
        prepare_tables(
            session, lease, tables, selection, self._stop, cascading=frozenset().union(*inseparable)
        )
        tables = _fit_statements(session, tables)
        external = external_children(session, {table.target for table in tables})
        session.rollback()
        opened = Opened(
            config=config,
            reader=reader,
            session=session,
            lease=lease,
            selection=selection,
            tables=tables,
            states={state.source: state for state in read_tables(session, config.pipeline)},
            inseparable=tuple(inseparable),
            cascades_logged=cascades_logged,
            external=tuple(external),
            position=position,
            read_from=position,
            torn=lease.torn,
            current=current,
        )
        opened.read_from = _find_read_from(opened)
        reader.verify_position(opened.read_from)
        return opened


def _confirm(endpoint: Endpoint, lease: Lease, stop: threading.Event) -> None:
    """Raise Fenced where a newer process has taken over."""
    session, _ = connect_patiently(
        endpoint,
        loads=False,
        stop=stop,
        report=log_outage,
        prepare=lambda session: run_fenced(session, lease),
    )
    session.close()


def _fit_statements(session: Session, tables: Iterable[TableSchema]) -> tuple[TableSchema, ...]:
    """A target table of other making, or with a promoted key, names indexes and stores text otherwise."""
    tables = tuple(tables)
    existing = read_target_tables(session, [table.target for table in tables])
    return tuple(
        fit_statements(table, existing[table.target]) if table.target in existing else table
        for table in tables
    )


def _start_again(session: Session, lease: Lease, tables: Iterable[TableSchema]) -> None:
    for table in tables:
        set_table(session, lease, table.source, state=State.PENDING, position=None, error=None, schema=table)


def _select(
    config: PipelineConfig, session: Session, reader: Reader, stored: Mapping[TableName, TableState]
) -> Selection:
    """Choose tables; one that was mirrored and is gone from the source still counts: the log will say what became of it."""
    folds = session.query("SELECT @@lower_case_table_names")[0][0] != 0
    session.rollback()
    known = {*reader.list_tables(), *(name for name, state in stored.items() if _is_kept(state))}
    selection = select(config, known, fold_target_case=folds)
    for warning in selection.warnings:
        log.warning("%s", warning)
    return selection


def _is_kept(state: TableState) -> bool:
    """Whether the schema stored with a table is the one to go on with."""
    return state.schema is not None and (state.is_loaded or state.state is State.PAUSED)


def _describe(
    config: PipelineConfig, reader: Reader, selection: Selection, stored: Mapping[TableName, TableState]
) -> dict[TableName, TableSchema]:
    """Every selected table as the source has it now; one that is gone from the source, as it was."""
    present = set(reader.list_tables())
    tables = [table for table in selection.tables if table.source in present]
    described = {schema.source: schema for schema in describe_tables(reader, tables, config.path)}
    for table in selection.tables:
        if table.source not in described and (schema := stored[table.source].schema) is not None:
            described[table.source] = schema
    return described


def _find_torn_sets(
    reader: Reader,
    position: Position,
    inseparable: Sequence[frozenset[TableName]],
    stored: Mapping[TableName, TableState],
) -> set[TableName]:
    """Tables to load again because their set does not stand at one position (``foreignkeys.build_inseparable``)."""
    again: set[TableName] = set()
    for names in inseparable:
        known = [state for name in names if (state := stored.get(name))]
        paused = {state.source for state in known if state.state is State.PAUSED}
        loaded = {state.source: state.position for state in known if state.is_loaded}
        owns = [reader.parse_position(own) if own else position for own in loaded.values()]
        is_whole = loaded.keys() | paused == names or not loaded
        if not is_whole or not all(own.covers(owns[0]) and owns[0].covers(own) for own in owns):
            log.warning(
                "loaded again, for the source logs no cascades: %s", ", ".join(map(str, sorted(loaded)))
            )
            again |= loaded.keys()
    return again


def _choose_schemas(
    config: PipelineConfig,
    selection: Selection,
    described: Mapping[TableName, TableSchema],
    stored: Mapping[TableName, TableState],
    again: Collection[TableName],
) -> tuple[TableSchema, ...]:
    """Schemas: as loaded where a table goes on, for the log ahead knows those columns; as they are now where it is
    loaded. What shall become of values that do not fit, the file says anew at each start."""
    kept = {
        name: state.schema
        for name, state in stored.items()
        if _is_kept(state) and name not in again and state.schema is not None
    }
    _refuse_moved(selection.tables, kept)
    return tuple(
        apply_rules(kept[table.source], table.rule, config.path)
        if table.source in kept
        else described[table.source]
        for table in selection.tables
    )


def _refuse_moved(selected: Sequence[SelectedTable], loaded: Mapping[TableName, TableSchema]) -> None:
    for table in selected:
        schema = loaded.get(table.source)
        if schema is not None and schema.target != table.target:
            raise SchemaMismatch(
                f"{table.source} was loaded into {schema.target}, and the file now says {table.target}",
                hint=f'say "to: {schema.target}" again, or `drop` the pipeline and load anew',
            )


def _refuse_torn(status: Status | None, selection: Selection) -> None:
    """What is applied of a huge transaction is told by rows of these tables: they must be read until it is whole."""
    if status is None or status.torn is None:
        return
    missing = status.torn.tables - {table.source for table in selection.tables}
    if missing:
        names = ", ".join(map(str, sorted(missing)))
        raise SchemaMismatch(
            f"{names}: a huge transaction is applied in part, and the file mirrors them no longer",
            hint="put them back until `replicator status` says torn=0; or `drop` the pipeline and load anew",
        )


def _refuse_keyless(tables: Iterable[TableSchema]) -> None:
    keyless = [str(table.source) for table in tables if not table.key]
    if keyless:
        raise SourceError(
            f"without a primary key or a unique NOT NULL key: {', '.join(keyless)}",
            hint="give each a primary key, or leave it out with `skip: true`; this version mirrors no keyless table",
        )


def _refuse_unseen_cascades(unseen: Sequence[UnseenCascade]) -> None:
    if unseen:
        raise SourceError(
            "\n".join(item.message for item in unseen), hint="\n  ".join(item.hint for item in unseen)
        )


def _refuse_unready(reader: Reader, tables: Sequence[TableSchema]) -> None:
    failed = [item for item in reader.check(tables) if item.status == "fail"]
    if failed:
        raise SourceError(
            "the source is not ready:\n"
            + "\n".join(f"  {item.id} {item.subject}: {item.message}" for item in failed),
            hint="\n  ".join(item.fix for item in failed if item.fix) or "run `replicator check`",
        )


def _refuse_other_source(config: PipelineConfig, status: Status | None, reader: Reader) -> None:
    if status is not None and status.identity != reader.identity:
        raise PositionLost(
            f"{config.source.address} is {reader.identity}, but pipeline {config.pipeline} follows {status.identity}",
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


def _pause_orphans(
    session: Session,
    lease: Lease,
    stored: Mapping[TableName, TableState],
    dependants: Mapping[TableName, frozenset[TableName]],
) -> None:
    """Tables that came to the file while one was paused whose unlogged cascades they would miss are paused with it."""
    paused = {name for name, state in stored.items() if state.state is State.PAUSED}
    for parent in sorted(paused & dependants.keys()):
        for name in sorted(dependants[parent] - paused):
            reason = f"{parent} is paused, and the source does not log what its foreign keys do to this table"
            set_table(session, lease, name, state=State.PAUSED, error=reason)


def _find_read_from(opened: Opened) -> Position:
    """The lowest of what is stored (an undecided XA transaction holds it), the pipeline's position, and the own positions
    of tables that were catching up."""
    stored = opened.lease.read_from
    read_from = opened.position.meet(opened.reader.parse_position(stored)) if stored else opened.position
    for table in opened.tables:
        own = opened.own_position(table.source) if opened.is_loaded(table.source) else None
        if own is not None:
            read_from = read_from.meet(own)
    return read_from
