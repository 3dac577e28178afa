"""Open the reader that a pipeline file asks for: the one place that knows which product has which reader."""

from __future__ import annotations

import contextlib
from pathlib import Path

from replicator.config import PipelineConfig, SourceType
from replicator.readers.base import Reader
from replicator.readers.mysql import MysqlReader
from replicator.readers.postgres import PostgresReader


def open_reader(config: PipelineConfig, *, spill_dir: Path | None = None) -> Reader:
    """Connects at once. Raises SourceUnavailable, SourceError."""
    if config.source.type is SourceType.POSTGRES:
        return PostgresReader(config.source, config.pipeline, spill_dir=spill_dir)
    return MysqlReader(config.source, spill_dir=spill_dir)


def forget_pipeline(config: PipelineConfig, short_id: str) -> None:
    """Remove what the source keeps for a pipeline. Raises SourceUnavailable, SourceError."""
    if config.source.type is SourceType.POSTGRES:
        with contextlib.closing(PostgresReader(config.source, config.pipeline, short_id=short_id)) as reader:
            reader.forget()
