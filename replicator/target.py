"""The target's own catalog: which tables are there, whether they can hold the source's, and what refers to them.

``compare`` is pure and speaks of one table; every difference that could lose data is fatal, before the first row. The
other functions ask the server through a ``Session``; each leaves the transaction it opened to the caller.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

from replicator import ddl
from replicator.errors import SchemaMismatch, TargetError, TargetRetry, TargetUnavailable
from replicator.foreignkeys import ExternalChild
from replicator.model import Column, ForeignKey, Index, IndexPart, Kind, TableSchema, UniqueKey
from replicator.typemap import collation
from replicator.typemap.capacity import find_loss
from replicator.typemap.expression import parse_on_update


class Queries(Protocol):
    """What this module needs of a ``Session``."""

    def query(self, sql: str, *args: object) -> list[tuple[Any, ...]]: ...


class Difference(NamedTuple):
    """One way in which a target table is not what its source needs; ``column`` is '' for the table as a whole."""

    column: str
    message: str
    fatal: bool


class TargetColumn(NamedTuple):
    name: str
    type: str
    nullable: bool
    charset: str | None
    collation: str | None
    default: str | None
    extra: str
    srid: int | None

    @property
    def generated(self) -> bool:
        return "VIRTUAL GENERATED" in self.extra or "STORED GENERATED" in self.extra

    @property
    def required(self) -> bool:
        """Whether an INSERT that does not name it fails."""
        given = self.nullable or self.default is not None or self.generated
        return not given and "auto_increment" not in self.extra and "DEFAULT_GENERATED" not in self.extra


class TargetIndex(NamedTuple):
    """``columns`` has None for an expression; ``whole`` is False where a part is a prefix or an expression."""

    name: str
    unique: bool
    columns: tuple[str | None, ...]
    whole: bool


class TargetForeignKey(NamedTuple):
    """``parent`` is '' for a table of another database; RESTRICT is told as NO ACTION, which does the same."""

    name: str
    parent: str
    columns: tuple[str, ...]
    on_delete: str
    on_update: str

    @property
    def cascades(self) -> bool:
        return {self.on_delete, self.on_update} != {NO_ACTION}


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table as the target's catalog has it; column names are in lower case, as MySQL compares them."""

    name: str
    is_table: bool
    engine: str
    columns: Mapping[str, TargetColumn]
    indexes: tuple[TargetIndex, ...]
    triggers: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    foreign_keys: tuple[TargetForeignKey, ...] = ()


# --- reading --------------------------------------------------------------------------------------

NO_ACTION: Final = "NO ACTION"
_HERE: Final = "TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({})"
_TABLES: Final = (
    f"SELECT TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, '') FROM information_schema.TABLES WHERE {_HERE}"
)
_COLUMNS: Final = (
    "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, CHARACTER_SET_NAME, COLLATION_NAME, COLUMN_DEFAULT,"
    f" EXTRA, SRS_ID FROM information_schema.COLUMNS WHERE {_HERE} ORDER BY TABLE_NAME, ORDINAL_POSITION"
)
_INDEXES: Final = (
    "SELECT TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS"
    f" WHERE {_HERE} AND INDEX_TYPE = 'BTREE' ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
)
_TRIGGERS: Final = (
    "SELECT EVENT_OBJECT_TABLE, TRIGGER_NAME FROM information_schema.TRIGGERS"
    " WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE IN ({})"
)
_CHECKS: Final = (
    "SELECT TABLE_NAME, CONSTRAINT_NAME FROM information_schema.TABLE_CONSTRAINTS"
    f" WHERE {_HERE} AND CONSTRAINT_TYPE = 'CHECK' AND ENFORCED = 'YES'"
)
_FOREIGN_KEYS: Final = (
    "SELECT k.TABLE_NAME, CONSTRAINT_NAME, k.REFERENCED_TABLE_SCHEMA = DATABASE(), k.REFERENCED_TABLE_NAME,"
    " k.COLUMN_NAME, r.DELETE_RULE, r.UPDATE_RULE FROM information_schema.KEY_COLUMN_USAGE k"
    " JOIN information_schema.REFERENTIAL_CONSTRAINTS r USING (CONSTRAINT_SCHEMA, CONSTRAINT_NAME)"
    f" WHERE {_HERE.replace('TABLE_', 'k.TABLE_')} AND k.REFERENCED_TABLE_NAME IS NOT NULL"
    " ORDER BY k.TABLE_NAME, CONSTRAINT_NAME, k.ORDINAL_POSITION"
)


def folds_names(session: Queries) -> bool:
    """Whether the target stores table names in lower case (lower_case_table_names = 1) or compares them so (2)."""
    return int(session.query("SELECT @@lower_case_table_names")[0][0]) != 0


def check_names(session: Queries, schemas: Iterable[TableSchema]) -> None:
    """Raise SchemaMismatch where two target names become one at a target that ignores case."""
    folds = folds_names(session)
    seen: dict[str, TableSchema] = {}
    for schema in schemas:
        name = schema.target.lower() if folds else schema.target
        other = seen.setdefault(name, schema)
        if other is not schema:
            raise SchemaMismatch(
                f"{other.source} and {schema.source} would share the target table {name}"
                + (": the target ignores the case of names" if other.target != schema.target else ""),
                hint="give one of them another name with `to`",
            )


def read_tables(session: Queries, names: Collection[str]) -> dict[str, TargetTable]:
    """Those of ``names`` that exist in the target database, by the name that was asked for."""
    wanted = {name.lower() if folds_names(session) else name: name for name in names}
    if not wanted:
        return {}

    def ask(sql: str) -> list[tuple[Any, ...]]:
        return session.query(sql.format(", ".join(["%s"] * len(wanted))), *wanted)

    columns = _group(ask(_COLUMNS))
    indexes = _group(ask(_INDEXES))
    triggers = _group(ask(_TRIGGERS))
    checks = _group(ask(_CHECKS))
    foreign_keys = _group(ask(_FOREIGN_KEYS))
    return {
        wanted[name]: TargetTable(
            name=name,
            is_table=kind == "BASE TABLE",
            engine=engine,
            columns={row[0].lower(): _build_column(row) for row in columns[name]},
            indexes=_build_indexes(indexes[name]),
            triggers=tuple(row[0] for row in triggers[name]),
            checks=tuple(row[0] for row in checks[name]),
            foreign_keys=_build_foreign_keys(foreign_keys[name]),
        )
        for name, kind, engine in ask(_TABLES)
    }


def _group(rows: Iterable[tuple[Any, ...]]) -> defaultdict[Any, list[tuple[Any, ...]]]:
    grouped: defaultdict[Any, list[tuple[Any, ...]]] = defaultdict(list)
    for key, *rest in rows:
        grouped[key].append(tuple(rest))
    return grouped


def _build_column(row: tuple[Any, ...]) -> TargetColumn:
    name, column_type, nullable, charset, collation_name, default, extra, srid = row
    return TargetColumn(
        name=name,
        type=column_type,
        nullable=nullable == "YES",
        charset=collation.canonical_name(charset) if charset else None,
        collation=collation.canonical_name(collation_name) if collation_name else None,
        default=default,
        extra=extra or "",
        srid=srid,
    )


def _build_indexes(rows: Iterable[tuple[Any, ...]]) -> tuple[TargetIndex, ...]:
    return tuple(
        TargetIndex(
            name=name,
            unique=not int(parts[0][0]),
            columns=tuple(column.lower() if column else None for _, column, _ in parts),
            whole=all(column and prefix is None for _, column, prefix in parts),
        )
        for name, parts in _group(rows).items()
    )


def _build_foreign_keys(rows: Iterable[tuple[Any, ...]]) -> tuple[TargetForeignKey, ...]:
    return tuple(
        TargetForeignKey(
            name,
            parts[0][1] if parts[0][0] else "",
            tuple(part[2].lower() for part in parts),
            *map(plain_rule, parts[0][3:5]),
        )
        for name, parts in _group(rows).items()
    )


def plain_rule(rule: str) -> str:
    """A rule of a foreign key by what it does: InnoDB checks RESTRICT and NO ACTION alike, at once."""
    return NO_ACTION if rule == "RESTRICT" else rule


def exists(session: Queries, table: str) -> bool:
    return bool(read_tables(session, [table]))


def is_empty(session: Queries, table: str) -> bool:
    return not session.query(f"SELECT 1 FROM {ddl.quote_name(table)} LIMIT 1")


def count_rows(session: Queries, table: str) -> int:
    return int(session.query(f"SELECT COUNT(*) FROM {ddl.quote_name(table)}")[0][0])


# --- comparing (pure) -----------------------------------------------------------------------------


def compare(schema: TableSchema, table: TargetTable) -> list[Difference]:
    """Every difference between what ``schema`` needs and what ``table`` is."""
    if not table.is_table:
        return [Difference("", f"{table.name} is a view, not a table", True)]
    differences = _compare_table(schema, table)
    for column in schema.columns:
        differences += _compare_column(column, table)
    differences += _compare_extra_columns(schema, table)
    differences += _compare_keys(schema, table)
    return differences


def fit_statements(schema: TableSchema, table: TargetTable) -> TableSchema:
    """``schema`` as statements must know it where ``table`` is of other making, or was altered.

    They force the key's index by the target's own name of it, and carry text into, and compare it in, the character set
    and collation that the target's column has.
    """
    columns = tuple(_fit_column(column, table.columns.get(column.name.lower())) for column in schema.columns)
    return _name_key_index(replace(schema, columns=columns), table)


def _fit_column(column: Column, actual: TargetColumn | None) -> Column:
    if actual is None or not (actual.collation and column.collation):
        return column
    return replace(column, collation=actual.collation)


def _name_key_index(schema: TableSchema, table: TargetTable) -> TableSchema:
    columns = {schema.columns[at].name.lower() for at in schema.key}
    names = [i.name for i in table.indexes if i.unique and i.whole and set(i.columns) == columns]
    own = [key for key in schema.unique_keys if key.ordinals == schema.key]
    if not names or (own and own[0].name in names):
        return schema
    rest = tuple(key for key in schema.unique_keys if key.ordinals != schema.key)
    deferrable = bool(own) and all(key.deferrable for key in own)
    return replace(schema, unique_keys=(UniqueKey(names[0], schema.key, deferrable=deferrable), *rest))


def refuse_unfit(schema: TableSchema, table: TargetTable) -> list[Difference]:
    """Raise SchemaMismatch with every fatal difference; return the others."""
    differences = compare(schema, table)
    fatal = [item for item in differences if item.fatal]
    if fatal:
        lines = "\n".join(
            f"{schema.target}:{item.column}: {item.message}"
            if item.column
            else f"{schema.target}: {item.message}"
            for item in fatal
        )
        raise SchemaMismatch(
            f"the target table cannot hold {schema.source} without loss\n{lines}",
            hint="ALTER the target table as said, or give the source table another target name with `to`",
        )
    return differences


def _compare_table(schema: TableSchema, table: TargetTable) -> list[Difference]:
    found: list[Difference] = []
    if table.engine.lower() != "innodb":
        found.append(Difference("", f"engine {table.engine} has no transactions; it must be InnoDB", True))
    for name in table.triggers:
        found.append(Difference("", f"trigger {name} runs for every mirrored row", False))
    for name in table.checks:
        found.append(Difference("", f"CHECK constraint {name} may refuse rows of the source", False))
    known = {tuple(c.lower() for c in fk.columns) for fk in schema.foreign_keys}
    for key in table.foreign_keys:
        if key.columns not in known:
            message = f"foreign key {key.name} to {key.parent or 'another database'} is not at the source"
            if key.cascades:
                message += ", and its cascades would change rows that the source keeps"
            found.append(Difference("", message, key.cascades))
    return found


def _compare_column(column: Column, table: TargetTable) -> list[Difference]:
    actual = table.columns.get(column.name.lower())
    if actual is None:
        return [Difference(column.name, f"the target lacks this column ({column.type})", True)]
    if actual.generated:
        return [Difference(column.name, "the target generates this column; it must be a plain one", True)]
    found: list[Difference] = []
    loss = find_loss(column, actual.type, actual.charset)
    if loss:
        found.append(Difference(column.name, loss, True))
    if column.nullable and not actual.nullable:
        found.append(Difference(column.name, "NOT NULL at the target, but not at the source", True))
    if actual.srid is not None and actual.srid != column.srid:
        found.append(
            Difference(column.name, f"SRID {actual.srid} at the target, {column.srid} at the source", True)
        )
    if parse_on_update(actual.extra) and not column.on_update:
        message = "ON UPDATE CURRENT_TIMESTAMP at the target would replace the source's value"
        found.append(Difference(column.name, message, True))
    found += _compare_notable(column, actual)
    return found


def _compare_notable(column: Column, actual: TargetColumn) -> list[Difference]:
    """Differences that change what a user sees or how text compares, not what is stored."""
    found: list[Difference] = []
    if (
        column.kind is not Kind.PLAIN
        and column.collation
        and actual.collation not in (None, column.collation)
    ):
        found.append(
            Difference(column.name, f"collation {actual.collation} instead of {column.collation}", False)
        )
    if column.type.startswith("timestamp") and actual.type.startswith("datetime"):
        found.append(Difference(column.name, "a DATETIME at the target; it will hold UTC", False))
    return found


def _compare_extra_columns(schema: TableSchema, table: TargetTable) -> list[Difference]:
    mirrored = {column.name.lower() for column in schema.columns}
    generated = {column.name.lower() for column in schema.generated}
    found: list[Difference] = []
    for name, actual in table.columns.items():
        if name in mirrored:
            continue
        if actual.required:
            message = "NOT NULL without a default at the target, and not a column that the source gives"
            found.append(Difference(actual.name, message, True))
        elif name in generated and not actual.generated:
            message = "generated at the source, plain at the target: it will not be filled"
            found.append(Difference(actual.name, message, False))
        elif parse_on_update(actual.extra):
            found.append(
                Difference(actual.name, "ON UPDATE CURRENT_TIMESTAMP follows mirrored updates", False)
            )
    for name in sorted(generated - table.columns.keys()):
        found.append(Difference(name, "a generated column of the source that the target lacks", False))
    return found


def _compare_keys(schema: TableSchema, table: TargetTable) -> list[Difference]:
    key = {schema.columns[i].name.lower() for i in schema.key}
    unique = [index for index in table.indexes if index.unique]
    found: list[Difference] = []
    if not any(index.whole and set(index.columns) == key for index in unique):
        names = ", ".join(schema.columns[i].name for i in schema.key)
        found.append(Difference("", f"the target has no unique key on exactly ({names})", True))
    source_keys = [
        {schema.columns[i].name.lower() for i in item.ordinals} for item in schema.unique_keys if item.exact
    ]
    for index in unique:
        found += _compare_unique(index, schema, table, [key, *source_keys])
    return found


def _compare_unique(
    index: TargetIndex, schema: TableSchema, table: TargetTable, source_keys: Sequence[set[str]]
) -> list[Difference]:
    """A unique key of the target must refuse no row that the source accepts."""
    found: list[Difference] = []
    columns = {column.name.lower(): column for column in schema.columns}
    for name in index.columns:
        column, actual = columns.get(name or ""), table.columns.get(name or "")
        if column and actual and not _is_as_fine(actual.collation, column.collation):
            message = (
                f"unique key {index.name} compares by {actual.collation}, which may call equal what "
                f"{column.collation} tells apart"
            )
            found.append(Difference(column.name, message, True))
    if _is_known_unique(index, schema, table, source_keys):
        return found
    message = f"unique key {index.name} is not at the source and may refuse its rows"
    return [*found, Difference("", message, True)]


def _is_as_fine(actual: str | None, wanted: str | None) -> bool:
    return not (actual and wanted) or collation.is_as_fine(actual, wanted)


def _is_known_unique(
    index: TargetIndex, schema: TableSchema, table: TargetTable, source_keys: Sequence[set[str]]
) -> bool:
    """Whether the source, or the target's own numbering, makes sure that the key never refuses a mirrored row."""
    if any(item.name == index.name and not item.exact for item in schema.unique_keys):
        return True  # on prefixes or expressions, as the source has it
    parts = set(index.columns)
    if index.whole and any(key and key <= parts for key in source_keys):
        return True
    extras = [table.columns[n] for n in parts if n and n in table.columns]
    mirrored = {column.name.lower() for column in schema.columns}
    return any(
        column.name.lower() not in mirrored
        and ("auto_increment" in column.extra or (column.nullable and column.default is None))
        for column in extras
    )


# --- fitting --------------------------------------------------------------------------------------


def fit_expressions(session: Any, schema: TableSchema) -> TableSchema:
    """``schema`` without the DEFAULTs that this server refuses, each told in ``notes``.

    Asked of the server itself, with temporary tables that are gone when this returns: which functions a version takes is
    nobody's list. Rows lose nothing, for every value arrives explicitly. A generation expression that the server refuses
    raises SchemaMismatch naming the column.
    """
    if not any(_is_expression(c.default) for c in schema.columns) and not schema.generated:
        return schema
    if _is_accepted(session, schema):
        return schema
    notes = list(schema.notes)
    columns = list(schema.columns)
    for i, column in enumerate(schema.columns):
        if _is_expression(column.default) and _refusal(session, _only_column(schema, column)):
            notes.append(f"{schema.source}:{column.name}: created without DEFAULT {column.default}")
            columns[i] = replace(column, default=None)
    fitted = replace(schema, columns=tuple(columns), notes=tuple(notes))
    _refuse_generated(session, fitted)
    return fitted


def _is_expression(default: str | None) -> bool:
    return default is not None and default.startswith("(")


def _only_column(schema: TableSchema, column: Column) -> TableSchema:
    """A table of this one column and a key of its own."""
    key = Column("_replicator_probe", Kind.INTEGER, "int", nullable=False)
    return _probe_schema(schema, (key, replace(column, auto_increment=False)))


def _probe_schema(schema: TableSchema, columns: tuple[Column, ...]) -> TableSchema:
    part = IndexPart(columns[0].name)
    primary = Index("PRIMARY", "primary", (part,))
    return replace(schema, columns=columns, key=(0,), generated=(), indexes=(primary,), unique_keys=())


def _refuse_generated(session: Any, schema: TableSchema) -> None:
    for count, column in enumerate(schema.generated, 1):
        reason = _refusal(session, replace(schema, generated=schema.generated[:count]))
        if reason:
            raise SchemaMismatch(
                f"{schema.source}:{column.name}: the target refuses this generated column: {reason}",
                hint=f"create the table {schema.target} yourself, with a plain nullable column {column.name} or without it",
            )


def _is_accepted(session: Any, schema: TableSchema) -> bool:
    return not _refusal(session, schema)


def _refusal(session: Any, schema: TableSchema) -> str:
    """Why the server refuses to create ``schema``'s table, '' when it does not."""
    name = "_replicator_probe"
    sql = ddl.build_create_table(schema, name).replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1)
    try:
        session.execute(sql)
    except (TargetUnavailable, TargetRetry):
        raise
    except TargetError as error:
        return error.message
    session.execute(f"DROP TEMPORARY TABLE {ddl.quote_name(name)}")
    return ""


# --- neighbours -----------------------------------------------------------------------------------


def external_children(session: Queries, tables: Collection[str]) -> list[ExternalChild]:
    """Foreign keys of other tables, this account's view of them, that refer to one of the target ``tables``."""
    if not tables:
        return []
    fold: Callable[[str], str] = str.lower if folds_names(session) else str
    names = sorted({fold(name) for name in tables})
    rows = session.query(
        "SELECT DISTINCT TABLE_SCHEMA = DATABASE(), TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, REFERENCED_TABLE_NAME"
        " FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_SCHEMA = DATABASE()"
        f" AND REFERENCED_TABLE_NAME IN ({', '.join(['%s'] * len(names))})"
        " ORDER BY TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME",
        *names,
    )
    return [
        ExternalChild(child if here else f"{database}.{child}", constraint, parent)
        for here, database, child, constraint, parent in rows
        if not (here and fold(child) in names)
    ]


def count_orphans(session: Queries, schema: TableSchema, fk: ForeignKey, parent: TableSchema) -> int:
    """How many rows of ``schema``'s target refer by ``fk`` to a parent row that is not there."""
    child_columns = [f"c.{ddl.quote_name(name)}" for name in fk.columns]
    parent_columns = [f"p.{ddl.quote_name(name)}" for name in fk.parent_columns]
    match = " AND ".join(f"{c} = {p}" for c, p in zip(child_columns, parent_columns, strict=True))
    given = " AND ".join(f"{c} IS NOT NULL" for c in child_columns)
    rows = session.query(
        f"SELECT COUNT(*) FROM {ddl.quote_name(schema.target)} c WHERE {given}"
        f" AND NOT EXISTS (SELECT 1 FROM {ddl.quote_name(parent.target)} p WHERE {match})"
    )
    return int(rows[0][0])


_FINGERPRINTED: Final = (
    "SELECT COLUMN_NAME, ORDINAL_POSITION, COLUMN_DEFAULT, IS_NULLABLE, COLUMN_TYPE, COLLATION_NAME, EXTRA,"
    f" COLUMN_COMMENT, GENERATION_EXPRESSION, SRS_ID FROM information_schema.COLUMNS WHERE {_HERE} ORDER BY 2",
    "SELECT INDEX_NAME, SEQ_IN_INDEX, NON_UNIQUE, COLUMN_NAME, COLLATION, SUB_PART, INDEX_TYPE, INDEX_COMMENT,"
    f" IS_VISIBLE, EXPRESSION FROM information_schema.STATISTICS WHERE {_HERE} ORDER BY 1, 2",
    "SELECT CONSTRAINT_NAME, ORDINAL_POSITION, COLUMN_NAME, REFERENCED_TABLE_SCHEMA, REFERENCED_TABLE_NAME,"
    f" REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE {_HERE} ORDER BY 1, 2, 3",
)


def fingerprint(session: Queries, table: str) -> str:
    """A hash of everything the catalog says of ``table``'s columns, indexes and foreign keys; '' when it is not there."""
    name = table.lower() if folds_names(session) else table
    rows = [session.query(sql.format("%s"), name) for sql in _FINGERPRINTED]
    return hashlib.sha256(repr(rows).encode()).hexdigest() if rows[0] else ""


__all__ = [
    "Difference",
    "TargetColumn",
    "TargetIndex",
    "TargetTable",
    "check_names",
    "compare",
    "count_orphans",
    "count_rows",
    "exists",
    "external_children",
    "fingerprint",
    "fit_expressions",
    "fit_statements",
    "folds_names",
    "is_empty",
    "plain_rule",
    "read_tables",
    "refuse_unfit",
]
