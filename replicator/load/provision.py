"""Target tables around their load: compared, created, emptied of what only we filled, completed with indexes and keys.

Used by ``load``, above ``target``, ``ddl`` and ``barrier``. The program empties only what it alone has filled (SEMANTICS
§6.1): ``_replicator_tables`` says how a table was found before our first row, and a table that was found with rows, or
that holds rows although we never wrote one, is never emptied, dropped or loaded without the user's word.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from replicator import ddl, target
from replicator.barrier import Barrier
from replicator.checkpoint import Lease, run_fenced
from replicator.config import Endpoint, ExistingRows
from replicator.config.selection import Selection
from replicator.errors import SchemaMismatch
from replicator.load.existing import drop_keys_tables
from replicator.model import ForeignKey, TableName, TableSchema
from replicator.session import Session
from replicator.tablestate import Found, State, TableState, read_tables, set_table
from replicator.targetkeys import find_key_faults

DELETE_ROWS = 20_000


class _Fault(NamedTuple):
    """Why one table cannot be loaded, and what to do about it."""

    message: str
    hint: str


class _Place(NamedTuple):
    """What was found in a table's place at the target; ``rows`` are those of others, None where there is no table.

    ``is_new``: the rows were to go to another target table so far.
    """

    found: Found
    rows: int | None
    is_new: bool = False

    @property
    def is_missing(self) -> bool:
        return self.rows is None


def prepare_tables(
    session: Session,
    lease: Lease,
    tables: Sequence[TableSchema],
    selection: Selection,
    stop: threading.Event,
    *,
    cascading: Collection[TableName] = frozenset(),
) -> None:
    """Compare the tables that are to be loaded, note how each was found, and create what is missing.

    Comes right after the lease was taken: a statement that a crash left pending is brought to its end first. Every fault
    of every table is told at once (SchemaMismatch), before anything else is changed. ``cascading`` tables depend on what
    the target's own foreign keys do.
    """
    with open_barrier(session.endpoint, lease, stop) as barrier:
        _recover(barrier)
        places = _find_places(session, lease, tables, selection, cascading)
        for table, place in places.items():
            moved = {"target": table.target, "reset": True} if place.is_new else {}
            set_table(session, lease, table.source, found=place.found, rows_at_start=place.rows, **moved)
        for table, place in places.items():
            if place.is_missing:
                create_table(session, barrier, table)
        merged = {table for table, place in places.items() if place.found is Found.ROWS}
        others = [(table.source, table.target) for table in tables if table not in merged]
        drop_keys_tables(session, barrier, lease.pipeline, others)


def _recover(barrier: Barrier) -> None:
    unsettled = barrier.recover()
    if unsettled:
        raise SchemaMismatch(
            "\n".join(map(str, unsettled)),
            hint="somebody has changed these tables meanwhile: bring each into one of the two forms, then start again",
        )


def _find_places(
    session: Session,
    lease: Lease,
    tables: Sequence[TableSchema],
    selection: Selection,
    cascading: Collection[TableName],
) -> dict[TableSchema, _Place]:
    """What was found in the place of each table that is to be loaded; those that are loaded are compared once more where
    they depend on the target's own keys."""
    states = {state.source: state for state in read_tables(session, lease.pipeline)}
    options = {table.source: table for table in selection.tables}
    target.check_names(session, tables)
    existing = target.read_tables(session, [table.target for table in tables])
    faults: list[_Fault] = []
    places: dict[TableSchema, _Place] = {}
    for table in tables:
        with _gather(faults):
            state = states[table.source]
            stored, found = state.as_of(table.target), existing.get(table.target)
            place = _find_place(session, table, stored, found)
            if found is not None and table.source in cascading and state.state is not State.PAUSED:
                faults += _find_key_faults(table, found, tables, stored)
            if place is None:
                continue
            option = options[table.source]
            _refuse_place(table, place, create=option.create, rows=option.existing_rows)
            places[table] = place._replace(is_new=state.target != table.target)
    session.rollback()
    _raise_faults(faults)
    return places


@contextlib.contextmanager
def _gather(faults: list[_Fault]) -> Iterator[None]:
    try:
        yield
    except SchemaMismatch as error:
        faults.append(_Fault(error.message, error.hint))


def _raise_faults(faults: Sequence[_Fault]) -> None:
    if faults:
        hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
        raise SchemaMismatch("\n".join(fault.message for fault in faults), hint="\n  ".join(hints))


def _find_place(
    session: Session, table: TableSchema, state: TableState, existing: target.TargetTable | None
) -> _Place | None:
    """How the table is found now, or was found before our own first row; None for a table that is loaded."""
    if state.state is State.PAUSED:
        return None
    if existing is None:
        if state.is_kept:
            raise SchemaMismatch(
                f"{table.target}: {table.source} was loaded into it, and it is gone from the target",
                hint="`drop` the pipeline, then load anew",
            )
        return _Place(Found.MISSING, None)
    if state.is_kept:
        return None
    target.refuse_unfit(table, existing)
    if target.is_empty(session, table.target):
        return _Place(Found.MISSING if state.found is Found.MISSING else Found.EMPTY, 0)
    others = target.count_rows(session, table.target) - state.count_ours()
    return _Place(Found.ROWS, others) if others > 0 else _Place(state.found, state.rows_at_start or 0)


def _refuse_place(table: TableSchema, place: _Place, *, create: bool, rows: ExistingRows) -> None:
    if place.is_missing and not create:
        raise SchemaMismatch(
            f"{table.target}: the target has no such table, and the pipeline file says `create: false` for {table.source}",
            hint="create it, or say `create: true`; `replicator plan --ddl` prints the statement",
        )
    if place.found is Found.ROWS and rows is ExistingRows.REFUSE:
        raise SchemaMismatch(
            f"{table.target}: the target table holds {place.rows:,} rows that this pipeline did not bring",
            hint="say `existing_rows: merge` to keep rows that the source lacks, or `existing_rows: replace` to remove them",
        )


def _find_key_faults(
    table: TableSchema, existing: target.TargetTable, tables: Sequence[TableSchema], state: TableState
) -> Iterator[_Fault]:
    """A table that depends on what the target's own keys do must have them, whoever made it and whenever it was loaded."""
    selected = {other.source: other for other in tables}
    remedy = "; where that is refused (1452), it missed a cascade: `drop` the pipeline, then load anew"
    for fault in find_key_faults(table, existing, selected, state):
        yield _Fault(fault.message, f"at the target: {fault.fix}{remedy if state.is_loaded else ''}")


# --- creating and emptying --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_barrier(
    endpoint: Endpoint,
    lease: Lease,
    stop: threading.Event,
    report: Callable[[str], None] = lambda _text: None,
) -> Iterator[Barrier]:
    """The session for statements that commit by themselves, closed at the end."""
    barrier = Barrier(endpoint, lease, fingerprint=target.fingerprint, stop=stop, report=report)
    with contextlib.closing(barrier):
        yield barrier


def create_table(session: Session, barrier: Barrier, table: TableSchema) -> None:
    """Create a missing target table, without secondary indexes; DEFAULTs that the server refuses are left out."""
    fitted = target.fit_expressions(session, table)
    session.rollback()
    barrier.run(table.target, ddl.build_create_table(fitted))


def empty_table(session: Session, lease: Lease, barrier: Barrier, table: TableSchema, found: Found) -> None:
    """Remove what only we filled, so that it can be loaded again. One that we created is made anew, indexes and all.

    Where somebody has added columns meanwhile, or the table was there before us, its rows are deleted in bounded batches,
    each fenced; foreign keys are not checked, for all rows will be back.
    """
    existing = target.read_tables(session, [table.target]).get(table.target)
    if existing is None:
        create_table(session, barrier, table)
        return
    if target.is_empty(session, table.target):
        session.rollback()
        return
    session.rollback()
    ours = {c.name.lower() for c in table.columns} | {c.name.lower() for c in table.generated}
    if found is Found.MISSING and existing.columns.keys() <= ours:
        barrier.run(table.target, f"DROP TABLE {ddl.quote_name(table.target)}", expected="")
        create_table(session, barrier, table)
        return
    delete = f"DELETE FROM {ddl.quote_name(table.target)} LIMIT {DELETE_ROWS}".encode()
    session.set_foreign_key_checks(on=False)
    while not target.is_empty(session, table.target):
        session.rollback()
        run_fenced(session, lease, delete)
    session.rollback()


# --- after the rows ---------------------------------------------------------------------------------------------------


def add_indexes(session: Session, barrier: Barrier, table: TableSchema, found: Found) -> None:
    """The secondary and unique indexes of a table that we created; those that an earlier end of this load made, stay."""
    if found is not Found.MISSING:
        return
    name = table.target.lower() if target.folds_names(session) else table.target
    rows = session.query(_INDEX_NAMES, name)
    session.rollback()
    made = {str(name).lower() for (name,) in rows}
    for statement in ddl.build_indexes(table, present=made):
        barrier.run(table.target, statement)


_INDEX_NAMES: Final = (
    "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS"
    " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
)


class Orphans(NamedTuple):
    """Rows of a child table whose parent is not there, though a foreign key of the source says it should be."""

    table: TableSchema
    key: ForeignKey
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.table.target}: {self.rows:,} rows have no parent in {self.key.parent}"
            f" ({', '.join(self.key.columns)}; foreign key {self.key.name})"
        )


def add_foreign_keys(
    session: Session,
    barrier: Barrier,
    tables: Sequence[TableSchema],
    selected: Mapping[TableName, TableSchema],
    states: Mapping[TableName, TableState],
    *,
    position: str,
) -> list[Orphans]:
    """Create the foreign keys of the tables that we created, and count the rows that break one, in any of ``tables``.

    The keys are created without checking rows that the source, too, may hold in spite of them.
    """
    existing = target.read_tables(session, [table.target for table in tables])
    session.rollback()
    orphans: list[Orphans] = []
    for table in tables:
        if states[table.source].found is Found.MISSING:
            _add_keys(barrier, table, selected, existing[table.target], position)
        for key in ddl.mirrored_foreign_keys(table, selected):
            rows = target.count_orphans(session, table, key, selected[key.parent])
            session.rollback()
            if rows:
                orphans.append(Orphans(table, key, rows))
    return orphans


def _add_keys(
    barrier: Barrier,
    table: TableSchema,
    selected: Mapping[TableName, TableSchema],
    existing: target.TargetTable,
    position: str,
) -> None:
    names = {key.name for key in existing.foreign_keys}
    lacking = [
        key for key in table.foreign_keys if ddl.build_constraint_name(key, table, selected) not in names
    ]
    for statement in ddl.build_foreign_keys(replace(table, foreign_keys=tuple(lacking)), selected):
        barrier.run(table.target, statement, position=position)
