"""The whole pipeline under random writes, batch sizes and link losses: the target ends equal to the source (I3, I4, I8).

Writes are seeded and random: unique values that move, key changes, cascades, savepoints, rollbacks (``tests.workload``).
Links are cut at any byte, batches are delivered twice, or late by a connection that is dead for the sender.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from replicator.config import load
from replicator.pipeline import Options, Pipeline, Until
from replicator.servers import Server
from replicator.startup import open_pipeline
from replicator.stream import BatchLimits
from tests.accounts import Account, make_target_account
from tests.compare import assert_equal
from tests.faults.survival import Ends, survive_cuts
from tests.processes import PipelineFile, end, write_pipeline
from tests.targets import set_global
from tests.tunnel import Carrier, Tunnel, is_refused
from tests.workload import Writer, create_schema, writing

SIZES = (1, 7, 1000)
PROGRAMS = 4
TRANSACTIONS = 60


def mirror(pipeline: PipelineFile, limits: BatchLimits, until: Until) -> None:
    """Run a pipeline in this process, with batches of the given size."""
    stop = threading.Event()
    opened = open_pipeline(load(pipeline.path), waiting=lambda _: None, stop=stop, is_patient=False)
    with contextlib.closing(opened.reader):
        Pipeline(opened, Options(until=until, limits=limits), stop).run(lambda _: None)


@pytest.fixture
def pipelines(
    source_account: Account, mysql_target: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[int, tuple[PipelineFile, Account]]]:
    """One source, and for each batch size a loaded target of its own."""
    create_schema(source_account.server, source_account.database)
    with contextlib.ExitStack() as stack:
        made = {}
        for size in SIZES:
            target = stack.enter_context(make_target_account(mysql_target))
            (tmp_path / str(size)).mkdir()
            file = write_pipeline(tmp_path / str(size), source_account, target, name=f"shop{size}")
            for name, value in file.env.items():
                monkeypatch.setenv(name, value)
            mirror(file, BatchLimits(rows=size), "loaded")
            made[size] = file, target
        yield made


def test_batches_of_any_size_lead_to_the_same_target(
    source_account: Account, pipelines: dict[int, tuple[PipelineFile, Account]]
) -> None:
    source = source_account

    @settings(
        max_examples=PROGRAMS,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # tables live on from one program to the next: there is nothing to shrink
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 1 << 32))
    def write_and_mirror(seed: int) -> None:
        with contextlib.closing(Writer(source.server, source.database, seed)) as writer:
            for _ in range(TRANSACTIONS):
                writer.write()
        for size, (file, target) in pipelines.items():
            mirror(file, BatchLimits(rows=size), "current")
            assert_equal(source.server, source.database, target.server, target.database)

    write_and_mirror()


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (2, 3, 4))])
def test_links_cut_at_any_byte_lose_nothing(
    source_account: Account, target_account: Account, tmp_path: Path, seed: int
) -> None:
    survive_cuts(Ends(source_account, target_account, tmp_path), seed)


class Mischief:
    """Does one of three things to every third batch with rows, in turn.

    *lost*: the server commits and the client's link is reset before it hears of it. *twice*: the server gets the same
    packet again. *late*: the link is dead for the client, and the packet arrives all the same: before the client has sent
    it again, or after.
    """

    def __init__(self) -> None:
        self.lost = self.twice = self.late_first = self.late_second = 0
        self.failures: list[str] = []
        self._batches = 0
        self._kept: tuple[Carrier, bytes] | None = None
        self._lock = threading.Lock()

    def is_enough(self) -> bool:
        return min(self.lost, self.twice, self.late_first, self.late_second) >= 3

    def __call__(self, carrier: Carrier, packet: bytes) -> bool:
        if not (b"_replicator_checkpoint" in packet and b"`" in packet and packet.endswith(b"COMMIT")):
            return False
        with self._lock:
            self._batches += 1
            if self._kept is not None:
                return self._deliver_late(carrier, packet)
            if not self._batches % 3:
                [self._lose, self._double, self._keep][self._batches // 3 % 3](carrier, packet)
                return True
        return False

    def _expect(self, answer: bytes, *, refused: bool, what: str) -> None:
        if not answer or is_refused(answer) is not refused:
            self.failures.append(f"{what}: {answer[-200:]!r}")

    def _lose(self, carrier: Carrier, packet: bytes) -> None:
        self._expect(carrier.ask(packet), refused=False, what="lost")
        carrier.reset()
        self.lost += 1

    def _double(self, carrier: Carrier, packet: bytes) -> None:
        answer = carrier.ask(packet)
        self._expect(answer, refused=False, what="first of two")
        self._expect(carrier.ask(packet), refused=True, what="second of two")
        carrier.client.sendall(answer)
        self.twice += 1

    def _keep(self, carrier: Carrier, packet: bytes) -> None:
        self._kept = carrier, packet
        carrier.detach()

    def _deliver_late(self, carrier: Carrier, packet: bytes) -> bool:
        """The client has sent the same batch by another link: the kept one comes before it, or after."""
        assert self._kept is not None
        (dead, kept), self._kept = self._kept, None
        if self.late_first <= self.late_second:
            self._expect(dead.ask(kept), refused=False, what="late, and yet first")
            self.late_first += 1
            dead.reset()
            return False  # the target refuses this one
        answer = carrier.ask(packet)
        self._expect(answer, refused=False, what="sent again")
        self._expect(dead.ask(kept), refused=True, what="late")
        self.late_second += 1
        dead.reset()
        carrier.client.sendall(answer)
        return True


def test_a_batch_that_is_delivered_twice_or_late_is_applied_once(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    source, target = source_account, target_account
    create_schema(source.server, source.database)
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    mischief = Mischief()
    with (
        set_global(target.server, "require_secure_transport", "OFF"),  # mischief reads what passes
        Tunnel(target.server.host, target.server.port, trick=mischief) as tunnel,
    ):
        pipeline.edit("target", host=tunnel.host, port=tunnel.port, tls={"mode": "disabled"})
        process = pipeline.start("run", "FILE")
        with writing(source.server, source.database, seed=3) as writer:
            while not mischief.is_enough():
                assert process.poll() is None, process.communicate()[0]
                writer.wait(5)
        code, output = end(process)
        assert code == 0, output
        pipeline.must("run", "FILE", "--until-current")
    assert not mischief.failures
    assert_equal(source.server, source.database, target.server, target.database)
