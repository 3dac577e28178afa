"""What stands in a unique column for a moment: its own for each row of a batch, and within the column's type.

That the servers take each is said by tests/integration/test_deferrable.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.model import Column, Kind, TableName, TableSchema, UniqueKey
from replicator.target import TargetIndex, TargetTable, fit_statements
from replicator.typemap.standin import find_deferrable, find_spots, find_stand_in

NUMBERS = [0, 1, 7, 99_999]
ROOM = {
    "smallint": (-(1 << 15), -1),
    "int": (-(1 << 31), -(1 << 30)),
    "bigint": (-(1 << 63), -(1 << 62)),
    "int unsigned": (1 << 31, (1 << 32) - 1),
    "bigint unsigned": (1 << 63, (1 << 64) - 1),
}


def column(kind: Kind, column_type: str, *, nullable: bool = False) -> Column:
    return Column("c", kind, column_type, nullable)


@pytest.mark.parametrize("column_type", ROOM)
def test_numbers_stay_near_an_end_of_their_type_and_off_it(column_type: str) -> None:
    stand_in = find_stand_in(column(Kind.INTEGER, column_type))
    assert stand_in is not None
    low, high = ROOM[column_type]
    for number in NUMBERS[: 3 if column_type == "smallint" else None]:
        value = stand_in(number)
        assert isinstance(value, int)
        assert low < value < high


@pytest.mark.parametrize(
    ("kind", "column_type", "longest"),
    [
        (Kind.TEXT, "varchar(1)", 1),
        (Kind.TEXT, "char(7)", 7),
        (Kind.TEXT, "varchar(8)", 8),
        (Kind.TEXT, "varchar(768)", 768),
        (Kind.TEXT, "longtext", 100),
        (Kind.BINARY, "varbinary(8)", 8),
        (Kind.BINARY, "binary(16)", 16),
        (Kind.BINARY, "longblob", 100),
        (Kind.PLAIN, "char(36)", 36),
        (Kind.PLAIN, "date", 10),
        (Kind.PLAIN, "datetime(6)", 26),
        (Kind.PLAIN, "decimal(5,0)", 6),
        (Kind.PLAIN, "decimal(19,2)", 18),
    ],
)
def test_each_number_has_its_own_value_that_fits(kind: Kind, column_type: str, longest: int) -> None:
    stand_in = find_stand_in(column(kind, column_type))
    assert stand_in is not None
    values = [stand_in(number) for number in NUMBERS[: 3 if column_type == "decimal(5,0)" else None]]
    assert len(set(values)) == len(values)
    for value in values:
        assert isinstance(value, bytes)
        assert len(value if kind is Kind.BINARY else value.decode()) <= longest


@pytest.mark.parametrize(
    ("kind", "column_type"),
    [
        (Kind.INTEGER, "tinyint(1)"),
        (Kind.BIT, "bit(9)"),
        (Kind.FLOAT, "float"),
        (Kind.PLAIN, "time(6)"),
        (Kind.PLAIN, "decimal(4,2)"),
        (Kind.BINARY, "varbinary(7)"),
    ],
)
def test_a_type_with_few_values_has_none_to_spare_but_null(kind: Kind, column_type: str) -> None:
    assert find_stand_in(column(kind, column_type)) is None
    stand_in = find_stand_in(column(kind, column_type, nullable=True))
    assert stand_in is not None
    assert [stand_in(number) for number in NUMBERS] == [None] * 4


def _table(*keys: UniqueKey) -> TableSchema:
    number = column(Kind.INTEGER, "int")
    columns = (number, number, replace(number, nullable=True), column(Kind.INTEGER, "tinyint(1)"))
    return TableSchema(TableName("s", "t"), "t", columns, (0,), keys)


def test_a_key_is_as_strict_as_the_strictest_within_it() -> None:
    strict, loose = UniqueKey("PRIMARY", (0,)), UniqueKey("u", (1, 0), deferrable=True)
    assert find_deferrable(_table(strict, loose)) == []
    other = UniqueKey("o", (1, 2), deferrable=True)
    assert find_deferrable(_table(strict, other)) == [other]
    inexact = UniqueKey("i", (), exact=False)
    assert find_deferrable(_table(strict, other, inexact)) == [other]


def test_stand_ins_go_where_null_is_possible_and_never_into_another_key_of_the_row() -> None:
    primary = UniqueKey("PRIMARY", (0,), deferrable=True)
    both, few, over = UniqueKey("b", (1, 2)), UniqueKey("f", (3,)), UniqueKey("o", (0, 3))
    table = _table(primary)
    assert [at for at, _ in find_spots(table, both)] == [2, 1]
    assert find_spots(table, few) == []
    assert find_spots(table, over) == []
    assert [at for at, _ in find_spots(table, primary)] == [0]
    small = replace(table, columns=(*table.columns[:3], column(Kind.INTEGER, "smallint")))
    assert [at for at, _ in find_spots(small, UniqueKey("s", (3, 1)))] == [1, 3]


def test_a_key_stays_deferrable_under_the_name_that_the_target_has_for_it() -> None:
    found = TargetTable("t", True, "InnoDB", {}, (TargetIndex("mine", True, ("c",), True),))
    for deferrable in (True, False):
        table = _table(UniqueKey("PRIMARY", (0,), deferrable=deferrable))
        assert fit_statements(table, found).unique_keys == (UniqueKey("mine", (0,), deferrable=deferrable),)
