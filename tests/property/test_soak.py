"""Whatever happens, in whatever order: a state machine over real servers, run by run from a printed seed (I2 to I4, I8).

Rules are what an application does (writes of every kind), what befalls the process (kills anywhere, planted deaths, stops,
takeovers), the servers (restarts, crashes, read-only windows, stalls) and the links (cuts), and what an operator does
(tables added, left out and brought back, mended after a change of schema; a pipeline dropped and loaded anew). Each is
judged at last by a run that catches up and a comparison of all rows.

``make soak`` runs programs for ``MINUTES``. Each has a seed, which is printed with its steps and says which source it is;
``SEED=N make soak`` runs that one alone. The same steps are taken; what they meet in mid-flight may differ.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition, Unsatisfiable
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.faults.dying import POINTS
from tests.faults.survival import LOADING
from tests.nodes import Nodes
from tests.processes import end, follow
from tests.stage import SOURCE_STOPPED, SOURCES, Mirrored, Stage

Step = Callable[..., None]

MINUTES = 0.3
FEW_STEPS, STEPS = 10, 25
"""Of a program, by default and in a soak."""

SEEDS = st.integers(0, 1 << 30)
NAMES = ("late_a", "late_b", "late_c")
PICKS = st.integers(0, 1 << 10)
STREAMED = sorted(set(POINTS) - {"shutdown"})

LATE_TABLE = (
    "CREATE TABLE {name} (id INT PRIMARY KEY, d DECIMAL(30,10), f DOUBLE, t TIMESTAMP(6) NULL, dt DATETIME(3), b BLOB,"
    " j JSON, e ENUM('', 'a', 'ß'), s SET('x', 'y'), bits BIT(9), y YEAR, txt TEXT,"
    " touched TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6), UNIQUE KEY (d))"
)
LATE_ROWS = (
    "REPLACE INTO {name} (id, d, f, t, dt, b, j, e, s, bits, y, txt) WITH RECURSIVE n (i) AS (SELECT {id} UNION ALL"
    " SELECT i + 1 FROM n WHERE i < {id} + {rows} - 1) SELECT i, RAND({seed} + i) * 1e12, RAND({seed} + i) - 0.5,"
    " FROM_UNIXTIME(1 + RAND({seed} + i) * 2e9), '1000-01-01 00:00:00.123', REPEAT(x'00ff275c0a1a', ({seed} + i) % 300),"
    " JSON_OBJECT('k', i, 'ü', NULL), 1 + (i + 3) % 3, ({seed} + i) % 4, ({seed} + i) % 512, 1901 + ({seed} + i) % 255,"
    " REPEAT('日本\\'', ({seed} + i) % 90) FROM n"
)
LATE_UPDATE = (
    "UPDATE IGNORE {name} SET f = -f, txt = CONCAT(txt, 'x'), id = id + {shift} WHERE id % 5 = {rest}"
)

ALTERATIONS = (
    "ALTER TABLE {name} ADD COLUMN added_{number} INT NOT NULL DEFAULT 7 FIRST",
    "ALTER TABLE {name} ADD COLUMN added_{number} INT NULL",
    "ALTER TABLE {name} MODIFY txt MEDIUMTEXT",
    "RENAME TABLE {name} TO away; RENAME TABLE away TO {name}",
    "DROP TABLE {name}; " + LATE_TABLE,
)
SESSIONS = {
    "mysql": ("binlog_transaction_compression = ON", "gtid_next = 'AUTOMATIC:soak'", "binlog_format = ROW"),
    "mysql without GTIDs": ("binlog_transaction_compression = ON", "binlog_format = ROW"),
    "mariadb": ("gtid_domain_id = 7", "server_id = 77", "binlog_annotate_row_events = OFF"),
}
"""What an application's sessions may set, and what the log then holds otherwise."""

UNREADABLE = (
    "SET SESSION binlog_format = 'STATEMENT'; UPDATE still SET v = 'said' WHERE id = 1",
    "SET SESSION binlog_row_image = 'MINIMAL'; UPDATE counter SET n = n + 1",
)


def at_most(times: int) -> Callable[[Step], Step]:
    """A rule that one program takes no more often: else some would be one or two rules, again and again."""

    def limit(step: Step) -> Step:
        @functools.wraps(step)
        def count(self: Program, **values: Any) -> None:
            self.taken[step.__name__] += 1
            step(self, **values)

        return precondition(lambda self: self.taken[step.__name__] < times)(count)

    return limit


class Program(RuleBasedStateMachine):
    """Steps upon one ``Mirrored``."""

    stage: ClassVar[Stage]
    product: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._alterations = 0
        self.taken: Counter[str] = Counter()

    @initialize(chance=SEEDS)
    def set_up(self, chance: int) -> None:
        assume(chance)  # the shortest program there is always comes first, and shows nothing
        self.on = self._stack.enter_context(contextlib.closing(Mirrored(self.stage, self.product)))
        self.stage.tally["programs"] += 1

    def _pick(self, number: int) -> str:
        names = sorted(self.on.late)
        return names[number % len(names)]

    # --- the application ------------------------------------------------------------------------------------------

    @rule(number=SEEDS, transactions=st.integers(1, 40))
    @at_most(6)
    def write(self, number: int, transactions: int) -> None:
        self.on.say(f"write {number} {transactions}")
        self.on.write(number, transactions)

    @rule(number=SEEDS, transactions=st.integers(1, 40), pick=PICKS)
    @at_most(3)
    def write_in_a_session_of_its_own_kind(self, number: int, transactions: int, pick: int) -> None:
        choices = SESSIONS.get(self.product, SESSIONS["mysql"])
        chosen = choices[pick % len(choices)]
        self.on.say(f"write {number} {transactions} with {chosen}")
        self.on.write(number, transactions, chosen)

    @rule(number=SEEDS, transactions=st.integers(1, 30))
    @at_most(5)
    def write_to_what_refers_to_itself(self, number: int, transactions: int) -> None:
        self.on.say(f"nodes {number} {transactions}")
        Nodes(self.on.source.server, self.on.source.database, number).write(transactions)

    @rule(number=SEEDS, rows=st.integers(100, 1000))
    @at_most(2)
    def write_big_transactions(self, number: int, rows: int) -> None:
        self.on.say(f"big transactions {number} {rows}")
        self._write_big(number, rows)

    def _write_big(self, number: int, rows: int) -> None:
        self.on.run(
            "INSERT IGNORE INTO customers (email, seat) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            f" WHERE i < {rows}) SELECT CONCAT('b', {number}, '-', i, '@x'), NULL FROM n"
        )
        self.on.run(
            f"BEGIN; UPDATE customers SET touched = touched + 7 ORDER BY id DESC LIMIT {rows}; SAVEPOINT s;"
            " DELETE FROM customers WHERE email LIKE 'b%' AND id % 5 = 0; ROLLBACK TO SAVEPOINT s;"
            " UPDATE counter SET n = n + 1; INSERT INTO log SELECT n, 'big' FROM counter; COMMIT"
        )
        self.on.run("DELETE FROM customers WHERE email LIKE 'b%' AND id % 7 = 0")

    @rule(pick=PICKS)
    @at_most(2)
    def truncate(self, pick: int) -> None:
        names = ["tags", "log", *sorted(self.on.late)]
        name = names[pick % len(names)]
        self.on.say(f"truncate {name}")
        self.on.run(f"TRUNCATE TABLE {name}")

    @rule(number=SEEDS)
    @at_most(1)
    def log_statements_on_what_nobody_mirrors(self, number: int) -> None:
        self.on.say(f"beats {number}")
        self.on.run(
            f"SET SESSION binlog_format = 'STATEMENT'; INSERT IGNORE INTO beats VALUES ({number}, '2020-02-02');"
            f" UPDATE beats SET at = '2021-01-01' WHERE id = {number}; DELETE FROM beats WHERE id < {number}"
        )

    @rule(pick=PICKS, number=SEEDS, at=st.integers(-3, 400), rows=st.sampled_from([1, 3, 300]))
    @precondition(lambda self: self.on.late)
    @at_most(4)
    def write_many_types(self, pick: int, number: int, at: int, rows: int) -> None:
        name = self._pick(pick)
        self.on.say(f"rows of {name} {number} {at} {rows}")
        seed_of_rows = 3 + number  # so that no sum with a key is negative
        self.on.run(LATE_ROWS.format(name=name, id=at, seed=seed_of_rows, rows=rows))

    @rule(pick=PICKS, rest=st.integers(0, 4), shift=st.sampled_from([0, 0, 100_000]))
    @precondition(lambda self: self.on.late)
    @at_most(3)
    def update_many_types(self, pick: int, rest: int, shift: int) -> None:
        name = self._pick(pick)
        self.on.say(f"update {name} {rest} {shift}")
        self.on.run(LATE_UPDATE.format(name=name, rest=rest, shift=shift))

    # --- the operator ---------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), number=SEEDS, rows=st.sampled_from([0, 5, 400]))
    @at_most(3)
    def add_a_table(self, name: str, number: int, rows: int) -> None:
        """Made at the source at once; mirrored from the next start on."""
        if name not in self.on.late:
            self.on.say(f"add {name} {number} {rows}")
            self._add(name, number, rows)

    def _add(self, name: str, number: int, rows: int) -> None:
        self.on.run(LATE_TABLE.format(name=name))
        if rows:
            self.on.run(LATE_ROWS.format(name=name, id=1, seed=number, rows=rows))
        self.on.late.add(name)
        self.on.select(name)

    @rule(pick=PICKS, number=SEEDS)
    @precondition(lambda self: self.on.late)
    @at_most(2)
    def leave_out_and_bring_back(self, pick: int, number: int) -> None:
        """Changed while it was away, it is loaded again."""
        name = self._pick(pick)
        self.on.say(f"leave out {name} {number}")
        self._leave_out(name)
        self.on.run(LATE_ROWS.format(name=name, id=number % 50, seed=number, rows=20))
        self.on.select(name)

    def _leave_out(self, *names: str) -> None:
        self.on.stop()
        self.on.catch_up()  # else the table may be needed for the rest of a huge transaction
        self.on.leave_out(*names)
        self.on.catch_up()

    @rule(
        name=st.sampled_from(NAMES),
        number=SEEDS,
        points=st.lists(st.sampled_from(sorted(LOADING)), min_size=1, max_size=3),
    )
    @at_most(2)
    def die_while_a_table_loads(self, name: str, number: int, points: list[str]) -> None:
        self.on.say(f"die while {name} loads {number} {points}")
        self.on.stop()
        if name in self.on.late:
            self._leave_out(name)
            self.on.select(name)
        else:
            self._add(name, number, 300)
        for death, point in enumerate(points):
            self.on.die(number + death, point, 1 + (number >> death) % 9)

    @rule(pick=PICKS, change=st.sampled_from(ALTERATIONS))
    @precondition(lambda self: self.on.late)
    @at_most(2)
    def alter_a_table(self, pick: int, change: str) -> None:
        """It may be paused from now on; the others stream on."""
        name = self._pick(pick)
        self._alterations += 1
        statement = change.format(name=name, number=self._alterations)
        self.on.say(f"alter: {statement[:70]}")
        self.on.altered.add(name)
        self.on.run(statement)

    @rule()
    @precondition(lambda self: self.on.altered)
    @at_most(2)
    def mend_one_by_one(self) -> None:
        """Out of the file, off the target, and back: only these are loaded again."""
        self.on.say(f"mend {sorted(self.on.altered)}")
        self._leave_out(*self.on.altered)
        self.on.drop_at_target(*self.on.altered)
        self.on.select(*self.on.altered)
        self.on.altered.clear()

    @rule()
    @precondition(lambda self: not self.on.is_loading)
    @at_most(1)
    def drop_and_load_anew(self) -> None:
        self.on.say("drop")
        self.on.stop()
        self._drop()

    def _drop(self) -> None:
        self.on.file.must("drop", "FILE")
        self.on.drop_at_target(*self.on.altered)
        self.on.altered.clear()
        self.on.is_loading = True

    @rule(number=SEEDS, statement=st.sampled_from(UNREADABLE), is_running=st.booleans())
    @precondition(lambda self: not self.on.is_loading)
    @at_most(1)
    def log_what_cannot_be_read(self, number: int, statement: str, is_running: bool) -> None:
        """The source is stopped by name, nothing is stepped over; the operator drops the pipeline and loads anew."""
        self.on.say(f"unreadable {number} {is_running}: {statement}")
        self.on.judge()
        self.on.write(number, 5)
        if is_running:
            self.on.running()
        self.on.run(statement)
        process = self.on.process = self.on.process or self.on.file.start("run", "FILE")
        output, _ = process.communicate(timeout=90)
        self.on.process = None
        assert process.returncode == SOURCE_STOPPED, f"exit {process.returncode}\n{output}"
        self.on.file.must("run", "FILE", "--until-current", exit_code=SOURCE_STOPPED)
        self.stage.tally["unreadable logs"] += 1
        self._drop()
        self.on.has_changed = True

    # --- the process ----------------------------------------------------------------------------------------------

    @rule(sliced=st.booleans())
    @precondition(lambda self: self.on.process is None)
    @at_most(4)
    def start(self, sliced: bool) -> None:
        self.on.say(f"start{' in slices' if sliced else ''}")
        self.on.running(sliced=sliced)

    @rule()
    @precondition(lambda self: self.on.process is not None)
    @at_most(3)
    def stop(self) -> None:
        self.on.say("stop")
        self.on.stop()

    @rule(number=SEEDS, commits=st.integers(1, 20), rows=st.sampled_from([0, 0, 500]))
    @at_most(4)
    def kill(self, number: int, commits: int, rows: int) -> None:
        self.on.say(f"kill {number} {commits} {rows}")
        process = self.on.running()
        with self.on.writing(number, pace=0.0) as writer:
            if rows:
                self._write_big(number, rows)
            writer.wait(commits)
            end(process, signal.SIGKILL)
        self.on.process = None
        self.stage.tally["kills"] += 1

    @rule(number=SEEDS, point=st.sampled_from(STREAMED), times=st.integers(1, 4))
    @at_most(4)
    def die(self, number: int, point: str, times: int) -> None:
        """At a planted point, where the run gets there at all."""
        self.on.say(f"die {number} {point} {times}")
        self.on.stop()
        self.on.write(number, 10)
        self.on.die(number, point, times)

    @rule(number=SEEDS, rows=st.integers(20, 300), times=st.lists(st.integers(1, 60), min_size=1, max_size=3))
    @at_most(2)
    def die_between_slices(self, number: int, rows: int, times: list[int]) -> None:
        """Again and again within one transaction; the next run may have another limit."""
        self.on.say(f"die between slices {number} {rows} {times}")
        self.on.stop()
        self._write_big(number, rows)
        for death, slices in enumerate(times):
            self.on.die(number + death, "between-small-slices", slices)

    @rule()
    @at_most(2)
    def take_over(self) -> None:
        self.on.say("take over")
        older = self.on.running()
        self.on.prepare_a_start()
        newer = self.on.process = self.on.file.start("run", "FILE")
        output, _ = older.communicate(timeout=90)
        assert older.returncode == 5, f"exit {older.returncode}\n{output}"
        follow(newer, "state=")

    # --- servers and links ----------------------------------------------------------------------------------------

    @rule(which=st.sampled_from(["source", "target"]), how=st.sampled_from(["restart", "kill"]))
    @at_most(3)
    def lose_a_server(self, which: str, how: str) -> None:
        self.on.say(f"{how} {which}")
        self.on.running()
        server = self.on.source.server if which == "source" else self.on.target.server
        if how == "restart":
            server.restart()
        else:
            server.kill()
            server.start()
            if which == "source":
                self.on.branches.forget_lost()
        self.stage.tally["servers lost"] += 1

    @rule(which=st.sampled_from(["upper", "lower", "both"]))
    @at_most(3)
    def cut_links(self, which: str) -> None:
        self.on.say(f"cut {which}")
        self.on.running()
        for name in ("upper", "lower") if which == "both" else (which,):
            getattr(self.on, name).cut()

    @rule(number=SEEDS, commits=st.integers(1, 30))
    @at_most(2)
    def close_the_target_for_writes(self, number: int, commits: int) -> None:
        self.on.say(f"read only {number} {commits}")
        self.on.running()
        self.on.target.server.execute("SET GLOBAL super_read_only = 1")
        try:
            with self.on.writing(number) as writer:
                writer.wait(commits)
        finally:
            self.on.target.server.execute("SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0")

    @rule(number=SEEDS, commits=st.integers(1, 100))
    @at_most(2)
    def stall_the_target(self, number: int, commits: int) -> None:
        self.on.say(f"stall {number} {commits}")
        self.on.running()
        with self.on.target.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("FLUSH TABLES WITH READ LOCK")
            with self.on.writing(number) as writer:
                writer.wait(commits)

    # --- the judge ------------------------------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: not self.on.altered)
    @at_most(3)
    def watch(self) -> None:
        self.on.say("watch")
        self.on.watch()

    @rule()
    @precondition(lambda self: self.on.has_changed)
    @at_most(4)
    def compare(self) -> None:
        self.on.say("compare")
        self.on.judge()

    def teardown(self) -> None:
        with self._stack:
            if hasattr(self, "on") and self.on.has_changed:
                self.on.judge()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        yield Stage(stack)


def run_program(stage: Stage, number: int) -> None:
    product = list(SOURCES)[number % len(SOURCES)]
    print(f"\nseed {number} on {product}; again: SEED={number} make soak", flush=True)
    machine = type("Program", (Program,), {"stage": stage, "product": product})
    # Out of rules, or other rules were open than in the program before (servers keep their own time): each was judged then.
    with contextlib.suppress(Unsatisfiable, FlakyStrategyDefinition):
        _run(seed(number)(machine))


def _run(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1,
            stateful_step_count=STEPS if {"MINUTES", "SEED"} & os.environ.keys() else FEW_STEPS,
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
    try:
        while time.monotonic() < ends_at:
            run_program(stage, number)
            number += 1
    finally:
        print(f"\n{stage.describe()}", flush=True)
    return None
