"""Messages of pgoutput, built byte by byte here, read back as values."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import UnsupportedEvent
from replicator.model import UNCHANGED, Column, Kind, TableName, TableSchema
from replicator.readers import pgoutput
from replicator.readers.pgoutput import EPOCH, Relation, RelationColumn, build_decoder, explain_mismatch

Sent = bytes | None | Any  # text, NULL, or UNCHANGED


def name(text: str) -> bytes:
    return text.encode() + b"\0"


def tuple_data(values: list[Sent]) -> bytes:
    parts = [struct.pack(">h", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
    return b"".join(parts)


def relation_data(relation: Relation, xid: bytes = b"") -> bytes:
    body = b"R" + xid + struct.pack(">I", relation.oid) + name(relation.schema) + name(relation.name)
    body += relation.identity.encode() + struct.pack(">h", len(relation.columns))
    for column in relation.columns:
        body += bytes([column.is_key]) + name(column.name) + struct.pack(">Ii", column.type, column.modifier)
    return body


COLUMNS = (
    Column("id", Kind.INTEGER, "int", source_type="integer", base="int4"),
    Column("v", Kind.TEXT, "longtext", charset="utf8mb4", source_type="text", base="text"),
    Column("b", Kind.INTEGER, "tinyint(1)", source_type="boolean", base="bool"),
    Column("d", Kind.DOUBLE, "double", source_type="double precision", base="float8"),
)
TABLE = TableSchema(TableName("s", "t"), "t", COLUMNS, key=(0,))
RELATION = Relation(
    16385,
    "s",
    "t",
    "d",
    (
        RelationColumn("id", True, 23, -1),
        RelationColumn("v", False, 25, -1),
        RelationColumn("b", False, 16, -1),
        RelationColumn("d", False, 701, -1),
    ),
)
TYPES = [column.source_type for column in COLUMNS]

MESSAGES: list[tuple[bytes, bytes, object]] = [
    (b"B", struct.pack(">QqI", 7, 5, 99), pgoutput.Begin(7, 5 + EPOCH, 99)),
    (b"C", struct.pack(">BQQq", 0, 7, 8, 5), pgoutput.Commit(7, 8, 5 + EPOCH)),
    (b"O", struct.pack(">Q", 3) + name("other"), pgoutput.Origin(3, "other")),
    (b"Y", struct.pack(">I", 77) + name("s") + name("mood"), pgoutput.TypeName(77, "s", "mood")),
    (b"Y", struct.pack(">I", 23) + name("") + name("int4"), pgoutput.TypeName(23, "pg_catalog", "int4")),
    (b"T", struct.pack(">IBII", 2, 3, 10, 11), pgoutput.Truncate((10, 11), True, True)),
    (
        b"M",
        struct.pack(">BQ", 1, 9) + name("p") + struct.pack(">I", 3) + b"a\0b",
        pgoutput.LogicalMessage(True, 9, "p", b"a\0b"),
    ),
    (b"S", struct.pack(">IB", 5, 1), pgoutput.StreamStart(5, True)),
    (b"E", b"", pgoutput.StreamStop()),
    (b"c", struct.pack(">IBQQq", 5, 0, 7, 8, 5), pgoutput.StreamCommit(5, 7, 8, 5 + EPOCH)),
    (b"A", struct.pack(">II", 5, 6), pgoutput.StreamAbort(5, 6)),
    (b"A", struct.pack(">IIQq", 5, 6, 1, 2), pgoutput.StreamAbort(5, 6)),  # version 4
]


@pytest.mark.parametrize(("kind", "body", "message"), MESSAGES)
def test_every_message(kind: bytes, body: bytes, message: object) -> None:
    assert pgoutput.parse(b"header" + kind + body, 6) == message


@pytest.mark.parametrize("kind", [b"T", b"Y", b"M"])
def test_messages_within_a_stream_carry_their_transaction(kind: bytes) -> None:
    _, body, message = next(item for item in MESSAGES if item[0] == kind)
    data = kind + struct.pack(">I", 4711) + body
    assert pgoutput.parse(data, 0, is_streamed=True) == message
    assert pgoutput.read_xid(data, 0) == 4711


def test_relations() -> None:
    assert pgoutput.parse(relation_data(RELATION), 0) == RELATION
    assert pgoutput.parse(relation_data(RELATION, b"\0\0\0\7"), 0, is_streamed=True) == RELATION


@pytest.mark.parametrize("kind", [b"b", b"P", b"K", b"r", b"p", b"?", b"\0"])
def test_what_is_not_known_is_refused(kind: bytes) -> None:
    """Two-phase commits among them: they stay off."""
    with pytest.raises(UnsupportedEvent, match="does not know"):
        pgoutput.parse(kind + bytes(60), 0)


@pytest.mark.parametrize(("kind", "body", "message"), [item for item in MESSAGES[:-1] if item[1]])
def test_what_is_cut_off_is_refused(kind: bytes, body: bytes, message: object) -> None:
    with pytest.raises(UnsupportedEvent, match="cut off"):
        pgoutput.parse(kind + body[: len(body) // 2 - 1] if len(body) > 5 else kind, 0)


DECODER = build_decoder(RELATION, TABLE)

values = st.tuples(
    st.integers(-(2**31), 2**31 - 1),
    st.one_of(st.none(), st.just(UNCHANGED), st.text().map(str.encode), st.just(b"x" * 70_000)),
    st.sampled_from([None, 0, 1]),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
)


def as_text(value: Any, at: int) -> Sent:
    if value is None or value is UNCHANGED or isinstance(value, bytes):
        return value
    return (b"f", b"t")[value] if at == 2 else repr(value).encode()


@given(values)
def test_rows(row: tuple[Any, ...]) -> None:
    data = b"....." + tuple_data([as_text(value, at) for at, value in enumerate(row)]) + b"rest"
    assert DECODER.whole(data, 5) == (row, len(data) - 4)


def test_a_key_tuple_says_nothing_of_other_columns() -> None:
    data = tuple_data([b"7", None, None, None])
    assert DECODER.key(data, 0) == ((7, UNCHANGED, UNCHANGED, UNCHANGED), len(data))
    assert DECODER.identify((7, b"x", 1, 1.5)) == (7, UNCHANGED, UNCHANGED, UNCHANGED)


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_value_that_mysql_lacks_names_its_column(text: bytes) -> None:
    with pytest.raises(UnsupportedEvent, match=r"s\.t:d: .*Na?N?|s\.t:d: -?Infinity"):
        DECODER.whole(tuple_data([b"1", None, b"t", text]), 0)


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(UnsupportedEvent, match="more or fewer columns"):
        DECODER.whole(tuple_data([b"1"]), 0)


def test_binary_values_are_refused() -> None:
    data = struct.pack(">h", 4) + b"b" + struct.pack(">I", 4) + b"\0\0\0\1"
    with pytest.raises(UnsupportedEvent, match="text was asked for"):
        DECODER.whole(data, 0)


def test_columns_come_in_any_order() -> None:
    turned = RELATION._replace(columns=RELATION.columns[::-1])
    data = tuple_data([b"1.5", b"t", b"x", b"3"])
    assert build_decoder(turned, TABLE).whole(data, 0)[0] == (3, b"x", 1, 1.5)


@pytest.mark.parametrize(
    ("change", "types", "reason"),
    [
        ({}, TYPES, None),
        ({"columns": RELATION.columns[1:]}, TYPES[1:], "column id is gone"),
        (
            {"columns": (*RELATION.columns, RelationColumn("w", False, 23, -1))},
            [*TYPES, "integer"],
            "column w was added",
        ),
        ({}, ["bigint", *TYPES[1:]], "column id was integer and is bigint"),
        (
            {"columns": tuple(column._replace(is_key=False) for column in RELATION.columns)},
            TYPES,
            "its replica identity no longer holds the table's key",
        ),
    ],
)
def test_what_no_longer_fits(change: dict[str, Any], types: list[str], reason: str | None) -> None:
    assert explain_mismatch(RELATION._replace(**change), types, TABLE) == reason
