"""``workload`` for PostgreSQL: the same writes, and what only this source has: transactions that are streamed while open,
parts of them taken back, values out of line, rows that move between partitions, prepared transactions.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from tests.pgaccounts import PostgresAccount

MOST_PREPARED = 3

SCHEMA = """
CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE log (n bigint PRIMARY KEY, note varchar(40) NOT NULL);
CREATE TABLE customers (
  id serial PRIMARY KEY, email varchar(60) NOT NULL UNIQUE, seat int NULL UNIQUE, touched int NOT NULL DEFAULT 0);
ALTER TABLE customers REPLICA IDENTITY FULL;
CREATE TABLE orders (
  id serial PRIMARY KEY, customer_id int NOT NULL REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE,
  amount numeric(12,2) NOT NULL, note text);
CREATE TABLE items (
  order_id int REFERENCES orders ON DELETE CASCADE, line int, sku varchar(20) NOT NULL, qty int NOT NULL,
  PRIMARY KEY (order_id, line));
CREATE TABLE tags (name varchar(20) PRIMARY KEY, uses int NOT NULL);
CREATE TABLE wide (id int PRIMARY KEY, n int NOT NULL, doc text);
CREATE TABLE parts (id int, k int, v int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE parts_even PARTITION OF parts FOR VALUES IN (0);
CREATE TABLE parts_odd PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE places (id int PRIMARY KEY, pos int NOT NULL UNIQUE DEFERRABLE);
CREATE TABLE prepared (n bigint PRIMARY KEY, note varchar(40) NOT NULL);
CREATE TABLE still (id int PRIMARY KEY, v varchar(10));
INSERT INTO counter VALUES (1, 0);
INSERT INTO still VALUES (1, 'a'), (2, 'b'), (3, NULL);
INSERT INTO customers (email, seat) SELECT 'c' || g || '@x', g FROM generate_series(1, 30) g;
INSERT INTO orders (customer_id, amount) SELECT id, id + 0.5 FROM customers;
INSERT INTO parts SELECT g, g % 2, 0 FROM generate_series(1, 40) g;
INSERT INTO places SELECT g, g FROM generate_series(1, 12) g;
INSERT INTO wide SELECT g, 0, DOC FROM generate_series(1, 10) g;
"""
DOC = "(SELECT string_agg(md5((g::bigint * h)::text), '') FROM generate_series(1, 80) h)"  # too long to be kept in line
LARGEST = 1_000_000
"""More bytes than any transaction of a writer has on the wire."""

_REFUSED = (psycopg.errors.IntegrityError, psycopg.errors.DeadlockDetected)


def create_schema(source: PostgresAccount) -> None:
    """The tables, with a few rows in each and one table nobody ever writes to again.

    Whatever is larger than 64 kB is sent to the account while it is still open.
    """
    source.server.execute(f"ALTER ROLE {source.user} SET logical_decoding_work_mem = '64kB'")
    source.query(SCHEMA.replace("DOC", DOC))


class Writer:
    """See ``workload.Writer``. ``prepares``: some transactions stay prepared while others commit. ``truncates``: one table
    is emptied now and then, by a transaction of its own or within another.
    """

    def __init__(self, source: PostgresAccount, seed: int, *, prepares: bool, truncates: bool) -> None:
        self._truncates = truncates
        self._source = source
        self._connection = source.connect(autocommit=False)
        self._random = random.Random(seed)
        self._prepared: list[str] | None = [] if prepares else None
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
        if self._prepared is not None:
            self._write_prepared(self._prepared)
        if self._truncates and self._random.random() < 0.1:
            self._run("TRUNCATE tags")
        if self._random.random() < 0.5:
            self._move_places()
        cursor = self._connection.cursor()
        try:
            cursor.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
            cursor.execute("INSERT INTO log SELECT n, 'commit ' || n FROM counter")
            if self._truncates and self._random.random() < 0.1:
                cursor.execute("TRUNCATE tags")
            for _ in range(self._random.randrange(1, 6)):
                self._pick()(cursor)
            if self._random.random() < 0.15:
                self._connection.rollback()
                return
            self._connection.commit()
            with self._committed:
                self.commits += 1
                self._committed.notify_all()
        except _REFUSED:
            self._connection.rollback()

    def _move_places(self) -> None:
        """In small transactions: one that is cut within such a statement has a part that MySQL refuses."""
        a, b = self._random.randrange(1, 13), self._random.randrange(1, 13)
        shift = f"UPDATE places SET pos = pos + {self._random.choice([-1, 1])}"
        swap = f"UPDATE places t SET pos = o.pos FROM places o WHERE t.id IN ({a}, {b}) AND o.id = {a + b} - t.id"
        self._run("BEGIN", *self._random.choice([[shift], [swap], [swap, shift, swap]]), "COMMIT")

    def _write_prepared(self, names: list[str]) -> None:
        """Sometimes one more transaction is prepared, sometimes one is decided."""
        choice = self._random.random()
        if choice < 0.1 and len(names) < MOST_PREPARED:
            number = self._random.randrange(1 << 40)
            name = f"{self._source.database}_{number}"
            row = f"INSERT INTO prepared VALUES ({number}, 'prepared')"
            self._run("BEGIN", row, f"PREPARE TRANSACTION '{name}'")
            names.append(name)
        elif choice < 0.3 and names:
            verb = self._random.choice(["COMMIT", "COMMIT", "ROLLBACK"])
            self._run(f"{verb} PREPARED '{names.pop(self._random.randrange(len(names)))}'")

    def _run(self, *statements: str) -> None:
        with self._source.connect() as connection:
            for text in statements:
                connection.execute(text.encode())

    def _pick(self) -> Callable[[Any], None]:
        return self._random.choice(
            [
                *[self._insert_customer] * 4,
                *[self._insert_order] * 2,
                self._update_order,
                self._swap_seats,
                self._swap_emails,
                self._move_orders_and_delete,
                self._change_key,
                self._delete_customer,
                self._undo_to_savepoint,
                self._replace_tag,
                self._touch_many,
                self._touch_wide,
                self._move_parts,
                self._write_large,
            ]
        )

    def _id(self, cursor: Any, table: str) -> int:
        chosen = str(self._random.randrange(1 << 30))
        cursor.execute(f"SELECT id FROM {table} ORDER BY md5(id || %s) LIMIT 1", (chosen,))
        row = cursor.fetchone()
        return int(row[0]) if row else 0

    def _insert_customer(self, cursor: Any) -> None:
        email = f"c{self._random.randrange(1 << 40)}@x"
        cursor.execute(
            "INSERT INTO customers (email, seat) SELECT %s, MAX(seat) + 1 FROM customers", (email,)
        )

    def _insert_order(self, cursor: Any) -> None:
        note = self._random.choice([None, "", "täglich \\ 'x'\t\n", "日本" * self._random.randrange(50)])
        cursor.execute(
            "INSERT INTO orders (customer_id, amount, note) VALUES (%s, %s, %s) RETURNING id",
            (self._id(cursor, "customers"), self._random.randrange(100000) / 100, note),
        )
        order = cursor.fetchone()[0]
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
        cursor.execute("SELECT count(*) FROM customers")
        if cursor.fetchone()[0] > 20:
            cursor.execute("DELETE FROM customers WHERE id = %s", (self._id(cursor, "customers"),))

    def _undo_to_savepoint(self, cursor: Any) -> None:
        cursor.execute("SAVEPOINT s")
        self._insert_order(cursor)
        self._swap_seats(cursor)
        cursor.execute("ROLLBACK TO SAVEPOINT s")

    def _replace_tag(self, cursor: Any) -> None:
        name = self._random.choice(["a", "A", "b", "ä", "Straße", "b "])
        cursor.execute(
            "INSERT INTO tags VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET uses = excluded.uses",
            (name, self._random.randrange(1000)),
        )

    def _touch_many(self, cursor: Any) -> None:
        cursor.execute("UPDATE customers SET touched = touched + 1")

    def _touch_wide(self, cursor: Any) -> None:
        """The document is not sent, also where the key changes."""
        chosen = self._id(cursor, "wide")
        cursor.execute("UPDATE wide SET n = n + 1 WHERE id = %s", (chosen,))
        cursor.execute(
            "UPDATE wide SET id = %s WHERE id = %s",
            (1_000_000 + self._random.randrange(1 << 29), self._id(cursor, "wide")),
        )

    def _move_parts(self, cursor: Any) -> None:
        cursor.execute(
            "UPDATE parts SET k = 1 - k, v = v + 1 WHERE id %% 7 = %s", (self._random.randrange(7),)
        )

    def _write_large(self, cursor: Any) -> None:
        """More than is decoded at once, with subtransactions of which some are taken back."""
        first = 10_000_000 + self._random.randrange(1 << 29)
        insert = f"INSERT INTO wide SELECT g, 0, {DOC} FROM generate_series(%s, %s) g"
        cursor.execute(insert, (first, first + 20))
        cursor.execute("SAVEPOINT a")
        cursor.execute(insert, (first + 100, first + 120))
        cursor.execute("SAVEPOINT b")
        cursor.execute("DELETE FROM wide WHERE id >= %s", (first + 110,))
        cursor.execute(f"{self._random.choice(['RELEASE', 'ROLLBACK TO'])} SAVEPOINT b")
        cursor.execute(f"{self._random.choice(['RELEASE', 'ROLLBACK TO'])} SAVEPOINT a")
        cursor.execute("DELETE FROM wide WHERE id > 10000000 AND id < %s", (first + 10,))

    def close(self) -> None:
        for name in self._prepared or ():
            self._run(f"ROLLBACK PREPARED '{name}'")
        self._connection.close()


@contextlib.contextmanager
def writing(
    source: PostgresAccount, seed: int, *, pace: float = 0.0, prepares: bool = False, truncates: bool = False
) -> Iterator[Writer]:
    """A writer at work in the background, see ``Writer.run``; its failure is raised at the end.

    What it has prepared and not decided is rolled back then.
    """
    writer = Writer(source, seed, prepares=prepares, truncates=truncates)
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
    if failures:
        raise failures[0]
