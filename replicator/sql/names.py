"""Names in MySQL's DML, and the index by which a table's rows are found (pure)."""

from __future__ import annotations

from replicator.model import TableSchema


def quote_name(name: str) -> bytes:
    """An identifier between backticks."""
    return b"`" + name.replace("`", "``").encode() + b"`"


def key_index(table: TableSchema) -> bytes | None:
    """The quoted name of the index over exactly the key's columns."""
    return next((quote_name(key.name) for key in table.unique_keys if key.ordinals == table.key), None)


def force_index(table: TableSchema) -> bytes:
    index = key_index(table)
    return b"" if index is None else b" FORCE INDEX (" + index + b")"
