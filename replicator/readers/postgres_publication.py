"""A pipeline's publication at a PostgreSQL source: made, kept to the pipeline file, and watched (SEMANTICS §3.2).

What a publication leaves out, the stream does not tell. So its comment says as which rows of the catalog we left it: who
changes it, or drops and adds a table, changes these rows, even when all looks as before afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

import psycopg

from replicator.errors import PositionLost, SourceError
from replicator.model import TableName, TableSchema
from replicator.readers.base import Requirement
from replicator.readers.lsn import START_AGAIN
from replicator.readers.postgres_session import (
    Connection,
    build_locked,
    fetch,
    quote_literal,
    quote_name,
    quote_table,
)

_OPTIONS: Final = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
_NOTE: Final = re.compile(r"replicator: row (\d+), members ?([\d ]*)")


class _State(NamedTuple):
    """A publication as it is: ``row`` is the version of its catalog row, ``members`` tables by the oid of theirs."""

    row: str
    members: dict[int, TableName]
    note: str

    def build_note(self) -> str:
        return f"replicator: row {self.row}, members {' '.join(map(str, sorted(self.members)))}".rstrip()

    def find_intact(self, name: str) -> frozenset[TableName]:
        """The members that have been ours since we put them there. Raises PositionLost where the whole was changed."""
        match = _NOTE.fullmatch(self.note)
        if match is None or match[1] != self.row:
            raise PositionLost(
                f"publication {name} was changed by somebody: what it left out of the stream meanwhile is not known",
                hint=f"{START_AGAIN}; or, where it is certain that nothing was left out, have it accepted as it is:"
                f" COMMENT ON PUBLICATION {quote_name(name)} IS {quote_literal(self.build_note())};",
            )
        noted = self.find_noted()
        return frozenset(table for oid, table in self.members.items() if oid in noted)

    def find_noted(self) -> frozenset[int]:
        """The members that were there when we left it."""
        match = _NOTE.fullmatch(self.note)
        return frozenset(map(int, match[2].split())) if match else frozenset()


def settle(
    connection: Connection, name: str, tables: Collection[TableName], loaded: Collection[TableName]
) -> None:
    """Make its members ``tables``. Of those that are ``loaded``, one that is no member any more, or was put back by
    somebody, is left out: it missed changes, and ``find_left_out`` says so.

    Raises PositionLost where the publication is gone or was changed as a whole, SourceError with what the account lacks.
    """
    state = _read(connection, name)
    if state is None:
        raise _gone(name)
    intact = state.find_intact(name)
    wanted = {table for table in tables if table in intact or table not in loaded}
    if wanted != intact or len(intact) != len(state.members):
        if wanted:
            sql = f"ALTER PUBLICATION {quote_name(name)} SET TABLE {_list(wanted)}"
            _change(connection, name, [sql], wanted.union(state.members.values()))
        elif state.members:
            members = _list(state.members.values())
            sql = f"ALTER PUBLICATION {quote_name(name)} DROP TABLE {members}"
            _change(connection, name, [sql], state.members.values())


def create(connection: Connection, name: str, tables: Collection[TableName]) -> None:
    """Make the publication; one of this name is what a crash left, and goes. Raises SourceError."""
    members = f"FOR TABLE {_list(tables)} " if tables else ""
    _change(
        connection,
        name,
        [
            f"DROP PUBLICATION IF EXISTS {quote_name(name)}",
            f"CREATE PUBLICATION {quote_name(name)} {members}WITH ({_OPTIONS})",
        ],
        tables,
    )


def find_left_out(connection: Connection, name: str, tables: Iterable[TableName]) -> dict[TableName, str]:
    """Why which of these tables are no longer told of. Raises PositionLost where that goes for all."""
    state = _read(connection, name)
    if state is None:
        raise _gone(name)
    intact = state.find_intact(name)
    reason = f"it was taken out of publication {name}, or dropped and made anew: changes are missing in what the source sent"
    return {table: reason for table in tables if table not in intact}


def judge(connection: Connection, name: str, tables: Iterable[TableSchema]) -> Requirement:
    """Whether a pipeline that has begun can go on with its publication."""
    try:
        state = _read(connection, name)
        if state is None:
            raise _gone(name)
        intact = state.find_intact(name)
    except PositionLost as error:
        return Requirement("source.publication", "fail", name, error.message, error.hint)
    missing = len(state.find_noted()) - len(intact)
    if missing or len(intact) < len(state.members):
        doubtful = ", ".join(str(table.source) for table in tables if table.source not in intact)
        return Requirement(
            "source.publication",
            "warn",
            name,
            f"somebody took tables out of it, or put some in: of {doubtful or 'tables that left the file'}, those that are"
            " loaded missed changes and will be paused",
            START_AGAIN,
        )
    return Requirement("source.publication", "pass", name, f"{len(intact)} tables, as it was left")


def drop(connection: Connection, name: str) -> None:
    """What is not there is no error."""
    connection.execute(f"DROP PUBLICATION IF EXISTS {quote_name(name)}".encode())


def _change(
    connection: Connection, name: str, statements: Iterable[str], tables: Iterable[TableName]
) -> None:
    """Run the statements and note what came of them, all or nothing. They lock ``tables`` against other changes of theirs,
    not against reading and writing. Raises SourceLocked, SourceError.
    """
    try:
        with connection.transaction():
            for sql in statements:
                connection.execute(sql.encode())
            state = _read(connection, name)
            assert state is not None
            note = quote_literal(state.build_note())
            connection.execute(f"COMMENT ON PUBLICATION {quote_name(name)} IS {note}".encode())
    except psycopg.errors.LockNotAvailable:
        what = f"publication {name} cannot be changed"
        raise build_locked(connection, tables, what, to_change=True) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourceError(
            f"publication {name} cannot be made: {' '.join(str(error).split())}",
            hint="the account needs CREATE on the database and must own the tables it publishes, or belong to the role"
            " that owns them; `replicator check` names the statement",
        ) from error


def _list(tables: Iterable[TableName]) -> str:
    """A table with inherited children is published alone, for each child is a table of its own; a partitioned one whole."""
    return ", ".join(f"ONLY {quote_table(table)}" for table in sorted(tables))


def _read(connection: Connection, name: str) -> _State | None:
    rows = fetch(
        connection,
        "SELECT p.xmin::text AS row, coalesce(obj_description(p.oid, 'pg_publication'), '') AS note"
        " FROM pg_publication p WHERE p.pubname = %s",
        (name,),
    )
    if not rows:
        return None
    members = fetch(
        connection,
        "SELECT r.oid::int8 AS oid, n.nspname AS schema, c.relname AS name FROM pg_publication_rel r"
        " JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
        (name,),
    )
    return _State(
        rows[0]["row"],
        {row["oid"]: TableName(row["schema"], row["name"]) for row in members},
        rows[0]["note"],
    )


def _gone(name: str) -> PositionLost:
    return PositionLost(
        f"publication {name} is gone from the source: what changed since is in no stream", hint=START_AGAIN
    )
