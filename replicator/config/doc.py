"""The pipeline file described for editors and people, from the same key tables that load it.

``replicator schema`` prints ``json_schema()``; ``python -m replicator.config.doc FILE`` writes the reference
page and, beside the example pipelines, the schema; a test fails when either is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from replicator.config.keys import (
    COLUMN_KEYS,
    DEFAULTS_KEYS,
    SOURCE_KEYS,
    TABLE_KEYS,
    TARGET_KEYS,
    TLS_KEYS,
    TOP,
    TOP_KEYS,
)
from replicator.config.kinds import Key

REFERENCE = "docs/reference/configuration.md"
SCHEMA = "schemas/replicator.schema.json"

_SECTIONS = (
    ("The file", TOP_KEYS),
    ("source", SOURCE_KEYS),
    ("target", TARGET_KEYS),
    ("tls", TLS_KEYS),
    ("defaults", DEFAULTS_KEYS),
    ("tables: options of one entry", TABLE_KEYS),
    ("columns: options of one column", COLUMN_KEYS),
)

_INTRODUCTION = """\
# The pipeline file

<!-- Made by `python -m replicator.config.doc`; edit the key tables in replicator/config/keys.py instead. -->

One YAML file describes one pipeline. Whatever is wrong with it is reported at once, each fault as
`file:line:column: key: what is wrong; what was probably meant`, and the command ends with exit code 2.

**Text stays text.** `on`, `no`, `22:22`, `1e3` and `012` are what you wrote; only `true` and `false` are
booleans, only decimal digits are numbers, and a value may be missing only where this page says so. Duplicate
keys, unknown keys, anchors, aliases, merge keys (`<<`), tags and a second document are errors.

**References.** Any value may hold `${env:NAME}` and `${file:PATH}` (a relative path starts at the pipeline
file's directory; one line break at the file's end is dropped). A variable that is not set is an error; one
that is set to nothing is an empty text. `$${` stands for the characters `${`. What a reference brought is not
searched for references again, and appears in no message.

**Names of tables** are written `database.table` and split at the first dot; a name without a dot needs
`source.database`. `*`, `?` and `[…]` make a pattern of either part and never reach across the dot; quote what
begins with `*`. Upper and lower case differ, always.

- An exact name wins over a pattern, then the longest pattern (characters of `database.table`) wins; two of
  the same length that match one table are an error.
- An exact name that the source does not have is an error; a pattern that matches nothing is a warning.
- Two source tables for one target table are an error, as is a target name of more than 64 characters.
- `mysql`, `information_schema`, `performance_schema`, `sys` and tables that begin with `_replicator_` are
  never mirrored.
"""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a pipeline file, for completion and checks in an editor."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "replicator pipeline",
        **TOP.schema(),
    }


def render_reference() -> str:
    """The reference page as Markdown."""
    return "\n".join([_INTRODUCTION, *(_render_section(title, keys) for title, keys in _SECTIONS)])


def render_schema() -> str:
    """The JSON Schema as text."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _render_section(title: str, keys: tuple[Key, ...]) -> str:
    lines = [f"## {title}", "", "| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_render_key(key) for key in keys), ""])


def _render_key(key: Key) -> str:
    label = key.kind.label.replace("|", "\\|")
    default = "**required**" if key.is_required else key.default
    return f"| `{key.name}` | {label} | {default} | {key.doc} |"


def write(root: Path) -> None:
    """Write both files under a checkout's root."""
    for name, text in ((REFERENCE, render_reference()), (SCHEMA, render_schema())):
        (root / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
