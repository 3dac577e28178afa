"""TABLE_MAP events with all their metadata, and why the columns of an event are not those of a schema."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import Column, GeneratedColumn, Kind, TableName, TableSchema
from replicator.readers import tablemap as types
from replicator.readers.rowmatch import explain_mismatch
from replicator.readers.tablemap import ColumnMap, TableMap, parse_table_map, parse_table_name


def field(kind: int, *parts: bytes | int) -> bytes:
    body = b"".join(bytes([p]) if isinstance(p, int) else p for p in parts)
    return bytes([kind, len(body)]) + body


def strings(*values: bytes) -> bytes:
    return b"".join(bytes([len(v)]) + v for v in values)


def build(
    kinds: list[int],
    meta: bytes,
    *fields: bytes,
    schema: bytes = b"shop",
    table: bytes = b"t",
    nulls: int = 0,
) -> bytes:
    names = strings(schema) + b"\0" + strings(table) + b"\0"
    bitmap = nulls.to_bytes((len(kinds) + 7) // 8, "little")
    return (
        b"\x21\1\0\0\0\0\1\0"
        + names
        + bytes([len(kinds)])
        + bytes(kinds)
        + bytes([len(meta)])
        + meta
        + bitmap
        + b"".join(fields)
    )


def test_the_cheap_part_needs_nothing_behind_the_names() -> None:
    raw = b"xx" + build([199], b"", schema="schön".encode(), table=b"t" * 64)
    name = parse_table_name(raw, 2, len(raw))
    assert name == (b"\x21\1\0\0\0\0", "schön", "t" * 64)
    with pytest.raises(UnsupportedEvent, match=r"^schön\.t+: .*column type 199"):
        parse_table_map(raw, 2, len(raw), is_mariadb=False)


def test_everything_that_full_metadata_say() -> None:
    kinds = [
        types.LONGLONG,
        types.STRING,
        types.STRING,
        types.VARCHAR,
        types.BLOB,
        types.NEWDECIMAL,
        types.BIT,
        types.GEOMETRY,
    ]
    kinds += [types.DATETIME2, types.VECTOR, types.STRING, types.YEAR, types.JSON]
    meta = (
        b"\xf7\x01"
        + b"\xf8\x08"
        + b"\x80\x00"
        + b"\x02"
        + b"\x0c\x02"
        + b"\x05\x01"
        + b"\x04"
        + b"\x03"
        + b"\x04"
        + b"\xee\x10"
        + b"\x04"
    )
    raw = build(
        kinds,
        meta,
        field(1, 0b10100000),  # LONGLONG unsigned, DECIMAL signed, YEAR unsigned
        field(2, 45, 1, 63),  # utf8mb4, the second character column is binary
        field(4, strings(*(b"c%d" % i for i in range(13)))),
        field(5, b"\2", strings(b"p", b"q")),
        field(6, b"\1", strings(b"x")),
        field(7, 1),
        field(8, 0),
        field(10, 8, 1, 45),
        field(12, 0b11111111, 0b01111000),
        field(13, 3),
        field(99, b"of a later version"),
        nulls=0b0001000000010,
    )  # fmt: skip
    found = parse_table_map(raw, 0, len(raw), is_mariadb=False)
    assert (found.table_id, found.flags, found.primary_key, found.has_names) == (
        b"\x21\1\0\0\0\0",
        1,
        ((0, 0),),
        True,
    )
    columns = found.columns
    assert [c.type for c in columns] == [8, 247, 248, 15, 252, 246, 16, 255, 18, 242, 254, 13, 245]
    assert [c.meta for c in columns] == [0, 1, 8, 128, 2, 12 << 8 | 2, 13, 4, 3, 4, 272, 0, 4]
    assert [i for i, c in enumerate(columns) if c.nullable] == [1, 9]
    assert [i for i, c in enumerate(columns) if c.unsigned] == [0, 11]
    assert {i: c.charset for i, c in enumerate(columns) if c.charset} == {
        1: 8,
        2: 45,
        3: 45,
        4: 63,
        9: 45,
        10: 45,
    }
    assert (columns[1].labels, columns[2].labels) == ((b"x",), (b"p", b"q"))
    assert (columns[7].geometry_type, columns[9].dimension) == (1, 3)
    assert [i for i, c in enumerate(columns) if not c.visible] == [8]
    assert columns[12].name == b"c12"


def test_the_products_count_character_columns_differently() -> None:
    kinds = [types.GEOMETRY, types.STRING]
    fields = (field(7, 0), field(4, strings(b"g", b"s")))
    mysql = build(kinds, b"\x04\xfe\x03", field(3, 8), *fields)
    assert [c.charset for c in parse_table_map(mysql, 0, len(mysql), is_mariadb=False).columns] == [None, 8]
    mariadb = build(kinds, b"\x04\xfe\x03", field(3, 63, 8), *fields)
    assert [c.charset for c in parse_table_map(mariadb, 0, len(mariadb), is_mariadb=True).columns] == [63, 8]
    with pytest.raises(UnsupportedEvent):
        parse_table_map(mariadb, 0, len(mariadb), is_mariadb=False)


def test_keys_with_prefixes_and_no_names() -> None:
    raw = build([types.LONG, types.LONG], b"", field(9, 1, 0, 0, 10))
    found = parse_table_map(raw, 0, len(raw), is_mariadb=False)
    assert found.primary_key == ((1, 0), (0, 10))
    assert not found.has_names


def test_any_bytes_parse_or_are_refused() -> None:
    raw = build(
        [types.STRING, types.LONG],
        b"\xf7\x01",
        field(1, 128),
        field(4, strings(b"a", b"b")),
        field(6, b"\1", strings(b"x")),
    )
    choose = random.Random(6)
    for _ in range(5000):
        spoiled = bytearray(raw)
        spoiled[choose.randrange(len(raw))] = choose.randrange(256)
        try:
            parse_table_map(bytes(spoiled), 0, choose.randrange(len(raw) + 1), is_mariadb=False)
        except UnsupportedEvent as error:
            assert error.hint  # noqa: PT017


# --- explain_mismatch ---------------------------------------------------------------------------------------------------


def column(
    name: str, kind: Kind, source_type: str, charset: str | None = None, labels: tuple[bytes, ...] = ()
) -> Column:
    return Column(name, kind, source_type, source_type=source_type, charset=charset, labels=labels)


PAIRS = {
    "tinyint": (ColumnMap(types.TINY, 0, True), Kind.INTEGER, None),
    "int(10) unsigned": (ColumnMap(types.LONG, 0, True, True), Kind.INTEGER, None),
    "int(5) unsigned zerofill": (ColumnMap(types.LONG, 0, True, True), Kind.INTEGER, None),
    "bigint": (ColumnMap(types.LONGLONG, 0, True), Kind.INTEGER, None),
    "decimal(10,2)": (ColumnMap(types.NEWDECIMAL, 10 << 8 | 2, True), Kind.PLAIN, None),
    "decimal(10)": (ColumnMap(types.NEWDECIMAL, 10 << 8, True), Kind.PLAIN, None),
    "double(10,3)": (ColumnMap(types.DOUBLE, 8, True), Kind.DOUBLE, None),
    "datetime(3)": (ColumnMap(types.DATETIME2, 3, True), Kind.PLAIN, None),
    "datetime": (ColumnMap(types.DATETIME2, 0, True), Kind.PLAIN, None),
    "timestamp /* mariadb-5.3 */": (ColumnMap(types.TIMESTAMP, 0, True), Kind.PLAIN, None),
    "year": (ColumnMap(types.YEAR, 0, True, True), Kind.PLAIN, None),
    "bit(9)": (ColumnMap(types.BIT, 9, True), Kind.BIT, None),
    "varchar(32)": (ColumnMap(types.VARCHAR, 128, True, charset=255), Kind.TEXT, "utf8mb4"),
    "varchar(30) /*M!100301 COMPRESSED*/": (
        ColumnMap(types.VARCHAR_COMPRESSED, 31, True, charset=8),
        Kind.TEXT,
        "latin1",
    ),
    "char(3)": (ColumnMap(types.STRING, 9, True, charset=33), Kind.TEXT, "utf8mb3"),
    "binary(4)": (ColumnMap(types.STRING, 4, True, charset=63), Kind.BINARY, None),
    "text": (ColumnMap(types.BLOB, 2, True, charset=2309), Kind.TEXT, "utf8mb4"),
    "longblob": (ColumnMap(types.BLOB, 4, True, charset=63), Kind.BINARY, None),
    "json": (ColumnMap(types.JSON, 4, True), Kind.JSON, None),
    "multipolygon": (ColumnMap(types.GEOMETRY, 4, True), Kind.GEOMETRY, None),
    "uuid": (ColumnMap(types.STRING, 16, True, charset=63), Kind.PLAIN, None),
    "vector(3)": (ColumnMap(types.VECTOR, 4, True, charset=63), Kind.VECTOR, None),
}


def compare(one: ColumnMap, other: Column) -> str | None:
    table_map = TableMap(bytes(6), 1, "shop", "t", (one._replace(name=b"c"),))
    return explain_mismatch(table_map, TableSchema(TableName("shop", "t"), "t", (other,), (0,)))


@pytest.mark.parametrize("spelling", PAIRS)
def test_a_column_matches_its_own_type_and_no_other(spelling: str) -> None:
    one, kind, charset = PAIRS[spelling]
    mine = column("c", kind, spelling, charset)
    assert compare(one, mine) is None
    for other, (its, _, _) in PAIRS.items():
        if its != one:
            assert compare(its, mine) is not None, f"{spelling} takes the log of {other}"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (
            ColumnMap(types.LONG, 0, True, True),
            column("c", Kind.INTEGER, "int"),
            "unsigned in the log, int in the table",
        ),
        (
            ColumnMap(types.NEWDECIMAL, 10 << 8 | 3, True),
            column("c", Kind.PLAIN, "decimal(10,2)"),
            "decimal(10,3) in the log, decimal(10,2) in the table",
        ),
        (
            ColumnMap(types.DATETIME2, 0, True),
            column("c", Kind.PLAIN, "datetime(3)"),
            "datetime(0) in the log, datetime(3) in the table",
        ),
        (
            ColumnMap(types.STRING, 4, True, charset=63),
            column("c", Kind.BINARY, "binary(8)"),
            "binary(4) in the log, binary(8) in the table",
        ),
        (
            ColumnMap(types.VARCHAR, 30, True, charset=8),
            column("c", Kind.TEXT, "varchar(30)", "utf8mb4"),
            "latin1 in the log, utf8mb4 in the table",
        ),
        (
            ColumnMap(types.BLOB, 2, True, charset=8),
            column("c", Kind.BINARY, "blob"),
            "latin1 text in the log, blob in the table",
        ),
        (
            ColumnMap(types.BLOB, 2, True, charset=63),
            column("c", Kind.TEXT, "text", "latin1"),
            "binary in the log, latin1 in the table",
        ),
        (
            ColumnMap(types.BLOB, 2, True, charset=999),
            column("c", Kind.TEXT, "text", "latin1"),
            "collation number 999 in the log is not known to this version",
        ),
        (
            ColumnMap(types.LONGLONG, 0, True),
            column("c", Kind.INTEGER, "int"),
            "type number 8 in the log is not int",
        ),
    ],
)
def test_reasons_say_both_sides(one: ColumnMap, other: Column, reason: str) -> None:
    assert compare(one, other) == f"column c: {reason}"


def test_labels_are_compared_in_their_character_set() -> None:
    mine = column("c", Kind.ENUM, "enum('ä','ж')", "utf8mb4", ("ä".encode(), "ж".encode()))
    for charset, codec in (
        (45, "utf-8"),
        (35, "utf-16-be"),
        (56, "utf-16-le"),
        (60, "utf-32-be"),
        (248, "gb18030"),
    ):
        labels = tuple(label.encode(codec) for label in ("ä", "ж"))
        assert compare(ColumnMap(types.ENUM, 1, True, charset=charset, labels=labels), mine) is None
        swapped = ColumnMap(types.ENUM, 1, True, charset=charset, labels=labels[::-1])
        assert compare(swapped, mine) == "column c: its member 'ж' in the log is 'ä' in the table"
    longer = ColumnMap(types.ENUM, 1, True, charset=45, labels=("ä".encode(), "ж".encode(), b"z"))
    assert compare(longer, mine) == "column c: 3 members in the log, 2 in the table"


def columns_of(*names: str) -> tuple[ColumnMap, ...]:
    return tuple(ColumnMap(types.LONG, 0, True, name=name.encode()) for name in names)


def explain(logged: tuple[ColumnMap, ...], *names: str, generated: tuple[str, ...] = ()) -> str | None:
    schema = TableSchema(
        TableName("shop", "t"),
        "t",
        tuple(column(name, Kind.INTEGER, "int") for name in names),
        (0,),
        generated=tuple(GeneratedColumn(name, "int", "1", False) for name in generated),
    )
    return explain_mismatch(TableMap(bytes(6), 1, "shop", "t", logged), schema)


def test_names() -> None:
    assert explain(columns_of("a", "g", "b"), "a", "b", generated=("g",)) is None
    assert explain(columns_of("a", "b"), "a", "b", generated=("g",)) is None
    assert explain(columns_of("a", "b", "DB_ROW_HASH_1"), "a", "b") is None
    assert explain(columns_of("a", "c"), "a", "b") == "its columns changed: the log has c, the table has b"
    assert explain(columns_of("a"), "a", "b") == "its columns changed: the table has b"
    assert explain(columns_of("a", "b"), "a") == "its columns changed: the log has b"
    assert (
        explain(columns_of("b", "a"), "a", "b")
        == "its columns changed their order: b, a in the log, a, b in the table"
    )


def test_unnamed_columns_are_refused_with_the_setting() -> None:
    unnamed = tuple(one._replace(name=None) for one in columns_of("a"))
    with pytest.raises(UnsupportedEvent, match=r"^shop\.t: .*does not name") as caught:
        explain(unnamed, "a")
    assert "SET GLOBAL binlog_row_metadata=FULL" in caught.value.hint


def test_columns_may_grow_without_a_reason_to_stop() -> None:
    """What a wider column held before still fits and decodes the same."""
    one, kind, charset = PAIRS["varchar(32)"]
    assert compare(one, replace(column("c", kind, "varchar(64)", charset))) is None
