"""The catalog of a MySQL or MariaDB source, read with our own SQL, as ``TableSchema``s.

A handful of queries for any number of tables: a schema of a thousand tables takes about a second. The connection is
PyMySQL's with its own converters and utf8mb4; nothing here changes rows, and what it sets concerns its session alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pymysql

from replicator.errors import SourceError, TableUnfit
from replicator.model import (
    Column,
    ForeignKey,
    GeneratedColumn,
    Index,
    IndexPart,
    Kind,
    TableName,
    TableSchema,
    UniqueKey,
)
from replicator.readers.mysql_defaults import recover_defaults
from replicator.readers.mysql_labels import recover_labels
from replicator.readers.mysql_query import Record, fetch, marks, quote_table
from replicator.typemap import expression
from replicator.typemap.capacity import widen_text
from replicator.typemap.collation import Choice, canonical_name, choose_collation
from replicator.typemap.mysql import TYPES, SourceType, clean_type, quote_name

SYSTEM_SCHEMAS: Final = ("mysql", "information_schema", "performance_schema", "sys")

_LABELLED: Final = (Kind.ENUM, Kind.SET)
_ASCII: Final = Choice("ascii", "ascii_general_ci")
_UNKNOWN_VARIABLE: Final = 1193
_YEAR_2: Final = re.compile(r"year\(2\)")


def is_mariadb(connection: Any) -> bool:
    return "mariadb" in str(fetch(connection, "SELECT VERSION() AS v")[0]["v"]).lower()


def list_tables(connection: Any) -> list[TableName]:
    """Every base table outside the system schemas, SYSTEM VERSIONED ones included; no views, no sequences."""
    rows = fetch(
        connection,
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES"
        f" WHERE TABLE_SCHEMA NOT IN ({marks(SYSTEM_SCHEMAS)})"
        " AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')",
        SYSTEM_SCHEMAS,
    )
    return sorted(TableName(row["table_schema"], row["table_name"]) for row in rows)


def cascades_logged(connection: Any) -> bool:
    """Whether the rows that a foreign key's cascade changes are in the log (MySQL ≥ 9.6, unless switched back).

    The variable is asked for, not the version (SEMANTICS §5.3); MariaDB does not have it.
    """
    rows = fetch(connection, "SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'")
    return bool(rows) and str(rows[0]["value"]).upper() in ("OFF", "0")


def explain_reach(connection: Any, names: Iterable[TableName]) -> str:
    """Why a logged statement that names these tables may have changed rows of others: '' when it has not.

    A statement says nothing of the table below a view or of what triggers do. Servers show triggers only to accounts
    that have TRIGGER on the table.
    """
    for name in names:
        if name.schema in SYSTEM_SCHEMAS:
            continue
        pair = [name.schema, name.table]
        views = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND TABLE_TYPE = 'VIEW'"
        if fetch(connection, views, pair):
            return f"a change through the view {name} was logged as a statement, not as rows"
        triggers = (
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS"
            " WHERE EVENT_OBJECT_SCHEMA = %s AND EVENT_OBJECT_TABLE = %s"
        )
        if found := fetch(connection, triggers, pair):
            return (
                f"a change of {name} was logged as a statement, and what its trigger {found[0]['trigger_name']} did "
                "was not logged at all"
            )
    return ""


def describe(connection: Any, targets: Mapping[TableName, str]) -> list[TableSchema]:
    """The schemas of the tables in ``targets`` (source name → target name), in that order.

    A table without a usable key has an empty ``key``; the caller refuses it. Raises SourceError where a table is not
    there, or a column is of a type that this version does not know.
    """
    mariadb = is_mariadb(connection)
    if not mariadb:
        # The log holds a generated invisible key whether the catalog shows it or not (SEMANTICS §1.9).
        _set_session(connection, "show_gipk_in_create_table_and_information_schema", "ON")
        # Estimates of rows may else be a day old.
        _set_session(connection, "information_schema_stats_expiry", "0")
    catalog = _read_catalog(connection, targets)
    schemas = (_build_schema(catalog, name, target, mariadb) for name, target in targets.items())
    if not mariadb:
        schemas = (recover_defaults(connection, schema) for schema in schemas)
    return [recover_labels(connection, schema) for schema in schemas]


def _set_session(connection: Any, variable: str, value: str) -> None:
    """Set what this session sees of the catalog; older servers lack some of these variables."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SET SESSION {variable} = {value}")
    except pymysql.err.OperationalError as error:
        if error.args[0] != _UNKNOWN_VARIABLE:
            raise


# --- reading --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Catalog:
    """The catalog's rows of the wanted tables, by table."""

    tables: dict[TableName, Record] = field(default_factory=dict)
    columns: dict[TableName, list[Record]] = field(default_factory=lambda: defaultdict(list))
    indexes: dict[TableName, list[Record]] = field(default_factory=lambda: defaultdict(list))
    foreign_keys: dict[TableName, list[Record]] = field(default_factory=lambda: defaultdict(list))


_QUERIES: Final = {
    "tables": "SELECT * FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({})",
    "columns": "SELECT * FROM information_schema.COLUMNS WHERE TABLE_SCHEMA IN ({})"
    " ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION",
    "indexes": "SELECT * FROM information_schema.STATISTICS WHERE TABLE_SCHEMA IN ({})"
    " ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX",
    "foreign_keys": "SELECT k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.COLUMN_NAME, k.REFERENCED_TABLE_SCHEMA,"
    " k.REFERENCED_TABLE_NAME, k.REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE k"
    " WHERE k.TABLE_SCHEMA IN ({}) AND k.REFERENCED_TABLE_NAME IS NOT NULL"
    " ORDER BY k.TABLE_SCHEMA, k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION",
}
_RULES: Final = (
    "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, DELETE_RULE, UPDATE_RULE"
    " FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA IN ({})"
)


def _read_catalog(connection: Any, targets: Mapping[TableName, str]) -> _Catalog:
    schemas = sorted({name.schema for name in targets})
    catalog = _Catalog()
    if not schemas:
        return catalog
    for part, sql in _QUERIES.items():
        for row in fetch(connection, sql.format(marks(schemas)), schemas):
            name = TableName(row["table_schema"], row["table_name"])
            if name not in targets:
                continue
            if part == "tables":
                catalog.tables[name] = row
            else:
                getattr(catalog, part)[name].append(row)
    _add_rules(catalog, fetch(connection, _RULES.format(marks(schemas)), schemas))
    return catalog


def _add_rules(catalog: _Catalog, rules: Iterable[Record]) -> None:
    found = {(r["constraint_schema"], r["table_name"], r["constraint_name"]): r for r in rules}
    for name, rows in catalog.foreign_keys.items():
        for row in rows:
            rule = found.get((name.schema, name.table, row["constraint_name"]))
            if rule is None:  # taken for "no action", a cascade that the log does not hold would be lost
                raise SourceError(
                    f"{name}: this account sees the foreign key {row['constraint_name']}, but not what it does ON DELETE"
                    " and ON UPDATE: MariaDB shows that only to accounts with more than SELECT",
                    hint=f"GRANT SHOW VIEW ON {quote_name(name.schema)}.* TO the source's user",
                )
            row.update(rule)


# --- building -------------------------------------------------------------------------------------


def _build_schema(catalog: _Catalog, name: TableName, target: str, mariadb: bool) -> TableSchema:
    table = catalog.tables.get(name)
    if table is None:
        raise SourceError(
            f"{name}: there is no such table at the source, or this account may not see it",
            hint=f"GRANT SELECT ON {quote_table(name)} TO the source's user, or correct the name",
        )
    _refuse_unreadable(name, table)
    builder = _Builder(name, mariadb)
    columns, generated = builder.split_columns(catalog.columns[name])
    indexes = builder.build_indexes(catalog.indexes[name], table)
    ordinals = {column.name: i for i, column in enumerate(columns)}
    unique_keys = _build_unique_keys(indexes, ordinals)
    choice = choose_collation(table["table_collation"], same_product=not mariadb)
    return TableSchema(
        source=name,
        target=target,
        columns=tuple(columns),
        key=_choose_key(indexes, unique_keys, columns),
        unique_keys=unique_keys,
        generated=tuple(generated),
        indexes=indexes,
        foreign_keys=_build_foreign_keys(catalog.foreign_keys[name]),
        charset=choice.charset,
        collation=choice.collation,
        comment=table["table_comment"] or "",
        rows_estimate=int(table["table_rows"] or 0),
        bytes_estimate=int(table["data_length"] or 0),
        notes=tuple(dict.fromkeys(builder.notes + _table_notes(name, table))),
    )


def _refuse_unreadable(name: TableName, table: Record) -> None:
    if table["table_type"] == "SYSTEM VERSIONED":
        raise TableUnfit(
            f"{name}: a SYSTEM VERSIONED table logs each update as an update and an insert of the old version, which is "
            "not the change that was made",
            check="tables.system_versioned",
            hint=f'tables: {{"{name}": {{skip: true}}}}  # or DROP SYSTEM VERSIONING at the source: its history is lost',
        )
    if not table["engine"]:
        raise SourceError(
            f"{name}: the source cannot open this table: {table['table_comment']}",
            hint=f'repair it, or add `"{name}": {{skip: true}}` under `tables`',
        )


def _table_notes(name: TableName, table: Record) -> list[str]:
    if "partitioned" in str(table["create_options"] or "").lower():
        return [f"{name}: created without partitions"]
    return []


class _Builder:
    """Turns one table's catalog rows into columns and indexes; ``notes`` gathers what will differ at the target."""

    def __init__(self, name: TableName, mariadb: bool) -> None:
        self.name = name
        self.mariadb = mariadb
        self.notes: list[str] = []

    def split_columns(self, rows: Iterable[Record]) -> tuple[list[Column], list[GeneratedColumn]]:
        """The mirrored columns and the generated ones, both in the source's order."""
        columns: list[Column] = []
        generated: list[GeneratedColumn] = []
        previous: str | None = None
        for row in rows:
            if row["generation_expression"]:
                generated.append(self._build_generated(row, previous))
            else:
                columns.append(self._build_column(row))
            previous = row["column_name"]
        return columns, generated

    def _build_column(self, row: Record) -> Column:
        kind, target_type, choice = self._map_type(row)
        extra = row["extra"].lower()
        labels = expression.parse_labels(row["column_type"]) if kind in _LABELLED else ()
        return Column(
            name=row["column_name"],
            kind=kind,
            type=target_type,
            nullable=row["is_nullable"] == "YES",
            charset=self._source_charset(row, kind),
            collation=choice.collation if choice else None,
            default=self._translate_default(row, kind),
            on_update=expression.parse_on_update(extra),
            auto_increment="auto_increment" in extra,
            invisible="invisible" in extra,
            comment=row["column_comment"] or "",
            srid=row.get("srs_id"),
            source_type=row["column_type"],
            labels=tuple(label.encode() for label in labels),
        )

    def _build_generated(self, row: Record, previous: str | None) -> GeneratedColumn:
        _, target_type, choice = self._map_type(row)
        text = row["generation_expression"]
        extra = row["extra"].lower()
        return GeneratedColumn(
            name=row["column_name"],
            type=target_type,
            expression=text if self.mariadb else expression.unescape_expression(text),
            stored="stored" in extra or "persistent" in extra,
            nullable=row["is_nullable"] == "YES",
            charset=choice.charset if choice else None,
            collation=choice.collation if choice else None,
            comment=row["column_comment"] or "",
            invisible="invisible" in extra,
            after=previous,
        )

    def _map_type(self, row: Record) -> tuple[Kind, str, Choice | None]:
        """Kind, target type, and the target's collation of a character column."""
        registration = self._find_type(row)
        choice = self._choose_collation(row, registration)
        if registration.kind in _LABELLED:
            members = ",".join(expression.quote_text(x) for x in expression.parse_labels(row["column_type"]))
            return registration.kind, f"{registration.name}({members})", choice
        target_type = registration.target(clean_type(row["column_type"]))
        if registration.kind is Kind.TEXT and choice:
            target_type = widen_text(target_type, canonical_name(row["character_set_name"]), choice.charset)
        return registration.kind, target_type, choice

    def _find_type(self, row: Record) -> SourceType:
        registration = TYPES.get(row["data_type"].lower())
        if registration is None or _YEAR_2.match(row["column_type"]):
            raise SourceError(
                f"{self.name}:{row['column_name']}: this version does not know the type {row['column_type']}",
                hint=f'add `"{self.name}": {{skip: true}}` under `tables`, or change the column\'s type at the source',
            )
        return registration

    def _choose_collation(self, row: Record, registration: SourceType) -> Choice | None:
        if registration.kind is Kind.PLAIN and registration.target("").find("char") >= 0:
            return _ASCII
        if not row["collation_name"] or registration.kind is Kind.JSON:
            return None
        choice = choose_collation(row["collation_name"], same_product=not self.mariadb)
        if choice.note:
            self.notes.append(f"{self.name}:{row['column_name']}: {choice.note}")
        return choice

    def _source_charset(self, row: Record, kind: Kind) -> str | None:
        if kind in _LABELLED:
            return "utf8mb4"  # labels come from the catalog, values as numbers
        return canonical_name(row["character_set_name"]) if kind is Kind.TEXT else None

    def _translate_default(self, row: Record, kind: Kind) -> str | None:
        data_type = row["data_type"].lower()
        if not self.mariadb:
            return expression.translate_mysql_default(row["column_default"], row["extra"], data_type, kind)
        return expression.translate_mariadb_default(row["column_default"], data_type, kind)

    def build_indexes(self, rows: Iterable[Record], table: Record) -> tuple[Index, ...]:
        """Primary key first, then unique, then the rest, each kind by name."""
        grouped: dict[str, list[Record]] = defaultdict(list)
        for row in rows:
            grouped[row["index_name"]].append(row)
        indexes = [self._build_index(name, parts, table) for name, parts in grouped.items()]
        order = ("primary", "unique", "index", "fulltext", "spatial")
        return tuple(sorted((i for i in indexes if i), key=lambda i: (order.index(i.kind), i.name)))

    def _build_index(self, name: str, rows: list[Record], table: Record) -> Index | None:
        method = rows[0]["index_type"].upper()
        if method == "HASH" and table["engine"] not in ("MEMORY", "NDB"):
            self.notes.append(
                f"{self.name}: unique key {name} on long columns is not created, MySQL cannot have it"
            )
            return None
        if method not in ("BTREE", "HASH", "RTREE", "FULLTEXT", "SPATIAL"):
            self.notes.append(f"{self.name}: {method} index {name} is not created, MySQL does not know it")
            return None
        return Index(
            name=name,
            kind=_index_kind(name, method, bool(rows[0]["non_unique"])),
            parts=tuple(_build_part(row, method) for row in rows),
            comment=rows[0]["index_comment"] or "",
            invisible=rows[0].get("is_visible") == "NO" or rows[0].get("ignored") == "YES",
        )


def _index_kind(name: str, method: str, non_unique: bool) -> str:
    if method == "FULLTEXT":
        return "fulltext"
    if method in ("SPATIAL", "RTREE"):
        return "spatial"
    if name == "PRIMARY":
        return "primary"
    return "index" if non_unique else "unique"


def _build_part(row: Record, method: str) -> IndexPart:
    text = row.get("expression")
    return IndexPart(
        column=row["column_name"],
        # SPATIAL indexes show a prefix of 32 bytes that no statement may name.
        prefix=row["sub_part"] if method in ("BTREE", "HASH") else None,
        descending=row["collation"] == "D",
        expression=expression.unescape_expression(text) if text else None,
    )


def _build_unique_keys(indexes: Iterable[Index], ordinals: Mapping[str, int]) -> tuple[UniqueKey, ...]:
    return tuple(
        UniqueKey(
            name=index.name,
            ordinals=tuple(ordinals[p.column] for p in index.parts if p.column and p.column in ordinals),
            exact=all(p.column in ordinals and p.prefix is None for p in index.parts),
        )
        for index in indexes
        if index.kind in ("primary", "unique")
    )


def _choose_key(
    indexes: Iterable[Index], unique_keys: Iterable[UniqueKey], columns: Sequence[Column]
) -> tuple[int, ...]:
    """The primary key, else the first unique key, of whole mirrored NOT NULL columns; () when there is none."""
    for key in unique_keys:
        if key.exact and not any(columns[i].nullable for i in key.ordinals):
            return key.ordinals
    return ()


def _build_foreign_keys(rows: Iterable[Record]) -> tuple[ForeignKey, ...]:
    grouped: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        grouped[row["constraint_name"]].append(row)
    return tuple(
        ForeignKey(
            name=name,
            columns=tuple(part["column_name"] for part in parts),
            parent=TableName(parts[0]["referenced_table_schema"], parts[0]["referenced_table_name"]),
            parent_columns=tuple(part["referenced_column_name"] for part in parts),
            on_delete=parts[0].get("delete_rule", "NO ACTION"),
            on_update=parts[0].get("update_rule", "NO ACTION"),
        )
        for name, parts in grouped.items()
    )
