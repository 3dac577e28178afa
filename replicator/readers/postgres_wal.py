"""How far a PostgreSQL source has written, and which past it shares with the server it was (SEMANTICS §1.6, §11)."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from replicator.readers.lsn import parse_lsn
from replicator.readers.postgres_session import Connection, fetch

POLL_SECONDS: Final = 0.02
SHORT, LONG = 24, 40  # bytes of the header of a page, and of a segment's first
_ENDS: Final = (
    "SELECT pg_is_in_recovery() AS is_standby, current_setting('wal_block_size')::int AS page,"
    " (SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size') AS segment,"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text AS inserted,"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text AS flushed,"
    " (SELECT setting::int FROM pg_settings WHERE name = 'wal_writer_delay') AS delay"
)


class Ends(NamedTuple):
    """Where the WAL ends: what is ``inserted``, what of it is ``flushed`` and can be sent; ``delay`` in seconds is the
    WAL writer's. A standby's is what it has replayed.
    """

    inserted: int
    flushed: int
    delay: float
    is_standby: bool


def read_ends(connection: Connection) -> Ends:
    row = fetch(connection, _ENDS)[0]
    inserted, flushed = parse_lsn(row["inserted"]), parse_lsn(row["flushed"])
    return Ends(
        leave_fresh_page(inserted, row["page"], row["segment"]),
        flushed,
        row["delay"] / 1000,
        row["is_standby"],
    )


def leave_fresh_page(lsn: int, page: int, segment: int) -> int:
    """The end of what is written: an insert position behind a page's header alone is ahead of it. Sizes in bytes."""
    header = LONG if lsn % segment < page else SHORT
    return lsn - header if lsn % page == header else lsn


def find_committed(connection: Connection) -> int:
    """A position that can be sent and has every transaction that anybody saw committed when this was called.

    Asynchronous commits are seen before they are flushed, at the latest after three delays of the WAL writer. What else
    is inserted may stay unflushed for long, and nothing that was not flushed is sent.
    """
    ends = read_ends(connection)
    flushed, deadline = ends.flushed, time.monotonic() + 4 * ends.delay
    while flushed < ends.inserted and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        flushed = read_ends(connection).flushed
    return min(flushed, ends.inserted)


def find_parting(replication: Connection, old: int, new: int) -> int:
    """Up to where timeline ``new`` is timeline ``old``; 0 where it does not come from it. Raises psycopg.Error."""
    if new <= old:
        return 0
    content = fetch(replication, f"TIMELINE_HISTORY {new}")[0]["content"]
    text = content.decode() if isinstance(content, bytes) else str(content)
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == str(old):
            return parse_lsn(words[1])
    return 0
