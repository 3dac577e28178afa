"""Row images of the binary log to canonical rows, by Python code generated per table; pure, the hot path of the reader.

(skeleton)
"""

from __future__ import annotations

from replicator.model import Changes, TableSchema
from replicator.readers.tablemap import TableMap


class Decoder:
    """Decodes the rows events of one TABLE_MAP into canonical rows of one TableSchema."""

    table: TableSchema

    def decode(self, event_type: int, buffer: bytes, start: int, end: int) -> Changes:
        """The rows event whose body is ``buffer[start:end]`` (checksum stripped), any of ``binlog.ROWS_TYPES``.

        Raises UnsupportedEvent naming the table: partial JSON, images that are not FULL, bytes that do not parse.
        """
        raise NotImplementedError


def build_decoder(table_map: TableMap, schema: TableSchema) -> Decoder:
    """Call only when ``explain_mismatch`` gave None. Raises UnsupportedEvent naming table and column."""
    raise NotImplementedError


def explain_mismatch(table_map: TableMap, schema: TableSchema) -> str | None:
    """Why the columns of this event are not those of ``schema``, for a human, or None.

    Raises UnsupportedEvent (remedy binlog_row_metadata=FULL) when the log does not name its columns.
    """
    raise NotImplementedError
