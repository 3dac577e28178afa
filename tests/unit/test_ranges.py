"""Ranges of a key: together they are the whole table, whatever the probe says (pure; real servers: test_snapshot)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from replicator.model import Column, Kind, TableName, TableSchema, UniqueKey
from replicator.readers.base import KeyRange
from replicator.readers.mysql_ranges import Cut, build_condition, build_literal, split


def table(*columns: Column, estimate: int = 0) -> TableSchema:
    key = tuple(range(len(columns)))
    return TableSchema(
        TableName("shop", "orders"),
        "orders",
        columns,
        key,
        unique_keys=(UniqueKey("PRIMARY", key),),
        rows_estimate=estimate,
    )


def integer(name: str = "id", source_type: str = "bigint") -> Column:
    return Column(name, Kind.INTEGER, "bigint", nullable=False, source_type=source_type)


class FakeProbe:
    """A table held as a sorted list of key tuples; its estimates lie by ``factor``."""

    def __init__(self, keys: Sequence[Cut], factor: float = 1.0) -> None:
        self.keys = sorted(keys)
        self.factor = factor

    def select(self, span: KeyRange) -> list[Cut]:
        return [key for key in self.keys if _is_in(key, span)]

    def bounds(self, _table: TableSchema, _column: Column) -> tuple[int, int] | None:
        return (self.keys[0][0], self.keys[-1][0]) if self.keys else None  # type: ignore[return-value]

    def estimate(self, _table: TableSchema, span: KeyRange) -> int:
        return int(len(self.select(span)) * self.factor)

    def next_cut(
        self, _table: TableSchema, span: KeyRange, columns: Sequence[Column], rows: int
    ) -> Cut | None:
        found = self.select(span)
        return found[rows - 1][: len(columns)] if len(found) >= rows else None


def _is_in(key: Cut, span: KeyRange) -> bool:
    low, high = span
    return (low is None or key[: len(low)] > low) and (high is None or key[: len(high)] <= high)


def assert_partition(probe: FakeProbe, schema: TableSchema, rows: int) -> list[int]:
    ranges = split(probe, schema, rows)
    assert ranges[0].low is None
    assert ranges[-1].high is None
    found = [key for span in ranges for key in probe.select(span)]
    assert sorted(found) == list(probe.keys)
    return [len(probe.select(span)) for span in ranges]


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [0],
        [-(2**63), 2**63 - 1],
        [0, 2**64 - 1],
        list(range(1, 2001)),
        list(range(-1000, 1000)),
        [1, *range(10**15, 10**15 + 1500)],
    ],
    ids=["empty", "one", "signed", "unsigned", "dense", "negative", "snowflake"],
)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_integer_ranges_are_the_table(ids: list[int], factor: float) -> None:
    probe = FakeProbe([(number,) for number in ids], factor)
    assert_partition(probe, table(integer(), estimate=len(ids)), rows=100)


def test_crowded_numbers_are_cut_again() -> None:
    probe = FakeProbe([(1,), *((10**15 + number,) for number in range(3000))])
    sizes = assert_partition(probe, table(integer(), estimate=3000), rows=100)
    assert max(sizes) <= 200


def test_one_crowded_first_column_is_walked_along_the_rest_of_the_key() -> None:
    keys: list[Cut] = [(number // 1000, number) for number in range(1005)]
    sizes = assert_partition(
        FakeProbe(keys), table(integer("tenant"), integer("id"), estimate=1005), rows=100
    )
    assert max(sizes) <= 200


def test_stale_estimate_still_gives_work_to_several_workers() -> None:
    probe = FakeProbe([(number,) for number in range(10_000)], factor=0.0)
    assert len(assert_partition(probe, table(integer(), estimate=0), rows=1000)) >= 10


def test_other_keys_are_walked() -> None:
    generator = random.Random(7)
    keys: list[Cut] = [(generator.randbytes(4),) for _ in range(1000)]
    column = Column("code", Kind.BINARY, "varbinary(16)", nullable=False)
    sizes = assert_partition(FakeProbe(keys), table(column), rows=100)
    assert max(sizes) <= 100


@pytest.mark.parametrize("kind", [Kind.ENUM, Kind.FLOAT, Kind.SET])
def test_key_that_compares_unlike_its_index_is_one_range(kind: Kind) -> None:
    assert split(FakeProbe([]), table(Column("e", kind, "x", nullable=False)), 10) == [KeyRange(None, None)]


def test_condition_of_the_whole_table_is_empty() -> None:
    assert build_condition(table(integer()), KeyRange(None, None)) == b""


def test_condition_of_a_composite_key_compares_column_by_column() -> None:
    schema = table(integer("a"), integer("b"))
    assert build_condition(schema, KeyRange((1, 2), (3, 4))) == (
        b"`a`>=1 AND (`a`>1 OR `b`>2) AND `a`<=3 AND (`a`<3 OR `b`<=4)"
    )


def test_condition_of_a_prefix_leaves_the_rest_of_the_key_out() -> None:
    assert build_condition(table(integer("a"), integer("b")), KeyRange((1,), None)) == b"`a`>1"


@pytest.mark.parametrize(
    ("column", "value", "literal"),
    [
        (integer(), -5, b"-5"),
        (Column("t", Kind.TEXT, "varchar(9)", charset="latin1"), b"a'\\", b"_latin1 x'61275c'"),
        (Column("b", Kind.BINARY, "binary(2)"), b"\x00\xff", b"x'00ff'"),
        (Column("d", Kind.PLAIN, "decimal(65,30)", source_type="decimal(65,30)"), b"1.10", b"1.10"),
        (Column("y", Kind.PLAIN, "year", source_type="year(4)"), b"0000", b"0000"),
        (Column("d", Kind.PLAIN, "date", source_type="date"), b"0000-00-00", b"'0000-00-00'"),
    ],
)
def test_literal_compares_as_the_column_does(column: Column, value: int | bytes, literal: bytes) -> None:
    assert build_literal(column, value) == literal
