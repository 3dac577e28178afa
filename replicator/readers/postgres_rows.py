"""Lines of COPY's text format into canonical rows, by a parser generated for each list of columns (pure).

Source: PostgreSQL documentation, COPY, "Text Format": columns are joined by tabs, ``\\N`` is NULL, a backslash begins an
escape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from replicator.errors import SourceError
from replicator.model import Column, Row
from replicator.readers.unfit import HINT, ValueUnfit
from replicator.typemap.pgvalues import text_converter

RowParser = Callable[[Sequence[bytes]], list[Row]]
"""Rows of whole lines, each with its line end."""

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_MEANING: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _unescape(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: _MEANING.get(match[1], match[1]), text)


def build_parser(table: str, columns: Sequence[Column]) -> RowParser:
    """A parser for lines of exactly these columns. It raises SourceError naming the column of a value that has no form
    at the target.
    """
    names: dict[str, Any] = {"int": int, "unescape": _unescape}
    values = []
    for at, column in enumerate(columns):
        value = f"(unescape(c{at}) if backslash in c{at} else c{at})"
        converter = text_converter(column)
        if converter is int:
            value = f"int(c{at})"
        elif converter is not None:
            names[f"convert{at}"] = converter
            value = f"convert{at}({value})"
        values.append(f"None if c{at} == null else {value}")
    targets = ", ".join(f"c{at}" for at in range(len(columns)))
    source = (
        "def parse(lines, backslash=92, null=b'\\\\N'):\n"
        "    rows = []\n"
        "    append = rows.append\n"
        "    for line in lines:\n"
        f"        {targets}, = line[:-1].split(b'\\t')\n"
        f"        append(({', '.join(values)},))\n"
        "    return rows\n"
    )
    exec(compile(source, "<copy parser>", "exec"), names)
    parse: RowParser = names["parse"]

    def parse_or_explain(lines: Sequence[bytes]) -> list[Row]:
        try:
            return parse(lines)
        except (ValueError, KeyError) as error:
            raise _explain(table, columns, lines, error) from error

    return parse_or_explain


def _explain(table: str, columns: Sequence[Column], lines: Sequence[bytes], error: Exception) -> SourceError:
    """Name the first column whose value cannot be converted."""
    for line in lines:
        fields = line[:-1].split(b"\t")
        if len(fields) != len(columns):
            return SourceError(f"{table}: a row of {len(fields)} columns, {len(columns)} were asked for")
        for column, field in zip(columns, fields, strict=True):
            converter = text_converter(column)
            try:
                if converter is not None and field != b"\\N":
                    converter(_unescape(field))
            except (ValueError, KeyError) as reason:
                return ValueUnfit(f"{table}:{column.name}: {reason}", hint=HINT)
    return SourceError(f"{table}: {error}")
