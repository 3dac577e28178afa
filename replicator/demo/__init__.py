"""`replicator demo`: three shops at work, three pipelines into one target, two kills on the way, a comparison at the end.

It uses the program as a user does: pipeline files, ordinary accounts, `replicator run` as a process of its own for each
file, and the control tables in the target to see how they are. Servers, pipelines and directories belong to supervisors
(`supervisor.py`), which remove them however the demo ends: at its end, at Ctrl-C, at an error, at kill -9.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import orjson

from replicator.check.probe import TARGET_GRANT
from replicator.config import load
from replicator.demo.compare import Comparison, Side, compare
from replicator.demo.shop import DATABASE, OWNER, TABLES, Shopkeeper, open_shop
from replicator.demo.view import DemoView, Figures, open_view
from replicator.errors import ReplicatorError
from replicator.pgserver import PostgresServer, start_postgres
from replicator.servers import Server, SupervisorConnection, start_mariadb, start_mysql
from replicator.status import PipelineStatus, read_status

TARGET_DATABASE = "app"
USER = "replicator"
MIRROR_SECONDS = 5.0  # before the kill, and again after it
DEAD_SECONDS = 2.0
PATIENCE_SECONDS = 120.0  # a pipeline that has not got so far by then never will
FRAME_SECONDS = 0.25
DIFFERENT = 7
INTERRUPTED = 130


class DemoFailed(ReplicatorError):
    """A pipeline of the demo ended, or never got where it should; the message ends with what it printed."""

    code = "demo_failed"


def run_demo() -> int:
    """Play the whole story; returns 0 when every table is equal at the end, 7 when not, 130 after Ctrl-C.

    Raises MissingBinary, ServerFailed, DemoFailed.
    """
    view = open_view()
    try:
        with contextlib.closing(view), _ending_on_sigterm(), contextlib.ExitStack() as stack:
            return _play(view, stack)
    except KeyboardInterrupt:
        view.tell("interrupted: servers, pipelines and files are gone")
        return INTERRUPTED


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds as an exit does."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _play(view: DemoView, stack: contextlib.ExitStack) -> int:
    view.tell(
        "starting four throwaway servers: a MariaDB, a PostgreSQL and a MySQL source, and a MySQL target"
    )
    shops, target = _set_up(view, stack)
    story = _Story(view, shops)
    for shop in shops:
        shop.start("run", "pipeline.yaml")
    view.tell("all shops are open; `replicator run` loads what they have, then mirrors what they do")
    story.watch_until(lambda: all(shop.is_streaming() for shop in shops))
    view.tell("all pipelines are loaded and stream")
    story.watch(MIRROR_SECONDS)
    story.kill(shops[1:])
    story.watch(MIRROR_SECONDS)
    story.close_shops()
    return story.judge(target)


# --- setting up -------------------------------------------------------------------------------------------------------


def _set_up(view: DemoView, stack: contextlib.ExitStack) -> tuple[list[_Shop], Server]:
    """Servers, accounts, filled shops and pipeline files; all of it is closed by ``stack``."""
    pool = stack.enter_context(ThreadPoolExecutor(4))
    starting: dict[str, Future[Server] | Future[PostgresServer]] = {
        "berlin": pool.submit(start_mariadb),
        "lima": pool.submit(start_postgres),
        "kyoto": pool.submit(start_mysql),
    }
    last = pool.submit(start_mysql)
    for future in (*starting.values(), last):
        stack.callback(_close_server, future)
    sources = {name: future.result() for name, future in starting.items()}
    target = last.result()
    places = ", ".join(f"{name} is {_title(server)}" for name, server in sources.items())
    view.tell(f"servers are up: {places}, the target is {_title(target)}")
    for filling in [pool.submit(open_shop, server, name) for name, server in sources.items()]:
        filling.result()
    password = secrets.token_urlsafe(12)
    _make_target_account(target, password)
    return [_open(stack, name, source, target, password) for name, source in sources.items()], target


def _close_server(starting: Future[Server] | Future[PostgresServer]) -> None:
    if starting.exception() is None:
        starting.result().close()


_PRODUCTS: Final = {"mysql": "MySQL", "mariadb": "MariaDB", "postgres": "PostgreSQL"}


def _title(server: Server | PostgresServer) -> str:
    return f"{_PRODUCTS[server.kind]} {'.'.join(map(str, server.version))}"


def _open(
    stack: contextlib.ExitStack, name: str, source: Server | PostgresServer, target: Server, password: str
) -> _Shop:
    _make_source_account(source, password)
    pipeline = stack.enter_context(contextlib.closing(_Pipeline(name)))
    pipeline.write_file(source, target, password)
    keeper = stack.enter_context(contextlib.closing(Shopkeeper(source, name)))
    return _Shop(name, source, keeper, pipeline)


def _make_source_account(server: Server | PostgresServer, password: str) -> None:
    """What docs/howto/getting-started.md grants."""
    if isinstance(server, PostgresServer):
        create = f"CREATE ROLE {USER} LOGIN REPLICATION PASSWORD '{password}'"
        server.execute([create, f"GRANT CREATE ON DATABASE {DATABASE} TO {USER}", f"GRANT {OWNER} TO {USER}"])
        return
    server.execute(f"CREATE USER {USER} IDENTIFIED BY '{password}'")
    server.execute(f"GRANT SELECT, LOCK TABLES, SHOW VIEW ON {DATABASE}.* TO {USER}")
    rights = "REPLICATION SLAVE, REPLICATION CLIENT" + (
        ", XA_RECOVER_ADMIN" if server.kind == "mysql" else ""
    )
    server.execute(f"GRANT {rights} ON *.* TO {USER}")


def _make_target_account(server: Server, password: str) -> None:
    """The ordinary account of a managed server: rights on one database, no other."""
    server.execute(f"CREATE DATABASE {TARGET_DATABASE}; CREATE USER {USER} IDENTIFIED BY '{password}'")
    server.execute(f"GRANT {TARGET_GRANT} ON {TARGET_DATABASE}.* TO {USER}")


class _Pipeline:
    """A directory with a pipeline file, and the process that runs it: neither outlives the demo."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._supervisor = SupervisorConnection("replicator-demo-")
        self._log = self._supervisor.directory / "log"
        self.file = self._supervisor.directory / "pipeline.yaml"
        self.pid = 0

    def write_file(self, source: Server | PostgresServer, target: Server, password: str) -> None:
        (self.file.parent / "password").write_text(password)
        account = {"user": USER, "password": "${file:password}"}
        content = {
            "pipeline": self.name,
            "source": {
                "type": source.kind,
                "host": source.host,
                "port": source.port,
                **account,
                "database": DATABASE,
            },
            "target": {
                "type": "mysql",
                "host": target.host,
                "port": target.port,
                **account,
                "database": TARGET_DATABASE,
            },
            "tables": {"*": {"to": f"{self.name}_{{table}}"}},
        }
        self.file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))

    def read_status(self) -> PipelineStatus:
        """As `replicator status` does."""
        return read_status(load(self.file))

    def start(self, *arguments: str) -> None:
        """Start ``replicator`` with these arguments, in the directory of the file."""
        command = [sys.executable, "-m", "replicator", *arguments]
        self.pid = self._supervisor.ask(do="start", command=command, log=str(self._log), input=os.devnull)[
            "pid"
        ]

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        code: int | None = self._supervisor.ask(do="poll")["code"]
        return code

    def kill(self) -> None:
        self._supervisor.ask(do="end", signal=int(signal.SIGKILL), seconds=None)

    def terminate(self) -> None:
        """Ask for an end in order; ``poll`` says when."""
        if self.poll() is None:  # until the next poll nobody reaps it, so the number is its own
            os.kill(self.pid, signal.SIGTERM)

    def last_words(self, lines: int = 20) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        self._supervisor.close()


class _Shop:
    """One source, its application, its pipeline, and how they are. ``is_ending``: the process may be gone."""

    def __init__(
        self, name: str, source: Server | PostgresServer, keeper: Shopkeeper, pipeline: _Pipeline
    ) -> None:
        self.name = name
        self.source = source
        self.keeper = keeper
        self.pipeline = pipeline
        self.is_ending = False
        self.figures = Figures(name, _title(source))

    def start(self, *arguments: str) -> None:
        self.is_ending = False
        self.pipeline.start(*arguments)

    def end(self, state: str, how: Callable[[], None]) -> None:
        self.is_ending = True
        how()
        self.figures = replace(self.figures, state=state, lag=None)

    def is_streaming(self) -> bool:
        """Whether the process that was started last streams."""
        status = self.pipeline.read_status()
        return status.state == "streaming" and status.pid == self.pipeline.pid

    def look(self) -> None:
        """Bring the figures up to date. Raises DemoFailed when something ended that should not have."""
        if self.keeper.failure is not None:
            raise DemoFailed(f"the shop {self.name} failed: {self.keeper.failure!r}") from self.keeper.failure
        code = self.pipeline.poll()
        if code is not None and not self.is_ending:
            raise DemoFailed(f"{self.name} ended with {code}:\n{self.pipeline.last_words()}")
        status = self.pipeline.read_status()
        applied = [table.applied for table in status.tables]
        is_heard = status.pid == self.pipeline.pid and status.state != "idle"
        state = status.state if is_heard else "starting"
        if code is not None:
            state = "killed" if self.figures.state == "killed" else "stopped"
        self.figures = Figures(
            self.name,
            self.figures.product,
            state=state,
            rows_loaded=sum(table.rows_loaded for table in status.tables),
            inserts=sum(counts.inserted for counts in applied),
            updates=sum(counts.updated for counts in applied),
            deletes=sum(counts.deleted for counts in applied),
            lag=status.lag_seconds,
            commits=self.keeper.commits,
        )


# --- the story --------------------------------------------------------------------------------------------------------


class _Story:
    """What happens to the shops, told and shown."""

    def __init__(self, view: DemoView, shops: list[_Shop]) -> None:
        self._view = view
        self.shops = shops

    def watch(self, seconds: float) -> None:
        """Show the figures for so long."""
        end = time.monotonic() + seconds
        self.watch_until(lambda: time.monotonic() >= end)

    def watch_until(self, is_true: Callable[[], bool]) -> None:
        """Show the figures until it is so. Raises DemoFailed when something ended, or when it never is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_true():
            for shop in self.shops:
                shop.look()
            self._view.show([shop.figures for shop in self.shops])
            if time.monotonic() > deadline:
                words = "\n".join(shop.pipeline.last_words() for shop in self.shops)
                raise DemoFailed(f"the demo stands still for {PATIENCE_SECONDS:.0f} seconds:\n{words}")
            time.sleep(FRAME_SECONDS)

    def kill(self, shops: Sequence[_Shop]) -> None:
        """kill -9 in mid-stream, and a new start after a while."""
        for shop in shops:
            shop.end("killed", shop.pipeline.kill)
            self._view.tell(
                f"kill -9 of process {shop.pipeline.pid}, the pipeline {shop.name}; its shop goes on writing"
            )
        self.watch(DEAD_SECONDS)
        for shop in shops:
            shop.start("run", "pipeline.yaml")
            self._view.tell(f"{shop.name} is started again, as process {shop.pipeline.pid}")
        self.watch_until(lambda: all(shop.is_streaming() for shop in shops))
        for shop in shops:
            self._view.tell(
                f"{shop.name} streams again, from the checkpoint that was committed with its last rows"
            )

    def close_shops(self) -> None:
        """The writers stop, the pipelines are stopped in order, and started once more to reach the end."""
        for shop in self.shops:
            shop.keeper.close()
        commits = sum(shop.keeper.commits for shop in self.shops)
        self._view.tell(f"the shops are closed after {commits:,} commits; SIGTERM to the pipelines")
        for shop in self.shops:
            shop.end("stopping", shop.pipeline.terminate)
        self._wait_for_ends()
        self._view.tell("all have stopped; `replicator run --until-current` applies what is left")
        for shop in self.shops:
            shop.start("run", "--until-current", "pipeline.yaml")
            shop.is_ending = True
        self._wait_for_ends()

    def _wait_for_ends(self) -> None:
        self.watch_until(lambda: all(shop.pipeline.poll() is not None for shop in self.shops))
        for shop in self.shops:
            shop.look()
            if code := shop.pipeline.poll():
                raise DemoFailed(f"{shop.name} ended with {code}:\n{shop.pipeline.last_words()}")
        self._view.show([shop.figures for shop in self.shops])

    def judge(self, target: Server) -> int:
        """Compare every table, say what was found, and return the exit code."""
        self._view.tell("comparing every row and column, by values that the servers compute themselves")
        comparisons = [
            compare(Side(shop.source, DATABASE, table), Side(target, TARGET_DATABASE, f"{shop.name}_{table}"))
            for shop in self.shops
            for table in TABLES
        ]
        for shop, found in zip((s for s in self.shops for _ in TABLES), comparisons, strict=True):
            self._view.tell(_describe(shop.name, found))
        rows = sum(found.rows for found in comparisons)
        different = sum(not found.is_equal for found in comparisons)
        end = f"{different} of them DIFFER" if different else "all equal"
        self._view.tell(f"{len(comparisons)} tables, {rows:,} rows: {end}")
        return DIFFERENT if different else 0


def _describe(shop: str, found: Comparison) -> str:
    tables = (
        f"{shop}: {found.source.database}.{found.source.table} = {found.target.database}.{found.target.table}"
    )
    if found.is_equal:
        return f"{tables:<50} {found.rows:>7,} rows  equal"
    return (
        f"{tables:<50} {found.rows:>7,} rows  DIFFERENT: {found.missing} only at the source, {found.extra} only at the"
        f" target, for example {found.example}"
    )
