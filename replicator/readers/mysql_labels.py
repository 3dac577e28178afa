"""ENUM and SET members with characters beyond U+FFFF, which both products' catalogs print as ``?``.

The log and the rows have them right, so the rows are asked. A member that no row has stays a ``?``; the first change
that needs it stops the table, for its name in the log differs (rowmatch.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from replicator.model import Column, Kind, TableName, TableSchema
from replicator.readers.mysql_query import fetch, quote_table
from replicator.typemap.expression import quote_text
from replicator.typemap.mysql import quote_name, type_name

_WIDE: Final = ("utf8mb4", "utf16", "utf16le", "utf32", "gb18030")


def recover_labels(connection: Any, schema: TableSchema) -> TableSchema:
    """``schema`` with the true members of every column where the catalog's may be wrong.

    Costs a scan of the table, only where a member of an ENUM or SET in a wide character set has a ``?``.
    """
    columns = tuple(
        _recover(connection, schema.source, column) if _is_doubtful(column) else column
        for column in schema.columns
    )
    return schema if columns == schema.columns else replace(schema, columns=columns)


def _is_doubtful(column: Column) -> bool:
    if column.kind not in (Kind.ENUM, Kind.SET) or not column.collation:
        return False
    return column.collation.partition("_")[0] in _WIDE and any(b"?" in label for label in column.labels)


def _recover(connection: Any, name: TableName, column: Column) -> Column:
    quoted = quote_name(column.name)
    rows = fetch(
        connection,
        f"SELECT DISTINCT CAST({quoted} AS UNSIGNED) AS number, HEX(CONVERT({quoted} USING utf8mb4)) AS text"
        f" FROM {quote_table(name)} WHERE {quoted} IS NOT NULL",
    )
    labels = list(column.labels)
    for row in rows:
        number, text = int(row["number"]), bytes.fromhex(row["text"])
        for ordinal, label in _pair(column.kind, number, text):
            labels[ordinal] = label
    members = ",".join(quote_text(label.decode()) for label in labels)
    return replace(column, labels=tuple(labels), type=f"{type_name(column.type)}({members})")


def _pair(kind: Kind, number: int, text: bytes) -> Iterable[tuple[int, bytes]]:
    """Which members a value of the column shows, by ordinal."""
    if kind is Kind.ENUM:
        return [(number - 1, text)] if number else []
    return zip((i for i in range(64) if number >> i & 1), text.split(b","), strict=False)
