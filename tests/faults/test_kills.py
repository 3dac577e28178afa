"""kill -9 at every edge between stages, under write load: no row lost, none twice (I1, I2, I3; SEMANTICS §2.5, §4).

Every transaction of the workload adds one to a counter and logs the number, so a transaction that was lost or applied
twice shows whatever else it did.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.compare import assert_equal
from tests.faults.dying import POINTS
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.workload import create_schema, writing


@dataclass(frozen=True, slots=True)
class Ends:
    """A source and a target of this test's own, and a folder for the pipeline file."""

    source: Account
    target: Account
    folder: Path


@pytest.fixture
def ends(source_account: Account, target_account: Account, tmp_path: Path) -> Ends:
    return Ends(source_account, target_account, tmp_path)


DYING = ("-m", "tests.faults.dying")
PACE = 0.01
"""Seconds between transactions: enough load for every point, and no backlog that takes longer than the test."""

LOADING = {
    "before-snapshot",
    "after-snapshot",
    "in-chunk-body",
    "after-chunk-commit",
    "before-stream",
    "held-while-loading",
    "before-foreign-keys",
    "settling",
}
"""Points of a first start; the others are reached after a load just as well."""


def die(pipeline: PipelineFile, point: str, times: int) -> None:
    """Run until the planted death, and make sure that it was the end."""
    process = pipeline.start("run", "FILE", program=(*DYING, point, str(times)))
    if point == "shutdown":
        follow(process, "state=")
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"exit {process.returncode}\n{output}"


def assert_mirrored(pipeline: PipelineFile, ends: Ends) -> None:
    """Level with the source, equal in every row, and without a word of doubt left behind."""
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(ends.source.server, ends.source.database, ends.target.server, ends.target.database)
    status = pipeline.status()
    assert {table["state"] for table in status["tables"]} == {"streaming"}
    assert not any(table["error"] for table in status["tables"])


def survive(ends: Ends, deaths: list[tuple[str, int]], seed: int) -> None:
    """Die as told, one death after the other, while the source is written to; then run in peace and compare."""
    source = ends.source
    create_schema(source.server, source.database)
    pipeline = write_pipeline(ends.folder, source, ends.target)
    if deaths[0][0] not in LOADING:
        pipeline.must("load", "FILE")
    with writing(source.server, source.database, seed, pace=PACE) as writer:
        writer.wait(10)
        for point, times in deaths:
            die(pipeline, point, times)
        process = pipeline.start("run", "FILE")
        follow(process, "state=")
        writer.wait(20)
    code, output = end(process)
    assert code == 0, output
    assert_mirrored(pipeline, ends)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_loses_nothing_and_doubles_nothing(ends: Ends, point: str) -> None:
    survive(ends, [(point, 1)], seed=7)


@pytest.mark.parametrize(
    "deaths",
    [
        ["after-chunk-commit", "in-chunk-body", "before-stream", "first-streamed-batch"],
        ["mid-packet", "commit-unanswered", "in-spill", "before-ack"],
    ],
)
def test_a_run_that_is_killed_again_and_again_loses_nothing(ends: Ends, deaths: list[str]) -> None:
    survive(ends, [(point, 2) for point in deaths], seed=8)


@pytest.mark.full
@pytest.mark.parametrize(("times", "seed"), [(2, 100), (3, 101), (5, 102)])
@pytest.mark.parametrize(
    "point", [p for p in POINTS if p not in {"before-snapshot", "after-snapshot", "shutdown"}]
)
def test_later_visits_kill_as_little(ends: Ends, point: str, times: int, seed: int) -> None:
    times = min(times, 2) if point in {"before-foreign-keys", "settling"} else times
    survive(ends, [(point, times)], seed)
