"""Deletes among tables whose foreign keys form circles, on a real target: all that they take along, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.errors import CheckRefused, TargetError
from replicator.model import Changes, Column, ForeignKey, Kind, Op, Row, TableName, TableSchema, UniqueKey
from replicator.plan import PlanSettings, build_descents, build_edges, build_plan
from replicator.servers import Server
from replicator.session import Session
from replicator.sql import Limits, Packet, build_packets
from tests.accounts import Account, make_target_account
from tests.targets import build_endpoint


@pytest.fixture
def session(target_account: Account) -> Iterator[Session]:
    with Session.connect(build_endpoint(target_account)) as session:
        yield session


def plan(
    tables: list[TableSchema], changes: list[Changes], *, checked: bool = True, descends: bool = False
) -> list[Packet]:
    """``checked``: nothing is left to the target unseen."""
    settings = PlanSettings(
        checks=True,
        parents=build_edges(tables),
        descents=build_descents(tables) if checked else {},
        descends=descends,
    )
    return list(build_packets(build_plan(changes, settings), Limits(64 << 20, local_infile=False)))


def run(session: Session, packets: list[Packet]) -> list[tuple[int, int]]:
    """Apply; the answers to DELETEs of the source's own rows, each with how many rows it stands for."""
    answers: list[tuple[int, int]] = []
    for packet in packets:
        explain(session, packet)
        results = zip(packet.results, session.run(packet.sql), strict=True)
        answers += [(result.affected_rows, s.rows) for s, result in results if s and s.op is Op.DELETE]
    session.commit()
    return answers


def apply(session: Session, tables: list[TableSchema], changes: list[Changes]) -> list[tuple[int, int]]:
    """As the pipeline does: at first only checked."""
    try:
        return run(session, plan(tables, changes))
    except CheckRefused:
        session.rollback()
        return run(session, plan(tables, changes, descends=True))


def explain(session: Session, packet: Packet) -> None:
    """No statement may scan a table of the target, however few rows it has."""
    for statement in packet.results:
        if statement is None or statement.op is not None:
            continue
        sql = statement.sql.replace(b"DO IF", b"SELECT IF")
        rows = session.run(b"EXPLAIN FORMAT=TRADITIONAL " + sql)[-1].rows or ()
        for row in rows:
            if row[2] in ("p", "c"):
                assert row[4] in ("const", "eq_ref", "ref", "range"), (statement.sql, row)
                assert row[6] is not None, (statement.sql, row)


def delete(table: TableSchema, *rows: Row) -> Changes:
    return Changes(table, Op.DELETE, rows, ())


# --- random foreign keys ---------------------------------------------------------------------------------------------

NUMBER = Column("id", Kind.INTEGER, "int", nullable=False)

Rows = dict[tuple[str, int], list[int | None]]


class Reference:
    """Tables of numbers with random foreign keys, and what a delete does to them by the book."""

    def __init__(self, chance: random.Random) -> None:
        names = [f"t{number}" for number in range(chance.randint(1, 4))]
        keys: dict[str, list[ForeignKey]] = {name: [] for name in names}
        for number in range(chance.randint(1, 5)):
            child, rule = chance.choice(names), chance.choice(["CASCADE", "CASCADE", "SET NULL"])
            parent = TableName("s", chance.choice(names))
            keys[child].append(ForeignKey(f"k{number}", (f"f{number}",), parent, ("id",), rule))
        self.tables = [build_numbers(name, keys[name]) for name in names]
        self.rows: Rows = {}
        # No row refers to a later one: how circles of rows end depends on the product.
        for table in self.tables:
            for number in range(8):
                earlier = [None, *range(number), *range(number)]
                self.rows[table.target, number] = [chance.choice(earlier) for _ in table.foreign_keys]

    def create(self, session: Session) -> None:
        session.run(b"SET foreign_key_checks=0; DROP TABLE IF EXISTS t0, t1, t2, t3")
        for table in self.tables:
            parts = ["id INT PRIMARY KEY", *(f"{key.columns[0]} INT" for key in table.foreign_keys)]
            parts += [
                f"FOREIGN KEY ({key.columns[0]}) REFERENCES {key.parent.table} (id) ON DELETE {key.on_delete}"
                for key in table.foreign_keys
            ]
            session.query(f"CREATE TABLE {table.target} ({', '.join(parts)})")
        for (name, number), values in self.rows.items():
            shown = ", ".join("NULL" if value is None else str(value) for value in [number, *values])
            session.query(f"INSERT INTO {name} VALUES ({shown})")
        session.run(b"COMMIT; SET foreign_key_checks=1")

    def delete(self, table: TableSchema, number: int) -> None:
        gone = {(table.target, number)}
        while grown := {row for row in self.rows if self._refers(row, gone, "CASCADE")} - gone:
            gone |= grown
        self.rows = {
            row: [None if self._is_freed(row, at, gone) else value for at, value in enumerate(values)]
            for row, values in self.rows.items()
            if row not in gone
        }

    def read(self, session: Session) -> Rows:
        return {
            (table.target, row[0]): list(row[1:])
            for table in self.tables
            for row in session.query(f"SELECT * FROM {table.target}")
        }

    def _keys(self, row: tuple[str, int]) -> tuple[ForeignKey, ...]:
        return next(table.foreign_keys for table in self.tables if table.target == row[0])

    def _refers(self, row: tuple[str, int], gone: set[tuple[str, int]], rule: str) -> bool:
        pairs = zip(self._keys(row), self.rows[row], strict=True)
        return any(key.on_delete == rule and (key.parent.table, value) in gone for key, value in pairs)

    def _is_freed(self, row: tuple[str, int], at: int, gone: set[tuple[str, int]]) -> bool:
        return (self._keys(row)[at].parent.table, self.rows[row][at]) in gone


def build_numbers(name: str, keys: list[ForeignKey]) -> TableSchema:
    columns = (NUMBER, *(Column(key.columns[0], Kind.INTEGER, "int") for key in keys))
    unique_keys = (UniqueKey("PRIMARY", (0,)),)
    return TableSchema(TableName("s", name), name, columns, (0,), unique_keys, foreign_keys=tuple(keys))


@pytest.mark.parametrize("seed", range(12))
def test_random_foreign_keys_do_what_they_say(seed: int, session: Session) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        reference = Reference(chance)
        reference.create(session)
        for _ in range(3):
            name, number = chance.choice(sorted(reference.rows) or [("", 0)])
            if not name:
                break
            table = next(table for table in reference.tables if table.target == name)
            changes = [delete(table, (number, *reference.rows[name, number]))]
            assert apply(session, reference.tables, changes) == [(1, 1)]
            reference.delete(table, number)
            assert reference.read(session) == reference.rows


def test_a_storage_engine_that_cascades_itself_needs_no_help(mysql_unlogged_source: Server) -> None:
    with (
        make_target_account(mysql_unlogged_source) as account,
        Session.connect(build_endpoint(account)) as session,
    ):
        assert session.capabilities.follows_circles
        chance = random.Random(1)
        for _ in range(6):
            reference = Reference(chance)
            reference.create(session)
            table = chance.choice(reference.tables)
            changes = [delete(table, (0, *reference.rows[table.target, 0]))]
            run(session, plan(reference.tables, changes, checked=False))
            reference.delete(table, 0)
            assert reference.read(session) == reference.rows


# --- trees -----------------------------------------------------------------------------------------------------------


def build_text(name: str, *, nullable: bool) -> Column:
    collation = "utf8mb4_0900_ai_ci"
    return Column(name, Kind.TEXT, "varchar(20)", nullable, charset="utf8mb4", collation=collation)


def refer(parent: str, columns: tuple[str, ...], parent_columns: tuple[str, ...]) -> ForeignKey:
    return ForeignKey("fk", columns, TableName("s", parent), parent_columns, "CASCADE")


TENANT = TableSchema(TableName("s", "tenant"), "tenant", (NUMBER,), (0,), (UniqueKey("PRIMARY", (0,)),))
NODE = TableSchema(
    TableName("s", "node"),
    "node",
    (NUMBER, build_text("name", nullable=False), build_text("parent", nullable=True)),
    (0, 1),
    (UniqueKey("PRIMARY", (0, 1)),),
    foreign_keys=(refer("tenant", ("id",), ("id",)), refer("node", ("id", "parent"), ("id", "name"))),
)
CREATE = (
    b"CREATE TABLE tenant (id INT PRIMARY KEY);"
    b"CREATE TABLE node (id INT, name VARCHAR(20), parent VARCHAR(20), PRIMARY KEY (id, name),"
    b" FOREIGN KEY (id) REFERENCES tenant (id) ON DELETE CASCADE,"
    b" FOREIGN KEY (id, parent) REFERENCES node (id, name) ON DELETE CASCADE);"
    # A table of others takes part: what is deleted for the source takes its rows along as ever.
    b"CREATE TABLE app (id INT, name VARCHAR(20), FOREIGN KEY (id, name) REFERENCES node (id, name) ON DELETE CASCADE)"
)

Forest = dict[str, str | None]


def fill(session: Session, forest: Forest) -> None:
    session.run(CREATE)
    rows = ",".join(f"(1,'{name}',{repr(parent) if parent else 'NULL'})" for name, parent in forest.items())
    others = ",".join(f"(1,'{name}')" for name in forest)
    session.run(
        b"SET foreign_key_checks=0; INSERT INTO tenant VALUES (1), (2);"
        b"INSERT INTO node VALUES (2, 'a', NULL), (2, 'b', 'a'), %b; INSERT INTO app VALUES %b;"
        b"SET foreign_key_checks=1; COMMIT" % (rows.encode(), others.encode())
    )


def grow(chance: random.Random, size: int) -> Forest:
    """Up to 12 rows deep, with knots: rows that are their own ancestors."""
    depths: dict[str, int] = {}
    forest: Forest = {}
    for number in range(size):
        parents = [name for name, depth in depths.items() if depth < 12]
        parent = chance.choice(parents[-8:]) if parents and chance.random() < 0.95 else None
        name = f"n{number}"
        forest[name], depths[name] = parent, depths[parent] + 1 if parent else 1
    roots = [name for name, parent in forest.items() if parent is None]
    for root in roots[1:]:
        below = [name for name in forest if root in find_line(forest, name)]
        forest[root] = chance.choice([name for name in below if depths[name] < 4])
    return forest


def find_line(forest: Forest, name: str) -> list[str]:
    """The row and those above it."""
    found: list[str] = []
    at: str | None = name
    while at is not None and at not in found:
        found.append(at)
        at = forest[at]
    return found


def read(session: Session, table: str) -> set[Any]:
    return {row[0] for row in session.query(f"SELECT name FROM {table} WHERE id = 1")}


def as_row(forest: Forest, name: str) -> Row:
    parent = forest[name]
    return 1, name.encode(), parent.encode() if parent else None


@pytest.mark.parametrize("seed", range(4))
def test_what_a_delete_takes_along_in_a_tree_with_knots(seed: int, session: Session) -> None:
    chance = random.Random(seed)
    forest = grow(chance, 80)
    fill(session, forest)
    while forest:
        gone = chance.sample(sorted(forest), min(len(forest), 3))
        changes = [delete(NODE, as_row(forest, name)) for name in gone]
        apply(session, [TENANT, NODE], changes)
        taken = {name for name in forest if set(gone) & set(find_line(forest, name))}
        forest = {name: parent for name, parent in forest.items() if name not in taken}
        assert read(session, "node") == read(session, "app") == forest.keys()
    assert session.query("SELECT COUNT(*) FROM node") == [(2,)]


def test_a_row_with_nothing_below_it_is_only_checked(session: Session) -> None:
    fill(session, {"a": None, "b": "a"})
    session.run(b"INSERT INTO tenant VALUES (3); COMMIT")
    changes = [delete(NODE, (1, b"b", b"a"), (1, b"a", None)), delete(TENANT, (3,))]
    packets = plan([TENANT, NODE], changes)
    assert sorted(run(session, packets)) == [(1, 1), (1, 1), (1, 1)]
    assert read(session, "node") == read(session, "app") == set()
    with pytest.raises(CheckRefused):
        run(session, plan([TENANT, NODE], [delete(TENANT, (2,))]))


def test_a_row_above_a_tree_takes_it_along(session: Session) -> None:
    fill(session, {f"n{number}": f"n{(number - 1) // 2}" if number else None for number in range(600)})
    changes = [delete(TENANT, (1,))]
    with pytest.raises(TargetError, match="6575"):
        run(session, plan([TENANT, NODE], changes, checked=False))
    session.rollback()
    apply(session, [TENANT, NODE], changes)
    assert session.query("SELECT id, name FROM node ORDER BY name") == [(2, "a"), (2, "b")]
    assert read(session, "app") == set()


def test_a_tree_is_emptied_however_deep_it_is(session: Session) -> None:
    tree = build_numbers("t0", [ForeignKey("fk", ("f0",), TableName("s", "t0"), ("id",), "CASCADE")])
    session.run(
        b"CREATE TABLE t0 (id INT PRIMARY KEY, f0 INT, FOREIGN KEY (f0) REFERENCES t0 (id) ON DELETE CASCADE);"
        b"INSERT INTO t0 VALUES (0, NULL), %b; COMMIT"
        % b",".join(b"(%d,%d)" % (number, number - 1) for number in range(1, 60))
    )
    changes = [Changes(tree, Op.TRUNCATE, (), ())]
    with pytest.raises(TargetError, match="3008"):
        run(session, plan([tree], changes, checked=False))
    session.rollback()
    run(session, plan([tree], changes))
    assert session.query("SELECT COUNT(*) FROM t0") == [(0,)]
