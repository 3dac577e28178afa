"""Any history, cut into batches of any size, planned and run step by step, ends where the source ended (I4)."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from replicator.model import Changes, Row
from replicator.plan import PlanSettings, build_edges, build_plan
from replicator.plan.park import park_ahead
from tests.reference import (
    Model,
    Program,
    build_table,
    build_tables,
    choose_orders,
    choose_rules,
    defer,
    integer,
    join_blocks,
    log_change,
    run_deferred,
    run_plan,
    run_program,
    text,
)

SEEDS = st.integers(0, 1 << 32)
# A program comes from a seed, so that it is long and full of collisions; there is nothing to shrink in a seed.
BUDGET = settings(max_examples=500, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])


def apply(target: Model, program: Program, size: int, plan: PlanSettings, shuffle: Any) -> None:
    for start in range(0, len(program.transactions), size):
        changes = [change for group in program.transactions[start : start + size] for change in group]
        run_plan(target, build_plan(join_blocks(changes), plan), shuffle)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("mode", ["unchecked", "logged", "silent"])
@BUDGET
@given(seed=SEEDS)
def test_batches_end_where_the_source_ends(mode: str, careful: bool, seed: int) -> None:
    chance = random.Random(seed)
    tables = build_tables(*choose_rules(chance))
    if mode != "silent" and chance.random() < 0.3:  # sources with such keys log their cascades
        tables = [defer(table, 1) if table.target != "parent" else table for table in tables]
    program = run_program(tables, choose_orders(chance), checks=True, logged=mode != "silent")
    plan = PlanSettings(
        checks=mode != "unchecked",
        careful=careful,
        cascades_logged=mode == "logged",
        parents=build_edges(tables),
    )
    target = Model.of(tables, checks=plan.checks)
    apply(target, program, chance.choice([1, 2, 3, 7, 20, 1000]), plan, chance.shuffle)
    assert target.rows == program.end.rows


LISTS = build_table(
    "lists",
    (integer("id"), integer("list"), integer("pos"), text("u", True), integer("v")),
    (0,),
    (1, 2),
    (3,),
)
ALONE = build_table("alone", (integer("pos"), text("u", True), integer("v")), (0,), (1,))
DEFERRABLE = {
    "values": defer(build_table("t", (integer("id"), integer("pos"), integer("v")), (0,), (1,)), 1),
    "nulls": defer(build_table("t", (integer("id"), text("u", True), integer("v")), (0,), (1,)), 1),
    "places in lists": defer(LISTS, 1),
    "two keys": defer(LISTS, 1, 2),
    "the key that rows are told apart by": defer(ALONE, 0),
    "both": defer(ALONE, 0, 1),
}


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("name", DEFERRABLE)
@settings(BUDGET, max_examples=150)
@given(seed=SEEDS)
def test_keys_that_hold_only_where_a_transaction_ends(
    name: str, partial: bool, careful: bool, seed: int
) -> None:
    table, chance = DEFERRABLE[name], random.Random(seed)
    is_whole = not partial or table.unique_keys[0].deferrable
    transactions, rows = run_deferred(table, chance, partial=not is_whole)
    plan = PlanSettings(careful=careful, partial=partial)
    target = Model.of([table], checks=False)
    apply(target, Program(transactions, target), chance.choice([1, 2, 3, 7, 1000]), plan, chance.shuffle)
    assert sorted(target.rows[table.target].values(), key=repr) == sorted(rows, key=repr)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@settings(BUDGET, max_examples=150)
@given(seed=SEEDS)
def test_slices_of_a_transaction_that_moves_each_row_once(partial: bool, careful: bool, seed: int) -> None:
    """In any order, among rows that go and come; as ``Preparer`` does with what is on disk."""
    chance = random.Random(seed)
    table = DEFERRABLE["values"]
    before: list[Row] = [(key, key, 0) for key in range(chance.choice([2, 5, 30]))]
    values = chance.sample(range(len(before) + 2), len(before))
    after: list[Row | None] = [
        None if chance.random() < 0.2 else (key, value, 1) for key, value in enumerate(values)
    ]
    pairs = [*zip(before, after, strict=True), (None, (100, len(before) + 2, 1))]
    pairs += [(None, (200 + key, value, 1)) for key, value in enumerate(values) if after[key] is None]
    chance.shuffle(pairs)
    changes = [log_change(table, old, new, partial=partial) for old, new in pairs]
    slices: list[list[Changes]] = []
    while changes:
        size = chance.choice([1, 4])
        slices.append(changes[:size])
        changes = changes[size:]
    target = Model.of([table], checks=False)
    for row in before:
        target.insert(table, row)
    number = 0
    for part in slices:
        run_plan(target, park_ahead(part, number), chance.shuffle)
        number += len(part)
    for part in slices:
        plan = PlanSettings(careful=careful, partial=partial, first_stand_in=number)
        run_plan(target, build_plan(part, plan), chance.shuffle)
        number += len(part)
    assert sorted(target.rows["t"].values(), key=repr) == sorted([new for _, new in pairs if new], key=repr)


@BUDGET
@given(seed=SEEDS)
def test_a_careful_plan_settles_every_key_it_names(seed: int) -> None:
    """On rows that were never the source's, it leaves each key of the batch as the source has it, twice over.

    Key changes are left out: onto a row that is there already they are multiple_unique_conflicts.
    """
    chance = random.Random(seed)
    tables = build_tables(*["RESTRICT"] * 4)
    orders = [
        (3, what, choice & ~1, values)
        for _, what, choice, values in choose_orders(chance)
        if what != "truncate"
    ]
    program = run_program(tables, orders, checks=True, logged=True)
    target = Model.of(tables, checks=False)
    strays: dict[Any, Row] = {(key,): (key, 99) for key in range(6) if chance.random() < 0.5}
    target.rows["plain"] = dict(strays)
    size = chance.choice([1, 7, 1000])
    apply(target, program, size, PlanSettings(careful=True), chance.shuffle)
    changes = [change for group in program.transactions for change in group]
    named = {(row[0],) for change in changes for row in [*change.before, *change.after]}
    untouched = {key: row for key, row in strays.items() if key not in named}
    assert target.rows["plain"] == program.end.rows["plain"] | untouched
    first = copy.deepcopy(target.rows)
    apply(target, program, 1000, PlanSettings(careful=True), chance.shuffle)
    assert target.rows == first
