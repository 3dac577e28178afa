"""How each column type of a table map lies in a row image and becomes a canonical value, as pieces of code; pure.

rowcodec joins the pieces into one function per table. Lengths and layouts come from the table map; what it cannot tell
(UUID, INET6, labels) comes from the Column.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from replicator.errors import UnsupportedEvent
from replicator.model import Column, Kind
from replicator.readers import rowvalues
from replicator.readers import tablemap as types
from replicator.readers.binaryjson import read_json
from replicator.readers.tablemap import ColumnMap
from replicator.readers.unfit import name_column
from replicator.typemap.mysql import value_checker


@dataclass(frozen=True, slots=True)
class Layout:
    """One column of a row image.

    Fixed width: ``formats`` are struct codes (little-endian), one per name in ``value``, an expression with ``{0}``,
    ``{1}`` … for what was read. Variable: ``prefix`` bytes of length, ``{0}`` is the slice. ``before`` is a statement
    that ``value`` needs run first. ``constants`` are the names both use.
    """

    formats: tuple[str, ...] = ()
    prefix: int = 0
    value: str = "{0}"
    before: str = ""
    constants: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Field:
    """A column at its place in the table map; ``ordinal`` is its place in TableSchema.columns, None when skipped."""

    index: int
    name: str
    ordinal: int | None
    nullable: bool
    layout: Layout

    @property
    def size(self) -> int:
        """Bytes of a fixed-width column, or of the length prefix."""
        return self.layout.prefix or struct.calcsize("<" + "".join(self.layout.formats))


def build_field(
    index: int, name: str, ordinal: int | None, one: ColumnMap, column: Column | None, *, table: str
) -> Field:
    """Raises UnsupportedEvent naming table and column for a type that cannot be read."""
    build = _LAYOUTS.get(one.type)
    layout = build(index, one, column) if build else None
    if layout is not None and column is not None:
        layout = _add_check(index, column, layout, table)
    if layout is None:
        spelling = column.source_type if column else "generated"
        raise UnsupportedEvent(
            f"{table}.{name}: a column of type {spelling} (number {one.type} in the log) cannot be read",
            hint="Deselect this table (`skip: true`), or rebuild it (ALTER TABLE … FORCE) where the type is an old format.",
        )
    return Field(index, name, ordinal, one.nullable, layout)


def _add_check(index: int, column: Column, layout: Layout, table: str) -> Layout:
    """``layout`` with a look at each value of a column that the target may not hold all of."""
    check = value_checker(column)
    if check is None:
        return layout
    name = f"k{index}"
    constants = layout.constants | {name: name_column(table, column, check)}
    return replace(layout, value=f"{name}({layout.value})", constants=constants)


_LayoutBuilder = Callable[[int, ColumnMap, Column | None], Layout | None]


def _number(signed: str, unsigned: str) -> _LayoutBuilder:
    return lambda _index, one, _column: Layout((unsigned if one.unsigned else signed,))


def _int24(_index: int, one: ColumnMap, _column: Column | None) -> Layout:
    return Layout(("H", "B" if one.unsigned else "b"), value="{1} << 16 | {0}")


def _real(code: str) -> _LayoutBuilder:
    return lambda _index, _one, _column: Layout((code,))


def _looked_up(table: object, *formats: str) -> _LayoutBuilder:
    """A value found in ``table`` by the one thing read."""
    return lambda index, _one, _column: Layout(
        formats, value=f"c{index}[{{0}}]", constants={f"c{index}": table}
    )


def _decimal(index: int, one: ColumnMap, _column: Column | None) -> Layout:
    """Two texts, before and after the point: each repeats far more often than whole numbers do."""
    precision, scale = one.meta >> 8, one.meta & 255
    size, whole = rowvalues.decimal_size(precision, scale), rowvalues.whole_size(precision, scale)
    if whole == 0:
        texts = rowvalues.pure_fractions(scale)
        return Layout((f"{size}s",), value=f"c{index}[{{0}}]", constants={f"c{index}": texts})
    texts = rowvalues.wholes(precision - scale)
    if scale == 0:
        return Layout((f"{size}s",), value=f"c{index}[{{0}}]", constants={f"c{index}": texts})
    return Layout(
        (f"{whole}s", f"{size - whole}s"),
        value=f"c{index}[{{0}}] + f{index}[{{1}}]",
        constants={f"c{index}": texts, f"f{index}": rowvalues.points(scale)},
    )


def _bit(_index: int, one: ColumnMap, _column: Column | None) -> Layout:
    size = (one.meta + 7) // 8
    if size == 1:
        return Layout(("B",))
    return Layout((f"{size}s",), value="from_bytes({0}, 'big')", constants={"from_bytes": int.from_bytes})


def _add_fraction(index: int, digits: int, layout: Layout) -> Layout:
    """``layout`` with a fraction of a second behind it."""
    if digits == 0:
        return layout
    size = rowvalues.fraction_size(digits)
    at = len(layout.formats)
    if digits > 4:  # too many to keep their text
        divide = "" if digits == 6 else " // 10"
        code = f"{size}s"
        value = f"b'%b.%0{digits}d' % ({layout.value}, from_bytes({{{at}}}, 'big'){divide})"
        constants: dict[str, object] = {"from_bytes": int.from_bytes}
    else:
        code = "BH"[size - 1]
        value = f"{layout.value} + f{index}[{{{at}}}]"
        constants = {f"f{index}": rowvalues.fractions(digits)}
    return Layout((*layout.formats, code), 0, value, layout.before, layout.constants | constants)


def _datetime2(index: int, one: ColumnMap, _column: Column | None) -> Layout:
    layout = Layout(
        ("3s", "H"),
        value=f"d{index} + e{index}[{{1}}]",
        before=f"d{index}, e{index} = c{index}[{{0}}]",
        constants={f"c{index}": rowvalues.DATETIME_HALVES},
    )
    return _add_fraction(index, one.meta, layout)


def _timestamp(order: str) -> _LayoutBuilder:
    """Seconds since the epoch, in UTC; 0 is the zero date."""

    def build(index: int, one: ColumnMap, _column: Column | None) -> Layout:
        layout = Layout(
            ("4s",),
            value=f"(days[s{index} // 86400] + seconds[s{index} % 86400] if s{index} else no_timestamp)",
            before=f"s{index} = from_bytes({{0}}, '{order}')",
            constants={
                "days": rowvalues.DAYS,
                "seconds": rowvalues.SECONDS,
                "no_timestamp": rowvalues.NO_TIMESTAMP,
                "from_bytes": int.from_bytes,
            },
        )
        return _add_fraction(index, one.meta, layout)

    return build


def _time2(index: int, one: ColumnMap, _column: Column | None) -> Layout:
    size = 3 + rowvalues.fraction_size(one.meta)
    texts = rowvalues.times(one.meta)
    return Layout((f"{size}s",), value=f"c{index}[{{0}}]", constants={f"c{index}": texts})


def _without_fraction(build: _LayoutBuilder) -> _LayoutBuilder:
    """Formats from before 5.6, which MariaDB still writes with mysql56_temporal_format=OFF.

    Its own format for fractions has the same type number and does not say its length: it is refused.
    """

    def build_whole(index: int, one: ColumnMap, column: Column | None) -> Layout | None:
        if column is not None and "(" in column.source_type.split("/*")[0]:
            return None
        return build(index, one, column)

    return build_whole


_SET_FORMATS: Final = {1: ("B",), 2: ("H",), 3: ("H", "B"), 4: ("I",), 8: ("Q",)}


def _enum(index: int, one: ColumnMap, column: Column | None) -> Layout:
    members = (0, *column.labels) if column else ()
    return Layout(_SET_FORMATS[one.meta], value=f"c{index}[{{0}}]", constants={f"c{index}": members})


def _set(index: int, one: ColumnMap, column: Column | None) -> Layout:
    formats = _SET_FORMATS[one.meta]
    number = "{0}" if len(formats) == 1 else "{1} << 16 | {0}"
    texts = rowvalues.sets(column.labels) if column else {}
    return Layout(formats, value=f"c{index}[{number}]", constants={f"c{index}": texts})


def _length_size(one: ColumnMap) -> int:
    return 1 if one.meta < 256 else 2


_FIXED_BINARY: Final[dict[str, Callable[[bytes], bytes]]] = {
    "uuid": rowvalues.read_uuid,
    "inet4": rowvalues.read_inet4,
    "inet6": rowvalues.read_inet6,
}


def _string(index: int, one: ColumnMap, column: Column | None) -> Layout:
    read = _FIXED_BINARY.get(column.source_type.lower()) if column else None
    if read:
        return Layout(prefix=_length_size(one), value=f"c{index}({{0}})", constants={f"c{index}": read})
    if column and column.kind is Kind.BINARY:  # the log drops trailing zero bytes
        return Layout(prefix=_length_size(one), value=f"{{0}}.ljust({one.meta}, b'\\0')")
    return Layout(prefix=_length_size(one))


def _varchar(_index: int, one: ColumnMap, _column: Column | None) -> Layout:
    return Layout(prefix=_length_size(one))


def _blob(_index: int, one: ColumnMap, _column: Column | None) -> Layout | None:
    return Layout(prefix=one.meta) if one.meta in {1, 2, 3, 4} else None


def _inflated(build: _LayoutBuilder) -> _LayoutBuilder:
    def build_inflated(index: int, one: ColumnMap, column: Column | None) -> Layout | None:
        layout = build(index, one, column)
        name = f"c{index}"
        constants: dict[str, object] = {name: rowvalues.inflate_column}
        return layout and Layout(prefix=layout.prefix, value=f"{name}({{0}})", constants=constants)

    return build_inflated


def _json(index: int, one: ColumnMap, _column: Column | None) -> Layout:
    return Layout(prefix=one.meta, value=f"c{index}({{0}})", constants={f"c{index}": read_json})


_LAYOUTS: Final[dict[int, _LayoutBuilder]] = {
    types.TINY: _number("b", "B"),
    types.SHORT: _number("h", "H"),
    types.INT24: _int24,
    types.LONG: _number("i", "I"),
    types.LONGLONG: _number("q", "Q"),
    types.FLOAT: _real("f"),
    types.DOUBLE: _real("d"),
    types.NEWDECIMAL: _decimal,
    types.BIT: _bit,
    types.YEAR: _looked_up(rowvalues.YEARS, "B"),
    types.DATE: _looked_up(rowvalues.DATES, "3s"),
    types.NEWDATE: _looked_up(rowvalues.DATES, "3s"),
    types.TIME: _without_fraction(_looked_up(rowvalues.OLD_TIMES, "3s")),
    types.DATETIME: _without_fraction(_looked_up(rowvalues.OLD_DATETIMES, "8s")),
    types.TIMESTAMP: _without_fraction(_timestamp("little")),
    types.TIME2: _time2,
    types.DATETIME2: _datetime2,
    types.TIMESTAMP2: _timestamp("big"),
    types.ENUM: _enum,
    types.SET: _set,
    types.STRING: _string,
    types.VARCHAR: _varchar,
    types.VAR_STRING: _varchar,
    types.BLOB: _blob,
    types.GEOMETRY: _blob,
    types.VECTOR: _blob,
    types.BLOB_COMPRESSED: _inflated(_blob),
    types.VARCHAR_COMPRESSED: _inflated(_varchar),
    types.JSON: _json,
}
