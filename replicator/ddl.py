"""CREATE TABLE, indexes and foreign keys of a target table: the only place with MySQL's DDL grammar (pure).

A table is made in three steps, so that loading is fast and its order never matters: ``build_create_table`` with what
rows need (columns, primary key, the index of an AUTO_INCREMENT column), ``build_indexes`` after the rows, and
``build_foreign_keys`` when both tables are loaded. Every statement runs in a session as SEMANTICS §7 sets it, also where
``sql_require_primary_key`` and ``sql_generate_invisible_primary_key`` are on.

CHECK constraints and partitions are not made: rows come from a source that has already checked them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from replicator.model import (
    Column,
    ForeignKey,
    GeneratedColumn,
    Index,
    IndexPart,
    TableName,
    TableSchema,
)
from replicator.typemap.expression import quote_text

_MAX_NAME: Final = 64
_INDEX_WORDS: Final = {
    "primary": "PRIMARY KEY",
    "unique": "UNIQUE KEY",
    "index": "KEY",
    "fulltext": "FULLTEXT KEY",
    "spatial": "SPATIAL KEY",
}
_NO_ACTION: Final = "NO ACTION"


def quote_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def build_truncate(schema: TableSchema) -> str:
    return f"TRUNCATE TABLE {quote_name(schema.target)}"


def build_create_table(schema: TableSchema, name: str | None = None) -> str:
    """The CREATE TABLE of ``schema.target``, or of a table called ``name``; without secondary indexes."""
    lines = [*_build_columns(schema), *(_build_index(i) for i in _first_indexes(schema))]
    body = ",\n".join(f"  {line}" for line in lines)
    return f"CREATE TABLE {quote_name(name or schema.target)} (\n{body}\n) {_build_options(schema)}"


def build_indexes(schema: TableSchema, present: Collection[str] = ()) -> list[str]:
    """The ALTER TABLEs that add every index ``build_create_table`` left out: one, and one more a further FULLTEXT.

    InnoDB builds one FULLTEXT index a statement (1795). ``present``: names, in lower case, of indexes that are there.
    """
    first = {index.name for index in _first_indexes(schema)} | _promoted_names(schema)
    rest = [
        index
        for index in schema.indexes
        if index.kind != "primary" and index.name not in first and index.name.lower() not in present
    ]
    later = [index for index in rest if index.kind == "fulltext"][1:]
    groups = [[index for index in rest if index not in later], *([index] for index in later)]
    return [_build_alter(schema, map(_build_index, group)) for group in groups if group]


def mirrored_foreign_keys(schema: TableSchema, selected: Mapping[TableName, TableSchema]) -> list[ForeignKey]:
    """The foreign keys whose parent is mirrored too; only these are made at the target."""
    return [fk for fk in schema.foreign_keys if fk.parent in selected]


def build_foreign_keys(schema: TableSchema, selected: Mapping[TableName, TableSchema]) -> list[str]:
    """The ALTER TABLE, one or none, that adds the foreign keys whose parent is in ``selected``.

    A parent column that is not unique needs a session with ``restrict_fk_on_non_standard_key = 0`` where the server
    has that variable.
    """
    keys = mirrored_foreign_keys(schema, selected)
    return [_build_alter(schema, (_build_foreign_key(fk, schema, selected) for fk in keys))] if keys else []


def _build_alter(schema: TableSchema, additions: Iterable[str]) -> str:
    clauses = ",\n".join(f"  ADD {addition}" for addition in additions)
    return f"ALTER TABLE {quote_name(schema.target)}\n{clauses}"


# --- columns --------------------------------------------------------------------------------------


def _build_columns(schema: TableSchema) -> list[str]:
    """Column definitions in the source's order, generated ones in their places."""
    followers = {column.after: column for column in schema.generated}
    lines = _build_followers(None, followers, schema)
    for column in schema.columns:
        lines.append(_build_column(column, schema))
        lines += _build_followers(column.name, followers, schema)
    return lines


def _build_followers(
    previous: str | None, followers: Mapping[str | None, GeneratedColumn], schema: TableSchema
) -> list[str]:
    """The generated columns that stand right after ``previous``."""
    lines: list[str] = []
    column = followers.get(previous)
    while column:
        lines.append(_build_generated(column, schema))
        column = followers.get(column.name)
    return lines


def _build_column(column: Column, schema: TableSchema) -> str:
    parts = [quote_name(column.name), column.type, _build_collation(column.collation, schema)]
    if column.srid is not None:
        parts.append(f"/*!80003 SRID {column.srid} */")
    # A nullable TIMESTAMP says so: an old server's explicit_defaults_for_timestamp may be off.
    parts.append("NULL" if column.nullable else "NOT NULL")
    if column.default is not None:
        parts.append(f"DEFAULT {column.default}")
    if column.on_update:
        parts.append(f"ON UPDATE {column.on_update}")
    if column.auto_increment and _is_auto_increment_possible(column, schema):
        parts.append("AUTO_INCREMENT")
    return _join(parts, column.invisible, column.comment)


def _build_generated(column: GeneratedColumn, schema: TableSchema) -> str:
    parts = [
        quote_name(column.name),
        column.type,
        _build_collation(column.collation, schema),
        f"GENERATED ALWAYS AS ({column.expression})",
        "STORED" if column.stored else "VIRTUAL",
        "" if column.nullable else "NOT NULL",
    ]
    return _join(parts, column.invisible, column.comment)


def _join(parts: list[str], invisible: bool, comment: str) -> str:
    if invisible:
        parts.append("/*!80023 INVISIBLE */")
    if comment:
        parts.append(f"COMMENT {quote_text(comment)}")
    return " ".join(part for part in parts if part)


def _build_collation(collation: str | None, schema: TableSchema) -> str:
    """COLLATE decides the character set too; the table's own is left unsaid, as a person would."""
    if collation is None or collation == schema.collation:
        return ""
    return f"CHARACTER SET {collation.partition('_')[0]} COLLATE {collation}"


def _build_options(schema: TableSchema) -> str:
    options = f"ENGINE=InnoDB DEFAULT CHARSET={schema.charset} COLLATE={schema.collation}"
    return options + (f" COMMENT={quote_text(schema.comment)}" if schema.comment else "")


# --- indexes --------------------------------------------------------------------------------------


def _first_indexes(schema: TableSchema) -> list[Index]:
    """What a table is created with: its primary key, and the index that an AUTO_INCREMENT column needs."""
    primary = _find_primary(schema)
    first = [primary] if primary else []
    for column in schema.columns:
        if column.auto_increment and not (primary and _leads(primary, column)):
            first += [i for i in schema.indexes if i not in first and _leads(i, column)][:1]
    return first


def _find_primary(schema: TableSchema) -> Index | None:
    """The primary key; where the source has none, the unique NOT NULL key that identifies its rows becomes it.

    Managed servers refuse tables without one (3750), or add an invisible column to them.
    """
    own = next((i for i in schema.indexes if i.kind == "primary"), None)
    if own or not schema.key:
        return own
    columns = [schema.columns[i].name for i in schema.key]
    for index in schema.indexes:
        if index.kind == "unique" and [part.column for part in index.parts] == columns:
            return Index("PRIMARY", "primary", index.parts, index.comment)
    return None


def _promoted_names(schema: TableSchema) -> set[str]:
    """The unique key that ``_find_primary`` made the primary key."""
    primary = _find_primary(schema)
    if primary is None or any(i.kind == "primary" for i in schema.indexes):
        return set()
    return {i.name for i in schema.indexes if i.kind == "unique" and i.parts == primary.parts}


def _leads(index: Index, column: Column) -> bool:
    return index.kind in ("primary", "unique", "index") and index.parts[0].column == column.name


def _is_auto_increment_possible(column: Column, schema: TableSchema) -> bool:
    """InnoDB wants the column first in an index; MyISAM and Aria do not."""
    return any(_leads(index, column) for index in schema.indexes)


def _build_index(index: Index) -> str:
    name = "" if index.kind == "primary" else f" {quote_name(index.name)}"
    parts = ", ".join(_build_part(part) for part in index.parts)
    text = f"{_INDEX_WORDS[index.kind]}{name} ({parts})"
    if index.comment:
        text += f" COMMENT {quote_text(index.comment)}"
    return text + (" /*!80000 INVISIBLE */" if index.invisible else "")


def _build_part(part: IndexPart) -> str:
    if part.expression is not None:
        text = f"({part.expression})"
    else:
        text = quote_name(part.column or "") + (f"({part.prefix})" if part.prefix else "")
    return text + (" DESC" if part.descending else "")


# --- foreign keys ---------------------------------------------------------------------------------


def _build_foreign_key(fk: ForeignKey, schema: TableSchema, selected: Mapping[TableName, TableSchema]) -> str:
    text = (
        f"CONSTRAINT {quote_name(build_constraint_name(fk, schema, selected))}"
        f" FOREIGN KEY ({_build_names(fk.columns)})"
        f" REFERENCES {quote_name(selected[fk.parent].target)} ({_build_names(fk.parent_columns)})"
    )
    if fk.on_delete != _NO_ACTION:
        text += f" ON DELETE {fk.on_delete}"
    if fk.on_update != _NO_ACTION:
        text += f" ON UPDATE {fk.on_update}"
    return text


def build_constraint_name(
    fk: ForeignKey, schema: TableSchema, selected: Mapping[TableName, TableSchema]
) -> str:
    """The source's name where the table keeps its own too; else, and where two tables bring the same one, the target's
    name goes before it: constraint names are one per database, and another pipeline may fill the same one."""
    automatic = f"{schema.source.table}_ibfk_"
    if fk.name.startswith(automatic):
        return (schema.target + fk.name[len(schema.source.table) :])[-_MAX_NAME:]
    others = (other for name, other in selected.items() if name != schema.source)
    taken = {key.name.lower() for other in others for key in mirrored_foreign_keys(other, selected)}
    is_moved = schema.target != schema.source.table
    name = (
        f"{schema.target}_{fk.name}" if is_moved or fk.name.lower() in taken or fk.name.isdigit() else fk.name
    )
    return name[-_MAX_NAME:]


def _build_names(names: Iterable[str]) -> str:
    return ", ".join(quote_name(name) for name in names)
