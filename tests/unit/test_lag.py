"""Lag in the source's clock (SEMANTICS §11): true when level, behind, away, and with clocks that disagree."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from replicator.lag import HEARTBEAT_SECONDS, Lag
from replicator.testing import MemoryPosition

NOON = 1_700_000_000.0


@dataclass
class Clock:
    """Our wall clock and our monotonic one, moved together."""

    now: float = NOON

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - NOON + 50


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_lag(clock: Clock, *, reported: int = 10, applied: int = 10) -> Lag:
    lag = Lag(clock.wall, clock.monotonic)
    lag.begin(MemoryPosition(reported), MemoryPosition(applied))
    return lag


def report(lag: Lag, clock: Clock, number: int) -> None:
    lag.reported(MemoryPosition(number), clock.monotonic())


def commit(lag: Lag, number: int, committed_at: float) -> None:
    time = int(committed_at * 1e6)
    lag.opened(time)
    lag.emitted(time)
    lag.applied(MemoryPosition(number), time)


def test_an_idle_source_that_is_heard_of_has_no_lag(clock: Clock) -> None:
    lag = make_lag(clock)
    for _ in range(100):
        clock.pass_by(HEARTBEAT_SECONDS)
        assert lag.seconds() == 0
        report(lag, clock, 10)


def test_a_change_counts_from_its_commit_until_it_is_applied(clock: Clock) -> None:
    lag = make_lag(clock)
    committed_at = int(clock.now * 1e6)
    clock.pass_by(3)
    lag.opened(committed_at)
    assert lag.seconds() == pytest.approx(3)
    lag.emitted(committed_at)
    clock.pass_by(4)
    assert lag.seconds() == pytest.approx(7)
    lag.opened(int(clock.now * 1e6))  # a younger change: the oldest decides
    assert lag.seconds() == pytest.approx(7)
    lag.emitted(int(clock.now * 1e6))
    lag.applied(MemoryPosition(11), committed_at)
    clock.pass_by(1)
    assert lag.seconds() == pytest.approx(1)


@pytest.mark.parametrize("offset", [3600.0, -3600.0])
def test_the_source_s_clock_counts_not_ours(clock: Clock, offset: float) -> None:
    lag = make_lag(clock)
    lag.clock_offset = lambda: offset
    lag.opened(int((clock.now + offset) * 1e6))
    clock.pass_by(2)
    assert lag.seconds() == pytest.approx(2)


def test_a_source_that_is_silent_for_two_heartbeats_is_behind_by_its_silence(clock: Clock) -> None:
    lag = make_lag(clock)
    clock.pass_by(2 * HEARTBEAT_SECONDS)
    assert lag.seconds() == 0
    for seconds in (1, 60, 3600):
        clock.pass_by(seconds)
        assert lag.seconds() == pytest.approx(clock.monotonic() - 50)
    report(lag, clock, 10)
    assert lag.seconds() == 0


def test_behind_a_source_that_went_away_the_oldest_change_counts(clock: Clock) -> None:
    lag = make_lag(clock)
    lag.opened(int(clock.now * 1e6) - 30_000_000)
    clock.pass_by(100)
    assert lag.seconds() == pytest.approx(130)


def test_after_a_stop_of_unknown_length_nothing_is_claimed(clock: Clock) -> None:
    """The source was ahead when asked, and no change of the gap was read yet: that is not 0."""
    lag = make_lag(clock, reported=1000, applied=10)
    assert lag.seconds() is None
    commit(lag, 11, clock.now - 7200)
    assert lag.seconds() == pytest.approx(7200)
    commit(lag, 1000, clock.now)
    assert lag.seconds() == 0


def test_what_was_reported_and_not_read_is_as_old_as_the_last_report_at_most(clock: Clock) -> None:
    """The last change was applied an hour ago: that says nothing of the age of the next."""
    lag = make_lag(clock)
    commit(lag, 11, clock.now)
    clock.pass_by(3600)
    report(lag, clock, 11)
    clock.pass_by(4)
    report(lag, clock, 12)
    assert lag.seconds() == pytest.approx(4)
