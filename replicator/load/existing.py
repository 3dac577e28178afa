"""Loading into a table that holds rows of others: which keys the source has, and the rows it lacks, kept or removed.

Used by ``load``. The keys that a load brought are noted in a table of their own, in the same transactions as the rows, so
that what is removed at the end is exact whatever the collations of source and target call equal (SEMANTICS §6.1).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from replicator import ddl, target
from replicator.barrier import Barrier
from replicator.checkpoint import Lease, run_fenced
from replicator.config import OWN_PREFIX
from replicator.model import Column, Index, IndexPart, TableSchema, UniqueKey
from replicator.session import Session
from replicator.sql import quote_name

REMOVE_ROWS: Final = 20_000


def create_keys_table(session: Session, barrier: Barrier, table: TableSchema) -> TableSchema:
    """An empty table for the keys of ``table``, of the target's own column types: it calls equal what the target does."""
    existing = target.read_tables(session, [table.target])[table.target]
    session.rollback()
    keys = _build_keys_table(table, existing)
    drop_keys_table(barrier, keys)
    barrier.run(keys.target, ddl.build_create_table(keys))
    return keys


def drop_keys_table(barrier: Barrier, keys: TableSchema) -> None:
    barrier.run(keys.target, f"DROP TABLE IF EXISTS {ddl.quote_name(keys.target)}", expected="")


def _build_keys_table(table: TableSchema, existing: target.TargetTable) -> TableSchema:
    columns = tuple(_build_key_column(table.columns[ordinal], existing) for ordinal in table.key)
    key = tuple(range(len(columns)))
    name = f"{OWN_PREFIX}keys_{hashlib.sha256(table.target.encode()).hexdigest()[:12]}"
    return replace(
        table,
        target=name,
        columns=columns,
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


def remove_others(session: Session, lease: Lease, table: TableSchema, keys: TableSchema) -> int:
    """Delete the rows whose key the source lacks, in bounded batches, each fenced; returns how many.

    Foreign keys are checked only where a table outside the pipeline refers to this one.
    """
    lacking = _build_lacking(table, keys)
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


def _build_lacking(table: TableSchema, keys: TableSchema) -> str:
    outer, inner = quote_name(table.target).decode(), quote_name(keys.target).decode()
    names = [quote_name(column.name).decode() for column in keys.columns]
    match = " AND ".join(f"{inner}.{name} = {outer}.{name}" for name in names)
    return f"NOT EXISTS (SELECT 1 FROM {inner} WHERE {match})"
