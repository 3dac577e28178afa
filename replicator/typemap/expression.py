"""Defaults and generation expressions: from what a catalog prints to SQL that a MySQL target takes (pure).

The catalogs disagree. MySQL prints a literal default bare, an expression escaped and flagged DEFAULT_GENERATED; MariaDB
prints SQL, with ``NULL`` for no default.
"""

from __future__ import annotations

import re
from typing import Final

from replicator.model import Kind

_NOW: Final = re.compile(r"(?:current_timestamp|now|localtime|localtimestamp)(?:\((\d*)\))?", re.IGNORECASE)
_ON_UPDATE: Final = re.compile(r"on update (\w+(?:\(\d*\))?)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)
_BITS: Final = re.compile(r"b'[01]*'|0x[0-9a-f]*|x'[0-9a-f]*'", re.IGNORECASE)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "0": "\0", "Z": "\x1a"}
_QUOTED: Final = {"\0": "\\0", "\n": "\\n", "\r": "\\r", "\\": "\\\\", "'": "''", "\x1a": "\\Z"}
_TO_QUOTE: Final = re.compile("[\0\n\r\\\\'\x1a]")
_CLOCKED: Final = ("datetime", "timestamp")


def quote_text(text: str) -> str:
    """``text`` as an SQL string literal, for a session without NO_BACKSLASH_ESCAPES."""
    return "'" + _TO_QUOTE.sub(lambda match: _QUOTED[match.group()], text) + "'"


def unescape_expression(text: str) -> str:
    """MySQL's information_schema prints expressions with quotes, backslashes and line ends escaped once more."""
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match.group(1), match.group(1)), text)


def translate_mysql_default(text: str | None, extra: str, data_type: str, kind: Kind) -> str | None:
    """The DEFAULT clause for MySQL's COLUMN_DEFAULT, None for none."""
    if text is None:
        return None
    if "DEFAULT_GENERATED" in extra:
        return _translate_expression(unescape_expression(text), data_type)
    if kind in (Kind.BIT, Kind.BINARY) and _BITS.fullmatch(text):
        return text
    return quote_text(text)


def translate_mariadb_default(text: str | None, data_type: str, kind: Kind) -> str | None:
    """The DEFAULT clause for MariaDB's COLUMN_DEFAULT, None for none."""
    if text is None or text.upper() == "NULL":
        return None
    if is_literal(text):
        # MySQL takes only an expression as the default of a BLOB or TEXT.
        return f"({text})" if needs_expression(data_type, kind) else text
    return _translate_expression(text, data_type)


def is_literal(text: str) -> bool:
    if _NUMBER.fullmatch(text) or _BITS.fullmatch(text):
        return True
    return bool(re.fullmatch(r"'(?:[^'\\]|''|\\.)*'", text, re.DOTALL))


def needs_expression(data_type: str, kind: Kind) -> bool:
    if kind in (Kind.JSON, Kind.GEOMETRY, Kind.VECTOR):
        return True
    return data_type.endswith(("text", "blob"))


def _translate_expression(text: str, data_type: str) -> str:
    match = _NOW.fullmatch(text)
    if match and data_type in _CLOCKED:
        return _now(match.group(1))
    return f"({text})"


def _now(digits: str | None) -> str:
    return f"CURRENT_TIMESTAMP({digits})" if digits and digits != "0" else "CURRENT_TIMESTAMP"


def parse_on_update(extra: str) -> str | None:
    """``CURRENT_TIMESTAMP(3)`` of EXTRA's ``… on update current_timestamp(3)``."""
    match = _ON_UPDATE.search(extra)
    if match is None:
        return None
    now = _NOW.fullmatch(match.group(1))
    return _now(now.group(1)) if now else None


def parse_labels(column_type: str) -> tuple[str, ...]:
    """The members of ``enum('a','b''c')``, with quotes, backslashes and commas inside told apart."""
    body = column_type[column_type.index("(") + 1 : column_type.rindex(")")]
    return tuple(
        unescape_expression(label.replace("''", "'"))
        for label in re.findall(r"'((?:[^'\\]|''|\\.)*)'", body, re.S)
    )
