"""Compare source and target row by row through canonical values that each server computes for itself.

Shares nothing with the replicator: names and types come from information_schema, values from SQL expressions, floats are
compared by their bits, text by the bytes of its utf8mb4 form.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from replicator.servers import Server

_TEXT = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"}
_SPATIAL = {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"}
_SPATIAL |= {"geometrycollection", "geomcollection"}


@dataclass(frozen=True, slots=True)
class Side:
    """One table on one server."""

    server: Server
    database: str
    table: str

    def columns(self) -> list[tuple[str, str]]:
        """Names and types of the columns that hold values of their own."""
        rows = self.server.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
            " AND generation_expression = '' ORDER BY ordinal_position"
            if self.server.kind == "mysql"
            else "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND"
            " table_name = %s AND generation_expression IS NULL ORDER BY ordinal_position",
            (self.database, self.table),
        )
        return [(str(name), str(kind).lower()) for name, kind in rows]

    def rows(self, columns: list[tuple[str, str]]) -> Counter[tuple[Any, ...]]:
        """All rows as canonical values, with how often each occurs."""
        expressions = ", ".join(_canonical(name, kind) for name, kind in columns)
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00', SESSION max_statement_time = 0") if (
                self.server.kind == "mariadb"
            ) else cursor.execute("SET time_zone = '+00:00'")
            cursor.execute(f"SELECT {expressions} FROM `{self.database}`.`{self.table}`")
            return Counter(tuple(_bits(value) for value in row) for row in cursor)


def _bits(value: Any) -> Any:
    return struct.pack(">d", value) if isinstance(value, float) else value


def _canonical(name: str, kind: str) -> str:
    column = f"`{name}`"
    if kind in _TEXT or kind == "json":
        return f"HEX(CONVERT({column} USING utf8mb4))"
    if kind in {"enum", "set"}:
        return f"CONCAT(HEX(CONVERT({column} USING utf8mb4)), ':', {column} + 0 = 0)"
    if kind in _BYTES or kind in _SPATIAL:
        return f"HEX({column})"
    if kind in {"float", "double", "real"}:
        return f"{column} * 1e0"  # a sum would lose the sign of zero
    if kind == "bit":
        return f"HEX({column} + 0)"
    if kind in {"uuid", "inet4", "inet6"}:
        return f"HEX(CAST({column} AS CHAR))"
    return f"CAST({column} AS CHAR)"


def describe_difference(source: Side, target: Side, *, most: int = 5) -> str:
    """'' when every row and column is equal; else what differs, for a failure message.

    The source's types choose the canonical form where the target's differs only in kind of text (UUID, INET).
    """
    source_columns = source.columns()
    target_columns = dict(target.columns())
    missing = [name for name, _ in source_columns if name not in target_columns]
    if missing:
        return f"{target.table}: target lacks columns {missing}"
    ours = source.rows(source_columns)
    theirs = target.rows([(name, _same_form(kind, target_columns[name])) for name, kind in source_columns])
    if ours == theirs:
        return ""
    lost, invented = ours - theirs, theirs - ours
    lines = [f"{source.table}: {lost.total()} rows only at the source, {invented.total()} only at the target"]
    lines += [f"  - {row}" for row in list(lost)[:most]]
    lines += [f"  + {row}" for row in list(invented)[:most]]
    return "\n".join(lines)


def _same_form(source_kind: str, target_kind: str) -> str:
    return target_kind if source_kind in {"uuid", "inet4", "inet6"} else source_kind


def list_tables(server: Server, database: str) -> list[str]:
    """Base tables of a database that are not the replicator's own."""
    rows = server.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_type = 'BASE TABLE'"
        " AND table_name NOT LIKE '\\_replicator\\_%%' ORDER BY 1",
        (database,),
    )
    return [str(row[0]) for row in rows]


def assert_equal(
    source: Server,
    source_database: str,
    target: Server,
    target_database: str,
    *,
    besides: Collection[str] = (),
) -> int:
    """Every table of the source database but ``besides`` equals its namesake; returns how many rows were compared."""
    tables = [table for table in list_tables(source, source_database) if table not in besides]
    assert tables, "nothing to compare"
    differences = [
        text
        for table in tables
        if (
            text := describe_difference(
                Side(source, source_database, table), Side(target, target_database, table)
            )
        )
    ]
    assert not differences, "\n".join(differences)
    return sum(int(source.execute(f"SELECT COUNT(*) FROM `{source_database}`.`{t}`")[0][0]) for t in tables)
