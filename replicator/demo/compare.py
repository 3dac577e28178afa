"""The demo's judge: every row of a source table against its target table, by values that each server computes itself.

It shares nothing with the path that a row took: names and types come from information_schema, values from SQL
expressions. Text is compared by the bytes of its UTF-8 form, floating point by its bits. What PostgreSQL generates is left
out, as the target leaves it out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from replicator.pgserver import PostgresServer
from replicator.servers import Server

_TEXT = frozenset({"char", "varchar", "text", "longtext", "json", "enum"})
_FLOATING = frozenset({"float", "double"})
_POSTGRES_PLAIN = frozenset({"smallint", "integer", "bigint", "numeric", "date0"})
_POSTGRES_MOMENTS = {
    "timestamp without time zone3": "to_char({}, 'YYYY-MM-DD HH24:MI:SS.MS')",
    "timestamp with time zone6": "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
}


@dataclass(frozen=True, slots=True)
class Side:
    """One table on one server; on PostgreSQL one of the schema ``public``."""

    server: Server | PostgresServer
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
    """All rows and all columns of the source's table, generated ones too where the target has them."""
    names = tuple(_read_types(source))
    ours, theirs = _read_rows(source, names), _read_rows(target, names)
    missing, extra = ours - theirs, theirs - ours
    example = next((repr(row) for rows in (missing, extra) for row in rows), "")
    return Comparison(source, target, ours.total(), missing.total(), extra.total(), example)


def _read_types(side: Side) -> dict[str, str]:
    """The type of each column, in order; PostgreSQL's with how many digits of a second it has."""
    if isinstance(side.server, PostgresServer):
        rows = side.server.execute(
            "SELECT column_name, data_type || coalesce(datetime_precision::text, '') FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER' ORDER BY ordinal_position",
            (side.table,),
            database=side.database,
        )
    else:
        rows = side.server.execute(
            "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
            (side.database, side.table),
        )
    return {str(name): str(kind).lower() for name, kind in rows}


def _read_rows(side: Side, names: tuple[str, ...]) -> Counter[tuple[Any, ...]]:
    types = _read_types(side)
    if isinstance(side.server, PostgresServer):
        values = ", ".join(_build_postgres_canonical(name, types[name]) for name in names)
        rows = side.server.execute(f"SELECT {values} FROM {side.table}", database=side.database)
    else:
        values = ", ".join(_build_canonical(name, types[name]) for name in names)
        select = ["SET time_zone = '+00:00'", f"SELECT {values} FROM `{side.table}`"]
        rows = side.server.execute(select, database=side.database)
    return Counter(tuple(v.hex() if isinstance(v, float) else v for v in row) for row in rows)


def _build_canonical(name: str, kind: str) -> str:
    column = f"`{name}`"
    if kind in _TEXT:
        return f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)"
    if kind in _FLOATING:
        return f"{column} + 0e0"
    return f"CAST({column} AS CHAR)"


def _build_postgres_canonical(name: str, kind: str) -> str:
    if kind in _POSTGRES_PLAIN:
        return f"{name}::text"
    if kind in _POSTGRES_MOMENTS:
        return _POSTGRES_MOMENTS[kind].format(name)
    return name if kind == "double precision" else f"convert_to({name}::text, 'UTF8')"
