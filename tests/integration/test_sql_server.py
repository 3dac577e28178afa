"""Rendered values, statements and plans on a real target: exact, no warnings, no scans (SEMANTICS §5.7, §6, §9)."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from replicator.errors import DataError
from replicator.model import Column, Kind, Op, Row, TableName, TableSchema, UniqueKey, Value
from replicator.plan import Action, PlanSettings, Step, build_edges, build_plan
from replicator.plan.fold import DOUBT, build_fold, is_plain_collation
from replicator.session import Session
from replicator.sql import Limits, Packet, build_load, build_packets, quote_bytes, quote_text
from replicator.sql.literal import find_zero
from replicator.sql.names import quote_name
from tests.accounts import Account
from tests.reference import DDL_TYPES, build_tables, choose_orders, choose_rules, join_blocks, run_program
from tests.targets import build_endpoint

ALL_BYTES = bytes(range(256))


@pytest.fixture
def session(target_account: Account) -> Iterator[Session]:
    with Session.connect(build_endpoint(target_account), loads=True) as session:
        yield session


def build_limits(session: Session) -> Limits:
    """What this target takes; a LOAD wherever one can be."""
    capabilities = session.capabilities
    return Limits(capabilities.max_allowed_packet, capabilities.local_infile, load_rows=1)


def run(session: Session, steps: Sequence[Step], limits: Limits | None = None) -> None:
    for packet in build_packets(steps, limits or build_limits(session)):
        explain(session, packet)
        assert len(session.run(packet.sql, packet.body)) == len(packet.results)


def explain(session: Session, packet: Packet) -> None:
    """No statement may scan the target: not even a table of three rows (SEMANTICS §5.7)."""
    for statement in packet.results:
        if (
            statement is None
            or statement.table is None
            or statement.sql.startswith(b"LOAD")
            or statement.op is Op.TRUNCATE
        ):
            continue
        rows = session.run(b"EXPLAIN FORMAT=TRADITIONAL " + statement.sql)[-1].rows or ()
        found = [row for row in rows if row[2] in (statement.table.target, "t") and row[1] != "INSERT"]
        reads = not statement.sql.startswith(b"INSERT") or b") SELECT n." in statement.sql[:1000]
        # One row that is not there is found out while the statement is optimized: no table is read, none is shown.
        absent = any("no matching row in const table" in str(row[-1]) for row in rows)
        is_resolved = all(row[2] is None for row in rows if row[1] != "INSERT")
        assert found or absent or is_resolved or not reads, (statement.sql[:300], rows)
        for row in found:
            assert row[4] in ("const", "eq_ref", "range"), (statement.sql[:300], row)
            assert row[6] is not None


# --- values --------------------------------------------------------------------------------------------------------


def point(srid: int) -> bytes:
    return struct.pack("<IBIdd", srid, 1, 1, 1.5, -2.25)


def text_values(charset: str) -> list[bytes]:
    """Every byte that is a character of its own there, and those characters that hold our special bytes."""
    if charset in ("utf16", "ucs2"):
        parts = [struct.pack(">H", code) for code in [*range(256), 0x1D1E, 0x1F27, 0x5C27, 0x4E2D]]
    elif charset == "utf32":
        parts = [struct.pack(">I", code) for code in [*range(256), 0x1D1E, 0x1F27, 0x5C27, 0x4E2D]]
    elif charset in ("latin1", "cp1251"):
        parts = [bytes([code]) for code in range(256) if charset == "latin1" or code != 0x98]
    else:
        wide = {
            "utf8mb4": ["é".encode(), "漢".encode(), "😀".encode()],
            "utf8mb3": ["é".encode(), "漢".encode()],
            "gbk": [b"\x81\x5c", b"\xc4\x5c", b"\xd6\xd0"],
            "sjis": [b"\x83\x5c", b"\x95\x5c", b"\x82\xa0", b"\xb1"],
        }
        parts = [bytes([code]) for code in range(128)] + wide.get(charset, [])
    return [*parts, b"".join(parts), b""]


def text(charset: str, collation: str, kind: str = "TEXT") -> tuple[Column, list[Value]]:
    column = Column("v", Kind.TEXT, f"{kind} COLLATE {collation}", charset=charset, collation=collation)
    return column, list(text_values(charset))


JSON_KEYS = [
    *(
        "",
        "a",
        '"',
        "\\",
        "'",
        ".",
        "*",
        "**",
        "$",
        "[0]",
        " a ",
        "\\u0000",
        "\0\n\t\x1f\x7f",
        "é漢😀",
        "a`b",
        "k" * 300,
    ),
    *('\\"', '"\\', '\\\\"."b', "'); --", "%d %b", "\u2028", "1", "e\u0301", "É"),
]


FRAGILE = [
    *(
        "12.50",
        "1.00",
        "-0.10",
        "0.00",
        "18446744073709551616",
        "-9223372036854775809",
        "-99999999999999999999.123",
    ),
    *("1234567890123456.5", "12345678901234.567890", "0.0000000000000001", "1" + "0" * 20, "1." + "0" * 30),
    *("0." + "0" * 29 + "1", "9" * 65, "-" + "9" * 35 + "." + "9" * 30, "0." + "9" * 30),
]
KEPT = [
    "12.5",
    "0.1",
    "1e20",
    "1.5e-20",
    "-0.0",
    "1e15",
    "18446744073709551615",
    "-9223372036854775808",
    "0.0",
]
KEPT += ["0.30000000000000004"]


def json_with_decimals() -> list[Value]:
    """Decimals that read again as doubles of another text, at every kind of place, and documents without any between."""
    # A document's keys are in order of length, then bytes.
    keys = sorted({key.encode() for key in JSON_KEYS}, key=lambda key: (len(key), key))
    quoted = [json.dumps(key.decode(), ensure_ascii=False) for key in keys]
    texts = [
        *FRAGILE,
        f"[{', '.join(FRAGILE)}]",
        f"[{', '.join(n + ', ' + k for n, k in zip(FRAGILE, [*KEPT, *KEPT], strict=False))}]",
        f"{{{', '.join(f'{key}: {n}.50' for n, key in enumerate(quoted))}}}",
        f"{{{', '.join(f'{key}: {{{key}: [{n}, {{{key}: {n}.10}}]}}' for n, key in enumerate(quoted))}}}",
        "[" * 99 + "1.50" + "]" * 99,
        '{"a": ' * 99 + "1.50" + "}" * 99,
        '[[], {}, [[]], [{}, "1.50", 2.50, null, true], "x, 3.50, \\"", [1.50, [2.50]]]',
        '["1.50", " 2.50, ", "a: 3.50", "\\\\", "[4.50]", 5.5]',
        f"[{', '.join(f'{n}.50' for n in range(3000))}]",
        f"[{', '.join(KEPT)}]",
        '{"a": "1.50", "b": 12.5}',
    ]
    return [text.encode() for text in texts]


LABELS = (b"a", b"0", b"", b"'\\", "é".encode())
LATIN_LABELS = (b"a", b"\x1e\x1f", b"caf\xe9")

CASES: dict[str, tuple[Column, list[Value]]] = {
    "bigint": (Column("v", Kind.INTEGER, "bigint"), [0, -1, -(2**63), 2**63 - 1]),
    "bigint unsigned": (Column("v", Kind.INTEGER, "bigint unsigned"), [0, 1, 2**63, 2**64 - 1]),
    "bit 1": (Column("v", Kind.BIT, "bit(1)"), [0, 1]),
    "bit 64": (Column("v", Kind.BIT, "bit(64)"), [0, 1, 49, 2**63, 2**64 - 1]),
    "float": (
        Column("v", Kind.FLOAT, "float"),
        [0.0, -0.0, 1.5, 0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45, 16777216.0],
    ),
    "double": (
        Column("v", Kind.DOUBLE, "double"),
        [0.0, -0.0, 0.1, 1e22, 1.7976931348623157e308, 5e-324, 123456789012345680.0, -1e-7],
    ),
    "decimal": (
        Column("v", Kind.PLAIN, "decimal(65,30)"),
        [b"0." + b"0" * 30, b"-" + b"9" * 35 + b"." + b"9" * 30, b"12345678901234567890." + b"0" * 29 + b"1"],
    ),
    "datetime": (
        Column("v", Kind.PLAIN, "datetime(6)"),
        [b"0000-00-00 00:00:00.000000", b"2020-02-31 01:02:03.000004", b"9999-12-31 23:59:59.999999"],
    ),
    "timestamp": (
        Column("v", Kind.PLAIN, "timestamp(6)"),
        [b"0000-00-00 00:00:00.000000", b"1970-01-01 00:00:01.000001", b"2038-01-19 03:14:07.999999"],
    ),
    "date": (Column("v", Kind.PLAIN, "date"), [b"0000-00-00", b"2020-00-00", b"2020-02-31", b"9999-12-31"]),
    "time": (
        Column("v", Kind.PLAIN, "time(6)"),
        [b"-838:59:59.000000", b"838:59:59.000000", b"-00:00:00.000001"],
    ),
    "year": (Column("v", Kind.PLAIN, "year"), [b"0000", b"1901", b"2155", b"2000"]),
    "varbinary": (
        Column("v", Kind.BINARY, "varbinary(600)"),
        [ALL_BYTES, b"", b"ab\0\0", ALL_BYTES[::-1] * 2],
    ),
    "single bytes": (Column("v", Kind.BINARY, "longblob"), [bytes([code]) for code in ALL_BYTES]),
    "binary": (Column("v", Kind.BINARY, "binary(4)"), [b"ab\0\0", b"\x1d\x1e\x1f'", b"\\N\r\n"]),
    "longblob": (Column("v", Kind.BINARY, "longblob"), [ALL_BYTES * 9000, b""]),
    "json": (
        Column("v", Kind.JSON, "json"),
        [
            '{"a": 1, "b\\n": "\\u0000漢\\\\"}'.encode(),
            b"null",
            b"18446744073709551615",
            b'"\'"',
            b"[1.5, -0.0]",
        ],
    ),
    "json decimals": (Column("v", Kind.JSON, "json"), json_with_decimals()),
    "geometry": (Column("v", Kind.GEOMETRY, "geometry"), [point(0), point(4326)]),
    "point srid": (Column("v", Kind.GEOMETRY, "point srid 4326", srid=4326), [point(4326)]),
    "vector": (
        Column("v", Kind.VECTOR, "vector(3)"),
        [struct.pack("<3f", 1.5, -0.0, 1e-40), b"\x1d\x1e\x1f'" + struct.pack("<2f", 1, 2)],
    ),
    "enum": (
        Column("v", Kind.ENUM, "enum('a','0','','''\\\\','é')", charset="utf8mb4", labels=LABELS),
        [*LABELS, 0],
    ),
    "enum latin1": (
        Column(
            "v",
            Kind.ENUM,
            "enum('a','\x1e\x1f','café') charset latin1",
            charset="latin1",
            labels=LATIN_LABELS,
        ),
        [*LATIN_LABELS, 0],
    ),
    "enum wider": (
        Column(
            "v",
            Kind.ENUM,
            "enum('a','\x1e\x1f','café') collate utf8mb4_bin",
            charset="latin1",
            collation="utf8mb4_bin",
            labels=LATIN_LABELS,
        ),
        [*LATIN_LABELS, 0],
    ),
    "enum utf16": (
        Column(
            "v",
            Kind.ENUM,
            "enum('a','0') charset utf16",
            charset="utf16",
            labels=("a".encode("utf-16-be"), b"\x000"),
        ),
        ["a".encode("utf-16-be"), b"\x000", 0],
    ),
    "set": (
        Column("v", Kind.SET, "set('a','b','é')", charset="utf8mb4", labels=(b"a", b"b", "é".encode())),
        [b"", b"a", b"a,b", "a,b,é".encode()],
    ),
    "utf8mb4": text("utf8mb4", "utf8mb4_0900_ai_ci"),
    "utf8mb3": text("utf8mb3", "utf8mb3_general_ci"),
    "utf8mb3 to utf8mb4": text("utf8mb3", "utf8mb4_general_ci"),
    "ascii to utf8mb4": text("ascii", "utf8mb4_bin"),
    "ascii to utf16": text("ascii", "utf16_bin"),
    "latin1": text("latin1", "latin1_swedish_ci"),
    "latin1 to utf8mb4": text("latin1", "utf8mb4_0900_bin"),
    "cp1251 to utf8mb4": text("cp1251", "utf8mb4_0900_bin"),
    "utf16": text("utf16", "utf16_general_ci"),
    "ucs2": text("ucs2", "ucs2_general_ci"),
    "ucs2 to utf8mb4": text("ucs2", "utf8mb4_0900_bin"),
    "utf32": text("utf32", "utf32_general_ci"),
    "gbk": text("gbk", "gbk_chinese_ci"),
    "gbk to utf8mb4": text("gbk", "utf8mb4_0900_bin"),
    "sjis": text("sjis", "sjis_japanese_ci"),
    "sjis varchar": text("sjis", "sjis_japanese_ci", "VARCHAR(400)"),
}


def make_table(session: Session, column: Column) -> TableSchema:
    session.run(b"DROP TABLE IF EXISTS t")
    null = b"" if "srid" in column.type else b" NULL"
    session.run(b"CREATE TABLE t (id INT PRIMARY KEY, v %b%b, z INT NOT NULL)" % (column.type.encode(), null))
    columns = (
        Column("id", Kind.INTEGER, "int", nullable=False),
        column,
        Column("z", Kind.INTEGER, "int", False),
    )
    return TableSchema(TableName("s", "t"), "t", columns, (0,), (UniqueKey("PRIMARY", (0,)),))


def expected(column: Column, value: Value) -> bytes | None:
    """The server's own canonical bytes: HEX(v) of text and bytes, v of the rest."""
    if value is None:
        return None
    if column.kind in (Kind.FLOAT, Kind.DOUBLE):
        return struct.pack(">d", value)
    if column.kind is Kind.ENUM:
        return b"%d" % (column.labels.index(value) + 1 if isinstance(value, bytes) else 0)
    if isinstance(value, int):
        return b"%d" % value
    assert isinstance(value, bytes)
    return value


def read(session: Session, column: Column) -> list[tuple[int, bytes | None]]:
    """What is stored, by SQL that shares nothing with how it was written."""
    kind = column.kind
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        rows = session.query("SELECT id, CONCAT(v * 1e0), CONCAT(v) FROM t WHERE z=7 ORDER BY id")
        return [
            (at, None if v is None else struct.pack(">d", _signed(float(v), sign))) for at, v, sign in rows
        ]
    if kind is Kind.TEXT:
        select = f"HEX(CONVERT(v USING {column.charset}))"
    elif kind in (Kind.INTEGER, Kind.BIT, Kind.ENUM):
        select = (
            "HEX(CAST(v + 0 AS CHAR))" if kind is not Kind.ENUM else "HEX(CAST(CAST(v AS UNSIGNED) AS CHAR))"
        )
    else:
        select = (
            "HEX(CONVERT(CAST(v AS CHAR) USING utf8mb4))"
            if kind in (Kind.PLAIN, Kind.JSON, Kind.SET)
            else "HEX(v)"
        )
    rows = session.query(f"SELECT id, {select} FROM t WHERE z=7 ORDER BY id")
    return [(at, None if text is None else bytes.fromhex(text)) for at, text in rows]


def _signed(value: float, text: str) -> float:
    return -0.0 if value == 0 and text.startswith("-") else value


@pytest.mark.parametrize("name", CASES)
def test_values_arrive_exactly_by_every_statement(name: str, session: Session) -> None:
    """Each value by LOAD, INSERT, UPDATE JOIN (in two orders, since VALUES takes its types from all rows) and MERGE."""
    column, values = CASES[name]
    table = make_table(session, column)
    if "srid" not in column.type:
        values = [*values, None]
    rows: list[Row] = [(at, value, 7) for at, value in enumerate(values)]
    want = [(at, expected(column, value)) for at, value in enumerate(values)]
    blank: list[Row] = [(at, values[0], 0) for at in range(len(values))]

    limits = build_limits(session)

    def check(steps: list[Step], limits: Limits = limits) -> None:
        run(session, steps, limits)
        assert read(session, column) == want
        session.run(b"DELETE FROM t")

    load = [Step(table, Action.INSERT, rows, independent=True)]
    assert [packet.body is not None for packet in build_packets(load, limits)] == [limits.local_infile]
    check(load)
    check(load, replace(limits, local_infile=False))
    for order in (rows, rows[::-1]):
        check([Step(table, Action.INSERT, blank), Step(table, Action.UPDATE, order)])
    check([Step(table, Action.INSERT, blank[::2]), Step(table, Action.MERGE, rows, careful=True)])
    moved = [Step(table, Action.INSERT, [(-1 - at, values[0], 0) for at in range(len(rows))])]
    check([*moved, Step(table, Action.UPDATE_KEY, rows, [(-1 - at,) for at in range(len(rows))])])
    for row in rows:  # alone, its type is the column's whole type
        run(
            session, [Step(table, Action.INSERT, [(row[0], values[0], 0)]), Step(table, Action.UPDATE, [row])]
        )
    assert read(session, column) == want


def test_labels_that_are_numbers_leave_room_for_the_invalid_value() -> None:
    column = Column("v", Kind.ENUM, "enum", charset="utf8mb4", labels=(b"0", b"00", "０００".encode()))
    assert find_zero(column) == b"0000"


def test_null_and_what_looks_like_it_differ(session: Session) -> None:
    table = make_table(
        session, Column("v", Kind.TEXT, "text", charset="utf8mb4", collation="utf8mb4_0900_ai_ci")
    )
    values = [None, b"", b"NULL", b"N", b"\\N", b"\x1dN", b"\x1d", b"\n", b"\x1e\x1f\x1d", b"'\x1a\0"]
    run(session, [Step(table, Action.INSERT, [(at, v, 7) for at, v in enumerate(values)], independent=True)])
    assert [value for _, value in read(session, table.columns[1])] == values


def test_quoted_names_texts_and_bytes_come_back(session: Session) -> None:
    value = 'it\'s `a` \\ "name" \0 \n \x1a 漢 😀 ;--'
    sql = b"SELECT %b, HEX(%b) AS %b" % (quote_text(value), quote_bytes(ALL_BYTES), quote_name("a`b"))
    assert session.run(sql)[-1].rows == ((value, ALL_BYTES.hex().upper()),)


# --- keys ----------------------------------------------------------------------------------------------------------

KEYS: dict[str, tuple[Column, list[Value]]] = {
    name: CASES[name]
    for name in (
        "bigint",
        "bigint unsigned",
        "bit 64",
        "decimal",
        "datetime",
        "timestamp",
        "date",
        "time",
        "year",
    )
}
KEYS |= {
    "float": (Column("v", Kind.FLOAT, "float"), [0.0, 0.10000000149011612, 3.4028234663852886e38]),
    "double": (Column("v", Kind.DOUBLE, "double"), [0.0, 0.1, 5e-324, 1e22]),
    "varbinary": (Column("v", Kind.BINARY, "varbinary(256)"), [ALL_BYTES, b"", b"ab\0"]),
    "binary": CASES["binary"],
    "set": CASES["set"],
    "enum": (
        Column("v", Kind.ENUM, "enum('a','0','é')", charset="utf8mb4", labels=(b"a", b"0", "é".encode())),
        [b"a", b"0", "é".encode(), 0],
    ),
}
for _charset, _collation in (
    *(("utf8mb4", "utf8mb4_0900_ai_ci"), ("utf8mb4", "utf8mb4_bin"), ("utf8mb3", "utf8mb4_unicode_ci")),
    *(("latin1", "latin1_swedish_ci"), ("latin1", "utf8mb4_0900_as_cs"), ("gbk", "gbk_chinese_ci")),
    *(
        ("utf16", "utf16_general_ci"),
        ("ascii", "ascii_bin"),
        ("sjis", "utf8mb4_0900_bin"),
        ("utf8mb3", "utf8mb3_bin"),
    ),
):
    _codec = {"utf16": "utf-16-be", "gbk": "gbk", "sjis": "shift_jis", "latin1": "latin-1"}.get(
        _charset, "utf-8"
    )
    KEYS[f"{_charset} as {_collation}"] = (
        Column("v", Kind.TEXT, f"varchar(40) COLLATE {_collation}", charset=_charset, collation=_collation),
        [word.encode(_codec) for word in ("a", "zebra's \\", "\x1d\x1e\x1fq", "")],
    )


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("name", KEYS)
def test_keys_of_every_kind_are_found_by_their_index(name: str, width: int, session: Session) -> None:
    """UPDATE, key change, MERGE and DELETE match exactly their rows, and EXPLAIN shows the key's index each time."""
    column, values = KEYS[name]
    session.run(b"DROP TABLE IF EXISTS t")
    sql = b"CREATE TABLE t (v %b NOT NULL, n INT NOT NULL, z INT, PRIMARY KEY (v%b))"
    session.run(sql % (column.type.encode(), b", n" if width == 2 else b""))
    columns = (column, Column("n", Kind.INTEGER, "int", False), Column("z", Kind.INTEGER, "int"))
    key = (0, 1)[:width]
    table = TableSchema(TableName("s", "t"), "t", columns, key, (UniqueKey("PRIMARY", key),))

    def count(z: int) -> int:
        return int(session.query(f"SELECT COUNT(*) FROM t WHERE z={z}")[0][0])

    rows: list[Row] = [(value, 5, 0) for value in values]
    run(session, [Step(table, Action.INSERT, rows)])
    run(session, [Step(table, Action.UPDATE, [(*row[:2], 1) for row in rows])])
    assert count(1) == len(rows)
    run(session, [Step(table, Action.MERGE, [(*row[:2], 2) for row in rows], careful=True)])
    assert count(2) == len(rows)
    if width == 2:
        keys = [row[:2] for row in rows]
        run(session, [Step(table, Action.UPDATE_KEY, [(row[0], 6, 3) for row in rows], keys)])
        assert session.query("SELECT COUNT(*) FROM t WHERE z=3 AND n=6") == [(str(len(rows)),)] or count(
            3
        ) == len(rows)
        rows = [(row[0], 6, 3) for row in rows]
    run(session, [Step(table, Action.DELETE, keys=[row[:width] for row in rows[1:]])])
    assert session.query("SELECT COUNT(*) FROM t")[0][0] in (1, "1")


def test_a_long_list_of_keys_does_not_scan(session: Session) -> None:
    session.run(b"CREATE TABLE t (v INT NOT NULL, n INT NOT NULL, PRIMARY KEY (v, n))")
    columns = (Column("v", Kind.INTEGER, "int", False), Column("n", Kind.INTEGER, "int", False))
    table = TableSchema(TableName("s", "t"), "t", columns, (0, 1), (UniqueKey("PRIMARY", (0, 1)),))
    rows: list[Row] = [(at, at % 7) for at in range(12_000)]
    run(session, [Step(table, Action.INSERT, rows, independent=True)])
    session.run(b"ANALYZE TABLE t")
    steps = [Step(table, Action.DELETE, keys=rows[::-1])]
    assert [len(packet.results) for packet in build_packets(steps, build_limits(session))] == [2]
    run(session, steps)
    assert session.query("SELECT COUNT(*) FROM t")[0][0] in (0, "0")


LARGE = 200_000
MANY = 40_000
TEXT_COLLATION = "utf8mb4_0900_ai_ci"
LARGE_KEYS: dict[str, tuple[Sequence[Column], str]] = {
    "one column": ([Column("a", Kind.INTEGER, "int", False)], "PRIMARY KEY (a)"),
    "four columns": (
        [
            Column("a", Kind.INTEGER, "int", False),
            Column("b", Kind.TEXT, "varchar(20)", False, charset="latin1", collation=TEXT_COLLATION),
            Column("c", Kind.BINARY, "varbinary(20)", False),
            Column("d", Kind.PLAIN, "decimal(10,2)", False),
        ],
        "PRIMARY KEY (b, c, d, a)",
    ),
    "a unique key of another name": (
        [Column("a", Kind.TEXT, "varchar(20)", False, charset="utf8mb4", collation=TEXT_COLLATION)],
        "id INT AUTO_INCREMENT PRIMARY KEY INVISIBLE, UNIQUE KEY other (a)",
    ),
    "beside an index over a prefix": (
        [
            Column("a", Kind.TEXT, "varchar(20)", False, charset="utf8mb4", collation=TEXT_COLLATION),
            Column("b", Kind.INTEGER, "int", False),
        ],
        "KEY a_prefix (a(3)), KEY b_a (b, a(2)), PRIMARY KEY (a, b)",
    ),
}


def make_key_value(column: Column, number: int) -> Value:
    if column.kind is Kind.INTEGER:
        return number
    return b"%d.50" % number if column.kind is Kind.PLAIN else b"k%d" % number


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_KEYS)
def test_no_form_scans_a_large_table(name: str, session: Session) -> None:
    """Every form, of one key and of more than the optimizer likes, with statistics that are up to date."""
    keys, indexes = LARGE_KEYS[name]
    columns = (*keys, Column("z", Kind.INTEGER, "int"))
    parts = [f"{c.name} {c.type}{f' COLLATE {c.collation}' if c.collation else ''} NOT NULL" for c in keys]
    session.run(f"CREATE TABLE t ({', '.join(parts)}, z INT, {indexes})".encode())
    key = tuple(range(len(keys)))
    if "b, c, d, a" in indexes:
        key = (1, 2, 3, 0)
    index = "other" if "other" in indexes else "PRIMARY"
    table = TableSchema(TableName("s", "t"), "t", columns, key, (UniqueKey(index, key),))

    def build(numbers: range, z: int) -> list[Row]:
        return [(*(make_key_value(column, number) for column in keys), z) for number in numbers]

    def keys_of(rows: list[Row]) -> list[tuple[Value, ...]]:
        return [tuple(row[at] for at in key) for row in rows]

    def count(z: int) -> int:
        return int(session.query(f"SELECT COUNT(*) FROM t WHERE z={z}")[0][0])

    run(session, [Step(table, Action.INSERT, build(range(LARGE), 0), independent=True)])
    session.run(b"ANALYZE TABLE t")
    for number, many in enumerate((1, 3, MANY)):
        old, moved = build(range(many), 0), build(range(LARGE, LARGE + many), 5)
        run(session, [Step(table, Action.UPDATE, build(range(many), 1))])
        run(session, [Step(table, Action.UPDATE, build(range(many), 2), careful=True)])
        run(session, [Step(table, Action.UPDATE, build(range(many), 2), unchecked=True)])
        assert count(2) == many
        run(session, [Step(table, Action.UPDATE_KEY, moved, keys_of(old))])
        assert count(5) == many
        run(session, [Step(table, Action.MERGE, [*moved, *build(range(many), 3)], careful=True)])
        assert (count(3), count(5)) == (many, many)
        run(session, [Step(table, Action.DELETE, keys=keys_of(moved), unchecked=number == 1)])
        assert count(5) == 0
        assert count(0) + count(3) == LARGE


def test_an_update_that_finds_too_few_rows_is_refused(session: Session) -> None:
    table = make_table(session, Column("v", Kind.INTEGER, "int"))
    run(session, [Step(table, Action.INSERT, [(1, 1, 7)])])
    with pytest.raises(Exception, match="more than 1 row"):
        run(session, [Step(table, Action.UPDATE, [(1, 1, 7), (2, 2, 7)])])


def test_foreign_key_checks_are_off_for_one_statement_alone(session: Session) -> None:
    session.run(b"CREATE TABLE p (id INT PRIMARY KEY)")
    session.run(
        b"CREATE TABLE t (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)"
    )
    columns = (Column("id", Kind.INTEGER, "int", False), Column("p", Kind.INTEGER, "int"))
    child = TableSchema(TableName("s", "t"), "t", columns, (0,), (UniqueKey("PRIMARY", (0,)),))
    parent = TableSchema(TableName("s", "p"), "p", columns[:1], (0,), (UniqueKey("PRIMARY", (0,)),))
    run(session, [Step(child, Action.INSERT, [(1, 1)], unchecked=True, independent=True)])
    run(session, [Step(child, Action.UPDATE, [(1, 2)], unchecked=True), Step(parent, Action.INSERT, [(2,)])])
    run(session, [Step(parent, Action.DELETE, keys=[(2,)], unchecked=True)])
    assert len(session.query("SELECT * FROM t")) == 1
    with pytest.raises(DataError):
        run(session, [Step(child, Action.INSERT, [(3, 3)])])


@pytest.mark.usefixtures("takes_files")
def test_a_row_larger_than_a_packet_is_loaded_in_its_place(session: Session) -> None:
    table = make_table(session, Column("v", Kind.BINARY, "longblob"))
    small = Limits(max_packet=1 << 20, local_infile=True)
    rows: list[Row] = [(1, b"a", 7), (2, b"'" * (2 << 20), 7), (3, b"c", 7)]
    packets = list(build_packets([Step(table, Action.INSERT, rows)], small))
    assert [packet.body is not None for packet in packets] == [False, True]
    assert all(len(packet.sql) < small.max_packet for packet in packets)
    run(session, [Step(table, Action.INSERT, rows)], small)
    assert session.query("SELECT id, LENGTH(v) FROM t ORDER BY id") in (
        [(1, 1), (2, 2 << 20), (3, 1)],
        [("1", "1"), ("2", str(2 << 20)), ("3", "1")],
    )
    with pytest.raises(DataError, match=r"s\.t"):
        list(build_packets([Step(table, Action.INSERT, rows)], Limits(1 << 20, local_infile=False)))
    with pytest.raises(DataError, match=r"s\.t"):
        list(build_packets([Step(table, Action.UPDATE, rows)], small))


# --- collations ----------------------------------------------------------------------------------------------------


def test_ascii_folds_are_never_finer_than_the_collations(session: Session) -> None:
    """Every collation that fold.py trusts: characters it equates have one fold."""
    names = [row[0] for row in session.query("SELECT COLLATION_NAME FROM information_schema.COLLATIONS")]
    trusted = [name for name in names if is_plain_collation(name) or name.endswith("_bin")]
    assert len(trusted) > 60
    words = [bytes([code]) for code in range(32, 127)] + [
        b"a ",
        b" a",
        b"aB",
        b"Ab",
        b"ss",
        b"ae",
        b"AE ",
        b"ij",
    ]
    session.run(
        b"CREATE TABLE w (n INT PRIMARY KEY, w VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin)"
    )
    session.run(
        b"INSERT INTO w VALUES "
        + b",".join(b"(%d,x'%b')" % (n, w.hex().encode()) for n, w in enumerate(words))
    )
    for name in trusted:
        charset = name.split("_")[0]
        column = Column("v", Kind.TEXT, "", charset=charset, collation=name)
        encoded = [word.decode().encode(_CODECS.get(charset, "ascii")) for word in words]
        folds = [build_fold([column])(word) for word in encoded]
        same = f"CONVERT(a.w USING {charset}) COLLATE {name} = CONVERT(b.w USING {charset}) COLLATE {name}"
        both = " AND ".join(f"CONVERT(CONVERT({x}.w USING {charset}) USING utf8mb4) = {x}.w" for x in "ab")
        for a, b in session.query(f"SELECT a.n, b.n FROM w a JOIN w b ON a.n < b.n AND {both} AND {same}"):
            pair = folds[int(a)], folds[int(b)]
            assert pair[0] == pair[1] or DOUBT in pair, (name, words[int(a)], words[int(b)])


_CODECS = {"utf16": "utf-16-be", "utf16le": "utf-16-le", "ucs2": "utf-16-be", "utf32": "utf-32-be"}


# --- plans ---------------------------------------------------------------------------------------------------------


def create(session: Session, tables: list[TableSchema]) -> None:
    session.run(b"SET foreign_key_checks=0")
    for table in tables:
        session.run(b"DROP TABLE IF EXISTS " + quote_name(table.target))
        parts = [f"`{c.name}` {DDL_TYPES[c.kind]}{'' if c.nullable else ' NOT NULL'}" for c in table.columns]
        for number, unique in enumerate(table.unique_keys):
            names = ",".join(f"`{table.columns[at].name}`" for at in unique.ordinals)
            parts.append(f"PRIMARY KEY ({names})" if number == 0 else f"UNIQUE KEY `{unique.name}` ({names})")
        for key in table.foreign_keys:
            parts.append(
                f"CONSTRAINT {table.target}_{key.name} FOREIGN KEY ({','.join(key.columns)}) REFERENCES "
                f"`{key.parent.table}` ({','.join(key.parent_columns)}) "
                f"ON DELETE {key.on_delete} ON UPDATE {key.on_update}"
            )
        session.run(f"CREATE TABLE `{table.target}` ({', '.join(parts)})".encode())
    session.run(b"SET foreign_key_checks=1")


def fetch(session: Session, table: TableSchema) -> set[tuple[Any, ...]]:
    names = ", ".join(f"CAST(`{c.name}` AS CHAR)" for c in table.columns)
    return set(session.query(f"SELECT {names} FROM `{table.target}`"))


def as_text(value: Value) -> str | None:
    return None if value is None else value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("mode", ["unchecked", "logged", "silent"])
@pytest.mark.parametrize("careful", [False, True])
def test_random_histories_end_equal_on_the_server(mode: str, careful: bool, session: Session) -> None:
    """Real unique and foreign keys, with and without cascades: no statement is refused, none scans, the end is equal."""
    for seed in range(8):
        chance = random.Random(f"{mode} {careful} {seed}")
        tables = build_tables(*choose_rules(chance))
        create(session, tables)
        if mode == "unchecked":
            session.run(b"SET foreign_key_checks=0")
        program = run_program(tables, choose_orders(chance), checks=True, logged=mode != "silent")
        settings = PlanSettings(
            checks=mode != "unchecked",
            careful=careful,
            cascades_logged=mode == "logged",
            parents=build_edges(tables),
        )
        size = chance.choice([1, 7, 1000])
        for part in _cut(program.transactions, size):
            changes = [change for group in part for change in group]
            run(session, build_plan(join_blocks(changes), settings))
        for table in tables:
            end = {tuple(map(as_text, row)) for row in program.end.rows[table.target].values()}
            assert fetch(session, table) == end, (seed, table.target)


def _cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def test_a_load_format_names_only_its_own_file(session: Session) -> None:
    load = build_load(make_table(session, Column("v", Kind.JSON, "json")))
    assert b"'" + load.token + b"'" in load.sql
    assert b"REPLACE" not in load.sql
    assert b"IGNORE" not in load.sql
