"""A seeded sample of what `make replay` runs in full; ``SEED`` chooses another one."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from tests.matrix import Bench
from tests.replay import POSTGRES, SOURCE_SETTINGS, TARGET_SETTINGS, find_scripts, replay_script

FILES = 3


@pytest.mark.parametrize(
    "product", ["mysql", "mariadb", pytest.param("postgres", marks=pytest.mark.full), "postgres_newest"]
)
def test_a_sample_of_files_is_mirrored(fixtures_dir: Path, product: str) -> None:
    seed = os.environ.get("SEED") or "1"
    scripts = [
        script
        for script in find_scripts(product, fixtures_dir)
        if not script.name.startswith(("sakila", "chinook", "northwind"))
        and (product not in POSTGRES or any(map(script.grammar.create_table.match, script.statements())))
    ]
    with contextlib.closing(Bench(SOURCE_SETTINGS, TARGET_SETTINGS)) as bench:
        source = bench.postgres(product) if product in POSTGRES else bench.source(product)
        outcomes = [
            outcome
            for script in random.Random(f"{seed} {product}").sample(scripts, FILES)
            for outcome in replay_script(script, source, bench.target)
        ]
    told = f"SEED={seed}\n" + "\n".join(outcome.line() for outcome in outcomes)
    assert not [text for outcome in outcomes for text in outcome.different], told
    assert sum(outcome.equal for outcome in outcomes), told
