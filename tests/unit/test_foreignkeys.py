"""Groups of tables that foreign keys join, and the reasons to check them at the target (SEMANTICS §5.4)."""

from __future__ import annotations

from dataclasses import replace

from replicator.foreignkeys import ExternalChild, build_groups, build_inseparable, find_check_reasons
from replicator.model import ForeignKey, TableName, TableSchema
from replicator.testing import build_table


def child_of(name: str, parent: str, on_delete: str = "NO ACTION") -> TableSchema:
    key = ForeignKey(f"fk_{name}", ("v",), TableName("app", parent), ("id",), on_delete)
    return replace(build_table(name), foreign_keys=(key,))


A, B, C, ALONE = build_table("a"), child_of("b", "a"), child_of("c", "b", "CASCADE"), build_table("alone")


def names(groups: list[tuple[TableSchema, ...]]) -> list[list[str]]:
    return [[schema.target for schema in group] for group in groups]


def test_groups_follow_foreign_keys_through_other_tables() -> None:
    assert names(build_groups([ALONE, C, A, B])) == [["alone"], ["c", "a", "b"]]
    assert names(build_groups([A, C])) == [["a"], ["c"]]  # what joins them is not mirrored
    assert names(build_groups([A, B, child_of("y", "x"), build_table("x")])) == [["a", "b"], ["y", "x"]]
    assert names(build_groups([child_of("self", "self")])) == [["self"]]


def test_checks_are_on_only_where_they_do_work() -> None:
    assert find_check_reasons([A, B, C], cascades_logged=True, external=[]) == []
    (reason,) = find_check_reasons([A, B, C], cascades_logged=False, external=[])
    assert "fk_c" in reason
    assert find_check_reasons([A, B], cascades_logged=False, external=[]) == []  # nothing cascades
    assert find_check_reasons([A, C], cascades_logged=False, external=[]) == []  # its parent is not mirrored
    (reason,) = find_check_reasons([A], cascades_logged=True, external=[ExternalChild("app_t", "ours", "a")])
    assert "app_t" in reason


def test_tables_between_which_an_unlogged_cascade_runs_are_inseparable() -> None:
    whole = frozenset(schema.source for schema in (A, B, C))
    assert build_inseparable([A, B, C, ALONE], cascades_logged=False) == [whole]
    assert build_inseparable([A, B, C, ALONE], cascades_logged=True) == []
    assert build_inseparable([A, B, ALONE], cascades_logged=False) == []  # nothing cascades
