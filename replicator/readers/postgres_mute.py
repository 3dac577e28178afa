"""Columns whose values have no text: some types of extensions are for their own indexes alone (PostgreSQL).

A value of theirs can be stored, and never be shown. No catalog tells, so values are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import psycopg

from replicator.errors import SourceError
from replicator.model import Column, TableName, TableSchema
from replicator.readers.base import Requirement
from replicator.readers.postgres_session import Connection, Refused, quote_name, quote_table

TRY_SECONDS: Final = 2


def check_text_forms(connection: Connection, table: TableSchema) -> Iterator[Requirement]:
    """One value of each column is tried."""
    strange = _find_strange(table)
    if not strange or not _try_values(connection, table, strange):
        return
    for column in strange:
        if reason := _try_values(connection, table, [column]):
            yield Requirement(
                "tables.text_form",
                "fail",
                f"{table.source} {column.name}",
                f"values of type {column.source_type} have no text: {reason}",
                _build_skip(table.source),
            )


def name_mute(connection: Connection, tables: Sequence[TableSchema], error: Refused) -> SourceError:
    """``error``, met while rows of ``tables`` were read, with table and column where a value without a text explains it.

    The server names the type, or nothing at all. The columns that hold such a value are told; where none does any more,
    those of which nothing can be tried. Raises psycopg.Error.
    """
    tried = {
        (table.source, column.name): _try_values(connection, table, [column])
        for table in tables
        for column in _find_strange(table)
    }
    mute = [name for name, reason in tried.items() if reason]
    untold = [name for name, reason in tried.items() if reason is None]
    if not mute and not untold:
        return error
    names = ", ".join(f"{table}:{column}" for table, column in mute or untold)
    skips = dict.fromkeys(_build_skip(table) for table, _ in mute or untold)
    said = (
        f"{names}: a value that has no text: " if mute else f"it may be a value without a text in {names}: "
    )
    return SourceError(said + error.message, hint="\n  ".join(skips))


def _find_strange(table: TableSchema) -> list[Column]:
    return [column for column in table.columns if column.base == "other" and "." in column.source_type]


def _build_skip(table: TableName) -> str:
    return f'tables: {{"{table}": {{skip: true}}}}'


def _try_values(connection: Connection, table: TableSchema, columns: Sequence[Column]) -> str | None:
    """Why a value of these columns cannot be shown, "" where each has one that can; None where none is there, or none is
    soon found.
    """
    source = quote_table(table.source)
    names = [quote_name(column.name) for column in columns]
    values = [f"(SELECT {name}::text FROM {source} WHERE {name} IS NOT NULL LIMIT 1)" for name in names]
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL statement_timeout = '{TRY_SECONDS}s'".encode())
            [row] = connection.execute(f"SELECT {', '.join(values)}".encode()).fetchall()
    except (
        psycopg.errors.QueryCanceled,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.InsufficientPrivilege,
    ):
        return None
    except psycopg.DatabaseError as error:
        if error.sqlstate is None:  # the link, not the value
            raise
        return " ".join(str(error).split())
    return None if None in row else ""
