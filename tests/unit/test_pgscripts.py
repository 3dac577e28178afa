"""How the replay reads a script as psql would, and cuts PostgreSQL's files."""

from __future__ import annotations

from tests.pgscripts import COPY_DATA, POSTGRES, read_statements
from tests.scripts import cut, divide


def test_statements_end_outside_quotes_comments_and_parentheses_only() -> None:
    text = (
        "INSERT INTO t VALUES ('a;''', E'b\\';', \"c;\"); -- no; end\nSELECT /* d;e */ 1;"
        " CREATE FUNCTION f() RETURNS int AS $x$ SELECT 1; $$ $x$ LANGUAGE sql;"
        " CREATE RULE r AS DO (SELECT 1; SELECT 2); SELECT 3"
    )
    assert [" ".join(statement.split()) for statement in read_statements(text)] == [
        "INSERT INTO t VALUES ('a;''', E'b\\';', \"c;\")",
        "SELECT 1",
        "CREATE FUNCTION f() RETURNS int AS $x$ SELECT 1; $$ $x$ LANGUAGE sql",
        "CREATE RULE r AS DO (SELECT 1; SELECT 2)",
        "SELECT 3",
    ]


def test_a_copy_takes_the_lines_up_to_its_end() -> None:
    text = "COPY t (a, b) FROM stdin;\n1;\t'x\n\\N\t\\\\.\n\\.\n\nSELECT 1;"
    assert read_statements(text) == [
        f"COPY t (a, b) FROM stdin{COPY_DATA}1;\t'x\n\\N\t\\\\.\n",
        "SELECT 1",
    ]


def test_variables_are_put_in_place_and_casts_are_not() -> None:
    text = "\\set n 291\n\\set who 'O''x'\nSELECT :n, 'a :n', :'n', x::n, :unknown;"
    assert read_statements(text) == ["SELECT 291, 'a :n', '291', x::n, :unknown"]


def test_commands_of_psql_are_obeyed_or_told() -> None:
    text = "\\c chinook;\nSELECT 1 \\g\nSELECT 'CREATE TABLE t ()' \\gexec\n\\copy t from 'file'\nSELECT 2;"
    assert read_statements(text) == [
        "SELECT 1",
        "SELECT 'CREATE TABLE t ()'",
        "\\gexec",
        "\\copy t from 'file'",
        "SELECT 2",
    ]


def test_a_dump_has_its_keys_before_its_rows_and_its_references_after_them() -> None:
    script = [
        "SET search_path TO x",
        "CREATE TABLE t (id int)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE ONLY t ADD CONSTRAINT p PRIMARY KEY (id)",
        "ALTER TABLE ONLY t ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES u",
        "INSERT INTO other.t VALUES (1)",
        "INSERT INTO t VALUES (2)",
    ]
    first, rest = divide(script, POSTGRES)
    assert first == [script[0], script[1], script[3]]
    keep, late = cut(rest, POSTGRES)
    assert keep == [script[0], script[2]]
    assert late == [script[0], script[4], script[5], script[6]]


def test_a_key_that_follows_another_change_of_the_table_stays_behind_it() -> None:
    script = [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
    ]
    assert divide(script, POSTGRES) == (script[:1], script[1:])
