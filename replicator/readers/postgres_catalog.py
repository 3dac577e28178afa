"""The catalog of a PostgreSQL source, read with our own SQL, as ``TableSchema``s.

A handful of queries for any number of tables. A partitioned table is one table, its partitions are none of their own;
generated columns are left out, for neither COPY's rows nor the stream of older servers hold them (SEMANTICS §3.4).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg

from replicator.errors import ColumnUnfit, SourceError, TableUnfit
from replicator.model import (
    Column,
    ForeignKey,
    Index,
    IndexPart,
    Kind,
    TableName,
    TableSchema,
    UniqueKey,
)
from replicator.readers.pgoutput import explain_columns
from replicator.readers.postgres_defaults import translate_default
from replicator.readers.postgres_session import Connection, Record, build_locked, fetch, quote_table
from replicator.typemap.capacity import parse_shape
from replicator.typemap.postgres import (
    INDEX_BYTES,
    SourceType,
    Spot,
    find_type,
    index_width,
    map_type,
    override_type,
)
from replicator.typemap.standin import find_stand_in

COLLATION: Final = "utf8mb4_0900_bin"
LEAST_SHARE: Final = 256  # bytes of an index for a column without a limit of its own
PREFIX_CHARACTERS: Final = 191  # of a text in an index that is not unique
ROW_BYTES: Final = 60_000  # what the varchars of a row may take; MySQL's limit is 65,535 for all

_OWN_SCHEMAS: Final = (
    "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
    " AND n.nspname !~ '^pg_(temp|toast_temp)_'"
)
_TABLES: Final = (
    "SELECT n.nspname AS schema, c.relname AS name, c.oid::int8 AS oid, c.relkind AS kind, c.relreplident AS identity,"
    " greatest(c.reltuples, 0)::int8 AS rows, obj_description(c.oid, 'pg_class') AS comment"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    f" WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND {_OWN_SCHEMAS}"
)
# Waits for who holds a table for himself alone, as {default} below does: not to be asked while a stream stands by.
_SIZES: Final = "SELECT oid::int8 AS oid, pg_table_size(oid) AS bytes FROM pg_class WHERE oid = ANY(%s)"
# Domains are followed to what they are made of; their own modifier goes with them.
_COLUMNS: Final = """
WITH RECURSIVE base AS (
  SELECT a.attrelid, a.attnum, t.typname, t.typtype, t.typbasetype, t.typtypmod, a.atttypmod AS modifier
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
 UNION ALL
  SELECT b.attrelid, b.attnum, t.typname, t.typtype, t.typbasetype, t.typtypmod, b.typtypmod
  FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
SELECT a.attrelid::int8 AS relation, a.attnum AS number, a.attname AS name, a.attnotnull AS is_set,
  a.attidentity AS identity, a.attgenerated AS generated, format_type(a.atttypid, a.atttypmod) AS source_type,
  {default} AS "default", col_description(a.attrelid, a.attnum) AS comment,
  b.typname AS type, b.typtype AS typtype, b.modifier AS modifier
FROM pg_attribute a JOIN base b ON b.attrelid = a.attrelid AND b.attnum = a.attnum AND b.typtype <> 'd'
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
ORDER BY a.attrelid, a.attnum"""
_WITH_DEFAULTS: Final = _COLUMNS.format(default="pg_get_expr(d.adbin, d.adrelid)")
_WITHOUT_DEFAULTS: Final = _COLUMNS.format(default="NULL")
_INDEXES: Final = """
SELECT i.indrelid::int8 AS relation, c.relname AS name, i.indisprimary AS is_primary, i.indisunique AS is_unique,
  i.indisreplident AS is_identity, i.indimmediate AS is_immediate,
  i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AS is_plain,
  (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns, (i.indoption::int2[])[0:i.indnkeyatts - 1] AS options,
  am.amname AS method
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
WHERE i.indrelid = ANY(%s) ORDER BY i.indrelid, i.indisprimary DESC, i.indisunique DESC, c.relname"""
_FOREIGN_KEYS: Final = """
SELECT k.conrelid::int8 AS relation, k.conname AS name, n.nspname AS parent_schema, p.relname AS parent,
  k.conkey AS columns, k.confkey AS parent_columns, k.confdeltype AS on_delete, k.confupdtype AS on_update,
  (SELECT array_agg(a.attname::text ORDER BY x.at) FROM unnest(k.confkey) WITH ORDINALITY x(number, at)
   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.number) AS parent_names
FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY(%s) ORDER BY k.conrelid, k.conname"""

_RULES: Final = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def list_tables(connection: Connection) -> list[TableName]:
    """Every permanent or unlogged table, partitioned ones as one; no views, no foreign tables, no partitions."""
    return sorted(TableName(row["schema"], row["name"]) for row in fetch(connection, _TABLES))


def describe(
    connection: Connection,
    targets: Mapping[TableName, str],
    types: Mapping[TableName, Mapping[str, str]],
) -> list[TableSchema]:
    """The schemas of these tables; ``types`` are the target types wanted for columns. Raises SourceError for a table that
    is not there, ColumnUnfit for a type that a column cannot have, SourceLocked where somebody has one for himself alone.
    """
    found = {TableName(row["schema"], row["name"]): row for row in fetch(connection, _TABLES)}
    for name in targets.keys() - found.keys():
        raise SourceError(
            f"{name}: there is no such table at the source",
            hint="correct the name; a partition is mirrored with its partitioned table",
        )
    oids = [found[name]["oid"] for name in targets]
    try:
        sizes = {row["oid"]: row["bytes"] for row in fetch(connection, _SIZES, (oids,))}
        columns, indexes, keys = (
            _group(fetch(connection, sql, (oids,))) for sql in (_WITH_DEFAULTS, _INDEXES, _FOREIGN_KEYS)
        )
    except psycopg.errors.LockNotAvailable:
        raise build_locked(connection, targets, "tables cannot be described") from None
    schemas = []
    for name, target in targets.items():
        oid = found[name]["oid"]
        schemas.append(
            _Builder(
                name,
                found[name] | {"bytes": sizes.get(oid, 0)},
                columns[oid],
                indexes[oid],
                keys[oid],
                types.get(name, {}),
            ).build(target)
        )
    return schemas


def _group(rows: Iterable[Record]) -> defaultdict[int, list[Record]]:
    grouped: defaultdict[int, list[Record]] = defaultdict(list)
    for row in rows:
        grouped[row["relation"]].append(row)
    return grouped


def find_changed(connection: Connection, tables: Mapping[TableName, TableSchema]) -> dict[TableName, str]:
    """Why which of these tables are no longer what their schemas say."""
    found = {TableName(row["schema"], row["name"]): row for row in fetch(connection, _TABLES)}
    reasons = {name: "the table is gone" for name in tables if name not in found}
    present = [name for name in tables if name in found]
    columns = _group(fetch(connection, _WITHOUT_DEFAULTS, ([found[name]["oid"] for name in present],)))
    for name in present:
        rows = columns[found[name]["oid"]]
        now = {row["name"]: row["source_type"] for row in rows if not row["generated"]}
        reason = explain_columns(now, tables[name])
        if reason is not None:
            reasons[name] = reason
    return reasons


def describe_types(connection: Connection, types: Sequence[tuple[int, int]]) -> list[str]:
    """``format_type`` of (oid, modifier) pairs."""
    rows = fetch(
        connection,
        "SELECT format_type(t.oid, t.modifier) AS text FROM unnest(%s::int8[], %s::int4[]) WITH ORDINALITY"
        " AS t(oid, modifier, at) ORDER BY t.at",
        ([oid for oid, _ in types], [modifier for _, modifier in types]),
    )
    return [row["text"] for row in rows]


def find_arguments(type_name: str, modifier: int) -> tuple[int, ...]:
    """The numbers in a type's parentheses, of pg_attribute.atttypmod; () where there are none."""
    if modifier < 0:
        return ()
    if type_name == "numeric":
        scale = (modifier - 4) & 0x7FF
        return (modifier - 4) >> 16 & 0xFFFF, (scale ^ 1024) - 1024
    if type_name in ("varchar", "bpchar"):
        return (modifier - 4,)
    if type_name in ("bit", "varbit", "time", "timetz", "timestamp", "timestamptz"):
        return (modifier,)
    return ()


@dataclass(slots=True)
class _Builder:
    """One table's catalog rows on their way to a schema; ``notes`` gathers what will differ at the target."""

    name: TableName
    table: Record
    columns: list[Record]
    indexes: list[Record]
    keys: list[Record]
    wanted: Mapping[str, str]  # target types, by column
    notes: list[str] = field(default_factory=list)

    def build(self, target: str) -> TableSchema:
        names = {row["number"]: row["name"] for row in self.columns}
        mirrored = [row for row in self.columns if not row["generated"]]
        for row in self.columns:
            if row["generated"]:
                self.notes.append(f"{self.name}:{row['name']}: generated at the source, left out")
        self._refuse_twins(mirrored)
        columns = self._fit_row([self._build_column(row) for row in mirrored])
        by_name = {column.name: column for column in columns}
        plain = [row for row in self.indexes if self._is_usable(row, names, by_name)]
        indexes = tuple(self._build_index(row, names, by_name) for row in plain)
        ordinals = {column.name: at for at, column in enumerate(columns)}
        unique = tuple(
            UniqueKey(
                index.name,
                tuple(ordinals[part.column] for part in index.parts if part.column),
                deferrable=not row["is_immediate"],
            )
            for row, index in zip(plain, indexes, strict=True)
            if index.kind != "index"
        )
        return TableSchema(
            source=self.name,
            target=target,
            columns=tuple(columns),
            key=self._choose_key(plain, unique, columns),
            unique_keys=unique,
            indexes=indexes,
            foreign_keys=tuple(self._build_foreign_key(row, names) for row in self.keys),
            charset="utf8mb4",
            collation=COLLATION,
            comment=self.table["comment"] or "",
            rows_estimate=self.table["rows"],
            bytes_estimate=self.table["bytes"],
            notes=tuple(self.notes),
        )

    def _refuse_twins(self, rows: Sequence[Record]) -> None:
        """MySQL's column names ignore case, PostgreSQL's do not."""
        seen: dict[str, str] = {}
        for row in rows:
            first = seen.setdefault(row["name"].lower(), row["name"])
            if first != row["name"]:
                raise TableUnfit(
                    f"{self.name}: the columns {first} and {row['name']} are one name for MySQL",
                    check="tables.readable",
                    hint=f'rename one of them at the source, or add `"{self.name}": {{skip: true}}` under `tables`',
                )

    # --- columns ------------------------------------------------------------------------------------------------------

    def _build_column(self, row: Record) -> Column:
        registration = find_type(row["type"], row["typtype"])
        spot = Spot(find_arguments(row["type"], row["modifier"]), self._find_budget(row["number"]))
        kind, target = map_type(registration, spot)
        if row["name"] in self.wanted:
            kind, target = self._override(row["name"], registration, spot.indexed)
        is_counter = self._is_counter(row) and kind is Kind.INTEGER
        default = None
        if row["default"] is not None and not is_counter:
            default = translate_default(row["default"], kind, target)
            if default is None:
                self.notes.append(f"{self.name}:{row['name']}: default {row['default']} is left out")
        return Column(
            name=row["name"],
            kind=kind,
            type=target,
            nullable=not row["is_set"],
            charset="utf8mb4" if kind is Kind.TEXT else None,
            collation=COLLATION
            if kind is Kind.TEXT
            else "ascii_bin"
            if target == "char(36)" and kind is Kind.PLAIN
            else None,
            default=default,
            auto_increment=is_counter,
            comment=row["comment"] or "",
            source_type=row["source_type"],
            base=registration.name,
        )

    def _override(self, name: str, registration: SourceType, indexed: int) -> tuple[Kind, str]:
        """What the pipeline file says, where that is possible."""
        target = self.wanted[name]
        shape = parse_shape(target)
        size = shape.arguments[0] * (4 if shape.base == "varchar" else 1) if shape.arguments else 0
        try:
            kind = override_type(registration, target)
            if indexed and (shape.base.endswith(("text", "blob")) or size > indexed):
                raise ValueError(
                    f"is in an index, where {target} is too long: {indexed} bytes are left for it"
                )
        except ValueError as error:
            raise ColumnUnfit(str(error), table=self.name, column=name) from None
        return kind, target

    def _is_counter(self, row: Record) -> bool:
        """Whether the source numbers the rows: MySQL can do so for an integer that is first in the primary key."""
        counts = bool(row["identity"]) or (row["default"] or "").startswith("nextval(")
        primary = next((index for index in self.indexes if index["is_primary"]), None)
        return (
            counts
            and row["type"] in ("int2", "int4", "int8")
            and primary is not None
            and (list(primary["columns"])[:1] == [row["number"]])
        )

    def _find_budget(self, number: int) -> int:
        """The bytes that a column may take, where it is part of a unique index or of a foreign key; else 0."""
        lists = [row["columns"] for row in self.indexes if row["is_unique"] and row["is_plain"]]
        lists += [row["columns"] for row in self.keys]
        return min((self._share_index(numbers, number) for numbers in lists if number in numbers), default=0)

    def _share_index(self, numbers: Sequence[int], number: int) -> int:
        """What an index has for one of its columns: what it takes, and of the rest as much as the others without a limit."""
        rows = {row["number"]: row for row in self.columns}
        widths = [
            index_width(find_type(row["type"], row["typtype"]), find_arguments(row["type"], row["modifier"]))
            for row in map(rows.__getitem__, numbers)
        ]
        own = widths[list(numbers).index(number)]
        left = INDEX_BYTES - sum(width or 0 for width in widths)
        if left < LEAST_SHARE * widths.count(None):
            return INDEX_BYTES // len(widths)
        return left // widths.count(None) if own is None else own

    def _fit_row(self, columns: list[Column]) -> list[Column]:
        """Where a row's varchars are too long together, those that no index needs become longtext."""
        total = sum(_varchar_bytes(column) for column in columns)
        kept = {name for row in self.indexes for name in self._names(row)} | {
            name for row in self.keys for name in self._names(row)
        }
        fitted = list(columns)
        for at in sorted(range(len(columns)), key=lambda at: -_varchar_bytes(columns[at])):
            size = _varchar_bytes(columns[at])
            if total <= ROW_BYTES or size < 1000:
                break
            if columns[at].name not in kept and columns[at].name not in self.wanted:
                fitted[at] = _as_text(columns[at])
                total -= size
        return fitted

    def _names(self, row: Record) -> list[str]:
        numbers = {column["number"]: column["name"] for column in self.columns}
        return [numbers[number] for number in row["columns"] if number in numbers]

    # --- indexes ------------------------------------------------------------------------------------------------------

    def _is_usable(self, row: Record, names: Mapping[int, str], columns: Mapping[str, Column]) -> bool:
        fits = row["is_plain"] and row["method"] in ("btree", "hash")
        fits = fits and all(names.get(number) in columns for number in row["columns"])
        fits = fits and not any(columns[names[n]].kind is Kind.JSON for n in row["columns"])
        if not fits:
            self.notes.append(f"{self.name}: index {row['name']} is not created, MySQL has no such index")
        return bool(fits)

    def _build_index(self, row: Record, names: Mapping[int, str], columns: Mapping[str, Column]) -> Index:
        kind = "primary" if row["is_primary"] else "unique" if row["is_unique"] else "index"
        parts = [
            IndexPart(
                column=names[number],
                prefix=_find_prefix(columns[names[number]]) if kind == "index" else None,
                descending=bool(option & 1),
            )
            for number, option in zip(row["columns"], row["options"], strict=True)
        ]
        return Index("PRIMARY" if kind == "primary" else row["name"], kind, tuple(parts))

    def _choose_key(
        self, indexes: Sequence[Record], unique: Sequence[UniqueKey], columns: Sequence[Column]
    ) -> tuple[int, ...]:
        """What the stream identifies a row by: the replica identity's columns; () when there is none."""
        by_name = {key.name: key.ordinals for key in unique}
        if self.table["identity"] == "i":
            chosen = next((row["name"] for row in indexes if row["is_identity"]), "")
            return by_name.get(
                chosen, by_name.get("PRIMARY", ()) if self._is_identity_primary(indexes) else ()
            )
        if self.table["identity"] == "f":
            return self._choose_among(unique, columns)
        return next((key.ordinals for key in unique if key.name == "PRIMARY" and not key.deferrable), ())

    @staticmethod
    def _choose_among(unique: Sequence[UniqueKey], columns: Sequence[Column]) -> tuple[int, ...]:
        """The first, the primary key's before others, whose values stay with their rows; else one that can be cleared."""
        fit = [key for key in unique if not any(columns[at].nullable for at in key.ordinals)]
        strict = [key.ordinals for key in fit if not key.deferrable]
        clearable = (key.ordinals for key in fit if any(find_stand_in(columns[at]) for at in key.ordinals))
        return strict[0] if strict else next(clearable, ())

    @staticmethod
    def _is_identity_primary(indexes: Sequence[Record]) -> bool:
        return any(row["is_identity"] and row["is_primary"] for row in indexes)

    def _build_foreign_key(self, row: Record, names: Mapping[int, str]) -> ForeignKey:
        return ForeignKey(
            name=row["name"],
            columns=tuple(names[number] for number in row["columns"]),
            parent=TableName(row["parent_schema"], row["parent"]),
            parent_columns=tuple(row["parent_names"]),
            on_delete=_RULES[row["on_delete"]],
            on_update=_RULES[row["on_update"]],
        )


_VARCHAR: Final = re.compile(r"varchar\((\d+)\)")


def _varchar_bytes(column: Column) -> int:
    match = _VARCHAR.match(column.type)
    return 4 * int(match[1]) if match else 0


def _as_text(column: Column) -> Column:
    default = f"({column.default})" if column.default else None
    return Column(
        **{slot: getattr(column, slot) for slot in Column.__slots__}
        | {"type": "longtext", "default": default}
    )


def _find_prefix(column: Column) -> int | None:
    if column.type.endswith(("text", "blob")) or _varchar_bytes(column) > 4 * PREFIX_CHARACTERS:
        return PREFIX_CHARACTERS
    return None


__all__ = ["describe", "describe_types", "find_arguments", "list_tables", "quote_table"]
