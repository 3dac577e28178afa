"""Names in MySQL's DML, and how a table's rows are found by the index of its key (pure)."""

from __future__ import annotations

from replicator.model import Column, Kind, TableSchema
from replicator.sql.literal import charset_name, collation_charset, render_zeros


def quote_name(name: str) -> bytes:
    """An identifier between backticks."""
    return b"`" + name.replace("`", "``").encode() + b"`"


def key_index(table: TableSchema) -> bytes | None:
    """The quoted name of the index over exactly the key's columns."""
    return next((quote_name(key.name) for key in table.unique_keys if key.ordinals == table.key), None)


def force_index(table: TableSchema) -> bytes:
    """The hint, after a table's name or alias, that its rows are found by that index; nothing where it has no name."""
    index = key_index(table)
    return b"" if index is None else b" FORCE INDEX (" + index + b")"


def _compared(column: Column, value: bytes) -> bytes:
    """``value`` such that comparing it with the column converts the value, never the column: its index stays usable."""
    if column.kind is Kind.ENUM:
        zero, empty = render_zeros(column)
        return value if zero is None else b"IF(%b=%b,%b,%b)" % (value, zero, empty, value)
    if column.kind is not Kind.TEXT or not column.collation:
        return value
    stored = collation_charset(column).encode()
    ours = (
        b"utf8mb4"
        if column.charset in (None, "utf8mb4", "utf8mb3", "utf8", "ascii")
        else charset_name(column).encode()
    )
    if ours != stored:
        value = b"CONVERT(" + value + b" USING " + stored + b")"
    return value + b" COLLATE " + column.collation.encode()


def on_key(table: TableSchema, prefix: bytes, alias: bytes) -> bytes:
    """The condition that a row of ``alias`` has the key in the columns ``prefix`` + number: the ordinal's, of ``n.o`` that
    of the place in the key.
    """
    columns = [table.columns[at] for at in table.key]
    names = [prefix + b"%d" % (number if prefix == b"n.o" else at) for number, at in enumerate(table.key)]
    return b" AND ".join(
        alias + b"." + quote_name(column.name) + b"=" + _compared(column, name)
        for column, name in zip(columns, names, strict=True)
    )
