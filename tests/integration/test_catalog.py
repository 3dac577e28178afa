"""A source's catalog on real servers: what is described is what is there, and what is unknown is named (I7)."""

from __future__ import annotations

import struct
import time

import pytest

from replicator.errors import SourceError
from replicator.model import Kind, TableName, TableSchema
from replicator.readers.mysql_catalog import cascades_logged, describe, is_mariadb, list_tables
from replicator.servers import Server
from replicator.typemap.mysql import select_expression, text_converter
from tests.accounts import Account
from tests.type_zoo import describe_all, make_zoo


@pytest.fixture
def zoo(source_account: Account) -> dict[str, TableSchema]:
    make_zoo(source_account.server, source_account.database)
    with source_account.connect() as connection:
        schemas = describe_all(connection, source_account.database, skip=("versioned",))
    return {schema.source.table: schema for schema in schemas}


def test_lists_base_tables_only(source_account: Account) -> None:
    make_zoo(source_account.server, source_account.database)
    with source_account.connect() as connection:
        names = {name.table for name in list_tables(connection) if name.schema == source_account.database}
    assert {"numbers", "children", "modern"} <= names
    assert not {"a_view", "counter"} & names
    assert ("versioned" in names) == (source_account.server.kind == "mariadb")


def test_keys_are_whole_mirrored_and_not_null(zoo: dict[str, TableSchema]) -> None:
    def key(table: str) -> list[str]:
        return [zoo[table].columns[i].name for i in zoo[table].key]

    assert key("numbers") == ["id"]
    assert key("parents") == ["a", "b"]
    assert key("unique_only") == ["num", "code"]
    assert key("keyless") == []
    exact = {k.name: k.exact for k in zoo["computed"].unique_keys}
    assert exact == {"PRIMARY": True, "by_g": False}
    assert {k.name: k.exact for k in zoo["unique_only"].unique_keys}["prefixed"] is False


def test_generated_columns_are_in_no_row(zoo: dict[str, TableSchema]) -> None:
    schema = zoo["computed"]
    assert [column.name for column in schema.columns] == ["a", "select", "z"]
    assert [(g.name, g.after, g.stored) for g in schema.generated] == [
        ("g0", None, False),
        ("g1", "select", True),
        ("g2", "g1", True),
    ]


def test_labels_are_told_apart(zoo: dict[str, TableSchema]) -> None:
    columns = {column.name: column for column in zoo["strings"].columns}
    assert [label.decode() for label in columns["e"].labels] == [
        "a", "b'c", "d\\e", "f,g", "ü", 'h"i', "", "x\ny",
    ]  # fmt: skip
    assert columns["s"].labels == (b"x", b"y z", b"it's")
    assert [label.decode() for label in columns["el"].labels] == ["ä", "ß"]
    assert columns["el"].charset == "utf8mb4"


def test_foreign_keys_name_their_parents(zoo: dict[str, TableSchema]) -> None:
    (child,) = zoo["children"].foreign_keys
    assert (child.columns, child.parent.table, child.parent_columns) == (("a", "b"), "parents", ("a", "b"))
    assert (child.on_delete, child.on_update) == ("SET NULL", "CASCADE")
    (itself,) = zoo["parents"].foreign_keys
    assert (itself.name, itself.parent.table, itself.on_delete) == ("self", "parents", "CASCADE")


def test_text_keeps_the_sources_character_set(zoo: dict[str, TableSchema]) -> None:
    columns = {column.name: column for column in zoo["strings"].columns}
    assert [columns[n].charset for n in ("c", "v3", "v16", "vg", "vs", "va")] == [
        "latin1", "utf8mb3", "utf16", "gbk", "sjis", "ascii",
    ]  # fmt: skip


def test_mysql_specials(mysql_source_account: Account) -> None:
    make_zoo(mysql_source_account.server, mysql_source_account.database)
    with mysql_source_account.connect() as connection:
        zoo = {s.source.table: s for s in describe_all(connection, mysql_source_account.database)}
        assert not is_mariadb(connection)
        assert cascades_logged(connection) is True
    columns = {column.name: column for column in zoo["modern"].columns}
    assert columns["hidden"].invisible
    assert columns["p"].srid == 4326
    assert columns["u"].default == "(uuid())"
    assert columns["j"].kind is Kind.JSON
    assert columns["v"].kind is Kind.VECTOR
    hidden_key = zoo["generated_key"]
    assert [c.name for c in hidden_key.columns] == ["my_row_id", "a"]
    assert hidden_key.columns[0].auto_increment
    assert hidden_key.key == (0,)


def test_generated_key_shows_where_the_server_hides_it(mysql_source_account: Account) -> None:
    """SEMANTICS §1.9: the log holds the column whatever the catalog shows."""
    make_zoo(mysql_source_account.server, mysql_source_account.database)
    with mysql_source_account.connect(
        init_command="SET SESSION show_gipk_in_create_table_and_information_schema = OFF"
    ) as connection:
        zoo = {s.source.table: s for s in describe_all(connection, mysql_source_account.database)}
    assert zoo["generated_key"].columns[0].name == "my_row_id"


def test_mariadb_specials(mariadb_source_account: Account) -> None:
    account = mariadb_source_account
    make_zoo(account.server, account.database)
    with account.connect() as connection:
        assert is_mariadb(connection)
        assert cascades_logged(connection) is False
        zoo = {s.source.table: s for s in describe_all(connection, account.database, skip=("versioned",))}
        with pytest.raises(SourceError, match=r"versioned: a SYSTEM VERSIONED table"):
            describe(connection, {TableName(account.database, "versioned"): "versioned"})
    columns = {column.name: column for column in zoo["modern"].columns}
    types = {name: columns[name].type for name in ("j", "u", "a4", "a6", "t", "nt", "np")}
    assert types == {
        "j": "longtext",
        "u": "char(36)",
        "a4": "varchar(15)",
        "a6": "varchar(39)",
        "t": "text",
        "nt": "mediumtext",
        "np": "varchar(20)",
    }
    assert (columns["np"].charset, columns["np"].collation) == ("latin1", "utf8mb4_0900_bin")
    assert columns["uc"].collation == "utf8mb4_0900_bin"
    assert "long_text" not in {index.name for index in zoo["modern"].indexes}
    assert sum("utf8mb4_0900_bin instead" in note for note in zoo["modern"].notes) == 3


def test_a_table_that_is_not_there_is_named(source_account: Account) -> None:
    with (
        source_account.connect() as connection,
        pytest.raises(SourceError, match="no_such: there is no such table"),
    ):
        describe(connection, {TableName(source_account.database, "no_such"): "x"})


def test_unknown_type_names_table_and_column(mariadb_source_account: Account) -> None:
    account = mariadb_source_account
    account.server.execute("CREATE TABLE old (id INT PRIMARY KEY, y YEAR(2))", database=account.database)
    with account.connect() as connection, pytest.raises(SourceError, match=r"old:y: .*year\(2\)"):
        describe(connection, {TableName(account.database, "old"): "old"})


def test_a_thousand_tables_take_seconds(source_server: Server, database_name: str) -> None:
    source_server.execute(f"CREATE DATABASE {database_name}")
    try:
        source_server.execute(
            [f"CREATE TABLE t{i} (id INT PRIMARY KEY, a VARCHAR(20), b INT, KEY (b))" for i in range(300)],
            database=database_name,
        )
        with source_server.connect() as connection:
            started = time.monotonic()
            schemas = describe_all(connection, database_name)
            took = time.monotonic() - started
    finally:
        source_server.execute(f"DROP DATABASE {database_name}")
    assert len(schemas) == 300
    assert took < 5


def test_members_that_the_catalog_cannot_print_come_from_the_rows(source_account: Account) -> None:
    source_account.server.execute(
        "CREATE TABLE moods (id INT AUTO_INCREMENT PRIMARY KEY, e ENUM('😀','😎','?'), s SET('x','😀','?','y'))"
        " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;"
        " INSERT INTO moods (e, s) VALUES (1, 'x,😀'), (3, 'y'), (2, '?,y'), (NULL, '')",
        database=source_account.database,
    )
    with source_account.connect() as connection:
        (schema,) = describe_all(connection, source_account.database)
    _, e, s = schema.columns
    assert [label.decode() for label in e.labels] == ["😀", "😎", "?"]
    assert [label.decode() for label in s.labels] == ["x", "😀", "?", "y"]
    assert e.type == "enum('😀','😎','?')"


VALUES = {
    "BIGINT UNSIGNED": ("18446744073709551615", 2**64 - 1),
    "INT(7) ZEROFILL": ("42", 42),
    "BIT(64)": ("b'1000000000000000000000000000000000000000000000000000000000000001'", 2**63 + 1),
    "FLOAT": ("16777217.5", 16777218.0),
    "FLOAT(9,4)": ("-0.0001", struct.unpack("<f", struct.pack("<f", -0.0001))[0]),
    "DOUBLE": ("2.2250738585072014e-308", 2.2250738585072014e-308),
    "DOUBLE NULL": ("'-0'", -0.0),
    "DOUBLE NOT NULL": ("1.7976931348623157e308", 1.7976931348623157e308),
    "DECIMAL(65,30)": (f"-{'9' * 35}.{'9' * 30}", f"-{'9' * 35}.{'9' * 30}".encode()),
    "DECIMAL(8,2) ZEROFILL": ("0.5", b"0.50"),
    "DECIMAL(9,0) ZEROFILL": ("0", b"0"),
    "YEAR": ("0", b"0000"),
    "TIME(6)": ("'-838:59:59.000000'", b"-838:59:59.000000"),
    "DATETIME": ("'2020-02-31 00:00:00'", b"2020-02-31 00:00:00"),
    "TIMESTAMP(3) NULL": ("'2038-01-19 03:14:07.999'", b"2038-01-19 03:14:07.999"),
    "DATE": ("'0000-00-00'", b"0000-00-00"),
    "CHAR(4) CHARACTER SET latin1": ("'é'", b"\xe9"),
    "VARCHAR(9) CHARACTER SET utf16": ("'a😀'", "a😀".encode("utf-16-be")),
    "BINARY(3)": ("'a'", b"a\0\0"),
    "ENUM('a','é')": ("'é'", "é".encode()),
    "ENUM('a','')": ("2", b""),
    "SET('a','b','é')": ("5", "a,é".encode()),
    "SET('a','b') NOT NULL": ("0", b""),
    "SET(" + ",".join(f"'m{i}'" for i in range(64)) + ")": (str(2**63 + 1), b"m0,m63"),
    "POINT": ("ST_GeomFromText('POINT(1 2)', 4326)", None),
}


@pytest.mark.parametrize("declared", VALUES)
def test_what_the_snapshot_reads_is_canonical(declared: str, source_account: Account) -> None:
    """The text protocol's bytes of each type, through its registration (I6)."""
    literal, expected = VALUES[declared]
    if declared == "DOUBLE NULL" and source_account.server.kind == "mariadb":
        expected = 0.0  # MariaDB stores no negative zero
    source_account.server.execute(
        [
            "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'",
            f"CREATE TABLE t (id INT PRIMARY KEY, v {declared})",
            f"INSERT INTO t VALUES (1, {literal})",
        ],
        database=source_account.database,
    )
    with source_account.connect() as connection:
        (schema,) = describe_all(connection, source_account.database)
    column = schema.columns[1]
    with source_account.connect(conv={}, use_unicode=False) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION character_set_results = NULL, time_zone = '+00:00'")
        cursor.execute(f"SELECT {select_expression(column)} FROM t")
        text = cursor.fetchone()[0]
    convert = text_converter(column)
    value = convert(text) if convert else text
    if declared == "POINT":
        assert isinstance(value, bytes)
        assert value[:4] == (4326).to_bytes(4, "little")
        return
    assert (type(value), repr(value)) == (type(expected), repr(expected))
