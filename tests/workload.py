"""Seeded random writes with everything that makes order matter: unique values that move, key changes, parents and
children, cascades, savepoints, rollbacks.

Every transaction also adds one to a counter row and inserts one row with that number into a log table: a transaction that
was lost or applied twice shows there whatever else it did.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pymysql

from replicator.servers import Server
from tests.branches import Branches

SCHEMA = """
CREATE TABLE counter (id INT PRIMARY KEY, n BIGINT NOT NULL);
CREATE TABLE log (n BIGINT PRIMARY KEY, note VARCHAR(40) NOT NULL);
CREATE TABLE customers (
  id INT AUTO_INCREMENT PRIMARY KEY, email VARCHAR(60) NOT NULL, seat INT NULL, touched INT NOT NULL DEFAULT 0,
  UNIQUE KEY email (email), UNIQUE KEY seat (seat));
CREATE TABLE orders (
  id INT AUTO_INCREMENT PRIMARY KEY, customer_id INT NOT NULL, amount DECIMAL(12,2) NOT NULL, note TEXT,
  CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES customers (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE items (
  order_id INT NOT NULL, line INT NOT NULL, sku VARCHAR(20) COLLATE utf8mb4_general_ci NOT NULL, qty INT NOT NULL,
  PRIMARY KEY (order_id, line),
  CONSTRAINT items_order FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE);
CREATE TABLE tags (name VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, uses INT NOT NULL);
CREATE TABLE branches (n BIGINT PRIMARY KEY, note VARCHAR(40) NOT NULL);
CREATE TABLE still (id INT PRIMARY KEY, v VARCHAR(10));
"""
LARGEST = 200_000
"""More bytes than any transaction of a writer has on the wire."""


def create_schema(server: Server, database: str) -> None:
    """The tables, with a few rows in each and one table nobody ever writes to again."""
    server.execute(
        f"ALTER DATABASE {database} CHARACTER SET utf8mb4;" + SCHEMA + "INSERT INTO counter VALUES (1, 0);"
        "INSERT INTO still VALUES (1, 'a'), (2, 'b'), (3, NULL);"
        + "".join(
            f"INSERT INTO customers (email, seat) VALUES ('c{n}@x', {n});"
            f"INSERT INTO orders (customer_id, amount) VALUES (LAST_INSERT_ID(), {n}.5);"
            for n in range(1, 31)
        ),
        database=database,
    )


class Writer:
    """One connection that writes until it is told to stop; the same seed does the same to the same rows.

    ``branches``: XA transactions stay prepared while others commit. They write to a table of their own: one that held the
    counter's row would hold up all others. ``truncates``: one table is emptied now and then.
    ``settings``: session variables, as SET takes them.
    """

    def __init__(
        self,
        server: Server,
        database: str,
        seed: int,
        branches: Branches | None = None,
        *,
        truncates: bool = False,
        settings: str = "",
    ) -> None:
        self._branches = branches
        self._truncates = truncates
        self._connection = server.connect(
            database=database, autocommit=False, init_command=f"SET {settings}" if settings else None
        )
        self._random = random.Random(seed)
        self._committed = threading.Condition()
        self._has_ended = False
        self.commits = 0

    def run(self, stop: threading.Event, pace: float = 0.0) -> None:
        """Write transactions, ``pace`` seconds apart, until ``stop``."""
        try:
            while not stop.wait(pace):
                self.write()
        finally:
            with self._committed:
                self._has_ended = True
                self._committed.notify_all()

    def wait(self, commits: int) -> None:
        """Wait until this many more transactions are committed (or the writer has failed)."""
        with self._committed:
            wanted = self.commits + commits
            self._committed.wait_for(lambda: self.commits >= wanted or self._has_ended, timeout=60)
            assert self.commits >= wanted or self._has_ended, f"{self.commits} commits, {wanted} wanted"

    def write(self) -> None:
        """One transaction; some are rolled back, some in part, a few refused by a constraint."""
        if self._branches is not None:
            self._write_branch(self._branches)
        cursor = self._connection.cursor()
        if self._truncates and self._random.random() < 0.1:
            cursor.execute("TRUNCATE TABLE tags")
        try:
            cursor.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
            cursor.execute("INSERT INTO log SELECT n, CONCAT('commit ', n) FROM counter")
            for _ in range(self._random.randrange(1, 6)):
                self._pick()(cursor)
            if self._random.random() < 0.15:
                self._connection.rollback()
                return
            self._connection.commit()
            with self._committed:
                self.commits += 1
                self._committed.notify_all()
        except (pymysql.err.IntegrityError, pymysql.err.OperationalError) as error:
            if error.args[0] not in (1062, 1451, 1452, 1213, 1205, 1761, 1762):
                raise
            self._connection.rollback()

    def _write_branch(self, branches: Branches) -> None:
        """Sometimes one more branch is prepared, sometimes one is decided."""
        choice = self._random.random()
        if choice < 0.1:
            number = self._random.randrange(1 << 40)
            branches.prepare(f"w{number}", f"INSERT INTO branches VALUES ({number}, 'prepared')")
        elif choice < 0.3 and branches.names:
            decide = self._random.choice([branches.commit, branches.commit, branches.rollback])
            decide(self._random.choice(branches.names))

    def _pick(self) -> Callable[[Any], None]:
        return self._random.choice(
            [
                *[self._insert_customer] * 4,
                *[self._insert_order] * 2,
                self._update_order,
                self._swap_seats,
                self._swap_emails,
                self._pass_seats_on,
                self._move_orders_and_delete,
                self._change_key,
                self._delete_customer,
                self._undo_to_savepoint,
                self._replace_tag,
                self._touch_many,
            ]
        )

    def _id(self, cursor: Any, table: str) -> int:
        cursor.execute(f"SELECT id FROM {table} ORDER BY RAND({self._random.randrange(1 << 30)}) LIMIT 1")
        row = cursor.fetchone()
        return int(row[0]) if row else 0

    def _insert_customer(self, cursor: Any) -> None:
        email = f"c{self._random.randrange(1 << 40)}@x"
        cursor.execute(
            "INSERT INTO customers (email, seat) SELECT %s, MAX(seat) + 1 FROM customers", (email,)
        )

    def _insert_order(self, cursor: Any) -> None:
        customer = self._id(cursor, "customers")
        note = self._random.choice([None, "", "täglich \\ 'x'\t\n", "日本" * self._random.randrange(50)])
        amount = self._random.randrange(100000) / 100
        cursor.execute(
            "INSERT INTO orders (customer_id, amount, note) VALUES (%s, %s, %s)", (customer, amount, note)
        )
        order = cursor.lastrowid
        for line in range(self._random.randrange(3)):
            cursor.execute("INSERT INTO items VALUES (%s, %s, %s, %s)", (order, line, f"sku{line}", line + 1))

    def _update_order(self, cursor: Any) -> None:
        cursor.execute("UPDATE orders SET amount = amount + 1 WHERE id = %s", (self._id(cursor, "orders"),))
        cursor.execute("UPDATE items SET qty = qty + 1 WHERE order_id = %s", (self._id(cursor, "orders"),))

    def _swap_seats(self, cursor: Any) -> None:
        a, b = self._id(cursor, "customers"), self._id(cursor, "customers")
        cursor.execute("SELECT id, seat FROM customers WHERE id IN (%s, %s)", (a, b))
        rows = list(cursor.fetchall())
        if len(rows) == 2:
            (a, seat_a), (b, seat_b) = rows
            cursor.execute("UPDATE customers SET seat = NULL WHERE id = %s", (a,))
            cursor.execute("UPDATE customers SET seat = %s WHERE id = %s", (seat_a, b))
            cursor.execute("UPDATE customers SET seat = %s WHERE id = %s", (seat_b, a))

    def _pass_seats_on(self, cursor: Any) -> None:
        """A chain: each takes the seat that the one before has just given up."""
        cursor.execute(
            "UPDATE customers SET seat = seat + 1 WHERE seat IS NOT NULL ORDER BY seat DESC LIMIT 9"
        )

    def _swap_emails(self, cursor: Any) -> None:
        cursor.execute("SELECT id, email FROM customers ORDER BY id DESC LIMIT 2")
        rows = list(cursor.fetchall())
        if len(rows) == 2:
            (a, email_a), (b, email_b) = rows
            cursor.execute("DELETE FROM customers WHERE id = %s", (a,))
            cursor.execute("UPDATE customers SET email = %s WHERE id = %s", (email_a, b))
            cursor.execute("INSERT INTO customers (id, email) VALUES (%s, %s)", (a, email_b))

    def _move_orders_and_delete(self, cursor: Any) -> None:
        old, new = self._id(cursor, "customers"), self._id(cursor, "customers")
        if old != new:
            cursor.execute("UPDATE orders SET customer_id = %s WHERE customer_id = %s", (new, old))
            cursor.execute("DELETE FROM customers WHERE id = %s", (old,))

    def _change_key(self, cursor: Any) -> None:
        cursor.execute(
            "UPDATE customers SET id = %s WHERE id = %s",
            (1_000_000 + self._random.randrange(1 << 29), self._id(cursor, "customers")),
        )

    def _delete_customer(self, cursor: Any) -> None:
        cursor.execute("SELECT COUNT(*) FROM customers")
        if cursor.fetchone()[0] > 20:
            cursor.execute("DELETE FROM customers WHERE id = %s", (self._id(cursor, "customers"),))

    def _undo_to_savepoint(self, cursor: Any) -> None:
        cursor.execute("SAVEPOINT s")
        self._insert_order(cursor)
        self._swap_seats(cursor)
        cursor.execute("ROLLBACK TO SAVEPOINT s")

    def _replace_tag(self, cursor: Any) -> None:
        name = self._random.choice(["a", "A", "b", "ä", "Straße", "b "])
        cursor.execute("REPLACE INTO tags VALUES (%s, %s)", (name, self._random.randrange(1000)))

    def _touch_many(self, cursor: Any) -> None:
        cursor.execute("UPDATE customers SET touched = touched + 1 ORDER BY id")

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def writing(
    server: Server, database: str, seed: int, *, pace: float = 0.0, xa: bool = False, truncates: bool = False
) -> Iterator[Writer]:
    """A writer at work in the background, see ``Writer.run``; its failure is raised at the end.

    ``xa``: with XA transactions; those that are left are rolled back at the end. ``truncates``: see ``Writer``.
    """
    branches = Branches(server, database)
    writer = Writer(server, database, seed, branches if xa else None, truncates=truncates)
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            writer.run(stop, pace)
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield writer
    finally:
        stop.set()
        thread.join()
        writer.close()
        branches.roll_all_back()
    if failures:
        raise failures[0]
