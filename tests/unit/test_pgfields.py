"""Which columns go from COPY into LOAD DATA as they are, and what is rewritten of their text."""

from __future__ import annotations

import re

import pytest

from replicator.model import Column, Kind, TableName, TableSchema, Unrepresentable
from replicator.readers.postgres_rows import build_parser
from replicator.readers.postgres_snapshot import join_lines
from replicator.typemap.pgfields import find_fields


def find(base: str, kind: Kind, target: str, source_type: str = "") -> str | None:
    column = Column("c", kind, target, nullable=True, base=base, source_type=source_type or base)
    found = find_fields(TableSchema(TableName("s", "t"), "t", (column,), (0,)))
    return found[0] if found else None


@pytest.mark.parametrize(
    ("base", "kind", "target", "field"),
    [
        ("int4", Kind.INTEGER, "int", "{}"),
        ("bool", Kind.INTEGER, "tinyint(1)", "{}::int"),
        ("float4", Kind.FLOAT, "float", "{}::float8"),
        ("numeric", Kind.PLAIN, "decimal(65,30)", "{}"),
        ("timestamptz", Kind.PLAIN, "datetime(6)", "({} AT TIME ZONE 'UTC')"),
        ("bytea", Kind.BINARY, "longblob", "encode({}, 'hex')"),
        ("uuid", Kind.BINARY, "binary(16)", "encode(uuid_send({}), 'hex')"),
        ("bpchar", Kind.TEXT, "char(5)", "{}::text"),
        ("text", Kind.TEXT, "varchar(768)", "{}"),
    ],
)
def test_what_the_source_writes_as_the_target_reads_it(
    base: str, kind: Kind, target: str, field: str
) -> None:
    assert find(base, kind, target) == field


@pytest.mark.parametrize(
    ("base", "kind", "target"),
    [
        ("jsonb", Kind.JSON, "json"),  # decimals
        ("bit", Kind.BIT, "bit(9)"),
        ("money", Kind.PLAIN, "decimal(19,2)"),
        ("numeric", Kind.INTEGER, "int"),  # a fraction would be rounded with no more than a note
        ("timestamp", Kind.PLAIN, "datetime(3)"),  # would be rounded without a word
        ("time", Kind.PLAIN, "time"),
        ("timestamp", Kind.PLAIN, "timestamp"),
        ("text", Kind.TEXT, "char(5)"),  # loses its blanks without a word
        ("bytea", Kind.BINARY, "binary(5)"),  # gains zeros
        ("char", Kind.TEXT, "varchar(4)"),
    ],
)
def test_what_needs_a_look_at_each_value(base: str, kind: Kind, target: str) -> None:
    assert find(base, kind, target) is None


def test_a_column_with_a_rule_needs_a_look() -> None:
    column = Column("c", Kind.INTEGER, "int", base="int4", unrepresentable=Unrepresentable.CLAMP)
    assert find_fields(TableSchema(TableName("s", "t"), "t", (column,), (0,))) is None


def test_escapes_that_load_data_does_not_know() -> None:
    """A backslash before the letter may itself be an escaped one."""
    lines = [rb"a\fb\vc\\f\\\v\t\N" + b"\n", rb"\\\\f" + b"\n"]
    block = join_lines(lines)
    assert block == (b"a\fb\vc\\\\f\\\\\v\\t\\N\n\\\\\\\\f\n", 2)


def test_the_text_means_what_the_rows_hold() -> None:
    """Every character, read as LOAD DATA reads a field: its escapes, and a backslash before any other character."""
    column = Column("c", Kind.TEXT, "longtext", base="text", source_type="text")
    letters = {8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 92: "\\"}
    lines = [
        (f"\\{letters[code]}" if code in letters else chr(code)).encode() + b"\n" for code in range(1, 256)
    ]
    [fields] = [[row[0] for row in build_parser("t", [column])(lines)]]
    known = {b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
    data = join_lines(lines).data
    read = [
        re.sub(rb"\\(.)", lambda match: known.get(match[1], match[1]), field)
        for field in data.removesuffix(b"\n").split(b"\n")
    ]
    assert read == fields == [chr(code).encode() for code in range(1, 256)]
