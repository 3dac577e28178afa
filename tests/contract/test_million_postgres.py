"""A million rows in one transaction of PostgreSQL, and half a million that are streamed and then rolled back: as
``test_million``, in less than 400 MB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.accounts import Account
from tests.contract.test_million import LIMIT_BYTES, ROWS, SLICED, mirror
from tests.pgaccounts import PostgresAccount
from tests.pgcompare import assert_equal
from tests.pgsources import run
from tests.processes import write_pipeline

TABLE = (
    "CREATE TABLE million (id int PRIMARY KEY, name varchar(60) NOT NULL, price numeric(10,2) NOT NULL,"
    " made timestamp NOT NULL, note varchar(100) NOT NULL)"
)
FILL = "INSERT INTO million SELECT n, 'a name', 12.50, '2026-01-02', repeat('n', 60) FROM generate_series({}, {}) n"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_million_rows_in_one_transaction(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """First one that aborts after half a million rows, then one that commits after a subtransaction was rolled back;
    both reach us while they are open. Killed half sent, between slices, and before the acknowledgement."""
    source, target = postgres_account, target_account
    run(source, TABLE)
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    aborted = [
        "BEGIN",
        FILL.format(1, ROWS // 2),
        "ROLLBACK",
        "INSERT INTO million VALUES (0, 'b', 1, now(), '')",
    ]
    committed = [
        "BEGIN",
        FILL.format(1, ROWS // 2),
        "SAVEPOINT s",
        FILL.format(2 * ROWS, 2 * ROWS + 100_000),
        "ROLLBACK TO s",
        FILL.format(ROWS // 2 + 1, ROWS),
        "COMMIT",
    ]
    updated = ["UPDATE million SET price = price + id % 7, note = repeat('u', 60) || id"]
    for statements, settings, deaths, rows in (
        (aborted, {}, [("before-ack", 1)], 1),
        (committed, {}, [("large-batch-half-sent", 3), ("before-ack", 1)], ROWS + 1),
        (updated, SLICED, [("between-slices", 1), ("large-batch-half-sent", 2)], ROWS + 1),
    ):
        pipeline.set_top(**settings)
        run(source, *statements)
        peak = mirror(pipeline, deaths)
        print(f"{rows:,} rows, peak {peak >> 20} MiB")
        assert assert_equal(source.server, source.database, target.server, target.database) == rows
        assert peak < LIMIT_BYTES, f"{peak >> 20} MiB"
