"""The spill keeps order and values, can be cut back anywhere, and leaves no name behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from replicator import spill as spill_module
from replicator.model import UNCHANGED, Changes, Column, Kind, Op, TableName, TableSchema
from replicator.spill import Spill, SpillFull


def make_table(name: str) -> TableSchema:
    columns = (Column("id", Kind.INTEGER, "int"), Column("v", Kind.TEXT, "text"))
    return TableSchema(TableName("db", name), name, columns, (0,))


A, B = make_table("a"), make_table("b")


def make_changes(number: int, size: int = 1000) -> Changes:
    rows = [(number, b"x" * 10), (number + 1, None)]
    if number % 3 == 0:
        return Changes(A, Op.UPDATE, rows, [(number, UNCHANGED), (number, 1.5)], size, True)
    return Changes(B, Op.INSERT, (), rows, size)


def test_spill_gives_back_what_it_took_more_than_once(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    given = [make_changes(n, 400_000) for n in range(20)]
    for changes in given:
        spill.append(changes)
    assert list(spill) == given
    assert list(spill) == given
    assert [c.table for c in spill] == [c.table for c in given]
    assert next(iter(spill)).after[0][1] is UNCHANGED
    assert len(spill) == 20
    assert spill.bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_spill_can_be_cut_back_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "BLOCK_BYTES", 3000)
    pick = random.Random(7)
    for _ in range(200):
        spill, model = Spill(tmp_path), list[Changes]()
        for number in range(pick.randrange(40)):
            if pick.random() < 0.2:
                cut = pick.randrange(len(model) + 1)
                spill.truncate(cut)
                del model[cut:]
            spill.append(make_changes(number))
            model.append(make_changes(number))
            assert len(spill) == len(model)
        assert list(spill) == model
        spill.truncate(0)
        assert list(spill) == []
        assert spill.bytes == 0
        spill.close()


def test_spill_frees_the_disk_when_cut_back(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    for number in range(10):
        spill.append(make_changes(number, 1 << 20))
    before = spill.bytes
    spill.truncate(4)
    assert spill.bytes < before
    assert list(spill) == [make_changes(n, 1 << 20) for n in range(4)]


def test_spill_names_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SpillFull, match="nowhere"):
        Spill(tmp_path / "nowhere")
