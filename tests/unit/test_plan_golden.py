"""Changes in, SQL out: each file of tests/golden/plan is a case; a new one needs no code.

Its comments are the input, the rest is the SQL. ``table NAME: COLUMN TYPE [null] [key] [unique] [deferrable] [->
TABLE.COLUMN [cascade | set_null]], …`` declares a table (``text:COLLATION`` for text), ``settings: …`` words of
``SETTINGS``, and ``insert NAME ROWS``, ``delete NAME ROWS``, ``update NAME ROWS -> ROWS``, ``truncate NAME`` are the
changes, rows as Python tuples; a trailing ``!`` says that the source ran it without foreign key checks. ``…`` stands
for UNCHANGED.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.model import (
    UNCHANGED,
    Changes,
    Column,
    ForeignKey,
    Kind,
    Op,
    Row,
    TableName,
    TableSchema,
    UniqueKey,
)
from replicator.plan import PlanSettings, build_descents, build_edges, build_plan
from replicator.sql import Limits, Packet, build_packets

CASES = sorted((Path(__file__).parent.parent / "golden" / "plan").glob("*.sql"))
SETTINGS: dict[str, dict[str, bool]] = {
    "checks": {"checks": True},
    "cascades_logged": {"cascades_logged": True},
    "careful": {"careful": True},
    "partial": {"partial": True},
    "descents": {"descents": True},
    "descends": {"descents": True, "descends": True},
}
RULES = {"cascade": "CASCADE", "set_null": "SET NULL"}
KINDS = {
    "int": Kind.INTEGER,
    "decimal": Kind.PLAIN,
    "datetime": Kind.PLAIN,
    "double": Kind.DOUBLE,
    "blob": Kind.BINARY,
}


def parse_table(name: str, columns: str) -> TableSchema:
    specs = [spec.split() for spec in columns.split(",")]
    key = tuple(at for at, words in enumerate(specs) if "key" in words)
    uniques = [
        UniqueKey(words[0], (at,), deferrable="deferrable" in words)
        for at, words in enumerate(specs)
        if "unique" in words
    ]
    keys = tuple(_parse_foreign_key(words) for words in specs if "->" in words)
    primary = UniqueKey("PRIMARY", key, deferrable=any({"key", "deferrable"} <= {*words} for words in specs))
    unique_keys = (primary, *uniques)
    parsed = tuple(_parse_column(words) for words in specs)
    return TableSchema(TableName("s", name), name, parsed, key, unique_keys, foreign_keys=keys)


def _parse_column(words: list[str]) -> Column:
    kind, _, collation = words[1].partition(":")
    nullable = "null" in words
    if kind == "text":
        return Column(
            words[0], Kind.TEXT, "text", nullable, charset=collation.split("_")[0], collation=collation
        )
    return Column(words[0], KINDS[kind], kind, nullable)


def _parse_foreign_key(words: list[str]) -> ForeignKey:
    parent, column = words[words.index("->") + 1].split(".")
    action = next((rule for word, rule in RULES.items() if word in words), "RESTRICT")
    return ForeignKey("fk", (words[0],), TableName("s", parent), (column,), action, action)


def parse_changes(tables: dict[str, TableSchema], line: str) -> Changes:
    op, name, rest = (*line.split(" ", 2), "")[:3]
    before, _, after = rest.removesuffix("!").partition(" -> ")
    first, second = _parse_rows(before), _parse_rows(after)
    rows = {
        Op.INSERT: ((), first),
        Op.UPDATE: (first, second),
        Op.DELETE: (first, ()),
        Op.TRUNCATE: ((), ()),
    }[Op[op.upper()]]
    return Changes(tables[name], Op[op.upper()], *rows, no_foreign_key_checks=rest.endswith("!"))


def _parse_rows(text: str) -> list[Row]:
    values: list[Any] = list(ast.literal_eval(f"[{text.replace('…', '...')}]"))
    return [tuple(UNCHANGED if value is ... else value for value in row) for row in values]


def run_case(comments: list[str]) -> Iterator[Packet]:
    tables: dict[str, TableSchema] = {}
    options: dict[str, Any] = {}
    limits: dict[str, Any] = {"max_packet": 1 << 20, "local_infile": True, "load_rows": 3}
    changes: list[Changes] = []
    for line in comments:
        if match := re.fullmatch(r"table (\w+): (.*)", line):
            tables[match[1]] = parse_table(match[1], match[2])
        elif line.startswith("settings: "):
            for word in line.split()[1:]:
                options |= SETTINGS.get(word, {})
                limits |= {"local_infile": False} if word == "no_load" else {}
        else:
            changes.append(parse_changes(tables, line))
    if options.pop("descents", False):
        options["descents"] = build_descents(tables.values())
    settings = PlanSettings(parents=build_edges(tables.values()), **options)
    return build_packets(build_plan(changes, settings), Limits(**limits))


def show(packets: Iterator[Packet]) -> str:
    lines: list[str] = []
    for packet in packets:
        lines += ["", *(part + ";" for part in packet.sql.decode(errors="backslashreplace").split(";"))]
        lines += [f"-- body: {block!r}" for block in packet.body or ()]
    return "\n".join(lines).strip() + "\n"


def read_case(path: Path) -> tuple[list[str], str]:
    head, _, sql = path.read_text().partition("\n\n")
    return [line.removeprefix("-- ") for line in head.splitlines() if not line.startswith("---")], sql


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_changes_become_this_sql(path: Path) -> None:
    comments, sql = read_case(path)
    assert show(run_case(comments)) == sql


def test_there_are_cases() -> None:
    assert len(CASES) > 10
