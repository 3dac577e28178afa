"""Cut a source table into ranges of its key (pure), between the snapshot's sessions and the load's chunks.

The source itself compares: with its own collation, its own idea of a date. A range is ``low < key <= high`` in that
order, so ranges that share their ends hold every row exactly once, whatever the order is. A tuple shorter than the key
compares the key's first columns only; ends are open at both sides, for nothing may be left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from replicator.model import Column, Kind, TableSchema, Value
from replicator.readers.base import KeyRange
from replicator.typemap.mysql import quote_name

Cut = tuple[Value, ...]

# Kinds that compare with a literal as their index orders them; an ENUM is indexed by number and compared as text, a
# FLOAT is compared as a double and indexed as a single.
_SPLITTABLE = {Kind.INTEGER, Kind.BIT, Kind.PLAIN, Kind.TEXT, Kind.BINARY}
_NUMERIC = re.compile(r"(decimal|numeric|dec|fixed|year)\b", re.IGNORECASE)

FEWEST = 16  # ranges cut where the numbers allow, for row estimates lag behind bulk loads
MOST_AT_ONCE = 256  # parts of one cut; a part that is still too large is cut again
TOO_LARGE = 2  # times the rows wished for


class Probe(Protocol):
    """What the cutting asks the source, inside the snapshot."""

    def bounds(self, table: TableSchema, column: Column) -> tuple[int, int] | None:
        """The lowest and the highest value of an integer column, None where the table is empty."""
        ...

    def estimate(self, table: TableSchema, span: KeyRange) -> int:
        """About how many rows a range holds, from the index, without reading it."""
        ...

    def next_cut(
        self, table: TableSchema, span: KeyRange, columns: Sequence[Column], rows: int
    ) -> Cut | None:
        """The values of ``columns`` in the ``rows``-th row of ``span``, None where it has fewer."""
        ...


def key_columns(table: TableSchema) -> tuple[Column, ...]:
    """The first columns of the key whose values can be compared with literals; perhaps none."""
    columns: list[Column] = []
    for ordinal in table.key:
        column = table.columns[ordinal]
        if column.kind not in _SPLITTABLE:
            break
        columns.append(column)
    return tuple(columns)


def split(probe: Probe, table: TableSchema, rows: int) -> list[KeyRange]:
    """Ranges of about ``rows`` rows that hold the whole table, in key order; never empty."""
    columns = key_columns(table)
    if not columns:
        return [KeyRange(None, None)]
    if columns[0].kind is Kind.INTEGER:
        cuts = list(_cut_numbers(probe, table, columns, rows))
    else:
        cuts = list(_walk(probe, table, KeyRange(None, None), columns, rows))
    ends: list[Cut | None] = [None, *cuts, None]
    return [KeyRange(low, high) for low, high in itertools.pairwise(ends)]


def _cut_numbers(probe: Probe, table: TableSchema, columns: Sequence[Column], rows: int) -> Iterator[Cut]:
    bounds = probe.bounds(table, columns[0])
    if bounds is None:
        return
    low, high = bounds[0] - 1, bounds[1]
    expected = max(table.rows_estimate, probe.estimate(table, KeyRange((low,), (high,))))
    parts = max(_parts(expected, rows), min(FEWEST, _parts(high - low, rows)))
    yield from _cut_interval(probe, table, (low, high), rows, parts=parts)


def _cut_interval(
    probe: Probe, table: TableSchema, ends: tuple[int, int], rows: int, *, parts: int
) -> Iterator[Cut]:
    """The cuts strictly inside ``ends``: equal widths first, then again wherever the index says it is crowded."""
    low, high = ends
    columns = key_columns(table)
    parts = min(parts, MOST_AT_ONCE, high - low)
    marks = [low + (high - low) * part // parts for part in range(parts + 1)]
    for start, end in itertools.pairwise(marks):
        if start != low:
            yield (start,)
        span = KeyRange((start,), (end,))
        found = probe.estimate(table, span)
        if found <= TOO_LARGE * rows:
            continue
        if end - start > 1:
            yield from _cut_interval(probe, table, (start, end), rows, parts=max(2, _parts(found, rows)))
        elif len(columns) > 1:
            yield from _walk(probe, table, span, columns, rows)


def _walk(
    probe: Probe, table: TableSchema, span: KeyRange, columns: Sequence[Column], rows: int
) -> Iterator[Cut]:
    """Every ``rows``-th key of ``span``, found along the index."""
    while (cut := probe.next_cut(table, span, columns, rows)) is not None:
        yield cut
        span = KeyRange(cut, span.high)


def _parts(total: int, rows: int) -> int:
    return max(1, -(-total // rows))


# --- conditions -------------------------------------------------------------------------------------------------------


def build_condition(table: TableSchema, span: KeyRange) -> bytes:
    """The SQL condition of a range, '' for the whole table; in a form whose first column the index can use."""
    parts = []
    if span.low is not None:
        parts.append(_build_bound(_names(table, span.low), _literals(table, span.low), b">"))
    if span.high is not None:
        parts.append(_build_bound(_names(table, span.high), _literals(table, span.high), b"<"))
    return b" AND ".join(parts)


def _names(table: TableSchema, cut: Cut) -> list[bytes]:
    return [quote_name(table.columns[ordinal].name).encode() for ordinal in table.key[: len(cut)]]


def _literals(table: TableSchema, cut: Cut) -> list[bytes]:
    return [build_literal(table.columns[o], value) for o, value in zip(table.key, cut, strict=False)]


def _build_bound(names: Sequence[bytes], values: Sequence[bytes], sign: bytes) -> bytes:
    """``key > values`` or ``key <= values``, column by column: servers do not use an index for row comparisons.

    ``a >= x AND (a > x OR b > y)`` is what the range optimizer takes; the last column decides about equality.
    """
    last = sign if sign == b">" else b"<="
    condition = names[-1] + last + values[-1]
    for name, value in zip(names[-2::-1], values[-2::-1], strict=True):
        condition = b"%b%b=%b AND (%b%b%b OR %b)" % (name, sign, value, name, sign, value, condition)
    return condition


def build_literal(column: Column, value: Value) -> bytes:
    """A value as the source compares it with ``column``: no other type, no other character set."""
    if isinstance(value, int):
        return b"%d" % value
    if not isinstance(value, bytes):
        raise TypeError(f"{column.name}: {value!r} cannot end a range")
    if column.kind is Kind.TEXT:
        return b"_%b x'%b'" % ((column.charset or "binary").encode(), value.hex().encode())
    if column.kind is Kind.BINARY:
        return b"x'%b'" % value.hex().encode()
    if _NUMERIC.match(column.source_type):
        return value  # quoted, a decimal would be compared as a double
    return b"'%b'" % value
