"""A pipeline's replication slot at a PostgreSQL source: made, verified, taken over, dropped (SEMANTICS §2.4, §3).

Slot and publication carry the pipeline's name and its short id, so that only we make, change and drop them; the
publication is made first.
"""

from __future__ import annotations

import contextlib
import logging
import re
import select
import threading
import time
from typing import Final, NamedTuple

import psycopg
from psycopg import pq

from replicator.errors import PositionLost, SnapshotLost, SourceError, SourceLocked
from replicator.readers.lsn import START_AGAIN, LsnPosition, format_lsn, parse_lsn
from replicator.readers.postgres_session import (
    Connection,
    build_error,
    fetch,
    name_session,
    quote_literal,
    quote_name,
    read_state,
)

log = logging.getLogger("replicator")

PLUGIN: Final = "pgoutput"
FAILOVER: Final = 170_000  # from this version on a slot can go over to a standby
CREATE_SECONDS: Final = 120.0  # how long making a slot may wait for transactions that are open
TELL_SECONDS: Final = 5.0  # and how long without a word
END_SECONDS: Final = 10.0  # how long a session that we end may take
POLL_SECONDS: Final = 0.05


class Slot(NamedTuple):
    """A slot as the source shows it. ``confirmed``: up to where changes were acked; ``active_pid``: 0 where unused."""

    name: str
    plugin: str
    database: str
    confirmed: int
    active_pid: int
    wal_status: str


class Exported(NamedTuple):
    """A slot just made: changes begin after ``lsn``; ``snapshot`` shows what committed before it, for as long as the
    connection that made it runs nothing else.
    """

    lsn: int
    snapshot: str


def build_name(pipeline: str, short_id: str) -> str:
    """The name of a pipeline's slot and publication: lower-case letters, digits and underscores, at most 63."""
    plain = re.sub(r"[^a-z0-9_]+", "_", pipeline.lower())[:40]
    return f"replicator_{plain}_{short_id}"


def find_slot(connection: Connection, name: str) -> Slot | None:
    rows = fetch(
        connection,
        "SELECT slot_name, coalesce(plugin, '') AS plugin, coalesce(database, '') AS database,"
        " coalesce(confirmed_flush_lsn, '0/0')::text AS confirmed, coalesce(active_pid, 0) AS active_pid,"
        " coalesce(wal_status, '') AS wal_status FROM pg_replication_slots WHERE slot_name = %s",
        (name,),
    )
    if not rows:
        return None
    row = rows[0]
    return Slot(
        row["slot_name"],
        row["plugin"],
        row["database"],
        parse_lsn(row["confirmed"]),
        row["active_pid"],
        row["wal_status"],
    )


def verify_slot(slot: Slot | None, name: str, position: LsnPosition) -> None:
    """Raise PositionLost unless the slot can serve from ``position`` on (SEMANTICS §3.1)."""
    if slot is None:
        raise PositionLost(
            f"replication slot {name} is gone from the source, and with it what follows {position}",
            hint=START_AGAIN,
        )
    if slot.plugin != PLUGIN or slot.database != position.server.partition("/")[2]:
        raise PositionLost(
            f"replication slot {name} is another's: its plugin is {slot.plugin or 'none'}, its database"
            f" {slot.database or 'none'}",
            hint=START_AGAIN,
        )
    if slot.wal_status == "lost":
        raise PositionLost(
            f"the source has invalidated replication slot {name} and removed what follows {position}",
            hint=f"{START_AGAIN}; raise max_slot_wal_keep_size at the source",
        )
    if slot.confirmed > position.lsn:
        raise PositionLost(
            f"replication slot {name} stands at {format_lsn(slot.confirmed)}, beyond {position}: it was made anew, or"
            " another process has read from it",
            hint=START_AGAIN,
        )


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop the slot, ending whoever reads from it; False where there is none."""
    slot = find_slot(connection, name)
    if slot is None:
        return False
    if slot.active_pid:
        end_reader(connection, name, slot.active_pid)
    fetch(connection, "SELECT pg_drop_replication_slot(%s)", (name,))
    return True


def end_reader(connection: Connection, name: str, pid: int) -> None:
    """End the session that reads from a slot, and wait until the slot is free. Raises SourceLocked, SourceError."""
    try:
        fetch(connection, "SELECT pg_terminate_backend(%s)", (pid,))
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourceError(
            f"session {pid} of another account reads from replication slot {name}: {' '.join(str(error).split())}",
            hint=f"as a superuser: SELECT pg_terminate_backend({pid});",
        ) from error
    if not await_free(connection, name, END_SECONDS):
        raise SourceLocked(f"session {pid} still reads from replication slot {name}")


def await_free(connection: Connection, name: str, seconds: float) -> bool:
    """Whether nobody reads from a slot within so many seconds."""
    deadline = time.monotonic() + seconds
    while (slot := find_slot(connection, name)) is not None and slot.active_pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def create_slot(
    connection: Connection, control: Connection, name: str, stop: threading.Event, *, temporary: bool = False
) -> Exported:
    """Make a slot on a replication ``connection`` and export its snapshot.

    The source waits for every transaction that is open: after ``CREATE_SECONDS`` those are named, as ``control`` sees
    them. From PostgreSQL 17 on a standby that synchronizes slots has it too. On any error the connection is closed and
    the slot is not there. Raises SourceLocked, SourceError, SnapshotLost when ``stop`` is set.
    """
    try:
        return _create_slot(connection, control, name, stop, temporary=temporary)
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            connection.cancel()  # closed alone, the server would go on waiting, and hold the slot
        connection.close()
        raise


def _create_slot(
    connection: Connection, control: Connection, name: str, stop: threading.Event, *, temporary: bool
) -> Exported:
    kind = "TEMPORARY " if temporary else ""
    can_fail_over = connection.info.server_version >= FAILOVER and not temporary
    options = "(SNAPSHOT 'export', FAILOVER true)" if can_fail_over else "EXPORT_SNAPSHOT"
    pgconn = connection.pgconn
    pgconn.send_query(f"CREATE_REPLICATION_SLOT {quote_name(name)} {kind}LOGICAL {PLUGIN} {options}".encode())
    begun, is_told = time.monotonic(), False
    while pgconn.is_busy():
        select.select([pgconn.socket], [], [], POLL_SECONDS)
        if stop.is_set():
            raise SnapshotLost("the load was stopped while a replication slot was made")
        if time.monotonic() - begun > CREATE_SECONDS:
            raise _build_waiting(control)
        if not is_told and time.monotonic() - begun > TELL_SECONDS:
            is_told = True
            log.warning("load: %s", _build_waiting(control).message)
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        raise _build_refusal(pgconn, result)
    lsn, snapshot = result.get_value(0, 1), result.get_value(0, 2)
    while pgconn.get_result() is not None:
        pass
    return Exported(parse_lsn((lsn or b"0/0").decode()), (snapshot or b"").decode())


def _build_refusal(pgconn: pq.abc.PGconn, result: pq.abc.PGresult | None) -> SourceError:
    """Slots that others have all taken are waited for: one may be dropped."""
    text = pgconn.get_error_message() if result is None else result.get_error_message()
    message = f"the source does not make a replication slot: {' '.join(text.split())}"
    error = build_error("" if result is None else read_state(result), message)
    if error.retryable:
        return error
    return SourceError(
        message,
        hint="wal_level must be logical, max_replication_slots large enough, and the account have REPLICATION",
    )


def _build_waiting(control: Connection) -> SourceLocked:
    """By whom a slot is kept waiting: every transaction that was open when its making began."""
    sessions = fetch(
        control,
        "SELECT pid, usename, coalesce(application_name, '') AS application,"
        " extract(epoch FROM now() - xact_start)::int AS age"
        " FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5",
    )
    prepared = fetch(
        control,
        "SELECT gid, owner, extract(epoch FROM now() - prepared)::int AS age FROM pg_prepared_xacts LIMIT 5",
    )
    found = [name_session(row) for row in sessions]
    found += [f"prepared {row['gid']} ({row['owner']}, for {row['age']} s)" for row in prepared]
    ends = [f"SELECT pg_terminate_backend({row['pid']});" for row in sessions]
    ends += [f"ROLLBACK PREPARED {quote_literal(row['gid'])};" for row in prepared]
    return SourceLocked(
        "a replication slot cannot be made while older transactions are open:"
        f" {', '.join(found) or 'none that this account may see'}",
        hint="wait for them, or end them: " + " ".join(ends),
    )
