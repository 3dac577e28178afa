"""Compare PostgreSQL tables with their MySQL targets through canonical values that each server computes for itself.

Beside ``compare``, whose canonical forms the target's side uses; shares nothing with the replicator. JSON is compared as
what it means, numbers by their digits.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from replicator.pgserver import PostgresServer
from replicator.servers import Server
from tests.compare import Side

_SETTINGS = (
    "SET timezone = 'UTC'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 3; SET lc_monetary = 'C'"
)


@dataclass(frozen=True, slots=True)
class PostgresSide:
    """One table on one server."""

    server: PostgresServer
    database: str
    schema: str
    table: str

    @property
    def sql_name(self) -> str:
        return f"{_quote(self.schema)}.{_quote(self.table)}"

    def columns(self) -> list[tuple[str, str]]:
        """Names and types (typname, a domain's base) of the columns that hold values of their own."""
        rows = self.server.execute(
            "SELECT a.attname, coalesce(b.typname, t.typname) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            " LEFT JOIN pg_type b ON b.oid = t.typbasetype"
            " WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
            " ORDER BY a.attnum",
            (self.sql_name,),
            database=self.database,
        )
        return [(str(name), str(kind)) for name, kind in rows]

    def count(self) -> int:
        query = f"SELECT count(*) FROM {self.sql_name}"
        return int(self.server.execute(query, database=self.database)[0][0])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _canonical(name: str, kind: str, target: str) -> str:
    """An expression for a column of a type (typname) that prints as the target's own does for its type."""
    column = _quote(name)
    base = target.split("(", maxsplit=1)[0]
    digits = target[target.find("(") + 1 : -1] if "(" in target else "0"
    match base:
        case "tinyint":
            return f"{column}::int::text"
        case "decimal":
            return f"{column}::numeric::numeric({digits})::text"
        case "float" | "double":
            return f"{column}::float8"
        case "date":
            return f"{column}::text"
        case "time":
            return _cut(f"to_char({column}, 'HH24:MI:SS.US')", int(digits))
        case "datetime":
            return _cut(f"to_char({column}::timestamp, 'YYYY-MM-DD HH24:MI:SS.US')", int(digits))
        case "longblob" | "varbinary":
            return f"upper(encode({column}, 'hex'))"
        case "bit":
            return f"upper(to_hex(lpad({column}::text, 64, '0')::bit(64)::bigint))"
        case "char" if kind == "bpchar":
            return f"upper(encode(convert_to(rtrim({column}::text, ' '), 'UTF8'), 'hex'))"
        case "char" | "varchar" | "longtext":
            printed = (
                f"CASE WHEN {column} IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%s', {column}) END"
            )
            return f"upper(encode(convert_to({printed}, 'UTF8'), 'hex'))"
    return f"{column}::text"


def _cut(expression: str, digits: int) -> str:
    return f"left({expression}, -{6 - digits if digits else 7})" if digits < 6 else expression


def _meaning(value: Any) -> Any:
    if isinstance(value, float):
        return struct.pack(">d", value)
    return value


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) < 60 else f"{text[:60]}… ({len(text)})"


def _parse_json(text: str) -> str:
    return json.dumps(
        json.loads(text, parse_float=Decimal, parse_int=Decimal),
        sort_keys=True,
        default=lambda d: str(d.normalize()),
    )


def describe_difference(source: PostgresSide, target: Side) -> str:
    """'' when every row and column is equal, else what differs."""
    table = target.table
    types = {
        str(name): str(kind)
        for name, kind in target.server.execute(
            "SELECT column_name, column_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
            (target.database, table),
        )
    }
    columns = source.columns()
    missing = [name for name, _ in columns if name not in types]
    if missing:
        return f"{table}: target lacks columns {missing}"
    expressions = ", ".join(_canonical(name, kind, types[name]) for name, kind in columns)
    with source.server.connect(database=source.database) as connection:
        connection.execute(_SETTINGS)
        rows = connection.execute(f"SELECT {expressions} FROM {source.sql_name}".encode()).fetchall()
    plain = [(name, types[name].split("(", maxsplit=1)[0].split(" ", maxsplit=1)[0]) for name, _ in columns]
    documents = [at for at, (name, _) in enumerate(columns) if types[name] == "json"]
    ours: Counter[tuple[Any, ...]] = Counter(
        tuple(
            _parse_json(value) if at in documents and value is not None else _meaning(value)
            for at, value in enumerate(row)
        )
        for row in rows
    )
    theirs: Counter[tuple[Any, ...]] = Counter()
    for row, count in target.rows(plain).items():
        theirs[
            tuple(
                _parse_json(bytes.fromhex(value).decode()) if at in documents and value is not None else value
                for at, value in enumerate(row)
            )
        ] += count
    if ours == theirs:
        return ""
    lost, invented = ours - theirs, theirs - ours
    lines = [f"{table}: {lost.total()} rows only at the source, {invented.total()} only at the target"]
    others = {row[0]: row for row in invented}
    for row in list(lost)[:3]:
        other = others.get(row[0], (None,) * len(row))
        pairs = zip(columns, row, other, strict=True)
        lines += [
            f"  {row[0]}: {name} {kind} {_shorten(ours)} → {_shorten(theirs)}"
            for (name, kind), ours, theirs in pairs
            if ours != theirs
        ]
    return "\n".join(lines)


def assert_equal(source: PostgresServer, database: str, target: Server, schema: str) -> int:
    """Every table of the schema named like the database equals its namesake; returns how many rows were compared."""
    tables = [
        str(row[0])
        for row in source.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT relispartition ORDER BY 1",
            (f'"{database}"',),
            database=database,
        )
    ]
    assert tables, "nothing to compare"
    sides = [PostgresSide(source, database, database, table) for table in tables]
    found = [text for side in sides if (text := describe_difference(side, Side(target, schema, side.table)))]
    assert not found, "\n".join(found)
    return sum(side.count() for side in sides)
