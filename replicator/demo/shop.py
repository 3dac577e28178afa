"""The demo's application: a small shop with customers, products and orders, and a shopkeeper who keeps writing to it.

The tables use what mirrored tables use in earnest: foreign keys that cascade, a unique key, decimals, doubles, JSON, an
enumeration, a generated column, text beyond ASCII, times with fractions. The same name makes the same shop.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pymysql

from replicator.servers import Server

DATABASE = "shop"
TABLES = ("customers", "products", "orders", "order_items")

SCHEMA = """
CREATE TABLE customers (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  email VARCHAR(120) NOT NULL,
  name VARCHAR(80) NOT NULL,
  city VARCHAR(40) NOT NULL,
  born DATE NULL,
  credit DECIMAL(12,2) NOT NULL DEFAULT 0.00,
  changed TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  UNIQUE KEY email (email));
CREATE TABLE products (
  sku CHAR(6) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  title VARCHAR(80) NOT NULL,
  price DECIMAL(10,2) NOT NULL,
  weight DOUBLE NOT NULL,
  stock INT NOT NULL,
  details JSON NOT NULL);
CREATE TABLE orders (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer_id INT UNSIGNED NOT NULL,
  status ENUM('new','paid','shipped','returned') NOT NULL DEFAULT 'new',
  placed_at DATETIME(3) NOT NULL,
  note TEXT NULL,
  KEY placed (placed_at),
  FOREIGN KEY (customer_id) REFERENCES customers (id));
CREATE TABLE order_items (
  order_id BIGINT UNSIGNED NOT NULL,
  line SMALLINT UNSIGNED NOT NULL,
  sku CHAR(6) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  quantity SMALLINT UNSIGNED NOT NULL,
  price DECIMAL(10,2) NOT NULL,
  total DECIMAL(12,2) AS (quantity * price) STORED,
  PRIMARY KEY (order_id, line),
  FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE,
  FOREIGN KEY (sku) REFERENCES products (sku));
"""

CUSTOMERS, PRODUCTS, ORDERS = 2_000, 240, 10_000
BEGAN = datetime(2026, 1, 1, 8, 0, 0)
COMMITS_PER_SECOND = 150

_TAKEN = 1062  # an e-mail address that another customer has: the shop refuses it


@dataclass(frozen=True, slots=True)
class Stock:
    """What a shop's rows are made of."""

    first_names: Sequence[str]
    last_names: Sequence[str]
    cities: Sequence[str]
    goods: Sequence[str]
    notes: Sequence[str | None]


STOCKS = {
    "berlin": Stock(
        ("Anna", "Jürgen", "Søren", "Zoë", "Émile", "Władysław", "Ayşe", "Noël"),
        ("Müller", "Groß", "Nuñez", "Dvořák", "O’Neill", "Þórsdóttir", "Yılmaz"),
        ("Berlin", "Köln", "Zürich", "Wien", "Łódź"),
        ("Kaffee", "Tee", "Käsekuchen", "Brötchen", "Crème brûlée", "Löffel"),
        (None, None, "", "bitte klingeln\n2. Stock links", "für Oma 🎂", "Rabatt 5 % \\ Stammkunde", "it's urgent"),
    ),
    "kyoto": Stock(
        ("花子", "太郎", "さくら", "健一", "Ken", "愛"),
        ("山田", "佐藤", "鈴木", "高橋", "Smith", "渡邉"),
        ("京都", "大阪", "神戸", "奈良", "東京"),
        ("抹茶", "煎茶", "和菓子", "湯呑み", "お箸", "Matcha set"),
        (None, None, "", "置き配希望\t玄関前", "誕生日 🎁", "のし付き「御祝」", "gift-wrap, \"no\" receipt"),
    ),
}  # fmt: skip


def open_shop(server: Server, name: str) -> None:
    """Make the database ``shop`` and fill it as the shop ``name`` of STOCKS."""
    server.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
    server.execute(SCHEMA, database=DATABASE)
    chance = random.Random(name)
    with server.connect(database=DATABASE, autocommit=False) as connection:
        cursor = connection.cursor()
        cursor.executemany(_INSERT_CUSTOMER, [_build_customer(chance, name, n) for n in range(CUSTOMERS)])
        cursor.executemany(
            "INSERT INTO products VALUES (%s, %s, %s, %s, %s, %s)",
            [_build_product(chance, name, n) for n in range(PRODUCTS)],
        )
        orders = [
            (n, *_build_order(chance, name, BEGAN + timedelta(minutes=n))) for n in range(1, ORDERS + 1)
        ]
        cursor.executemany(
            "INSERT INTO orders (id, customer_id, status, placed_at, note) VALUES (%s, %s, %s, %s, %s)",
            orders,
        )
        cursor.executemany(
            _INSERT_ITEM, [item for n in range(1, ORDERS + 1) for item in _build_items(chance, n)]
        )
        connection.commit()


_INSERT_CUSTOMER = "INSERT INTO customers (email, name, city, born, credit) VALUES (%s, %s, %s, %s, %s)"
_INSERT_ITEM = "INSERT INTO order_items (order_id, line, sku, quantity, price) VALUES (%s, %s, %s, %s, %s)"


def _build_customer(chance: random.Random, shop: str, number: int) -> tuple[Any, ...]:
    stock = STOCKS[shop]
    name = f"{chance.choice(stock.first_names)} {chance.choice(stock.last_names)}"
    born = date(1940, 1, 1) + timedelta(days=chance.randrange(25_000)) if chance.random() < 0.8 else None
    email = f"customer{number}@{shop}.example"
    return email, name, chance.choice(stock.cities), born, f"{chance.randrange(-5_000, 500_000) / 100:.2f}"


def _build_product(chance: random.Random, shop: str, number: int) -> tuple[Any, ...]:
    title = f"{chance.choice(STOCKS[shop].goods)} № {number}"
    details = {
        "organic": chance.random() < 0.5,
        "origin": chance.choice(STOCKS[shop].cities),
        "sizes": [100, 250.5],
    }
    weight, price = chance.random() / 3, f"{chance.randrange(50, 20_000) / 100:.2f}"
    return (
        _sku(number),
        title,
        price,
        weight,
        chance.randrange(10_000),
        json.dumps(details, ensure_ascii=False),
    )


def _build_order(chance: random.Random, shop: str, placed: datetime) -> tuple[Any, ...]:
    status = chance.choice(("new", "paid", "shipped", "shipped", "returned"))
    placed = placed.replace(microsecond=chance.randrange(1000) * 1000)
    return chance.randrange(1, CUSTOMERS + 1), status, placed, chance.choice(STOCKS[shop].notes)


def _build_items(chance: random.Random, order: int) -> Iterator[tuple[Any, ...]]:
    for line in range(1, chance.randrange(1, 5)):
        price = f"{chance.randrange(50, 20_000) / 100:.2f}"
        yield order, line, _sku(chance.randrange(PRODUCTS)), chance.randrange(1, 10), price


def _sku(number: int) -> str:
    return f"P-{number:04d}"


class Shopkeeper:
    """A thread that writes transactions until ``close``: orders, payments, prices, moves, returns, changes of mind.

    ``commits`` counts what the source has committed; ``failure`` is what ended the thread early, else None.
    """

    def __init__(self, server: Server, shop: str) -> None:
        self._shop = shop
        self._connection = server.connect(database=DATABASE, autocommit=False)
        self._chance = random.Random(f"{shop} at work")
        self._stop = threading.Event()
        self._newest = ORDERS
        self.commits = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"shop-{shop}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the transaction at hand and go home; more than once does no harm."""
        self._stop.set()
        self._thread.join()
        if self._connection.open:
            self._connection.close()

    def _work(self) -> None:
        try:
            due = time.monotonic()
            while not self._stop.is_set():
                self._write()
                due = max(due + 1 / COMMITS_PER_SECOND, time.monotonic() - 1)
                self._stop.wait(max(0.0, due - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - the demo's own thread raises it
            self.failure = error

    def _write(self) -> None:
        """One transaction; some are rolled back, whole or in part, some refused."""
        cursor = self._connection.cursor()
        try:
            self._pick()(cursor)
            if self._chance.random() < 0.05:
                self._connection.rollback()
                return
            self._connection.commit()
            self.commits += 1
        except pymysql.IntegrityError as error:
            if error.args[0] != _TAKEN:
                raise
            self._connection.rollback()

    def _pick(self) -> Callable[[Any], None]:
        writes = (
            self._sell, self._sell, self._sell, self._pay, self._ship, self._move_customer, self._change_price,
            self._return_order, self._change_mind, self._swap_addresses, self._welcome,
        )  # fmt: skip
        return self._chance.choice(writes)

    def _sell(self, cursor: Any) -> None:
        placed = datetime.now()
        values = (
            self._customer(),
            "new",
            placed.replace(microsecond=placed.microsecond // 1000 * 1000),
            self._note(),
        )
        cursor.execute(
            "INSERT INTO orders (customer_id, status, placed_at, note) VALUES (%s, %s, %s, %s)", values
        )
        self._newest = int(cursor.lastrowid)
        for item in _build_items(self._chance, self._newest):
            cursor.execute(_INSERT_ITEM, item)
            cursor.execute("UPDATE products SET stock = stock - %s WHERE sku = %s", (item[3], item[2]))

    def _pay(self, cursor: Any) -> None:
        cursor.execute("UPDATE orders SET status = 'paid' WHERE id = %s AND status = 'new'", (self._order(),))
        cursor.execute("UPDATE customers SET credit = credit + 0.01 WHERE id = %s", (self._customer(),))

    def _ship(self, cursor: Any) -> None:
        cursor.execute("UPDATE orders SET status = 'shipped', note = NULL WHERE id = %s", (self._order(),))

    def _move_customer(self, cursor: Any) -> None:
        city = self._chance.choice(STOCKS[self._shop].cities)
        cursor.execute("UPDATE customers SET city = %s WHERE id = %s", (city, self._customer()))

    def _change_price(self, cursor: Any) -> None:
        cursor.execute(
            "UPDATE products SET price = price * 1.01, weight = weight * 1.1,"
            " details = JSON_SET(details, '$.repriced', 1) WHERE sku = %s",
            (_sku(self._chance.randrange(PRODUCTS)),),
        )

    def _return_order(self, cursor: Any) -> None:
        """The items go by the foreign key's cascade."""
        cursor.execute("DELETE FROM orders WHERE id = %s", (self._order(),))

    def _change_mind(self, cursor: Any) -> None:
        self._pay(cursor)
        cursor.execute("SAVEPOINT basket")
        self._sell(cursor)
        cursor.execute("ROLLBACK TO SAVEPOINT basket")

    def _swap_addresses(self, cursor: Any) -> None:
        """Two unique values change places inside one transaction."""
        a, b = self._customer(), self._customer()
        cursor.execute("SELECT id, email FROM customers WHERE id IN (%s, %s) FOR UPDATE", (a, b))
        rows = list(cursor.fetchall())
        if len(rows) < 2:
            return
        (a, email_a), (b, email_b) = rows
        for value, customer in ((f"swapping-{a}", a), (email_a, b), (email_b, a)):
            cursor.execute("UPDATE customers SET email = %s WHERE id = %s", (value, customer))

    def _welcome(self, cursor: Any) -> None:
        cursor.execute(
            _INSERT_CUSTOMER, _build_customer(self._chance, self._shop, self._chance.randrange(4 * CUSTOMERS))
        )

    def _customer(self) -> int:
        return self._chance.randrange(1, CUSTOMERS + 1)

    def _order(self) -> int:
        return self._chance.randrange(1, self._newest + 1)

    def _note(self) -> str | None:
        return self._chance.choice(STOCKS[self._shop].notes)
