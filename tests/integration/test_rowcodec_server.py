"""Every column type through a real server's log: what the decoder makes of it is what the server itself shows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import Column, Kind, Op, Row, TableName, TableSchema, Value
from replicator.readers import binlog, collations, rowcodec, tablemap
from replicator.readers.mysql_catalog import describe
from replicator.servers import Server
from replicator.typemap.mysql import select_expression, text_converter
from tests.accounts import pick_name
from tests.rowlog import Log, show
from tests.type_zoo import describe_all, make_zoo

SQL_MODE = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO"

Columns = dict[str, list[str]]  # column definition → SQL literals


@contextlib.contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    name = pick_name()
    server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield name
    server.execute(f"DROP DATABASE {name}")


@pytest.fixture
def database(source_server: Server) -> Iterator[str]:
    with fresh_database(source_server) as name:
        yield name


def create(
    server: Server, database: str, table: str, columns: Columns, *, options: str = "", keys: str = ""
) -> None:
    definitions = ", ".join(f"c{i} {definition}" for i, definition in enumerate(columns))
    server.execute(
        f"SET SESSION sql_mode='{SQL_MODE}'; CREATE TABLE {table} (id INT PRIMARY KEY, {definitions}{keys}) {options}",
        database=database,
    )


def fill(server: Server, database: str, table: str, columns: Columns) -> None:
    """Row k holds the k-th literal of each column; the last row is NULL, where a column can be."""
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    count = max(len(literals) for literals in columns.values())
    rows = [", ".join(values[k % len(values)] for values in columns.values()) for k in range(count)]
    nulls = ["NULL" if "NOT NULL" not in d else literals[0] for d, literals in columns.items()]
    rows.append(", ".join(nulls))
    values = ", ".join(f"({k}, {row})" for k, row in enumerate(rows))
    server.execute(
        f"SET SESSION sql_mode='{SQL_MODE}', time_zone='+00:00'; INSERT INTO {table} (id, {names}) VALUES {values}",
        database=database,
    )


def schema_of(server: Server, database: str, table: str) -> TableSchema:
    with server.connect() as connection:
        return describe(connection, {TableName(database, table): table})[0]


EXPRESSIONS = {
    **dict.fromkeys((Kind.TEXT, Kind.BINARY, Kind.GEOMETRY, Kind.VECTOR), "HEX({})"),
    **dict.fromkeys((Kind.BIT, Kind.ENUM, Kind.SET), "CAST({} AS UNSIGNED)"),
    **dict.fromkeys((Kind.FLOAT, Kind.DOUBLE), "{} * 1e0"),
    Kind.JSON: "CAST({} AS CHAR)",
}


def canonical(column: Column, text: bytes) -> Value:
    """Our own reading of a server-side canonical expression."""
    if column.kind in (Kind.INTEGER, Kind.BIT):
        return int(text)
    if column.kind in (Kind.FLOAT, Kind.DOUBLE):
        return float(text)
    if EXPRESSIONS.get(column.kind) == "HEX({})":
        return bytes.fromhex(text.decode())
    number = int(text) if column.kind in (Kind.ENUM, Kind.SET) else 0
    if column.kind is Kind.ENUM:
        return column.labels[number - 1] if number else 0
    if column.kind is Kind.SET:
        return b",".join(label for i, label in enumerate(column.labels) if number >> i & 1)
    return re.sub(rb"^0+(?=\d)", b"", text) if "zerofill" in column.source_type else text


def select(server: Server, schema: TableSchema, expressions: Sequence[str]) -> list[tuple[Any, ...]]:
    with server.connect(use_unicode=False, conv={}) as connection, connection.cursor() as cursor:
        cursor.execute("SET character_set_results=NULL, time_zone='+00:00'")
        order = schema.columns[0].name
        cursor.execute(f"SELECT {', '.join(expressions)} FROM {schema.source} ORDER BY `{order}`")
        return list(cursor.fetchall())


def server_rows(server: Server, schema: TableSchema) -> list[Row]:
    expressions = [EXPRESSIONS.get(c.kind, "{}").format(f"`{c.name}`") for c in schema.columns]
    return [
        tuple(
            None if text is None else canonical(c, text) for c, text in zip(schema.columns, row, strict=True)
        )
        for row in select(server, schema, expressions)
    ]


def snapshot_rows(server: Server, schema: TableSchema) -> list[Row]:
    """As the initial load reads them (I6)."""
    converters = [text_converter(column) for column in schema.columns]
    return [
        tuple(None if t is None else t if c is None else c(t) for c, t in zip(converters, row, strict=True))
        for row in select(server, schema, [select_expression(column) for column in schema.columns])
    ]


def assert_equal(schema: TableSchema, got: Sequence[Row], expected: Sequence[Row], what: str) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        for column, a, b in zip(schema.columns, one, other, strict=True):
            assert show(a) == show(b), (
                f"{what}: {column.name} {column.source_type} of row {one[0]!r}: {a!r} != {b!r}"
            )


def check(server: Server, database: str, columns: Columns, *, options: str = "", keys: str = "") -> list[Row]:
    """Insert, update every row twice, delete: all images are what the server shows."""
    table = pick_name()
    create(server, database, table, columns, options=options, keys=keys)
    log = Log(server)
    fill(server, database, table, columns)
    schema = schema_of(server, database, table)
    expected = server_rows(server, schema)
    assert_equal(schema, log.inserted([schema])[table], expected, "insert")
    assert_equal(schema, snapshot_rows(server, schema), expected, "snapshot")
    log = Log(server)
    server.execute(
        f"UPDATE {table} SET id = id + 1000 ORDER BY id DESC; DELETE FROM {table}", database=database
    )
    changes = log.changes([schema])
    assert {c.op for c in changes} == {Op.UPDATE, Op.DELETE}
    moved = [(int(row[0]) + 1000, *row[1:]) for row in expected]  # type: ignore[arg-type]
    updates = [c for c in changes if c.op is Op.UPDATE]
    deletes = [c for c in changes if c.op is Op.DELETE]
    for images, rows in (
        ([row for c in updates for row in c.before], expected),
        ([row for c in updates for row in c.after], moved),
        ([row for c in deletes for row in c.before], moved),
    ):
        assert_equal(schema, sorted(images, key=lambda row: int(row[0])), rows, "update and delete")  # type: ignore[arg-type]
    return expected


def integer(bits: int) -> list[str]:
    return [
        str(n)
        for n in (-(1 << bits - 1), -1, 0, 1, 255, 256, (1 << bits - 1) - 1)
        if -(1 << bits - 1) <= n < 1 << bits - 1
    ]


def natural(bits: int) -> list[str]:
    return [str(n) for n in (0, 1, 127, 128, 255, 1 << bits - 1, (1 << bits) - 1)]


INTEGERS: Columns = {
    **{
        f"{name}": integer(bits)
        for name, bits in (("TINYINT", 8), ("SMALLINT", 16), ("MEDIUMINT", 24), ("INT", 32), ("BIGINT", 64))
    },
    **{
        f"{name} UNSIGNED": natural(bits)
        for name, bits in (("TINYINT", 8), ("SMALLINT", 16), ("MEDIUMINT", 24), ("INT", 32), ("BIGINT", 64))
    },
    "INT(5) ZEROFILL": ["0", "42", "4294967295"],
    "BOOLEAN": ["TRUE", "FALSE"],
    "YEAR": ["0", "'0000'", "1901", "2155", "2024"],
    **{
        f"BIT({n})": ["0", "1", f"b'{'1' * n}'", f"b'1{'0' * (n - 1)}'"]
        for n in (1, 7, 8, 9, 16, 17, 31, 33, 63, 64)
    },
}

DECIMALS: Columns = {
    "DECIMAL(65,30)": [
        f"{'9' * 35}.{'9' * 30}",
        f"-{'9' * 35}.{'9' * 30}",
        "0",
        "-0.0",
        "0.000000000000000000000000000001",
        "-1.5",
    ],
    "DECIMAL(65,0)": ["9" * 65, "-" + "9" * 65, "0", "-1", "1000000000"],
    "DECIMAL(30,30)": [f"0.{'9' * 30}", f"-0.{'9' * 30}", "0", "-0.5", "0.000000001"],
    "DECIMAL(12,2)": [
        "-0.50",
        "0.00",
        "-0.001",
        "9999999999.99",
        "-9999999999.99",
        "123456789.01",
        "1000000000",
    ],
    "DECIMAL(1,0)": ["9", "-9", "0"],
    "DECIMAL(1,1)": ["0.9", "-0.9", "0"],
    "DECIMAL(18,9) UNSIGNED": ["999999999.999999999", "0.000000001", "100000000.1"],
    "DECIMAL(8,2) ZEROFILL": ["1.5", "0", "999999.99"],
    **{
        f"DECIMAL({p},{s})": ["-" + "9" * (p - s) + "." + "8" * s, "1.1", "-10.05"]
        for p, s in ((10, 3), (20, 11), (29, 13), (40, 7), (17, 14))
    },
}

FLOATS: Columns = {
    "FLOAT": ["1.1", "-3.4028234e38", "1.1754944e-38", "1e-45", "0", "-0e0", "16777217", "0.1"],
    "DOUBLE": [
        "1.1",
        "-1.7976931348623157e308",
        "2.2250738585072014e-308",
        "5e-324",
        "0",
        "-0e0",
        "0.30000000000000004",
        "1e15",
    ],
    "FLOAT UNSIGNED": ["1.5"],
    "FLOAT(7,2)": ["-12345.67"],
    "DOUBLE(10,3)": ["-1234567.891"],
}

DATES = [
    "'1000-01-01'",
    "'9999-12-31'",
    "'0000-00-00'",
    "'2024-00-00'",
    "'2024-02-00'",
    "'2024-02-31'",
    "'0001-01-01'",
    "'2000-02-29'",
]


def temporals() -> Columns:
    found: Columns = {"DATE": DATES, "DATE NOT NULL": DATES}
    fractions = ["", ".9", ".99", ".009", ".0001", ".98765", ".000001"]
    for digits in range(7):
        f = "." + "9" * digits if digits else ""
        moments = [f"{d[:-1]} 23:59:59{f}'" for d in DATES] + [
            "'2024-06-01 00:00:00'",
            "'2024-06-01 15:59:59.1'",
            "'2024-06-01 16:00:00'",
        ]
        moments += [f"'2024-01-01 12:34:56{x}'" for x in fractions[: digits + 1]]
        found[f"DATETIME({digits})"] = moments
        found[f"TIMESTAMP({digits}) NULL"] = [
            "'1970-01-01 00:00:01'",
            f"'2038-01-19 03:14:07{f}'",
            "'0000-00-00'",
            f"'2000-02-29 23:59:59{f}'",
            *moments[-len(fractions[: digits + 1]) :],
        ]
        clocks = [
            "838:59:59",
            "-838:59:59",
            "00:00:00",
            "-00:00:01",
            "100:00:00",
            f"23:59:59{f}",
            f"-23:59:59{f}",
            f"-00:00:00{f or '.0'}",
        ]
        found[f"TIME({digits})"] = [f"'{c}'" for c in clocks] + [
            f"'-01:02:03{x}'" for x in fractions[: digits + 1]
        ]
    return found


TEXT = "_utf8mb4'é €ü   '"
STRINGS: Columns = {
    "CHAR(0)": ["''"],
    "CHAR(10) CHARACTER SET latin1": ["''", "'a  '", "_latin1 x'e9808d81'", "' x'", "'0123456789'"],
    "CHAR(255) CHARACTER SET utf8mb4": [TEXT, "repeat('😀', 255)", "''"],
    "CHAR(63) CHARACTER SET utf8mb4": ["repeat('é', 63)", "'x'"],
    "CHAR(64) CHARACTER SET utf8mb4": ["repeat('😀', 64)", "'x'"],
    "CHAR(20) CHARACTER SET utf16": ["'a  '", "'😀'", "''"],
    "CHAR(20) CHARACTER SET ucs2": ["'a  '", "'é'", "''"],
    "VARCHAR(255) CHARACTER SET latin1": ["''", "'a  '", "repeat('x', 255)", "'it''s \\\\ \\n \\0 \"'"],
    "VARCHAR(256) CHARACTER SET latin1": ["''", "repeat('x', 256)"],
    "VARCHAR(200) CHARACTER SET utf8mb3": ["'é€'", "repeat('€', 200)"],
    "VARCHAR(60) CHARACTER SET utf8mb4": ["'😀'", "repeat('😀', 60)", "''"],
    "VARCHAR(60) CHARACTER SET gbk": ["_gbk x'b0a1815c'"],
    "VARCHAR(60) CHARACTER SET sjis": ["_sjis x'83808160815c'"],
    "VARCHAR(60) CHARACTER SET utf32": ["'😀x '"],
    "BINARY(4)": ["''", "x'00000000'", "x'01000000'", "x'00000001'", "'ab'", "x'20202020'"],
    "BINARY(255)": ["''", "repeat('\\0', 255)", "repeat(x'ff', 255)", "'ab'"],
    "VARBINARY(300)": ["''", "x'0000'", "repeat(x'00', 300)", "'a  '"],
    "TINYTEXT": ["''", "repeat('x', 255)"],
    "TEXT CHARACTER SET latin1": ["''", "repeat('x', 65535)", "'a  '"],
    "MEDIUMTEXT": ["''", "repeat('é', 40000)"],
    "LONGTEXT CHARACTER SET sjis": ["''", "repeat('x', 70000)"],
    "TINYBLOB": ["''", "repeat(x'00', 255)"],
    "BLOB": ["''", "x'00ff0a0d'"],
    "MEDIUMBLOB": ["repeat(x'00', 70000)"],
    "LONGBLOB": ["''", "repeat(x'ff', 66000)"],
}  # fmt: skip

MEMBERS = ",".join(f"'m{i}'" for i in range(64))
LABELS: Columns = {
    "ENUM('a','b''c','d\\\\e','f,g','ü','','x\\ny')": ["1", "2", "3", "4", "5", "6", "7", "0"],
    "ENUM('ä','ß') CHARACTER SET latin1": ["1", "2"],
    "ENUM('ж','я') CHARACTER SET cp1251": ["1", "2"],
    "ENUM('é','€') CHARACTER SET utf16": ["1", "2"],
    f"ENUM({','.join(f'{chr(39)}e{i}{chr(39)}' for i in range(300))})": ["1", "256", "300"],
    "SET('x','y z','it''s')": ["0", "1", "7", "5"],
    "SET('é','ü') CHARACTER SET latin1": ["0", "3"],
    f"SET({MEMBERS})": ["0", "1", "18446744073709551615", "9223372036854775808", "9223372036854775809"],
    f"SET({','.join(MEMBERS.split(',')[:9])})": ["511", "256"],
    f"SET({','.join(MEMBERS.split(',')[:17])})": ["131071", "65536"],
    f"SET({','.join(MEMBERS.split(',')[:32])})": ["4294967295"],
    f"SET({','.join(MEMBERS.split(',')[:33])})": ["8589934591"],
}  # fmt: skip

SHAPES: Columns = {
    "GEOMETRY": ["ST_GeomFromText('POINT(1 2)', 4326)", "ST_GeomFromText('POLYGON((0 0,1 0,1 1,0 0))')"],
    "POINT NOT NULL": ["ST_GeomFromText('POINT(-1.5 1e300)')"],
    "CHAR(3) CHARACTER SET latin1": ["'x'"],
    "GEOMETRYCOLLECTION": ["ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))')"],
    "VARCHAR(9) CHARACTER SET utf8mb4": ["'é'"],
}

JSONS: Columns = {
    "JSON": [
        "'null'", "'[]'", "'{}'", "'\"\"'", "'{\"b\": 1, \"a\": [1, -1, 1.0, 1e20, 1e-20, true, false, null]}'",
        "'[18446744073709551615, -9223372036854775808, 18446744073709551616, 0.1, -0.0, 1e15, 123456789012345680]'",
        f"'{'[' * 30}1{']' * 30}'", "'\"\\\\u0000\\\\u001f\\\\ud83d\\\\ude00 \\\\\" \\\\\\\\ / \\\\t\"'",
        "CONCAT('[\"', repeat('é', 40000), '\", 70000, -70000, 5, 1.5]')",
    ]
}  # fmt: skip
OPAQUE: Columns = {
    "JSON": [
        f"'{'[' * 99}1{']' * 99}'", f"""'{'{"a": ' * 99}1{'}' * 99}'""",
        "JSON_ARRAY(CAST(1.50 AS DECIMAL(5,2)), -0.5, CAST(-99999999999999999999.123 AS DECIMAL(65,30)))",
        "JSON_ARRAY(DATE'2024-01-02', TIME'-838:59:59', TIMESTAMP'2024-01-02 03:04:05.678901')",
        "JSON_ARRAY(CAST('-00:00:00.5' AS TIME(1)), CAST('0000-00-00' AS DATE))",
        "JSON_ARRAY(x'00ff', b'101', CAST(repeat('a', 300) AS BINARY), CAST('' AS BINARY))",
        "JSON_OBJECT('g', ST_GeomFromText('POINT(1 2)'), 'y', CAST(2024 AS YEAR))",
    ]
}  # fmt: skip


@pytest.mark.parametrize(
    "columns",
    [INTEGERS, DECIMALS, FLOATS, temporals(), STRINGS, LABELS, SHAPES, JSONS],
    ids=["integers", "decimals", "floats", "temporals", "strings", "labels", "shapes", "json"],
)
def test_extremes_decode_as_the_server_shows_them(
    source_server: Server, database: str, columns: Columns
) -> None:
    check(source_server, database, columns)


def test_json_values_of_other_types_read_as_the_server_prints_them(mysql_source: Server) -> None:
    with fresh_database(mysql_source) as database:
        check(mysql_source, database, OPAQUE)


MARIADB_ONLY: Columns = {
    "UUID": [
        "'00000000-0000-0000-0000-000000000000'",
        "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        *(f"'00112233-4455-{version}677-{variant}899-aabbccddee00'" for version in "0123456789abcdef" for variant in "8b0f"),
        "'6ccd780c-baba-1026-9564-5b8c656024db'",
    ],
    "INET4": ["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'", "'1.2.3.4'"],
    "INET6": [
        "'::'", "'::1'", "'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'", "'::ffff:1.2.3.4'", "'::1.2.3.4'", "'::2:3'",
        "'1::'", "'1:0:0:2::3'", "'1:0:2:0:3:0:4:0'", "'2001:db8::'", "'1:0:0:2:0:0:0:3'", "'::ffff:0:0'", "'0:1::'",
        "'::0.0.1.0'", "'::ffff'", "'::1:0'", "'1:2:3:4:5:6:7:0'", "'0:2:3:4:5:6:7:8'", "'fe80::a:0:0:b'",
    ],
    "VARCHAR(3000) COMPRESSED CHARACTER SET latin1": ["''", "'a'", "repeat('a', 100)", "repeat('b', 3000)"],
    "VARCHAR(200) COMPRESSED": ["''", "repeat('é', 200)"],
    "TEXT COMPRESSED": ["''", "repeat('é', 300)", "'short'"],
    "LONGBLOB COMPRESSED": ["''", "repeat(x'00', 70000)"],
    "VARBINARY(300) COMPRESSED": ["''", "repeat('d', 290)", "x'00'"],
}  # fmt: skip


@pytest.mark.parametrize("wrap", ["OFF", "ON"])
def test_mariadbs_own_types_decode_as_it_shows_them(mariadb_source: Server, wrap: str) -> None:
    mariadb_source.execute(f"SET GLOBAL column_compression_zlib_wrap = {wrap}")
    with fresh_database(mariadb_source) as database:
        check(mariadb_source, database, MARIADB_ONLY)
    mariadb_source.execute("SET GLOBAL column_compression_zlib_wrap = DEFAULT")


@contextlib.contextmanager
def old_temporal_formats(server: Server) -> Iterator[None]:
    server.execute("SET GLOBAL mysql56_temporal_format = OFF")
    yield
    server.execute("SET GLOBAL mysql56_temporal_format = DEFAULT")


def test_temporal_formats_from_before_5_6(mariadb_source: Server) -> None:
    columns = {d: v for d, v in temporals().items() if "(0)" in d or "DATE" in d.split()}
    assert len(columns) == 5
    with old_temporal_formats(mariadb_source), fresh_database(mariadb_source) as database:
        check(mariadb_source, database, {d.replace("(0)", ""): v for d, v in columns.items()})


@pytest.mark.parametrize("kind", ["TIME(3)", "DATETIME(6)", "TIMESTAMP(1) NULL"])
def test_mariadbs_old_fractions_are_refused_by_name(mariadb_source: Server, kind: str) -> None:
    with old_temporal_formats(mariadb_source), fresh_database(mariadb_source) as database:
        create(mariadb_source, database, "t", {kind: []})
        log = Log(mariadb_source)
        fill(mariadb_source, database, "t", {kind: ["'2024-01-01 01:02:03'"]})
        schema = schema_of(mariadb_source, database, "t")
        with pytest.raises(
            UnsupportedEvent, match=rf"{database}\.t\.c0: a column of type (time|datetime|timestamp)\("
        ):
            log.changes([schema])


def test_vectors(mysql_source: Server) -> None:
    columns = {
        "VECTOR(3)": ["TO_VECTOR('[1,-2.5,3e38]')", "x'000000000000000000000000'"],
        "CHAR(3) CHARACTER SET latin1": ["'x'"],
        "VECTOR": ["TO_VECTOR('[1]')"],
        "VARCHAR(3) CHARACTER SET utf16": ["'x'"],
    }
    with fresh_database(mysql_source) as database:
        check(mysql_source, database, columns)


def test_generated_and_invisible_columns(source_server: Server, database: str) -> None:
    source_server.execute(
        "CREATE TABLE t (v0 INT GENERATED ALWAYS AS (a + 1) VIRTUAL, a INT PRIMARY KEY,"
        " s0 VARCHAR(60) GENERATED ALWAYS AS (CONCAT(b, '!')) STORED, b VARCHAR(20), hidden INT INVISIBLE DEFAULT 5,"
        " s1 DECIMAL(9,1) GENERATED ALWAYS AS (a * 2) STORED, d DATE,"
        " v1 VARCHAR(9) GENERATED ALWAYS AS (LEFT(b, 2)) VIRTUAL, KEY (v0))",
        database=database,
    )
    schema = schema_of(source_server, database, "t")
    assert [column.name for column in schema.columns] == ["a", "b", "hidden", "d"]
    log = Log(source_server)
    source_server.execute(
        "INSERT INTO t (a, b, d) VALUES (1, 'one', '2024-01-01'), (2, NULL, NULL); UPDATE t SET b = 'uno' WHERE a = 1;"
        "DELETE FROM t WHERE a = 2",
        database=database,
    )
    inserts, update, delete = log.changes([schema])
    one = (1, b"one", 5, b"2024-01-01")
    assert inserts.after == [one, (2, None, 5, None)]
    assert (update.before, update.after) == ([one], [(1, b"uno", 5, b"2024-01-01")])
    assert (delete.before, delete.after) == ([(2, None, 5, None)], ())


def test_functional_indexes_and_generated_keys_add_no_columns(mysql_source: Server) -> None:
    with fresh_database(mysql_source) as database:
        mysql_source.execute(
            "SET SESSION sql_generate_invisible_primary_key = ON;"
            "CREATE TABLE t (a INT, j JSON, KEY f ((a + 1)), KEY m ((CAST(j->'$' AS UNSIGNED ARRAY))))",
            database=database,
        )
        log = Log(mysql_source)
        mysql_source.execute("INSERT INTO t VALUES (7, '[1, 2]'), (8, NULL)", database=database)
        schema = schema_of(mysql_source, database, "t")
        assert log.inserted([schema])["t"] == [(1, 7, b"[1, 2]"), (2, 8, None)]


@pytest.mark.parametrize("count", [7, 8, 9, 16, 17, 31, 64, 65, 250, 251, 300])
def test_any_number_of_columns(source_server: Server, database: str, count: int) -> None:
    columns: Columns = {}
    for i in range(count - 1):
        literals = ["NULL", str(i), "NULL"] if i % 3 else [str(i)]
        columns[f"{('INT', 'TINYINT UNSIGNED', 'VARCHAR(9)')[i % 3]} COMMENT '{i}'"] = [
            x[-2:] if x != "NULL" else x for x in literals
        ]
    check(source_server, database, columns)


def test_partitioned_tables(source_server: Server, database: str) -> None:
    check(
        source_server,
        database,
        {"INT": ["1", "2"], "TEXT": ["'a'"]},
        options="PARTITION BY HASH (id) PARTITIONS 3",
    )


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_images_that_are_not_full_are_refused(source_server: Server, database: str, image: str) -> None:
    source_server.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT); INSERT INTO t VALUES (1, 1, 'x')",
        database=database,
    )
    schema = schema_of(source_server, database, "t")
    log = Log(source_server)
    source_server.execute(f"SET SESSION binlog_row_image = {image}; UPDATE t SET a = 2", database=database)
    with pytest.raises(UnsupportedEvent, match=r"\.t: a row image without column (a|b)") as caught:
        log.changes([schema])
    assert "binlog_row_image=FULL" in caught.value.hint


def test_partial_json_is_refused(mysql_source: Server) -> None:
    with fresh_database(mysql_source) as database:
        mysql_source.execute(
            "CREATE TABLE t (id INT PRIMARY KEY, j JSON);"
            " INSERT INTO t VALUES (1, JSON_OBJECT('a', repeat('x', 1000), 'b', 1))",
            database=database,
        )
        schema = schema_of(mysql_source, database, "t")
        log = Log(mysql_source)
        mysql_source.execute(
            "SET SESSION binlog_row_value_options = PARTIAL_JSON; UPDATE t SET j = JSON_SET(j, '$.b', 2)",
            database=database,
        )
        with pytest.raises(UnsupportedEvent, match=r"\.t: .*parts of JSON") as caught:
            log.changes([schema])
        assert "binlog_row_value_options" in caught.value.hint


def test_rows_without_column_names_are_refused(source_server: Server, database: str) -> None:
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=database)
    schema = schema_of(source_server, database, "t")
    default = "NO_LOG" if source_server.kind == "mariadb" else "MINIMAL"
    source_server.execute(f"SET GLOBAL binlog_row_metadata = {default}")
    try:
        log = Log(source_server)
        source_server.execute("INSERT INTO t VALUES (1)", database=database)
        with pytest.raises(UnsupportedEvent, match=r"\.t: .*does not name") as caught:
            log.changes([schema])
        assert "binlog_row_metadata=FULL" in caught.value.hint
    finally:
        source_server.execute("SET GLOBAL binlog_row_metadata = FULL")


def test_compressed_transactions(mysql_source: Server) -> None:
    with fresh_database(mysql_source) as database:
        columns: Columns = {"VARCHAR(200)": ["repeat('x', 200)"], "INT": [str(i) for i in range(3000)]}
        create(mysql_source, database, "t", columns)
        log = Log(mysql_source)
        mysql_source.execute("SET GLOBAL binlog_transaction_compression = ON")
        fill(mysql_source, database, "t", columns)
        mysql_source.execute("SET GLOBAL binlog_transaction_compression = OFF")
        schema = schema_of(mysql_source, database, "t")
        assert binlog.TRANSACTION_PAYLOAD in {event.type for event in log.events(unpacked=False)}
        assert_equal(schema, log.inserted([schema])["t"], server_rows(mysql_source, schema), "payload")


def test_compressed_rows_and_statements(mariadb_source: Server) -> None:
    with fresh_database(mariadb_source) as database:
        mariadb_source.execute("SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10")
        try:
            log = Log(mariadb_source)
            check(mariadb_source, database, {"VARCHAR(200)": ["repeat('x', 200)", "'y'"], "INT": ["5", "6"]})
        finally:
            mariadb_source.execute(
                "SET GLOBAL log_bin_compress = OFF; SET GLOBAL log_bin_compress_min_len = DEFAULT"
            )
        events = list(log.events())
        assert {166, 167, 168} <= {event.type for event in events}
        queries = [
            binlog.parse_query_compressed(*e.place)
            for e in events
            if e.type == binlog.MARIADB_QUERY_COMPRESSED
        ]
        assert any(query.statement.startswith(b"CREATE TABLE") for query in queries)


def test_labels_beyond_the_catalogs_character_set_are_told(source_server: Server, database: str) -> None:
    """information_schema is utf8mb3 and shows such a label as '?': the log knows better."""
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, e ENUM('a', '😀'))", database=database)
    schema = schema_of(source_server, database, "t")
    log = Log(source_server)
    source_server.execute("INSERT INTO t VALUES (1, 2)", database=database)
    (event,) = [e for e in log.events() if e.type == binlog.TABLE_MAP]
    table_map = tablemap.parse_table_map(*event.place, is_mariadb=source_server.kind == "mariadb")
    assert (
        rowcodec.explain_mismatch(table_map, schema)
        == "column e: its member '😀' in the log is '?' in the table"
    )


def test_mariadbs_hidden_column_of_a_long_unique_index(mariadb_source: Server) -> None:
    columns = {"TEXT": ["'a'", "'b'"], "INT": ["1"], "VARCHAR(3000) CHARACTER SET utf8mb4": ["'x'", "'y'"]}
    with fresh_database(mariadb_source) as database:
        check(mariadb_source, database, columns, keys=", UNIQUE (c0), UNIQUE (c2)")


ZOO_VALUES = {
    "shapes": "(p) VALUES (ST_GeomFromText('POINT(1 1)'))",
    "modern": "(id, p) VALUES (1, ST_GeomFromText('POINT(1 1)', 4326))",
}


def test_no_column_of_the_zoo_looks_like_another(source_server: Server, database: str) -> None:
    """The catalog's schemas match the log's table maps, with every default, index, collation and key there is."""
    make_zoo(source_server, database)
    with source_server.connect() as connection:
        schemas = describe_all(connection, database, skip=("versioned",))
    log = Log(source_server)
    for schema in schemas:
        table = schema.source.table
        values = ZOO_VALUES.get(table) if table == "shapes" or source_server.kind == "mysql" else None
        source_server.execute(
            f"SET SESSION sql_mode='', foreign_key_checks=0; INSERT INTO {table} {values or '() VALUES ()'}",
            database=database,
        )
    rows = log.inserted(schemas)
    for schema in schemas:
        assert_equal(
            schema, rows[schema.source.table], server_rows(source_server, schema), str(schema.source)
        )


def test_every_collation_of_the_server_is_known(source_server: Server) -> None:
    table = "COLLATIONS" if source_server.kind == "mysql" else "COLLATION_CHARACTER_SET_APPLICABILITY"
    listed = source_server.execute(f"SELECT ID, CHARACTER_SET_NAME FROM information_schema.{table}")
    assert len(listed) > 200
    for number, charset in listed:
        assert collations.charset_of(number) == ("utf8mb3" if charset == "utf8" else charset)
