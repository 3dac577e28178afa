"""Two processes and one pipeline: the newcomer wins, the older one ends and says who came (SEMANTICS §4.4; I8)."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from replicator.checkpoint import lock_name
from replicator.errors import TargetUnavailable
from replicator.servers import Server
from replicator.session import Session
from tests.accounts import Account, make_target_account
from tests.compare import assert_equal
from tests.processes import STOPPING, PipelineFile, end, follow, is_stopped, write_pipeline
from tests.targets import build_endpoint, wait_until
from tests.workload import Writer, create_schema, writing

TURNS = 3


@pytest.fixture
def pipeline(source_account: Account, target_account: Account, tmp_path: Path) -> PipelineFile:
    create_schema(source_account.server, source_account.database)
    return write_pipeline(tmp_path, source_account, target_account)


def start(pipeline: PipelineFile) -> subprocess.Popen[str]:
    """A run that has begun."""
    process = pipeline.start("run", "FILE")
    follow(process, "state=")
    return process


def assert_fenced(older: subprocess.Popen[str], newer: subprocess.Popen[str]) -> None:
    """It ended by itself, with the newcomer's host, pid and start time."""
    output, _ = older.communicate(timeout=60)
    assert older.returncode == 5, output
    found = re.search(
        r"taken over by process (\d+) on (\S+), started (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", output
    )
    assert found, output
    assert found[1] == str(newer.pid)
    assert found[2] == socket.gethostname()


def test_processes_that_take_over_in_turn_lose_nothing(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    source, target = source_account, target_account
    with writing(source.server, source.database, seed=4, pace=0.005) as writer:
        older = start(pipeline)
        for _ in range(TURNS):
            newer = start(pipeline)
            assert_fenced(older, newer)
            writer.wait(20)
            older = newer
    code, output = end(older)
    assert code == 0, output
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


def test_an_older_process_without_anything_to_apply_hears_of_it_too(pipeline: PipelineFile) -> None:
    pipeline.must("load", "FILE")
    older = start(pipeline)
    newer = start(pipeline)
    assert_fenced(older, newer)
    assert end(newer)[0] == 0


def test_an_older_process_that_comes_late_to_the_log_does_not_push_the_newcomer_out(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """It has taken over, and before its first read it was slow for longer than the newcomer needed for all of that."""
    source, target = source_account, target_account
    pipeline.must("load", "FILE")
    older = pipeline.start("run", "FILE", program=(*STOPPING, "before-claim", "1"))
    wait_until(lambda: is_stopped(older.pid))
    newer = start(pipeline)
    with writing(source.server, source.database, seed=8, pace=0.005) as writer:
        wait_until(lambda: target.query("SELECT n FROM counter")[0][0] > 0)
        older.send_signal(signal.SIGCONT)
        assert_fenced(older, newer)
        writer.wait(20)
    code, output = end(newer)
    assert code == 0, output
    assert "waiting for the source" not in output, "its own dump was ended"
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


def test_two_fighting_supervisors_lose_nothing(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """Both are started again whenever they end, as a service manager would: each start is a new takeover."""
    source, target = source_account, target_account
    pipeline.must("load", "FILE")
    with writing(source.server, source.database, seed=5, pace=0.005):
        sides = [pipeline.start("run", "FILE"), pipeline.start("run", "FILE")]
        takeovers = 0
        while takeovers < 4:
            for number, process in enumerate(sides):
                try:
                    output, _ = process.communicate(timeout=0.1)
                except subprocess.TimeoutExpired:
                    continue
                assert process.returncode == 5, output
                takeovers += 1
                sides[number] = pipeline.start("run", "FILE")
    for process in sides:
        process.send_signal(signal.SIGTERM)
    for process in sides:
        output, _ = process.communicate(timeout=60)
        assert process.returncode in {0, 5, -signal.SIGTERM}, (
            output
        )  # told to end before it could listen, or fenced
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_batches_between_two_fighting_processes(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """Started again whenever they end, killed and stopped in the middle of whatever they do: the count stays exact.

    The pace leaves them time to follow: one transaction in ten writes to every customer, of whom there are ever more.
    """
    chance = random.Random(21)
    source, target = source_account, target_account
    pipeline.must("load", "FILE")
    begun, ends = read_seq(target), Counter[int]()
    sides = [pipeline.start("run", "FILE") for _ in range(2)]
    with writing(source.server, source.database, seed=21, pace=0.02) as writer:
        while ends[5] < 40 or read_seq(target) - begun < 2000:
            number = chance.randrange(2)
            fate = chance.random()
            if fate < 0.05:
                sides[number].kill()
            elif fate < 0.15:
                stall(sides[number], writer)
            writer.wait(chance.randrange(1, 60))
            for number, process in enumerate(sides):
                if process.poll() is not None:
                    output, _ = process.communicate()
                    assert process.returncode in {5, -signal.SIGKILL}, output
                    ends[process.returncode] += 1
                    sides[number] = pipeline.start("run", "FILE")
    for process in sides:
        end(process)
    print(f"{read_seq(target) - begun} batches, {writer.commits} commits, ended {dict(ends)}")
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


def read_seq(target: Account) -> int:
    """How many batches the pipeline has committed in all."""
    return int(target.query("SELECT seq FROM _replicator_checkpoint WHERE worker = 0")[0][0])


def stall(process: subprocess.Popen[str], writer: Writer) -> None:
    """Stopped in the middle of something, perhaps with the row's lock or half a packet sent; then it goes on."""
    process.send_signal(signal.SIGSTOP)
    try:
        writer.wait(200)
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_drop_while_another_process_runs_ends_it_and_the_next_start_loads_anew(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    source, target = source_account, target_account
    with writing(source.server, source.database, seed=7, pace=0.005) as writer:
        older = start(pipeline)
        writer.wait(20)
        pipeline.must("drop", "FILE")
        output, _ = older.communicate(timeout=60)
        assert older.returncode == 5, output
        assert "`drop` was run" in output
        assert target.query("SELECT COUNT(*) FROM _replicator_checkpoint") == [(0,)]
        newer = start(pipeline)
        writer.wait(20)
    code, output = end(newer)
    assert code == 0, output
    pipeline.must("run", "FILE", "--until-current")
    assert_equal(source.server, source.database, target.server, target.database)


def test_a_dead_session_with_the_lock_of_our_own_commits_is_ended(
    pipeline: PipelineFile, source_account: Account, target_account: Account
) -> None:
    """Its process is gone or cut off, and the server has not noticed yet: the next start settles what it left."""
    source, target = source_account, target_account
    pipeline.must("load", "FILE")
    with Session.connect(build_endpoint(target)) as dead:
        dead.query("SELECT GET_LOCK(%s, 0)", lock_name(dead, "shop"))
        pipeline.must("run", "FILE", "--until-current")
        with pytest.raises(TargetUnavailable):
            dead.ping()
    assert_equal(source.server, source.database, target.server, target.database)


def test_pipelines_of_other_names_read_the_same_source_side_by_side(
    pipeline: PipelineFile,
    source_account: Account,
    target_account: Account,
    mysql_target: Server,
    tmp_path: Path,
) -> None:
    source = source_account
    with make_target_account(mysql_target) as other_target:
        other = write_pipeline(tmp_path, source, other_target, name="staging")
        runs = [start(pipeline), start(other)]
        with writing(source.server, source.database, seed=6, pace=0.002) as writer:
            writer.wait(100)
        for run in runs:
            assert run.poll() is None, run.communicate()[0]
            assert end(run)[0] == 0
        for file, target in ((pipeline, target_account), (other, other_target)):
            file.must("run", "FILE", "--until-current")
            assert_equal(source.server, source.database, target.server, target.database)


def test_two_pipelines_with_one_server_id_are_told_apart_from_a_takeover(
    pipeline: PipelineFile,
    source_account: Account,
    target_account: Account,
    mysql_target: Server,
    tmp_path: Path,
) -> None:
    """A target that was restored from a copy of another: both read under the same short id, into different places."""
    pipeline.must("load", "FILE")
    with make_target_account(mysql_target) as copy:
        other = write_pipeline(tmp_path, source_account, copy, name="copy")
        other.must("load", "FILE")
        short_id = target_account.query("SELECT short_id FROM _replicator_checkpoint")[0][0]
        mysql_target.execute(f"UPDATE {copy.database}._replicator_checkpoint SET short_id = '{short_id}'")
        first = start(pipeline)
        second = start(other)
        output, _ = first.communicate(timeout=60)
        assert first.returncode == 4, output
        assert "server_id" in output
        assert end(second)[0] == 0
