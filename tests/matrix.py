"""Many independent cells of work on real servers, in several processes, and resumable: `make replay` and `make crash`.

A cell is named by a string. Its result is one JSON object on a line of a file (``build/NAME.jsonl``, which git ignores),
written when it ends; the next run does only the cells that are missing there or were ``bad``. Each process has servers of
its own. From the environment: ``JOBS`` (processes, 2), ``SHARD`` (``2/4``: the second quarter of the cells), ``FRESH``
(anything: forget what was done).
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from replicator.pgserver import PostgresServer, start_postgres
from replicator.servers import Server, start_mariadb, start_mysql
from replicator.supervisor import die_with_parent

RESULTS = Path("build")

Result = dict[str, Any]
"""What became of a cell: ``cell``, ``seconds``, ``bad`` (``""``, or what is wrong), and what its work adds."""


class Bench:
    """The servers of one process: a target, and each source product once it is asked for."""

    def __init__(self, settings: dict[str, Any], target_settings: dict[str, Any]) -> None:
        self._stack = contextlib.ExitStack()
        self._settings = settings
        self._sources: dict[str, Server] = {}
        self._postgres: dict[str, PostgresServer] = {}
        self.target = self._stack.enter_context(start_mysql(**target_settings))

    def source(self, product: str) -> Server:
        if product not in self._sources:
            start = {"mysql": start_mysql, "mariadb": start_mariadb}[product]
            self._sources[product] = self._stack.enter_context(start(**self._settings))
        return self._sources[product]

    def postgres(self, product: str) -> PostgresServer:
        """``postgres`` or ``postgres_newest``; ``settings`` are none of it."""
        if product not in self._postgres:
            server = start_postgres(newest=product == "postgres_newest")
            self._postgres[product] = self._stack.enter_context(server)
        return self._postgres[product]

    def close(self) -> None:
        self._stack.close()


Work = Callable[[Bench, str], Result]


class Results:
    """The file of results: read at the start, one line appended for each cell that ends."""

    def __init__(self, name: str) -> None:
        self._path = RESULTS / f"{name}.jsonl"
        RESULTS.mkdir(exist_ok=True)
        if os.environ.get("FRESH"):
            self._path.unlink(missing_ok=True)
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self.by_cell: dict[str, Result] = {r["cell"]: r for r in map(json.loads, lines)}

    def missing(self, cells: Sequence[str]) -> list[str]:
        return [cell for cell in cells if self.by_cell.get(cell, {"bad": "not done"})["bad"]]

    def add(self, result: Result) -> None:
        self.by_cell[result["cell"]] = result
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")


def shard(cells: Sequence[str]) -> list[str]:
    """This process's share of the cells, by SHARD."""
    part, _, parts = os.environ.get("SHARD", "1/1").partition("/")
    return [cell for at, cell in enumerate(cells) if at % int(parts) == int(part) - 1]


def run_cells(
    name: str,
    cells: Sequence[str],
    work: Work,
    *,
    settings: dict[str, Any] | None = None,
    target_settings: dict[str, Any] | None = None,
) -> list[Result]:
    """Do what is missing and return the results of all these cells; one line is printed for each that ends."""
    mine, results = shard(cells), Results(name)
    missing = results.missing(mine)
    jobs = min(int(os.environ.get("JOBS") or 2), len(missing))
    print(f"{len(mine)} cells, {len(missing)} to do, {jobs} at a time", flush=True)
    if len(missing) < len(mine):
        print(
            f"{len(mine) - len(missing)} results are kept from earlier runs, of whatever code: FRESH=1 forgets them"
        )
    with _workers(jobs, missing, work, settings or {}, target_settings or {}) as ended:
        for number, result in enumerate(ended, 1):
            results.add(result)
            word = "BAD" if result["bad"] else "ok"
            print(
                f"{number:4}/{len(missing)} {word:4}{result['seconds']:7.1f} s  {result['cell']}", flush=True
            )
    return [results.by_cell[cell] for cell in mine]


@contextlib.contextmanager
def _workers(
    jobs: int, cells: Sequence[str], work: Work, settings: dict[str, Any], target_settings: dict[str, Any]
) -> Iterator[Iterator[Result]]:
    context = multiprocessing.get_context("fork")
    todo, done = context.Queue(), context.Queue()
    for cell in cells:
        todo.put(cell)
    processes = [
        context.Process(target=_serve, args=(todo, done, work, settings, target_settings))
        for _ in range(jobs)
    ]
    for process in processes:
        process.start()

    def ended() -> Iterator[Result]:
        left = len(cells)
        while left:
            try:
                result = done.get(timeout=5)
            except queue.Empty:
                if not any(process.is_alive() for process in processes):
                    raise RuntimeError("every worker has ended, and cells are left") from None
                continue
            left -= 1
            yield result

    try:
        yield ended()
    finally:
        for _ in processes:
            todo.put(None)
        for process in processes:
            process.join()


def _serve(
    todo: Any, done: Any, work: Work, settings: dict[str, Any], target_settings: dict[str, Any]
) -> None:
    """Cells one by one, until there is none; what goes wrong in one of them is its result."""
    die_with_parent()
    with contextlib.closing(Bench(settings, target_settings)) as bench:
        while (cell := todo.get()) is not None:
            begin = time.monotonic()
            try:
                result = work(bench, cell)
            except Exception:  # noqa: BLE001 - one cell's failure is its result
                result = {"bad": traceback.format_exc()}
            done.put(result | {"cell": cell, "seconds": round(time.monotonic() - begin, 1)})
