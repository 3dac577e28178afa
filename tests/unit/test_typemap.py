"""The type map: target types, converters, defaults, and what an existing column can hold (I10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.model import Column, Kind
from replicator.typemap import capacity, expression
from replicator.typemap.mysql import (
    REFERENCE,
    TYPES,
    clean_type,
    render_reference,
    select_expression,
    text_converter,
    type_name,
)


@pytest.mark.parametrize(
    ("column_type", "target"),
    [
        ("int(10) unsigned", "int unsigned"),
        ("int(5) unsigned zerofill", "int(5) unsigned zerofill"),
        ("tinyint(1)", "tinyint(1)"),
        ("tinyint(1) unsigned", "tinyint unsigned"),
        ("decimal(65,30)", "decimal(65,30)"),
        ("float(7,2) unsigned", "float unsigned"),
        ("double(10,3)", "double"),
        ("year(4)", "year"),
        ("text /*M!100301 COMPRESSED*/", "text"),
        ("datetime /* mariadb-5.3 */", "datetime"),
        ("uuid", "char(36)"),
        ("inet6", "varchar(39)"),
        ("geometrycollection", "geometrycollection"),
        ("vector(3)", "vector(3)"),
    ],
)
def test_target_types(column_type: str, target: str) -> None:
    assert TYPES[type_name(column_type)].target(clean_type(column_type)) == target


def convert(source_type: str, text: bytes, labels: tuple[bytes, ...] = ()) -> object:
    kind = TYPES[type_name(source_type)].kind
    converter = text_converter(Column("c", kind, source_type, source_type=source_type, labels=labels))
    return converter(text) if converter else text


@pytest.mark.parametrize(
    ("source_type", "text", "value"),
    [
        ("bigint(20) unsigned", b"18446744073709551615", 2**64 - 1),
        ("int(5) unsigned zerofill", b"00042", 42),
        ("decimal(5,2) unsigned zerofill", b"001.50", b"1.50"),
        ("decimal(5,2) unsigned zerofill", b"000.50", b"0.50"),
        ("decimal(5,0) unsigned zerofill", b"00000", b"0"),
        ("decimal(5,2)", b"-0.50", b"-0.50"),
        ("enum('a','b')", b"2", b"b"),
        ("enum('a','b')", b"0", 0),
        ("set('a','b')", b"3", b"a,b"),
        ("set('a','b')", b"0", b""),
        ("bit(64)", b"18446744073709551615", 2**64 - 1),
    ],
)
def test_converters(source_type: str, text: bytes, value: object) -> None:
    assert convert(source_type, text, (b"a", b"b")) == value


def test_select_expressions_quote_names() -> None:
    column = Column("we`ird {}", Kind.FLOAT, "float", source_type="float")
    assert select_expression(column) == "`we``ird {}` * 1e0"


@pytest.mark.parametrize(
    ("text", "extra", "data_type", "kind", "sql"),
    [
        (None, "", "int", Kind.INTEGER, None),
        ("7", "", "int", Kind.INTEGER, "'7'"),
        ("it's \\", "", "varchar", Kind.TEXT, "'it''s \\\\'"),
        ("NULL", "", "varchar", Kind.TEXT, "'NULL'"),
        ("b'101'", "", "bit", Kind.BIT, "b'101'"),
        ("b'101'", "", "varchar", Kind.TEXT, "'b''101'''"),
        ("0x0102", "", "binary", Kind.BINARY, "0x0102"),
        ("CURRENT_TIMESTAMP(3)", "DEFAULT_GENERATED", "datetime", Kind.PLAIN, "CURRENT_TIMESTAMP(3)"),
        ("uuid()", "DEFAULT_GENERATED", "varchar", Kind.TEXT, "(uuid())"),
        (
            "concat(_utf8mb4\\'a\\\\\\'b\\')",
            "DEFAULT_GENERATED",
            "varchar",
            Kind.TEXT,
            "(concat(_utf8mb4'a\\'b'))",
        ),
    ],
)
def test_mysql_defaults(text: str | None, extra: str, data_type: str, kind: Kind, sql: str | None) -> None:
    assert expression.translate_mysql_default(text, extra, data_type, kind) == sql


@pytest.mark.parametrize(
    ("text", "data_type", "kind", "sql"),
    [
        (None, "int", Kind.INTEGER, None),
        ("NULL", "int", Kind.INTEGER, None),
        ("'NULL'", "varchar", Kind.TEXT, "'NULL'"),
        ("-1.5e3", "double", Kind.DOUBLE, "-1.5e3"),
        ("'it''s \\\\'", "varchar", Kind.TEXT, "'it''s \\\\'"),
        ("'a' + 'b'", "varchar", Kind.TEXT, "('a' + 'b')"),
        ("'abc'", "blob", Kind.BINARY, "('abc')"),
        ("'{}'", "longtext", Kind.TEXT, "('{}')"),
        ("current_timestamp()", "timestamp", Kind.PLAIN, "CURRENT_TIMESTAMP"),
        ("current_timestamp(6)", "datetime", Kind.PLAIN, "CURRENT_TIMESTAMP(6)"),
        ("current_timestamp()", "varchar", Kind.TEXT, "(current_timestamp())"),
        ("uuid()", "uuid", Kind.PLAIN, "(uuid())"),
        ("b'1'", "bit", Kind.BIT, "b'1'"),
    ],
)
def test_mariadb_defaults(text: str | None, data_type: str, kind: Kind, sql: str | None) -> None:
    assert expression.translate_mariadb_default(text, data_type, kind) == sql


def test_labels_survive_quotes_commas_and_backslashes() -> None:
    text = "enum('a','b''c','d\\\\e','f,g','','x\\ny','(1)')"
    assert expression.parse_labels(text) == ("a", "b'c", "d\\e", "f,g", "", "x\ny", "(1)")


def test_on_update_of_both_products() -> None:
    assert (
        expression.parse_on_update("DEFAULT_GENERATED on update CURRENT_TIMESTAMP(3)")
        == "CURRENT_TIMESTAMP(3)"
    )
    assert expression.parse_on_update("on update current_timestamp()") == "CURRENT_TIMESTAMP"
    assert expression.parse_on_update("auto_increment") is None


@pytest.mark.parametrize(
    ("wanted", "actual", "fits"),
    [
        ("int", "int", True),
        ("int", "bigint", True),
        ("int unsigned", "bigint", True),
        ("int unsigned", "int", False),
        ("int", "int unsigned", False),
        ("int", "bigint unsigned", False),
        ("bigint unsigned", "bigint", False),
        ("bigint unsigned", "decimal(20,0)", True),
        ("bigint unsigned", "decimal(20)", True),
        ("bigint unsigned", "decimal(20,2)", False),
        ("tinyint", "varchar(9)", False),
        ("decimal(10,2)", "decimal(10,2)", True),
        ("decimal(10,2)", "decimal(12,4)", True),
        ("decimal(10,2)", "decimal(10,4)", False),
        ("decimal(10,2)", "decimal(10,1)", False),
        ("decimal(10,2)", "double", False),
        ("float", "double", True),
        ("double", "float", False),
        ("float", "float(7,2)", False),
        ("bit(9)", "bit(8)", False),
        ("bit(1)", "bit(8)", True),
        ("datetime(3)", "datetime(6)", True),
        ("datetime(3)", "datetime", False),
        ("datetime", "timestamp", False),
        ("timestamp", "datetime", True),
        ("date", "datetime", False),
        ("year", "year", True),
        ("json", "longtext", False),
        ("point", "geometry", True),
        ("geometry", "point", False),
        ("geometrycollection", "geomcollection", True),
        ("vector(3)", "vector(2)", False),
        ("binary(4)", "binary(5)", False),
        ("binary(4)", "varbinary(4)", True),
        ("varbinary(4)", "binary(4)", False),
        ("varbinary(4)", "tinyblob", True),
        ("blob", "mediumblob", True),
        ("mediumblob", "blob", False),
        ("blob", "text", False),
    ],
)
def test_what_an_existing_column_holds(wanted: str, actual: str, fits: bool) -> None:
    column = Column("c", TYPES[type_name(wanted)].kind, wanted, source_type=wanted)
    assert (capacity.find_loss(column, actual, None) == "") is fits


@pytest.mark.parametrize(
    ("wanted", "source_charset", "actual", "charset", "fits"),
    [
        ("varchar(10)", "latin1", "varchar(10)", "utf8mb4", True),
        ("varchar(10)", "latin1", "varchar(9)", "latin1", False),
        ("varchar(10)", "latin1", "char(10)", "latin1", False),
        ("char(10)", "latin1", "varchar(10)", "latin1", True),
        ("varchar(10)", "utf8mb4", "tinytext", "utf8mb4", True),
        ("varchar(100)", "utf8mb4", "tinytext", "utf8mb4", False),
        ("varchar(10)", "utf8mb4", "varchar(10)", "latin1", False),
        ("text", "latin1", "text", "latin1", True),
        ("text", "latin1", "text", "utf8mb4", False),
        ("text", "latin1", "mediumtext", "utf8mb4", True),
        ("longtext", "latin1", "longtext", "utf8mb4", True),
        ("longtext", "utf8mb4", "mediumtext", "utf8mb4", False),
        ("longtext", "utf8mb4", "json", None, False),
    ],
)
def test_what_an_existing_text_column_holds(
    wanted: str, source_charset: str, actual: str, charset: str | None, fits: bool
) -> None:
    column = Column("c", Kind.TEXT, wanted, charset=source_charset, source_type=wanted)
    assert (capacity.find_loss(column, actual, charset) == "") is fits


def test_labels_may_be_more_or_in_another_order() -> None:
    column = Column("c", Kind.ENUM, "enum('a','b''c')", labels=(b"a", b"b'c"), source_type="enum('a','b''c')")
    assert capacity.find_loss(column, "enum('b''c','x','a')", "utf8mb4") == ""
    assert capacity.find_loss(column, "enum('a','x')", "utf8mb4") == "the target's enum lacks \"b'c\""
    assert capacity.find_loss(column, "set('a','b''c')", "utf8mb4") != ""


@pytest.mark.parametrize(
    ("column_type", "widened"),
    [
        ("varchar(100)", "varchar(100)"),
        ("varchar(40000)", "mediumtext"),
        ("text", "mediumtext"),
        ("longtext", "longtext"),
        ("char(10)", "char(10)"),
    ],
)
def test_text_gets_room_for_another_character_set(column_type: str, widened: str) -> None:
    assert capacity.widen_text(column_type, "latin1", "utf8mb4") == widened
    assert capacity.widen_text(column_type, "latin1", "latin1") == column_type


def test_the_reference_is_current() -> None:
    text = (Path(__file__).parents[2] / REFERENCE).read_text()
    assert text == render_reference(), (
        "run `python -m replicator.typemap.mysql > docs/reference/types-mysql.md`"
    )
