"""The workloads with PostgreSQL as the source: decoding alone, initial load, a backlog of inserts; each beside its peers.

The orders table again, with the types that PostgreSQL has. Every copy is compared with its source by count and sums.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import psycopg

from bench import data
from bench.measure import Run, Usage, build_result, build_run, read_peak_rss
from bench.mirror import POLL_SECONDS, TARGET_RIGHTS, USER
from bench.peers import BenchFailed, Replica, executed, make_durable, relax
from replicator.config import Secret, Source, SourceType, Tls, TlsMode
from replicator.model import TableName, Transaction
from replicator.pgserver import PostgresServer, start_postgres
from replicator.readers import pgoutput
from replicator.readers.lsn import LsnPosition
from replicator.readers.pgoutput import RelationColumn
from replicator.readers.pgstream import HEADER, Transactions
from replicator.readers.postgres import PostgresReader
from replicator.readers.postgres_catalog import describe_types
from replicator.readers.postgres_link import open_link
from replicator.readers.postgres_session import connect
from replicator.readers.selected import Counters, Selection
from replicator.servers import Server, start_mysql
from replicator.supervisor import die_with_parent

DATABASE = "shop"
ROWS_PER_TRANSACTION = 1000
LOAD_FACTOR = 4  # long enough that the start-up, which is counted, is not what is measured
SETTINGS: dict[str, Any] = {"innodb_buffer_pool_size": "512M", "innodb_redo_log_capacity": "1G"}
CREATE_TABLE = f"""CREATE TABLE {data.TABLE} (
  id bigint PRIMARY KEY, customer_id int NOT NULL, sku varchar(32) NOT NULL, qty int NOT NULL, price numeric(12,2) NOT NULL,
  note varchar(200), created_at timestamp(3) NOT NULL, updated_at timestamptz, status varchar(8) NOT NULL, weight float8)"""
SUMS = (
    f"SELECT count(*), sum(id), sum(qty), sum(price), sum(length(note)), count(updated_at) FROM {data.TABLE}"
)


class Scale(Protocol):
    """What of ``workloads.Scale`` is needed here."""

    @property
    def runs(self) -> int: ...
    @property
    def load_rows(self) -> int: ...
    @property
    def backlog_rows(self) -> int: ...


class Place:
    """A PostgreSQL source with the orders table, a durable MySQL target, and a pipeline between them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.source: PostgresServer = stack.enter_context(start_postgres(newest=True, durable=True))
        self.target = self.start_mysql()
        self.source.execute(f"CREATE DATABASE {DATABASE}")
        self.source.execute(
            [f"CREATE SCHEMA {DATABASE}", f"SET search_path = {DATABASE}", CREATE_TABLE], database=DATABASE
        )
        self._password = secrets.token_urlsafe()
        self.target.execute(
            f"CREATE DATABASE {DATABASE}; CREATE USER {USER} IDENTIFIED BY '{self._password}';"
            + TARGET_RIGHTS.format(user=USER, database=DATABASE)
        )
        self._path = self.source.directory / "bench.yaml"
        self._write_pipeline()

    def start_mysql(self) -> Server:
        return self.stack.enter_context(start_mysql(durable=True, **SETTINGS))

    def _write_pipeline(self) -> None:
        source = {
            "type": "postgres",
            "host": self.source.host,
            "port": self.source.port,
            "user": self.source.user,
        }
        target = {"type": "mysql", "host": self.target.host, "port": self.target.port, "user": USER}
        content = {
            "pipeline": "bench",
            "source": source | {"password": "${env:SOURCE_PASSWORD}", "database": DATABASE},
            "target": target | {"password": "${env:TARGET_PASSWORD}", "database": DATABASE},
            "tables": {f"{DATABASE}.{data.TABLE}": {}},
        }
        self._path.write_text(json.dumps(content))

    def build_source(self) -> Source:
        password = Secret(self.source.password)
        tls = Tls(TlsMode.DISABLED)
        return Source(
            host=self.source.host,
            port=self.source.port,
            user=self.source.user,
            password=password,
            database=DATABASE,
            tls=tls,
            type=SourceType.POSTGRES,
        )

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return self.source.connect(database=DATABASE, options=f"-c search_path={DATABASE}", autocommit=True)

    def write(self, statements: list[str]) -> None:
        with self.connect() as connection:
            for text in statements:
                connection.execute(text.encode())
            connection.execute(f"ANALYZE {data.TABLE}".encode())

    def command(self, *arguments: str, rows: int) -> Run:
        """One command of the replicator, timed from start to end; ``extra`` says when its first commit was seen."""
        log = self.source.directory / "bench.out"
        passwords = {"SOURCE_PASSWORD": self.source.password, "TARGET_PASSWORD": self._password}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "replicator", *arguments, str(self._path)],
                env=os.environ | passwords,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509 (there is one thread when commands are started)
            )
        pids = {"replicator": process.pid, "source": self.source.pid, "target": self.target.pid}
        before, peak = Usage.read(pids), 0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak = max(peak, read_peak_rss(process.pid))
            time.sleep(POLL_SECONDS)
        after = Usage.read(pids)
        if process.wait():
            raise BenchFailed(f"replicator {arguments[0]}: exit {process.returncode}\n{log.read_text()}")
        return build_run(before, after, rows=rows, transactions=1, peak_rss=peak)

    def compare(self, server: Server, database: str = DATABASE) -> None:
        with self.connect() as connection:
            ours = connection.execute(SUMS.replace("length", "octet_length").encode()).fetchone()
        theirs = server.execute(SUMS, database=database)[0]
        if list(map(str, ours or ())) != list(map(str, theirs)):
            raise BenchFailed(f"source and copy differ: {ours} at the source, {theirs} at the copy")

    def reset(self) -> None:
        """Neither the target nor the source knows of a pipeline."""
        self.target.execute(f"DROP DATABASE {DATABASE}; CREATE DATABASE {DATABASE}")
        for (slot,) in self.source.execute("SELECT slot_name FROM pg_replication_slots"):
            self.source.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


@contextlib.contextmanager
def open_place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


def _time(action: Callable[[], None], rows: int, **pids: int) -> Run:
    before = Usage.read(pids)
    action()
    return build_run(before, Usage.read(pids), rows=rows, transactions=1)


def measure_load(scale: Scale) -> dict[str, Any]:
    """Initial load against LOAD DATA of ready-made files over two connections, and a SELECT with executemany."""
    ours: list[Run] = []
    raw: list[Run] = []
    plain: list[Run] = []
    rows = scale.load_rows * LOAD_FACTOR
    with open_place() as place:
        place.write(list(data.Orders(1).insert_statements(rows, ROWS_PER_TRANSACTION)))
        ours.append(place.command("load", rows=rows))
        place.compare(place.target)
        create = place.target.execute(f"SHOW CREATE TABLE {data.TABLE}", database=DATABASE)[0][1]
        files = _write_files(place, rows)
        for number in range(scale.runs):
            if number:
                place.reset()
                ours.append(place.command("load", rows=rows))
                place.compare(place.target)
            for runs, copy in (
                (raw, lambda: _load_files(place, files)),
                (plain, lambda: _copy_plainly(place)),
            ):
                place.target.execute(
                    f"DROP DATABASE IF EXISTS copy; CREATE DATABASE copy; USE copy; {create}"
                )
                runs.append(_time(copy, rows, target=place.target.pid, source=place.source.pid))
                place.compare(place.target, "copy")
    result = build_result("postgres-load", ours, "LOAD DATA of ready-made files, 2 connections", raw)
    simple = build_result("postgres-load", ours, "SELECT + executemany", plain)
    return result | {"plain_rows_per_second": simple["peer_rows_per_second"], "plain_ratio": simple["ratio"]}


def _write_files(place: Place, rows: int) -> list[Path]:
    paths = [place.source.directory / f"half{half}" for half in (0, 1)]
    names = (
        "id, customer_id, sku, qty, price, note, created_at, updated_at AT TIME ZONE 'UTC', status, weight"
    )
    with place.connect() as connection, connection.cursor() as cursor:
        for half, path in enumerate(paths):
            where = f"id > {rows // 2}" if half else f"id <= {rows // 2}"
            copy = f"COPY (SELECT {names} FROM {data.TABLE} WHERE {where}) TO STDOUT"
            with cursor.copy(copy.encode()) as blocks, path.open("wb") as file:
                for block in blocks:
                    file.write(block)
    return paths


def _load_files(place: Place, files: list[Path]) -> None:
    def load(path: Path) -> None:
        with (
            place.target.connect(database="copy", local_infile=True) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {data.TABLE} CHARACTER SET utf8mb4")
            connection.commit()

    place.target.execute("SET GLOBAL local_infile = 1")
    threads = [threading.Thread(target=load, args=(path,)) for path in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _copy_plainly(place: Place) -> None:
    """What a script would do: a server-side cursor here, `executemany` there, a commit every 1,000 rows."""
    marks = ", ".join(["%s"] * 10)
    with (
        place.source.connect(database=DATABASE, options="-c timezone=UTC", autocommit=False) as source,
        source.cursor(name="rows") as rows,
        place.target.connect(database="copy") as target,
        target.cursor() as cursor,
    ):
        rows.execute(f"SELECT * FROM {DATABASE}.{data.TABLE}".encode())
        while block := rows.fetchmany(ROWS_PER_TRANSACTION):
            cursor.executemany(f"INSERT INTO {data.TABLE} VALUES ({marks})", block)
            target.commit()


def measure_inserts(scale: Scale) -> dict[str, Any]:
    """A backlog of inserts, against MySQL's own replication of the same statements from a MySQL source.

    Ours is timed from start to end of `run --until-current`, start-up and all.
    """
    ours: list[Run] = []
    theirs: list[Run] = []
    rows = scale.backlog_rows
    with open_place() as place:
        peer = place.start_mysql()
        peer.execute([f"CREATE DATABASE {DATABASE}", f"USE {DATABASE}", data.CREATE_TABLE])
        replica = Replica(peer, place.start_mysql())
        replica.catch_up()
        orders = data.Orders(1)
        place.command("load", rows=0)
        for _ in range(scale.runs):
            statements = list(orders.insert_statements(rows, ROWS_PER_TRANSACTION))
            place.write(statements)
            relax(peer)
            with (
                peer.connect(database=DATABASE, autocommit=True) as connection,
                connection.cursor() as cursor,
            ):
                for text in statements:
                    cursor.execute(text)
            make_durable(peer)
            ours.append(place.command("run", "--until-current", rows=rows))
            place.compare(place.target)
            theirs.append(
                replica.measure(executed(peer), rows=rows, transactions=rows // ROWS_PER_TRANSACTION)
            )
    return build_result("postgres-inserts", ours, "MySQL's own replication, from MySQL", theirs)


def measure_decoding(scale: Scale) -> dict[str, Any]:
    """From messages to transactions of canonical rows, on one core, with nobody at the other end."""
    rows = scale.backlog_rows
    with open_place() as place:
        reader = PostgresReader(place.build_source(), "bench", short_id="0a1b2c3d")
        tables = reader.describe({TableName(DATABASE, data.TABLE): data.TABLE})
        position = reader.begin(tables, (), None, threading.Event())
        assert isinstance(position, LsnPosition)
        reader.close()
        place.write(list(data.Orders(1).insert_statements(rows, ROWS_PER_TRANSACTION)))
        messages = _fetch_messages(place, reader.slot, position.lsn, rows)
        with connect(place.build_source()) as session:

            def describe(columns: Sequence[RelationColumn]) -> Sequence[str]:
                return describe_types(session, [(column.type, column.modifier) for column in columns])

            def decode() -> None:
                selection, counters = Selection(tables), Counters()
                transactions = Transactions(
                    position, selection=selection, counters=counters, describe_types=describe
                )
                _decode(transactions, messages, rows)

            runs = [_time(decode, rows, replicator=os.getpid()) for _ in range(scale.runs)]
    result = build_result("postgres-decoding", runs, "", [])
    return result | {
        "rows_per_cpu_second": round(rows / statistics.median(run.cpu["replicator"] for run in runs))
    }


def _fetch_messages(place: Place, slot: str, lsn: int, rows: int) -> list[bytes]:
    """All messages of so many inserts, up to the last commit."""
    link = open_link(place.build_source(), slot, lsn, lsn)
    messages: list[bytes] = []
    inserts = 0
    while inserts < rows or messages[-1][HEADER] != pgoutput.COMMIT:
        found = link.fetch(0.1)
        inserts += sum(message[HEADER] == pgoutput.INSERT for message in found)
        messages += found
    link.close()
    return messages


def _decode(transactions: Transactions, messages: list[bytes], rows: int) -> None:
    seen = 0
    for item in transactions.take(messages):
        if isinstance(item, Transaction):
            seen += item.rows
    if seen != rows:
        raise BenchFailed(f"{seen} rows were decoded of {rows}")


WORKLOADS: dict[str, Callable[[Scale], dict[str, Any]]] = {
    "postgres-decoding": measure_decoding,
    "postgres-load": measure_load,
    "postgres-inserts": measure_inserts,
}
