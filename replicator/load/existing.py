"""Loading into a table that holds rows of others: which keys the source has, and the rows it lacks, kept or removed.

Used by ``load``. The keys that a load brings are noted in a table of their own, in the same transactions as the rows,
each with the number of the attempt that saw it last, so that what is removed at the end is exact whatever the collations
of source and target call equal (SEMANTICS §6.1). That table outlives attempts: a key that only an earlier one saw is of a
row that this pipeline brought and the source has deleted since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from replicator import ddl, target
from replicator.barrier import Barrier
from replicator.checkpoint import Lease, run_fenced
from replicator.config import OWN_PREFIX, ExistingRows
from replicator.model import Column, Index, IndexPart, Kind, Row, TableName, TableSchema, UniqueKey
from replicator.session import Session
from replicator.sql.names import quote_name
from replicator.tablestate import read_tables

REMOVE_ROWS: Final = 20_000
KEYS_PREFIX: Final = f"{OWN_PREFIX}keys_"
_ATTEMPT: Final = Column(f"{OWN_PREFIX}attempt", Kind.INTEGER, "bigint", nullable=False)


class Merge(NamedTuple):
    """One attempt to load into a table with rows of others; ``keys`` is the table that notes which keys the source has.

    ``attempt`` is higher than that of every earlier attempt of this pipeline.
    """

    keys: TableSchema
    attempt: int

    def note(self, table: TableSchema, rows: Iterable[Row]) -> list[Row]:
        """The rows of ``keys`` for these rows of ``table``."""
        return [(*(row[ordinal] for ordinal in table.key), self.attempt) for row in rows]


def open_keys_table(session: Session, barrier: Barrier, pipeline: str, table: TableSchema) -> TableSchema:
    """A table for the keys of ``table``, of the target's own column types: it calls equal what the target does.

    The one that an earlier attempt left is gone on with, unless the target's key has other types since.
    """
    keys = _build_keys_table(pipeline, table, target.read_tables(session, [table.target])[table.target])
    left = target.read_tables(session, [keys.target]).get(keys.target)
    session.rollback()
    if left is None or not _is_of_types(left, keys):
        drop_keys_table(barrier, keys.target)
        barrier.run(keys.target, ddl.build_create_table(keys))
    return keys


def _is_of_types(left: target.TargetTable, keys: TableSchema) -> bool:
    wanted = [(column.name.lower(), column.type, column.collation) for column in keys.columns]
    return wanted == [(name, column.type, column.collation) for name, column in left.columns.items()]


def drop_keys_table(barrier: Barrier, name: str) -> None:
    barrier.run(name, f"DROP TABLE IF EXISTS {ddl.quote_name(name)}", expected="")


def drop_keys_tables(
    session: Session, barrier: Barrier, pipeline: str, tables: Iterable[tuple[TableName, str]]
) -> None:
    """Those that ``find_keys_tables`` finds: their loads are done with them."""
    for name in find_keys_tables(session, pipeline, tables):
        drop_keys_table(barrier, name)


def find_keys_tables(session: Session, pipeline: str, tables: Iterable[tuple[TableName, str]]) -> list[str]:
    """Names of the tables of keys that this pipeline has left for these source tables and their targets."""
    rows = session.query(
        "SELECT TABLE_NAME FROM information_schema.TABLES"
        f" WHERE TABLE_SCHEMA = DATABASE() AND LEFT(TABLE_NAME, {len(KEYS_PREFIX)}) = '{KEYS_PREFIX}'"
    )
    session.rollback()
    ours = {_name_keys_table(pipeline, source, name) for source, name in tables} if rows else set()
    return sorted(ours & {str(name) for (name,) in rows})


def forget_keys(session: Session, pipeline: str) -> None:
    """Remove what a forgotten pipeline has noted: from now on the rows it brought are rows of others."""
    tables = [(state.source, state.target) for state in read_tables(session, pipeline)]
    for name in find_keys_tables(session, pipeline, tables):
        session.execute(f"DROP TABLE IF EXISTS {ddl.quote_name(name)}")


def _name_keys_table(pipeline: str, source: TableName, name: str) -> str:
    return KEYS_PREFIX + hashlib.sha256("\0".join((pipeline, *source, name)).encode()).hexdigest()[:24]


def _build_keys_table(pipeline: str, table: TableSchema, existing: target.TargetTable) -> TableSchema:
    columns = tuple(_build_key_column(table.columns[ordinal], existing) for ordinal in table.key)
    key = tuple(range(len(columns)))
    return replace(
        table,
        target=_name_keys_table(pipeline, table.source, table.target),
        columns=(*columns, _ATTEMPT),
        key=key,
        unique_keys=(UniqueKey("PRIMARY", key),),
        generated=(),
        indexes=(Index("PRIMARY", "primary", tuple(IndexPart(column.name) for column in columns)),),
        foreign_keys=(),
        comment="",
    )


def _build_key_column(column: Column, existing: target.TargetTable) -> Column:
    actual = existing.columns[column.name.lower()]
    return replace(
        column,
        type=actual.type,
        collation=actual.collation or column.collation,
        nullable=False,
        default=None,
        on_update=None,
        auto_increment=False,
        invisible=False,
        comment="",
    )


def count_others(session: Session, table: TableSchema, rows_loaded: int) -> int:
    """How many rows the source lacks: each row it has is in the table, under its key."""
    others = target.count_rows(session, table.target) - rows_loaded
    session.rollback()
    return max(0, others)


def remove_others(
    session: Session, lease: Lease, table: TableSchema, merge: Merge, rows: ExistingRows
) -> int:
    """Delete in bounded batches, each fenced, and return how many: the rows whose key the source lacks (``replace``), or
    those among them that an earlier attempt had brought (``merge``).

    Foreign keys are checked only where a table outside the pipeline refers to this one.
    """
    if rows is ExistingRows.MERGE and not _has_earlier(session, merge):
        return 0
    lacking = _build_lacking(table, merge, rows)
    name = quote_name(table.target).decode()
    total = int(session.query(f"SELECT COUNT(*) FROM {name} WHERE {lacking}")[0][0])
    is_referred_to = bool(target.external_children(session, [table.target]))
    session.rollback()
    session.set_foreign_key_checks(on=is_referred_to)
    delete = f"DELETE FROM {name} WHERE {lacking} LIMIT {REMOVE_ROWS}".encode()
    while session.query(f"SELECT 1 FROM {name} WHERE {lacking} LIMIT 1"):
        session.rollback()
        run_fenced(session, lease, delete)
    session.rollback()
    return total


def _has_earlier(session: Session, merge: Merge) -> bool:
    """Whether there is a key that only an earlier attempt saw."""
    keys = quote_name(merge.keys.target).decode()
    found = session.query(f"SELECT 1 FROM {keys} WHERE {_ATTEMPT.name} < {merge.attempt} LIMIT 1")
    session.rollback()
    return bool(found)


def _build_lacking(table: TableSchema, merge: Merge, rows: ExistingRows) -> str:
    outer, inner = quote_name(table.target).decode(), quote_name(merge.keys.target).decode()
    names = [quote_name(merge.keys.columns[ordinal].name).decode() for ordinal in merge.keys.key]
    match = " AND ".join(f"{inner}.{name} = {outer}.{name}" for name in names)
    attempt = f"{inner}.{_ATTEMPT.name}"
    if rows is ExistingRows.MERGE:
        return f"EXISTS (SELECT 1 FROM {inner} WHERE {match} AND {attempt} < {merge.attempt})"
    return f"NOT EXISTS (SELECT 1 FROM {inner} WHERE {match} AND {attempt} = {merge.attempt})"
