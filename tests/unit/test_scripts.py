"""How the replay cuts other projects' SQL files."""

from __future__ import annotations

from tests.scripts import MYSQL, cut, divide, split, unwrap


def test_statements_end_outside_quotes_and_comments_only() -> None:
    text = "INSERT INTO t VALUES ('a;\\'', \"b;\", 'c''d;'); -- no; end\nSELECT `x;y`; /* a;b */ SELECT 1"
    assert [unwrap(part).strip() for part in split(text)] == [
        "INSERT INTO t VALUES ('a;\\'', \"b;\", 'c''d;')",
        "SELECT `x;y`",
        "SELECT 1",
    ]


def test_delimiter_lines_are_heeded() -> None:
    text = "DELIMITER //\nCREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END//\ndelimiter ;\nSELECT 3;"
    parts = [part.strip() for part in split(text) if part.strip()]
    assert parts == ["CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END", "SELECT 3"]


def test_versioned_comments_are_unwrapped() -> None:
    assert unwrap("-- x\n/*!80013 CREATE TABLE t (a INT) */") == "CREATE TABLE t (a INT) "


def test_a_table_is_followed_up_to_its_first_change_of_schema() -> None:
    script = [
        "USE a", "CREATE TABLE t (id INT)", "CREATE TABLE u (id INT)", "INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD x INT", "INSERT INTO t VALUES (2, 2)", "INSERT INTO u VALUES (1)",
        "USE b", "CREATE TABLE t (id INT)", "INSERT INTO t VALUES (3)",
    ]  # fmt: skip
    first, rest = divide(script, MYSQL)
    assert first == [
        "USE a",
        "CREATE TABLE t (id INT)",
        "CREATE TABLE u (id INT)",
        "USE b",
        "CREATE TABLE t (id INT)",
    ]
    keep, late = cut(rest, MYSQL)
    assert keep == [
        "USE a",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO u VALUES (1)",
        "USE b",
        "INSERT INTO t VALUES (3)",
    ]
    assert late == ["USE a", "ALTER TABLE t ADD x INT", "INSERT INTO t VALUES (2, 2)", "USE b"]
