"""A bounded hand-over between two stages of a pipeline: the back-pressure, and the way out when a stage fails."""

from __future__ import annotations

import queue
import threading
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.2


class Aborted(Exception):
    """Another stage has failed; this one has nothing to add."""


class Line(Generic[T]):
    """At most ``size`` items wait here; ``abort`` frees whoever waits at either end (Aborted)."""

    def __init__(self, size: int, abort: threading.Event) -> None:
        self._queue: queue.Queue[T] = queue.Queue(size)
        self._abort = abort

    def put(self, item: T) -> None:
        """Hand over, waiting while the line is full."""
        while not self._abort.is_set():
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        raise Aborted

    def get(self, seconds: float) -> T | None:
        """The next item, None when none came in time."""
        if self._abort.is_set():
            raise Aborted
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            return None
