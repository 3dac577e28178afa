"""Seeded random writes to a table that refers to itself: subtrees that move, cycles, names that swap, cascades."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pymysql

from replicator.servers import Server

SCHEMA = """
CREATE TABLE nodes (
  id INT PRIMARY KEY, parent INT NULL, name VARCHAR(30) NOT NULL, weight INT NOT NULL,
  touched TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6), UNIQUE KEY name (name),
  CONSTRAINT nodes_parent FOREIGN KEY (parent) REFERENCES nodes (id) ON DELETE CASCADE);
"""

MOST_NODES = 60

_REFUSED = {1062, 1451, 1452, 1213, 1205, 3008, 6575, 1296}
"""What a constraint or the depth of a cascade refuses, on either product."""


class Nodes:
    """One connection's worth of transactions; the same seed does the same to the same rows."""

    def __init__(self, server: Server, database: str, seed: int) -> None:
        self._server = server
        self._database = database
        self._random = random.Random(seed)

    def write(self, transactions: int) -> None:
        """Transactions of up to four statements; some are rolled back, some refused."""
        with (
            self._server.connect(database=self._database, autocommit=False) as connection,
            connection.cursor() as cursor,
        ):
            for _ in range(transactions):
                try:
                    for _ in range(self._random.randrange(1, 5)):
                        self._pick()(cursor)
                    (connection.rollback if self._random.random() < 0.1 else connection.commit)()
                except (pymysql.err.IntegrityError, pymysql.err.OperationalError) as error:
                    if error.args[0] not in _REFUSED:
                        raise
                    connection.rollback()

    def _pick(self) -> Callable[[Any], None]:
        return self._random.choice(
            [
                *[self._insert] * 4,
                self._insert_its_own_parent,
                *[self._move] * 2,
                self._tie_a_knot,
                self._swap_names,
                self._pass_names_on,
                self._delete,
                self._move_children_and_delete,
            ]
        )

    def _ids(self, cursor: Any, count: int) -> list[int]:
        cursor.execute("SELECT id FROM nodes ORDER BY id")
        ids = [int(row[0]) for row in cursor.fetchall()]
        return self._random.sample(ids, count) if len(ids) >= count else []

    def _pairs(self, cursor: Any) -> list[list[int]]:
        """Two nodes; nothing where there are fewer."""
        ids = self._ids(cursor, 2)
        return [ids] if ids else []

    def _new_id(self) -> int:
        return self._random.randrange(1 << 30)

    def _insert(self, cursor: Any) -> None:
        parent = next(iter(self._ids(cursor, 1)), None)
        number = self._new_id()
        cursor.execute(
            "INSERT INTO nodes (id, parent, name, weight) VALUES (%s, %s, %s, 0)",
            (number, parent, f"n{number}"),
        )

    def _insert_its_own_parent(self, cursor: Any) -> None:
        number = self._new_id()
        cursor.execute(
            "INSERT INTO nodes (id, parent, name, weight) VALUES (%s, %s, %s, 1)",
            (number, number, f"n{number}"),
        )

    def _move(self, cursor: Any) -> None:
        for node, parent in self._pairs(cursor):
            cursor.execute("UPDATE nodes SET parent = %s, weight = weight + 1 WHERE id = %s", (parent, node))

    def _tie_a_knot(self, cursor: Any) -> None:
        ids = self._ids(cursor, 3)
        for node, parent in zip(ids, ids[1:] + ids[:1], strict=True):
            cursor.execute("UPDATE nodes SET parent = %s WHERE id = %s", (parent, node))

    def _swap_names(self, cursor: Any) -> None:
        for a, b in self._pairs(cursor):
            cursor.execute("UPDATE nodes SET name = CONCAT(name, '~') WHERE id = %s", (a,))
            cursor.execute("SELECT id, name FROM nodes WHERE id IN (%s, %s)", (a, b))
            names = dict(cursor.fetchall())
            cursor.execute("UPDATE nodes SET name = %s WHERE id = %s", (f"{b}?", b))
            cursor.execute("UPDATE nodes SET name = %s WHERE id = %s", (names[b], a))
            cursor.execute("UPDATE nodes SET name = %s WHERE id = %s", (names[a].rstrip("~"), b))

    def _pass_names_on(self, cursor: Any) -> None:
        """A chain: each takes the name that the one before has just given up."""
        ids = self._ids(cursor, 4)
        cursor.execute("SELECT id, name FROM nodes")
        names = dict(cursor.fetchall())
        for at, node in enumerate(ids):
            name = names[ids[at - 1]] if at else f"new{self._new_id()}"
            cursor.execute("UPDATE nodes SET name = %s WHERE id = %s", (name, node))

    def _delete(self, cursor: Any) -> None:
        cursor.execute("SELECT COUNT(*) FROM nodes")
        count = cursor.fetchone()[0]
        if count > MOST_NODES:
            cursor.execute(
                "DELETE FROM nodes WHERE id NOT IN (SELECT * FROM (SELECT parent FROM nodes WHERE parent > 0) p)"
            )
        for node in self._ids(cursor, 1):
            if count > MOST_NODES // 2:
                cursor.execute("DELETE FROM nodes WHERE id = %s", (node,))

    def _move_children_and_delete(self, cursor: Any) -> None:
        for old, new in self._pairs(cursor):
            cursor.execute("UPDATE nodes SET parent = %s WHERE parent = %s", (new, old))
            cursor.execute("DELETE FROM nodes WHERE id = %s", (old,))
