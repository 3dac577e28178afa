"""Messages of PostgreSQL's pgoutput plugin, protocol versions 1 to 4, from bytes to values (pure).

Source: PostgreSQL documentation, "Logical Replication Message Formats". Integers are big-endian, names end with a zero
byte, times are microseconds since 2000. Two-phase messages are refused: that option stays off (SEMANTICS §3.3).

``parse`` reads the messages of a transaction's frame; rows are read by ``RowDecoder``s, generated for each relation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from replicator.errors import UnsupportedEvent
from replicator.model import UNCHANGED, Column, Row, TableSchema, Value
from replicator.readers.unfit import HINT, ValueUnfit
from replicator.typemap.pgvalues import SHORT, text_converter

EPOCH: Final = 946_684_800_000_000  # 2000-01-01 in µs since 1970

BEGIN, COMMIT, ORIGIN, RELATION, TYPE = b"BCORY"
INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE = b"IUDTM"
STREAM_START, STREAM_STOP, STREAM_COMMIT, STREAM_ABORT = b"SEcA"
NEW, KEY, OLD = b"NKO"  # which tuple follows
_TEXT, _NULL, _UNSENT, _BINARY = b"tnub"


class Begin(NamedTuple):
    """``final_lsn`` is where the commit record begins; ``commit_time`` is µs since 1970."""

    final_lsn: int
    commit_time: int
    xid: int


class Commit(NamedTuple):
    """``end_lsn`` is behind the commit record: where a restart goes on."""

    lsn: int
    end_lsn: int
    commit_time: int


class Origin(NamedTuple):
    """Where the transaction came from, when the source itself received it by replication."""

    lsn: int
    name: str


class RelationColumn(NamedTuple):
    """``modifier`` is atttypmod; ``is_key``: part of the replica identity."""

    name: str
    is_key: bool
    type: int
    modifier: int


class Relation(NamedTuple):
    """``identity``: d(efault), n(othing), f(ull), i(ndex)."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]


class TypeName(NamedTuple):
    """A type that is not built in, before the relation that uses it."""

    oid: int
    schema: str
    name: str


class Truncate(NamedTuple):
    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class LogicalMessage(NamedTuple):
    """What pg_logical_emit_message wrote."""

    is_transactional: bool
    lsn: int
    prefix: str
    content: bytes


class StreamStart(NamedTuple):
    """What follows belongs to a transaction that is still open."""

    xid: int
    is_first: bool


class StreamStop(NamedTuple):
    pass


class StreamCommit(NamedTuple):
    xid: int
    lsn: int
    end_lsn: int
    commit_time: int


class StreamAbort(NamedTuple):
    """``xid`` is the top transaction; ``subxid`` is what ended, the same where all of it did."""

    xid: int
    subxid: int


Message: TypeAlias = (
    Begin
    | Commit
    | Origin
    | Relation
    | TypeName
    | Truncate
    | LogicalMessage
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)


def parse(data: bytes, start: int, *, is_streamed: bool = False) -> Message:
    """The message at ``start``, which is not a row's. ``is_streamed``: between StreamStart and StreamStop, where some
    messages carry a transaction id (``read_xid``). Raises UnsupportedEvent.
    """
    kind = data[start]
    parser = _PARSERS.get(kind)
    if parser is None:
        raise UnsupportedEvent(
            f"pgoutput sent a message of type {chr(kind)!r}, which this version does not know",
            hint="report it with the server's version",
        )
    at = start + 5 if is_streamed and kind in _WITH_XID else start + 1
    try:
        return parser(data, at)
    except (struct.error, ValueError, IndexError) as error:
        raise UnsupportedEvent(f"a pgoutput message of type {chr(kind)!r} is cut off: {error}") from error


def read_xid(data: bytes, start: int) -> int:
    """The transaction or subtransaction of a message within a stream block."""
    return int.from_bytes(data[start + 1 : start + 5], "big")


_WITH_XID: Final = frozenset({RELATION, TYPE, INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE})
_LSN_TIME_XID: Final = struct.Struct(">QqI").unpack_from
_COMMIT: Final = struct.Struct(">BQQq").unpack_from
_STREAM_COMMIT: Final = struct.Struct(">IBQQq").unpack_from
_TWO_XIDS: Final = struct.Struct(">II").unpack_from
_COLUMN: Final = struct.Struct(">Ii").unpack_from
_LSN: Final = struct.Struct(">Q").unpack_from
_LENGTH: Final = struct.Struct(">I").unpack_from
_SHORT: Final = struct.Struct(">h").unpack_from


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode("utf8"), end + 1


def _parse_begin(data: bytes, at: int) -> Begin:
    lsn, time, xid = _LSN_TIME_XID(data, at)
    return Begin(lsn, time + EPOCH, xid)


def _parse_commit(data: bytes, at: int) -> Commit:
    _, lsn, end, time = _COMMIT(data, at)
    return Commit(lsn, end, time + EPOCH)


def _parse_origin(data: bytes, at: int) -> Origin:
    (lsn,) = _LSN(data, at)
    return Origin(lsn, _read_name(data, at + 8)[0])


def _parse_relation(data: bytes, at: int) -> Relation:
    (oid,) = _LENGTH(data, at)
    schema, at = _read_name(data, at + 4)
    name, at = _read_name(data, at)
    identity = chr(data[at])
    (count,) = _SHORT(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(data[at] & 1)
        column, at = _read_name(data, at + 1)
        columns.append(RelationColumn(column, is_key, *_COLUMN(data, at)))
        at += 8
    # PostgreSQL names its own schema with an empty string.
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _parse_type(data: bytes, at: int) -> TypeName:
    (oid,) = _LENGTH(data, at)
    schema, at = _read_name(data, at + 4)
    return TypeName(oid, schema or "pg_catalog", _read_name(data, at)[0])


def _parse_truncate(data: bytes, at: int) -> Truncate:
    (count,) = _LENGTH(data, at)
    options = data[at + 4]
    relations = struct.unpack_from(f">{count}I", data, at + 5)
    return Truncate(relations, bool(options & 1), bool(options & 2))


def _parse_message(data: bytes, at: int) -> LogicalMessage:
    flags = data[at]
    (lsn,) = _LSN(data, at + 1)
    prefix, at = _read_name(data, at + 9)
    (length,) = _LENGTH(data, at)
    return LogicalMessage(bool(flags & 1), lsn, prefix, data[at + 4 : at + 4 + length])


def _parse_stream_start(data: bytes, at: int) -> StreamStart:
    (xid,) = _LENGTH(data, at)
    return StreamStart(xid, data[at + 4] == 1)


def _parse_stream_stop(_data: bytes, _at: int) -> StreamStop:
    return StreamStop()


def _parse_stream_commit(data: bytes, at: int) -> StreamCommit:
    xid, _, lsn, end, time = _STREAM_COMMIT(data, at)
    return StreamCommit(xid, lsn, end, time + EPOCH)


def _parse_stream_abort(data: bytes, at: int) -> StreamAbort:
    """Version 4 with parallel streaming adds the abort's LSN and time, which nothing needs."""
    return StreamAbort(*_TWO_XIDS(data, at))


_PARSERS: Final[dict[int, Callable[[bytes, int], Message]]] = {
    BEGIN: _parse_begin,
    COMMIT: _parse_commit,
    ORIGIN: _parse_origin,
    RELATION: _parse_relation,
    TYPE: _parse_type,
    TRUNCATE: _parse_truncate,
    MESSAGE: _parse_message,
    STREAM_START: _parse_stream_start,
    STREAM_STOP: _parse_stream_stop,
    STREAM_COMMIT: _parse_stream_commit,
    STREAM_ABORT: _parse_stream_abort,
}


# --- rows -------------------------------------------------------------------------------------------------------------

Decode: TypeAlias = Callable[[bytes, int], tuple[Row, int]]


class RowDecoder(NamedTuple):
    """The decoders of one relation's tuples into rows of one schema.

    Each takes a message and where its tuple begins (the column count), and returns the row and where the tuple ends.
    ``whole`` reads every column; ``key`` those of the replica identity, for a K tuple sends NULL for all others: they
    are UNCHANGED. ``identify`` is the before image of an update that sent none: what identifies the row did not change.
    """

    whole: Decode
    key: Decode
    identify: Callable[[Row], Row]


def explain_columns(found: Mapping[str, str], table: TableSchema) -> str | None:
    """Why columns, by name with their types as ``format_type`` prints them, are not the schema's."""
    wanted = {column.name: column.source_type for column in table.columns}
    if found == wanted:
        return None
    for name in found.keys() - wanted.keys():
        return f"column {name} was added"
    for name in wanted.keys() - found.keys():
        return f"column {name} is gone"
    name = next(name for name in wanted if wanted[name] != found[name])
    return f"column {name} was {wanted[name]} and is {found[name]}"


def explain_mismatch(relation: Relation, types: Sequence[str], table: TableSchema) -> str | None:
    """Why a relation's columns are not the schema's, None where they are; ``types`` are the columns' types as
    ``format_type`` prints them.
    """
    found = {column.name: text for column, text in zip(relation.columns, types, strict=True)}
    reason = explain_columns(found, table)
    if reason is not None:
        return reason
    names = {column.name for column in relation.columns if column.is_key}
    if not {table.columns[at].name for at in table.key} <= names:
        return "its replica identity no longer holds the table's key"
    return None


def build_decoder(relation: Relation, table: TableSchema) -> RowDecoder:
    """Decoders for a relation in which ``explain_mismatch`` finds nothing."""
    ordinals = {column.name: at for at, column in enumerate(table.columns)}
    places = [ordinals.get(column.name) for column in relation.columns]
    keys = {ordinals[column.name] for column in relation.columns if column.is_key and column.name in ordinals}
    everything = set(ordinals.values())
    return RowDecoder(
        _build_decode(table, places, everything),
        _build_decode(table, places, keys),
        _build_identify(table, keys),
    )


def _build_identify(table: TableSchema, keys: set[int]) -> Callable[[Row], Row]:
    values = ", ".join(f"row[{at}]" if at in keys else "unchanged" for at in range(len(table.columns)))
    identify: Callable[[Row], Row] = eval(f"lambda row: ({values},)", {"unchanged": UNCHANGED})
    return identify


def _build_decode(table: TableSchema, places: Sequence[int | None], wanted: set[int]) -> Decode:
    """The flat code of one tuple: each column in its turn, straight on where it is text."""
    names: dict[str, Any] = {
        "int": int,
        "unpack": _LENGTH,
        "unchanged": UNCHANGED,
        "other": _read_other,
        "skip": _skip,
        "fail": _fail,
        "count": _SHORT,
        "explain": lambda b, start, p, error: _explain(b, (start, p), table, places, error),
        "table": table,
        "Unfit": (ValueError, KeyError),
    }
    body: list[str] = []
    for at in places:
        body += _column_code(table.columns[at], at, names) if at in wanted and at is not None else _SKIP_CODE
    row = ", ".join(f"c{at}" if at in wanted else "unchanged" for at in range(len(table.columns)))
    source = "\n".join(
        [
            "def decode(b, p):",
            f"    if count(b, p)[0] != {len(places)}:",
            "        fail(table)",
            "    p += 2",
            "    start = p",
            "    try:",
            *("        " + line for line in body),
            f"        return ({row},), p",
            "    except Unfit as error:",
            "        explain(b, start, p, error)",
        ]
    )
    exec(compile(source, "<tuple decoder>", "exec"), names)
    decode: Decode = names["decode"]
    return decode


_SKIP_CODE: Final = ["p = skip(b, p)"]


def _column_code(column: Column, at: int, names: dict[str, Any]) -> list[str]:
    """The lines that read one column at ``p`` and leave ``p`` behind it; short values have their length in one byte."""
    converter = text_converter(column)
    value = "b[p + 5 : q]"
    if converter is int:
        value = f"int({value})"
    elif converter is not None:
        names[f"convert{at}"] = converter
        value = f"convert{at}({value})"
    length = "b[p + 4]" if column.base in SHORT else "unpack(b, p + 1)[0]"
    return [
        f"if b[p] == {_TEXT}:",
        f"    q = p + 5 + {length}; c{at} = {value}; p = q",
        "else:",
        f"    c{at} = other(b, p); p += 1",
    ]


def _read_other(data: bytes, at: int) -> Value:
    kind = data[at]
    if kind == _NULL:
        return None
    if kind == _UNSENT:
        return UNCHANGED
    raise UnsupportedEvent(f"pgoutput sent a column value of kind {chr(kind)!r}, text was asked for")


def _skip(data: bytes, at: int) -> int:
    length: int = _LENGTH(data, at + 1)[0] if data[at] in (_TEXT, _BINARY) else -4
    return at + 5 + length


def _fail(table: TableSchema) -> None:
    raise UnsupportedEvent(
        f"{table.source}: a row has more or fewer columns than its relation message said",
        hint="report it with the server's version",
    )


def _explain(
    data: bytes, span: tuple[int, int], table: TableSchema, places: Sequence[int | None], error: Exception
) -> None:
    """Name the column that begins where ``span`` ends, of the tuple whose first column begins where it begins."""
    start, failed = span
    number = 0
    while start < failed:
        start = _skip(data, start)
        number += 1
    at = places[number]
    name = "?" if at is None else table.columns[at].name
    raise ValueUnfit(f"{table.source}:{name}: {error}", hint=HINT) from error
