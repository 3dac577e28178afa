"""How a key of the pipeline file is read: the kinds of values, and the sections they stand in.

Every kind knows three things about itself: how to read a node, its JSON Schema, and its name for people. A
key that a section does not know is refused with the nearest known one, because a misspelt option that is
ignored is a wrong mirror.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from replicator.config.yamlfile import (
    BrokenNode,
    Document,
    Invalid,
    MappingNode,
    Mark,
    Node,
    Scalar,
    SequenceNode,
    Text,
)
from replicator.typemap.columntype import parse_type

_SYNONYMS = {
    "hostname": "host",
    "address": "host",
    "username": "user",
    "login": "user",
    "pass": "password",
    "passwd": "password",
    "pwd": "password",
    "db": "database",
    "schema": "database",
    "ssl": "tls",
    "name": "pipeline",
    "target": "to",
    "ignore": "skip",
    "table": "tables",
}
_REFERENCE_SCHEMA = {"type": "string", "pattern": r"\$\{"}


class Secret:
    """A password. Only ``reveal`` shows it; every other way of turning it into text gives ``***``."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        return self.__value

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__value == other.reveal()

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


class Kind(Protocol):
    """A kind of value. ``read`` raises Invalid after it has recorded the problem in the document."""

    @property
    def label(self) -> str: ...

    def schema(self) -> dict[str, Any]: ...

    def read(self, document: Document, node: Node, where: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section: ``doc`` is Markdown for the reference, ``default`` its text where the key may be
    absent.
    """

    name: str
    kind: Kind
    doc: str
    is_required: bool = False
    default: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    value: Any
    mark: Mark


@dataclass(slots=True)
class Values:
    """What a section held. A key whose value was refused is there (``has``) but has no value (``get``)."""

    place: Mark
    items: dict[str, Item] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.items

    def get(self, name: str, default: Any = None) -> Any:
        item = self.items.get(name)
        return default if item is None or item.value is None else item.value

    def mark(self, name: str) -> Mark:
        return self.items[name].mark if name in self.items else self.place

    def section(self, name: str) -> Values:
        value = self.get(name)
        return value if isinstance(value, Values) else Values(self.mark(name))


def read_text(document: Document, node: Node, where: str, label: str) -> Text:
    if not isinstance(node, Scalar):
        _refuse_node(document, node, where, label)
    if node.is_null:
        message = f"has no value; expected {label}"
        raise document.report(node.mark, where, message, 'quote "null" or "~" where it is text')
    return document.expand(node, where)


def _refuse_node(document: Document, node: Node, where: str, label: str) -> NoReturn:
    if isinstance(node, BrokenNode):
        raise Invalid
    found = {MappingNode: "a mapping", SequenceNode: "a list", Scalar: "text"}[type(node)]
    found = "nothing" if isinstance(node, Scalar) and node.is_null else found
    raise document.report(
        node.mark, where, f"expected {label}, found {found}", "see docs/reference/configuration.md"
    )


@dataclass(frozen=True, slots=True)
class Word:
    """A text that matches a pattern as a whole."""

    pattern: str
    label: str

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}  # an editor's YAML sees a number in 012

    def read(self, document: Document, node: Node, where: str) -> str:
        text = read_text(document, node, where, self.label)
        if re.fullmatch(self.pattern, text.value) is None:
            raise document.report(node.mark, where, f"expected {self.label}", "change it, or quote it")
        return text.value


@dataclass(frozen=True, slots=True)
class Password:
    """A secret: its text goes into a Secret and nowhere else."""

    label: str = "a secret"

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}

    def read(self, document: Document, node: Node, where: str) -> Secret:
        text = read_text(document, node, where, self.label)
        if not text.value:
            document.warn(node.mark, where, "is empty", "an account without a password?")
        elif text.is_literal:
            message = "the password stands in the file itself"
            document.warn(node.mark, where, message, "use ${env:NAME} or ${file:PATH}")
        return Secret(text.value)


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path; relative ones start at the pipeline file's directory."""

    label: str = "a path"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}

    def read(self, document: Document, node: Node, where: str) -> Path:
        text = read_text(document, node, where, self.label)
        if not text.value:
            raise document.report(
                node.mark, where, "is empty; expected a path", "remove the key, or name a file"
            )
        return document.resolve_path(text.value)


@dataclass(frozen=True, slots=True)
class Boolean:
    label: str = "true or false"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, _REFERENCE_SCHEMA]}

    def read(self, document: Document, node: Node, where: str) -> bool:
        text = read_text(document, node, where, self.label)
        if text.plain and text.value in {"true", "false"}:
            return text.value == "true"
        suggestion = "true and false are the only two, without quotes"
        raise document.report(node.mark, where, "expected true or false", suggestion)


@dataclass(frozen=True, slots=True)
class Integer:
    low: int
    high: int

    @property
    def label(self) -> str:
        return f"an integer from {self.low} to {self.high}"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": self.low, "maximum": self.high}, _REFERENCE_SCHEMA]}

    def read(self, document: Document, node: Node, where: str) -> int:
        text = read_text(document, node, where, self.label)
        is_number = text.plain and re.fullmatch(r"0|[1-9][0-9]{0,9}", text.value) is not None
        if is_number and self.low <= int(text.value) <= self.high:
            return int(text.value)
        suggestion = "decimal digits only, without quotes or leading zeros"
        raise document.report(node.mark, where, f"expected {self.label}", suggestion)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; ``later`` are those of the design that this version cannot do yet."""

    words: Sequence[str]
    later: Sequence[str] = ()

    @property
    def label(self) -> str:
        return " | ".join(self.words)

    def schema(self) -> dict[str, Any]:
        words: list[str | None] = [str(word) for word in self.words]
        if "null" in words:  # as an editor's YAML reads that word
            words.append(None)
        return {"anyOf": [{"enum": words}, _REFERENCE_SCHEMA]}

    def read(self, document: Document, node: Node, where: str) -> str:
        if isinstance(node, Scalar) and node.is_null and node.text in self.words:
            return node.text
        text = read_text(document, node, where, self.label)
        if text.value in self.words:
            return text.value
        known = f"known: {', '.join(self.words)}"
        if text.value in self.later:
            message = f'"{text.value}" is not known to this version yet'
            raise document.report(node.mark, where, message, known)
        near = difflib.get_close_matches(text.value.lower().replace("-", "_"), self.words, 1)
        suggestion = f'did you mean "{near[0]}"?' if near else known
        shown = f'"{text.value}"' if text.is_literal else "what the reference holds"
        raise document.report(node.mark, where, f"{shown} is not a known word here", suggestion)


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys; ``later`` are those of the design that this version does not know yet."""

    keys: tuple[Key, ...]
    later: Sequence[str] = ()
    is_nullable: bool = False
    label: str = "a mapping"

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {
            "type": ["object", "null"] if self.is_nullable else "object",
            "additionalProperties": False,
            "properties": {key.name: build_key_schema(key) for key in self.keys},
        }
        if required := [key.name for key in self.keys if key.is_required]:
            schema["required"] = required
        return schema

    def read(self, document: Document, node: Node, where: str) -> Values:
        return read_section(document, node, self, where)


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column type in MySQL's words; reads as MySQL spells it."""

    label: str = "a column type of MySQL"

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}

    def read(self, document: Document, node: Node, where: str) -> str:
        text = read_text(document, node, where, self.label)
        try:
            return parse_type(text.value)
        except ValueError as error:
            suggestion = "for example varchar(100), decimal(20,4) or binary(16)"
            raise document.report(node.mark, where, str(error), suggestion) from None


@dataclass(frozen=True, slots=True)
class NameMapping:
    """Names, or patterns of them, each with options. Reads as a list of (name, mark, Values).

    ``noun`` is what is named; ``example`` what to write where nothing is.
    """

    options: Section
    noun: str
    example: str

    @property
    def label(self) -> str:
        return f"a mapping of {self.noun} names"

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "minProperties": 1, "additionalProperties": self.options.schema()}

    def read(self, document: Document, node: Node, where: str) -> list[tuple[str, Mark, Values]]:
        if not isinstance(node, MappingNode):
            _refuse_node(document, node, where, self.label)
        if not node.items:
            raise document.report(
                node.mark, where, "selects nothing", f"name a {self.noun}, for example {self.example}"
            )
        return list(self._read_entries(document, node, where))

    def _read_entries(
        self, document: Document, node: MappingNode, where: str
    ) -> Iterator[tuple[str, Mark, Values]]:
        for key, value in node.items:
            if key.is_null and key.plain:
                document.report(key.mark, where, f"a {self.noun} name is missing", "quote it if it is a name")
                continue
            try:
                yield key.text, key.mark, self.options.read(document, value, f'{where}."{key.text}"')
            except Invalid:
                yield key.text, key.mark, Values(key.mark)


def build_key_schema(key: Key) -> dict[str, Any]:
    return {"description": key.doc.replace("`", "'"), **key.kind.schema()}


def read_section(document: Document, node: Node, section: Section, where: str) -> Values:
    """Every key of a mapping that can be read; faults are recorded. Raises Invalid where it is no mapping."""
    if section.is_nullable and isinstance(node, Scalar) and node.is_null:
        return Values(node.mark)
    if not isinstance(node, MappingNode):
        _refuse_node(document, node, where, section.label)
    values = Values(node.mark)
    known = {key.name: key for key in section.keys}
    meant = set()  # a misspelt key is not reported as missing too
    for name, value in node.items:
        if (key := known.get(name.text)) is None:
            _refuse_key(document, name, section, where)
            meant.add(_nearest_key(name.text, list(known)))
            continue
        try:
            read = key.kind.read(document, value, _join(where, key.name))
        except Invalid:
            read = None
        values.items[key.name] = Item(read, value.mark)
    for key in section.keys:
        if key.is_required and not values.has(key.name) and key.name not in meant:
            document.report(node.mark, where, f'"{key.name}" is missing', f"add {key.name}: {key.kind.label}")
    return values


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _refuse_key(document: Document, name: Scalar, section: Section, where: str) -> None:
    known = [key.name for key in section.keys]
    before, colon, _ = name.text.partition(":")
    if colon and before in known:  # what follows may be a password
        document.report(name.mark, where, f'no space behind "{before}:"', f'write "{before}: value"')
    elif name.text == "<<":
        document.report(name.mark, where, "YAML merge keys (<<) are not supported", "write the keys out")
    elif name.text in section.later:
        message = f'key "{name.text}" is not known to this version yet'
        document.report(name.mark, where, message, "remove it; it comes with a later version")
    else:
        suggestion = _suggest_key(name.text, known)
        document.report(name.mark, where, f'unknown key "{name.text}"', suggestion)


def _suggest_key(name: str, known: list[str]) -> str:
    near = _nearest_key(name, known)
    return f'did you mean "{near}"?' if near else f"known: {', '.join(known)}"


def _nearest_key(name: str, known: list[str]) -> str | None:
    folded = name.partition(":")[0].strip().lower().replace("-", "_").replace(" ", "_")
    synonym = _SYNONYMS.get(folded)
    near = [synonym] if synonym in known else difflib.get_close_matches(folded, known, 1)
    return near[0] if near else None
