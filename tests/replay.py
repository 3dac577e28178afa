"""Replay the SQL files of other projects' tests, each as load and as stream: ``python -m tests.replay [WORD…]``.

Each file runs three times over on each source product that it is for: whole, but for the drops at its end, then loaded; its
tables created, loaded empty and then filled by the stream, up to each table's first change of schema; and then the rest of
it, which may pause tables. Every mirrored table must be equal afterwards. What is refused must say so, and the table is left
out; what fails on the source itself is counted. That rest counts apart: a change of schema belongs to it from the first one
on that meets a table which has had rows. A table without a key is given one; where that cannot be, it is left out by
``skip`` and counted apart.

The files are no part of the project: ``REPLICATOR_FIXTURES`` names their folder. Words select files by their path, or a
product. Results are kept: see ``tests.matrix`` for ``JOBS``, ``SHARD`` and ``FRESH``.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# Imported before forking: most commands import what they need when they run.
from replicator import cli, runner  # noqa: F401
from replicator.pgserver import PostgresServer
from replicator.servers import Server
from replicator.supervisor import die_with_parent
from tests import pgscripts, scripts
from tests.accounts import Account, pick_name
from tests.compare import Side
from tests.matrix import Bench, Result, run_cells
from tests.processes import PipelineFile, write_pipeline
from tests.replaysources import MysqlSource, PostgresSource, open_replay_source
from tests.scripts import Script

KEYLESS = ("without a primary key or a unique NOT NULL key", "no replica identity tells its rows apart")
BROKEN = "the source cannot open this table"
CRASH = "Traceback"
REFUSALS = (2, 3, 4, 5, 6)
"""Exit codes of a program that says no; any other one is a fault of its own."""
MOST_REFUSED = 0.1
"""Of the files that have tables."""


def run_forked(pipeline: PipelineFile, command: str, *options: str) -> tuple[int, str]:
    """A command in a child of this process, which has imported everything already; its exit code and errors."""
    errors = pipeline.path.with_suffix(".errors")
    child = os.fork()
    if child == 0:
        code = 70
        die_with_parent()  # a run waits for servers that are away, and those go with the parent
        try:
            os.environ.update(pipeline.env)
            # Under pytest, Python's own two are not the process's.
            sys.stdout, sys.stderr = open(os.devnull, "w"), errors.open("w")  # noqa: SIM115 - until the process ends
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stderr.fileno(), 2)
            code = _run_here(["replicator", command, str(pipeline.path), *options])
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), errors.read_text()


def _run_here(arguments: list[str]) -> int:
    sys.argv = arguments
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 - what a child of its own would print
        traceback.print_exc()
        sys.stderr.flush()
        return 70


AnySource = MysqlSource | PostgresSource

# --- one replay -------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    script: str
    product: str
    mode: str
    equal: int = 0
    rows: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    keyless: int = 0
    broken: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)

    def leave_out(self, name: str, reason: str) -> None:
        """A table that is not mirrored: for want of a key, because its own server cannot read it, or refused."""
        if any(text in reason for text in KEYLESS):
            self.keyless += 1
        elif BROKEN in reason:
            self.broken += 1
        else:
            self.refused[name] = reason

    @property
    def is_whole(self) -> bool:
        """Whether this replay ends before the first change of schema."""
        return self.mode != "ddl"

    @property
    def word(self) -> str:
        if self.different:
            return "DIFFERENT"
        if self.refused:
            return "equal, some refused" if self.equal else "refused"
        if self.equal:
            return "equal"
        return "no keys" if self.keyless else "fails on the source" if self.failed else "no tables"

    def line(self) -> str:
        failed = f" {sum(self.failed.values())} failed on the source" if self.failed else ""
        name = self.script if len(self.script) < 70 else "…" + self.script[-69:]
        return f"{name:70} {self.product:11}{self.mode:7}{self.word:20}{self.equal:4} tables {self.rows:7} rows{failed}"


@dataclass
class Replay:
    """One script on one source product and one target database of its own."""

    script: Script
    source: AnySource
    target: Account
    folder: Path
    mode: str
    skipped: dict[str, str] = field(default_factory=dict)

    def pipeline(self, tables: Sequence[tuple[str, str]]) -> PipelineFile:
        several = len({schema for schema, _ in tables}) > 1
        chosen: dict[str, object] = {
            spell(schema, table): {"skip": True}
            if f"{schema}.{table}" in self.skipped
            else {"to": self.target_name(schema, table, several, pattern=True)}
            for schema, table in tables
        }
        return write_pipeline(self.folder, self.source.account, self.target, name=self.mode, tables=chosen)

    @staticmethod
    def target_name(schema: str, table: str, several: bool, *, pattern: bool = False) -> str:
        """Or the ``pattern`` that a pipeline file has for it."""
        name = f"{schema}__{table}" if several else table
        # A dot would be a database; a name too long for the target is this replay's own doing.
        if len(name) > 64 or "." in name:
            return f"t_{zlib.crc32(name.encode()):08x}"
        return ("{schema}__{table}" if several else "{table}") if pattern else name

    def load(self, tables: Sequence[tuple[str, str]]) -> tuple[PipelineFile | None, str]:
        """Load; a table that the program names when it refuses is left out, and the load is tried again."""
        text = ""
        for _ in range(20):
            if len(self.skipped) == len(tables):
                return None, text
            pipeline = self.pipeline(tables)
            code, errors = run_forked(pipeline, "load")
            if code == 0:
                return pipeline, ""
            if CRASH in errors or code not in REFUSALS or not errors.strip():
                return None, f"{CRASH}, exit {code}: …{errors[-1500:]}"
            text = f"exit {code}: {errors[:600]}"
            if not self.leave_out(tables, errors):
                return None, text
        return None, text

    def leave_out(self, tables: Sequence[tuple[str, str]], text: str) -> bool:
        """Skip the tables that a refusal names; whether it names any."""
        named = [f"{s}.{t}" for s, t in tables if is_named(s, t, text)]
        new = {name: plain_reason(text, name) for name in named if name not in self.skipped}
        self.skipped |= new
        return bool(new)

    def compare(self, outcome: Outcome, tables: Sequence[tuple[str, str]], paused: dict[str, str]) -> None:
        several = len({schema for schema, _ in tables}) > 1
        there = set(self.source.tables())
        for schema, table in tables:
            name = f"{schema}.{table}"
            if name in self.skipped or name in paused:
                outcome.leave_out(name, self.skipped.get(name) or paused[name])
            elif (schema, table) not in there:
                outcome.different.append(f"{name}: gone at the source, and not paused")
            else:
                target_name = self.target_name(schema, table, several)
                self._compare(outcome, schema, table, target_name)

    def _compare(self, outcome: Outcome, schema: str, table: str, target_name: str) -> None:
        target = Side(self.target.server, self.target.database, target_name)
        text, rows = self.source.compare(schema, table, target)
        if text:
            outcome.different.append(text)
        else:
            outcome.equal += 1
            outcome.rows += rows


def spell(schema: str, table: str) -> str:
    """A pattern for one table alone: a pipeline file takes these characters, and a schema's dot, for its own."""
    schema, table = (re.sub(r"[*?[]", lambda found: f"[{found[0]}]", name) for name in (schema, table))
    return f"{schema.replace('.', '?')}.{table}"


def plain_reason(text: str, name: str) -> str:
    """The line that names a table, without the names of all the others; the last one is what ended it."""
    for line in reversed(text.splitlines()):
        if name in line:
            return re.sub(r"(\S+, ){2,}\S+", "…", line).replace(name, "TABLE")
    return text


def is_named(schema: str, table: str, text: str) -> bool:
    full = rf"(?<![\w.]){re.escape(f'{schema}.{table}')}(?!\w)"
    return bool(re.search(full, text)) or f"`{schema}`.`{table}`" in text or f" {table}:" in text


def replay_load(script: Script, source: AnySource, target: Account, folder: Path) -> Outcome:
    outcome = Outcome(script.name, source.product, "load")
    for statement in script.before_the_end():
        source.run(statement)
    source.rewind()
    source.give_keys()
    outcome.failed = source.failed
    replay = Replay(script, source, target, folder, "load")
    tables = source.tables()
    if not tables:
        return outcome
    pipeline, text = replay.load(tables)
    if pipeline is None:
        _fail(outcome, tables, text, replay.skipped)
    else:
        replay.compare(outcome, tables, {})
    return outcome


def _fail(
    outcome: Outcome, tables: Sequence[tuple[str, str]], text: str, reasons: Mapping[str, str] | None = None
) -> None:
    """Nothing of this replay is mirrored: each table for its own reason, or for the one that ended all."""
    reasons = reasons or {}
    if CRASH in text or not text:
        outcome.different.append(text or "no message")
    else:
        for schema, table in tables:
            name = f"{schema}.{table}"
            outcome.leave_out(name, reasons.get(name, text))


def replay_stream(script: Script, source: AnySource, target: Account, folder: Path) -> list[Outcome]:
    stream, rest = (Outcome(script.name, source.product, mode) for mode in ("stream", "ddl"))
    first, keep, late = script.divide()
    for statement in first:
        source.run(statement)
    source.rewind()
    source.give_keys()
    tables = source.tables()
    if not tables:
        return [stream]
    replay = Replay(script, source, target, folder, "stream")
    pipeline, text = replay.load(tables)
    if pipeline is None:
        _fail(stream, tables, text, replay.skipped)
        return [stream]
    outcomes = []
    for outcome, statements in ((stream, keep), (rest, late)):
        if not any(not script.grammar.keeps_place.match(s) for s in statements):
            continue
        source.failed = outcome.failed
        for statement in statements:
            source.run(statement)
        source.rewind()
        outcomes.append(outcome)
        if not follow(replay, pipeline, outcome, tables):
            break
    return outcomes


def follow(
    replay: Replay, pipeline: PipelineFile, outcome: Outcome, tables: Sequence[tuple[str, str]]
) -> bool:
    """Mirror what was written and compare; False where the whole source stopped, with a message."""
    while True:
        code, errors = run_forked(pipeline, "run", "--until-current")
        if CRASH in errors or code not in (0, 4, 5, 6):
            outcome.different.append(f"exit {code}: {errors[-1500:]}")
            return False
        if code not in (4, 5):
            break
        # What the operator would do: without the table that is named, the others go on.
        text = f"exit {code}: {errors[-600:]}"
        if not replay.leave_out(tables, text) or len(replay.skipped) == len(tables):
            _fail(outcome, tables, text, replay.skipped)
            return False
        pipeline = replay.pipeline(tables)
    rows = pipeline.status()["tables"] if code else []
    paused = {t["source"]: str(t["error"]) for t in rows if t["state"] in ("paused", "error")}
    replay.compare(outcome, tables, paused)
    return True


# --- all of them ------------------------------------------------------------------------------------------------------


def replay_script(script: Script, server: Server | PostgresServer, target: Server) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for replay in (lambda *a: [replay_load(*a)], replay_stream):
        name = pick_name()
        target.execute(f"CREATE DATABASE {name}")
        source = open_replay_source(server)
        with tempfile.TemporaryDirectory() as folder:
            account = Account(target, target.user, target.password, name)
            outcomes += replay(script, source, account, Path(folder))
        source.close()
        target.execute(f"DROP DATABASE {name}")
    return outcomes


def shorten(text: str, name: str) -> str:
    for part in (name, name.split(".", 1)[1]):
        text = re.sub(rf"(?<![\w]){re.escape(part)}(?![\w])", "TABLE", text)
    return re.sub(r"\d+", "N", " ".join(text.split()))[:300]


def report(results: Sequence[Result]) -> int:
    """Print what became of all; 1 when something differs, was not done, or too much is refused."""
    outcomes = [Outcome(**found) for result in results for found in result.get("outcomes", ())]
    whole = [o for o in outcomes if o.is_whole]
    print("\nrefused, and why:")
    reasons = Counter(shorten(text, name) for o in outcomes for name, text in o.refused.items())
    for reason, number in reasons.most_common():
        print(f"  {number:4} × {reason}")
    print("\ncounts of replays (ddl: what comes after the first change of schema):")
    for key, number in sorted(Counter((o.product, o.mode, o.word) for o in outcomes).items()):
        print(f"  {key[0]:11} {key[1]:7} {key[2]:22} {number:4}")
    files = {o.script for o in whole if o.equal or o.refused or o.different}
    refused = {o.script for o in whole if o.refused}
    different = [o for o in outcomes if o.different]
    print(f"\n{sum(o.equal for o in whole)} tables with {sum(o.rows for o in whole)} rows equal;", end=" ")
    print(
        f"{sum(o.keyless for o in whole)} without a key left out, {sum(o.broken for o in whole)} that their own"
    )
    print(
        f"server cannot open; {sum(sum(o.failed.values()) for o in whole)} statements failed on the source itself"
    )
    print(
        f"{len(files)} files with tables, {len(refused)} of them with a table refused, {len(different)} DIFFERENT"
    )
    for name in sorted(refused):
        print(f"  refused: {name}")
    for outcome in different:
        print(f"\n{outcome.line()}\n" + "\n".join(outcome.different))
    bad = [result for result in results if result["bad"] and not result.get("outcomes")]
    for result in bad:
        print(f"\n{result['cell']}\n{result['bad']}")
    return 1 if bad or different or len(refused) > MOST_REFUSED * len(files) else 0


def replay_cell(chosen: Mapping[tuple[str, str], Script], bench: Bench, cell: str) -> Result:
    """One file on one product."""
    product, _, name = cell.partition(" ")
    source = bench.postgres(product) if product in POSTGRES else bench.source(product)
    outcomes = replay_script(chosen[product, name], source, bench.target)
    bad = "; ".join(text for outcome in outcomes for text in outcome.different)
    return {"bad": bad, "outcomes": [vars(outcome) for outcome in outcomes]}


POSTGRES = ("postgres", "postgres_newest")
PRODUCTS = ("mysql", "mariadb", *POSTGRES)


def find_scripts(product: str, folder: Path, words: Sequence[str] = ()) -> list[Script]:
    """Those that fit a product and whose names hold all the words."""
    find = pgscripts.find_scripts if product in POSTGRES else scripts.find_scripts
    return find(folder, words)


SOURCE_SETTINGS: dict[str, Any] = {"event_scheduler": False}
TARGET_SETTINGS: dict[str, Any] = {"require_secure_transport": False}


def main(words: Sequence[str]) -> int:
    folder = os.environ.get("REPLICATOR_FIXTURES", "")
    if not Path(folder or "/nowhere").is_dir():
        print("REPLICATOR_FIXTURES names no folder of sample data: nothing to replay")
        return 0
    products = [word for word in words if word in PRODUCTS] or PRODUCTS
    others = [word for word in words if word not in PRODUCTS]
    chosen = {(p, script.name): script for p in products for script in find_scripts(p, Path(folder), others)}
    cells = [f"{product} {name}" for product, name in chosen]
    work = partial(replay_cell, chosen)
    return report(run_cells("replay", cells, work, settings=SOURCE_SETTINGS, target_settings=TARGET_SETTINGS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
