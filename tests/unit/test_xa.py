"""What XA PREPARE leaves behind, and where it makes reading begin again (SEMANTICS §1.2)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import SnapshotLost, SourceError
from replicator.readers.binlog import Xid
from replicator.readers.gtid import FilePosition, GtidPosition, MariadbPosition, MysqlPosition
from replicator.readers.xa import DECISION_SECONDS, Group, OldBranches, Undecided, format_xid, parse_decision
from replicator.testing import build_insert, build_table

KEY = "00010203-0405-0607-0809-0a0b0c0d0e0f"
A = build_table("a")


@pytest.mark.parametrize(
    ("statement", "xid"),
    [
        (b"XA COMMIT X'61',X'62',7", Xid(7, b"a", b"b")),
        (b"XA ROLLBACK X'61',X'',1", Xid(1, b"a", b"")),
        (b"XA COMMIT X'00ff27',X'',-1", Xid(0xFFFFFFFF, b"\x00\xff'", b"")),
        (b"XA COMMIT 'a'", None),
    ],
)
def test_names_of_decisions(statement: bytes, xid: Xid | None) -> None:
    assert parse_decision(statement) == xid


def test_names_are_shown_as_statements_take_them() -> None:
    assert format_xid(Xid(7, b"a", b"")) == "X'61',X'',7"


class Log:
    """A log of numbered groups under one kind of position: prepares, decisions, plain ones."""

    def __init__(self, kind: str) -> None:
        start: dict[str, MysqlPosition] = {
            "gtid": GtidPosition.of("x", f"{KEY}:1-10"),
            "mariadb": MariadbPosition.of("x", "0-1-10"),
            "file": FilePosition("x", "binlog.1", 1, 10),
        }
        self.start = start[kind]

    def after(self, position: MysqlPosition, number: int) -> MysqlPosition:
        if isinstance(position, GtidPosition):
            return position.after(KEY, number)
        if isinstance(position, MariadbPosition):
            return position.after(0, 1, number)
        return FilePosition("x", "binlog.1", 1, number)

    def is_sent(self, position: MysqlPosition, number: int) -> bool:
        if isinstance(position, GtidPosition):
            return not position.gtids.contains(KEY, number)
        last = position.sequence_of(0) if isinstance(position, MariadbPosition) else position.offset
        return number > last


Step = tuple[str, int]


def get_id(group: Group) -> int:
    value = next(iter(group.store)).after[0][0]
    assert isinstance(value, int)
    return value


def read_log(
    log: Log, steps: list[Step], start: MysqlPosition, undecided: Undecided
) -> list[tuple[Any, ...]]:
    """(position, what committed, restart) of every group after ``start``, as the reader would have it."""
    position, found = start, []
    for number, (what, name) in enumerate(steps, 11):
        if not log.is_sent(start, number):
            continue
        before, position, committed = position, log.after(position, number), 0
        xid = Xid(1, bytes([name]), b"")
        if what == "prepare":
            undecided.keep(Group(xid, before, position, [build_insert(A, (number, b"x"))], 1, 100))
        elif what == "plain":
            committed = number
        else:
            group = undecided.decide(xid, position)
            if what == "commit":
                committed = get_id(group) if group else -1
        found.append((position, committed, undecided.restart_from(position, keep=False)))
    return found


def build_steps(choices: list[tuple[int, int]]) -> list[Step]:
    """A log that servers can write: only what is prepared is decided, one branch of a name at a time."""
    steps, prepared = list[Step](), set[int]()
    for choice, name in choices:
        if choice == 0:
            steps.append(("plain", 0))
        elif name not in prepared:
            steps.append(("prepare", name))
            prepared.add(name)
        else:
            steps.append(("commit" if choice == 1 else "rollback", name))
            prepared.discard(name)
    return steps


@pytest.mark.parametrize("kind", ["gtid", "mariadb", "file"])
@settings(max_examples=150, deadline=None)
@given(choices=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=25))
def test_a_restart_anywhere_commits_the_same(kind: str, choices: list[tuple[int, int]]) -> None:
    log, steps = Log(kind), build_steps(choices)
    whole = read_log(log, steps, log.start, Undecided(250))
    assert all(committed >= 0 for _, committed, _ in whole)
    for number, (position, _, restart) in enumerate(whole):
        assert position.covers(restart)
        undecided = Undecided(250)
        again = read_log(log, steps, restart, undecided)
        rest = [c for place, c, _ in again if not position.includes(place) and c]
        assert rest == [c for _, c, _ in whole[number + 1 :] if c]
    open_at_the_end = [w for w, _ in steps].count("prepare") - sum(
        w in ("commit", "rollback") for w, _ in steps
    )
    if whole:
        assert (whole[-1][2] == whole[-1][0]) == (open_at_the_end == 0)


def test_a_decision_pins_until_the_position_that_is_stored_has_it() -> None:
    """A spilled transaction leaves after the batch before it, whose checkpoint must still lead to the XA PREPARE."""
    log = Log("mariadb")
    undecided = Undecided(1000)
    prepared = log.after(log.start, 11)
    undecided.keep(Group(Xid(1, b"a", b""), log.start, prepared, [], 0, 0))
    plain = log.after(prepared, 12)
    decided = log.after(plain, 13)
    undecided.decide(Xid(1, b"a", b""), decided)
    assert undecided.restart_from(decided, keep=True) == decided
    assert undecided.restart_from(plain, keep=False) == log.start
    assert undecided.restart_from(decided, keep=False) == decided
    assert undecided.restart_from(plain, keep=False) == plain


def test_a_load_waits_for_the_old_ones_alone_and_not_for_ever() -> None:
    now = [100.0]
    branches = OldBranches(clock=lambda: now[0])
    with pytest.raises(SnapshotLost, match="'a', 'b'"):
        branches.require_decided(["'a'", "'b'"])
    with pytest.raises(SnapshotLost, match=r"\('b'\)"):
        branches.require_decided(["'b'", "'new'"])
    now[0] += DECISION_SECONDS
    with pytest.raises(SourceError, match="not decided in 600 s") as caught:
        branches.require_decided(["'b'"])
    assert not caught.value.retryable
    assert "XA ROLLBACK" in caught.value.hint
    branches.require_decided(["'new'"])
    branches.require_decided(["'b'"])  # a new one of an old name was read
