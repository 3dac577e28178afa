"""Waiting for an end that is away, or for a lock: the one back-off of the program.

Below everything that connects. An outage is ordinary life (SEMANTICS §8): it is waited for in growing, bounded steps.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from replicator.errors import ReplicatorError

T = TypeVar("T")

log = logging.getLogger("replicator")


def persist(
    action: Callable[[], T],
    *,
    tell: Callable[[ReplicatorError], None],
    stop: threading.Event,
    first: float = 0.05,
    longest: float = 15.0,
) -> T:
    """Call ``action`` until it raises nothing that waiting may mend; ``tell`` hears of such, and may raise to give up.

    Delays as ``build_delays`` says. Once ``stop`` is set, the next error is raised.
    """
    delays = build_delays(first, longest)

    def listen(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, ReplicatorError)
        tell(error)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_worth_waiting),
        wait=lambda _state: next(delays),
        stop=tenacity.stop_when_event_set(stop),
        sleep=tenacity.sleep_using_event(stop),
        before_sleep=listen,
        reraise=True,
    )(action)


def log_outage(text: str) -> None:
    """The ``report`` of those that only the log hears: "" says that nothing is waited for any more."""
    if text:
        log.warning("waiting: %s", text)


def _is_worth_waiting(error: BaseException) -> bool:
    return isinstance(error, ReplicatorError) and error.retryable


def build_delays(first: float = 0.05, longest: float = 15.0) -> Iterator[float]:
    """Seconds to wait before each next attempt: doubling, bounded, and spread so that processes do not march in step."""
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(longest, delay * 2)
