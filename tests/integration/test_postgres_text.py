"""COPY's own text in LOAD DATA: the same at the target as what the stream brings, and refused by name what MySQL lacks."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from replicator.config import load as load_config
from replicator.ddl import build_create_table
from replicator.errors import CheckRefused
from replicator.load import jobs
from replicator.load.chunk import ChunkWriter, Written
from replicator.model import TableName
from replicator.pipeline import Options, Pipeline
from replicator.readers.base import KeyRange, SnapshotSession
from replicator.readers.postgres import PostgresReader
from replicator.session import Session
from replicator.sql import CHECK_LOAD, build_text_load
from replicator.startup import open_pipeline
from tests.accounts import Account
from tests.integration.test_postgres_mirror import PREPARE as MIRRORED
from tests.integration.test_postgres_mirror import TYPES, compare, current, run_all
from tests.integration.test_postgres_types import EDGES
from tests.integration.test_postgres_types import PREPARE as EDGED
from tests.pgaccounts import PostgresAccount
from tests.pgsources import open_reader
from tests.processes import write_pipeline
from tests.targets import build_endpoint

ROWS = 3000
NEEDS_ROWS = {"money", "json", "jsonb", '"char"', "bit(9)", "bit", "bit(64)"}


def can_write(session: SnapshotSession, reader: PostgresReader, name: TableName) -> bool:
    [table] = reader.describe({name: name.table})
    [span, *_] = session.split(table, 1000)
    return session.read_text(table, span) is not None


@pytest.mark.parametrize(("types", "prepare"), [(TYPES, MIRRORED), (EDGES, EDGED)], ids=["types", "edges"])
@pytest.mark.usefixtures("takes_files")
def test_text_and_stream_bring_the_same(
    postgres_account: PostgresAccount,
    target_account: Account,
    tmp_path: Path,
    types: dict[str, list[str]],
    prepare: list[str],
) -> None:
    """Loaded, in a table that goes as it is and in one that does not; twins get the same rows by the stream."""
    source, target = postgres_account, target_account
    kinds = {
        "plain": [kind for kind in types if kind not in NEEDS_ROWS],
        "parsed": [kind for kind in types if kind in NEEDS_ROWS],
    }
    run_all(source, prepare)
    for name, columns in kinds.items():
        definitions = ", ".join(f"c{at} {kind}" for at, kind in enumerate(columns))
        rows = ", ".join(f"({n}, {row})" for n, row in enumerate(build_rows([types[k] for k in columns])))
        run_all(
            source,
            [
                f"CREATE TABLE loaded_{name} (id int PRIMARY KEY, {definitions})",
                f"CREATE TABLE streamed_{name} (id int PRIMARY KEY, {definitions})",
                f"INSERT INTO loaded_{name} VALUES {rows}",
            ],
        )
    pipeline = write_pipeline(tmp_path, source, target)
    done = pipeline.run("load", "FILE")
    assert done.returncode == 0, done.stderr
    assert "row by row" not in done.stderr
    run_all(source, [f"INSERT INTO streamed_{name} TABLE loaded_{name}" for name in kinds])
    current(pipeline)
    compare(source, target)
    for name, columns in kinds.items():
        for at, kind in enumerate(columns):
            loaded, streamed = (
                target.server.execute(
                    f"SELECT id, HEX(CAST(c{at} AS CHAR)), c{at} FROM {way}_{name} ORDER BY id",
                    database=target.database,
                )
                for way in ("loaded", "streamed")
            )
            assert loaded
            assert repr(loaded) == repr(streamed), kind


def build_rows(values: list[list[str]]) -> list[str]:
    """Every literal of each column at least once, and a row of NULL."""
    count = max(map(len, values))
    rows = [", ".join(literals[n % len(literals)] for literals in values) for n in range(count)]
    return [*rows, ", ".join("NULL" for _ in values)]


def test_all_but_a_few_types_go_as_they_are(postgres_account: PostgresAccount) -> None:
    """Without this the comparison of text and stream might compare the stream with itself."""
    source = postgres_account
    names = dict(enumerate(TYPES))
    run_all(
        source,
        [*MIRRORED, *(f"CREATE TABLE t{at} (id int PRIMARY KEY, c {kind})" for at, kind in names.items())],
    )
    reader = open_reader(source)
    tables = reader.describe({TableName(source.database, f"t{at}"): f"t{at}" for at in names})
    reader.begin(tables, (), None, threading.Event())
    snapshot = reader.open_snapshot(tables, 1, threading.Event())
    try:
        [session] = snapshot.sessions
        ours = {kind for at, kind in names.items() if not can_write(session, reader, tables[at].source)}
    finally:
        snapshot.close()
        reader.forget()
        reader.close()
    assert ours == NEEDS_ROWS & set(TYPES)


BEYOND_MYSQL = [
    ("numeric", "'NaN'"),
    ("numeric", "'0.' || repeat('1', 31)"),
    ("numeric", "repeat('9', 36)"),
    ("numeric(4,2)", "'NaN'"),
    ("float8", "'NaN'"),
    ("float8", "'-Infinity'"),
    ("float4", "'Infinity'"),
    ("date", "'infinity'"),
    ("date", "'0044-03-15 BC'"),
    ("date", "'10000-01-01'"),
    ("date", "'5874897-12-31'"),
    ("timestamp", "'-infinity'"),
    ("timestamp", "'10000-01-01'"),
    ("timestamp", "'294276-12-31 23:59:59'"),
    ("timestamptz", "'infinity'"),
    ("timestamptz", "'0044-03-15 12:00 BC'"),
    ("text UNIQUE", "repeat('x', 769)"),
    ("text UNIQUE", "'x' || repeat(' ', 768)"),
]


@pytest.mark.usefixtures("takes_files")
def test_the_target_does_not_take_what_it_cannot_hold(
    postgres_account: PostgresAccount, target_account: Account
) -> None:
    """Nobody else has looked at it: the target itself must warn of each, and the check then refuses the chunk."""
    source = postgres_account
    for at, (kind, value) in enumerate(BEYOND_MYSQL):
        plain = kind.removesuffix(" UNIQUE")
        run_all(
            source,
            [
                f"CREATE TABLE t{at} (id int PRIMARY KEY, odd {kind})",
                f"INSERT INTO t{at} VALUES (1, NULL), (2, ({value})::{plain})",
            ],
        )
    reader = open_reader(source)
    names = [f"t{at}" for at in range(len(BEYOND_MYSQL))]
    tables = reader.describe({TableName(source.database, name): name for name in names})
    reader.begin(tables, (), None, threading.Event())
    snapshot = reader.open_snapshot(tables, 1, threading.Event())
    try:
        with Session.connect(build_endpoint(target_account), loads=True) as session:
            for table in tables:
                text = snapshot.sessions[0].read_text(table, KeyRange(None, None))
                assert text is not None
                session.execute(build_create_table(table))
                packet = build_text_load(table) + b";" + CHECK_LOAD % 2
                with pytest.raises(CheckRefused):
                    session.run(packet, (block.data for block in text))
                session.rollback()
    finally:
        snapshot.close()
        reader.forget()
        reader.close()


def test_what_the_target_does_not_take_is_named(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Read again, row by row, the chunk tells which value it was."""
    run_all(
        postgres_account,
        [
            "CREATE TABLE t (id int PRIMARY KEY, odd date)",
            "INSERT INTO t VALUES (1, NULL), (2, '0044-03-15 BC')",
        ],
    )
    output = write_pipeline(tmp_path, postgres_account, target_account).run("load", "FILE")
    assert output.returncode in (4, 5), output.stdout
    assert "t:odd: 0044-03-15 BC is no date of MySQL" in output.stdout + output.stderr
    assert target_account.server.execute("SELECT COUNT(*) FROM t", database=target_account.database) == [(0,)]


def test_a_table_that_is_rewritten_in_mid_load_is_loaded_again(
    postgres_account: PostgresAccount,
    target_account: Account,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Behind a chunk; the rest of the snapshot then reads as empty, and the stream knows of no change."""
    source, target = postgres_account, target_account
    run_all(
        source,
        [
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            f"INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, {ROWS}) n",
            "ANALYZE t",
        ],
    )
    pipeline = write_pipeline(tmp_path, source, target)
    for name, value in pipeline.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jobs, "CHUNK_ROWS", 100)
    write, chunks = ChunkWriter.write, itertools.count(1)

    def rewrite_behind_the_fifth(*args: Any) -> Written:
        written = write(*args)
        if next(chunks) == 5:
            run_all(source, ["VACUUM FULL t", "DELETE FROM t WHERE id % 2 = 0"])
        return written

    monkeypatch.setattr(ChunkWriter, "write", rewrite_behind_the_fifth)
    stop = threading.Event()
    opened = open_pipeline(load_config(pipeline.path), waiting=lambda _: None, stop=stop, is_patient=False)
    try:
        Pipeline(opened, Options(until="current", workers=1), stop).run(lambda _: None)
    finally:
        opened.reader.close()
    assert "was rewritten or emptied behind the snapshot" in caplog.text
    assert compare(source, target) == ROWS // 2
