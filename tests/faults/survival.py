"""Deaths, cut links and takeovers under write load, and the comparison after them: what one cell of the kill matrix does.

Every transaction of the workload adds one to a counter and logs the number, so a transaction that was lost or applied
twice shows whatever else it did.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import compare, pgcompare, pgworkload, workload
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount
from tests.processes import PipelineFile, end, follow, write_pipeline
from tests.tunnel import Tunnel, at_random, never


@dataclass(frozen=True, slots=True)
class Ends:
    """A source and a target of this test's own, and a folder for the pipeline file."""

    source: Account | PostgresAccount
    target: Account
    folder: Path

    @property
    def longest_link(self) -> int:
        """Bytes up to which a link to the source may live: more than its largest transaction, which else never arrives."""
        return pgworkload.LARGEST if isinstance(self.source, PostgresAccount) else workload.LARGEST

    def create_schema(self) -> None:
        if isinstance(self.source, PostgresAccount):
            pgworkload.create_schema(self.source)
        else:
            workload.create_schema(self.source.server, self.source.database)

    @contextlib.contextmanager
    def writing(
        self, seed: int, *, pace: float, xa: bool = False, truncates: bool = False
    ) -> Iterator[workload.Writer | pgworkload.Writer]:
        """``xa``: with transactions in two phases. ``truncates``: see ``workload.Writer``."""
        source = self.source
        with (
            pgworkload.writing(source, seed, pace=pace, prepares=xa, truncates=truncates)
            if isinstance(source, PostgresAccount)
            else workload.writing(source.server, source.database, seed, pace=pace, xa=xa, truncates=truncates)
        ) as writer:
            yield writer

    def assert_equal(self) -> None:
        source, target = self.source, self.target
        if isinstance(source, PostgresAccount):
            pgcompare.assert_equal(source.server, source.database, target.server, target.database)
        else:
            compare.assert_equal(source.server, source.database, target.server, target.database)


DYING = ("-m", "tests.faults.dying")
PACE = 0.01
"""Seconds between transactions: enough load for every point, and no backlog that takes longer than the test."""

CUT_SECONDS = 600.0
"""How long a run may take to meet all the cuts: one whose links never live long enough meets none at the target."""

LOADING = {
    "before-snapshot",
    "after-snapshot",
    "in-chunk-body",
    "after-chunk-commit",
    "before-stream",
    "held-while-loading",
    "before-foreign-keys",
    "settling",
    "before-publication",
    "before-slot",
    "after-slot",
}
"""Points of a first start; the others are reached after a load just as well."""


TRUNCATING = {"before-truncate", "after-truncate"}
"""Points that only a TRUNCATE at the source reaches."""


MOST_VISITS = {
    "before-snapshot": 1,
    "after-snapshot": 1,
    "shutdown": 1,
    "before-foreign-keys": 2,
    "settling": 2,
    "before-publication": 1,
    "before-slot": 1,
    "after-slot": 1,
}
"""Points that a run reaches no more often than this."""


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
    ends.assert_equal()
    status = pipeline.status()
    assert {table["state"] for table in status["tables"]} == {"streaming"}
    assert not any(table["error"] for table in status["tables"])


def survive(ends: Ends, deaths: list[tuple[str, int]], seed: int) -> None:
    """Die as told, one death after the other, while the source is written to; then run in peace and compare."""
    ends.create_schema()
    pipeline = write_pipeline(ends.folder, ends.source, ends.target)
    if deaths[0][0] not in LOADING:
        pipeline.must("load", "FILE")
    truncates = any(point in TRUNCATING for point, _ in deaths)
    with ends.writing(seed, pace=PACE, xa=True, truncates=truncates) as writer:
        writer.wait(10)
        for point, times in deaths:
            die(pipeline, point, times)
        process = pipeline.start("run", "FILE")
        follow(process, "state=")
        writer.wait(20)
    code, output = end(process)
    assert code == 0, output
    assert_mirrored(pipeline, ends)


def survive_cuts(ends: Ends, seed: int, cuts: int = 8) -> None:
    """Both links are cut again and again, after any number of bytes."""
    source, target = ends.source, ends.target
    ends.create_schema()
    pipeline = write_pipeline(ends.folder, source, target)
    with (
        Tunnel(source.server.host, source.server.port) as upper,
        Tunnel(target.server.host, target.server.port) as lower,
    ):
        pipeline.edit("source", host=upper.host, port=upper.port, tls={"mode": "preferred"})
        pipeline.edit("target", host=lower.host, port=lower.port, tls={"mode": "required"})
        process = pipeline.start("run", "FILE")
        follow(process, "state=")
        upper.cutter, lower.cutter = at_random(seed, most=ends.longest_link), at_random(seed + 100)
        deadline = time.monotonic() + CUT_SECONDS
        with ends.writing(seed, pace=0.002) as writer:
            upper.cut()
            lower.cut()
            while min(upper.cuts, lower.cuts) < cuts:
                assert time.monotonic() < deadline, f"{upper.cuts} and {lower.cuts} cuts so far"
                assert process.poll() is None, f"exit {process.returncode}\n{process.communicate()[0]}"
                writer.wait(10)
        upper.cutter = lower.cutter = never
        upper.cut()
        lower.cut()
        code, output = end(process)
        assert code == 0, output
        pipeline.must("run", "FILE", "--until-current")
    ends.assert_equal()


def survive_takeovers(ends: Ends, seed: int, turns: int = 3) -> None:
    """Newcomers take over at random moments, also before the older process has begun to stream."""
    chance = random.Random(seed)
    ends.create_schema()
    pipeline = write_pipeline(ends.folder, ends.source, ends.target)
    with ends.writing(seed, pace=PACE) as writer:
        process = pipeline.start("run", "FILE")
        for _ in range(turns):
            follow(process, "state=")
            writer.wait(chance.randrange(1, 20))
            newer = pipeline.start("run", "FILE")
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 5, output
            process = newer
        follow(process, "state=")
        writer.wait(10)
    code, output = end(process)
    assert code == 0, output
    assert_mirrored(pipeline, ends)
