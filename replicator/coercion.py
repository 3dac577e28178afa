"""Values that a reader put another value in place of: taken out of the rows, and counted by table and column (pure; I10).

Readers know what the target's columns cannot hold, and mark it (``model.Coerced``); here every change, of load and stream
alike, loses its marks before it is planned. What was counted is committed with the rows it was counted in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar

from replicator.model import Changes, Coerced, Row, TableName, TableSchema, Unrepresentable, Value

_Rows = TypeVar("_Rows", bound=Sequence[Row])

LONGEST_SAMPLE: Final = 200
"""Characters that are kept of a key and of a value."""


@dataclass(slots=True)
class Sample:
    """What was put in place of values of one column: how often, and the last time as an example."""

    rule: Unrepresentable
    count: int
    key: str
    value: str


@dataclass(slots=True)
class Tally:
    """Values that were coerced, by source table and column."""

    samples: dict[tuple[TableName, str], Sample] = field(default_factory=dict)

    def add(self, table: TableSchema, at: int, row: Row, coerced: Coerced) -> None:
        column = table.columns[at]
        name = table.source, column.name
        sample = self.samples.get(name)
        if sample is None:
            sample = self.samples[name] = Sample(column.unrepresentable, 0, "", "")
        sample.count += 1
        sample.key = ", ".join(_print(row[ordinal]) for ordinal in table.key)[:LONGEST_SAMPLE]
        sample.value = _print(coerced.original)


def _print(value: Value) -> str:
    """A value for people; bytes that are no text as hexadecimal digits."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        text = value.decode("utf8")
    except UnicodeDecodeError:
        text = "0x" + value.hex()
    return text if len(text) <= LONGEST_SAMPLE else text[: LONGEST_SAMPLE - 1] + "…"


def may_coerce(tables: Iterable[TableSchema]) -> bool:
    """Whether rows of any of these tables may hold marks."""
    return any(map(_find_places, tables))


@lru_cache(maxsize=4096)
def _find_places(table: TableSchema) -> tuple[int, ...]:
    """The columns with a rule."""
    return tuple(at for at, c in enumerate(table.columns) if c.unrepresentable is not Unrepresentable.FAIL)


def settle(changes: Iterable[Changes], tally: Tally | None = None) -> Iterator[Changes]:
    """The changes without marks; what stands in new rows is counted, what stands in old ones was counted then."""
    for change in changes:
        if not _find_places(change.table):
            yield change
            continue
        before = settle_rows(change.table, change.before)
        yield change._replace(before=before, after=settle_rows(change.table, change.after, tally))


def settle_rows(table: TableSchema, rows: _Rows, tally: Tally | None = None) -> _Rows | list[Row]:
    """Rows of ``table`` without marks."""
    places = _find_places(table)
    if not any(type(row[at]) is Coerced for at in places for row in rows):
        return rows
    return [_settle_row(table, places, row, tally) for row in rows]


def _settle_row(table: TableSchema, places: Sequence[int], row: Row, tally: Tally | None) -> Row:
    values = list(row)
    for at in places:
        value = row[at]
        if isinstance(value, Coerced):
            values[at] = value.value
            if tally is not None:
                tally.add(table, at, row, value)
    return tuple(values)
