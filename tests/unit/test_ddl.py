"""Target DDL from schemas, against golden files: natural to read, and complete in three steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from replicator import ddl
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

GOLDEN = Path(__file__).parents[1] / "golden" / "ddl"


def index(name: str, kind: str, *columns: str) -> Index:
    return Index(name, kind, tuple(IndexPart(column) for column in columns))


ID = Column("id", Kind.INTEGER, "bigint unsigned", nullable=False, auto_increment=True)
NAME = Column(
    "name", Kind.TEXT, "varchar(50)", charset="utf8mb4", collation="utf8mb4_0900_ai_ci", default="'new'"
)
PRIMARY = index("PRIMARY", "primary", "id")

CUSTOMERS = TableSchema(
    TableName("shop", "customers"),
    "customers",
    (ID, NAME),
    (0,),
    (UniqueKey("PRIMARY", (0,)),),
    indexes=(PRIMARY,),
)

EVERYTHING = TableSchema(
    source=TableName("shop", "orders"),
    target="sales`orders",
    columns=(
        ID,
        replace(NAME, name="no`te", charset="latin1", collation="latin1_bin", comment="it's\n\\ a note"),
        Column(
            "made",
            Kind.PLAIN,
            "timestamp(3)",
            default="CURRENT_TIMESTAMP(3)",
            on_update="CURRENT_TIMESTAMP(3)",
        ),
        Column("place", Kind.GEOMETRY, "point", nullable=False, srid=4326),
        Column("hidden", Kind.INTEGER, "int", invisible=True, default="(1 + 1)"),
        Column("customer", Kind.INTEGER, "bigint unsigned"),
    ),
    key=(0,),
    generated=(
        GeneratedColumn("first", "int", "`id` + 1", stored=False),
        GeneratedColumn(
            "twice", "varchar(9)", "(`id` * 2)", True, False, "latin1", "latin1_bin", "two", True, "no`te"
        ),
        GeneratedColumn("thrice", "int", "(`id` * 3)", stored=True, after="twice"),
    ),
    indexes=(
        PRIMARY,
        Index(
            "by_note",
            "unique",
            (IndexPart("no`te", prefix=10, descending=True), IndexPart("id")),
            "why",
            True,
        ),
        Index("computed", "index", (IndexPart(None, expression="lower(`no``te`)"),)),
        index("words", "fulltext", "no`te"),
        index("more_words", "fulltext", "no`te", "name"),
        index("where", "spatial", "place"),
    ),
    foreign_keys=(
        ForeignKey("fk", ("customer",), TableName("shop", "customers"), ("id",), "CASCADE", "SET NULL"),
        ForeignKey("orders_ibfk_7", ("customer",), TableName("shop", "customers"), ("id",)),
        ForeignKey("elsewhere", ("customer",), TableName("shop", "unselected"), ("id",)),
    ),
    charset="utf8mb4",
    collation="utf8mb4_general_ci",
    comment="all 'of' it",
)

NO_PRIMARY = TableSchema(
    TableName("shop", "codes"),
    "codes",
    (
        Column("code", Kind.PLAIN, "char(36)", nullable=False, collation="ascii_general_ci"),
        replace(ID, name="n"),
    ),
    (0,),
    (UniqueKey("by_code", (0,)),),
    indexes=(index("by_code", "unique", "code"), index("counter", "index", "n")),
)

SELECTED = {schema.source: schema for schema in (CUSTOMERS, EVERYTHING, NO_PRIMARY)}


@pytest.mark.parametrize("schema", SELECTED.values(), ids=lambda schema: schema.source.table)
def test_golden(schema: TableSchema) -> None:
    statements = [
        ddl.build_create_table(schema),
        *ddl.build_indexes(schema),
        *ddl.build_foreign_keys(schema, SELECTED),
    ]
    golden = GOLDEN / f"{schema.source.table}.sql"
    assert ";\n\n".join(statements) + ";\n" == golden.read_text()


def test_only_mirrored_parents_get_foreign_keys() -> None:
    assert ddl.build_foreign_keys(EVERYTHING, {EVERYTHING.source: EVERYTHING}) == []


def test_one_constraint_name_from_two_databases_is_told_apart() -> None:
    other = replace(EVERYTHING, source=TableName("branch", "orders"), target="branch_orders")
    selected = {**SELECTED, other.source: other}
    (statement,) = ddl.build_foreign_keys(other, selected)
    assert "CONSTRAINT `branch_orders_fk`" in statement
    assert "CONSTRAINT `branch_orders_ibfk_7`" in statement


def test_a_table_that_goes_to_another_name_does_not_keep_its_constraints_names() -> None:
    moved = replace(
        EVERYTHING, target="berlin_orders"
    )  # another pipeline may fill `orders` from another source
    (statement,) = ddl.build_foreign_keys(moved, SELECTED)
    assert "CONSTRAINT `berlin_orders_fk`" in statement


def test_auto_increment_needs_an_index_it_leads() -> None:
    second = replace(CUSTOMERS, indexes=(index("PRIMARY", "primary", "name", "id"),), key=(1, 0))
    assert "AUTO_INCREMENT" not in ddl.build_create_table(second)
    assert "AUTO_INCREMENT" in ddl.build_create_table(CUSTOMERS)


def test_indexes_that_are_there_are_not_made_again() -> None:
    twice = replace(NO_PRIMARY, indexes=(*NO_PRIMARY.indexes, index("counter_2", "index", "n", "code")))
    (statement,) = ddl.build_indexes(twice, present={"primary", "counter"})
    assert statement == "ALTER TABLE `codes`\n  ADD KEY `counter_2` (`n`, `code`)"
    assert ddl.build_indexes(twice, present={"primary", "counter", "counter_2"}) == []


def test_many_generated_columns_in_a_row() -> None:
    chain = [GeneratedColumn("g0", "int", "`id`", stored=False, after="name")]
    chain += [
        GeneratedColumn(f"g{i}", "int", "`id`", stored=False, after=f"g{i - 1}") for i in range(1, 1500)
    ]
    lines = ddl.build_create_table(replace(CUSTOMERS, generated=tuple(chain))).splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["`g0`", "`g1`", "`g2`"]
    assert len(lines) == 1504 + 1
