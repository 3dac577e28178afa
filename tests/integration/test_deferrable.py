"""PostgreSQL checks a DEFERRABLE key where a statement or a transaction ends, MySQL row by row: the mirror still holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.pgaccounts import PostgresAccount
from tests.pgcompare import assert_equal
from tests.processes import PipelineFile, write_pipeline

ROWS = 10
TABLES = {
    # the identity is the primary key, the deferrable key may not be NULL
    "plain": "id int PRIMARY KEY, pos int NOT NULL, note text, UNIQUE (pos) {when}",
    # a list of places, and a unique key beside it that each row is checked for
    "listed": "id int PRIMARY KEY, list int DEFAULT 1, pos int NOT NULL, note text UNIQUE, UNIQUE (list, pos) {when}",
    "named": "id int PRIMARY KEY, pos varchar(9) NOT NULL, note text, UNIQUE (pos) {when}",
    "empty": "id int PRIMARY KEY, pos bigint, note text, UNIQUE (pos) {when}",
    # the primary key is deferrable, rows are told apart by another unique key
    "other": "pos int PRIMARY KEY {when}, id int NOT NULL UNIQUE, note text",
}
# The key that may change hands is all that tells rows apart: only whole before images do.
ALONE = {"alone": "pos int PRIMARY KEY {when}, id int, note text"}
SHIFT = "UPDATE {table} SET pos = (pos::int + 1)::{type}"
SHIFT_DOWN = "UPDATE {table} SET pos = (pos::int - 1)::{type}"
SWAP = "UPDATE {table} SET pos = (11 - pos::int)::{type} WHERE id IN (3, 8)"
ROTATE = [
    "UPDATE {table} SET pos = '5' WHERE id = 4",
    "UPDATE {table} SET pos = '6' WHERE id = 5",
    "UPDATE {table} SET pos = '4' WHERE id = 6",
]
MIXED = [
    "INSERT INTO {table} (id, pos, note) VALUES (101, '1', 'takes the place of 1')",
    "DELETE FROM {table} WHERE id = 1",
    "UPDATE {table} SET pos = '2' WHERE id = 101",
    "UPDATE {table} SET note = 'moved', pos = '1' WHERE id = 2",
    "INSERT INTO {table} (id, pos, note) VALUES (102, '7', 'comes and goes')",
    "DELETE FROM {table} WHERE id = 102",
    "DELETE FROM {table} WHERE id = 10",
    "INSERT INTO {table} (id, pos, note) VALUES (10, '9', 'comes back')",
    "UPDATE {table} SET pos = '10' WHERE id = 9",
]


def make(account: PostgresAccount, when: str, identity: str) -> list[str]:
    """The tables, filled; the names of those that this replica identity can tell rows of."""
    chosen = TABLES | (ALONE if identity == "FULL" else {})
    for name, columns in chosen.items():
        account.query(f"CREATE TABLE {name} ({columns.format(when=when)})")
        account.query(
            f"INSERT INTO {name} (id, pos, note) SELECT g, g, 'n' || g FROM generate_series(1, {ROWS}) g"
        )
        how = "USING INDEX other_id_key" if name == "other" and identity == "DEFAULT" else identity
        account.query(f"ALTER TABLE {name} REPLICA IDENTITY {how}")
    return list(chosen)


def write(account: PostgresAccount, table: str, *statements: str) -> None:
    """One transaction."""
    with account.connect() as connection:
        connection.execute(b"BEGIN")
        for text in statements:
            kind = "varchar" if table == "named" else "int"
            connection.execute(text.format(table=table, type=kind).encode())
        connection.execute(b"COMMIT")


def mirror(pipeline: PipelineFile, source: PostgresAccount, target: Account) -> None:
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.parametrize("when", ["DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
def test_values_of_a_deferrable_key_change_hands(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, when: str, identity: str
) -> None:
    source, target = postgres_account, target_account
    tables = make(source, when, identity)
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    histories = [[SHIFT], [SHIFT, SHIFT_DOWN, SHIFT], [SHIFT_DOWN], [SHIFT_DOWN], [SWAP]]
    if "INITIALLY" in when:
        histories += [ROTATE, MIXED]
    for history in histories:
        for table in tables:
            write(source, table, *history)
        mirror(pipeline, source, target)
    for history in histories[:5] * 2:  # many transactions in one batch
        for table in tables:
            write(source, table, *history)
    mirror(pipeline, source, target)


TYPES = {
    "int2": ("1", "2"),
    "int4": ("-2147483648", "2147483647"),
    "int8": ("-9223372036854775808", "9223372036854775807"),
    "oid": ("0", "4294967295"),
    "numeric(6,1)": ("99999.9", "-99999.9"),
    "numeric": ("0.1", "-123456789012345678901234567890"),
    "money": ("'$1.50'", "'-92233720368547758.08'"),
    "float8": ("0.1", "-1e300"),
    "text": ("''", "'日本'"),
    "varchar(1)": ("''", "'x'"),
    "varchar(9)": ("'abc'", "'ABC'"),
    "char(3)": ("'a'", "'b'"),
    "bytea": (r"'\x'", r"'\x00ff'"),
    "date": ("'0001-01-01'", "'9999-12-31'"),
    "timestamp": ("'0001-01-01'", "'9999-12-31 23:59:59.999999'"),
    "timestamptz(0)": ("'2024-01-01'", "'2024-01-02'"),
    "uuid": ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-4fff-bfff-ffffffffffff'"),
    "timetz": ("'12:00+00'", "'12:00+05'"),
    "interval": ("'1 day'", "'24:00:01'"),
    "inet": ("'::1'", "'10.0.0.1'"),
    "macaddr": ("'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    "mood": ("'ok'", "'bad'"),
    "int4[]": ("'{1}'", "'{2}'"),
}
FEW = {
    "bool": ("true", "false"),
    "time": ("'1:00'", "'2:00'"),
    "float4": ("1", "2"),
    "bit(9)": ("B'000000001'", "B'000000000'"),
}


def test_values_of_every_type_change_hands(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    source.query("CREATE TYPE mood AS ENUM ('ok', 'bad')")
    for number, (kind, values) in enumerate(TYPES.items()):
        source.query(f"CREATE TABLE t{number} (id int PRIMARY KEY, u {kind} NOT NULL UNIQUE DEFERRABLE)")
        source.query(f"INSERT INTO t{number} VALUES (1, {values[0]}), (2, {values[1]})")
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    for number in range(len(TYPES)):
        source.query(f"UPDATE t{number} t SET u = o.u FROM t{number} o WHERE o.id = 3 - t.id")
    mirror(pipeline, source, target)


def test_check_names_a_key_whose_values_cannot_change_hands(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """The run then stops as ever, with nothing lost; where rows have no other key, it does not start."""
    source, target = postgres_account, target_account
    for number, (kind, values) in enumerate(FEW.items()):
        source.query(f"CREATE TABLE t{number} (id int PRIMARY KEY, u {kind} NOT NULL UNIQUE DEFERRABLE)")
        source.query(f"INSERT INTO t{number} VALUES (1, {values[0]}), (2, {values[1]})")
    source.query("CREATE TABLE fine (id int PRIMARY KEY, u bool UNIQUE DEFERRABLE)")
    pipeline = write_pipeline(tmp_path, source, target)
    found = json.loads(pipeline.run("check", "FILE", "--json").stdout)["checks"]
    named = [
        item["message"].split()[0]
        for item in found
        if item["id"] == "tables.deferrable" and item["status"] == "warn"
    ]
    assert named == [f"t{number}_u_key" for number in range(len(FEW))]
    pipeline.must("load", "FILE")
    source.query("UPDATE t0 SET u = NOT u")
    stopped = pipeline.run("run", "FILE", "--until-current")
    assert (stopped.returncode, "1062" in stopped.stderr) == (5, True), stopped.stderr
    assert sorted(target.query("SELECT id, u FROM t0")) == [(1, 1), (2, 0)]
    source.query("CREATE TABLE alone (u bool PRIMARY KEY DEFERRABLE)")
    source.query("ALTER TABLE alone REPLICA IDENTITY FULL")
    refused = pipeline.run("check", "FILE", "--json")
    failed = {
        item["id"]: item["fix"] for item in json.loads(refused.stdout)["checks"] if item["status"] == "fail"
    }
    assert "NOT DEFERRABLE" in failed["tables.identity"]


def test_rows_that_change_values_keep_what_the_application_gave_them(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Children and columns of its own live in the row, with foreign keys checked (SEMANTICS §5.2, §5.4)."""
    source, target = postgres_account, target_account
    source.query("CREATE TABLE person (id int PRIMARY KEY)")
    source.query(
        "CREATE TABLE desk (id int PRIMARY KEY, place int NOT NULL UNIQUE DEFERRABLE,"
        " person int NOT NULL REFERENCES person UNIQUE DEFERRABLE)"
    )
    source.query("INSERT INTO person SELECT generate_series(1, 4)")
    source.query("INSERT INTO desk SELECT g, g, g FROM generate_series(1, 3) g")
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    target.query("ALTER TABLE desk ADD COLUMN mine int")
    target.query("UPDATE desk SET mine = id * 10")
    target.query("CREATE TABLE note (desk int, FOREIGN KEY (desk) REFERENCES desk (id) ON DELETE CASCADE)")
    target.query("INSERT INTO note VALUES (1), (2), (3)")
    source.query("UPDATE desk SET place = place % 3 + 1, person = person % 3 + 1")
    source.query("UPDATE desk SET person = 4 WHERE id = 3")
    source.query("DELETE FROM person WHERE id = 1")
    pipeline.must("run", "FILE", "--until-current")
    found = target.query("SELECT id, place, person, mine FROM desk ORDER BY id")
    assert found == [(1, 2, 2, 10), (2, 3, 3, 20), (3, 1, 4, 30)]
    assert sorted(target.query("SELECT desk FROM note")) == [(1,), (2,), (3,)]


def test_a_row_of_the_application_that_holds_a_value_stops_the_table(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Nothing is taken away from it, and what was parked is where it was; without it the run goes on."""
    source, target = postgres_account, target_account
    source.query("CREATE TABLE t (id int PRIMARY KEY, pos int NOT NULL UNIQUE DEFERRABLE)")
    source.query("INSERT INTO t SELECT g, g FROM generate_series(1, 3) g")
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    target.query("INSERT INTO t VALUES (9, 4)")
    source.query("UPDATE t SET pos = pos + 1")
    stopped = pipeline.run("run", "FILE", "--until-current")
    assert (stopped.returncode, "multiple_unique_conflicts" in stopped.stderr) == (5, True), stopped.stderr
    assert target.query("SELECT id, pos FROM t ORDER BY id") == [(1, 1), (2, 2), (3, 3), (9, 4)]
    target.query("DELETE FROM t WHERE id IN (2, 9)")
    pipeline.must("run", "FILE", "--until-current")
    assert target.query("SELECT id, pos FROM t ORDER BY id") == [(1, 2), (2, 3), (3, 4)]


MANY = 30_000


def fill(source: PostgresAccount, columns: str) -> None:
    """A table of which an UPDATE of all rows is streamed while open, and planned in slices."""
    source.server.execute(f"ALTER ROLE {source.user} SET logical_decoding_work_mem = '64kB'")
    source.query(f"CREATE TABLE t ({columns}, note text)")
    source.query(f"INSERT INTO t SELECT g, g, repeat('x', 700) FROM generate_series(1, {MANY}) g")


def test_a_shift_of_more_rows_than_are_planned_at_once(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    fill(source, "id int PRIMARY KEY, pos int NOT NULL UNIQUE DEFERRABLE")
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    source.query("UPDATE t SET pos = pos + 1, note = note || 'y'")
    mirror(pipeline, source, target)


def test_such_a_shift_stops_the_run_where_rows_have_no_other_key(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Nothing is guessed: the batch is rolled back, the table named with the way out."""
    source, target = postgres_account, target_account
    fill(source, "pos int PRIMARY KEY DEFERRABLE, id int")
    source.query("ALTER TABLE t REPLICA IDENTITY FULL")
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    source.query("UPDATE t SET pos = pos + 1")
    stopped = pipeline.run("run", "FILE", "--until-current")
    assert (stopped.returncode, "too large to be planned as a whole" in stopped.stderr) == (5, True), stopped
    assert target.query("SELECT COUNT(*), MIN(pos), MAX(pos) FROM t") == [(MANY, 1, MANY)]
