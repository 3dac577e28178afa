"""How statements are cut into packets, and what no server is needed for; values and shapes are in test_sql_server.py."""

from __future__ import annotations

import pytest

from replicator.errors import DataError, SchemaMismatch
from replicator.model import UNCHANGED, Column, Kind, Op, Row, TableName, TableSchema, UniqueKey
from replicator.plan import Action, Step
from replicator.sql import (
    BODY_BLOCK,
    DELETE_KEYS,
    LOAD_ROWS,
    PACKET_BYTES,
    STATEMENT_BYTES,
    Limits,
    build_insert,
    build_packets,
    quote_text,
)
from replicator.sql.literal import build_lines, build_literals
from replicator.sql.names import quote_name

ID = Column("id", Kind.INTEGER, "int", nullable=False)
DATA = Column("v", Kind.BINARY, "longblob")
TABLE = TableSchema(TableName("s", "t"), "t", (ID, DATA), (0,), (UniqueKey("PRIMARY", (0,)),))
OTHER = TableSchema(TableName("s", "o"), "o", (ID, DATA), (0,), (UniqueKey("PRIMARY", (0,)),))
LIMITS = Limits(max_packet=64 << 20, local_infile=True, load_rows=3)


def rows(number: int, size: int = 1) -> list[Row]:
    return [(at, b"x" * size) for at in range(number)]


def test_loads_stand_first_one_a_packet_and_the_rest_joins_the_last() -> None:
    steps = [
        Step(TABLE, Action.DELETE, keys=[(9,)]),
        Step(TABLE, Action.INSERT, rows(3), independent=True),
        Step(OTHER, Action.INSERT, rows(4), independent=True),
        Step(OTHER, Action.INSERT, rows(5)),
        Step(OTHER, Action.INSERT, rows(2), independent=True),
    ]
    packets = list(build_packets(steps, LIMITS))
    assert [[r and (r.op, r.rows) for r in packet.results] for packet in packets] == [
        [(Op.INSERT, 3), None],
        [(Op.INSERT, 4), None, (Op.DELETE, 1), (Op.INSERT, 5), (Op.INSERT, 2)],
    ]
    assert [b"".join(packet.body or ()).count(b"\x1f") for packet in packets] == [3, 4]
    assert all(packet.sql.startswith(b"LOAD") for packet in packets)
    assert all(packet.body is None for packet in build_packets(steps, Limits(1 << 20, False, 3)))


def test_a_packet_has_one_result_for_each_of_its_statements() -> None:
    steps = [Step(TABLE, Action.UPDATE, rows(3)), Step(TABLE, Action.MERGE, rows(2), careful=True)]
    (packet,) = build_packets(steps, LIMITS)
    assert packet.sql.count(b";") + 1 == len(packet.results) == 4
    assert [result and result.expect for result in packet.results] == [3, None, None, None]


@pytest.mark.parametrize("action", [Action.INSERT, Action.UPDATE, Action.MERGE])
def test_statements_and_packets_stay_below_their_limits(action: Action) -> None:
    limits = Limits(max_packet=1 << 20, local_infile=False)
    step = Step(TABLE, action, rows(40, 100_000))
    packets = list(build_packets([step], limits))
    assert max(len(packet.sql) for packet in packets) < limits.room
    found = [result for packet in packets for result in packet.results if result and result.rows]
    assert sum(result.rows for result in found) == 40
    large = list(build_packets([Step(TABLE, action, rows(400, 100_000))], LIMITS))
    assert max(len(packet.sql) for packet in large) < PACKET_BYTES
    assert max(len(result.sql) for packet in large for result in packet.results if result) <= STATEMENT_BYTES


def test_delete_lists_and_loads_are_cut() -> None:
    keys = [(at,) for at in range(DELETE_KEYS + 1)]
    (packet,) = build_packets([Step(TABLE, Action.DELETE, keys=keys)], LIMITS)
    assert [result and result.rows for result in packet.results] == [DELETE_KEYS, 1]
    packets = list(
        build_packets([Step(TABLE, Action.INSERT, rows(LOAD_ROWS + 1, 30), independent=True)], LIMITS)
    )
    assert [packet.results[0] and packet.results[0].rows for packet in packets] == [LOAD_ROWS, 1]
    assert max(len(block) for packet in packets for block in packet.body or ()) <= BODY_BLOCK


def test_a_row_above_the_limit_is_named() -> None:
    with pytest.raises(DataError, match=r"table s\.t: the row id=0 to insert takes 2,0") as caught:
        list(build_insert(TABLE, rows(1, 2_000_000), Limits(1 << 20, local_infile=False)))
    assert "max_allowed_packet" in caught.value.hint


def test_keys_and_updates_are_sorted_inserts_are_not() -> None:
    steps = [
        Step(TABLE, Action.DELETE, keys=[(3,), (1,)]),
        Step(TABLE, Action.UPDATE, [(3, b""), (1, b"")]),
        Step(TABLE, Action.INSERT, [(3, b""), (1, b"")]),
    ]
    (packet,) = build_packets(steps, LIMITS)
    assert b"IN (1,3)" in packet.sql
    assert b"ROW(1,_binary''),ROW(3,_binary'')" in packet.sql
    assert b"(3,_binary''),(1,_binary'')" in packet.sql


def test_values_left_out_or_of_the_wrong_kind_never_render() -> None:
    for column in (
        ID,
        DATA,
        Column("d", Kind.DOUBLE, "double"),
        Column("p", Kind.PLAIN, "date", nullable=False),
    ):
        for render in (build_literals([column]), build_lines([column])):
            with pytest.raises((TypeError, AttributeError)):
                render([(UNCHANGED,)])
    with pytest.raises((TypeError, AttributeError)):
        build_literals([ID])([(None,)])


def test_names_and_texts_are_quoted() -> None:
    assert quote_name("a`b") == b"`a``b`"
    assert quote_text("it's \\ é") == b"'it''s \\\\ \xc3\xa9'"


def test_a_character_set_is_a_name() -> None:
    column = Column("v", Kind.TEXT, "text", charset="x'); DROP", collation="utf8mb4_bin")
    with pytest.raises(SchemaMismatch):
        build_literals([column])


def test_an_invalid_enum_value_that_cannot_be_told_is_refused() -> None:
    column = Column("v", Kind.ENUM, "enum", charset="utf8mb4", labels=(b"", b"a"))
    with pytest.raises(SchemaMismatch, match="column v"):
        build_literals([column], key=True)([(0,)])
    full = Column("v", Kind.ENUM, "enum", charset="utf8mb4", labels=tuple(b"0" * n for n in range(1, 6)))
    with pytest.raises(SchemaMismatch, match="column v"):
        build_lines([full])([(0,)])
