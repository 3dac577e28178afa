"""How far the target is behind the source (SEMANTICS §11), told by stream and apply, read by status and display."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from replicator.model import Position

HEARTBEAT_SECONDS = 5.0


class Lag:
    """How far the target is behind, in seconds of the source's clock.

    The stream tells what it read, the applier what it committed. ``clock_offset`` gives the source's clock minus ours, in
    seconds, as it was measured at the last connect.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._open = 0  # commit time (µs) of the oldest change in the batch under construction, or 0
        self._emitted: deque[int] = deque()  # the same of every batch on its way, in order
        self._reported: Position | None = None
        self._reported_at = monotonic()
        self._applied: Position | None = None
        self._newest_applied = 0
        self._level_at: float | None = None  # when the target was last known to have all that the source had
        self.clock_offset: Callable[[], float] = lambda: 0.0

    def begin(self, reported: Position, applied: Position) -> None:
        """The source stood at ``reported`` when it was asked, the target at ``applied``."""
        self._applied = applied
        self.reported(reported, self._monotonic())

    def opened(self, commit_time: int) -> None:
        """The batch under construction got its first change."""
        self._open = commit_time

    def emitted(self, oldest_commit: int) -> None:
        """A batch went on its way, so the source is there; 0 when it holds no change."""
        self._reported_at = self._monotonic()
        with self._lock:
            self._open = 0
            self._emitted.append(oldest_commit)

    def applied(self, position: Position, newest_commit: int) -> None:
        """The oldest batch on its way is committed."""
        with self._lock:
            self._emitted.popleft()
            self._applied = position
            self._newest_applied = newest_commit or self._newest_applied

    def reported(self, position: Position, received: float) -> None:
        """The source said how far its log goes."""
        self._reported, self._reported_at = position, received
        with self._lock:
            if self._is_level():
                self._level_at = received

    def _is_level(self) -> bool:
        return self._reported is None or (self._applied is not None and self._applied.covers(self._reported))

    def seconds(self) -> float | None:
        """0 while everything the source reported is applied and the report is fresh; else the age of the oldest change
        that is not applied, or of the last report. Where that change was not read yet, the age of what is known to lie
        before it, which is never less; None where nothing is."""
        with self._lock:
            oldest = next((commit for commit in self._emitted if commit), 0) or self._open
            is_level = self._is_level()
        if oldest:
            return self._age(oldest)
        silence = self._monotonic() - self._reported_at
        if is_level:
            return silence if silence > 2 * HEARTBEAT_SECONDS else 0.0
        ages = [] if self._level_at is None else [self._monotonic() - self._level_at]
        if self._newest_applied:
            ages.append(self._age(self._newest_applied))
        return min(ages, default=None)

    def _age(self, commit_time: int) -> float:
        return max(0.0, self._clock() + self.clock_offset() - commit_time / 1e6)
