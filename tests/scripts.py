"""The SQL files that ``tests.replay`` runs: found, cut into statements, and divided at each table's changes of schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (
    "sakila",
    "chinook",
    "debezium",
    "pymysqlreplication",
    "go-mysql",
    "tidb-dm",
    "maxwell",
    "flink-cdc",
    "gh-ost",
)

_TABLE_DDL = re.compile(
    r"(?is)\s*(ALTER\s+TABLE|DROP\s+TABLE|RENAME|TRUNCATE|(CREATE|DROP)\s+[A-Z ]*INDEX|DROP (DATABASE|SCHEMA))"
)
CREATE_TABLE = re.compile(
    r"(?is)\s*CREATE\s+(OR\s+REPLACE\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?((?:`[^`]+`|[\w$]+)(?:\s*\.\s*(?:`[^`]+`|[\w$]+))?)"
)
_DML = re.compile(r"(?is)\s*(INSERT|UPDATE|DELETE|REPLACE|CALL|WITH|BEGIN|START)\b")
_EVENT = re.compile(r"(?is)\s*CREATE\s+EVENT\s.*?\bDO\b\s*(.*)")


@dataclass(frozen=True)
class Grammar:
    """What a product's statements look like, as far as they are divided; ``schema`` is the one a session begins in."""

    schema: str
    create_table: re.Pattern[str]
    table_ddl: re.Pattern[str]
    subject: Callable[[str], str]
    """The part of such a statement that names its tables."""
    dml: re.Pattern[str]
    makes: re.Pattern[str]
    """Makes what tables need."""
    keys: re.Pattern[str]
    """Gives a table its key after its first rows, as a dump does: belongs to the table's making."""
    keeps_place: re.Pattern[str]
    """Holds for all that follows, wherever that is run."""
    names: re.Pattern[str]
    enter: Callable[[str, str], str]
    """The schema that is current after a statement."""

    def is_ddl(self, statement: str) -> bool:
        return bool(self.create_table.match(statement) or self.table_ddl.match(statement))

    def names_of(self, text: str, schema: str) -> set[str]:
        """Every word that may name a table, with its schema."""
        words = {f"{schema}.{(a or b).lower()}" for a, b in self.names.findall(text)}
        name = self.names.pattern
        qualified = re.compile(rf"(?:{name})\s*\.\s*(?:{name})")
        pairs = {f"{(a or b).lower()}.{(c or d).lower()}" for a, b, c, d in qualified.findall(text)}
        return words - {f"{schema}.{word}" for word in _KEYWORDS} | pairs


_KEYWORDS = frozenset(
    "table alter drop if exists create index on add column insert into values set not null int".split()  # noqa: SIM905
)
NEVER = re.compile(r"(?!)")
_DROP = re.compile(r"(?i)DROP\b")


def _subject(statement: str) -> str:
    create = CREATE_TABLE.match(statement)
    return create[2] if create else statement[:200]


def _enter_database(statement: str, database: str) -> str:
    match = re.match(r"(?is)\s*USE\s+`?([^`;\s]+)", statement)
    return match[1].lower() if match else database


MYSQL = Grammar(
    schema="replay",
    create_table=CREATE_TABLE,
    table_ddl=_TABLE_DDL,
    subject=_subject,
    dml=_DML,
    makes=re.compile(r"(?i)\s*CREATE (DATABASE|SCHEMA)"),
    keys=NEVER,
    keeps_place=re.compile(r"(?i)\s*(USE|SET)\b"),
    names=re.compile(r"`([^`]+)`|\b([\w$]+)\b"),
    enter=_enter_database,
)


def unwrap(statement: str) -> str:
    """Without leading comments, and out of a comment that only some versions execute."""
    text = re.sub(r"(?s)\A(\s|--[^\n]*(\n|\Z)|#[^\n]*(\n|\Z)|/\*(?![!M]).*?\*/)+", "", statement)
    match = re.fullmatch(r"(?s)/\*M?!\d*\s(.*)\*/\s*", text)
    return match[1] if match else text


def split(text: str) -> Iterator[str]:
    """The statements of a script, as a client would cut it: quotes, comments and DELIMITER heeded."""
    end, start, at = ";", 0, 0
    token = re.compile(
        r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`|--[ \t\n][^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL
    )
    while at < len(text):
        if text[at : at + 9].lower() == "delimiter" and not unwrap(text[start:at]).strip():
            line = text[at:].split("\n", 1)[0]
            end, start = line.split()[1], at + len(line)
            at = start
        elif text.startswith(end, at):
            yield text[start:at]
            at = start = at + len(end)
        else:
            match = token.match(text, at)
            at = match.end() if match else at + 1
    yield text[start:]


def read_statements(path: Path) -> list[str]:
    """Statements of one file; a file without semicolons has one on each line, or is one."""
    text = (
        path.read_text("utf-8", "replace") if path.stat().st_size < 10_000_000 else path.read_text("latin-1")
    )
    if ";" in text:
        found = list(split(text))
    elif path.parent.name in ("ddl", "rows", "serialization"):
        found = text.splitlines()
    else:
        found = text.split("\n\n") if "serialization" in str(path) else re.split(r"\n(?=CREATE|DROP)", text)
    return [statement for part in found if (statement := unwrap(part).strip())]


@dataclass
class Script:
    """What is replayed together: one file, or what one source of a test of tidb-dm executes."""

    name: str
    paths: list[Path]
    grammar: Grammar

    def divide(self) -> tuple[list[str], list[str], list[str]]:
        """What makes the tables; what the stream brings up to each one's first change of schema; and the rest."""
        first, later = divide(self.statements(), self.grammar)
        return first, *cut(later, self.grammar)

    def before_the_end(self) -> list[str]:
        """All of it, but not the drops that end many a file."""
        statements = self.statements()
        while statements and _DROP.match(statements[-1]):
            statements.pop()
        return statements

    def statements(self) -> list[str]:
        return [one for path in self.paths for text in read_statements(path) for one in run_events(text)]


def run_events(statement: str) -> list[str]:
    """An event that would write for a minute is run three times at once."""
    match = _EVENT.match(statement)
    if match is None:
        return [statement]
    return [
        f"CREATE PROCEDURE replay_event() {match[1]}",
        *["CALL replay_event()"] * 3,
        "DROP PROCEDURE replay_event",
    ]


def find_scripts(folder: Path, words: Sequence[str]) -> list[Script]:
    scripts: dict[str, Script] = {}
    for path in sorted(p for top in FOLDERS for p in (folder / top).rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix not in (".sql", ".ddl") and path.parent.name != "serialization":
            continue
        if not path.is_file() or "postgre" in name.lower() or path.suffix == ".json":
            continue
        pair = re.fullmatch(r"(tidb-dm/.*/data/\w+?)\.(prepare|increment).*\.sql", name)
        key = pair[1] if pair else "sakila" if name.startswith("sakila") else name
        scripts.setdefault(key, Script(key, [], MYSQL)).paths.append(path)
    unique: dict[bytes, Script] = {}
    for script in scripts.values():
        script.paths.sort(key=lambda p: ("data" in p.name, "increment" in p.name, p.name))
        if all(word in script.name for word in words):
            unique.setdefault(b"".join(path.read_bytes() for path in script.paths), script)
    return list(unique.values())


def divide(statements: list[str], grammar: Grammar) -> tuple[list[str], list[str]]:
    """What makes the tables, and what the stream brings: everything from a table's first row on."""
    first: list[str] = []
    rest: list[str] = []
    used: set[str] = set()
    altered: set[str] = set()
    schema = grammar.schema
    for statement in statements:
        schema = grammar.enter(statement, schema)
        if grammar.dml.match(statement):
            used |= grammar.names_of(statement[:2000], schema)
            rest.append(statement)
        elif grammar.keeps_place.match(statement):
            first.append(statement)
            rest.append(statement)
        elif grammar.is_ddl(statement):
            names = grammar.names_of(grammar.subject(statement), schema)
            is_late = bool(names & (altered if grammar.keys.match(statement) else used))
            altered |= names if is_late else set()
            (rest if is_late else first).append(statement)
        else:
            (first if grammar.makes.match(statement) else rest).append(statement)
    return first, rest


def cut(statements: list[str], grammar: Grammar) -> tuple[list[str], list[str]]:
    """Up to the first change of each table's schema, and the rest."""
    changed: set[str] = set()
    keep: list[str] = []
    late: list[str] = []
    schema = grammar.schema
    for statement in statements:
        schema = grammar.enter(statement, schema)
        if grammar.keeps_place.match(statement):
            keep.append(statement)
            late.append(statement)
            continue
        is_ddl = grammar.is_ddl(statement)
        if is_ddl:
            changed |= grammar.names_of(grammar.subject(statement), schema)
        is_late = is_ddl or grammar.names_of(statement[:2000], schema) & changed
        (late if is_late else keep).append(statement)
    return keep, late
