"""Column defaults: from what pg_get_expr prints to SQL that a MySQL target takes (pure)."""

from __future__ import annotations

import re
from typing import Final

from replicator.model import Kind
from replicator.typemap.expression import needs_expression, quote_text

_CAST: Final = r"(?:::[\w\s\".\[\](),]+)?"
_QUOTED: Final = re.compile(rf"'((?:[^']|'')*)'{_CAST}")
_NUMBER: Final = re.compile(rf"\(?'?(-?\d+(?:\.\d+)?)'?\)?{_CAST}")
_NOW: Final = re.compile(
    r"(?:now\(\)|CURRENT_TIMESTAMP|LOCALTIMESTAMP|statement_timestamp\(\))(?:\(\d\))?", re.IGNORECASE
)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?")
_NUMERIC: Final = ("tinyint", "smallint", "int", "bigint", "decimal", "float", "double")


def translate_default(text: str, kind: Kind, target: str) -> str | None:
    """The DEFAULT clause for a column of this target type, None where there is none that says the same."""
    if target == "tinyint(1)":
        return {"true": "1", "false": "0"}.get(text)
    if target.startswith(_NUMERIC):
        match = _NUMBER.fullmatch(text)
        return match[1] if match else None
    if target.startswith("datetime") and _NOW.fullmatch(text):
        return f"CURRENT_TIMESTAMP{target[8:]}"
    if target == "date" and text.upper() == "CURRENT_DATE":
        return "(CURRENT_DATE)"
    if target == "char(36)" and text.rsplit(".", maxsplit=1)[-1] in (
        "gen_random_uuid()",
        "uuid_generate_v4()",
    ):
        return "(uuid())"
    match = _QUOTED.fullmatch(text)
    if match is None or not _is_literal(match[1], kind, target):
        return None
    literal = quote_text(match[1].replace("''", "'"))
    return f"({literal})" if needs_expression(target, kind) else literal


def _is_literal(text: str, kind: Kind, target: str) -> bool:
    if kind is Kind.TEXT:
        return True
    return target.startswith(("date",)) and bool(_DATE.fullmatch(text))
