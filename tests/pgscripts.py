"""The SQL files of PostgreSQL that ``tests.replay`` runs: read as psql would, beside ``scripts``, which divides them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.scripts import Grammar, Script

_WHOLE = ("northwind", "pgcopydb", "wal2json", "postgres-core")
"""Folders with nothing but PostgreSQL; those of the others say so in their path."""
_MIXED = ("chinook", "debezium", "flink-cdc")

# --- psql -------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<quoted>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"
    r"|(?P<comment>--[^\n]*|/\*.*?\*/)"
    r"|(?P<variable>(?<!:):(?:'(?P<literal>\w+)'|\"(?P<identifier>\w+)\"|(?P<plain>\w+)))"
    r"|(?P<command>\\[^\n]*)"
    r"|(?P<word>[^\W\d][\w$]*)",
    re.DOTALL,
)
_COPY = re.compile(r"(?is)(COPY\b.*\bFROM\s+STDIN\b.*)")
_SENDS = re.compile(r"\\(g|gx|gset|gexec|gdesc|crosstabview|watch)\b")
COPY_DATA = "\n\\.\n"
"""Between a COPY and the lines that a file has for it."""


GIVEN = {"pgcopydb/tests/follow-data-only": {"a": "1", "b": "100"}}
"""What a test hands over on psql's command line."""


@dataclass
class _Reader:
    """Reads a script from its first character to its last."""

    text: str
    variables: dict[str, str]
    at: int = 0

    def __post_init__(self) -> None:
        self._parts: list[str] = []
        self._depth = 0

    def read(self) -> Iterator[str]:
        """Statements; a command of psql itself that is more than a variable comes as it stands, with its backslash."""
        while self.at < len(self.text):
            match = _TOKEN.match(self.text, self.at)
            if match is None:
                yield from self._take_character()
                continue
            self.at = match.end()
            if match["command"]:
                yield from self._obey(match["command"].strip())
            elif not match["comment"]:
                self._parts.append(self._expand(match) if match["variable"] else match[0])
            else:
                self._parts.append(" ")
        yield from self._end()

    def _take_character(self) -> Iterator[str]:
        character = self.text[self.at]
        self.at += 1
        self._depth += {"(": 1, ")": -1}.get(character, 0)
        if character == ";" and self._depth <= 0:
            yield from self._end()
        else:
            self._parts.append(character)

    def _end(self) -> Iterator[str]:
        statement = "".join(self._parts).strip()
        self._parts, self._depth = [], 0
        if _COPY.fullmatch(statement):
            yield statement + COPY_DATA + self._take_data()
        elif statement:
            yield statement

    def _take_data(self) -> str:
        """The lines after a COPY, up to one that is a backslash and a dot."""
        begin = self.text.find("\n", self.at) + 1
        end = re.compile(r"^\\\.\r?$\n?", re.MULTILINE).search(self.text, begin)
        self.at = end.end() if end else len(self.text)
        return self.text[begin : end.start() if end else len(self.text)]

    def _obey(self, command: str) -> Iterator[str]:
        variable = re.fullmatch(r"\\set\s+(\w+)\s*(.*)", command)
        if variable:
            self.variables[variable[1]] = variable[2].strip().strip("'")
        elif _SENDS.match(command):
            yield from self._end()
            if not re.match(r"\\gx?\b", command):
                yield command
        elif not re.match(r"\\(c|connect|echo|qecho|warn|timing|pset|x|a|t|encoding)\b", command):
            yield command

    def _expand(self, match: re.Match[str]) -> str:
        name = match["literal"] or match["identifier"] or match["plain"]
        value = self.variables.get(name)
        if value is None:
            return match[0]
        quote = "'" if match["literal"] else '"' if match["identifier"] else ""
        return quote + value.replace(quote, quote * 2) + quote if quote else value


def read_statements(text: str, variables: Mapping[str, str] | None = None) -> list[str]:
    """The statements of a script of psql; COPY with its lines is one of them."""
    return list(_Reader(text, dict(variables or {})).read())


# --- how they are divided ---------------------------------------------------------------------------------------------

_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_TABLE = rf"{_NAME}(?:\s*\.\s*{_NAME})?"
_CREATE_TABLE = re.compile(
    rf"(?is)CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<subject>{_TABLE})"
)
_TABLE_DDL = re.compile(
    r"(?is)(?:(?:ALTER|DROP)\s+(?:TABLE|SCHEMA|INDEX|TYPE|DOMAIN)\s+(?:CONCURRENTLY\s+)?(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?"
    rf"|CREATE\s+(?:UNIQUE\s+)?INDEX\b(?:(?!\bON\b).)*\bON\s+(?:ONLY\s+)?)(?P<subject>{_TABLE}(?:\s*,\s*{_TABLE})*)"
)
_DML = re.compile(
    r"(?is)(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY|SELECT|WITH|VALUES|CALL|DO|BEGIN|START|COMMIT|END|ROLLBACK|ABORT"
    r"|SAVEPOINT|RELEASE|PREPARE|EXECUTE|REFRESH)\b"
)


def _subject(statement: str) -> str:
    match = _CREATE_TABLE.match(statement) or _TABLE_DDL.match(statement)
    assert match is not None
    return match["subject"]


def _enter(statement: str, schema: str) -> str:
    match = re.match(r"(?is)SET\s+(?:SESSION\s+)?search_path\s*(?:TO|=)\s*[\"']?([^\"',;\s]+)", statement)
    return match[1].lower() if match else schema


POSTGRES = Grammar(
    schema="public",
    create_table=_CREATE_TABLE,
    table_ddl=_TABLE_DDL,
    subject=_subject,
    dml=_DML,
    makes=re.compile(
        r"(?is)(CREATE\s+(OR\s+REPLACE\s+)?(DATABASE|SCHEMA|TYPE|DOMAIN|EXTENSION|SEQUENCE|FUNCTION|PROCEDURE|COLLATION)"
        r"|ALTER\s+SEQUENCE|COMMENT|LOAD)\b"
    ),
    keys=re.compile(
        rf"(?is)ALTER\s+TABLE\s+(?:ONLY\s+)?{_TABLE}\s+ADD\s+(CONSTRAINT\s+{_NAME}\s+)?PRIMARY\s+KEY\b"
    ),
    keeps_place=re.compile(r"(?i)(SET|RESET)\b"),
    names=re.compile(r'"((?:[^"]|"")+)"|\b([\w$]+)\b'),
    enter=_enter,
)


@dataclass
class PostgresScript(Script):
    """One file, or the files of one test."""

    def statements(self) -> list[str]:
        texts = (path.read_bytes().decode("utf-8", "surrogateescape") for path in self.paths)
        return [statement for text in texts for statement in read_statements(text, GIVEN.get(self.name))]


def find_scripts(folder: Path, words: Sequence[str]) -> list[Script]:
    """Of these folders; a test of pgcopydb is what its folder holds, and Debezium's rows come after their tables."""
    scripts: dict[str, Script] = {}
    for top in (*_WHOLE, *_MIXED):
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            is_ours = top in _WHOLE or "postgre" in name.lower()
            if path.suffix not in (".sql", ".ddl") or not is_ours:
                continue
            key = str(path.parent.relative_to(folder)) if top == "pgcopydb" else name
            scripts.setdefault(key, PostgresScript(key, [], POSTGRES)).paths.append(path)
    resources = folder / "debezium/debezium-connector-postgres/src/test/resources"
    for name, script in scripts.items():
        script.paths.sort(key=lambda path: ("stmt" in path.name, "dml" in path.name, path.name))
        if name.endswith("AbstractRecordsProducerTest.sql"):
            script.paths.insert(0, resources / "postgres_create_tables.ddl")
        if script.paths[0].name == "postgres_create_tables.ddl":
            script.paths.insert(0, resources / "init_database.ddl")
    return [script for script in scripts.values() if all(word in script.name for word in words)]
