"""Whatever stands in a pipeline file, the loader answers with a configuration or with a ConfigError."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import example, given, settings

from replicator.config import load
from replicator.errors import ConfigError

VALID = """\
pipeline: shop
source: {type: mysql, host: h, user: u, password: "${env:P}", tls: {mode: required}}
target: {type: mysql, host: h, user: u, password: "${env:P}", database: app}
defaults: {create: true, existing_rows: merge}
tables:
  shop.orders: {to: "{schema}_{table}", skip: false}
  "shop.*": {}
"""
FRAGMENTS = [
    *(
        "pipeline",
        "source",
        "target",
        "tables",
        "tls",
        "ca",
        "mode",
        "to",
        "skip",
        "port",
        "password",
        "<<",
        "---",
    ),
    *(
        "...",
        "&a",
        "*a",
        "!!str",
        "!x!y",
        "%YAML 1.1",
        "|",
        ">",
        "?",
        "- ",
        ": ",
        "\n",
        "\n  ",
        "\t",
        "{",
        "}",
        "[",
    ),
    *(
        "]",
        ",",
        "'",
        '"',
        "\\U00110000",
        "\\ud800",
        "\x00",
        "\ufeff",
        "\x85",
        "${env:Q}",
        "${file:.}",
        "${",
        "$${",
    ),
    *(
        "~",
        "null",
        "true",
        "9" * 5000,
        "shop.orders",
        "mysql",
        "# ",
        "\r\n",
        "\U0001f600",
        "\ud800",
        "ı",
        "@",
        "`",
    ),
]


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.yaml"
        path.write_bytes(data)
        try:
            shown = repr(load(path, {"P": "hidden-value", "Q": "q"}))  # P is the password of VALID
        except ConfigError as refused:
            check_problems(refused, count_lines(data))
            shown = str(refused)
    assert "hidden-value" not in shown


def count_lines(data: bytes) -> int:
    """An upper bound: YAML also breaks lines at NEL, LS and PS."""
    return 1 + sum(data.count(mark) for mark in (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80"))


def check_problems(refused: ConfigError, lines: int) -> None:
    assert refused.problems
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in refused.problems)


@settings(max_examples=300, deadline=None)
@given(st.text())
@example('"\\UFFFFFFFF"')
@example("%YAML 1." + "9" * 5000 + "\n---\na")
@example("[" * 2000)
@example("a: " * 2000)
@example("&a [*a]")
def test_any_text(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20), st.integers(0, len(VALID)), st.integers(0, 30))
def test_a_valid_file_with_a_piece_replaced(pieces: list[str], start: int, length: int) -> None:
    text = VALID[:start] + "".join(pieces) + VALID[start + length :]
    check(text.encode("utf-8", "surrogatepass"))
