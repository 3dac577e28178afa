"""The orders table and seeded statements that fill and change it (pure): what every workload writes to the source.

The same seed gives the same statements, so that two runs, and two machines, do the same work.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

TABLE = "orders"

CREATE_TABLE = f"""CREATE TABLE {TABLE} (
  id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer_id int NOT NULL,
  sku varchar(32) NOT NULL,
  qty int NOT NULL,
  price decimal(12,2) NOT NULL,
  note varchar(200),
  created_at datetime(3) NOT NULL,
  updated_at timestamp(6) NULL,
  status enum('new','paid','shipped') NOT NULL,
  weight double
) DEFAULT CHARACTER SET utf8mb4"""

# What both servers compute for themselves from every column of every row; order does not matter. CONCAT_WS would skip
# a NULL, so that one could move between columns unseen: each nullable column says that it is NULL.
CHECKSUM = f"""SELECT COUNT(*), COALESCE(SUM(CRC32(line)), 0), COALESCE(BIT_XOR(CRC32(CONCAT('x', line))), 0)
FROM (SELECT CONCAT_WS('|', id, customer_id, HEX(sku), qty, price, COALESCE(HEX(note), '-'), created_at,
  COALESCE(updated_at, '-'), status + 0, COALESCE(weight, '-')) AS line FROM {TABLE}) AS lines_of_{TABLE}"""

_STATUS = ("'new'", "'paid'", "'shipped'")
_WORDS = (
    "gift",
    "fragile",
    "call first",
    "Grüße",
    "back door",
    "urgent",
    "100 % wool",
    "café",
    "it''s",
    "№ 7",
    "–",
)
_DAYS = tuple(f"2024-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29))


class Orders:
    """Rows and changes of one orders table: remembers which ids live, as the application that writes them would."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._living: list[int] = []
        self._next = 1

    def insert_statements(self, rows: int, rows_per_statement: int) -> Iterator[str]:
        """Multi-row INSERTs of ``rows`` new rows altogether."""
        for first in range(0, rows, rows_per_statement):
            count = min(rows_per_statement, rows - first)
            yield f"INSERT INTO {TABLE} VALUES " + ",".join(self._build_row() for _ in range(count))

    def mixed_statements(self, count: int) -> Iterator[str]:
        """One-row statements: 60 % UPDATE of four columns, 20 % INSERT, 20 % DELETE."""
        for _ in range(count):
            dice = self._random.random()
            if dice < 0.6:
                yield self._build_update()
            elif dice < 0.8:
                yield f"INSERT INTO {TABLE} VALUES {self._build_row()}"
            else:
                yield f"DELETE FROM {TABLE} WHERE id = {self._take_living()}"

    def _build_row(self) -> str:
        number, self._next = self._next, self._next + 1
        self._living.append(number)
        draw = self._random.random
        note = "NULL" if draw() < 0.1 else f"'{self._draw_note()}'"
        updated = "NULL" if draw() < 0.3 else self._draw_time(6)
        weight = "NULL" if draw() < 0.1 else f"{draw() * 1000:.17e}"
        return (
            f"({number},{int(draw() * 100_000)},'SKU-{int(draw() * 10_000_000):08d}',{int(draw() * 100)},"
            f"{int(draw() * 1_000_000) / 100:.2f},{note},{self._draw_time(3)},{updated},"
            f"{_STATUS[int(draw() * 3)]},{weight})"
        )

    def _build_update(self) -> str:
        draw = self._random.random
        number = self._living[int(draw() * len(self._living))]
        return (
            f"UPDATE {TABLE} SET qty = {int(draw() * 100)}, price = {int(draw() * 1_000_000) / 100:.2f},"
            f" updated_at = {self._draw_time(6)}, status = {_STATUS[int(draw() * 3)]} WHERE id = {number}"
        )

    def _take_living(self) -> int:
        place = int(self._random.random() * len(self._living))
        self._living[place], self._living[-1] = self._living[-1], self._living[place]
        return self._living.pop()

    def _draw_note(self) -> str:
        draw = self._random.random
        return " ".join(_WORDS[int(draw() * len(_WORDS))] for _ in range(1 + int(draw() * 6)))

    def _draw_time(self, digits: int) -> str:
        draw = self._random.random
        second = int(draw() * 86_400)
        fraction = int(draw() * 10**digits)
        day = _DAYS[int(draw() * len(_DAYS))]
        return f"'{day} {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{fraction:0{digits}d}'"
