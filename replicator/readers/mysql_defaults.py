"""Defaults of BINARY and VARBINARY columns, which MySQL's information_schema prints up to their first zero byte.

SHOW CREATE TABLE has them whole, as a literal that another MySQL takes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from replicator.model import Column, Kind, TableSchema
from replicator.readers.mysql_query import fetch, quote_table
from replicator.typemap.mysql import quote_name

# Nothing between the name and DEFAULT holds a quote; a comment would, and comes after it.
_LITERAL: Final = r"[^'\n]*? DEFAULT ('(?:[^'\\]|''|\\.)*'|0x[0-9A-F]*)"


def recover_defaults(connection: Any, schema: TableSchema) -> TableSchema:
    """``schema`` of a MySQL table with the whole literals; asks the server only where there is such a default."""
    if not any(map(_is_doubtful, schema.columns)):
        return schema
    rows = fetch(connection, f"SHOW CREATE TABLE {quote_table(schema.source)}")
    text = str(rows[0]["create table"])
    return replace(schema, columns=tuple(_recover(c, text) if _is_doubtful(c) else c for c in schema.columns))


def _is_doubtful(column: Column) -> bool:
    return column.kind is Kind.BINARY and (column.default or "").startswith("0x")


def _recover(column: Column, text: str) -> Column:
    match = re.search(r"(?m)^\s*" + re.escape(quote_name(column.name)) + _LITERAL, text)
    return replace(column, default=match[1]) if match else column
