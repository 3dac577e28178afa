"""One chunk of an initial load becomes one target transaction, under the compare-and-swap of the worker's own row.

Between ``load`` and ``apply``. Rows of a table that only the program fills go through LOAD DATA LOCAL, streamed from the
source as they come, as the source itself writes them where it can; or through multi-row INSERTs where the target does not
take files, or would warn of each. Rows for a table that holds rows of others go through a careful plan (I6). No row set is
ever whole in memory (I9).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar, cast

from replicator.apply import Committer
from replicator.checkpoint import CHECK_ONE, Lease, acquire_worker, build_chunk_head
from replicator.coercion import Tally, settle_rows
from replicator.config import Endpoint
from replicator.errors import CheckRefused, DataError, DuplicateKey
from replicator.load.existing import Merge
from replicator.model import Changes, Op, Row, TableSchema
from replicator.plan import PlanSettings, build_plan
from replicator.readers.base import TextBlock
from replicator.session import Session, connect_patiently
from replicator.sql import (
    CHECK_COUNT,
    CHECK_LOAD,
    Limits,
    Packet,
    Statement,
    build_insert,
    build_load,
    build_packets,
    build_text_load,
)
from replicator.sql.literal import build_rows, warns_as_field, warns_as_literal
from replicator.tablestate import build_coerced, build_table_update

T = TypeVar("T")

log = logging.getLogger("replicator")

MERGE_ROWS = 5_000  # rows planned together where the target table has rows of others
INSERT_ROWS = 2_000
GROUP_BYTES = 8 << 20  # rows rendered together, where they are wide

Read = Callable[[], Iterator[list[Row]]]
"""Starts reading a chunk's rows from the snapshot, again for every attempt."""
ReadText = Callable[[], Iterator[TextBlock] | None]
"""The same, as the source's own text, which goes into LOAD DATA as it is; None where it has none that would do."""


class Stopped(Exception):
    """The load ends in mid-chunk; the chunk is rolled back."""


class Written(NamedTuple):
    """What one chunk brought in: rows, and their bytes on the way to the target."""

    rows: int
    size: int


class _Nothing(Exception):
    """The range is empty: there is nothing to commit."""


class _Count:
    """Rows and bytes of the attempt at hand; ``done`` those of the last attempt that was read to its end."""

    def __init__(self) -> None:
        self.rows = self.size = 0
        self.done = Written(0, 0)

    def add(self, rows: int, size: int) -> None:
        self.rows += rows
        self.size += size

    def start(self) -> None:
        self.rows = self.size = 0

    def end(self) -> None:
        self.done = Written(self.rows, self.size)


class ChunkWriter:
    """One load worker's session at the target and its checkpoint row. Used by one thread.

    A lost connection is replaced, and a locking read of the worker's row then tells whether the chunk in flight was
    committed (SEMANTICS §4.2).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        lease: Lease,
        number: int,
        *,
        stop: threading.Event,
        report: Callable[[str], None],
    ) -> None:
        session, own = connect_patiently(
            endpoint,
            loads=True,
            stop=stop,
            report=report,
            prepare=lambda session: acquire_worker(session, lease, number),
        )
        self._stop = stop
        self._committer = Committer(session, own, stop=stop)
        # Whatever order tables load in, a child may come before its parent (SEMANTICS §2.5).
        self._committer.foreign_key_checks = False

    @property
    def waiting_for(self) -> str:
        return self._committer.waiting_for

    @property
    def session(self) -> Session:
        return self._committer.session

    def call(self, action: Callable[[Session, Lease], T]) -> T:
        """Run a fenced action that may be repeated, through deadlocks and outages."""
        return self._committer.call(action)

    def write(
        self, table: TableSchema, chunk: str, read: Read, merge: Merge | None, read_text: ReadText
    ) -> Written:
        """Commit one chunk: all rows that ``read`` gives. ``chunk`` names it in messages and in the worker's row.

        ``read_text`` gives the same rows, where only we fill the table and the target takes files. Raises Stopped,
        SnapshotLost and DataError (naming table and chunk); nothing of the chunk is then committed.
        """
        if merge is None and self._takes_files(table):
            written = self._write_text(table, chunk, read_text)
            if written is not None:
                return written
        return self._write_rows(table, chunk, read, merge)

    def _write_text(self, table: TableSchema, chunk: str, read_text: ReadText) -> Written | None:
        """Commit one chunk as the source writes it; None where that cannot be done, and rows one by one may tell why."""
        if read_text() is None:
            return None
        count = _Count()
        source = _Source(cast("Callable[[], Iterator[TextBlock]]", read_text), self._stop)

        def build(lease: Lease) -> Iterator[Packet]:
            head = build_chunk_head(lease, table.source, chunk)
            count.start()
            sql = build_text_load(table)
            body = cast("list[bytes]", _count_text(source.open(), count))
            load = Statement(sql, table, Op.READ, 0)
            yield Packet(head.sql + b";" + sql, (*(None,) * head.results, load), body)
            yield self._build_tail(table, count, Tally(), CHECK_LOAD % count.rows)

        try:
            with contextlib.closing(source):
                self._committer.commit(build)
        except _Nothing:
            return Written(0, 0)
        except (CheckRefused, DataError) as error:
            log.info("%s, rows %s: read again, row by row: %s", table.source, chunk, error.message)
            return None
        except DuplicateKey as error:
            raise _name_chunk(table, chunk, error) from None
        return count.done

    def _write_rows(self, table: TableSchema, chunk: str, read: Read, merge: Merge | None) -> Written:
        count = _Count()
        source = _Rows(table, read, self._stop)

        def build(lease: Lease) -> Iterator[Packet]:
            head = build_chunk_head(lease, table.source, chunk)
            count.start()
            return self._build(Packet(head.sql, (None,) * head.results), table, source, merge, count)

        try:
            with contextlib.closing(source):
                self._committer.commit(build)
        except _Nothing:
            return Written(0, 0)
        except (CheckRefused, DuplicateKey) as error:
            if merge is None and isinstance(error, CheckRefused):
                error = self._explain(table, read, error)  # type: ignore[assignment]
            raise _name_chunk(table, chunk, error) from None
        except DataError as error:
            raise _name_chunk(table, chunk, error) from None
        return count.done

    def close(self) -> None:
        self._committer.close()

    def _build(
        self,
        head: Packet,
        table: TableSchema,
        source: _Rows,
        merge: Merge | None,
        count: _Count,
    ) -> Iterator[Packet]:
        """A chunk's packets: the head, the rows, and at last their number."""
        check, blocks = b"", source.open()
        if merge is None and self._takes_files(table):
            check = yield from self._build_loads(head, table, blocks, count)
        else:
            yield head
            yield from (
                self._build_inserts(table, blocks, count)
                if merge is None
                else self._build_merge(table, blocks, merge, count)
            )
        yield self._build_tail(table, count, source.tally, check)

    def _build_tail(self, table: TableSchema, count: _Count, tally: Tally, check: bytes) -> Packet:
        """``check`` looks at the statement before, and so comes first; then the table's count, and the commit."""
        count.end()
        pipeline = self._committer.lease.pipeline
        update = build_table_update(pipeline, table.source, rows_loaded=count.rows)
        parts = [update, CHECK_ONE, *build_coerced(pipeline, tally), b"COMMIT"]
        if not check:
            return Packet(b";".join(parts), (None,) * len(parts))
        results = (Statement(check, table, Op.READ, 0), *(None,) * len(parts))
        return Packet(b";".join([check, *parts]), results)

    @property
    def _limits(self) -> Limits:
        capabilities = self._committer.session.capabilities
        return Limits(capabilities.max_allowed_packet, capabilities.local_infile)

    def _takes_files(self, table: TableSchema) -> bool:
        return self._limits.local_infile and not any(map(warns_as_field, table.columns))

    def _build_loads(
        self,
        head: Packet,
        table: TableSchema,
        blocks: Iterable[list[Row]],
        count: _Count,
        *,
        checked: bool = True,
    ) -> Generator[Packet, None, bytes]:
        """A LOAD of all rows; where some need statements, INSERTs of those after it, and again. Returns the check due.

        Almost always it is one LOAD, whose check then travels with the tail.
        """
        file = _LoadFile(table, blocks, count)
        while True:
            yield _build_load_packet(head, table, file)
            check = CHECK_LOAD % file.loaded
            if not file.aside:
                return check
            if checked:
                yield Packet(check, (Statement(check, table, Op.READ, 0),))
            yield from self._build_inserts(table, [file.aside], count, checked=checked)
            if file.is_ended:
                return b""
            head = Packet(b"", ())

    def _build_inserts(
        self, table: TableSchema, blocks: Iterable[list[Row]], count: _Count, *, checked: bool = True
    ) -> Iterator[Packet]:
        # A strict INSERT refuses what does not fit: where a warning says nothing of the rows, their number is enough.
        check = CHECK_COUNT if any(map(warns_as_literal, table.columns)) else CHECK_LOAD
        for rows in _regroup(blocks, INSERT_ROWS):
            for statement in build_insert(table, rows, self._limits):
                count.add(statement.rows, len(statement.sql))
                if checked:
                    yield Packet(statement.sql + b";" + check % statement.rows, (statement, None))
                else:
                    yield Packet(statement.sql, (statement,))

    def _build_merge(
        self, table: TableSchema, blocks: Iterable[list[Row]], merge: Merge, count: _Count
    ) -> Iterator[Packet]:
        settings = PlanSettings(careful=True)
        for rows in _regroup(blocks, MERGE_ROWS):
            steps = build_plan([Changes(table, Op.READ, (), rows)], settings)
            size = 0
            for packet in build_packets(steps, self._limits):
                size += len(packet.sql)
                yield packet
            noted = build_plan([Changes(merge.keys, Op.READ, (), merge.note(table, rows))], settings)
            yield from build_packets(noted, self._limits)
            count.add(len(rows), size)

    def _explain(self, table: TableSchema, read: Read, refused: CheckRefused) -> DataError:
        """Run a refused chunk again, to be rolled back, for the words that the failed check has overwritten."""
        found: list[str] = []

        def build(lease: Lease) -> Iterator[Packet]:
            head = build_chunk_head(lease, table.source, "")
            start, count = Packet(head.sql, (None,) * head.results), _Count()
            packets: Iterable[Packet]
            if self._takes_files(table):
                packets = self._build_loads(start, table, source.open(), count, checked=False)
            else:
                packets = itertools.chain(
                    [start], self._build_inserts(table, source.open(), count, checked=False)
                )
            for packet in packets:
                yield packet
                found.extend(self._read_warnings())
            raise _Nothing

        source = _Rows(table, read, self._stop)
        with contextlib.closing(source), contextlib.suppress(_Nothing):
            self._committer.commit(build)
        reason = "; ".join(found[:3]) or f"the target did not take every row ({refused.message})"
        return DataError(reason, table=table.target)

    def _read_warnings(self) -> list[str]:
        rows = self._committer.session.query("SHOW WARNINGS LIMIT 3")
        return [f"{text} ({level.lower()} {code})" for level, code, text in rows]


class _Source(Generic[T]):
    """The rows of one chunk, in blocks; at most one reading of them is open."""

    def __init__(self, read: Callable[[], Iterator[T]], stop: threading.Event) -> None:
        self._read = read
        self._stop = stop
        self._open: Generator[T, None, None] | None = None

    def open(self) -> Iterator[T]:
        """Start reading, again if need be. Raises _Nothing where there is no row."""
        self.close()
        blocks = self._open = cast("Generator[T, None, None]", self._read())
        first = next(blocks, None)
        if first is None:
            raise _Nothing
        return self._watch(itertools.chain([first], blocks))

    def _watch(self, blocks: Iterable[T]) -> Iterator[T]:
        for block in blocks:
            if self._stop.is_set():
                raise Stopped
            yield block

    def close(self) -> None:
        if self._open is not None:
            self._open.close()


class _Rows(_Source[list[Row]]):
    """Canonical rows. ``tally``: what was coerced in the reading that is open, so far."""

    def __init__(self, table: TableSchema, read: Read, stop: threading.Event) -> None:
        super().__init__(read, stop)
        self.tally = Tally()
        self._table = table

    def open(self) -> Iterator[list[Row]]:
        tally = self.tally = Tally()
        return (settle_rows(self._table, block, tally) for block in super().open())


class _LoadFile:
    """What the LOADs of a chunk send: all rows, but for those with decimals in JSON, which no file keeps (I10).

    These are set ``aside``; when they take ``GROUP_BYTES`` the file at hand ends, and ``read`` goes on with the next
    (I9). ``loaded``: rows of the file at hand. ``is_ended``: there are no more rows.
    """

    def __init__(self, table: TableSchema, blocks: Iterable[list[Row]], count: _Count) -> None:
        self.aside: list[Row] = []
        self.loaded = 0
        self.is_ended = False
        self._render = build_load(table).render
        self._split = build_rows(table, None).split
        self._blocks = iter(blocks)
        self._count = count

    def read(self) -> Iterator[bytes]:
        """The next file, rendered while it is sent."""
        self.aside, self.loaded, size = [], 0, 0
        for rows in self._blocks:
            plain, aside = self._split(rows)
            data = self._render(plain)
            self._count.add(len(plain), len(data))
            self.loaded += len(plain)
            yield data
            if aside:
                self.aside += aside
                size += _measure(aside)
                if size >= GROUP_BYTES:
                    return
        self.is_ended = True


def _count_text(blocks: Iterable[TextBlock], count: _Count) -> Iterator[bytes]:
    for block in blocks:
        count.add(block.rows, len(block.data))
        yield block.data


def _build_load_packet(head: Packet, table: TableSchema, file: _LoadFile) -> Packet:
    """Head, if any, and LOAD DATA in one round trip."""
    load = build_load(table)
    statement = Statement(load.sql, table, Op.READ, 0)
    body = cast("list[bytes]", file.read())
    sql = head.sql + b";" + load.sql if head.sql else load.sql
    return Packet(sql, (*head.results, statement), body)


def _measure(rows: Iterable[Row]) -> int:
    return sum(len(value) for row in rows for value in row if isinstance(value, bytes))


def _regroup(blocks: Iterable[list[Row]], rows: int) -> Iterator[list[Row]]:
    """Blocks of at least ``rows`` rows or ``GROUP_BYTES``, but for the last."""
    gathered: list[Row] = []
    size = 0
    for block in blocks:
        gathered += block
        size += _measure(block)
        if len(gathered) >= rows or size >= GROUP_BYTES:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered


def _name_chunk(table: TableSchema, chunk: str, error: DataError | CheckRefused) -> DataError:
    return DataError(
        f"{table.source}, rows {chunk}: {error.message}",
        table=table.target,
        hint=error.hint or f"see whether the columns of {table.target} can hold what {table.source} holds",
    )
