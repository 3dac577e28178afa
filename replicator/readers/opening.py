"""Open the reader that a pipeline file asks for: the one place that knows which product has which reader.

Each product's reader is imported when it is asked for: one takes a fifth of the program's start, drivers and all.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.config import PipelineConfig, SourceType
from replicator.readers.base import Reader

if TYPE_CHECKING:
    from replicator.readers.postgres import PostgresReader


def open_reader(config: PipelineConfig, *, spill_dir: Path | None = None) -> Reader:
    """Connects at once. Raises SourceUnavailable, SourceError."""
    if config.source.type is SourceType.POSTGRES:
        return _open_postgres(config, spill_dir=spill_dir)
    from replicator.readers.mysql import MysqlReader  # noqa: PLC0415

    return MysqlReader(config.source, spill_dir=spill_dir)


def forget_pipeline(config: PipelineConfig, short_id: str) -> None:
    """Remove what the source keeps for a pipeline. Raises SourceUnavailable, SourceError."""
    if config.source.type is SourceType.POSTGRES:
        with contextlib.closing(_open_postgres(config, short_id=short_id)) as reader:
            reader.forget()


def _open_postgres(
    config: PipelineConfig, *, short_id: str = "", spill_dir: Path | None = None
) -> PostgresReader:
    from replicator.readers.postgres import PostgresReader  # noqa: PLC0415

    return PostgresReader(config.source, config.pipeline, short_id=short_id, spill_dir=spill_dir)
