"""Values that MySQL cannot hold: refused by name, or under a rule of the file put otherwise, counted and shown (I10)."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from replicator.servers import Server
from tests.accounts import Account, make_source_account
from tests.compare import assert_equal
from tests.integration.test_postgres_mirror import current, run_all
from tests.pgaccounts import PostgresAccount
from tests.processes import PipelineFile, end, follow, write_pipeline

COLUMNS = {
    "n": ("numeric", ["'NaN'", "'Infinity'", "1" + "0" * 40, "0." + "0" * 30 + "1", "1.5"]),
    "f": ("float8", ["'Infinity'", "'-Infinity'", "'NaN'", "0.1", "2"]),
    "d": ("date", ["'infinity'", "'0044-03-15 BC'", "'5874897-12-31'", "'2024-01-02'", "NULL"]),
    "t": ("timestamptz", ["'-infinity'", "'infinity'", "'294276-01-01'", "'2024-01-02 03:04:05'", "NULL"]),
    "j": ("jsonb", ["'[1e400]'", "'1e-40'", "'1.10'", "'{}'", "NULL"]),
    "s": ("text", ["'日本語'", "'ab'", "'abc'", "''", "NULL"]),
}
NULLED: dict[str, set[int]] = {
    "n": {0, 1, 2, 3},
    "f": {0, 1, 2},
    "d": {0, 1, 2},
    "t": {0, 1, 2},
    "j": {0, 1},
    "s": {0, 2},
}
CREATE = (
    f"CREATE TABLE odd (id int PRIMARY KEY, {', '.join(f'{c} {kind}' for c, (kind, _) in COLUMNS.items())})"
)


def insert(first: int, *rows: int) -> str:
    values = ", ".join(f"({first + k}, {', '.join(v[k] for _, v in COLUMNS.values())})" for k in rows)
    return f"INSERT INTO odd VALUES {values}"


def write(folder: Path, source: PostgresAccount, target: Account, **rules: dict[str, str]) -> PipelineFile:
    tables = {f"{source.database}.odd": {"columns": rules} if rules else {}}
    return write_pipeline(folder, source, target, tables=tables)


def read_coerced(pipeline: PipelineFile) -> dict[str, dict[str, Any]]:
    (table,) = pipeline.status()["tables"]
    return _by_column(table)


def _by_column(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {found["column"]: found for found in table["coerced"]}


def test_null_on_load_and_stream(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Exactly the values that do not fit become NULL; each is counted once, also across a kill and an update."""
    source, target = postgres_account, target_account
    every = range(5)
    run_all(source, [CREATE, "ALTER TABLE odd REPLICA IDENTITY FULL", insert(0, *every)])
    rules = {c: {"unrepresentable": "null"} for c in COLUMNS} | {
        "s": {"unrepresentable": "null", "type": "varchar(2)"}
    }
    pipeline = write(tmp_path, source, target, **rules)
    process = pipeline.start("run", "FILE")
    follow(process, "state=streaming")
    run_all(source, [insert(100, *every), *(insert(200 + 10 * k, k) for k in every)])
    end(process, signal.SIGKILL)
    moves = ", ".join(f"{c} = s.{c}" for c in COLUMNS)
    run_all(
        source,
        [
            f"UPDATE odd o SET {moves} FROM odd s WHERE o.id = 104 AND s.id = 0",
            "DELETE FROM odd WHERE id = 101",
        ],
    )
    current(pipeline)
    rows = {first + k: k for first in (0, 100) for k in every} | {200 + 11 * k: k for k in every} | {104: 0}
    del rows[101]
    for column, places in NULLED.items():
        nulls = {row[0] for row in target.query(f"SELECT id FROM odd WHERE {column} IS NULL")}
        values = COLUMNS[column][1]
        assert nulls == {key for key, k in rows.items() if k in places or values[k] == "NULL"}, column
    found = read_coerced(pipeline)
    counts = {column: 3 * len(places) + (0 in places) for column, places in NULLED.items()}
    assert {column: item["values"] for column, item in found.items()} == counts
    assert {item["rule"] for item in found.values()} == {"null"}
    assert (found["d"]["sample_key"], found["d"]["sample_value"]) == ("104", "infinity")
    pipeline.must("drop", "FILE")
    assert target.query("SELECT * FROM _replicator_coerced") == []


def test_clamp_and_what_a_load_counts_anew(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    run_all(
        source,
        [CREATE, "INSERT INTO odd (id, d) VALUES (1, 'infinity'), (2, '0044-03-15 BC'), (3, '2024-01-02')"],
    )
    pipeline = write(tmp_path, source, target, d={"unrepresentable": "clamp"}, n={"unrepresentable": "clamp"})
    pipeline.must("load", "FILE")
    assert target.query("SELECT CAST(d AS CHAR) FROM odd ORDER BY id") == [
        ("9999-12-31",),
        ("0000-01-01",),
        ("2024-01-02",),
    ]
    run_all(
        source,
        ["INSERT INTO odd (id, n) VALUES (4, '-Infinity'), (5, 1234567890123456789012345678901234567.8)"],
    )
    current(pipeline)
    largest = "9" * 35 + "." + "9" * 30
    assert target.query("SELECT CAST(n AS CHAR) FROM odd WHERE id > 3 ORDER BY id") == [
        ("-" + largest,),
        (largest,),
    ]
    assert {c: (i["values"], i["rule"]) for c, i in read_coerced(pipeline).items()} == {
        "d": (2, "clamp"),
        "n": (2, "clamp"),
    }
    assert "coerced=d_clamp_2_times" in pipeline.must("status", "FILE")
    both = json.loads(pipeline.path.read_text())["tables"]
    run_all(source, ["CREATE TABLE other (id int PRIMARY KEY)"])
    pipeline.set_top(tables={f"{source.database}.other": {}})
    current(pipeline)  # without its table for a while: it must be loaded anew
    run_all(source, ["DELETE FROM odd WHERE id IN (1, 4)"])
    pipeline.set_top(tables=both | {f"{source.database}.other": {}})
    current(pipeline)
    found = {c: i["values"] for t in pipeline.status()["tables"] for c, i in _by_column(t).items()}
    assert found == {"d": 1, "n": 1}


@pytest.mark.parametrize("way", ["load", "stream"])
def test_fail_names_the_value_and_a_rule_lets_it_pass(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path, way: str
) -> None:
    source, target = postgres_account, target_account
    run_all(source, [CREATE, "INSERT INTO odd (id, d) VALUES (1, '2024-01-02')"])
    pipeline = write(tmp_path, source, target)
    bad = "INSERT INTO odd (id, d) VALUES (2, 'infinity')"
    if way == "load":
        run_all(source, [bad])
        refused = pipeline.run("load", "FILE")
    else:
        pipeline.must("load", "FILE")
        run_all(source, [bad])
        refused = pipeline.run("run", "FILE", "--until-current")
    assert refused.returncode == 4, refused.stderr
    assert f"{source.database}.odd:d: infinity is no date of MySQL" in refused.stderr
    assert "unrepresentable" in refused.stderr
    passing = write(tmp_path, source, target, d={"unrepresentable": "null"})
    current(passing)
    assert target.query("SELECT id, d IS NULL FROM odd ORDER BY id") == [(1, 0), (2, 1)]
    assert read_coerced(passing)["d"]["sample_key"] == "2"


def test_rules_that_cannot_be(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Refused by `check`, `plan` or a run, whichever is tried, at their place in the file, before anything is made."""
    source, target = postgres_account, target_account
    run_all(source, ["CREATE TABLE odd (id uuid PRIMARY KEY, u text UNIQUE, v float8 NOT NULL)"])
    ways = itertools.cycle([("plan", 2), ("load", 2), ("check", 3)])
    for column, rule, message in [
        ("id", {"unrepresentable": "clamp"}, "two rows could become one"),
        ("u", {"unrepresentable": "null"}, "two rows could become one"),
        ("v", {"unrepresentable": "null"}, "the column is NOT NULL"),
        ("w", {"unrepresentable": "null"}, "has no such column"),
        ("id", {"type": "binary(15)"}, "a uuid of the source cannot become binary(15)"),
        ("u", {"type": "varchar(800)"}, "is in an index, where varchar(800) is too long"),
    ]:
        pipeline = write(tmp_path, source, target, **{column: rule})
        command, code = next(ways)
        done = pipeline.run(command, "FILE")
        assert done.returncode == code, (column, command, done.stdout, done.stderr)
        assert f'columns."{column}": ' in done.stdout + done.stderr
        assert message in " ".join((done.stdout + done.stderr).split())
        assert f"{pipeline.path}:" in done.stdout + done.stderr
    assert target.query("SHOW TABLES LIKE 'odd'") == []


def test_types_of_the_file(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    source, target = postgres_account, target_account
    run_all(
        source,
        [
            "CREATE DOMAIN ids AS uuid",
            "CREATE TABLE odd (id ids PRIMARY KEY, d date, f float8, n numeric(30,3), b bool, c bit(3), t timestamptz)",
            "CREATE TABLE child (id int PRIMARY KEY, odd ids REFERENCES odd)",
            "INSERT INTO odd VALUES ('00000000-0000-0000-0000-0000000000ff', 'infinity', 'NaN', 7, true, '101', '2030-1-1')",
            "INSERT INTO child VALUES (1, '00000000-0000-0000-0000-0000000000ff')",
        ],
    )
    types = {
        "id": "binary(16)",
        "d": "varchar(20)",
        "f": "varchar(30)",
        "n": "bigint",
        "b": "bit(1)",
        "c": "tinyint",
        "t": "timestamp",
    }
    tables = {
        f"{source.database}.odd": {"columns": {name: {"type": text} for name, text in types.items()}},
        f"{source.database}.child": {"columns": {"odd": {"type": "binary(16)"}}},
    }
    pipeline = write_pipeline(tmp_path, source, target, tables=tables)
    pipeline.must("load", "FILE")
    run_all(
        source,
        [
            "INSERT INTO odd VALUES"
            " ('10000000-0000-0000-0000-0000000000ff', '2024-01-02', '-Infinity', -7, false, '001', NULL)",
            "INSERT INTO child VALUES (2, '10000000-0000-0000-0000-0000000000ff')",
            "UPDATE odd SET n = 8 WHERE n = 7",
        ],
    )
    current(pipeline)
    rows = target.query("SELECT HEX(id), d, f, n, b + 0, c, CAST(t AS CHAR) FROM odd ORDER BY id")
    assert rows == [
        ("00000000000000000000000000" + "0000FF", "infinity", "NaN", 8, 1, 5, "2030-01-01 00:00:00"),
        ("10000000000000000000000000" + "0000FF", "2024-01-02", "-Infinity", -7, 0, 1, None),
    ]
    assert target.query("SELECT COUNT(*) FROM child JOIN odd ON child.odd = odd.id") == [(2,)]
    pipeline.edit("tables", **{f"{source.database}.odd": {"columns": {"n": {"type": "int"}}}})
    refused = pipeline.run("run", "FILE", "--until-current")
    assert refused.returncode == 2
    assert "was loaded with bigint, and the file now says int" in refused.stderr


def test_a_key_that_is_too_long_is_named(
    postgres_account: PostgresAccount, target_account: Account, tmp_path: Path
) -> None:
    """Keys that differ in case, accents or blanks at the end stay apart; one that no index of MySQL holds ends the run."""
    source, target = postgres_account, target_account
    keys = ["a", "A", "á", "a ", " a", "", "ß", "ss", "ö" * 768, "x" * 768]
    rows = ", ".join(f"('{key}')" for key in keys)
    run_all(source, ["CREATE TABLE odd (id text PRIMARY KEY)", f"INSERT INTO odd VALUES {rows}"])
    pipeline = write(tmp_path, source, target)
    pipeline.must("load", "FILE")
    run_all(source, ["UPDATE odd SET id = id || '2' WHERE length(id) < 9"])
    current(pipeline)
    assert {row[0] for row in target.query("SELECT id FROM odd")} == {
        key + "2" if len(key) < 9 else key for key in keys
    }
    run_all(source, ["INSERT INTO odd VALUES (repeat('long', 193))"])
    refused = pipeline.run("run", "FILE", "--until-current")
    assert refused.returncode == 4
    assert f"{source.database}.odd:id: longlong" in refused.stderr
    assert "(772 bytes) is too long for varchar(768)" in refused.stderr


def test_decimals_of_mariadb(mariadb_source: Server, target_account: Account, tmp_path: Path) -> None:
    """It has 38 digits behind the point, MySQL 30."""
    with make_source_account(mariadb_source) as source:
        exact, beyond = "-1." + "0" * 29 + "1", "1." + "0" * 30 + "6"
        source.server.execute(
            [
                f"CREATE TABLE {source.database}.odd (id int PRIMARY KEY, n decimal(50,38), m decimal(40,35))",
                f"INSERT INTO {source.database}.odd VALUES (1, {exact}, 1.5), (2, {beyond}, NULL)",
            ]
        )
        tables: dict[str, object] = {f"{source.database}.odd": {}}
        pipeline = write_pipeline(tmp_path, source, target_account, tables=tables)
        refused = pipeline.run("load", "FILE")
        assert refused.returncode == 4, refused.stderr
        assert f"{source.database}.odd:n: {beyond}" in refused.stderr
        tables = {f"{source.database}.odd": {"columns": {"n": {"unrepresentable": "clamp"}}}}
        pipeline = write_pipeline(tmp_path, source, target_account, tables=tables)
        pipeline.must("load", "FILE")
        source.server.execute(
            [
                f"INSERT INTO {source.database}.odd VALUES (3, {exact}, -1.5), (4, {beyond}, NULL)",
                f"UPDATE {source.database}.odd SET m = 2 WHERE id = 2",
            ]
        )
        current(pipeline)
        rounded = "1." + "0" * 29 + "1"
        rows = target_account.query("SELECT CAST(n AS CHAR), m + 0 FROM odd ORDER BY id")
        assert [row[0] for row in rows] == [exact, rounded, exact, rounded]
        (found,) = read_coerced(pipeline).values()
        assert (found["column"], found["values"]) == ("n", 3)
        assert found["sample_value"].startswith(beyond)


@pytest.mark.parametrize("product", ["mysql_source", "mariadb_source"])
def test_what_mysql_holds_no_rule_touches(
    request: pytest.FixtureRequest, target_account: Account, tmp_path: Path, product: str
) -> None:
    """Zero and invalid dates, the year 0, an ENUM's index 0, the longest times: all of it arrives as it is."""
    with make_source_account(request.getfixturevalue(product)) as source:
        values = {
            "d": ("date", ["'0000-00-00'", "'2024-02-31'", "'0000-05-00'", "'9999-12-31'"]),
            "t": (
                "datetime(6)",
                ["'0000-00-00 00:00:00'", "'2024-00-00 01:02:03'", "'9999-12-31 23:59:59.999999'"],
            ),
            "s": (
                "timestamp NULL",
                ["'0000-00-00 00:00:00'", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"],
            ),
            "y": ("year", ["0", "1901", "2155"]),
            "e": ("enum('a','b')", ["'no label'", "'a'"]),
            "l": ("time(6)", ["'-838:59:59'", "'838:59:59'", "'00:00:00.000001'"]),
            "f": ("double", ["1.7976931348623157e308", "-0e0"]),
            "n": ("decimal(65,30)", ["-" + "9" * 35 + "." + "9" * 30]),
            "b": ("bit(64)", ["18446744073709551615"]),
        }
        definitions = ", ".join(f"{name} {kind}" for name, (kind, _) in values.items())
        name = f"{source.database}.odd"
        literals = list(enumerate([", ".join(v[k % len(v)] for _, v in values.values()) for k in range(4)]))

        def insert(first: int) -> str:
            return f"INSERT IGNORE INTO {name} VALUES " + ", ".join(
                f"({first + k}, {row})" for k, row in literals
            )

        settings = "SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'"
        create = f"CREATE TABLE {name} (id int PRIMARY KEY, {definitions})"
        source.server.execute([settings, create, insert(0)])
        for word in ("null", "clamp"):
            rules = {column: {"unrepresentable": word} for column in values}
            pipeline = write_pipeline(tmp_path, source, target_account, tables={name: {"columns": rules}})
            current(pipeline)
            source.server.execute([settings, insert(100 if word == "null" else 200)])
            current(pipeline)
        assert (
            assert_equal(source.server, source.database, target_account.server, target_account.database) == 12
        )
        assert read_coerced(pipeline) == {}
