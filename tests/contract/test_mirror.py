"""What every source does alike, in SQL that all of them take: loaded, streamed, killed, and equal at the end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.sources import AnySource

SCHEMA = [
    "CREATE TABLE customers (id INT PRIMARY KEY, email VARCHAR(60) NOT NULL, seat INT, UNIQUE (email))",
    "CREATE TABLE orders (id INT PRIMARY KEY, customer INT NOT NULL, amount DECIMAL(12,2), note TEXT,"
    " made TIMESTAMP(3) NULL, weight DOUBLE PRECISION,"
    " FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE ON UPDATE CASCADE)",
    "CREATE TABLE pairs (a INT NOT NULL, b VARCHAR(20) NOT NULL, v BIGINT, d DATE, PRIMARY KEY (a, b))",
]
ROWS = [
    *(f"INSERT INTO customers VALUES ({n}, 'c{n}@x', {n})" for n in range(1, 31)),
    *(
        f"INSERT INTO orders VALUES ({n}, {n % 30 + 1}, {n}.25, 'täglich 日本 {n}', '2024-02-03 04:05:06.789', {n}.5)"
        for n in range(1, 61)
    ),
    "INSERT INTO orders VALUES (99, 1, NULL, NULL, NULL, NULL)",
    *(
        f"INSERT INTO pairs VALUES ({n % 7}, 'b{n}', {n}00000000000, '2024-01-{n % 28 + 1:02}')"
        for n in range(70)
    ),
]
CHANGES = [
    "INSERT INTO customers VALUES (100, 'new@x', NULL)",
    "INSERT INTO orders VALUES (100, 100, -0.01, '', '1999-12-31 23:59:59.999', -1e300)",
    "UPDATE orders SET amount = amount + 1 WHERE id < 40",
    "UPDATE orders SET note = 'it''s' WHERE id BETWEEN 5 AND 9",
    # a unique value moves on, twice, and comes back
    "UPDATE customers SET email = 'moving@x' WHERE id = 2",
    "UPDATE customers SET email = 'c2@x' WHERE id = 3",
    "UPDATE customers SET email = 'c3@x' WHERE id = 2",
    # keys change, and their children with them
    "UPDATE customers SET id = 1004 WHERE id = 4",
    "UPDATE pairs SET a = a + 100, b = 'moved' WHERE b = 'b7'",
    # children leave before their parent goes, others go with it
    "UPDATE orders SET customer = 6 WHERE customer = 5",
    "DELETE FROM customers WHERE id = 5",
    "DELETE FROM customers WHERE id = 7",
    # the same key again
    "DELETE FROM pairs WHERE a = 1",
    "INSERT INTO pairs VALUES (1, 'b1', 5, NULL)",
    "BEGIN",
    "INSERT INTO customers VALUES (200, 'kept@x', 1)",
    "SAVEPOINT s",
    "UPDATE customers SET seat = -1",
    "DELETE FROM orders",
    "ROLLBACK TO SAVEPOINT s",
    "INSERT INTO customers VALUES (201, 'kept too@x', 1)",
    "COMMIT",
    "BEGIN",
    "DELETE FROM customers",
    "ROLLBACK",
]


@pytest.fixture
def pipeline(any_source: AnySource, target_account: Account, tmp_path: Path) -> PipelineFile:
    any_source.run([*SCHEMA, *ROWS])
    return write_pipeline(tmp_path, any_source.account, target_account)


def test_loaded_then_streamed(any_source: AnySource, target_account: Account, pipeline: PipelineFile) -> None:
    pipeline.must("load", "FILE")
    assert any_source.compare(target_account) == 161
    any_source.run(CHANGES)
    pipeline.must("run", "FILE", "--until-current")
    any_source.compare(target_account)
    any_source.run(["DELETE FROM orders WHERE id > 50", "UPDATE pairs SET v = v - 1"])
    pipeline.must("run", "FILE", "--until-current")
    any_source.compare(target_account)
    assert pipeline.status()["tables"][0]["state"] == "streaming"


def test_changed_while_it_runs_and_killed(
    any_source: AnySource, target_account: Account, pipeline: PipelineFile
) -> None:
    """The process dies, then the source does; what was committed arrives once."""
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    any_source.run(CHANGES[:12])
    end(process, signal.SIGKILL)
    any_source.run(CHANGES[12:])
    any_source.restart()
    pipeline.must("run", "FILE", "--until-current")
    any_source.compare(target_account)


def test_two_processes_for_one_pipeline(
    any_source: AnySource, target_account: Account, pipeline: PipelineFile
) -> None:
    """The newcomer wins, the older one says so and ends."""
    older = pipeline.start("run", "FILE")
    follow(older, "state=streaming")
    newer = pipeline.start("run", "FILE")
    follow(newer, "state=streaming")
    output, _ = older.communicate(timeout=60)
    assert older.returncode == 5, output
    any_source.run(CHANGES)
    end(newer)
    pipeline.must("run", "FILE", "--until-current")
    any_source.compare(target_account)


def test_dropped_and_loaded_again(
    any_source: AnySource, target_account: Account, pipeline: PipelineFile
) -> None:
    pipeline.must("load", "FILE")
    pipeline.must("drop", "FILE")
    any_source.run(CHANGES)
    pipeline.must("load", "FILE")
    any_source.compare(target_account)
    pipeline.must("drop", "FILE")


def test_a_table_that_joins_later(
    any_source: AnySource, target_account: Account, pipeline: PipelineFile
) -> None:
    pipeline.must("load", "FILE")
    any_source.run(
        [
            "CREATE TABLE later (id INT PRIMARY KEY, v INT)",
            "INSERT INTO later VALUES (1, 1), (2, 2)",
            *CHANGES[:5],
        ]
    )
    pipeline.must("load", "FILE")
    any_source.run(["UPDATE later SET v = 3", "INSERT INTO later VALUES (3, 3)"])
    pipeline.must("run", "FILE", "--until-current")
    any_source.compare(target_account)
