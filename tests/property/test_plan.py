"""Any history, cut into batches of any size, planned and run step by step, ends where the source ended (I4)."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.model import Changes
from replicator.plan import PlanSettings, build_edges, build_plan
from tests.reference import Model, Program, build_tables, join_blocks, run_plan, run_program

ORDERS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["insert"] * 8 + ["update"] * 8 + ["delete"] * 4 + ["truncate"]),
        st.integers(0, 1 << 12),
        st.tuples(*[st.integers(0, 40)] * 5),
    ),
    min_size=1,
    max_size=60,
)
RULES = st.tuples(
    st.sampled_from(["RESTRICT", "CASCADE"]),
    st.sampled_from(["RESTRICT", "CASCADE"]),
    st.sampled_from(["RESTRICT", "SET NULL", "CASCADE"]),
    st.sampled_from(["RESTRICT", "CASCADE", "SET NULL"]),
)
BUDGET = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def apply(target: Model, program: Program, size: int, plan: PlanSettings, seed: int) -> None:
    shuffle = random.Random(seed).shuffle
    for start in range(0, len(program.transactions), size):
        changes = [change for group in program.transactions[start : start + size] for change in group]
        run_plan(target, build_plan(join_blocks(changes), plan), shuffle)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("mode", ["unchecked", "logged", "silent"])
@BUDGET
@given(rules=RULES, orders=ORDERS, cut=st.tuples(st.sampled_from([1, 2, 3, 7, 1000]), st.integers(0, 99)))
def test_batches_end_where_the_source_ends(
    mode: str, careful: bool, rules: tuple[str, ...], orders: list[tuple[Any, ...]], cut: tuple[int, int]
) -> None:
    tables = build_tables(*rules)
    program = run_program(tables, orders, checks=True, logged=mode != "silent")
    plan = PlanSettings(
        checks=mode != "unchecked",
        careful=careful,
        cascades_logged=mode == "logged",
        parents=build_edges(tables),
    )
    target = Model.of(tables, checks=plan.checks)
    apply(target, program, cut[0], plan, cut[1])
    assert target.rows == program.end.rows


@BUDGET
@given(orders=ORDERS, size=st.sampled_from([1, 7, 1000]), seed=st.integers(0, 99))
def test_a_careful_plan_can_run_twice(orders: list[tuple[Any, ...]], size: int, seed: int) -> None:
    """What a careful plan does to each key depends on the changes alone, as long as one unique key is at stake."""
    tables = build_tables("RESTRICT", "RESTRICT", "RESTRICT", "RESTRICT")
    only_key = [(3, what, choice, values) for _, what, choice, values in orders]
    program = run_program(tables, only_key, checks=True, logged=True)
    target = Model.of(tables, checks=False)
    apply(target, program, size, PlanSettings(careful=True), seed)
    first = copy.deepcopy(target.rows)
    apply(target, program, 1000, PlanSettings(careful=True), seed)
    assert first == target.rows == program.end.rows


def test_a_block_may_hold_the_whole_history_of_nothing() -> None:
    assert build_plan([], PlanSettings()) == []
    table = build_tables("RESTRICT", "RESTRICT", "RESTRICT", "RESTRICT")[3]
    assert build_plan([Changes(table, 1, (), ())], PlanSettings()) == []  # type: ignore[arg-type]
