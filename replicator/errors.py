"""The error tree: every failure carries its exit code, whether a retry can help, and a hint to a human.

Raise the most specific class. ``message`` says what and where (file:line, table:column, position) and why; ``hint`` says
what to do about it. Secrets never enter either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class ReplicatorError(Exception):
    """Root of all errors this program raises on purpose."""

    code: ClassVar[str] = "bug"
    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def spell_account(account: str) -> str:
    """``user@host``, as CURRENT_USER() has it, in GRANT's spelling: for hints that can be pasted."""
    user, _, host = account.rpartition("@")
    return f"'{user}'@'{host}'"


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a pipeline file, at a 1-based line and column."""

    file: str
    line: int
    column: int
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.message}"
        return f"{text}; {self.suggestion}" if self.suggestion else text


class ConfigError(ReplicatorError):
    """The pipeline file or the command line cannot be used; ``problems`` holds every fault found."""

    code = "config"
    exit_code = 2

    def __init__(self, message: str, *, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems

    @classmethod
    def of(cls, problems: list[Problem]) -> ConfigError:
        return cls("\n".join(str(p) for p in problems), problems=tuple(problems))


class SourceError(ReplicatorError):
    """The source cannot be read, and waiting will not help."""

    code = "source"
    exit_code = 4


class TableUnfit(SourceError):
    """A selected table that cannot be mirrored; ``check`` is the id under which `check` reports it."""

    code = "table_unfit"

    def __init__(self, message: str, *, check: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.check = check


class ColumnUnfit(SourceError):
    """A column cannot be what the pipeline file says of it."""

    code = "column_unfit"

    def __init__(self, message: str, *, table: object, column: str) -> None:
        super().__init__(f"{table}:{column}: {message}")
        self.reason = message
        self.table = table
        self.column = column


class SourceUnavailable(SourceError):
    """The source is away for now: refused, timed out, unresolved, lost, restarting."""

    code = "source_unavailable"
    retryable = True


class SourceLocked(SourceUnavailable):
    """A lock at the source that a snapshot needs is held by somebody, whom the message names as far as may be."""

    code = "source_locked"


class SourceTaken(SourceError):
    """Another process has begun to read for this pipeline; the target's epoch says who has it now (SEMANTICS §4.4)."""

    code = "source_taken"


class PositionLost(SourceError):
    """The stored position cannot be resumed: purged, another server, a reset log."""

    code = "position_lost"


class UnsupportedEvent(SourceError):
    """An event, column type, row image or statement that this version does not understand (I7)."""

    code = "unsupported_event"


class SnapshotLost(SourceError):
    """The snapshot under a table's load is gone (error 1412, lost session); that table is loaded again."""

    code = "snapshot_lost"
    retryable = True


class SnapshotBlocked(SnapshotLost):
    """A statement of the source's own waits for a table that this snapshot has read, and we for it: give the snapshot up."""

    code = "snapshot_blocked"


class TargetError(ReplicatorError):
    """The target refused something, and waiting will not help.

    ``errno`` and ``sqlstate`` are the server's (0 and "" where it said nothing); ``result_index`` is the 0-based place
    of the refused statement in its packet.
    """

    code = "target"
    exit_code = 5
    errno: int = 0
    sqlstate: str = ""
    result_index: int = 0


class TargetUnavailable(TargetError):
    """The target is away or read-only for now (SEMANTICS §8 lists the codes)."""

    code = "target_unavailable"
    retryable = True


class TargetRetry(TargetError):
    """Deadlock or lock time-out: the same batch again, at once or after a short back-off."""

    code = "target_retry"
    retryable = True


class CheckpointMismatch(TargetError):
    """The stored (epoch, seq) is not the one this batch follows (I3, I8)."""

    code = "checkpoint_mismatch"


class Fenced(TargetError):
    """A newer process has taken over this pipeline; the message names its host, pid and start time."""

    code = "fenced"


class DataError(TargetError):
    """A row the target cannot hold; ``table`` and, where the server names it, the column are in the message."""

    code = "data"

    def __init__(self, message: str, *, table: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.table = table


class DuplicateKey(DataError):
    """Error 1062: a unique value is taken at the target. Under a fast plan the batch is planned again, carefully."""

    code = "duplicate_key"


class CheckRefused(TargetError):
    """A check inside a packet failed (error 1242): a count or warning was not the one the source's history fixes."""

    code = "check_refused"


class SchemaMismatch(TargetError):
    """A target table that cannot hold its source table without loss."""

    code = "schema_mismatch"


class PausedTables(ReplicatorError):
    """The run ended in order, but tables are paused."""

    code = "paused"
    exit_code = 6


class MissingBinary(ReplicatorError):
    """A throwaway server was asked for and its binaries are not on this machine."""

    code = "missing_binary"
    exit_code = 3
