"""A TRUNCATE of a large table at the target, in place of the DELETE that its batch would else hold (SEMANTICS §4.5).

Between pipeline and barrier. It commits by itself, and its batch's checkpoint only follows. That needs no settling after a
crash: while the stored position stands before it, nothing that came later is applied to the table, so the next start may
run it again. An older process cannot: the newcomer ends its session before it applies anything (``Barrier.recover``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from replicator import ddl
from replicator.apply import Committer
from replicator.load.provision import open_barrier
from replicator.model import Position, TableSchema
from replicator.session import Session
from replicator.target import external_children

FEW_ROWS: Final = 20_000
"""Rows up to which a DELETE is as good."""


def truncate(
    committer: Committer,
    table: TableSchema,
    position: Position,
    *,
    stop: threading.Event,
    report: Callable[[str], None],
) -> bool:
    """Empty a large target table that no foreign key refers to, where ``position`` is the one behind the source's TRUNCATE.

    False, with nothing done, where that is the batch's work. ``report`` hears what is waited for, "" when nothing. Returns
    through outages and lock time-outs; raises Fenced, TargetError.
    """
    if not committer.call(lambda session, _lease: _is_worth_it(session, table)):
        return False
    endpoint, lease = committer.session.endpoint, committer.lease
    with open_barrier(endpoint, lease, stop, report) as barrier:
        return barrier.repeat(table.target, ddl.build_truncate(table), position=str(position))


def _is_worth_it(session: Session, table: TableSchema) -> bool:
    name = ddl.quote_name(table.target)
    is_large = bool(session.query(f"SELECT 1 FROM {name} LIMIT 1 OFFSET {FEW_ROWS}"))
    is_referred_to = is_large and bool(external_children(session, {table.target}))
    session.rollback()  # an open transaction would hold up the TRUNCATE
    return is_large and not is_referred_to
