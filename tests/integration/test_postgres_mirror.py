"""From PostgreSQL into MySQL through the program itself: every type on every way, and what only this source does."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.pgaccounts import PostgresAccount
from tests.pgcompare import assert_equal
from tests.processes import PipelineFile, end, follow, write_pipeline

STEP = 1000

# Column definition → SQL literals; row k holds the k-th literal, modulo.
TYPES: dict[str, list[str]] = {
    "bool": ["true", "false"],
    "int2": ["-32768", "32767", "0"],
    "int4": ["-2147483648", "2147483647"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["4294967295", "0"],
    "numeric(12,2)": ["-9999999999.99", "0.01", "-0.00"],
    "numeric(5,0)": ["99999", "-1"],
    "numeric": ["'123456789012345678901234567890.123456789012345678901234567890'", "-0.1", "100"],
    "money": ["'-92233720368547758.08'::money", "'$1,234.50'::money"],
    "float4": ["0.1", "'-0'::float4", "3.4028235e38", "1e-45"],
    "float8": ["0.1", "'-0'::float8", "1.7976931348623157e308", "5e-324", "123456789.12345678"],
    "text": [
        "''",
        "'plain'",
        r"E'\t\n\r\b\f\v\\ ''q'' \\N'",
        "'täglich 日本 😀'",
        "repeat('x', 5000)",
        r"'\N'",
    ],
    "varchar(20)": ["'a'", "'A '", "''"],
    "char(5)": ["'ab'", "'  x'", "''"],
    "bytea": [r"'\x'::bytea", r"'\x000a0d5c27090b0cff'::bytea", "decode(repeat('00ff', 3000), 'hex')"],
    "date": ["'0001-01-01'", "'9999-12-31'", "'2024-02-29'"],
    "time": ["'00:00:00'", "'24:00:00'", "'23:59:59.999999'"],
    "time(3)": ["'12:34:56.789'"],
    "timetz": ["'12:34:56.789+05:30'"],
    "timestamp": ["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "'2024-02-03 04:05:06.7'"],
    "timestamp(0)": ["'2024-02-03 04:05:06'"],
    "timestamptz": ["'2024-02-03 04:05:06.7+05:45'", "'1969-12-31 23:59:59-12'"],
    "interval": ["'1 year -2 months 3 days 04:05:06.789'", "'0'", "'-178000000 years'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "json": ["""'{"a": [1, 2.50, "x\\u00e9\\n"], "b": null}'""", "'[]'", "'1.10'"],
    "jsonb": ["""'{"a": 1.0, "b": {"c": "\\\\ \\" / 日本"}}'""", "'null'", "'12345678901234567890'"],
    "xml": ["'<a b=\"c\">ü</a>'"],
    "mood": ["'ok'", "'it''s, \"odd\"'"],
    "positive": ["7", "1"],
    "complex": ["'(1,\"a b\")'"],
    "int4[]": ["'{{1,2},{3,NULL}}'", "'{}'"],
    "text[]": ["array['a,b', '\"', '\\', NULL]"],
    "int4range": ["'[1,5)'", "'empty'"],
    "inet": ["'10.1.2.3/8'", "'::1'"],
    "cidr": ["'10.0.0.0/8'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "bit(9)": ["B'101010101'", "B'000000000'"],
    "bit(80)": ["repeat('10', 40)::bit(80)"],
    "varbit": ["B'0101'", "B''"],
    "point": ["'(1.5,-2)'"],
    "box": ["'(1,1),(0,0)'"],
    "tsvector": ["to_tsvector('simple', 'a fat cat')"],
    "pg_lsn": ["'16/B374D848'"],
    "name": ["'a name'"],
}
PREPARE = [
    "CREATE TYPE mood AS ENUM ('ok', 'it''s, \"odd\"')",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE TYPE complex AS (a int, b text)",
]


def run_all(source: PostgresAccount, statements: list[str]) -> None:
    with source.connect() as connection:
        for text in statements:
            connection.execute(text.encode())


def insert(first: int, shift: int = 0) -> str:
    count = max(map(len, TYPES.values()))
    rows = [", ".join(values[(k + shift) % len(values)] for values in TYPES.values()) for k in range(count)]
    rows.append(", ".join("NULL" for _ in TYPES))
    return "INSERT INTO zoo VALUES " + ", ".join(f"({first + k}, {row})" for k, row in enumerate(rows))


def compare(source: PostgresAccount, target: Account) -> int:
    return assert_equal(source.server, source.database, target.server, target.database)


def current(pipeline: PipelineFile) -> None:
    pipeline.must("run", "FILE", "--until-current")


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_every_type_on_every_way(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, identity: str
) -> None:
    source, target = postgres_account, target_account
    names = [f"c{at}" for at in range(len(TYPES))]
    definitions = ", ".join(f"{name} {kind}" for name, kind in zip(names, TYPES, strict=True))
    create = f"CREATE TABLE zoo (id int PRIMARY KEY, {definitions})"
    alter = f"ALTER TABLE zoo REPLICA IDENTITY {identity}"
    run_all(source, [*PREPARE, create, alter, insert(0), insert(2 * STEP, 1), insert(3 * STEP)])
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    compare(source, target)
    pairs = ", ".join(f"{name} = s.{name}" for name in names)
    run_all(
        source,
        [
            insert(STEP),
            f"UPDATE zoo t SET {pairs} FROM zoo s WHERE s.id = t.id - {2 * STEP} AND t.id >= {2 * STEP}",
            f"DELETE FROM zoo WHERE id >= {3 * STEP}",
            insert(3 * STEP),
        ],
    )
    current(pipeline)
    assert compare(source, target) == 4 * (max(map(len, TYPES.values())) + 1)


WIDE = "CREATE TABLE wide (id int PRIMARY KEY, n int, doc text)"
DOC = "(SELECT string_agg(md5((g * {})::text), '') FROM generate_series(1, 800) g)"


def test_what_is_not_sent_is_not_overwritten(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """A value kept out of line is left out of an update that does not change it, also when the key changes."""
    source, target = postgres_account, target_account
    run_all(source, [WIDE, *(f"INSERT INTO wide VALUES ({n}, 0, {DOC.format(n)})" for n in (1, 2, 3))])
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    run_all(
        source,
        [
            "UPDATE wide SET n = 1 WHERE id = 1",
            "UPDATE wide SET id = 20 WHERE id = 2",
            "UPDATE wide SET id = 30, n = 7 WHERE id = 3",
            f"INSERT INTO wide VALUES (4, 0, {DOC.format(4)})",
            "UPDATE wide SET n = 9 WHERE id = 4",
        ],
    )
    current(pipeline)
    assert compare(source, target) == 4
    assert target.query("SELECT id, n FROM wide ORDER BY id") == [(1, 1), (4, 9), (20, 0), (30, 7)]


def test_a_transaction_that_is_streamed_while_open(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Parts of it are taken back, another one is rolled back as a whole: of both only what was committed arrives."""
    source, target = postgres_account, target_account
    run_all(source, ["CREATE TABLE big (id int PRIMARY KEY, v text)", "INSERT INTO big VALUES (0, 'old')"])
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    rows = "SELECT g, repeat(md5(g::text), 40) FROM generate_series({}, {}) g"
    setting = "ALTER SYSTEM SET logical_decoding_work_mem = '64kB'"
    source.server.execute([setting, "SELECT pg_reload_conf()"])
    insert_big = f"INSERT INTO big {rows}"
    run_all(
        source,
        [
            "BEGIN",
            insert_big.format(1, 3000),
            "SAVEPOINT a",
            "UPDATE big SET v = 'never'",
            "SAVEPOINT b",
            "DELETE FROM big WHERE id < 100",
            "RELEASE b",
            "ROLLBACK TO a",
            "SAVEPOINT c",
            insert_big.format(4000, 4100),
            "RELEASE c",
            "UPDATE big SET v = v || 'x' WHERE id % 10 = 0",
            "COMMIT",
            "BEGIN",
            insert_big.format(10000, 13000),
            "ROLLBACK",
        ],
    )
    current(pipeline)
    assert compare(source, target) == 3102


def test_keys_parents_truncate_partitions(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    run_all(
        source,
        [
            "CREATE TABLE parent (id int PRIMARY KEY, name text UNIQUE)",
            "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
            "INSERT INTO parent SELECT g, 'n' || g FROM generate_series(1, 50) g",
            "INSERT INTO child SELECT g, g % 50 + 1 FROM generate_series(1, 500) g",
            "CREATE TABLE part (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k)",
            "CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (10) TO (20)",
            "INSERT INTO part SELECT g, g % 20 FROM generate_series(1, 100) g",
            "CREATE TABLE emptied (id int PRIMARY KEY)",
            "INSERT INTO emptied SELECT generate_series(1, 100)",
            'CREATE TABLE "Odd name\'" ("select" int PRIMARY KEY, "Ünï""q" text)',
            "INSERT INTO \"Odd name'\" VALUES (1, 'x')",
        ],
    )
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    run_all(
        source,
        [
            "UPDATE parent SET id = id + 1000 WHERE id < 10",
            "DELETE FROM parent WHERE id = 20",
            "UPDATE parent SET name = 'swap' WHERE id = 30",
            "UPDATE parent SET name = 'n30' WHERE id = 31",
            "UPDATE parent SET name = 'n31' WHERE id = 30",
            "UPDATE part SET k = (k + 10) % 20 WHERE id < 30",
            "TRUNCATE emptied RESTART IDENTITY",
            "INSERT INTO emptied VALUES (5)",
            'UPDATE "Odd name\'" SET "select" = 2',
            "TRUNCATE parent CASCADE",
            "INSERT INTO parent VALUES (1, 'again')",
            "INSERT INTO child VALUES (1, 1)",
        ],
    )
    current(pipeline)
    assert compare(source, target) == 104


ROW = "INSERT INTO changed VALUES (3)"


@pytest.mark.parametrize(
    "change",
    [
        ["ALTER TABLE changed ADD w int"],
        ["DROP TABLE changed"],
        ["ALTER TABLE changed RENAME TO other"],
        ["ALTER TABLE changed ALTER v TYPE bigint"],
        ["ALTER TABLE changed DROP v", ROW],
        pytest.param(["ALTER TABLE changed DROP v"], marks=pytest.mark.full),
        pytest.param(["ALTER TABLE changed ADD w int", ROW], marks=pytest.mark.full),
        pytest.param(["ALTER TABLE changed ALTER v TYPE bigint", ROW], marks=pytest.mark.full),
    ],
    ids=" ".join,
)
def test_a_schema_change_pauses_its_table_only(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, change: list[str]
) -> None:
    """Whether a row follows, so that the stream tells, or none does."""
    source, target = postgres_account, target_account
    both = ["CREATE TABLE {} (id int PRIMARY KEY, v int)", "INSERT INTO {} VALUES (1, 1)"]
    run_all(source, [text.format(name) for name in ("kept", "changed") for text in both])
    tables: dict[str, object] = {f"{source.database}.{name}": {} for name in ("kept", "changed")}
    pipeline = write_pipeline(tmp_path, source, target, tables=tables)
    pipeline.must("load", "FILE")
    run_all(source, ["INSERT INTO changed VALUES (2, 2)", *change, "INSERT INTO kept VALUES (2, 2)"])
    for _ in range(2):
        done = pipeline.run("run", "FILE", "--until-current")
        assert done.returncode == 6, done.stderr
        states = {table["target"]: table for table in pipeline.status()["tables"]}
        assert states["kept"]["state"] == "streaming"
        assert states["changed"]["state"] == "paused"
        assert target.query("SELECT * FROM kept ORDER BY id") == [(1, 1), (2, 2)]
        assert target.query("SELECT * FROM changed ORDER BY id") == [(1, 1), (2, 2)]


def test_killed_in_mid_stream_and_source_restarted(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    run_all(source, ["CREATE TABLE t (id serial PRIMARY KEY, v text)", "INSERT INTO t (v) VALUES ('a')"])
    pipeline = write_pipeline(tmp_path, source, target)
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    run_all(source, [f"INSERT INTO t (v) VALUES ('{n}')" for n in range(300)])
    end(process, signal.SIGKILL)
    source.server.restart()
    run_all(source, [f"UPDATE t SET v = v || '{n}'" for n in range(5)])
    current(pipeline)
    assert compare(source, target) == 301


def test_the_slot_is_ours_to_make_and_drop(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    run_all(source, ["CREATE TABLE t (id int PRIMARY KEY)"])
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    slots = f"SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE database = '{source.database}'"
    [(slot, confirmed)] = source.server.execute(slots)
    stored = target.query("SELECT position FROM _replicator_checkpoint WHERE worker = 0")[0][0].split(" ")[-1]
    assert source.server.execute(f"SELECT '{confirmed}'::pg_lsn <= '{stored}'::pg_lsn") == [(True,)]
    source.server.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    refused = pipeline.run("run", "FILE", "--until-current")
    assert refused.returncode == 4, refused.stderr
    assert slot in refused.stderr
    assert "drop" in refused.stderr
    pipeline.must("drop", "FILE")
    pipeline.must("load", "FILE")
    assert len(source.server.execute(slots)) == 1
    pipeline.must("drop", "FILE")
    assert source.server.execute(slots) == []
    assert source.query("SELECT pubname FROM pg_publication") == []


def test_an_idle_database_holds_no_log_for_a_busy_neighbour(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Nothing is written to the source's tables; what its slot keeps stays small, and never is ahead of the checkpoint."""
    source, target = postgres_account, target_account
    run_all(source, ["CREATE TABLE still (id int PRIMARY KEY)", "INSERT INTO still VALUES (1)"])
    pipeline = write_pipeline(tmp_path, source, target)
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    server, kept = source.server, 64 << 20
    server.execute("DROP TABLE IF EXISTS busy; CREATE TABLE busy (v text)")
    retained = (
        "SELECT pg_current_wal_lsn() - confirmed_flush_lsn, confirmed_flush_lsn::text FROM pg_replication_slots"
        f" WHERE database = '{source.database}'"
    )
    written, deadline = 0, time.monotonic() + 60
    while written < 4 * kept or server.execute(retained)[0][0] > kept:
        assert time.monotonic() < deadline, server.execute(retained)
        if written < 4 * kept:
            server.execute("INSERT INTO busy SELECT repeat(md5(g::text), 30) FROM generate_series(1, 8000) g")
            written += 8000 * 1000
        confirmed = server.execute(retained)[0][1]
        stored = target.query("SELECT position FROM _replicator_checkpoint WHERE worker = 0")[0][0].split(
            " "
        )[-1]
        assert server.execute(f"SELECT '{confirmed}'::pg_lsn <= '{stored}'::pg_lsn") == [(True,)]
    code, output = end(process)
    assert code == 0, output
    server.execute("DROP TABLE busy")
