"""A state machine over real servers: writes and mischief in any order, and at every rest the target equals the source.

``MINUTES`` is how long (a moment, unless said; `make soak` takes an hour). Each program has a seed, which is printed with
its steps; ``SEED=N make soak`` runs that one alone. The source is MySQL where the seed is even, MariaDB where it is odd.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account, make_source_account, make_target_account
from tests.branches import branching
from tests.compare import assert_equal
from tests.faults.dying import POINTS
from tests.faults.survival import DYING, MOST_VISITS
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.tunnel import Tunnel
from tests.workload import Writer, create_schema, writing

MINUTES = 0.3
STEPS = 15

SEEDS = st.integers(0, 1 << 30)
NAMES = st.sampled_from(["late_a", "late_b", "late_c"])

LATE_TABLE = (
    "CREATE TABLE {name} (id INT PRIMARY KEY, d DECIMAL(30,10), f DOUBLE, t TIMESTAMP(6) NULL, dt DATETIME(3), b BLOB,"
    " j JSON, e ENUM('', 'a', 'ß'), s SET('x', 'y'), bits BIT(9), y YEAR, txt TEXT, UNIQUE KEY (d))"
)
LATE_ROW = (
    "REPLACE INTO {name} SELECT {id}, RAND({seed}) * 1e12, RAND({seed}) - 0.5, FROM_UNIXTIME(1 + RAND({seed}) * 2e9),"
    " '1000-01-01 00:00:00.123', REPEAT(x'00ff275c0a1a', {seed} % 3000), JSON_OBJECT('k', {seed}, 'ü', NULL),"
    " 1 + {seed} % 3, {seed} % 4, {seed} % 512, 1901 + {seed} % 255, REPEAT('日本\\'', {seed} % 900)"
)


class Stage:
    """The servers of a soak: they outlive its programs."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._sources: dict[str, Server] = {}
        self.target = stack.enter_context(start_mysql())

    def source(self, product: str) -> Server:
        if product not in self._sources:
            start = start_mysql if product == "mysql" else start_mariadb
            self._sources[product] = self._stack.enter_context(start())
        return self._sources[product]


class Mirror(RuleBasedStateMachine):
    """One pipeline, through tunnels; at most one process of it is meant to live."""

    stage: ClassVar[Stage]
    product: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.process: subprocess.Popen[str] | None = None
        self.made: set[str] = set()
        self.has_changed = False
        self.is_loading = True

    @initialize(chance=st.integers(0, 1 << 30))
    def set_up(self, chance: int) -> None:
        assume(chance)  # the shortest program there is always comes first, and shows nothing
        enter = self._stack.enter_context
        self.source: Account = enter(make_source_account(self.stage.source(self.product)))
        self.target: Account = enter(make_target_account(self.stage.target))
        create_schema(self.source.server, self.source.database)
        self.upper = enter(Tunnel(self.source.server.host, self.source.server.port))
        self.lower = enter(Tunnel(self.target.server.host, self.target.server.port))
        folder = enter(tempfile.TemporaryDirectory())
        self.branches = enter(branching(self.source.server, self.source.database))
        listed = ("counter", "log", "branches", "customers", "orders", "items", "tags", "still")
        self.tables: dict[str, Any] = {f"{self.source.database}.{name}": {} for name in listed}
        self.file: PipelineFile = write_pipeline(Path(folder), self.source, self.target, tables=self.tables)
        self.file.edit("source", host=self.upper.host, port=self.upper.port, tls={"mode": "preferred"})
        self.file.edit("target", host=self.lower.host, port=self.lower.port, tls={"mode": "required"})

    def _say(self, text: str) -> None:
        self.has_changed = True
        print(f"  {text}", flush=True)

    def _open_writer(self, number: int) -> Writer:
        branches = None if self.is_loading else self.branches
        return Writer(self.source.server, self.source.database, number, branches)

    def _decide_what_a_load_waits_for(self) -> None:
        """A load waits for what was prepared before it; else XA transactions stay open through whatever happens."""
        if self.is_loading:
            for name in self.branches.names:
                (self.branches.commit if len(name) % 2 else self.branches.rollback)(name)

    def _run(self, statement: str) -> None:
        self.source.server.execute(statement, database=self.source.database)

    # --- the application ------------------------------------------------------------------------------------------

    @rule(number=SEEDS, transactions=st.integers(1, 40))
    def write(self, number: int, transactions: int) -> None:
        self._say(f"write {number} {transactions}")
        with contextlib.closing(self._open_writer(number)) as writer:
            for _ in range(transactions):
                writer.write()

    @rule(number=SEEDS, rows=st.integers(100, 5000))
    def write_a_big_transaction(self, number: int, rows: int) -> None:
        self._say(f"big transaction {number} {rows}")
        self._run(
            "INSERT IGNORE INTO customers (email, seat) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            f" WHERE i < {min(rows, 1000)}) SELECT CONCAT('b', {number}, '-', i, '@x'), NULL FROM n"
        )
        self._run("UPDATE customers SET touched = touched + 7 ORDER BY id DESC")
        self._run("DELETE FROM customers WHERE email LIKE 'b%' AND id % 7 = 0")

    @rule()
    def truncate(self) -> None:
        self._say("truncate")
        self._run("TRUNCATE TABLE tags")

    @rule(name=NAMES, number=SEEDS, at=st.integers(-3, 40))
    def write_many_types(self, name: str, number: int, at: int) -> None:
        if name in self.made:
            self._say(f"row of {name} {number} {at}")
            self._run(LATE_ROW.format(name=name, id=at, seed=number))

    @rule(name=NAMES)
    def add_a_table(self, name: str) -> None:
        """Made at the source at once; mirrored from the next start on."""
        if name not in self.made:
            self._say(f"add {name}")
            self._run(LATE_TABLE.format(name=name))
            self.made.add(name)
            self.is_loading = True
            self.tables[f"{self.source.database}.{name}"] = {}
            self.file.edit("tables", **self.tables)

    # --- the process ----------------------------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: self.process is None)
    def start(self) -> None:
        self._say("start")
        self._decide_what_a_load_waits_for()
        self.process = self.file.start("run", "FILE")
        follow(self.process, "state=")

    @rule()
    @precondition(lambda self: self.process is not None)
    def stop(self) -> None:
        self._say("stop")
        self._end()

    def _end(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            code, output = end(process)
            assert code == 0, f"exit {code}\n{output}"

    @rule(number=SEEDS, commits=st.integers(1, 20))
    @precondition(lambda self: self.process is not None)
    def kill(self, number: int, commits: int) -> None:
        self._say(f"kill {number} {commits}")
        assert self.process is not None
        with writing(self.source.server, self.source.database, number) as writer:
            writer.wait(commits)
            end(self.process, signal.SIGKILL)
        self.process = None

    @rule(number=SEEDS, point=st.sampled_from(sorted(set(POINTS) - {"shutdown"})), times=st.integers(1, 4))
    @precondition(lambda self: self.process is None)
    def die(self, number: int, point: str, times: int) -> None:
        """At a planted point, where the run gets there at all."""
        times = min(times, MOST_VISITS.get(point, times))
        self._say(f"die {number} {point} {times}")
        self._decide_what_a_load_waits_for()
        process = self.file.start("run", "FILE", "--until-current", program=(*DYING, point, str(times)))
        with contextlib.closing(self._open_writer(number)) as writer:
            for _ in range(20):
                writer.write()
        output, _ = process.communicate(timeout=90)
        assert process.returncode in (0, -signal.SIGKILL), f"exit {process.returncode}\n{output}"

    @rule()
    @precondition(lambda self: self.process is not None)
    def take_over(self) -> None:
        self._say("take over")
        self._decide_what_a_load_waits_for()
        assert self.process is not None
        newer = self.file.start("run", "FILE")
        output, _ = self.process.communicate(timeout=90)
        assert self.process.returncode == 5, f"exit {self.process.returncode}\n{output}"
        self.process = newer
        follow(newer, "state=")

    # --- servers and links ----------------------------------------------------------------------------------------

    @rule(which=st.sampled_from(["source", "target"]), how=st.sampled_from(["restart", "kill"]))
    def lose_a_server(self, which: str, how: str) -> None:
        self._say(f"{how} {which}")
        server = self.source.server if which == "source" else self.target.server
        if how == "restart":
            server.restart()
        else:
            server.kill()
            server.start()

    @rule(which=st.sampled_from(["upper", "lower", "both"]))
    def cut_links(self, which: str) -> None:
        self._say(f"cut {which}")
        for name in ("upper", "lower") if which == "both" else (which,):
            getattr(self, name).cut()

    @rule(number=SEEDS, commits=st.integers(1, 30))
    def close_the_target_for_writes(self, number: int, commits: int) -> None:
        self._say(f"read only {number} {commits}")
        self.target.server.execute("SET GLOBAL super_read_only = 1")
        try:
            with writing(self.source.server, self.source.database, number, pace=0.005) as writer:
                writer.wait(commits)
        finally:
            self.target.server.execute("SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0")

    @rule(number=SEEDS, commits=st.integers(1, 100))
    def stall_the_target(self, number: int, commits: int) -> None:
        self._say(f"stall {number} {commits}")
        with self.target.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
            with writing(self.source.server, self.source.database, number, pace=0.005) as writer:
                writer.wait(commits)

    # --- the judge ------------------------------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: self.has_changed)
    def compare(self) -> None:
        self._say("compare")
        self.has_changed = False
        self._end()
        self._decide_what_a_load_waits_for()
        self.file.must("run", "FILE", "--until-current")
        rows = assert_equal(
            self.source.server, self.source.database, self.target.server, self.target.database
        )
        assert {table["state"] for table in self.file.status()["tables"]} == {"streaming"}
        self.is_loading = False
        print(f"  {rows} rows equal", flush=True)

    def teardown(self) -> None:
        try:
            if self.has_changed:
                self.compare()
        finally:
            if self.process is not None:
                end(self.process, signal.SIGKILL)
            self._stack.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(stack)


def run_program(stage: Stage, number: int) -> None:
    product = "mariadb" if number % 2 else "mysql"
    print(f"\nseed {number} on {product}; again: SEED={number} make soak", flush=True)
    machine = type("Mirror", (Mirror,), {"stage": stage, "product": product})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=1,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_the_target_ends_equal(stage: Stage) -> None:
    if "SEED" in os.environ:
        return run_program(stage, int(os.environ["SEED"]))
    ends_at = time.monotonic() + 60 * float(os.environ.get("MINUTES") or MINUTES)
    number = 1 if "MINUTES" not in os.environ else int(time.time())
    while time.monotonic() < ends_at:
        run_program(stage, number)
        number += 1
    return None
