"""YAML with positions: the first step of reading a pipeline file, below config.py, which knows the keys.

The tree is built from PyYAML's parser events, never by its constructors: every scalar stays the text that was
written (``on``, ``22:22``, ``1e3`` and ``012`` are text), every node knows its line and column, and what a
pipeline file has no use for (aliases, tags, merge keys, several documents) is refused by name. Messages never
quote a value: it may be a password in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import yaml

from replicator.errors import Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)\}|\$\{")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file: 1-based line and column, in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text; ``plain`` where it was written without quotes, so it may mean a number, a boolean or null."""

    text: str
    plain: bool
    mark: Mark

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class MappingNode:
    items: tuple[tuple[Scalar, Node], ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class SequenceNode:
    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class BrokenNode:
    """Stands where a node was refused; its problem is already recorded, so nothing more is said about it."""

    mark: Mark


Node: TypeAlias = Scalar | MappingNode | SequenceNode | BrokenNode


class Invalid(Exception):
    """A value cannot be used; the document holds its problem, and reading goes on behind it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar after its references were replaced; ``is_literal`` where it had none."""

    value: str
    plain: bool
    is_literal: bool


class Document:
    """One file being read: its problems and warnings so far, and where its references lead."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self.path = path
        self.file = str(path)
        self.env = env
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def build_problem(self, mark: Mark, where: str, message: str, suggestion: str = "") -> Problem:
        text = f"{where}: {message}" if where else message
        return Problem(self.file, mark.line, mark.column, _escape(text), _escape(suggestion))

    def report(self, mark: Mark, where: str, message: str, suggestion: str = "") -> Invalid:
        """Record a problem; raise the result where reading this value cannot go on."""
        self.problems.append(self.build_problem(mark, where, message, suggestion))
        return Invalid()

    def warn(self, mark: Mark, where: str, message: str, suggestion: str = "") -> None:
        self.warnings.append(self.build_problem(mark, where, message, suggestion))

    def parse(self) -> Node:
        """The file's only document. Raises Invalid where there is none; the problem is recorded."""
        text = self._read_text()
        try:
            return _Builder(self, text).build_document()
        except yaml.reader.ReaderError as error:
            mark = _mark_at(text, error.position)
            raise self.report(mark, "", "a character that YAML does not allow", "remove it") from None
        except yaml.MarkedYAMLError as error:
            raise self._report_syntax(error) from None
        except (ValueError, OverflowError):
            # PyYAML lets chr() and int() fail on escapes and version numbers out of range.
            raise self.report(Mark(1, 1), "", "an escape or %YAML directive out of range") from None

    def _read_text(self) -> str:
        start = Mark(1, 1)
        try:
            with self.path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a path"
            raise self.report(start, "", f"cannot be read: {reason}", "check the path") from None
        if len(data) > MAX_BYTES:
            raise self.report(start, "", f"larger than {MAX_BYTES} bytes", "is this a pipeline file?")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8-sig", "replace")
            mark = _mark_at(before, len(before))
            raise self.report(mark, "", "not UTF-8", "save the file as UTF-8") from None

    def _report_syntax(self, error: yaml.MarkedYAMLError) -> Invalid:
        where = error.problem_mark or error.context_mark
        mark = Mark(where.line + 1, where.column + 1) if where else Mark(1, 1)
        # PyYAML's own snippet, and the handles it quotes, can hold a password; only token names and
        # characters stay.
        what = re.sub(r"'(?!<)[^']{3,}'", "'…'", error.problem or "not YAML")
        context = f"{error.context}, " if error.context and "'" not in error.context else ""
        return self.report(mark, "", f"YAML syntax: {context}{what}", _suggest_syntax(what))

    def expand(self, node: Scalar, where: str) -> Text:
        """Replace ``${env:NAME}`` and ``${file:PATH}``; ``$${`` stands for the characters ``${``."""
        parts: list[str] = []
        end = 0
        is_literal = True
        for match in _REFERENCE.finditer(node.text):
            parts.append(node.text[end : match.start()])
            end = match.end()
            if match[0] == "$${":
                parts.append("${")
                continue
            is_literal = False
            parts.append(self._resolve(match["body"] or "", node.mark, where))
        value = "".join([*parts, node.text[end:]])
        self._check_text(value, node.mark, where)
        return Text(value, node.plain or not is_literal, is_literal)

    def _resolve(self, body: str, mark: Mark, where: str) -> str:
        source, _, name = body.partition(":")
        if source == "env" and _VARIABLE.fullmatch(name):
            if name not in self.env:
                raise self.report(mark, where, f"environment variable {name} is not set", f"export {name}=…")
            return self.env[name]
        if source == "file" and name:
            return self._read_reference(name, mark, where)
        message = 'a "${" that begins neither ${env:NAME} nor ${file:PATH}'
        raise self.report(mark, where, message, 'write "$${" for the characters themselves')

    def _read_reference(self, name: str, mark: Mark, where: str) -> str:
        path = self.resolve_path(name)
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise self.report(
                    mark, where, f"{path} is larger than {MAX_BYTES} bytes", "is it the right file?"
                )
            text = data.decode("utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            message = f"{path} cannot be read: {reason}"
            raise self.report(mark, where, message, "check the path and its permissions") from None
        return text.removesuffix("\n").removesuffix("\r")

    def resolve_path(self, name: str) -> Path:
        """A path as written in the file: relative ones start at the file's own directory."""
        return self.path.parent / name

    def _check_text(self, value: str, mark: Mark, where: str) -> None:
        if "\0" in value or not _is_encodable(value):
            raise self.report(
                mark, where, "holds a NUL or a byte that is not UTF-8", "write it as UTF-8 text"
            )


class _Builder:
    """Turns parser events into nodes; recursion is bounded by MAX_DEPTH."""

    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.BaseLoader))

    def build_document(self) -> Node:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise self._document.report(
                Mark(1, 1), "", "the file is empty", 'it begins with "pipeline: NAME"'
            )
        root = self._build_node(next(self._events), 0)
        next(self._events)  # the end of the document
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            suggestion = "one file holds one pipeline"
            self._document.report(_mark(following), "", "a second YAML document starts here", suggestion)
        for _ in self._events:  # syntax errors behind it are still worth a word
            pass
        return root

    def _build_node(self, event: yaml.Event, depth: int) -> Node:
        mark = _mark(event)
        if depth > MAX_DEPTH:
            raise self._document.report(mark, "", "nested too deeply", "a pipeline file has four levels")
        if isinstance(event, yaml.AliasEvent):
            self._refuse(mark, "YAML aliases (*name) are not supported")
            return BrokenNode(mark)
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self._refuse(mark, "YAML anchors (&name) are not supported")
        node = self._build_content(event, mark, depth)
        if getattr(event, "tag", None) is not None:
            self._refuse(mark, "YAML tags (!name) are not supported")
            return BrokenNode(mark)
        return node

    def _build_content(self, event: yaml.NodeEvent, mark: Mark, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, event.style is None or event.style == "", mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._build_node(item, depth + 1))
            return SequenceNode(tuple(items), mark)
        return self._build_mapping(mark, depth)

    def _build_mapping(self, mark: Mark, depth: int) -> MappingNode:
        items: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._build_node(event, depth + 1)
            value = self._build_node(next(self._events), depth + 1)
            if not self._is_key(key):
                continue
            assert isinstance(key, Scalar)
            if (first := items.get(key.text)) is not None:
                message = f'duplicate key "{key.text}", first on line {first[0].mark.line}'
                self._document.report(key.mark, "", message, "keep one of them")
                continue
            items[key.text] = (key, value)
        return MappingNode(tuple(items.values()), mark)

    def _is_key(self, key: Node) -> bool:
        if isinstance(key, BrokenNode):
            return False
        if not isinstance(key, Scalar) or not key.text:
            self._document.report(
                key.mark, "", "a key must be text", 'a glob that begins with "*" needs quotes'
            )
            return False
        if "${" in key.text or not _is_encodable(key.text) or "\0" in key.text:
            self._document.report(
                key.mark, "", "a key cannot hold a reference or a NUL", "write the name itself"
            )
            return False
        return True

    def _refuse(self, mark: Mark, message: str) -> None:
        self._document.report(mark, "", message, "write the value out, or quote it if it is text")


def _mark(event: yaml.Event) -> Mark:
    start = event.start_mark
    assert start is not None  # every event of a parser has one
    return Mark(start.line + 1, start.column + 1)


def _mark_at(text: str, index: int) -> Mark:
    before = text[:index]
    return Mark(before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


def _escape(text: str) -> str:
    """A key's control characters must reach no terminal, and a message is one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_encodable(text: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def _suggest_syntax(what: str) -> str:
    if "\\t" in what:
        return "indent with spaces, never with tabs"
    if "cannot start any token" in what:
        return "quote a value that begins with a special character"
    if "mapping values are not allowed" in what:
        return "check the indentation, and quote a value that holds ': '"
    return "check the indentation, the quotes and the colons around this place"
