"""The contestants beside us: MySQL's own replication, and `mysqldump | mysql`."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pymysql

from bench.measure import Run, Usage, build_run
from replicator.servers import Server

APPLIERS = 4
WAIT_SECONDS = 300


class BenchFailed(RuntimeError):
    """A contestant failed, or did not copy what it should: there is no figure."""


class Replica:
    """A MySQL server that replicates from ``source`` with 4 appliers that keep the commit order."""

    def __init__(self, source: Server, server: Server) -> None:
        self.source = source
        self.server = server
        password = secrets.token_urlsafe(16)
        source.execute(
            f"CREATE USER native IDENTIFIED BY '{password}'; GRANT REPLICATION SLAVE ON *.* TO native"
        )
        server.execute(
            f"SET GLOBAL replica_parallel_workers = {APPLIERS};"
            "SET GLOBAL replica_preserve_commit_order = ON;"
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '{source.host}', SOURCE_PORT = {source.port},"
            f" SOURCE_USER = 'native', SOURCE_PASSWORD = '{password}', SOURCE_AUTO_POSITION = 1,"
            " GET_SOURCE_PUBLIC_KEY = 1, SOURCE_CONNECT_RETRY = 1"
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Replicating until the block ends; level with the source when it begins."""
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("START REPLICA")
            self._wait(cursor, executed(self.source))
        try:
            yield
        finally:
            self.server.execute("STOP REPLICA")

    def catch_up(self) -> None:
        """Replicate until level with the source as it stands now; not measured."""
        with self.running():
            pass

    def measure(self, upto: str, *, rows: int, transactions: int) -> Run:
        """From START REPLICA until everything in the GTID set ``upto`` is committed here."""
        pids = {"source": self.source.pid, "target": self.server.pid}
        with self.server.connect() as connection, connection.cursor() as cursor:
            before = Usage.read(pids)
            cursor.execute("START REPLICA")
            self._wait(cursor, upto)
            after = Usage.read(pids)
            cursor.execute("STOP REPLICA")
        return build_run(before, after, rows=rows, transactions=transactions)

    def _wait(self, cursor: pymysql.cursors.Cursor, upto: str) -> None:
        cursor.execute("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", (upto, WAIT_SECONDS))
        row = cursor.fetchone()
        if row is None or row[0] != 0:
            raise BenchFailed(f"replication did not reach {upto}: {self._errors()}")

    def _errors(self) -> list[tuple[Any, ...]]:
        tables = ("replication_applier_status_by_worker", "replication_connection_status")
        return [
            row
            for table in tables
            for row in self.server.execute(
                f"SELECT LAST_ERROR_NUMBER, LAST_ERROR_MESSAGE FROM performance_schema.{table}"
                " WHERE LAST_ERROR_NUMBER"
            )
        ]


def executed(server: Server) -> str:
    """The server's gtid_executed."""
    return str(server.execute("SELECT @@gtid_executed")[0][0])


def relax(server: Server) -> None:
    """Commits reach the kernel, not the disk."""
    server.execute("SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 2")


def make_durable(server: Server) -> None:
    """Each commit is flushed to the disk, and what was relaxed before is flushed now."""
    server.execute(
        "SET GLOBAL sync_binlog = 1; SET GLOBAL innodb_flush_log_at_trx_commit = 1;"
        "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; FLUSH NO_WRITE_TO_BINLOG BINARY LOGS"
    )


def measure_dump(source: Server, database: str, target: Server, copy: str, rows: int) -> Run:
    """`mysqldump | mysql` with its own defaults, through the servers' sockets, from start to end of both commands."""
    pids = {"source": source.pid, "target": target.pid}
    dump = source.client_command("mysqldump", "--single-transaction", "--set-gtid-purged=OFF", database)
    load = target.client_command("mysql", copy)
    before, clients = Usage.read(pids), _read_children()
    with (
        subprocess.Popen(dump, stdout=subprocess.PIPE) as sender,
        subprocess.Popen(load, stdin=sender.stdout) as receiver,
    ):
        assert sender.stdout is not None
        sender.stdout.close()  # mysqldump must see it when mysql ends early
    after = Usage.read(pids)
    if sender.returncode or receiver.returncode:
        raise BenchFailed(f"mysqldump ended with {sender.returncode}, mysql with {receiver.returncode}")
    return build_run(before, after, rows=rows, transactions=1, clients=_read_children() - clients)


def _read_children() -> float:
    """CPU seconds of all our children that have ended."""
    times = os.times()
    return times.children_user + times.children_system
