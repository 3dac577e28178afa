"""A seeded sample of what `make replay` runs in full; ``SEED`` chooses another one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from replicator.servers import start_mariadb, start_mysql
from tests.replay import SOURCE_SETTINGS, TARGET_SETTINGS, replay_script
from tests.scripts import find_scripts

FILES = 3


@pytest.mark.parametrize("product", ["mysql", "mariadb"])
def test_a_sample_of_files_is_mirrored(fixtures_dir: Path, product: str) -> None:
    seed = os.environ.get("SEED") or "1"
    scripts = [s for s in find_scripts(fixtures_dir, []) if not s.name.startswith(("sakila", "chinook"))]
    start = start_mysql if product == "mysql" else start_mariadb
    with start(**SOURCE_SETTINGS) as source, start_mysql(**TARGET_SETTINGS) as target:
        outcomes = [
            outcome
            for script in random.Random(f"{seed} {product}").sample(scripts, FILES)
            for outcome in replay_script(script, source, target)
        ]
    told = f"SEED={seed}\n" + "\n".join(outcome.line() for outcome in outcomes)
    assert not [text for outcome in outcomes for text in outcome.different], told
    assert sum(outcome.equal for outcome in outcomes), told
