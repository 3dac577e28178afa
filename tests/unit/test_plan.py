"""What the random histories of tests/property/test_plan.py cannot tell: how little a plan does, and where it gives way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.model import (
    UNCHANGED,
    Changes,
    Column,
    ForeignKey,
    Index,
    IndexPart,
    Kind,
    Op,
    Row,
    TableName,
    TableSchema,
    UniqueKey,
)
from replicator.plan import Action, Edge, PlanSettings, Step, build_descents, build_edges, build_plan
from replicator.plan.fold import DOUBT, build_fold, is_exact
from replicator.plan.park import park_ahead
from replicator.plan.touch import find_watched
from tests.reference import build_table, defer, integer, text

PLAIN = build_table("plain", (integer("id"), integer("v")), (0,))
WORDS = build_table("words", (text("k"), integer("v")), (0,))
UNIQUE = build_table("uniq", (integer("id"), integer("u", True), integer("v")), (0,), (1,))
PARENT = build_table("parent", (integer("id"), integer("v")), (0,))
SETTINGS = PlanSettings()


def insert(table: TableSchema, *rows: Row) -> Changes:
    return Changes(table, Op.INSERT, (), rows)


def update(table: TableSchema, *pairs: tuple[Row, Row]) -> Changes:
    return Changes(table, Op.UPDATE, [before for before, _ in pairs], [after for _, after in pairs])


def delete(table: TableSchema, *rows: Row) -> Changes:
    return Changes(table, Op.DELETE, rows, ())


def summary(steps: list[Step]) -> list[tuple[str, str, int]]:
    return [(step.table.target, step.action.value, len(step.rows) or len(step.keys)) for step in steps]


def test_inserts_alone_are_handed_through() -> None:
    rows: list[Row] = [(1, 1), (2, 2)]
    (step,) = build_plan([Changes(PLAIN, Op.READ, (), rows)], SETTINGS)
    assert step == Step(PLAIN, Action.INSERT, rows, independent=True)
    assert step.rows is rows  # not even copied


def test_one_row_changes_become_three_steps() -> None:
    changes = [
        change
        for at in range(0, 300, 3)
        for change in (
            insert(UNIQUE, (at, at, 0)),
            update(UNIQUE, ((at + 1, at + 1, 0), (at + 1, at + 1, 1))),
            delete(UNIQUE, (at + 2, at + 2, 0)),
        )
    ]
    assert summary(build_plan(changes, SETTINGS)) == [
        ("uniq", "delete", 100),
        ("uniq", "update", 100),
        ("uniq", "insert", 100),
    ]


@pytest.mark.parametrize(
    ("table", "before", "after", "independent"), [(PLAIN, 1, 2, True), (WORDS, b"a", b"A", False)]
)
def test_inserts_run_first_only_where_they_cannot_meet_a_delete(
    table: TableSchema, before: object, after: object, independent: bool
) -> None:
    steps = build_plan([delete(table, (before, 1)), insert(table, (after, 1))], SETTINGS)  # type: ignore[arg-type]
    assert [(step.action, step.independent) for step in steps] == [
        (Action.DELETE, False),
        (Action.INSERT, independent),
    ]


def test_new_values_of_a_unique_key_need_one_level_where_none_was_held() -> None:
    changes = [update(UNIQUE, ((at, at, 0), (at, at + 1000, 0))) for at in range(100)]
    assert summary(build_plan(changes, SETTINGS)) == [("uniq", "update", 100)]


def test_nulls_of_a_unique_key_never_meet() -> None:
    changes = [update(UNIQUE, ((1, 5, 0), (1, None, 0))), update(UNIQUE, ((2, None, 0), (2, 5, 0)))]
    assert summary(build_plan(changes, SETTINGS)) == [("uniq", "update", 1)] * 2
    changes = [update(UNIQUE, ((at, None, 0), (at, at, 0))) for at in range(9)]
    assert summary(build_plan(changes, SETTINGS)) == [("uniq", "update", 9)]


def test_a_cycle_sends_only_what_it_touches_in_source_order() -> None:
    swap = [
        update(UNIQUE, ((1, 1, 0), (1, None, 0))),
        update(UNIQUE, ((2, 2, 0), (2, 1, 0))),
        update(UNIQUE, ((1, None, 0), (1, 2, 0))),
    ]
    others = [update(UNIQUE, ((at, at, 0), (at, at, 1))) for at in range(10, 20)]
    assert [number for _, _, number in summary(build_plan([*swap[:2], *others, swap[2]], SETTINGS))] == [
        10,
        1,
        1,
        1,
    ]


def test_a_batch_with_two_schemas_of_one_table_is_planned_in_two_parts() -> None:
    """I4: between them the table was altered."""
    newer = build_table("plain", (integer("id"), integer("v"), integer("w")), (0,))
    steps = build_plan([insert(PLAIN, (1, 1)), delete(newer, (1, 1, 1)), insert(newer, (1, 2, 3))], SETTINGS)
    assert [(step.table, step.action, step.independent) for step in steps] == [
        (PLAIN, Action.INSERT, True),
        (newer, Action.UPDATE, False),
    ]


def test_truncate_forgets_what_came_before() -> None:
    truncate = Changes(PLAIN, Op.TRUNCATE, (), ())
    steps = build_plan(
        [insert(PLAIN, (1, 1)), insert(UNIQUE, (1, 1, 1)), truncate, insert(PLAIN, (2, 2))], SETTINGS
    )
    assert [(step.table, step.action, step.independent) for step in steps] == [
        (PLAIN, Action.CLEAR, False),
        (PLAIN, Action.INSERT, False),
        (UNIQUE, Action.INSERT, True),
    ]


def test_a_reinserted_parent_stays_a_delete_and_an_insert_where_cascades_are_not_logged() -> None:
    """Its children are gone at the source (SEMANTICS §5.2), although none of them is in the batch."""
    edges = {"child": (Edge((1,), "parent", (0,), cascades=True),)}
    changes = [delete(PARENT, (1, 0)), insert(PARENT, (1, 1))]
    for logged, number in ((False, 2), (True, 1)):
        settings = PlanSettings(checks=True, cascades_logged=logged, parents=edges)
        assert len(build_plan(changes, settings)) == number


def test_deletes_of_a_parent_keep_their_order_where_their_cascades_may_free_each_other() -> None:
    """One foreign key cascades, the other restricts: the first parent's death takes the child of the second along."""
    edges = {"child": (Edge((1,), "parent", (0,), cascades=True), Edge((2,), "parent", (0,)))}
    changes = [delete(PARENT, (2, 0)), delete(PARENT, (1, 0))]
    tangled = build_plan(changes, PlanSettings(checks=True, parents=edges))
    assert [step.keys for step in tangled] == [[(2,)], [(1,)]]
    simple = build_plan(changes, PlanSettings(checks=True, parents={"child": edges["child"][:1]}))
    assert [step.keys for step in simple] == [[(2,), (1,)]]


def test_only_what_no_change_leaves_out_is_parked_ahead() -> None:
    """A row that has another's key, until its own slice moves it, gets back there what was cleared."""
    numbers = defer(UNIQUE, 1)
    words = defer(build_table("words", (integer("id"), text("u"), integer("v")), (0,), (1,)), 1)
    rows: list[tuple[TableSchema, Row, Row]] = [
        (numbers, (1, 1, 0), (1, 2, 0)),
        (words, (1, b"a", 0), (1, b"b", 0)),
    ]
    steps = park_ahead([update(table, (before, after)) for table, before, after in rows], 7)
    assert steps == [
        Step(numbers, Action.UPDATE, [(1, None, UNCHANGED)], careful=True, unchecked=True, present=(0, 1))
    ]


@pytest.mark.parametrize("rule", ["CASCADE", "RESTRICT"])
def test_deletes_that_descend_go_as_one_where_none_must_come_first(rule: str) -> None:
    """A second key of the table that restricts keeps them in the source's order."""
    name = TableName("s", "tree")
    parent = ForeignKey("parent", ("parent",), name, ("id",), "CASCADE")
    other = ForeignKey("other", ("other",), name, ("id",), rule)
    keys = (parent, other) if rule == "RESTRICT" else (parent,)
    tree = build_table("tree", (integer("id"), integer("parent"), integer("other")), (0,), keys=keys)
    settings = PlanSettings(checks=True, parents=build_edges([tree]), descents=build_descents([tree]))
    changes = [
        delete(tree, (5, 1, 1)),
        delete(tree, (7, 1, 5)),
        insert(tree, (8, 1, 1)),
        delete(tree, (6, 1, 1)),
    ]
    checked = [[(5,)], [(7,)], [], [(6,)]]
    assert [step.keys or [] for step in build_plan(changes, settings)] == checked
    joined = checked if rule == "RESTRICT" else [[(5,), (7,)], [], [(6,)]]
    steps = build_plan(changes, replace(settings, descends=True))
    assert [list(step.keys) for step in steps] == joined
    assert [step.descends for step in steps if step.descent] == [True] * (len(joined) - 1)


def test_what_ran_without_checks_at_the_source_stays_apart() -> None:
    """SEMANTICS §5.3; a row touched both ways goes through uncollapsed."""
    edges = {"child": (Edge((1,), "parent", (0,), cascades=True),)}
    child = build_table("child", (integer("id"), integer("p")), (0,))
    flagged = update(child, ((1, 1), (1, 2)))._replace(no_foreign_key_checks=True)
    settings = PlanSettings(checks=True, cascades_logged=True, parents=edges)
    steps = build_plan([flagged, update(child, ((1, 2), (1, 3)))], settings)
    assert [step.unchecked for step in steps] == [True, False]
    assert [step.unchecked for step in build_plan([flagged], PlanSettings())] == [False]


def test_foreign_keys_are_found_among_the_tables_given() -> None:
    keys = (
        ForeignKey("a", ("P",), PARENT.source, ("id",), "CASCADE"),
        ForeignKey("b", ("gone",), PARENT.source, ("id",)),
        ForeignKey("c", ("p",), TableName("s", "elsewhere"), ("id",)),
    )
    child = build_table("child", (integer("id"), integer("p")), (0,), keys=keys)
    assert build_edges([PARENT, child]) == {
        "child": (Edge((1,), "parent", (0,), True, True), Edge((), "parent", (0,), False, False))
    }


def _indexed(*parts: IndexPart, exact: bool = False) -> TableSchema:
    columns = (integer("id"), text("a", True), text("b", True))
    unique_keys = (UniqueKey("PRIMARY", (0,)), UniqueKey("u", (1,) if exact else (), exact))
    return TableSchema(
        TableName("s", "i"), "i", columns, (0,), unique_keys, indexes=(Index("u", "unique", parts),)
    )


def test_a_unique_key_watches_the_columns_it_is_made_of() -> None:
    assert find_watched(_indexed(exact=True)) == (0, 1)
    assert find_watched(_indexed(IndexPart("b", prefix=3))) == (0, 2)
    assert find_watched(_indexed(IndexPart(None, expression="lower(a)"))) == (0, 1, 2)
    assert find_watched(_indexed(IndexPart("generated"))) == (0, 1, 2)


def test_a_unique_prefix_is_in_doubt_only_when_it_may_change() -> None:
    table = _indexed(IndexPart("b", prefix=3))
    calm: list[Changes] = [update(table, ((at, b"x", b"y"), (at, b"z", b"y"))) for at in range(5)]
    assert summary(build_plan(calm, SETTINGS)) == [("i", "update", 5)]
    moving: list[Changes] = [
        update(table, ((at, b"x", b"%d" % at), (at, b"x", b"z%d" % at))) for at in range(5)
    ]
    assert summary(build_plan(moving, SETTINGS)) == [("i", "update", 1)] * 5


@pytest.mark.parametrize(
    ("collation", "charset", "value", "fold"),
    [
        ("utf8mb4_0900_ai_ci", "utf8mb4", b"Ab ", b"ab"),
        ("utf8mb4_0900_ai_ci", "utf8mb4", b"a\x00", DOUBT),
        ("utf8mb4_0900_ai_ci", "utf8mb4", "é".encode(), DOUBT),
        ("utf8mb4_bin", "utf8mb4", "É ".encode(), "É".encode()),
        ("utf8mb4_0900_bin", "latin1", b"\xc9 ", b"\xc9 "),
        ("utf16_bin", "utf16", b"\0a", DOUBT),
        ("utf8mb4_lithuanian_ci", "utf8mb4", b"a", DOUBT),
        (None, "utf8mb4", b"a", DOUBT),
    ],
)
def test_text_folds_as_coarsely_as_its_collation_may(
    collation: str | None, charset: str, value: bytes, fold: object
) -> None:
    column = Column("k", Kind.TEXT, "", charset=charset, collation=collation)
    assert build_fold([column])(value) == fold
    assert build_fold([column])(None) is None
    assert build_fold([column, integer("n")])((value, 1)) == (DOUBT if fold is DOUBT else (fold, 1))
    assert build_fold([column, integer("n")])((value, None)) is None
    assert is_exact([column]) == (collation == "utf8mb4_0900_bin")
