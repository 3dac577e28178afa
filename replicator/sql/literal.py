"""Render canonical values as MySQL text, by code generated once per list of columns (pure; SEMANTICS §6, §7, §9).

Between the canonical values of ``model`` and the statements of ``sql``. Two forms: literals for statements, and fields
of a LOAD DATA file. Text stays in the source column's own bytes, and an introducer or CONVERT tells the server which
character set they are in, so that the server alone converts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from replicator.errors import DataError, SchemaMismatch
from replicator.jsonnumber import Place, find_fragile, is_fragile, may_be_fragile, measure_decimal
from replicator.model import Column, Kind, Row, TableSchema

Renderer: TypeAlias = Callable[[Iterable[Row]], list[bytes]]
LineRenderer: TypeAlias = Callable[[Iterable[Row]], bytes]
RowSearch: TypeAlias = Callable[[Sequence[Row]], list[int]]

# Control bytes that text hardly ever holds, so that few values grow by escapes.
ESCAPE: Final = b"\x1d"
FIELD_END: Final = b"\x1e"
LINE_END: Final = b"\x1f"
NULL_FIELD: Final = ESCAPE + b"N"

# As a literal's client character set these need no introducer: sessions run with NAMES utf8mb4.
_UTF8: Final = frozenset({"utf8mb4", "utf8mb3", "utf8", "ascii"})
# utf8mb3 and ucs2 as names in a statement give a deprecation warning, and a LOAD must give none.
_WIDER: Final = {"utf8mb3": "utf8mb4", "utf8": "utf8mb4", "ucs2": "utf16"}
# So do these, which have no other name.
_DEPRECATED: Final = frozenset({"dec8", "hp8", "macce", "macroman"})
_ASCII_INCOMPATIBLE: Final = frozenset({"utf16", "utf16le", "utf32", "ucs2"})
_CHARSET: Final = re.compile(r"[a-z0-9]+")
_ZEROS: Final = ("0", "00", "000", "0000", "00000")
_SEARCHED_TOGETHER: Final = 64  # rows whose JSON is looked at as one text
_DECIMAL: Final = re.compile(r"(decimal|numeric|dec|fixed)\b", re.IGNORECASE)


class _Literal(NamedTuple):
    """``format`` is the %-format of a value that is never NULL, ``expression`` its argument ({} is the value)."""

    format: str
    expression: str


def escape_text(value: bytes) -> bytes:
    """The inside of a quoted literal. The server's lexer works on utf8mb4 bytes and hands the rest through."""
    return value.replace(b"\\", b"\\\\").replace(b"'", b"''")


def escape_field(value: bytes) -> bytes:
    """A field of a LOAD DATA file."""
    return (
        value.replace(ESCAPE, ESCAPE + ESCAPE)
        .replace(FIELD_END, ESCAPE + FIELD_END)
        .replace(LINE_END, ESCAPE + LINE_END)
    )


def render_double(value: float) -> bytes:
    """A double literal: with an exponent, or it would be a decimal and -0.0 would lose its sign."""
    text = float.__repr__(value)
    return (text if "e" in text else text + "e0").encode()


def is_decimal(column: Column) -> bool:
    """Whether the target column is an exact decimal, which must not be compared as a string (that goes by doubles)."""
    return column.kind is Kind.PLAIN and _DECIMAL.match(column.type) is not None


def collation_charset(column: Column) -> str:
    """The character set that the target stores this column in."""
    if column.collation:
        return column.collation.split("_", 1)[0]
    return column.charset or "utf8mb4"


def charset_name(column: Column) -> str:
    """The name, checked to be one, under which the server knows the character set of the column's values."""
    charset = column.charset or "utf8mb4"
    if not _CHARSET.fullmatch(charset):
        raise SchemaMismatch(
            f"column {column.name}: {charset!r} is no character set name",
            hint="report this with the table's CREATE TABLE",
        )
    return _WIDER.get(charset, charset)


class _Labels(dict[Any, bytes]):
    """ENUM labels by value, each rendered once; NULL is in it from the start, and 0 where it can be expressed."""

    def __init__(
        self, column: Column, render: Callable[[bytes], bytes], null: bytes, zero: bytes | None
    ) -> None:
        super().__init__({None: null})
        self._column = column
        self._render = render
        if zero is not None:
            self[0] = render(zero)

    def __missing__(self, label: object) -> bytes:
        if not isinstance(label, bytes):
            raise SchemaMismatch(
                f"column {self._column.name}: the invalid ENUM value 0 cannot be told from its labels here",
                hint="give the rows a valid label at the source",
            )
        self[label] = text = self._render(label)
        return text


def find_zero(column: Column) -> bytes | None:
    """The text that MySQL stores as the invalid ENUM value 0, without a warning and in strict mode too.

    Text that is no label and reads as a number of at most five digits is taken as the index.
    """
    codec = {"utf16": "utf-16-be", "ucs2": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be"}.get(
        column.charset or "", "utf-8"
    )
    taken = {unicodedata.normalize("NFKC", label.decode(codec, "replace")).strip() for label in column.labels}
    return next((zeros.encode(codec) for zeros in _ZEROS if zeros not in taken), None)


def _find_key_zero(column: Column) -> bytes | None:
    """What the value 0 compares equal to: the empty text, unless that is a label as well."""
    return None if b"" in column.labels else b""


def render_zeros(column: Column) -> tuple[bytes | None, bytes]:
    """The literals that store and that find the invalid ENUM value 0; None where no key can hold it unmistakably."""
    prefix = _introducer(column) + b"'"
    zero = find_zero(column) if _find_key_zero(column) is not None else None
    return None if zero is None else prefix + zero + b"'", prefix + b"'"


def _introducer(column: Column) -> bytes:
    if column.kind in (Kind.BINARY, Kind.GEOMETRY, Kind.VECTOR):
        return b"_binary"
    if column.kind is Kind.JSON or (column.charset or "utf8mb4") in _UTF8:
        return b""
    return b"_" + charset_name(column).encode()


def _literal(column: Column) -> _Literal:
    kind = column.kind
    if kind in (Kind.INTEGER, Kind.BIT):
        return _Literal("%d", "{}")
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        return _Literal("%b", "double({})")
    if kind is Kind.PLAIN:
        return _Literal("%b" if is_decimal(column) else "'%b'", "{}")
    return _Literal(_introducer(column).decode() + "'%b'", "{}.replace(B, BB).replace(Q, QQ)")


def _generate(name: str, code: str, scope: dict[str, Any]) -> Any:
    """Run generated code; column names and values never enter it, only ordinals and our own fragments."""
    exec(compile(code, f"<{name}>", "exec"), scope)
    return scope["render"]


class _Documents:
    """JSON values as expressions of type JSON that show what the source shows: decimals are put back as such."""

    def __init__(self, table: str, column: Column) -> None:
        self._table = table
        self._column = column

    def __call__(self, text: bytes) -> bytes:
        literal = b"'" + escape_text(text) + b"'"
        places = find_fragile(text) if is_fragile(text) else ()
        if not places:
            return b"CAST(" + literal + b" AS JSON)"
        return b"JSON_REPLACE(" + literal + b"".join(map(self._render, places)) + b")"

    def _render(self, place: Place) -> bytes:
        digits = measure_decimal(place.number)
        if digits is None:
            raise DataError(
                f"{self._table}:{self._column.name}: MySQL has no DECIMAL for {place.number.decode()}, which stands in a "
                f"document at {place.path.decode(errors='replace')}",
                table=self._table,
                hint="store the number as a string, or with at most 65 digits, 30 of them after the point",
            )
        return b",'%b',CAST('%b' AS DECIMAL(%d,%d))" % (escape_text(place.path), place.number, *digits)


def _build_search(columns: Sequence[Column], ordinals: Sequence[int]) -> RowSearch | None:
    """A function from rows to the places of those with JSON that plain text would change; None where none can have it.

    ``ordinals``: the places of ``columns`` in the rows.
    """
    documents = [
        itemgetter(at) for column, at in zip(columns, ordinals, strict=True) if column.kind is Kind.JSON
    ]

    def search(rows: Sequence[Row]) -> list[int]:
        found: list[int] = []
        for start in range(0, len(rows), _SEARCHED_TOGETHER):
            part = rows[start : start + _SEARCHED_TOGETHER]
            if any(may_be_fragile(b"\n".join(filter(None, map(get, part)))) for get in documents):
                found += [
                    start + at
                    for at, row in enumerate(part)
                    if any(is_fragile(get(row)) for get in documents)
                ]
        return found

    return search if documents else None


def build_literals(
    columns: Sequence[Column],
    ordinals: Sequence[int] | None = None,
    *,
    key: bool = False,
    documents_of: str | None = None,
) -> Renderer:
    """A function from rows to ``b"1,'a',NULL"``, one item a row, without brackets.

    ``ordinals``: the places of ``columns`` in the rows; None when rows hold just these columns. ``key``: the values are
    compared with the columns, not stored. ``documents_of``: the table's name for errors; JSON is then rendered as
    expressions of that type, which keep the decimals in it; without it as text, which does not.
    """
    scope: dict[str, Any] = {"double": render_double, "B": b"\\", "BB": b"\\\\", "Q": b"'", "QQ": b"''"}
    values = [f"c{at}" for at in range(len(columns))] if ordinals is None else [f"r[{at}]" for at in ordinals]
    pairs = [
        _literal_argument(column, at, value, scope, key)
        if documents_of is None or column.kind is not Kind.JSON
        else _document_argument(column, at, value, scope, documents_of)
        for at, (column, value) in enumerate(zip(columns, values, strict=True))
    ]
    names = "r" if ordinals is not None else "".join(value + "," for value in values)
    arguments = "".join(argument + "," for _, argument in pairs)
    scope["F"] = ",".join(text_format for text_format, _ in pairs).encode()
    renderer: Renderer = _generate(
        "literals", f"def render(rows):\n return [F % ({arguments}) for {names} in rows]", scope
    )
    return renderer


def _literal_argument(
    column: Column, at: int, value: str, scope: dict[str, Any], key: bool
) -> tuple[str, str]:
    if column.kind is Kind.ENUM:
        prefix = _introducer(column) + b"'"
        zero = _find_key_zero(column) if key else find_zero(column)
        scope[f"L{at}"] = _Labels(column, lambda label: prefix + escape_text(label) + b"'", b"NULL", zero)
        return "%b", f"L{at}[{value}]"
    literal = _literal(column)
    argument = literal.expression.format(value)
    if not column.nullable:
        return literal.format, argument
    if literal.format == "%b":
        return "%b", f"b'NULL' if {value} is None else {argument}"
    scope[f"F{at}"] = literal.format.encode()
    return "%b", f"b'NULL' if {value} is None else F{at} % ({argument},)"


def _document_argument(
    column: Column, at: int, value: str, scope: dict[str, Any], table: str
) -> tuple[str, str]:
    scope[f"D{at}"] = _Documents(table, column)
    return "%b", f"b'NULL' if {value} is None else D{at}({value})" if column.nullable else f"D{at}({value})"


class Rows(NamedTuple):
    """How rows of one table become literals.

    ``search`` finds the rows with JSON that plain text would change (None: no JSON). Rows of a statement that has one
    are all rendered by ``exact``, since VALUES takes its types from all its rows; others by ``plain``.
    """

    plain: Renderer
    exact: Renderer
    search: RowSearch | None

    def render(self, rows: Sequence[Row]) -> list[bytes]:
        """As ``build_literals`` says. Raises DataError for a number in JSON that MySQL has no DECIMAL for."""
        if self.search is not None and self.search(rows):
            return self.exact(rows)
        return self.plain(rows)

    def split(self, rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
        """The rows that a LOAD carries exactly, and those that only literals do."""
        found = self.search(rows) if self.search is not None else []
        if not found:
            return rows, ()
        chosen = set(found)
        return [row for at, row in enumerate(rows) if at not in chosen], [rows[at] for at in found]


@lru_cache(maxsize=4096)
def build_rows(table: TableSchema, present: tuple[int, ...] | None) -> Rows:
    """How rows of ``table`` become literals: all their columns, or those ``present``."""
    ordinals = range(len(table.columns)) if present is None else present
    columns = [table.columns[at] for at in ordinals]
    return Rows(
        build_literals(columns, present),
        build_literals(columns, present, documents_of=str(table.source)),
        _build_search(columns, ordinals),
    )


class LoadColumn(NamedTuple):
    """A column of a LOAD DATA list: what the field goes into, and the SET that moves it on (None: straight in)."""

    target: bytes
    assignment: bytes | None


def build_load_column(column: Column, name: bytes, at: int) -> LoadColumn:
    """How the field of ``column`` reaches it unchanged. ``name`` is the quoted name.

    The file is read as CHARACTER SET binary, and the server copies such a field's bytes into a text column as they
    are: right when they are in the column's own character set. JSON refuses binary, BIT would store the digits' codes.
    """
    variable = b"@v%d" % at
    if column.kind is Kind.BIT:
        return LoadColumn(variable, name + b"=CAST(" + variable + b" AS UNSIGNED)")
    if column.kind is Kind.JSON:
        return LoadColumn(variable, name + b"=CONVERT(" + variable + b" USING utf8mb4)")
    if column.kind in (Kind.TEXT, Kind.ENUM, Kind.SET) and not _is_stored_alike(column):
        return LoadColumn(
            variable, name + b"=CONVERT(" + variable + b" USING " + charset_name(column).encode() + b")"
        )
    return LoadColumn(name, None)


def build_text_column(column: Column, name: bytes, at: int) -> LoadColumn:
    """The same for a field of a ``readers.base.TextBlock``."""
    if column.kind is Kind.BINARY:
        variable = b"@v%d" % at
        return LoadColumn(variable, name + b"=UNHEX(" + variable + b")")
    return build_load_column(column, name, at)


def _is_stored_alike(column: Column) -> bool:
    """Whether the values' bytes are the very bytes that the target column stores."""
    ours, stored = column.charset or "utf8mb4", collation_charset(column)
    if ours == stored:
        return (
            column.kind is not Kind.ENUM or stored not in _ASCII_INCOMPATIBLE
        )  # digits must be read as such
    if stored in _ASCII_INCOMPATIBLE or ours in _ASCII_INCOMPATIBLE:
        return False
    if ours == "ascii" or (ours in _UTF8 and stored == "utf8mb4"):
        return True
    return bool(column.labels) and all(label.isascii() for label in column.labels)


def warns_as_literal(column: Column) -> bool:
    """Whether the server may warn of the column's literals whatever they hold: it deprecates the name of their set."""
    return column.kind in (Kind.TEXT, Kind.ENUM, Kind.SET) and charset_name(column) in _DEPRECATED


def warns_as_field(column: Column) -> bool:
    """Whether the server may warn of the column in a LOAD DATA whatever its fields hold."""
    return warns_as_literal(column) and not _is_stored_alike(column)


def build_lines(columns: Sequence[Column]) -> LineRenderer:
    """A function from rows to the bytes of a LOAD DATA file; outputs can be joined."""
    scope: dict[str, Any] = {
        "N": NULL_FIELD,
        "E": ESCAPE,
        "EE": ESCAPE * 2,
        "T": FIELD_END,
        "ET": ESCAPE + FIELD_END,
    }
    scope |= {"digits": float.__repr__, "M": LINE_END, "EM": ESCAPE + LINE_END, "join": b"".join}
    pairs = [_field_argument(column, at, scope) for at, column in enumerate(columns)]
    names = "".join(f"c{at}," for at in range(len(columns)))
    arguments = "".join(argument + "," for _, argument in pairs)
    scope["F"] = FIELD_END.join(text_format.encode() for text_format, _ in pairs) + LINE_END
    code = f"def render(rows):\n return join([F % ({arguments}) for {names} in rows])"
    renderer: LineRenderer = _generate("lines", code, scope)
    return renderer


def _field_argument(column: Column, at: int, scope: dict[str, Any]) -> tuple[str, str]:
    kind, value = column.kind, f"c{at}"
    if kind is Kind.ENUM:
        scope[f"L{at}"] = _Labels(column, escape_field, NULL_FIELD, find_zero(column))
        return "%b", f"L{at}[{value}]"
    if kind in (Kind.INTEGER, Kind.BIT):
        return ("%b", f"N if {value} is None else b'%d' % {value}") if column.nullable else ("%d", value)
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        # A file's text becomes a double by itself: the shortest digits that are this value, no exponent needed.
        text = f"digits({value}).encode()"
        return "%b", f"N if {value} is None else {text}" if column.nullable else text
    if kind is not Kind.PLAIN:
        plain, value = value, f"{value}.replace(E, EE).replace(T, ET).replace(M, EM)"
        return "%b", f"N if {plain} is None else {value}" if column.nullable else value
    return "%b", f"N if {value} is None else {value}" if column.nullable else value
