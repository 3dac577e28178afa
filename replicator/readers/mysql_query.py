"""Queries on a source's catalog, for the modules that read it: rows as dicts, names quoted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from replicator.model import TableName
from replicator.typemap.mysql import quote_name

Record = dict[str, Any]


def fetch(connection: Any, sql: str, args: Sequence[object] = ()) -> list[Record]:
    """The rows of one query as dicts with lower-case names."""
    with connection.cursor() as cursor:
        cursor.execute(sql, tuple(args) or None)
        names = [item[0].lower() for item in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def marks(values: Sequence[object]) -> str:
    """The placeholders of an IN list."""
    return ", ".join(["%s"] * len(values))


def quote_table(name: TableName) -> str:
    return f"{quote_name(name.schema)}.{quote_name(name.table)}"
