"""What a throwaway server wrote to its binary log, read from the files of its data directory and decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replicator.model import Changes, Row, TableName, TableSchema, Value
from replicator.readers import binlog, rowcodec, tablemap
from replicator.servers import Server


class LogEvent(NamedTuple):
    """One event; ``buffer[start:end]`` is its body without checksum."""

    type: int
    flags: int
    log_pos: int
    buffer: bytes
    start: int
    end: int

    @property
    def place(self) -> tuple[bytes, int, int]:
        return self.buffer, self.start, self.end


class Log:
    """The log from the moment this was made: a new file begins with it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.execute("FLUSH BINARY LOGS")
        self._first = self.files()[-1]

    def files(self) -> list[str]:
        return [str(row[0]) for row in self.server.execute("SHOW BINARY LOGS")]

    def events(self, *, unpacked: bool = True) -> Iterator[LogEvent]:
        """Every event written since; ``unpacked``: the events inside compressed transactions in place of the payload."""
        for name in self.files():
            if name >= self._first:
                for event in scan((self.server.datadir / name).read_bytes()):
                    inner = unpacked and event.type == binlog.TRANSACTION_PAYLOAD
                    yield from unpack(event) if inner else [event]

    def changes(self, schemas: Sequence[TableSchema]) -> list[Changes]:
        """The rows events of these tables, decoded; every event's columns must be those of its schema."""
        known = {schema.source: schema for schema in schemas}
        decoders: dict[bytes, rowcodec.Decoder | None] = {}
        found: list[Changes] = []
        for event in self.events():
            if event.type == binlog.TABLE_MAP:
                name = tablemap.parse_table_name(*event.place)
                schema = known.get(TableName(name.schema, name.table))
                decoders[name.table_id] = self.decoder(event, schema) if schema else None
            elif event.type in binlog.ROWS_TYPES:
                decoder = decoders.get(event.buffer[event.start : event.start + 6])
                if decoder:
                    found.append(decoder.decode(event.type, *event.place))
        return found

    def decoder(self, event: LogEvent, schema: TableSchema) -> rowcodec.Decoder:
        table_map = tablemap.parse_table_map(*event.place, is_mariadb=self.server.kind == "mariadb")
        reason = rowcodec.explain_mismatch(table_map, schema)
        assert reason is None, f"{schema.source}: {reason}"
        return rowcodec.build_decoder(table_map, schema)

    def inserted(self, schemas: Sequence[TableSchema]) -> dict[str, list[Row]]:
        """The after images by table name, in the log's order."""
        rows: dict[str, list[Row]] = defaultdict(list)
        for changes in self.changes(schemas):
            rows[changes.table.source.table] += changes.after
        return rows


def scan(data: bytes) -> Iterator[LogEvent]:
    """The events of one file's bytes; checksums are verified."""
    at, checksum = 4, 0
    while at < len(data):
        _, kind, _, size, log_pos, flags = binlog.HEADER.unpack_from(data, at)
        start, end = at + binlog.HEADER_SIZE, at + size
        if kind == binlog.FORMAT_DESCRIPTION:
            checksum = binlog.parse_format_description(data, start, end).checksum
        elif checksum:
            assert binlog.verify_checksum(data, at, size)
            end -= binlog.CHECKSUM_SIZE
        yield LogEvent(kind, flags, log_pos, data, start, end)
        at += size


def unpack(event: LogEvent) -> Iterator[LogEvent]:
    for block in binlog.read_payload(*event.place):
        at = 0
        while at < len(block):
            _, kind, _, size, log_pos, flags = binlog.HEADER.unpack_from(block, at)
            yield LogEvent(kind, flags, log_pos, block, at + binlog.HEADER_SIZE, at + size)
            at += size


def show(value: Value) -> Value:
    """Equal for equal bits: floats by their exact text, so that -0.0 is not 0.0."""
    return value.hex().encode() if isinstance(value, float) else value
