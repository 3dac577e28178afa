"""What an outage is waited out with: bounded delays, told each time, ended by the stop event (SEMANTICS §8)."""

from __future__ import annotations

import threading

import pytest

from replicator.errors import ReplicatorError, TargetError, TargetUnavailable
from replicator.patience import build_delays, persist


def test_delays_grow_and_stay_bounded() -> None:
    delays = build_delays(0.1, 2.0)
    seen = [next(delays) for _ in range(20)]
    assert 0.05 <= seen[0] <= 0.1
    assert all(1.0 <= delay <= 2.0 for delay in seen[6:])


class Action:
    """Fails with these errors, one after the other, then works."""

    def __init__(self, *errors: ReplicatorError) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_an_outage_is_told_and_waited_out() -> None:
    told: list[str] = []
    action = Action(TargetUnavailable("gone"), TargetUnavailable("still gone"))
    done = persist(action, tell=lambda error: told.append(error.message), stop=threading.Event(), first=0.001)
    assert (done, action.calls) == ("done", 3)
    assert told == ["gone", "still gone"]


def test_what_waiting_cannot_mend_is_raised_at_once() -> None:
    action = Action(TargetError("wrong password"))
    with pytest.raises(TargetError, match="wrong password"):
        persist(action, tell=lambda error: pytest.fail(error.message), stop=threading.Event())
    assert action.calls == 1


def test_once_told_to_stop_the_next_error_is_raised() -> None:
    """Also where the delay has only begun: nobody waits for the end of it."""
    stop = threading.Event()
    action = Action(*(TargetUnavailable(str(number)) for number in range(9)))
    with pytest.raises(TargetUnavailable, match="1"):
        persist(action, tell=lambda _: stop.set(), stop=stop, first=60.0, longest=60.0)
    assert action.calls == 2


def test_whoever_is_told_may_give_up() -> None:
    def give_up(error: ReplicatorError) -> None:
        raise TargetError(f"{error.message} for too long")

    with pytest.raises(TargetError, match="gone for too long"):
        persist(Action(TargetUnavailable("gone")), tell=give_up, stop=threading.Event())
