"""The target's tables: what was created for a source's table says the same, and odd names and options change nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.accounts import Account
from tests.compare import Side, assert_equal, describe_difference
from tests.contract.paths import run_all
from tests.processes import PipelineFile, write_pipeline

# --- definitions ------------------------------------------------------------------------------------------------------

DEFINED = """CREATE TABLE defined (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT COMMENT 'it''s the "key" \\\\',
  a VARCHAR(50) NOT NULL DEFAULT 'it''s \\\\ "x"', b INT DEFAULT -7, c DECIMAL(10,3) NOT NULL DEFAULT 1.5,
  d DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
  e TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6), f ENUM('x','it''s') DEFAULT 'it''s', g SET('p','q') DEFAULT 'p,q',
  h BIT(10) DEFAULT b'101', i TEXT, j BLOB, k DATE NOT NULL DEFAULT '0000-00-00',
  l CHAR(10) CHARACTER SET latin1 COLLATE latin1_german2_ci NOT NULL DEFAULT '', m VARBINARY(10) DEFAULT x'6100',
  n VARCHAR(20) DEFAULT NULL, o INT NOT NULL, p DOUBLE DEFAULT 1.5e10, q YEAR DEFAULT 2024, r BINARY(3) DEFAULT 'ab',
  s POINT NOT NULL, t INT INVISIBLE DEFAULT 3,
  PRIMARY KEY (id), UNIQUE KEY `one ``two` (a, b), KEY prefixed (i(10), j(5)), KEY down (o DESC, b),
  FULLTEXT KEY words (a, i), SPATIAL KEY place (s)
) COMMENT 'a ''table'' \\\\ with ü' CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"""

MODERN = """CREATE TABLE modern (
  id BIGINT PRIMARY KEY, j JSON DEFAULT (JSON_OBJECT('a', 'it''s')), u CHAR(36) DEFAULT (UUID()),
  e VARCHAR(40) DEFAULT (CONCAT('a''b', '\\\\')), b BLOB DEFAULT ('abc'), t TEXT DEFAULT ('x'),
  ci VARCHAR(20) COLLATE utf8mb4_0900_as_cs, dd DATE DEFAULT (CURRENT_DATE), p POINT SRID 4326 NOT NULL,
  KEY lowered ((LOWER(ci))), UNIQUE KEY pair ((CONCAT(ci, 'x\\\\')), id), KEY unseen (e) INVISIBLE, SPATIAL KEY (p)
) COLLATE utf8mb4_0900_ai_ci"""

COLUMNS = (
    "SELECT column_name, column_type, is_nullable, column_default, extra, column_comment, collation_name"
    " FROM information_schema.columns WHERE table_schema = '{}' AND table_name = '{}' ORDER BY ordinal_position"
)
INDEXES = (
    "SELECT index_name, seq_in_index, non_unique, column_name, sub_part, collation, index_type, {extra}"
    " FROM information_schema.statistics WHERE table_schema = '{}' AND table_name = '{}' ORDER BY 1, 2"
)
TABLE = (
    "SELECT table_comment, table_collation FROM information_schema.tables"
    " WHERE table_schema = '{}' AND table_name = '{}'"
)


def read(account: Account, query: str, table: str, extra: str = "1") -> list[tuple[Any, ...]]:
    return account.server.execute(query.replace("{extra}", extra).format(account.database, table))


def plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of COLUMNS as both products would say it."""
    name, kind, nullable, default, extra, comment, collation = row
    text = None if default in (None, "NULL") else str(default)
    if text is not None:
        text = re.sub(r"(?i)current_timestamp\(\)", "CURRENT_TIMESTAMP", text)
        text = text[1:-1].replace("''", "'").replace("\\\\", "\\") if text.startswith("'") else text
        text = re.sub(r"(?i)current_timestamp", "CURRENT_TIMESTAMP", text)
    kind = kind if "zerofill" in kind or kind == "tinyint(1)" else re.sub(r"(int|year)\(\d+\)", r"\1", kind)
    extra = re.sub(r"default_generated *", "", str(extra).lower()).replace("()", "").strip()
    if "binary" in kind:
        text = None  # MySQL prints it up to its first zero byte: the next test sees what it is
    return name, kind, nullable, text, extra.replace(",", ""), comment, collation


def test_definitions_say_the_same(source_account: Account, target_account: Account, tmp_path: Path) -> None:
    source, target = source_account, target_account
    tables = ["defined", "modern"] if source.server.kind == "mysql" else ["defined"]
    run_all(source, [DEFINED, *([MODERN] if len(tables) > 1 else [])])
    write_pipeline(tmp_path, source, target).must("load", "FILE")
    for table in tables:
        ours, theirs = (list(map(plain, read(side, COLUMNS, table))) for side in (source, target))
        assert ours == theirs
        assert read(source, TABLE, table) == read(target, TABLE, table)
        extra = "expression, is_visible" if source.server.kind == "mysql" else "1"
        assert read(source, INDEXES, table, extra) == read(target, INDEXES, table, extra)


def test_new_rows_at_the_target_get_the_sources_defaults(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """A default is not what information_schema prints but what a row gets."""
    run_all(source_account, [DEFINED])
    write_pipeline(tmp_path, source_account, target_account).must("load", "FILE")
    rows = []
    for account in (source_account, target_account):
        run_all(account, ["SET timestamp = 1700000000.123456", *DEFAULT_ROW])
        rows.append(
            account.query(
                "SELECT id, a, b, c, d, e, f, g, HEX(h), k, l, HEX(m), n, p, q, HEX(r), t FROM defined"
            )
        )
    assert rows[0] == rows[1] != []


DEFAULT_ROW = ["INSERT INTO defined (o, s) VALUES (1, ST_GeomFromText('POINT(1 1)'))"]

# --- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    "select", "Order", "MiXeD", "ünïcödé_日本", "a" * 64, "ß" * 64, "back`tick", "quo'te", 'double"quote', "do.t", "sp ace",
    "per%cent", "per%s%d%(x)s", "dollar$", "back\\slash", "semi;colon", "da-sh", "hash#", "1", "{brace}", "two  spaces", "é",
]  # fmt: skip


def quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def test_any_name_of_a_table_column_or_index(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    columns = ", ".join(f"{quote(name)} VARCHAR(10) COMMENT '{name[:5].encode().hex()}'" for name in NAMES)
    keys = ", ".join(f"KEY {quote(name)} ({quote(name)})" for name in NAMES)
    run_all(source, [f"CREATE TABLE wide (`the ``key` INT PRIMARY KEY, {columns}, {keys})"])
    with source.server.connect(database=source.database) as connection, connection.cursor() as cursor:
        for name in NAMES:
            cursor.execute(f"CREATE TABLE {quote(name)} ({quote(name)} INT PRIMARY KEY, `v` INT)")
            cursor.execute(f"INSERT INTO {quote(name)} VALUES (1, 1), (2, 2)")
        cursor.execute(f"INSERT INTO wide VALUES (1{', 2' * len(NAMES)})")
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    with source.server.connect(database=source.database) as connection, connection.cursor() as cursor:
        for name in NAMES:
            table = quote(name)
            cursor.execute(f"UPDATE {table} SET {table} = {table} + 10, v = 5 WHERE {table} = 1")
            cursor.execute(f"DELETE FROM {table} WHERE {table} = 2")
            cursor.execute(f"INSERT INTO {table} VALUES (3, NULL)")
            cursor.execute(f"UPDATE wide SET {table} = 'new'")
    pipeline.must("run", "FILE", "--until-current")
    assert same(source, target, ["wide", *NAMES])
    pipeline.must("status", "FILE")


def same(source: Account, target: Account, tables: list[str], to: str = "{}") -> bool:
    """Of tables with any name, which the shared comparison's queries do not quote."""
    for table in tables:
        ours, theirs = quote(table), quote(to.format(table))
        order = quote(str(target.query(f"SHOW COLUMNS FROM {theirs}")[0][0]))
        query = "SELECT * FROM {} ORDER BY " + order
        assert source.query(query.replace("{}", ours)) == target.query(query.replace("{}", theirs)) != []
    return True


# --- options ----------------------------------------------------------------------------------------------------------

SMALL = "CREATE TABLE small (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL, v INT)"
SMALL_ROWS = "INSERT INTO small VALUES (1, 'a', 1), (2, 'b', NULL)"
SMALL_CHANGES = [
    "UPDATE small SET v = 7, id = 5 WHERE id = 1",
    "DELETE FROM small WHERE id = 2",
    "INSERT INTO small VALUES (9, 'z', 0)",
]


def change(pipeline: PipelineFile, source: Account) -> None:
    pipeline.must("load", "FILE")
    run_all(source, SMALL_CHANGES)
    pipeline.must("run", "FILE", "--until-current")


def test_target_names_by_placeholders(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    run_all(source, [SMALL, SMALL_ROWS])
    tables = {f"{source.database}.*": {"to": "{schema}_{table}"}}
    change(write_pipeline(tmp_path, source, target, tables=tables), source)
    name = f"{source.database}_small"
    assert not describe_difference(
        Side(source.server, source.database, "small"), Side(target.server, target.database, name)
    )


def test_an_existing_table_is_filled_and_never_created(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    run_all(source, [SMALL, SMALL_ROWS])
    tables = {f"{source.database}.small": {"create": False}}
    pipeline = write_pipeline(tmp_path, source, target, tables=tables)
    refused = pipeline.run("load", "FILE")
    assert refused.returncode != 0
    assert "small" in refused.stderr
    run_all(target, [SMALL])
    change(pipeline, source)
    assert_equal(source.server, source.database, target.server, target.database)


def test_extra_nullable_columns_keep_what_the_app_writes(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    run_all(source, [SMALL, SMALL_ROWS])
    run_all(
        target,
        [
            "CREATE TABLE small (extra INT NULL, v BIGINT, more VARCHAR(9) DEFAULT 'd', id INT PRIMARY KEY,"
            " name VARCHAR(30) NOT NULL)"
        ],
    )
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    run_all(target, ["UPDATE small SET extra = id * 10"])
    run_all(source, SMALL_CHANGES)
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)
    rows = target.query("SELECT id, extra, more FROM small ORDER BY id")
    assert [row[0] for row in rows] == [5, 9]
    assert rows[1][1:] == (None, "d")


def test_a_narrower_existing_table_is_refused_before_the_first_row(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    run_all(source, [SMALL, SMALL_ROWS])
    run_all(target, ["CREATE TABLE small (id INT PRIMARY KEY, name VARCHAR(10) NOT NULL, v INT)"])
    refused = write_pipeline(tmp_path, source, target).run("load", "FILE")
    assert refused.returncode == 5
    assert "name" in refused.stderr
    assert target.query("SELECT COUNT(*) FROM small") == [(0,)]
