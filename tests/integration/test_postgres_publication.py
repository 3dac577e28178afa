"""The publication follows the pipeline file, and whatever somebody does to it, no change is left out in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.pgaccounts import PostgresAccount
from tests.pgcompare import assert_equal
from tests.pgsources import run
from tests.processes import PipelineFile, follow, write_pipeline

PUBLICATION = "SELECT pubname FROM pg_publication"
MEMBERS = "SELECT tablename FROM pg_publication_tables ORDER BY 1"


def load(source: PostgresAccount, target: Account, folder: Path, *names: str) -> tuple[PipelineFile, str]:
    """A loaded pipeline of these new tables, and the name of its publication."""
    for name in names:
        run(source, f"CREATE TABLE {name} (id int PRIMARY KEY, v int)")
        run(source, f"INSERT INTO {name} VALUES (1, 1)")
    pipeline = write_pipeline(folder, source, target, tables={f"{source.database}.{n}": {} for n in names})
    pipeline.must("load", "FILE")
    return pipeline, str(source.query(PUBLICATION)[0][0])


@pytest.mark.parametrize(
    "deed",
    [
        ["ALTER PUBLICATION {name} DROP TABLE taken", "INSERT INTO taken VALUES (2, 2)"],
        [
            "ALTER PUBLICATION {name} DROP TABLE taken",
            "INSERT INTO taken VALUES (2, 2)",
            "ALTER PUBLICATION {name} ADD TABLE taken",
        ],
        [
            "DROP TABLE taken",
            "CREATE TABLE taken (id int PRIMARY KEY, v int)",
            "INSERT INTO taken VALUES (1, 5)",
        ],
    ],
    ids=["taken out", "taken out and put back", "made anew"],
)
def test_a_table_that_the_publication_left_out_is_paused(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, deed: list[str]
) -> None:
    """Also when all looks as before by the time somebody looks; the others stream on."""
    source, target = postgres_account, target_account
    pipeline, name = load(source, target, tmp_path, "kept", "taken")
    run(source, *(text.format(name=name) for text in deed), "INSERT INTO kept VALUES (2, 2)")
    for _ in range(2):
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 6, done.stderr
        states = {table["target"]: table for table in pipeline.status()["tables"]}
        assert states["taken"]["state"] == "paused"
        assert name in states["taken"]["error"]
        assert states["kept"]["state"] == "streaming"
        assert target.query("SELECT * FROM kept ORDER BY id") == [(1, 1), (2, 2)]
        assert target.query("SELECT * FROM taken") == [(1, 1)]


@pytest.mark.parametrize(
    "deed",
    [
        ["DROP PUBLICATION {name}"],
        ["DROP PUBLICATION {name}", "CREATE PUBLICATION {name} FOR TABLE t"],
        ["ALTER PUBLICATION {name} SET (publish = 'insert')"],
    ],
    ids=["dropped", "made anew", "altered"],
)
def test_a_publication_that_is_another_is_refused(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, deed: list[str]
) -> None:
    source, target = postgres_account, target_account
    pipeline, name = load(source, target, tmp_path, "t")
    run(
        source,
        *(text.format(name=name) for text in deed),
        "INSERT INTO t VALUES (2, 2)",
        "UPDATE t SET v = 7",
    )
    done = pipeline.run("run", "FILE", "--until-current")
    assert done.returncode == 4, done.stderr
    assert name in done.stderr
    assert "drop" in done.stderr
    pipeline.must("drop", "FILE")
    pipeline.must("load", "FILE")
    assert assert_equal(source.server, source.database, target.server, target.database) == 2


def test_a_publication_that_was_changed_and_is_as_before_is_refused_until_it_is_accepted(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    pipeline, name = load(source, target, tmp_path, "t")
    run(
        source,
        f"ALTER PUBLICATION {name} SET (publish = 'insert')",
        f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')",
        "UPDATE t SET v = 7",
    )
    done = pipeline.run("run", "FILE", "--until-current")
    assert done.returncode == 4, done.stderr
    fix = re.search(r"COMMENT ON PUBLICATION .*;", done.stderr)
    assert fix is not None, done.stderr
    run(source, fix[0])
    pipeline.must("run", "FILE", "--until-current")
    assert assert_equal(source.server, source.database, target.server, target.database) == 1


def test_the_publication_follows_the_file(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """A table that leaves the file leaves the publication; one that comes, or comes back, is loaded as it is then."""
    source, target = postgres_account, target_account
    pipeline, _ = load(source, target, tmp_path, "a", "b")
    assert source.query(MEMBERS) == [("a",), ("b",)]
    run(source, "CREATE TABLE c (id int PRIMARY KEY, v int)", "INSERT INTO c VALUES (1, 1)")
    pipeline.set_top(tables={f"{source.database}.{name}": {} for name in ("a", "c")})
    run(source, "INSERT INTO b VALUES (2, 2)")
    pipeline.must("run", "FILE", "--until-current")
    assert source.query(MEMBERS) == [("a",), ("c",)]
    run(source, *(f"INSERT INTO {name} VALUES (3, 3)" for name in ("a", "b", "c")))
    pipeline.set_top(tables={f"{source.database}.{name}": {} for name in ("a", "b", "c")})
    pipeline.must("run", "FILE", "--until-current")
    run(source, *(f"UPDATE {name} SET v = v + 1" for name in ("a", "b", "c")))
    pipeline.must("run", "FILE", "--until-current")
    assert source.query(MEMBERS) == [("a",), ("b",), ("c",)]
    assert assert_equal(source.server, source.database, target.server, target.database) == 7


def test_who_keeps_a_table_from_being_published_is_named_and_waited_for(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Behind our lock the application's own statements would queue: it is asked for again and again, never for long."""
    source, target = postgres_account, target_account
    pipeline, _ = load(source, target, tmp_path, "a")
    run(source, "CREATE TABLE b (id int PRIMARY KEY, v int)", "INSERT INTO b VALUES (1, 1)")
    pipeline.set_top(tables={f"{source.database}.{name}": {} for name in ("a", "b")})
    with source.server.connect(database=source.database, autocommit=False) as held:
        held.execute(f"LOCK TABLE {source.database}.b IN SHARE MODE".encode())
        process = pipeline.start("run", "FILE", "--until-current")
        line = follow(process, f"b is held by session {held.info.backend_pid} ")
        assert "no lock within" in line
        held.rollback()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert assert_equal(source.server, source.database, target.server, target.database) == 2
