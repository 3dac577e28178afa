"""What a soak acts on: servers that outlive its programs, one pipeline through tunnels, and the judge."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql

from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account, make_source_account, make_target_account
from tests.branches import branching
from tests.compare import assert_equal
from tests.faults.dying import POINTS
from tests.faults.survival import DYING, MOST_VISITS
from tests.nodes import SCHEMA as NODES
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.targets import wait_until
from tests.tunnel import Tunnel
from tests.workload import Writer, create_schema, writing

SOURCES: dict[str, Callable[[], Server]] = {
    "mysql": start_mysql,
    "mariadb": start_mariadb,
    "mysql with unlogged cascades": lambda: start_mysql(innodb_native_foreign_keys=True),
    "mysql without GTIDs": lambda: start_mysql(gtid_mode=False),
}
LISTED = ("counter", "log", "branches", "customers", "orders", "items", "tags", "still", "nodes")
NEVER = 1 << 30
SLICED = (*DYING, "between-small-slices", str(NEVER))
"""The replicator with slices of a few changes each, and no death."""

KEPT = ("catching_up", "streaming", "paused")
"""States of tables that a start goes on with."""

PAUSED = 6
DEADLOCK = 1213
SOURCE_STOPPED = 4
LEVEL_SECONDS = 90.0


class Stage:
    """The servers of a soak, and what it has done so far."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._sources: dict[str, Server] = {}
        self.target = stack.enter_context(start_mysql())
        self.tally: Counter[str] = Counter()

    def source(self, product: str) -> Server:
        if product not in self._sources:
            self._sources[product] = self._stack.enter_context(SOURCES[product]())
        return self._sources[product]

    def describe(self) -> str:
        """One line of figures, for the end."""
        return ", ".join(f"{number:,} {what}" for what, number in sorted(self.tally.items()))


class Mirrored:
    """A source with the workload's tables, a target, a pipeline file between two tunnels; at most one process is meant to
    live.

    ``late`` tables were made by the program; ``altered`` ones may be paused from now on, until they are mended.
    """

    def __init__(self, stage: Stage, product: str) -> None:
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        self.tally = stage.tally
        self.source: Account = enter(make_source_account(stage.source(product)))
        self.target: Account = enter(make_target_account(stage.target))
        create_schema(self.source.server, self.source.database)
        self.run(NODES + "CREATE TABLE beats (id INT PRIMARY KEY, at DATETIME(6) NOT NULL)")
        self.upper = enter(Tunnel(self.source.server.host, self.source.server.port))
        self.lower = enter(Tunnel(self.target.server.host, self.target.server.port))
        self.branches = enter(branching(self.source.server, self.source.database))
        self._tables: dict[str, Any] = {self.name(table): {} for table in LISTED}
        folder = Path(enter(tempfile.TemporaryDirectory()))
        self.file: PipelineFile = write_pipeline(folder, self.source, self.target, tables=self._tables)
        self.file.edit("source", host=self.upper.host, port=self.upper.port, tls={"mode": "preferred"})
        self.file.edit("target", host=self.lower.host, port=self.lower.port, tls={"mode": "required"})
        self.process: subprocess.Popen[str] | None = None
        self.late: set[str] = set()
        self.altered: set[str] = set()
        self.has_changed = False
        self.is_loading = True
        self._marks = 0
        self._began = time.monotonic()

    def close(self) -> None:
        if self.process is not None:
            end(self.process, signal.SIGKILL)
        self._stack.close()

    # --- the source -----------------------------------------------------------------------------------------------

    def name(self, table: str) -> str:
        return f"{self.source.database}.{table}"

    def run(self, statement: str) -> None:
        """At the source; again after a deadlock with a writer in the background, which undoes all of it."""
        while True:
            try:
                self.source.server.execute(statement, database=self.source.database)
                return
            except pymysql.err.OperationalError as error:
                if error.args[0] != DEADLOCK:
                    raise

    def say(self, text: str) -> None:
        self.has_changed = True
        self.tally["steps"] += 1
        print(f"  {time.monotonic() - self._began:5.1f} s  {text}", flush=True)

    def open_writer(self, number: int, settings: str = "") -> Writer:
        branches = None if self.is_loading else self.branches
        return Writer(self.source.server, self.source.database, number, branches, settings=settings)

    def write(self, number: int, transactions: int, settings: str = "") -> None:
        with contextlib.closing(self.open_writer(number, settings)) as writer:
            for _ in range(transactions):
                writer.write()

    @contextlib.contextmanager
    def writing(self, number: int, pace: float = 0.005) -> Iterator[Writer]:
        with writing(self.source.server, self.source.database, number, pace=pace) as writer:
            yield writer

    def prepare_a_start(self) -> None:
        """What an operator sees to before a start.

        A load waits for what was prepared before it (else XA transactions stay open through whatever happens), and a table
        that is to be loaded must find none of its old form at the target.
        """
        if self.altered:
            states = self._find_states(self.file.status())
            self.drop_at_target(*(name for name in self.altered if states.get(name) not in KEPT))
        if self.is_loading:
            for name in self.branches.names:
                (self.branches.commit if len(name) % 2 else self.branches.rollback)(name)

    # --- the file -------------------------------------------------------------------------------------------------

    def select(self, *tables: str) -> None:
        """From the next start on; a table that was away is loaded."""
        self._tables |= {self.name(table): {} for table in tables}
        self.file.edit("tables", **self._tables)
        self.is_loading = True

    def leave_out(self, *tables: str) -> None:
        self._tables = {name: {} for name in self._tables if name not in map(self.name, tables)}
        self.file.set_top(tables=self._tables)

    def drop_at_target(self, *tables: str) -> None:
        for table in tables:
            self.target.query(f"DROP TABLE IF EXISTS {table}")

    # --- the process ----------------------------------------------------------------------------------------------

    @property
    def ends(self) -> set[int]:
        """Exit codes of a run that is told to end, or that has reached what it was to reach."""
        return {0, PAUSED} if self.altered else {0}

    def running(self, *, sliced: bool = False) -> subprocess.Popen[str]:
        """The process; one is started where there is none."""
        if self.process is None:
            self.prepare_a_start()
            program = SLICED if sliced else ("-m", "replicator")
            self.process = self.file.start("run", "FILE", program=program)
            follow(self.process, "state=")
        return self.process

    def stop(self) -> None:
        """Tell the process to end, where there is one."""
        if self.process is not None:
            process, self.process = self.process, None
            code, output = end(process)
            assert code in self.ends, f"exit {code}\n{output}"

    def die(self, number: int, point: str, times: int) -> None:
        """A run that ends at a planted point, where it gets there at all; the source is written to meanwhile."""
        times = min(times, MOST_VISITS.get(point, times))
        assert point in POINTS
        self.prepare_a_start()
        process = self.file.start("run", "FILE", "--until-current", program=(*DYING, point, str(times)))
        with self.writing(number, pace=0.02):
            output, _ = process.communicate(timeout=LEVEL_SECONDS)
        died = process.returncode == -signal.SIGKILL
        self.tally["kills"] += died
        assert died or process.returncode in self.ends, f"exit {process.returncode}\n{output}"

    def catch_up(self) -> None:
        """Run until all is applied that was committed before."""
        self.prepare_a_start()
        done = self.file.run("run", "FILE", "--until-current")
        assert done.returncode in self.ends, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"

    # --- the judge ------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """End the process, catch up, and compare every table but those that a change of theirs has paused."""
        self.stop()
        self.catch_up()
        status = self.file.status()
        paused = self._find_paused(status)
        assert paused <= self.altered, f"paused: {paused}, altered: {self.altered}"
        self._compare(besides=paused)
        assert not status["torn"]
        self.altered = paused
        self.is_loading = False
        self.has_changed = False

    def _find_paused(self, status: dict[str, Any]) -> set[str]:
        states = self._find_states(status)
        assert len(states) == len(self._tables)
        assert set(states.values()) <= {"streaming", "paused"}, states
        return {name for name, state in states.items() if state == "paused"}

    def _find_states(self, status: dict[str, Any]) -> dict[str, str]:
        selected = [table for table in status["tables"] if table["source"] in self._tables]
        return {table["source"].partition(".")[2]: table["state"] for table in selected}

    def _compare(self, besides: set[str]) -> None:
        ends = (self.source.server, self.source.database, self.target.server, self.target.database)
        rows = assert_equal(*ends, besides={"beats", *besides})
        self.tally["comparisons"] += 1
        self.tally["rows compared"] += rows
        print(f"           {rows} rows equal{f', besides {sorted(besides)}' if besides else ''}", flush=True)

    def watch(self) -> None:
        """The process alone brings the target level, says so, and the target is then equal while it runs."""
        if self.is_loading:
            self.stop()  # a process that was there before the file was changed knows nothing of it
        process = self.running()
        self._marks += 1
        mark = f"mark {self._marks}"
        self.run(f"UPDATE still SET v = '{mark}' WHERE id = 2")
        wait_until(lambda: self._is_level(process, mark), LEVEL_SECONDS)
        self._compare(besides=set())

    def _is_level(self, process: subprocess.Popen[str], mark: str) -> bool:
        assert process.poll() is None, process.communicate()[0]
        return self._look() == (mark, 1, 0, "", 0.0)

    def _look(self) -> tuple[object, ...]:
        """The mark, and what the target says of itself; nothing before there is a table."""
        rows = self.target.server.execute(
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s AND table_name IN ('still',"
            " '_replicator_status')",
            (self.target.database,),
        )
        if rows != [(2,)]:
            return ()
        found = self.target.server.execute(
            "SELECT (SELECT v FROM still WHERE id = 2), consistent, torn, waiting_for, lag_seconds"
            " FROM _replicator_status",
            database=self.target.database,
        )
        return found[0] if found else ()
