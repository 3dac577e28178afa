"""What the replay makes of a program that ends badly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests import replay
from tests.scripts import MYSQL, Script


class Source:
    """One table, in which nothing ever fails."""

    product = "mysql"

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()

    def give_keys(self) -> None: ...

    def rewind(self) -> None: ...

    def tables(self) -> list[tuple[str, str]]:
        return [("s", "t")]


def load(monkeypatch: pytest.MonkeyPatch, code: int, errors: str) -> replay.Outcome:
    """What becomes of a file whose load ends like this."""
    monkeypatch.setattr(replay, "run_forked", lambda *_: (code, errors))
    monkeypatch.setattr(replay.Replay, "pipeline", lambda *_: None)
    anything: Any = Source()
    return replay.replay_load(Script("x", [], MYSQL), anything, anything, Path())


def test_a_refusal_that_names_a_table_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = load(monkeypatch, 4, "error: s.t: no")
    assert (outcome.word, outcome.refused) == ("refused", {"s.t": "error: TABLE: no"})


@pytest.mark.parametrize("text", ["Traceback\n" + "x\n" * 2000 + "ValueError: s.t: no", "error: s.t: no"])
def test_a_crash_is_no_refusal_however_long_it_is(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert load(monkeypatch, 70, text).word == "DIFFERENT"


def test_without_a_word_it_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, 4, "").word == "DIFFERENT"
