"""The demo's judge: every row of a source table against its target table, by values that each server computes itself.

It shares nothing with the path that a row took: names and types come from information_schema, values from SQL
expressions. Text is compared by the bytes of its utf8mb4 form, floating point by its bits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from replicator.servers import Server

_TEXT = frozenset({"char", "varchar", "text", "longtext", "json", "enum"})
_FLOATING = frozenset({"float", "double"})


@dataclass(frozen=True, slots=True)
class Side:
    """One table on one server."""

    server: Server
    database: str
    table: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """``missing`` rows are only at the source, ``extra`` only at the target; a row that differs counts as both.

    ``example`` is one such row in its canonical form, else "".
    """

    source: Side
    target: Side
    rows: int
    missing: int
    extra: int
    example: str

    @property
    def is_equal(self) -> bool:
        return not self.missing and not self.extra


def compare(source: Side, target: Side) -> Comparison:
    """All rows and all columns of the source's table, generated ones too."""
    columns = _read_columns(source)
    ours, theirs = _read_rows(source, columns), _read_rows(target, columns)
    missing, extra = ours - theirs, theirs - ours
    example = next((repr(row) for rows in (missing, extra) for row in rows), "")
    return Comparison(source, target, ours.total(), missing.total(), extra.total(), example)


def _read_columns(side: Side) -> list[tuple[str, str]]:
    rows = side.server.execute(
        "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
        (side.database, side.table),
    )
    return [(str(name), str(kind).lower()) for name, kind in rows]


def _read_rows(side: Side, columns: list[tuple[str, str]]) -> Counter[tuple[Any, ...]]:
    values = ", ".join(_build_canonical(name, kind) for name, kind in columns)
    with side.server.connect(database=side.database) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"SELECT {values} FROM `{side.table}`")
        return Counter(tuple(v.hex() if isinstance(v, float) else v for v in row) for row in cursor)


def _build_canonical(name: str, kind: str) -> str:
    column = f"`{name}`"
    if kind in _TEXT:
        return f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"
    if kind in _FLOATING:
        return f"{column} + 0e0"
    return f"CAST({column} AS CHAR)"
