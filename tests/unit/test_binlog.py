"""Events parsed from bytes that real servers wrote, and from bytes that no server would write."""

from __future__ import annotations

import random
import struct
import uuid
import zlib

import pytest
import zstandard

from replicator.errors import UnsupportedEvent
from replicator.readers import binlog
from replicator.readers.binlog import (
    MariadbGtid,
    Query,
    Rotate,
    XaPrepare,
    Xid,
)

SID = bytes.fromhex("899aa6b7e7d811f19d5102fc00000001")
TAGGED = bytes.fromhex(  # MySQL 9.7: gtid_next='aaaaaaaa-…:zz:9223372036854775805', original_commit_timestamp set
    "02a200000002" + "a902" * 16 + "04fffaffffffffffffff0604" + "7a7a0804"
    "0a0c0c7f6f2575a50061060e7f00c029f73d540510b50412" + "83120b"
)  # fmt: skip
MARIADB_PREPARED = bytes.fromhex("0300000000000000000000004c070000000302616263646501ff")
MARIADB_COMMIT_ALTER = bytes.fromhex("07000000000000000000000029040600000000000000")


def test_headers_are_read_where_they_stand() -> None:
    raw = b"??" + struct.pack("<IBIIIH", 1700000000, binlog.XID, 7, 31, 1234, 0x80)
    assert binlog.HEADER.unpack_from(raw, 2) == (1700000000, 16, 7, 31, 1234, binlog.LOG_EVENT_IGNORABLE_F)
    assert binlog.HEADER.size == binlog.HEADER_SIZE


def test_checksums() -> None:
    event = bytes(range(40))
    raw = b"xx" + event + zlib.crc32(event).to_bytes(4, "little")
    assert binlog.verify_checksum(raw, 2, 44)
    assert not binlog.verify_checksum(raw[:10] + b"!" + raw[11:], 2, 44)


def build_format(version: bytes = b"9.7.4", checksum: int = 1) -> bytes:
    return struct.pack("<H50sIB", 4, version, 1700000000, 19) + bytes(41) + bytes([checksum]) + b"crc!"


def test_format_description_of_both_products() -> None:
    raw = build_format()
    mysql = binlog.parse_format_description(raw, 0, len(raw))
    assert mysql == (4, "9.7.4", 1700000000, 19, binlog.CHECKSUM_CRC32)
    assert not mysql.is_mariadb
    raw = build_format(b"10.11.18-MariaDB-log", 0)
    mariadb = binlog.parse_format_description(raw, 0, len(raw))
    assert (mariadb.is_mariadb, mariadb.checksum) == (True, binlog.CHECKSUM_NONE)


@pytest.mark.parametrize("raw", [build_format(checksum=2), b"\x03" + build_format()[1:], b"", b"\x04\x00"])
def test_a_format_that_is_not_known_is_refused(raw: bytes) -> None:
    with pytest.raises(UnsupportedEvent, match="format description"):
        binlog.parse_format_description(raw, 0, len(raw))


def test_rotate() -> None:
    raw = struct.pack("<Q", 4) + b"binlog.000002"
    assert binlog.parse_rotate(b"#" + raw, 1, len(raw) + 1) == Rotate("binlog.000002", 4)


def build_query(variables: bytes = b"", schema: bytes = b"shop", statement: bytes = b"BEGIN") -> bytes:
    return (
        struct.pack("<IIBHH", 9, 1, len(schema), 0, len(variables)) + variables + schema + b"\0" + statement
    )


def test_query_with_all_its_variables() -> None:
    variables = (
        b"\x00" + struct.pack("<I", 0x4000000)
        + b"\x01" + struct.pack("<Q", 0x45A00020)
        + b"\x06\x03std"
        + b"\x03" + struct.pack("<HH", 1, 1)
        + b"\x04" + struct.pack("<HHH", 255, 45, 8)
        + b"\x05\x06+05:30"
        + b"\x07\x09\x00" + b"\x08\x2d\x00"
        + b"\x09" + bytes(8)
        + b"\x0a" + bytes(4)
        + b"\x0b\x04root\x09localhost"
        + b"\x0c\x02one\0two\0"
        + b"\x0d\x01\x02\x03"
        + b"\x10\x01" + b"\x11" + bytes(8) + b"\x12\xff\x00" + b"\x13\x01" + b"\x14\x00"
        + b"\x80\x07\x00\x00" + b"\x81" + bytes(8)
        + b"\xf0 a variable of a later version"
    )  # fmt: skip
    raw = build_query(variables, statement="DROP TABLE é".encode())
    assert binlog.parse_query(raw, 0, len(raw)) == Query(
        9, 1, 0, b"shop", "DROP TABLE é".encode(), 0x4000000, 0x45A00020, 255, "+05:30", 0x030201
    )


def test_query_with_too_many_schemas_to_list() -> None:
    raw = build_query(b"\x0c\xfe\x05\x03UTC")
    query = binlog.parse_query(raw, 0, len(raw))
    assert (query.time_zone, query.statement) == ("UTC", b"BEGIN")


def compress(data: bytes) -> bytes:
    size = len(data).to_bytes(2, "big")
    return bytes([0x82]) + size + zlib.compress(data)


def test_compressed_query() -> None:
    raw = build_query(statement=compress(b"CREATE TABLE t (a INT)" * 9))
    assert binlog.parse_query_compressed(raw, 0, len(raw)).statement == b"CREATE TABLE t (a INT)" * 9


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x91\x05abc",
        b"\x81\x04" + zlib.compress(b"abc"),
        b"\x81\x02" + zlib.compress(b"abc"),
        b"\x81\x05ab",
    ],
)
def test_what_does_not_inflate_is_refused(data: bytes) -> None:
    raw = build_query(statement=data)
    with pytest.raises(UnsupportedEvent, match="query compressed"):
        binlog.parse_query_compressed(raw, 0, len(raw))


def test_gtid_with_a_tag() -> None:
    gtid = binlog.parse_gtid_tagged(TAGGED, 0, len(TAGGED))
    sid = uuid.UUID("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa").bytes
    assert gtid == (sid, "zz", 9223372036854775805, 1795505264076143)


def test_mariadb_gtids() -> None:
    raw = struct.pack("<QIB", 3, 5, 12) + bytes(6)
    assert binlog.parse_mariadb_gtid(raw, 0, 19) == MariadbGtid(5, 3, 12)
    prepared = binlog.parse_mariadb_gtid(MARIADB_PREPARED, 0, len(MARIADB_PREPARED))
    assert prepared == MariadbGtid(0, 3, 76, Xid(7, b"abc", b"de"), 1)
    assert prepared.is_xa_prepare
    assert not prepared.is_standalone
    alter = binlog.parse_mariadb_gtid(MARIADB_COMMIT_ALTER, 0, len(MARIADB_COMMIT_ALTER))
    assert (alter.is_commit_alter, alter.start_alter_sequence, alter.is_ddl) == (True, 6, True)
    grouped = struct.pack("<QIBQ", 3, 5, 2 | 4, 99) + b"\0\0"
    assert binlog.parse_mariadb_gtid(grouped, 0, len(grouped)) == MariadbGtid(5, 3, 6)


def test_small_events() -> None:
    raw = bytes.fromhex("00070000000300000002000000") + b"abcde"
    assert binlog.parse_xa_prepare(raw, 0, len(raw)) == XaPrepare(Xid(7, b"abc", b"de"), False)
    assert binlog.parse_incident(b"\x01\x00\x04lost", 0, 7) == (1, "lost")


# --- rows events up to their images -------------------------------------------------------------------------------------


def test_rows_headers_of_all_versions() -> None:
    table = (258).to_bytes(6, "little") + (3).to_bytes(2, "little")
    v1 = table + b"\x0a\xff\x03" + b"rows"
    header = binlog.parse_rows_header(binlog.WRITE_ROWS_V1, v1, 0, len(v1))
    assert header == (258, 3, 10, b"\xff\x03", b"", v1, 11, 15)
    extra = b"\x05\x00\x01\x02\x03"  # partition 0x0302
    v2 = table + extra + b"\x0a\xff\x03\xff\x01" + b"rows"
    header = binlog.parse_rows_header(binlog.UPDATE_ROWS, v2, 0, len(v2))
    assert header == (258, 3, 10, b"\xff\x03", b"\xff\x01", v2, 18, 22)


def test_compressed_rows() -> None:
    table = bytes(8)
    raw = table + b"\x02\x03\x03" + compress(b"images" * 50)
    header = binlog.parse_rows_header(binlog.MARIADB_UPDATE_ROWS_COMPRESSED_V1, raw, 0, len(raw))
    assert (header.columns, header.buffer, header.rows_start, header.rows_end) == (2, b"images" * 50, 0, 300)


# --- compressed transactions --------------------------------------------------------------------------------------------


def build_event(body: bytes) -> bytes:
    return struct.pack("<IBIIIH", 0, binlog.ROWS_QUERY, 1, 19 + len(body), 0, 0) + body


def build_payload(data: bytes, kind: int = 0) -> bytes:
    packed = zstandard.compress(data) if kind == 0 else data
    size = b"\xfe" + len(packed).to_bytes(8, "little")
    code = bytes([kind]) if kind < 251 else b"\xfc" + kind.to_bytes(2, "little")
    return (
        b"\x02"
        + bytes([len(code)])
        + code
        + b"\x03\x09\xfe"
        + len(data).to_bytes(8, "little")
        + b"\x01\x09"
        + size
        + b"\x00"
        + packed
    )


@pytest.mark.parametrize("kind", [0, 255])
def test_payloads_come_in_blocks_of_whole_events(kind: int) -> None:
    choose = random.Random(1)
    events = [build_event(choose.randbytes(choose.choice([0, 10, 1000, 300_000]))) for _ in range(60)]
    events.append(build_event(choose.randbytes(5 << 20)))
    events.append(build_event(b"last"))
    raw = b"##" + build_payload(b"".join(events), kind)
    blocks = list(binlog.read_payload(raw, 2, len(raw)))
    assert b"".join(blocks) == b"".join(events)
    assert len(blocks) > 5
    assert max(map(len, blocks)) < (7 << 20)
    starts = set()
    at = 0
    for event in events:
        starts.add(at)
        at += len(event)
    cut = 0
    for block in blocks:
        assert cut in starts
        cut += len(block)


@pytest.mark.parametrize(
    "raw",
    [
        build_payload(build_event(b"x"))[:-3],
        build_payload(build_event(b"x")[:-1], 255),
        build_payload(b"x" * 40, 255),
        build_payload(build_event(b"one") + build_event(b"two"), 255)[: -len(build_event(b"two"))],
        build_payload(build_event(b"x"), 7),
        b"\x02\x01",
    ],
    ids=["cut zstd", "cut event", "no events", "an event is missing", "unknown compression", "no data"],
)
def test_payloads_that_do_not_parse_are_refused(raw: bytes) -> None:
    with pytest.raises(UnsupportedEvent, match="TRANSACTION_PAYLOAD"):
        list(binlog.read_payload(raw, 0, len(raw)))


# --- bytes no server writes ---------------------------------------------------------------------------------------------

PARSERS = {
    "format": (binlog.parse_format_description, build_format()),
    "rotate": (binlog.parse_rotate, struct.pack("<Q", 4) + b"f"),
    "query": (binlog.parse_query, build_query(b"\x05\x03UTC\x0c\x01a\0")),
    "tagged": (binlog.parse_gtid_tagged, TAGGED),
    "mariadb": (binlog.parse_mariadb_gtid, MARIADB_PREPARED),
    "xa": (binlog.parse_xa_prepare, bytes.fromhex("00070000000300000002000000") + b"abcde"),
    "incident": (binlog.parse_incident, b"\x01\x00\x04lost"),
}


@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_parse_or_are_refused(name: str) -> None:
    parse, raw = PARSERS[name]
    choose = random.Random(name)
    for cut in range(len(raw)):
        _try(parse, raw[:cut])
    for _ in range(500):
        spoiled = bytearray(raw)
        spoiled[choose.randrange(len(raw))] = choose.randrange(256)
        _try(parse, bytes(spoiled))


def _try(parse: object, raw: bytes) -> None:
    try:
        parse(raw, 0, len(raw))  # type: ignore[operator]
    except UnsupportedEvent as error:
        assert error.hint  # noqa: PT017


def test_every_number_has_one_name() -> None:
    assert binlog.EVENT_NAMES[binlog.XID] == "XID"
    assert binlog.EVENT_NAMES[168] == "MARIADB_DELETE_ROWS_COMPRESSED_V1"
    assert len(binlog.EVENT_NAMES) == len(set(binlog.EVENT_NAMES.values()))
    assert set(binlog.EVENT_NAMES) >= binlog.ROWS_TYPES
