"""Row images of the binary log to canonical rows, by Python code generated per table; pure, the reader's hot path.

For each table map (and each set of columns an image carries) a function is generated that walks the images of a rows
event: columns of fixed width that stand together are read by one precompiled struct, an image without NULLs takes a
path without tests, and text stays the bytes it is. ``Decoder.decode`` picks the function by the event's own bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn, TypeAlias, cast

from replicator.errors import UnsupportedEvent
from replicator.model import Changes, Op, Row, TableSchema
from replicator.readers import binlog, rowfields
from replicator.readers.rowfields import Field
from replicator.readers.rowmatch import explain_mismatch
from replicator.readers.tablemap import TableMap

# Reads the row images of buffer[p:end] into before and after images.
_Reader: TypeAlias = Callable[[bytes, int, int], tuple[Sequence[Row], Sequence[Row]]]
_OPS: Final = {Op.INSERT: binlog.INSERT_TYPES, Op.UPDATE: binlog.UPDATE_TYPES, Op.DELETE: binlog.DELETE_TYPES}

_BAD_BYTES: Final = (
    struct.error,
    IndexError,
    KeyError,
    ValueError,
    OverflowError,
    RecursionError,
    zlib.error,
)
_BITMAP_FORMATS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


class _Shape(NamedTuple):
    """One event type: where its first image begins when there is no extra data, and the readers by what is before it."""

    op: Op
    size: int
    readers: dict[bytes, _Reader]  # by the bytes between the table's flags and the first image


class Decoder:
    """Decodes the rows events that follow one TABLE_MAP into canonical rows of ``table``."""

    def __init__(self, table_map: TableMap, table: TableSchema) -> None:
        self.table = table
        self._name = str(table.source)
        self._columns = len(table_map.columns)
        self._fields = _build_fields(table_map, table)
        self._shapes = self._build_shapes()
        self._readers: dict[tuple[Op, bytes, bytes], _Reader] = {}
        self._reach = 0  # how far beyond an image's start its first struct may read

    def decode(self, event_type: int, buffer: bytes, start: int, end: int) -> Changes:
        """The rows event whose body is ``buffer[start:end]`` (checksum stripped), any of ``binlog.ROWS_TYPES``.

        Raises UnsupportedEvent naming the table: partial JSON, images that are not FULL, bytes that do not parse.
        """
        try:
            op, size, readers = self._shapes[event_type]
            at = start + size
            reader = readers.get(buffer[start + 8 : at])
            no_checks = buffer[start + 6] & binlog.ROWS_NO_FOREIGN_KEY_CHECKS_F != 0
            if reader is None:
                reader, buffer, at, end = self._find_reader(event_type, buffer, start, end)
            if end + self._reach > len(buffer):
                buffer, at, end = self._pad(buffer, at, end)
            before, after = reader(buffer, at, end)
        except _BAD_BYTES as error:
            self._refuse(event_type, error)
        return Changes(self.table, op, before, after, end - at, no_checks)

    def _refuse(self, event_type: int, error: Exception) -> NoReturn:
        name = binlog.EVENT_NAMES.get(event_type, str(event_type))
        if event_type == binlog.PARTIAL_UPDATE_ROWS:
            raise UnsupportedEvent(
                f"{self._name}: its updates are logged as changes of parts of JSON documents ({name})",
                hint="Set binlog_row_value_options='' globally and in the sessions that set it, then load again.",
            )
        raise UnsupportedEvent(
            f"{self._name}: a {name} event of this table does not decode: {error!r}",
            hint="Deselect this table (`skip: true`), or report it with its definition and the server's version.",
        ) from error

    def _pad(self, buffer: bytes, at: int, end: int) -> tuple[bytes, int, int]:
        """A struct is read before the NULL bits are known, so the last image must not end with the buffer."""
        data = buffer[at:end] + bytes(self._reach)
        return data, 0, end - at

    # --- readers --------------------------------------------------------------------------------------------------------

    def _build_shapes(self) -> dict[int, _Shape]:
        shapes: dict[int, _Shape] = {}
        for op, event_types in _OPS.items():
            bitmaps = (self._columns + 7) // 8 * (2 if op is Op.UPDATE else 1)
            count = 1 if self._columns < 251 else 3
            for event_type in event_types:
                extra = 2 if event_type in binlog.ROWS_V2_TYPES else 0
                shapes[event_type] = _Shape(op, 8 + extra + count + bitmaps, {})
        return shapes

    def _find_reader(
        self, event_type: int, buffer: bytes, start: int, end: int
    ) -> tuple[_Reader, bytes, int, int]:
        header = binlog.parse_rows_header(event_type, buffer, start, end)
        if header.columns != self._columns:
            raise ValueError(f"{header.columns} columns where its table map has {self._columns}")
        shape = self._shapes[event_type]
        reader = self._reader(shape.op, header.before, header.after)
        if header.buffer is buffer and header.rows_start == start + shape.size:
            shape.readers[buffer[start + 8 : header.rows_start]] = reader
        return reader, header.buffer, header.rows_start, header.rows_end

    def _reader(self, op: Op, before: bytes, after: bytes) -> _Reader:
        reader = self._readers.get((op, before, after))
        if reader is None:
            images = [self._present(bitmap) for bitmap in ([before, after] if after else [before])]
            reader, reach = _compile(op, images, len(self.table.columns))
            self._readers[op, before, after] = reader
            self._reach = max(self._reach, reach)
        return reader

    def _present(self, bitmap: bytes) -> list[Field]:
        """The fields an image with this columns-present bitmap has; all of them, but for generated columns."""
        bits = int.from_bytes(bitmap, "little")
        for i, one in enumerate(self._fields):
            if one.ordinal is not None and not bits >> i & 1:
                raise UnsupportedEvent(
                    f"{self._name}: a row image without column {one.name}: the log does not hold whole rows",
                    hint="Set binlog_row_image=FULL globally and in the sessions that change it, then load again.",
                )
        return [one for i, one in enumerate(self._fields) if bits >> i & 1]


def build_decoder(table_map: TableMap, schema: TableSchema) -> Decoder:
    """Call only when ``explain_mismatch`` gave None. Raises UnsupportedEvent naming table and column."""
    return Decoder(table_map, schema)


def _build_fields(table_map: TableMap, table: TableSchema) -> list[Field]:
    ordinals = {column.name: i for i, column in enumerate(table.columns)}
    fields: list[Field] = []
    for i, one in enumerate(table_map.columns):
        name = (one.name or b"").decode()
        ordinal = ordinals.get(name)
        column = None if ordinal is None else table.columns[ordinal]
        fields.append(rowfields.build_field(i, name, ordinal, one, column, table=str(table.source)))
    return fields


# --- code generation -----------------------------------------------------------------------------------------------------


class _Path:
    """Lines that read fields one after the other; ``position`` is the name that holds where the next one begins."""

    def __init__(self, constants: dict[str, object]) -> None:
        self.lines: list[str] = []
        self.values: dict[int, str] = {}  # expressions by ordinal
        self.position = "p"
        self._constants = constants
        self._formats: list[str] = []
        self._names: list[str] = []
        self._pending: list[
            tuple[Field, list[str]]
        ] = []  # fixed fields read by the struct that is being collected

    def read_number(self, name: str, size: int) -> None:
        """``size`` bytes, little-endian, into ``name``; other than by ``_flush``'s tests only as a first piece."""
        self._formats.append(_BITMAP_FORMATS.get(size, f"{size}s"))
        self._names.append(name)

    def add(self, one: Field) -> None:
        self._constants.update(one.layout.constants)
        if one.layout.prefix:
            self._add_variable(one)
        elif one.ordinal is None:
            self._formats.append(f"{one.size}x")
        else:
            names = [f"t{one.index}_{k}" for k in range(len(one.layout.formats))]
            self._formats += one.layout.formats
            self._names += names
            self._pending.append((one, names))

    def _add_variable(self, one: Field) -> None:
        """The length joins the struct before it; then the slice."""
        size = one.layout.prefix
        length = f"n{one.index}"
        if size == 3:
            self._formats += ("H", "B")
            self._names += (length, f"{length}h")
            length = f"({length} | {length}h << 16)"
        else:
            self._formats.append(_BITMAP_FORMATS[size])
            self._names.append(length)
        self.flush()
        if self.position != "p":
            raise AssertionError("flush leaves the position in p")
        self.lines.append(f"q = p + {length}")
        if one.ordinal is not None:
            self.lines.append(f"t{one.index} = b[p:q]")
            self.values[one.ordinal] = one.layout.value.format(f"t{one.index}")
        self.position = "q"

    def flush(self) -> int:
        """Read the collected pieces; afterwards ``p`` stands behind them. Gives their size."""
        codes = "<" + "".join(self._formats)
        size = struct.calcsize(codes)
        if self._names:
            unpack = f"u_{codes[1:]}"
            self._constants[unpack] = struct.Struct(codes).unpack_from
            self.lines.append(f"{', '.join(self._names)}, = {unpack}(b, {self.position})")
        self.lines.append(f"p = {self.position} + {size}" if size or self.position == "q" else "pass")
        self.position = "p"
        for one, names in self._pending:
            if one.layout.before:
                self.lines.append(one.layout.before.format(*names))
            if one.ordinal is not None:
                self.values[one.ordinal] = one.layout.value.format(*names)
        self._formats, self._names, self._pending = [], [], []
        return size

    def add_nullable(self, one: Field, is_null: str) -> None:
        """A column that may be NULL in this image, by itself."""
        self.flush()
        inner = _Path(self._constants)
        inner.add(one)
        inner.flush()
        if one.ordinal is not None:
            name = self.values[one.ordinal] = f"t{one.index}"
            inner.lines.append(f"{name} = {inner.values[one.ordinal]}")
            self.lines.append(f"if {is_null}: {name} = None")
        else:
            self.lines.append(f"if {is_null}: pass")
        self.lines += ["else:", *_indent(inner.lines)]

    def append_row(self, append: str, width: int) -> None:
        self.flush()
        self.lines.append(f"{append}(({''.join(self.values[i] + ', ' for i in range(width))}))")


def _indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _build_image(
    fields: list[Field], width: int, append: str, constants: dict[str, object]
) -> tuple[list[str], int]:
    """Lines that read one image at ``p`` and append its row; and how many bytes the first read may reach.

    The NULL bits are read together with the columns behind them, as if there were no NULL; if there is one, what was
    read is dropped.
    """
    bitmap = (len(fields) + 7) // 8
    fast = _Path(constants)
    fast.read_number("n", bitmap)
    for one in fields:
        fast.add(one)
    fast.append_row(append, width)
    reach = struct.calcsize("<" + fast.lines[0].split("u_")[1].split("(")[0])
    first, rest = fast.lines[0], fast.lines[1:]
    bits = ["n = from_bytes(n, 'little')"] if bitmap not in _BITMAP_FORMATS else []
    constants["from_bytes"] = int.from_bytes
    slow = _build_slow(fields, width, append, constants)
    mask = (1 << len(fields)) - 1
    return [first, *bits, f"if n & {mask}:", *_indent(slow), "else:", *_indent(rest)], reach


def _build_slow(fields: list[Field], width: int, append: str, constants: dict[str, object]) -> list[str]:
    """An image with NULLs: every nullable column by itself, the others together."""
    slow = _Path(constants)
    never = sum(1 << i for i, one in enumerate(fields) if not one.nullable)
    slow.lines += [f"if n & {never}: raise ValueError('NULL in a NOT NULL column')"] * bool(never)
    slow.lines.append(f"p += {(len(fields) + 7) // 8}")
    for i, one in enumerate(fields):
        if one.nullable:
            slow.add_nullable(one, f"n & {1 << i}")
        else:
            slow.add(one)
    slow.append_row(append, width)
    return slow.lines


_APPENDS: Final = {
    Op.INSERT: ["add_after"],
    Op.UPDATE: ["add_before", "add_after"],
    Op.DELETE: ["add_before"],
}


def _compile(op: Op, images: list[list[Field]], width: int) -> tuple[_Reader, int]:
    """The function that reads all rows between ``p`` and ``end``, and how far beyond an image's start it may reach."""
    constants: dict[str, object] = {}
    appends = _APPENDS[op]
    built = [_build_image(one, width, name, constants) for one, name in zip(images, appends, strict=True)]
    body = ["before = after = ()"]
    for name in appends:
        rows = name.removeprefix("add_")
        body += [f"{rows} = []", f"{name} = {rows}.append"]
    body += [
        "while p < end:",
        *_indent([line for lines, _ in built for line in lines]),
        "if p != end: raise ValueError('row images end %d bytes off their event' % (p - end))",
        "return before, after",
    ]
    source = "\n".join(["def read(b, p, end):", *_indent(body)])
    exec(compile(source, "<row codec>", "exec"), constants)
    return cast(_Reader, constants["read"]), max(reach for _, reach in built)


__all__ = ["Decoder", "build_decoder", "explain_mismatch"]
