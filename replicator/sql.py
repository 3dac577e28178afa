"""Turn steps into MySQL statements and packets: the only place with MySQL DML grammar (pure).

Between ``plan`` and ``apply`` (and ``load``). Values are rendered by code generated per table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from replicator.model import Op, Row, TableSchema
from replicator.plan import Step

BODY_BLOCK = 1 << 20
CHECK_COUNT = b"DO IF(ROW_COUNT()=%d,0,(SELECT 1 UNION ALL SELECT 2))"
CHECK_WARNINGS = b"DO IF(@@warning_count=0,0,(SELECT 1 UNION ALL SELECT 2))"


class Statement(NamedTuple):
    """One statement of a batch.

    ``rows``: how many rows it stands for. ``expect``: the ROW_COUNT a DO right after it checks, None where it is only
    counted. ``check_warnings``: a DO right after it checks that it gave no warning. ``body``: blocks of at most 1 MiB
    of a LOAD DATA's file.
    """

    sql: bytes
    table: TableSchema | None
    op: Op | None
    rows: int
    expect: int | None = None
    check_warnings: bool = False
    body: Sequence[bytes] | None = None


class Packet(NamedTuple):
    """Statements that travel together, joined by ``;`` without head and tail.

    ``results``: one entry per result the server sends, in order; None for a DO. ``body``: of its only LOAD DATA, which
    then stands first.
    """

    sql: bytes
    results: tuple[Statement | None, ...]
    body: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the target allows: ``max_packet`` bytes a packet, LOAD DATA LOCAL or not; ``load_rows``: smallest LOAD."""

    max_packet: int
    local_infile: bool
    load_rows: int = 500


class LoadFormat(NamedTuple):
    """How rows of one table travel through LOAD DATA LOCAL: the statement, and the renderer of its file."""

    sql: bytes
    token: bytes  # the file name in ``sql``: the only one whose request may be answered

    def render(self, rows: Sequence[Row]) -> bytes:
        """The file's bytes for ``rows``; bodies can be joined in any block sizes."""
        raise NotImplementedError


def quote_name(name: str) -> bytes:
    """An identifier between backticks."""
    return b"`" + name.replace("`", "``").encode() + b"`"


def quote_bytes(value: bytes) -> bytes:
    """A binary string literal."""
    return b"x'" + value.hex().encode() + b"'"


def quote_text(value: str) -> bytes:
    """A utf8mb4 string literal (sessions run with NAMES utf8mb4 and without NO_BACKSLASH_ESCAPES)."""
    raise NotImplementedError


def build_load(table: TableSchema) -> LoadFormat:
    """The LOAD DATA LOCAL of a table."""
    raise NotImplementedError


def build_insert(table: TableSchema, rows: Sequence[Row], limits: Limits) -> Iterator[Statement]:
    """Multi-row INSERTs of ``rows``, each below ``limits.max_packet``."""
    raise NotImplementedError


def build_packets(steps: Iterable[Step], limits: Limits) -> Iterator[Packet]:
    """The packets of a plan, in order: LOADs of independent rows first, one a packet, then all else."""
    raise NotImplementedError
