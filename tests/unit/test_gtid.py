"""Positions: stored form, order, and that none is made by copying a set (I1)."""

from __future__ import annotations

import pickle

import pytest

from replicator.errors import PositionLost
from replicator.readers.gtid import (
    FilePosition,
    GtidPosition,
    GtidSet,
    MariadbPosition,
    format_sid,
    parse_position,
)

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "ffffffff-71ca-11e1-9e33-c80aa9429562"
SERVER = f"mysql:{A}"


def test_gtid_set_reads_what_servers_print() -> None:
    text = f"{A}:1-3:5:9-12,\n{B}:7"
    assert str(GtidSet.parse(text)) == f"{A}:1-3:5:9-12,{B}:7"
    assert GtidSet.parse(text).count() == 9
    assert str(GtidSet.parse("")) == ""
    assert not GtidSet.parse("")


def test_gtid_set_is_normalised() -> None:
    assert str(GtidSet.parse(f"{A.upper()}:4-6:1-3:2-5, {A}:8")) == f"{A}:1-6:8"
    assert str(GtidSet.parse(f"{A}:5-4")) == ""


def test_gtid_set_keeps_tags_apart() -> None:
    text = f"{A}:1-3:blue:5-7:red_1:2"
    tagged = GtidSet.parse(text)
    assert str(tagged) == text
    assert str(GtidSet.parse(f"{A}:blue:5-7")) == f"{A}:blue:5-7"
    assert not tagged.contains(A, 5)
    assert tagged.contains(f"{A}:blue", 5)


@pytest.mark.parametrize("text", [A, f"{A}:", f"{A}:0-3", f"{A}:1-2-3", "x:1", f"{A}:1:Blau!"])
def test_gtid_set_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        GtidSet.parse(text)


def test_position_grows_without_touching_its_base() -> None:
    position = GtidPosition.of(SERVER, f"{A}:1-10,{B}:1-5")
    first = position.after(A, 11)
    later = first.after(A, 12).after(A, 13)
    assert later.base is first.base
    assert str(later) == f"gtid:{A}:1-13,{B}:1-5;server={SERVER}"
    assert str(first) == f"gtid:{A}:1-11,{B}:1-5;server={SERVER}"
    other = later.after(B, 6).after(A, 14)
    assert str(other) == f"gtid:{A}:1-14,{B}:1-6;server={SERVER}"


def test_position_covers_what_it_holds() -> None:
    start = GtidPosition.of(SERVER, f"{A}:1-10")
    ten, twelve = start.after(A, 11), start.after(A, 11).after(A, 12)
    assert twelve.covers(ten)
    assert not ten.covers(twelve)
    assert twelve.covers(start)
    assert twelve.covers(GtidPosition.of(SERVER, f"{A}:3-12"))
    assert not twelve.covers(GtidPosition.of("mysql:other", f"{A}:1"))


def test_position_includes_is_membership_not_order() -> None:
    """A table's snapshot may lack a GTID that stands before others it has (SEMANTICS §2.1)."""
    snapshot = GtidPosition.of(SERVER, f"{A}:1-10:12-20")
    stream = GtidPosition.of(SERVER, f"{A}:1-10")
    eleventh = stream.after(A, 11)
    assert not snapshot.includes(eleventh)
    assert snapshot.includes(eleventh.after(A, 12))
    assert not snapshot.covers(eleventh.after(A, 12))


def test_position_survives_pickling() -> None:
    position = GtidPosition.of(SERVER, f"{A}:1-10").after(A, 11)
    again = pickle.loads(pickle.dumps(position))
    assert again == position
    assert again.includes(position)


def test_mariadb_position_moves_one_domain() -> None:
    start = MariadbPosition.of("mariadb:7:x", "0-1-100,5-2-7")
    later = start.after(0, 1, 101).after(5, 3, 9).after(0, 1, 102)
    assert str(later) == "mariadb:0-1-102,5-3-9;server=mariadb:7:x"
    assert later.covers(start)
    assert not start.covers(later)
    assert start.includes(start.after(0, 1, 100))
    assert not start.includes(start.after(0, 1, 101))
    assert not MariadbPosition.of("mariadb:7:x", "").covers(start)


def test_mariadb_meet_is_per_domain() -> None:
    a = MariadbPosition.of("m", "0-1-100,5-2-7,6-1-1")
    b = MariadbPosition.of("m", "0-1-50,5-2-9")
    assert str(a.meet(b)) == "mariadb:0-1-50,5-2-7;server=m"


@pytest.mark.parametrize("text", ["0-1", "0-1-2,0-1-3", "a-b-c"])
def test_mariadb_position_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        MariadbPosition.of("m", text)


def test_file_position_is_bound_to_the_files_creation() -> None:
    """SEMANTICS §1.6: the same name and offset exist again after a reset."""
    old = FilePosition("s", "binlog.000009", 1000, 500)
    assert FilePosition("s", "binlog.000009", 1000, 600).covers(old)
    assert not FilePosition("s", "binlog.000009", 2000, 600).covers(old)
    assert FilePosition("s", "binlog.000010", 1001, 4).covers(old)
    assert FilePosition("s", "binlog.1000000", 3000, 4).covers(FilePosition("s", "binlog.999999", 1001, 4))
    assert not old.covers(FilePosition("other", "binlog.000009", 1000, 400))


def test_file_positions_of_two_histories_do_not_meet() -> None:
    old, new = FilePosition("s", "b.000009", 1000, 500), FilePosition("s", "b.000001", 2000, 4)
    with pytest.raises(PositionLost, match="different histories"):
        old.meet(new)
    assert old.meet(FilePosition("s", "b.000009", 1000, 400)).offset == 400


@pytest.mark.parametrize(
    "position",
    [
        GtidPosition.of(SERVER, f"{A}:1-10:12").after(A, 13),
        GtidPosition.of(SERVER, ""),
        MariadbPosition.of("mariadb:1:Zz4yg0MJqk940Igrq7eoKDfKH88=", "0-1-100").after(3, 1, 4),
        FilePosition(SERVER, "host-bin.v2.000012", 1700000000, 1234),
    ],
)
def test_stored_form_is_read_back(position: GtidPosition | MariadbPosition | FilePosition) -> None:
    again = parse_position(str(position))
    assert again == position
    assert again.covers(position)
    assert position.covers(again)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"gtid:{A}:1-3",
        "gtid:x:1;server=s",
        "file:b.1:x;created=1;server=s",
        "file:b.1:4;server=s",
    ],
)
def test_stored_form_that_is_none_is_named(text: str) -> None:
    with pytest.raises(PositionLost, match="is not a position"):
        parse_position(text)


def test_positions_of_different_kinds_never_cover_each_other() -> None:
    gtids, file = GtidPosition.of("s", f"{A}:1"), FilePosition("s", "b.1", 1, 4)
    assert not gtids.covers(file)
    assert not file.covers(gtids)
    with pytest.raises(PositionLost):
        gtids.meet(file)


def test_sid_is_formatted_as_servers_do() -> None:
    assert format_sid(bytes.fromhex(A.replace("-", ""))) == A
