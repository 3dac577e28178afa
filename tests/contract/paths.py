"""One set of rows on every way to the target: loaded, inserted, updated, and deleted and inserted again.

A table's ``id`` says which way a row takes: 0.. is loaded, 1000.. is inserted by the stream, 2000.. is loaded with the
values of its neighbour and updated, 3000.. is loaded, deleted and inserted again.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.accounts import Account
from tests.compare import assert_equal
from tests.processes import PipelineFile

SQL_MODE = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO"
SESSION = f"SET SESSION sql_mode='{SQL_MODE}', time_zone='+00:00', NAMES utf8mb4"

Columns = dict[str, list[str]]
"""Column definition → SQL literals; row k holds the k-th literal, modulo."""

STEP = 1000


@dataclass(frozen=True, slots=True)
class Zoo:
    """One table: its columns, and what follows them in CREATE TABLE."""

    name: str
    columns: Columns
    keys: str = ""
    options: str = ""

    @property
    def names(self) -> list[str]:
        return [f"c{i}" for i in range(len(self.columns))]

    @property
    def count(self) -> int:
        """How many rows take each way, the row of NULLs not counted."""
        return max(map(len, self.columns.values()))

    def create(self) -> str:
        definitions = ", ".join(f"c{i} {definition}" for i, definition in enumerate(self.columns))
        return f"CREATE TABLE {self.name} (id INT PRIMARY KEY, {definitions}{self.keys}) {self.options}"

    def insert(self, first: int, shift: int = 0) -> str:
        """All rows from id ``first`` on, row k with the values of row k + ``shift``; the last one is NULL."""
        rows = [
            ", ".join(values[(k + shift) % len(values)] for values in self.columns.values())
            for k in range(self.count)
        ]
        rows.append(
            ", ".join("NULL" if "NOT NULL" not in name else vs[0] for name, vs in self.columns.items())
        )
        values = ", ".join(f"({first + k}, {row})" for k, row in enumerate(rows))
        return f"INSERT INTO {self.name} (id, {', '.join(self.names)}) VALUES {values}"

    def before(self) -> list[str]:
        """What the load finds."""
        return [self.create(), self.insert(0), self.insert(2 * STEP, shift=1), self.insert(3 * STEP)]

    def after(self) -> list[str]:
        """What the stream brings, each way one transaction."""
        join = ", ".join(f"t.{name} = s.{name}" for name in self.names)
        return [
            self.insert(STEP),
            f"UPDATE {self.name} t JOIN {self.name} s ON s.id = t.id - {2 * STEP} SET {join} WHERE t.id >= {2 * STEP}",
            f"DELETE FROM {self.name} WHERE id >= {3 * STEP}",
            self.insert(3 * STEP),
        ]


def run_all(source: Account, statements: list[str]) -> None:
    source.server.execute([SESSION, *statements], database=source.database)


def mirror(source: Account, target: Account, pipeline: PipelineFile, zoos: list[Zoo]) -> int:
    """Every row of every zoo on all four ways; returns how many rows were compared."""
    run_all(source, [text for zoo in zoos for text in zoo.before()])
    pipeline.must("load", "FILE")
    assert_equal(source.server, source.database, target.server, target.database)
    run_all(source, [text for zoo in zoos for text in zoo.after()])
    pipeline.must("run", "FILE", "--until-current")
    return assert_equal(source.server, source.database, target.server, target.database)
