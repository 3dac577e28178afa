"""Numbers in JSON text that are not the same once the text is read again: found, placed and measured (I10)."""

from __future__ import annotations

import pytest

from replicator.errors import DataError
from replicator.jsonnumber import Digits, Place, find_fragile, is_fragile, measure_decimal
from replicator.model import Column, Kind, Op, Row, TableName, TableSchema, UniqueKey
from replicator.plan.step import Action, Step
from replicator.sql import Limits, build_packets
from replicator.sql.literal import build_literals, build_rows

ID = Column("id", Kind.INTEGER, "int", nullable=False)
DOC = Column("doc", Kind.JSON, "json")
TABLE = TableSchema(TableName("s", "t"), "t", (ID, DOC), (0,), (UniqueKey("PRIMARY", (0,)),))
LIMITS = Limits(max_packet=16 << 20, local_infile=True, load_rows=2)

LOST = {
    "12.50": (4, 2),
    "1.00": (3, 2),
    "0.00": (2, 2),
    "-0.10": (2, 2),
    "0.30": (2, 2),
    "18446744073709551616": (20, 0),
    "-9223372036854775809": (19, 0),
    "-99999999999999999999.123": (23, 3),
    "12345678901234567.5": (18, 1),
    "0.0000000000000001": (16, 16),
    "9" * 65: (65, 0),
    "0." + "0" * 29 + "1": (30, 30),
}
KEPT = [
    *("0", "-1", "12.5", "1.0", "0.0", "-0.0", "0.1", "1e20", "1.5e-20", "-1.7976931348623157e308", "5e-324"),
    *("18446744073709551615", "-9223372036854775808", "1234567890123456789", "0.30000000000000004"),
    *(
        "123456789012345.6",
        "0.000000000000001",
        "true",
        "null",
        "[]",
        "{}",
        '""',
        "1e15",
        "2.5e16",
        "12345678.12345678",
    ),
]


@pytest.mark.parametrize("number", LOST)
@pytest.mark.parametrize(
    "around", ["%s", "[%s]", '{"a": %s}', "[1, %s, 2]", "[1,%s,2]", '{"a":%s}', "\n%s\t"]
)
def test_numbers_that_would_change_are_found(number: str, around: str) -> None:
    text = (around % number).encode()
    assert is_fragile(text)
    assert [place.number for place in find_fragile(text)] == [number.encode()]


@pytest.mark.parametrize("number", LOST)
def test_decimals_are_measured_with_every_digit_they_show(number: str) -> None:
    assert measure_decimal(number.encode()) == Digits(*LOST[number])


@pytest.mark.parametrize("value", KEPT)
@pytest.mark.parametrize("around", ["%s", "[%s]", '{"a": %s}', "[1, %s, 2.5]"])
def test_what_reads_back_the_same_is_left_alone(value: str, around: str) -> None:
    text = (around % value).encode()
    assert not is_fragile(text)
    assert find_fragile(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '"1.50"',
        '["2024-01-02 03:04:05.000000"]',
        '{"1.50": 1}',
        '"a 12345678901234567890123"',
        '"1.50]"',
        '["\\"", "x1.50"]',
    ],
)
def test_what_only_looks_like_a_number_costs_no_walk(text: str) -> None:
    assert not is_fragile(text.encode())


def test_text_that_looks_like_a_document_is_no_number() -> None:
    text = rb'["a, 1.50, b", {", 2.50, ": "\\", "k": "\"3.50", "l": "[4.50]"}, " 5.50 "]'
    assert is_fragile(text)
    assert find_fragile(text) == []


def test_places_are_paths_of_mysql() -> None:
    text = (
        rb'{"": 1.10, "a.b": [0, [1.20, {}, {"q\"\\": 1.30}], "x"], "n": {"m": {"o": [[], 1.40]}}, "z": 1.50}'
    )
    assert find_fragile(text) == [
        Place(b'$.""', b"1.10"),
        Place(b'$."a.b"[1][0]', b"1.20"),
        Place(rb'$."a.b"[1][2]."q\"\\"', b"1.30"),
        Place(b'$."n"."m"."o"[1]', b"1.40"),
        Place(b'$."z"', b"1.50"),
    ]


def test_null_is_no_document() -> None:
    assert not is_fragile(None)


def test_rows_are_found_wherever_they_stand_among_many() -> None:
    rows: list[Row] = [(n, b'{"n": %d.5}' % n if n % 3 else None) for n in range(1000)]
    split = build_rows(TABLE, None).split
    assert split(rows) == (rows, ())
    chosen = [0, 63, 64, 127, 500, 999]
    for at in chosen:
        rows[at] = (at, b"[%d.50]" % at)
    plain, exact = split(rows)
    assert [row[0] for row in exact] == chosen
    assert [row[0] for row in plain] == [n for n in range(1000) if n not in chosen]


def test_digits_of_neighbouring_documents_do_not_run_together() -> None:
    rows: list[Row] = [(n, b"1234567890123456") for n in range(70)]
    assert build_rows(TABLE, None).split(rows) == (rows, ())


def test_documents_are_rendered_with_decimals_of_their_own_digits() -> None:
    (item,) = build_literals([DOC], documents_of="s.t")([(b'{"it\'s \\"": 12.50}',)])
    assert item == rb"""JSON_REPLACE('{"it''s \\"": 12.50}','$."it''s \\""',CAST('12.50' AS DECIMAL(4,2)))"""
    assert build_literals([DOC], documents_of="s.t")([(b"12.5",), (None,)]) == [
        b"CAST('12.5' AS JSON)",
        b"NULL",
    ]


def test_rows_without_such_numbers_stay_plain_text() -> None:
    assert build_rows(TABLE, None).render([(1, b"[1.5]"), (2, None)]) == [b"1,'[1.5]'", b"2,NULL"]


def test_one_such_row_makes_the_whole_statement_typed() -> None:
    """VALUES ROW takes its type from all rows: text beside JSON would be text."""
    (packet,) = build_packets([Step(TABLE, Action.UPDATE, [(1, b"[1.5]"), (2, b"1.50")])], LIMITS)
    assert b"ROW(1,CAST('[1.5]' AS JSON)),ROW(2,JSON_REPLACE('1.50','$'," in packet.sql


def test_no_load_carries_such_rows() -> None:
    rows: list[Row] = [(1, b"[1.5]"), (2, b"[1.50]"), (3, None), (4, b"2.00")]
    (packet,) = build_packets([Step(TABLE, Action.INSERT, rows, independent=True)], LIMITS)
    load, none, insert = packet.results
    assert load is not None
    assert none is None
    assert insert is not None
    assert (load.rows, load.expect, insert.rows, insert.op) == (2, 2, 2, Op.INSERT)
    assert b"".join(packet.body or ()) == b"1\x1e[1.5]\x1f3\x1e\x1dN\x1f"
    assert b"(2,JSON_REPLACE('[1.50]','$[0]',CAST('1.50' AS DECIMAL(3,2)))),(4,JSON_REPLACE(" in insert.sql


@pytest.mark.parametrize("number", ["9" * 66, "0." + "1" * 31, "-0.00"])
def test_what_no_decimal_holds_names_table_and_column(number: str) -> None:
    with pytest.raises(DataError, match=rf"^s\.t:doc: .* {number}, .* at \$\[1\]") as caught:
        build_rows(TABLE, None).render([(1, f"[0, {number}]".encode())])
    assert caught.value.table == "s.t"


def test_a_row_that_only_a_statement_carries_must_fit_into_a_packet() -> None:
    text = b'["' + b"x" * (2 << 20) + b'", 1.50]'
    with pytest.raises(DataError, match=r"table s\.t: the row id=1 to insert takes 2,0"):
        list(build_packets([Step(TABLE, Action.INSERT, [(1, text)])], Limits(1 << 20, local_infile=True)))
