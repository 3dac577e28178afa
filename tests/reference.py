"""A small model of constrained tables, and random programs on it: what a plan must end equal to.

Rows are tuples as in ``replicator.model``. Constraints are checked after each row, as InnoDB does; text compares without
case and accents (utf8mb4_0900_ai_ci).
"""

from __future__ import annotations

import copy
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from replicator.model import (
    UNCHANGED,
    Changes,
    Column,
    ForeignKey,
    Kind,
    Op,
    Row,
    TableName,
    TableSchema,
    UniqueKey,
)
from replicator.plan import Action, Step
from replicator.plan.touch import merge_unchanged

COLLATION = "utf8mb4_0900_ai_ci"
DDL_TYPES = {Kind.INTEGER: "int", Kind.TEXT: f"varchar(20) character set utf8mb4 collate {COLLATION}"}


class Refused(Exception):
    """A constraint was violated, or a row that must be there is not."""


def fold(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    return "".join(
        c for c in unicodedata.normalize("NFKD", value.decode()) if not unicodedata.combining(c)
    ).casefold()


def integer(name: str, nullable: bool = False) -> Column:
    return Column(name, Kind.INTEGER, "int", nullable=nullable)


def text(name: str, nullable: bool = False) -> Column:
    return Column(name, Kind.TEXT, "varchar(20)", nullable=nullable, charset="utf8mb4", collation=COLLATION)


def build_table(
    name: str,
    columns: tuple[Column, ...],
    key: tuple[int, ...],
    *uniques: tuple[int, ...],
    keys: tuple[ForeignKey, ...] = (),
) -> TableSchema:
    unique_keys = (
        UniqueKey("PRIMARY", key),
        *(UniqueKey(f"u{n}", ordinals) for n, ordinals in enumerate(uniques)),
    )
    return TableSchema(TableName("s", name), name, columns, key, unique_keys, foreign_keys=keys)


def build_tables(on_delete: str, on_update: str, on_delete_id: str, on_delete_tree: str) -> list[TableSchema]:
    """Four tables that meet in every way: unique values, a referred unique key, a key inside a key, a self-reference."""
    parent = build_table("parent", (integer("id"), integer("code"), integer("v")), (0,), (1,))
    child = build_table(
        "child",
        (integer("p"), integer("n"), text("u", True), integer("q", True), integer("v")),
        (0, 1),
        (2,),
        keys=(
            ForeignKey("fk_p", ("p",), parent.source, ("code",), on_delete, on_update),
            ForeignKey("fk_q", ("q",), parent.source, ("id",), on_delete_id),
        ),
    )
    source = TableName("s", "tree")
    tree = build_table(
        "tree",
        (text("k"), text("up", True), integer("w", True), integer("v")),
        (0,),
        (2,),
        keys=(ForeignKey("fk_up", ("up",), source, ("k",), on_delete_tree),),
    )
    plain = build_table("plain", (integer("id"), integer("v")), (0,))
    return [parent, child, tree, plain]


@dataclass
class Model:
    """Tables by name; each a dict from folded key to row. ``cascaded`` collects what cascades wrote, in order."""

    tables: dict[str, TableSchema]
    rows: dict[str, dict[Any, Row]] = field(default_factory=dict)
    checks: bool = True
    cascaded: list[tuple[TableSchema, Row, Row | None]] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Iterable[TableSchema], checks: bool = True) -> Model:
        by_name = {table.target: table for table in tables}
        return cls(by_name, {name: {} for name in by_name}, checks)

    def do(self, work: Callable[[], None]) -> bool:
        """One statement, all or nothing; whether it was done."""
        saved = copy.deepcopy(self.rows)
        try:
            work()
        except Refused:
            self.rows = saved
            return False
        return True

    def key(self, table: TableSchema, row: Row) -> Any:
        return tuple(fold(row[at]) for at in table.key)

    def insert(self, table: TableSchema, row: Row) -> None:
        self._check_unique(table, row, None)
        self.rows[table.target][self.key(table, row)] = row
        self._check_parents(table, row, None)

    def update(self, table: TableSchema, old: Row, row: Row) -> None:
        self._check_unique(table, row, old)
        self._check_parents(table, row, old)  # among the rows as they were: it cannot become its own parent
        self._check_itself(table, old, row)
        del self.rows[table.target][self.key(table, old)]
        self.rows[table.target][self.key(table, row)] = row
        self._leave(table, old, row)

    def delete(self, table: TableSchema, old: Row) -> None:
        self._check_itself(table, old, None)
        del self.rows[table.target][self.key(table, old)]
        self._leave(table, old, None)

    def _check_unique(self, table: TableSchema, row: Row, old: Row | None) -> None:
        for unique in table.unique_keys:
            value = tuple(fold(row[at]) for at in unique.ordinals)
            for other in self.rows[table.target].values():
                same = tuple(fold(other[at]) for at in unique.ordinals) == value
                if other is not old and None not in value and same:
                    raise Refused(f"{table.target}.{unique.name} {value} is taken")

    def _edges(
        self,
    ) -> Iterator[tuple[TableSchema, tuple[int, ...], TableSchema, tuple[int, ...], ForeignKey]]:
        for child in self.tables.values():
            for key in child.foreign_keys:
                parent = self.tables[key.parent.table]
                yield child, _ordinals(child, key.columns), parent, _ordinals(parent, key.parent_columns), key

    def _check_parents(self, table: TableSchema, row: Row, old: Row | None) -> None:
        for child, columns, parent, parent_columns, key in self._edges() if self.checks else ():
            if child is not table:
                continue
            value = [fold(row[at]) for at in columns]
            if None in value or (old and value == [fold(old[at]) for at in columns]):
                continue
            if not any(
                [fold(p[at]) for at in parent_columns] == value for p in self.rows[parent.target].values()
            ):
                raise Refused(f"{table.target}.{key.name}: no parent {value}")

    def _check_itself(self, table: TableSchema, old: Row, new: Row | None) -> None:
        """InnoDB does not let a row go that refers to itself, not even when it stops to do so (unless by cascade)."""
        for child, columns, parent, parent_columns, key in self._edges() if self.checks else ():
            if not child is parent is table or (not new and key.on_delete in ("CASCADE", "SET NULL")):
                continue
            value = [old[at] for at in parent_columns]
            if new and value == [new[at] for at in parent_columns]:
                continue
            if [fold(old[at]) for at in columns] == [fold(v) for v in value]:
                raise Refused(f"{table.target}.{key.name}: refers to itself")

    def _leave(self, table: TableSchema, old: Row, new: Row | None) -> None:
        """What becomes of the rows that referred to ``old``."""
        for child, columns, parent, parent_columns, key in self._edges() if self.checks else ():
            if parent is not table:
                continue
            before = [old[at] for at in parent_columns]
            if new and before == [new[at] for at in parent_columns]:
                continue
            rows = self.rows[child.target].values()
            for row in [r for r in rows if [fold(r[at]) for at in columns] == [fold(v) for v in before]]:
                self._cascade(child, row, columns, key, [new[at] for at in parent_columns] if new else None)

    def _cascade(
        self, child: TableSchema, row: Row, columns: tuple[int, ...], key: ForeignKey, new: Any
    ) -> None:
        if self.rows[child.target].get(self.key(child, row)) is not row:
            return  # another of its foreign keys has dealt with it
        action = key.on_update if new else key.on_delete
        if action not in ("CASCADE", "SET NULL"):
            raise Refused(f"{child.target}.{key.name}: a child is there")
        if action == "CASCADE" and not new:
            self.delete(child, row)
            self.cascaded.append((child, row, None))
            return
        values = dict(zip(columns, new if action == "CASCADE" else [None] * len(columns), strict=True))
        after = tuple(values.get(at, value) for at, value in enumerate(row))
        self.update(child, row, after)
        self.cascaded.append((child, row, after))


def _ordinals(table: TableSchema, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple([column.name for column in table.columns].index(name) for name in names)


# --- programs --------------------------------------------------------------------------------------------------------


@dataclass
class Program:
    """A random history: the transactions as a log would hold them, and the model they end in."""

    transactions: list[list[Changes]]
    end: Model


def choose_rules(chance: random.Random) -> tuple[str, str, str, str]:
    """Arguments of ``build_tables``."""
    return (
        chance.choice(["RESTRICT", "CASCADE"]),
        chance.choice(["RESTRICT", "CASCADE"]),
        chance.choice(["RESTRICT", "SET NULL", "CASCADE"]),
        chance.choice(["RESTRICT", "CASCADE", "SET NULL"]),
    )


def choose_orders(chance: random.Random) -> list[tuple[Any, ...]]:
    """What a program tries: on all tables, on some, or on one; with and without TRUNCATE."""
    numbers = chance.choice([[0, 1, 2, 3], [0, 1], [2], [0, 0, 1, 1, 1]])
    whats = ["insert"] * 8 + ["update"] * 8 + ["delete"] * 4 + ["truncate"] * chance.choice([0, 1])
    return [
        (
            chance.choice(numbers),
            chance.choice(whats),
            chance.randrange(1 << 12),
            [chance.randrange(41) for _ in range(5)],
        )
        for _ in range(chance.choice([10, 60, 150]))
    ]


def run_program(
    tables: list[TableSchema], orders: list[tuple[Any, ...]], *, checks: bool, logged: bool
) -> Program:
    """Carry out what is possible of ``orders``: (table number, what, choice of row, new values)."""
    model = Model.of(tables, checks)
    transactions: list[list[Changes]] = []
    for number, what, choice, values in orders:
        table = tables[number]
        change = _choose(model, table, what, choice, values)
        if change is None:
            continue
        model.cascaded = []
        before, after = change
        if model.do(lambda table=table, before=before, after=after: _write(model, table, before, after)):  # type: ignore[misc]
            cascaded = [_log(*c, flagged=True) for c in model.cascaded] if logged else []
            transactions.append([*cascaded, _log(table, before, after)])
    return Program(transactions, model)


def defer(table: TableSchema, *numbers: int) -> TableSchema:
    """The table with these of its unique keys deferrable."""
    keys = [
        replace(key, deferrable=key.deferrable or number in numbers)
        for number, key in enumerate(table.unique_keys)
    ]
    return replace(table, unique_keys=tuple(keys))


def run_deferred(
    table: TableSchema, chance: random.Random, *, partial: bool
) -> tuple[list[list[Changes]], list[Row]]:
    """Random transactions in which only the strict keys hold after each row, and the rows they end in.

    ``partial``: before images have the key alone.
    """
    rows: list[Row] = []
    transactions: list[list[Changes]] = []
    for _ in range(chance.choice([5, 40])):
        wanted = list(rows)
        changes = [
            change
            for _ in range(chance.choice([1, 2, 8]))
            for change in _change_at_random(table, wanted, chance)
        ]
        if not _find_repeated(table, wanted, is_end=True):
            rows = wanted
            transactions.append([log_change(table, *change, partial=partial) for change in changes])
    return transactions, rows


def _change_at_random(
    table: TableSchema, rows: list[Row], chance: random.Random
) -> Iterator[tuple[Row | None, Row | None]]:
    """One insert or delete, or values of one column that change hands; what a strict key forbids is left undone."""
    at = chance.randrange(len(table.columns))
    chosen = chance.sample(range(len(rows)), min(len(rows), chance.choice([1, 2, 3, 9])))
    what = chance.choice(["insert", "insert", "delete", "exchange", "exchange", "set"])
    if what == "insert":
        row = tuple(_fit(column, chance.randrange(41)) for column in table.columns)
        yield from _attempt(table, rows, None, row)
    elif what == "delete" and chosen:
        yield from _attempt(table, rows, rows[chosen[0]], None)
    elif chosen:
        taken = [rows[number][at] for number in chosen]
        values = (
            [*taken[1:], taken[0]] if what == "exchange" else [_fit(table.columns[at], chance.randrange(41))]
        )
        for old, value in zip([rows[number] for number in chosen], values, strict=False):
            new = tuple(value if place == at else kept for place, kept in enumerate(old))
            yield from _attempt(table, rows, old, new)


def _attempt(
    table: TableSchema, rows: list[Row], old: Row | None, new: Row | None
) -> Iterator[tuple[Row | None, Row | None]]:
    kept = list(rows)
    if old is not None:
        rows.remove(old)
    if new is not None:
        rows.append(new)
    if _find_repeated(table, rows, is_end=False):
        rows[:] = kept
    elif old != new:
        yield old, new


def _find_repeated(table: TableSchema, rows: list[Row], *, is_end: bool) -> bool:
    for key in table.unique_keys:
        values = [tuple(fold(row[at]) for at in key.ordinals) for row in rows if is_end or not key.deferrable]
        told = [value for value in values if None not in value]
        if len(set(told)) < len(told):
            return True
    return False


def log_change(table: TableSchema, before: Row | None, after: Row | None, *, partial: bool) -> Changes:
    """As a log that has whole before images, or (``partial``) their keys alone."""
    if before is not None and partial:
        before = tuple(value if at in table.key else UNCHANGED for at, value in enumerate(before))
    return _log(table, before, after)


def _choose(
    model: Model, table: TableSchema, what: str, choice: int, values: list[int]
) -> tuple[Row | None, Row | None] | None:
    row = tuple(_fit(column, value) for column, value in zip(table.columns, values, strict=False))
    if what == "truncate":
        referred = any(parent is table for _, _, parent, _, _ in model._edges())
        return None if model.checks and referred else (None, None)
    if what == "insert":
        return None, row
    there = sorted(model.rows[table.target].values(), key=repr)
    if not there:
        return None
    old = there[choice % len(there)]
    if what == "delete":
        return old, None
    changed = tuple(
        new if choice >> at & 1 else kept for at, (kept, new) in enumerate(zip(old, row, strict=True))
    )
    return None if changed == old else (old, changed)


TEXTS = (b"a", b"A", b"b", b"B", b"c", b"e", "é".encode(), b"d ", b"d")


def _fit(column: Column, value: int) -> Any:
    if column.nullable and value % 5 == 0:
        return None
    return TEXTS[value % len(TEXTS)] if column.kind is Kind.TEXT else value % 6


def _write(model: Model, table: TableSchema, before: Row | None, after: Row | None) -> None:
    if before is None and after is None:
        model.rows[table.target].clear()
    elif before is None:
        assert after is not None
        model.insert(table, after)
    elif after is None:
        model.delete(table, before)
    else:
        model.update(table, before, after)


def _log(table: TableSchema, before: Row | None, after: Row | None, flagged: bool = False) -> Changes:
    if before is None and after is None:
        return Changes(table, Op.TRUNCATE, (), ())
    op = Op.INSERT if before is None else Op.DELETE if after is None else Op.UPDATE
    return Changes(table, op, [before] if before else (), [after] if after else (), 0, flagged)


def join_blocks(changes: Iterable[Changes]) -> list[Changes]:
    """Neighbours of one table, op and flag as one block, as statements of several rows are logged."""
    blocks: list[Changes] = []
    for change in changes:
        last = blocks[-1] if blocks else None
        if (
            last
            and change.op is not Op.TRUNCATE
            and last._replace(before=(), after=()) == change._replace(before=(), after=())
        ):
            blocks[-1] = change._replace(
                before=[*last.before, *change.before], after=[*last.after, *change.after]
            )
        else:
            blocks.append(change)
    return blocks


# --- plans on the model ----------------------------------------------------------------------------------------------


def run_plan(model: Model, steps: list[Step], shuffle: Callable[[list[Any]], None]) -> None:
    """Carry out a plan: independent inserts first, rows of updates and deletes in any order. Raises Refused."""
    checks = model.checks
    for step in [*(s for s in steps if s.independent), *(s for s in steps if not s.independent)]:
        model.checks = checks and not step.unchecked
        _run_step(model, step, shuffle)
    model.checks = checks


def _run_step(model: Model, step: Step, shuffle: Callable[[list[Any]], None]) -> None:
    table, rows = step.table, model.rows[step.table.target]
    if step.action is Action.CLEAR:
        rows.clear()
    elif step.action is Action.INSERT:
        for row in step.rows:
            model.insert(table, row)
    elif step.action is Action.DELETE:
        keys = list(step.keys)
        shuffle(keys)
        for key in keys:
            if (old := rows.get(tuple(map(fold, key)))) is not None:
                model.delete(table, old)
    else:
        pairs = list(
            zip(
                step.keys or [tuple(row[at] for at in table.key) for row in step.rows], step.rows, strict=True
            )
        )
        if step.action is not Action.MERGE:  # its rows go in as they stand, as an INSERT's do
            shuffle(pairs)
        for key, row in pairs:
            _overwrite(model, step, rows.get(tuple(map(fold, key))), row)


def _overwrite(model: Model, step: Step, old: Row | None, row: Row) -> None:
    if old is not None:
        model.update(step.table, old, merge_unchanged(old, row))
    elif step.action is Action.MERGE:
        model.insert(step.table, row)
    elif not step.careful:
        raise Refused(f"{step.table.target}: no row to update")
