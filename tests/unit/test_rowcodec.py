"""Row images written by hand through generated decoders: NULLs, groups, skipped columns, and bytes that do not fit."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest

from replicator.errors import UnsupportedEvent
from replicator.model import Column, GeneratedColumn, Kind, Op, TableName, TableSchema
from replicator.readers import binlog, rowcodec
from replicator.readers import tablemap as types
from replicator.readers.rowvalues import Cache, read_inet6, read_uuid
from replicator.readers.tablemap import ColumnMap, TableMap

ID = bytes(6)


def column(
    name: str, kind: Kind, source_type: str, charset: str | None = None, labels: tuple[bytes, ...] = ()
) -> Column:
    return Column(name, kind, source_type, source_type=source_type, charset=charset, labels=labels)


COLUMNS = (
    (ColumnMap(types.LONGLONG, 0, False, True, name=b"id"), column("id", Kind.INTEGER, "bigint unsigned")),
    (ColumnMap(types.INT24, 0, True, False, name=b"m"), column("m", Kind.INTEGER, "mediumint")),
    (
        ColumnMap(types.VARCHAR, 128, True, charset=45, name=b"v"),
        column("v", Kind.TEXT, "varchar(32)", "utf8mb4"),
    ),
    (ColumnMap(types.BLOB, 3, True, charset=63, name=b"b"), column("b", Kind.BINARY, "mediumblob")),
    (ColumnMap(types.NEWDECIMAL, 12 << 8 | 2, False, name=b"d"), column("d", Kind.PLAIN, "decimal(12,2)")),
    (ColumnMap(types.DATETIME2, 3, True, name=b"t"), column("t", Kind.PLAIN, "datetime(3)")),
    (
        ColumnMap(types.ENUM, 1, True, charset=45, name=b"e", labels=(b"x", b"y")),
        column("e", Kind.ENUM, "enum('x','y')", "utf8mb4", (b"x", b"y")),
    ),
    (
        ColumnMap(types.SET, 3, True, charset=45, name=b"s", labels=(b"p", b"q")),
        column("s", Kind.SET, "set('p','q')", "utf8mb4", (b"p", b"q")),
    ),
    (ColumnMap(types.DOUBLE, 8, True, name=b"w"), column("w", Kind.DOUBLE, "double")),
    (ColumnMap(types.STRING, 4, True, charset=63, name=b"n"), column("n", Kind.BINARY, "binary(4)")),
)

WHOLE = (7, -3, b"abc", b"\0\xff", b"-0.50", b"2024-02-29 16:59:58.120", b"y", b"p,q", -0.5, b"\1\0\0\0")
PIECES = (
    struct.pack("<Q", 7),
    (-3).to_bytes(3, "little", signed=True),
    b"\x03abc",
    b"\x02\0\0\0\xff",
    bytes.fromhex("7fffffffff") + b"\xcd",
    (1 << 39 | (2024 * 13 + 2) << 22 | 29 << 17 | 16 << 12 | 59 << 6 | 58).to_bytes(5, "big") + b"\x04\xb0",
    b"\x02",
    b"\x03\0\0",
    struct.pack("<d", -0.5),
    b"\x01\x01",
)


def make(
    columns: Sequence[tuple[ColumnMap, Column]] = COLUMNS, generated: tuple[str, ...] = ()
) -> rowcodec.Decoder:
    table_map = TableMap(ID, 1, "shop", "t", tuple(one for one, _ in columns))
    made = tuple(GeneratedColumn(name, "int", "1", False) for name in generated)
    schema = TableSchema(
        TableName("shop", "t"),
        "t",
        tuple(c for _, c in columns if c.name not in generated),
        (0,),
        generated=made,
    )
    assert rowcodec.explain_mismatch(table_map, schema) is None
    return rowcodec.build_decoder(table_map, schema)


def image(nulls: Sequence[int] = (), pieces: Sequence[bytes] = PIECES, filler: int = 1) -> bytes:
    width = (len(pieces) + 7) // 8
    bits = sum(1 << i for i in nulls)
    for i in range(len(pieces), width * 8):  # servers set the bits behind the last column
        bits |= filler << i
    return bits.to_bytes(width, "little") + b"".join(p for i, p in enumerate(pieces) if i not in nulls)


def event(
    kind: int, images: bytes, count: int = len(COLUMNS), flags: int = 0, present: int | None = None
) -> bytes:
    bitmap = ((1 << count) - 1 if present is None else present).to_bytes((count + 7) // 8, "little")
    extra = b"\x02\0" if kind in binlog.ROWS_V2_TYPES else b""
    head = bytes([count]) if count < 251 else b"\xfc" + count.to_bytes(2, "little")
    return (
        ID
        + flags.to_bytes(2, "little")
        + extra
        + head
        + bitmap * (2 if kind in binlog.UPDATE_TYPES else 1)
        + images
    )


def with_nulls(nulls: Sequence[int]) -> tuple[object, ...]:
    return tuple(None if i in nulls else value for i, value in enumerate(WHOLE))


@pytest.mark.parametrize("kind", [binlog.WRITE_ROWS, binlog.WRITE_ROWS_V1])
@pytest.mark.parametrize("filler", [0, 1])
def test_inserts(kind: int, filler: int) -> None:
    raw = event(kind, image(filler=filler) + image([1, 2, 5], filler=filler) + image(filler=filler))
    changes = make().decode(kind, raw, 0, len(raw))
    assert (changes.op, changes.before) == (Op.INSERT, ())
    assert changes.after == [WHOLE, with_nulls([1, 2, 5]), WHOLE]
    assert changes.size == len(image()) * 2 + len(image([1, 2, 5]))
    assert not changes.no_foreign_key_checks


def test_every_pattern_of_nulls() -> None:
    decoder = make()
    nullable = [i for i, (one, _) in enumerate(COLUMNS) if one.nullable]
    for bits in range(1 << len(nullable)):
        nulls = [column for i, column in enumerate(nullable) if bits >> i & 1]
        raw = event(binlog.DELETE_ROWS, image(nulls))
        changes = decoder.decode(binlog.DELETE_ROWS, raw, 0, len(raw))
        assert changes.before == [with_nulls(nulls)]
        assert changes.after == ()


def test_updates_keep_both_images() -> None:
    raw = event(
        binlog.UPDATE_ROWS,
        image() + image([8]) + image([2]) + image(),
        flags=binlog.ROWS_NO_FOREIGN_KEY_CHECKS_F,
    )
    changes = make().decode(binlog.UPDATE_ROWS, raw, 0, len(raw))
    assert changes.op is Op.UPDATE
    assert changes.before == [WHOLE, with_nulls([2])]
    assert changes.after == [with_nulls([8]), WHOLE]
    assert changes.no_foreign_key_checks


def test_an_event_is_read_where_it_stands() -> None:
    """Other packets stand before and behind it in the same buffer; the last one ends with the buffer."""
    decoder = make()
    raw = event(binlog.WRITE_ROWS, image([1, 2, 3, 5, 6, 7, 8, 9]))
    for before, after in ((b"", b""), (b"#" * 7, b""), (b"#" * 7, b"####"), (b"", b"#" * 500)):
        buffer = before + raw + after
        changes = decoder.decode(binlog.WRITE_ROWS, buffer, len(before), len(before) + len(raw))
        assert changes.after == [with_nulls([1, 2, 3, 5, 6, 7, 8, 9])]


def test_a_last_image_of_nulls_may_end_with_the_buffer() -> None:
    """It is shorter than the struct that reads an image without NULLs."""
    places = (0, 1, 4, 5, 8)
    pieces = [PIECES[i] for i in places]
    raw = event(binlog.WRITE_ROWS, image((), pieces) + image([1, 3, 4], pieces), len(places))
    decoder = make([COLUMNS[i] for i in places])
    whole = tuple(WHOLE[i] for i in places)
    for buffer in (raw, raw + b"crc!", b"#" + raw):
        start = buffer.index(raw)
        changes = decoder.decode(binlog.WRITE_ROWS, buffer, start, start + len(raw))
        assert changes.after == [whole, (7, None, b"-0.50", None, None)]
        assert changes.size == len(raw) - len(event(binlog.WRITE_ROWS, b"", len(places)))


def test_extra_data_of_partitions_is_skipped() -> None:
    raw = event(binlog.WRITE_ROWS, image())
    raw = raw[:8] + b"\x05\0\x01\x02\x03" + raw[10:]
    decoder = make()
    for _ in range(2):
        assert decoder.decode(binlog.WRITE_ROWS, raw, 0, len(raw)).after == [WHOLE]


def test_generated_columns_are_in_no_row() -> None:
    decoder = make(generated=("m", "v", "t"))
    raw = event(binlog.WRITE_ROWS, image() + image([1]) + image([2, 5]))
    expected = tuple(value for i, value in enumerate(WHOLE) if i not in (1, 2, 5))
    assert decoder.decode(binlog.WRITE_ROWS, raw, 0, len(raw)).after == [expected] * 3
    some = [piece for i, piece in enumerate(PIECES) if i not in (1, 5)]  # the server leaves virtual ones out
    raw = event(binlog.WRITE_ROWS, image(pieces=some), present=0b1111011101)
    assert decoder.decode(binlog.WRITE_ROWS, raw, 0, len(raw)).after == [expected]


def test_an_image_without_a_column_names_it() -> None:
    some = [piece for i, piece in enumerate(PIECES) if i != 2]
    raw = event(binlog.WRITE_ROWS, image(pieces=some), present=0b1111111011)
    with pytest.raises(UnsupportedEvent, match=r"^shop\.t: a row image without column v:") as caught:
        make().decode(binlog.WRITE_ROWS, raw, 0, len(raw))
    assert "binlog_row_image=FULL" in caught.value.hint


def test_partial_json_is_refused() -> None:
    raw = event(binlog.PARTIAL_UPDATE_ROWS, image())
    with pytest.raises(UnsupportedEvent, match=r"^shop\.t: .*parts of JSON"):
        make().decode(binlog.PARTIAL_UPDATE_ROWS, raw, 0, len(raw))


@pytest.mark.parametrize("nulls", [(), (1, 2, 5)])
def test_an_image_that_is_cut_or_too_long_is_refused(nulls: Sequence[int]) -> None:
    raw = event(binlog.WRITE_ROWS, image() + image(nulls))
    decoder = make()
    start = len(event(binlog.WRITE_ROWS, b""))
    boundaries = {start, start + len(image()), len(raw)}
    for end in range(len(raw)):
        if end in boundaries:
            continue
        for buffer in (raw, raw[:end]):
            with pytest.raises(UnsupportedEvent, match=r"^shop\.t: a WRITE_ROWS event"):
                decoder.decode(binlog.WRITE_ROWS, buffer, 0, end)
    with pytest.raises(UnsupportedEvent, match="does not decode"):
        decoder.decode(binlog.WRITE_ROWS, raw + b"\0" * 3, 0, len(raw) + 3)


def test_a_null_where_none_can_be_is_refused() -> None:
    raw = event(binlog.WRITE_ROWS, image([0]))
    with pytest.raises(UnsupportedEvent, match="NOT NULL"):
        make().decode(binlog.WRITE_ROWS, raw, 0, len(raw))


def test_another_number_of_columns_is_refused() -> None:
    raw = event(binlog.WRITE_ROWS, image(), count=9)
    with pytest.raises(UnsupportedEvent, match="9 columns"):
        make().decode(binlog.WRITE_ROWS, raw, 0, len(raw))


@pytest.mark.parametrize(("at", "piece"), [(6, b"\x03"), (7, b"\x04\0\0"), (5, bytes(7))])
def test_numbers_beyond_the_type_are_refused(at: int, piece: bytes) -> None:
    """An ENUM of two members numbered 3, a SET with a third bit, a DATETIME without its sign bit."""
    pieces = [piece if i == at else one for i, one in enumerate(PIECES)]
    raw = event(binlog.WRITE_ROWS, image(pieces=pieces))
    with pytest.raises(UnsupportedEvent):
        make().decode(binlog.WRITE_ROWS, raw, 0, len(raw))


def test_spoiled_events_are_read_or_refused() -> None:
    decoder = make()
    raw = event(binlog.UPDATE_ROWS, (image() + image([1, 2, 5])) * 3)
    choose = random.Random(5)
    for _ in range(5000):
        spoiled = bytearray(raw)
        for _ in range(choose.randrange(1, 4)):
            spoiled[choose.randrange(6, len(raw))] = choose.randrange(256)
        try:
            decoder.decode(binlog.UPDATE_ROWS, bytes(spoiled), 0, len(raw))
        except UnsupportedEvent as error:
            assert error.message.startswith("shop.t: ")  # noqa: PT017


def test_the_enums_invalid_value_is_the_number_0() -> None:
    pieces = [b"\0" if i == 6 else one for i, one in enumerate(PIECES)]
    raw = event(binlog.WRITE_ROWS, image(pieces=pieces))
    assert make().decode(binlog.WRITE_ROWS, raw, 0, len(raw)).after[0][6] == 0


@pytest.mark.parametrize("count", [250, 251, 300])
def test_wide_tables(count: int) -> None:
    columns = [
        (ColumnMap(types.TINY, 0, True, name=b"c%d" % i), column(f"c{i}", Kind.INTEGER, "tinyint"))
        for i in range(count)
    ]
    pieces = [bytes([i % 100]) for i in range(count)]
    raw = event(binlog.WRITE_ROWS, image([count - 1], pieces) + image((), pieces), count)
    numbers = tuple(i % 100 for i in range(count))
    assert make(columns).decode(binlog.WRITE_ROWS, raw, 0, len(raw)).after == [(*numbers[:-1], None), numbers]


def test_a_type_that_cannot_be_read_is_refused_by_name() -> None:
    old = (
        ColumnMap(types.DATETIME, 0, True, name=b"o"),
        column("o", Kind.PLAIN, "datetime(3) /* mariadb-5.3 */"),
    )
    with pytest.raises(UnsupportedEvent, match=r"^shop\.t\.o: a column of type datetime\(3\)"):
        make([old])


def test_caches_stay_bounded() -> None:
    cache = Cache[int, int](lambda key: key * 2, 10)
    assert [cache[i] for i in range(100)] == [i * 2 for i in range(100)]
    assert len(cache) <= 10


def test_mariadbs_fixed_binary_types() -> None:
    assert (
        read_uuid(bytes.fromhex("00112233445546771899aabbccddee")) == b"00112233-4455-4677-1899-aabbccddee00"
    )
    assert read_inet6(b"") == b"::"
    assert read_inet6(bytes(10) + b"\xff\xff\1\2\3\4") == b"::ffff:1.2.3.4"
    assert read_inet6(bytes.fromhex("00010000000200000003000000040000")) == b"1::2:0:3:0:4:0"
