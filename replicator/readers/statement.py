"""What a Query event means for the selected tables (pure; SEMANTICS §1.3).

The head of a statement (verb, object, the tables of table DDL) is read by a scanner of our own, because sqlglot hands
RENAME, REPLACE and MariaDB's syntax back as opaque commands; the tables inside DML are sqlglot's to find. What neither
can read pauses every selected table that the text names, and stops the source when it names none (I7).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Set
from typing import Final, NamedTuple

from pymysql.charset import charset_by_id

from replicator.model import TableName


class Meaning(enum.Enum):
    """What the reader does about a statement."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"  # ``name`` is set
    ROLLBACK_TO = "rollback_to"  # ``name`` is set
    XA = "xa"  # ``name`` is the verb: START, END, PREPARE, COMMIT, ROLLBACK
    SKIP = "skip"  # no row of a selected table can have changed; counted
    TRUNCATE = "truncate"  # of the one table in ``tables``
    SCHEMA_CHANGE = "schema_change"  # of ``tables``, each selected
    STOP = "stop"  # cannot be expressed as rows: ``reason`` says why


class Verdict(NamedTuple):
    """``tables`` are selected tables; ``verb`` is what a skipped statement is counted under; ``others`` are the tables
    that skipped DML names.
    """

    meaning: Meaning
    verb: str = ""
    tables: tuple[TableName, ...] = ()
    reason: str = ""
    name: str = ""
    others: tuple[TableName, ...] = ()


BEGIN: Final = Verdict(Meaning.BEGIN, "BEGIN")
COMMIT: Final = Verdict(Meaning.COMMIT, "COMMIT")
ROLLBACK: Final = Verdict(Meaning.ROLLBACK, "ROLLBACK")

_FIXED: Final = {b"BEGIN": BEGIN, b"START TRANSACTION": BEGIN, b"COMMIT": COMMIT, b"ROLLBACK": ROLLBACK}

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|/\*(?!M?!).*?\*/|\#[^\n]*|--(?=[\s]|$)[^\n]*|/\*M?![0-9]*|\*/)"""
    r"""|(?P<quoted>`(?:[^`]|``)*`)"""
    r"""|(?P<string>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")"""
    r"""|(?P<word>[0-9A-Za-z$_\u0080-\U0010ffff\udc80-\udcff]+)"""
    r"""|(?P<other>.)""",
    re.DOTALL,
)
_EXECUTABLE: Final = re.compile(r"/\*M?![0-9]*(.*?)\*/", re.DOTALL)

_DML: Final = frozenset(
    {"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "WITH", "SELECT", "CALL", "DO", "HANDLER", "MERGE"}
)
_HARMLESS: Final = frozenset(
    {
        "ANALYZE", "BINLOG", "CACHE", "CHANGE", "CHECK", "CHECKSUM", "CLONE", "DEALLOCATE", "EXPLAIN", "FLUSH", "GRANT",
        "HELP", "INSTALL", "KILL", "LOCK", "OPTIMIZE", "PURGE", "RELEASE", "REPAIR", "RESET", "RESTART", "REVOKE", "SET",
        "SHOW", "SHUTDOWN", "SIGNAL", "START", "STOP", "UNINSTALL", "UNLOCK", "USE",
    }
)  # fmt: skip
_OTHER_OBJECTS: Final = frozenset(
    {
        "AGGREGATE", "EVENT", "FUNCTION", "INSTANCE", "LIBRARY", "LOGFILE", "PACKAGE", "PROCEDURE", "RESOURCE", "ROLE",
        "REFERENCE", "SEQUENCE", "SERVER", "TABLESPACE", "TRIGGER", "UNDO", "USER", "VIEW",
    }
)  # fmt: skip
_MODIFIERS: Final = frozenset(
    {"ONLINE", "OFFLINE", "IGNORE", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "EXTERNAL"}
)


class _Token(NamedTuple):
    kind: str  # quoted | string | word | other
    text: str
    start: int  # its offset in the statement

    @property
    def word(self) -> str:
        """The word in capitals; '' for anything else."""
        return self.text.upper() if self.kind == "word" else ""


class _Unreadable(Exception):
    """The scanner met something it does not know."""


def decode_statement(statement: bytes, charset: int | None) -> str:
    """A statement's text; ``charset`` is the collation id of the client's character set.

    Bytes outside it become what no table name contains, so that the rest can still be judged.
    """
    try:
        return statement.decode("utf8")
    except UnicodeDecodeError:
        pass
    try:
        return statement.decode(charset_by_id(charset).encoding or "latin1", "surrogateescape")
    except (KeyError, LookupError, TypeError, AttributeError):
        return statement.decode("utf8", "surrogateescape")


def classify(
    statement: bytes, schema: str, selected: Set[TableName], *, charset: int | None = None, fold: bool = False
) -> Verdict:
    """Judge one statement whose default schema is ``schema``. ``fold``: the server compares names without case."""
    fixed = _FIXED.get(statement)
    if fixed is not None:
        return fixed
    text = decode_statement(statement, charset)
    if statement.startswith(b"SAVEPOINT "):
        return Verdict(Meaning.SAVEPOINT, "SAVEPOINT", name=_unquote(text[10:].strip()))
    if statement.startswith(b"ROLLBACK TO "):
        return Verdict(Meaning.ROLLBACK_TO, "ROLLBACK", name=_unquote(text[12:].strip()))
    return _Judge(text, schema, selected, fold).judge()


def _unquote(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name


def _tokenize(text: str) -> list[_Token]:
    return [
        _Token(m.lastgroup or "", m[0], m.start()) for m in _TOKEN.finditer(text) if m.lastgroup != "space"
    ]


class _Judge:
    """One pass over the tokens of one statement."""

    def __init__(self, text: str, schema: str, selected: Set[TableName], fold: bool) -> None:
        self._text = text
        self._tokens = _tokenize(text)
        self._at = 0
        self._start = 0  # the token of the verb
        self._schema = schema
        self._fold = fold
        self._selected = selected

    def judge(self) -> Verdict:
        try:
            return self._judge_verb()
        except _Unreadable:
            self._at = self._start
            return self._judge_text(self._word())

    def _judge_verb(self) -> Verdict:
        verb, self._start = self._word(), self._at
        self._at += 1
        if verb == "XA":
            return Verdict(Meaning.XA, "XA", name=self._word())
        if verb in _DML:
            return self._judge_dml(verb)
        if verb == "SET" and self._skip("STATEMENT"):
            return self._judge_prefixed()
        if verb in _HARMLESS:
            return Verdict(Meaning.SKIP, verb)
        if verb == "TRUNCATE":
            self._skip("TABLE")
            return self._change(verb, [self._take_name()], Meaning.TRUNCATE)
        if verb == "RENAME":
            return self._judge_rename()
        if verb in ("CREATE", "DROP", "ALTER"):
            return self._judge_ddl(verb)
        raise _Unreadable

    def _judge_prefixed(self) -> Verdict:
        """MariaDB's ``SET STATEMENT variable = value FOR statement``."""
        while self._at < len(self._tokens):
            if self._skip("FOR"):
                return self._judge_verb()
            self._at += 1
        raise _Unreadable

    # -- DDL ------------------------------------------------------------------------------------------------------------

    def _judge_ddl(self, verb: str) -> Verdict:
        is_replace = self._skip("OR", "REPLACE")
        is_temporary = self._skip("TEMPORARY")
        while self._word() in _MODIFIERS:
            self._at += 1
        kind = self._word()
        if kind in ("TABLE", "TABLES"):
            self._at += 1
            return (
                Verdict(Meaning.SKIP, f"{verb} TEMPORARY")
                if is_temporary
                else self._judge_table(verb, is_replace)
            )
        if kind == "INDEX":
            return self._judge_index(verb)
        if kind in ("DATABASE", "SCHEMA"):
            return self._judge_database(verb)
        if self._is_other_object():
            return Verdict(Meaning.SKIP, f"{verb} {kind}")
        raise _Unreadable

    def _judge_table(self, verb: str, is_replace: bool) -> Verdict:
        self._skip("IF", "NOT", "EXISTS")
        is_conditional = self._tokens[self._at - 1].word == "EXISTS" and verb == "CREATE"
        self._skip("IF", "EXISTS")
        if verb == "DROP":
            return self._change("DROP TABLE", self._take_names())
        name = self._take_name()
        if verb == "CREATE":
            # An existing table that is selected is left alone by IF NOT EXISTS.
            return self._change("CREATE TABLE", [] if is_conditional and not is_replace else [name])
        return self._change("ALTER TABLE", [name, *self._other_names_of_alter()])

    def _other_names_of_alter(self) -> Iterator[TableName]:
        """The table that a RENAME makes, the one a partition is exchanged with or converted from or to."""
        while self._at < len(self._tokens):
            is_rename = self._skip("RENAME", "TO") or self._skip("RENAME", "AS")
            if (
                is_rename
                or self._skip("WITH", "TABLE")
                or self._skip("TO", "TABLE")
                or self._skip("CONVERT", "TABLE")
            ):
                yield self._take_name()
            elif self._word() == "RENAME" and self._word(1) not in ("COLUMN", "INDEX", "KEY"):
                self._at += 1
                self._skip_character("=")
                yield self._take_name()
            else:
                self._at += 1

    def _judge_index(self, verb: str) -> Verdict:
        while self._at < len(self._tokens):
            if self._skip("ON"):
                return self._change(f"{verb} INDEX", [self._take_name()])
            self._at += 1
        raise _Unreadable

    def _judge_database(self, verb: str) -> Verdict:
        self._at += 1
        self._skip("IF", "EXISTS")
        if verb != "DROP":
            return Verdict(Meaning.SKIP, f"{verb} DATABASE")
        schema = self._fold_name(self._take_identifier())
        gone = sorted(t for t in self._selected if self._fold_name(t.schema) == schema)
        return self._change("DROP DATABASE", gone)

    def _judge_rename(self) -> Verdict:
        if self._word() in ("USER", "ROLE"):
            return Verdict(Meaning.SKIP, "RENAME USER")
        if not (self._skip("TABLE") or self._skip("TABLES")):
            raise _Unreadable
        names = []
        while True:
            self._skip("IF", "EXISTS")
            names.append(self._take_name())
            while self._word() in ("WAIT", "NOWAIT") or self._word().isdecimal():
                self._at += 1
            if not self._skip("TO"):
                raise _Unreadable
            names.append(self._take_name())
            if not self._skip_character(","):
                return self._change("RENAME TABLE", names)

    def _is_other_object(self) -> bool:
        """Whether this creates a view, routine, trigger, account…: their options may stand before the word."""
        for token in self._tokens[self._at : self._at + 24]:
            if token.word in ("TABLE", "INDEX"):
                return False
            if token.word in _OTHER_OBJECTS:
                return True
        return False

    def _change(
        self, verb: str, names: Iterable[TableName], meaning: Meaning = Meaning.SCHEMA_CHANGE
    ) -> Verdict:
        tables = self._find_selected(names)
        if not tables:
            return Verdict(Meaning.SKIP, verb)
        return Verdict(meaning, verb, tables, f"{verb} at the source")

    # -- DML ------------------------------------------------------------------------------------------------------------

    def _judge_dml(self, verb: str) -> Verdict:
        names = self._dml_names(verb)
        tables = self._find_selected(names)
        if tables:
            named = ", ".join(str(t) for t in tables)
            return Verdict(
                Meaning.STOP, verb, tables, f"{verb} on {named} was logged as a statement, not as rows"
            )
        return Verdict(Meaning.SKIP, verb, others=tuple(names))

    def _dml_names(self, verb: str) -> list[TableName]:
        if verb == "LOAD":
            while self._at < len(self._tokens):
                if self._skip("INTO", "TABLE"):
                    return [self._take_name()]
                self._at += 1
            raise _Unreadable
        if verb not in ("INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"):
            raise _Unreadable  # a routine may write to anything
        text = self._text[self._tokens[self._start].start :]
        text = _EXECUTABLE.sub(r" \1 ", text)
        if verb == "REPLACE":
            text = re.sub(
                r"^(\s*)REPLACE(\s+DELAYED|\s+LOW_PRIORITY)?", r"\1INSERT", text, flags=re.IGNORECASE
            )
        import sqlglot  # noqa: PLC0415 (a tenth of the start-up, for a statement that most logs never hold)
        from sqlglot import exp  # noqa: PLC0415

        try:
            trees = sqlglot.parse(text, dialect="mysql")
        except sqlglot.errors.SqlglotError:
            raise _Unreadable from None
        names = [
            TableName(table.db or self._schema, table.name)
            for tree in trees
            if tree is not None
            for table in tree.find_all(exp.Table)
        ]
        if not names or any(isinstance(tree, exp.Command) for tree in trees):
            raise _Unreadable
        return names

    # -- what cannot be read --------------------------------------------------------------------------------------------

    def _judge_text(self, verb: str) -> Verdict:
        tables = self._find_selected(self._mentioned())
        reason = f"{verb or 'an empty'} statement that this version cannot read"
        if verb in _DML or not tables:
            return Verdict(Meaning.STOP, verb, tables, reason)
        return Verdict(Meaning.SCHEMA_CHANGE, verb, tables, reason)

    def _mentioned(self) -> Iterator[TableName]:
        """Every name in the text that could be a table."""
        for at in range(len(self._tokens)):
            self._at = at
            try:
                yield self._take_name()
            except _Unreadable:
                continue

    # -- tokens ---------------------------------------------------------------------------------------------------------

    def _word(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].word if at < len(self._tokens) else ""

    def _skip(self, *words: str) -> bool:
        """Step over these words, if they come next."""
        if any(self._word(ahead) != word for ahead, word in enumerate(words)):
            return False
        self._at += len(words)
        return True

    def _skip_character(self, character: str) -> bool:
        is_next = self._at < len(self._tokens) and self._tokens[self._at].text == character
        self._at += is_next
        return is_next

    def _take_identifier(self) -> str:
        if self._at >= len(self._tokens):
            raise _Unreadable
        token = self._tokens[self._at]
        if token.kind not in ("quoted", "word") and not token.text.startswith('"'):
            raise _Unreadable
        self._at += 1
        if token.kind == "string":  # ANSI_QUOTES
            return token.text[1:-1].replace('""', '"')
        return _unquote(token.text)

    def _take_name(self) -> TableName:
        first = self._take_identifier()
        if self._skip_character("."):
            return TableName(first, self._take_identifier())
        return TableName(self._schema, first)

    def _take_names(self) -> list[TableName]:
        names = [self._take_name()]
        while self._skip_character(","):
            names.append(self._take_name())
        return names

    def _fold_name(self, name: str) -> str:
        return name.casefold() if self._fold else name

    def _find_selected(self, names: Iterable[TableName]) -> tuple[TableName, ...]:
        """Those of ``names`` that are selected, as the selection spells them."""
        if not self._fold:
            return tuple(dict.fromkeys(n for n in names if n in self._selected))
        known = {TableName(t.schema.casefold(), t.table.casefold()): t for t in self._selected}
        folded = (TableName(n.schema.casefold(), n.table.casefold()) for n in names)
        return tuple(dict.fromkeys(known[n] for n in folded if n in known))
