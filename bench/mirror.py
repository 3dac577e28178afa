"""The replicator as a contestant: a pipeline file, the command as a child process, and a watcher at the target.

What is timed is seen from outside. The watcher reads the pipeline's checkpoint row every few milliseconds: the run begins
to mirror with the first commit under its new epoch, right before it opens the log (the moment that START REPLICA is for
the peer), and is done when the stored position covers what the source had committed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pymysql
from pymysql.constants import ER

from bench.data import TABLE
from bench.measure import Run, Usage, build_run, read_peak_rss
from bench.peers import BenchFailed, executed
from replicator.servers import Server
from replicator.supervisor import die_with_parent

POLL_SECONDS = 0.01  # one look costs the target a tenth of a millisecond
LIMIT_SECONDS = 300.0
END_SECONDS = 60.0

# No more than the least that the accounts of a source and of a managed target have.
SOURCE_RIGHTS = (
    "GRANT REPLICATION SLAVE, REPLICATION CLIENT, XA_RECOVER_ADMIN ON *.* TO {user};"
    "GRANT SELECT, LOCK TABLES, SHOW VIEW ON {database}.* TO {user}"
)
TARGET_RIGHTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES"
    " ON {database}.* TO {user}"
)
USER = "mirror"


@dataclass(slots=True)
class Watch:
    """What was seen of one command: at its start, its first commit, when level with the source, and at its end."""

    started: Usage
    mirroring: Usage | None = None
    level: Usage | None = None
    ended: Usage | None = None
    peak_rss: int = 0

    @property
    def start_up(self) -> float:
        return self.mirroring.at - self.started.at if self.mirroring else 0.0


class Mirror:
    """One pipeline from ``database`` at the source to one of the same name at the target."""

    def __init__(self, source: Server, target: Server, database: str) -> None:
        self.source = source
        self.target = target
        self.database = database
        # In the source's directory, which is gone with it, however we end.
        self.path = source.directory / f"{database}.yaml"
        self.log = source.directory / f"{database}.out"
        self._passwords = {
            "SOURCE_PASSWORD": secrets.token_urlsafe(),
            "TARGET_PASSWORD": secrets.token_urlsafe(),
        }
        _make_account(source, SOURCE_RIGHTS, database, self._passwords["SOURCE_PASSWORD"])
        _make_account(target, TARGET_RIGHTS, database, self._passwords["TARGET_PASSWORD"])
        self.path.write_text(json.dumps(self._build_pipeline(), indent=2))

    def load(self) -> Watch:
        """`replicator load`, from start to end."""
        return self._command("load", str(self.path))

    def measure(self, *, rows: int, transactions: int) -> Run:
        """`replicator run --until-current` over a backlog: from its first commit until level with the source."""
        watch = self._command("run", "--until-current", str(self.path))
        if watch.mirroring is None or watch.level is None or watch.ended is None:
            raise BenchFailed(f"the watcher did not see the run begin and end:\n{self.log.read_text()}")
        return build_run(
            watch.mirroring,
            watch.level,
            rows=rows,
            transactions=transactions,
            peak_rss=watch.peak_rss,
            extra={
                "start_up_seconds": round(watch.start_up, 3),
                "command_seconds": round(watch.ended.at - watch.started.at, 3),
            },
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[dict[str, int]]:
        """`replicator run` until the block ends, level with the source when it begins; yields the processes' ids."""
        process = self._start("run", str(self.path))
        try:
            if self._watch(process, until_level=True).level is None:
                raise BenchFailed(f"the run ended by itself:\n{self.log.read_text()}")
            yield self._pids(process)
        finally:
            process.send_signal(signal.SIGTERM)
            self._reap(process)
        if process.returncode:
            raise BenchFailed(f"replicator run: exit {process.returncode}\n{self.log.read_text()}")

    def reset(self) -> None:
        """An empty database at the target, where no pipeline has ever been."""
        self.target.execute(f"DROP DATABASE {self.database}; CREATE DATABASE {self.database}")

    def _build_pipeline(self) -> dict[str, object]:
        return {
            "pipeline": "bench",
            "source": {"type": "mysql", **self._endpoint(self.source, "SOURCE_PASSWORD")},
            "target": {"type": "mysql", **self._endpoint(self.target, "TARGET_PASSWORD")},
            "tables": {f"{self.database}.{TABLE}": {}},
        }

    def _endpoint(self, server: Server, variable: str) -> dict[str, object]:
        return {
            "host": server.host,
            "port": server.port,
            "user": USER,
            "password": f"${{env:{variable}}}",
            "database": self.database,
        }

    def _command(self, *arguments: str) -> Watch:
        process = self._start(*arguments)
        try:
            watch = self._watch(process, until_level=False)
        finally:
            process.kill()  # ended already, unless the watcher failed
            self._reap(process)
        if process.returncode:
            raise BenchFailed(f"replicator {arguments[0]}: exit {process.returncode}\n{self.log.read_text()}")
        return watch

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "replicator", *arguments],
                env=os.environ | self._passwords,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,  # noqa: PLW1509 (there is one thread when commands are started)
            )

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _pids(self, process: subprocess.Popen[bytes]) -> dict[str, int]:
        return {"replicator": process.pid, "source": self.source.pid, "target": self.target.pid}

    def _watch(self, process: subprocess.Popen[bytes], *, until_level: bool) -> Watch:
        """Watch until the process ends (it stays unreaped, so that its CPU can be read), or until it is level."""
        pids = self._pids(process)
        watch = Watch(Usage.read(pids))
        wanted = executed(self.source)
        deadline = time.monotonic() + LIMIT_SECONDS
        with self.target.connect(database=self.database) as connection, connection.cursor() as cursor:
            before = _read_checkpoint(cursor, wanted)
            while not _has_ended(process):
                if time.monotonic() > deadline:
                    raise BenchFailed(f"no end in {LIMIT_SECONDS:.0f} s:\n{self.log.read_text()}")
                watch.peak_rss = max(watch.peak_rss, read_peak_rss(process.pid))
                epoch, seq, covers = _read_checkpoint(cursor, wanted)
                if watch.mirroring is None and epoch > before[0] and seq > before[1]:
                    watch.mirroring = Usage.read(pids)
                if watch.mirroring and watch.level is None and covers:
                    watch.level = Usage.read(pids)
                    if until_level:
                        return watch
                time.sleep(POLL_SECONDS)
        watch.ended = Usage.read(pids)
        return watch


def _make_account(server: Server, rights: str, database: str, password: str) -> None:
    server.execute(
        f"CREATE DATABASE IF NOT EXISTS {database}; CREATE USER {USER} IDENTIFIED BY '{password}';"
        + rights.format(user=USER, database=database)
    )


def _read_checkpoint(cursor: pymysql.cursors.Cursor, wanted: str) -> tuple[int, int, bool]:
    """Epoch, sequence number and whether the stored position covers the GTID set ``wanted``."""
    try:
        cursor.execute(
            "SELECT epoch, seq, GTID_SUBSET(%s, SUBSTRING_INDEX(SUBSTRING(position, LENGTH('gtid:') + 1), ';', 1))"
            " FROM _replicator_checkpoint WHERE worker = 0",
            (wanted,),
        )
    except pymysql.err.ProgrammingError as error:
        if error.args[0] != ER.NO_SUCH_TABLE:
            raise
        return -1, -1, False
    row = cursor.fetchone()
    return (int(row[0]), int(row[1]), bool(row[2])) if row else (-1, -1, False)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def measure_load(mirror: Mirror, rows: int) -> Run:
    """`replicator load` into an empty database, from start to end of the command."""
    watch = mirror.load()
    if watch.ended is None:
        raise BenchFailed("the watcher did not see the load end")
    return build_run(
        watch.started,
        watch.ended,
        rows=rows,
        transactions=1,
        peak_rss=watch.peak_rss,
        extra={"start_up_seconds": round(watch.start_up, 3)},
    )
