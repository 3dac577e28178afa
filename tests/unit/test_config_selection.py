"""Which tables a pipeline selects, and what it refuses to guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.config import ExistingRows, load
from replicator.config.selection import Selection, select
from replicator.errors import ConfigError

HEAD = """\
pipeline: shop
source: {type: mysql, host: db, user: u, password: "${env:P}", database: shop}
target: {type: mysql, host: app-db, user: u, password: "${env:P}", database: app}
tables:
"""
SHOP = [
    ("shop", "customers"),
    ("shop", "orders"),
    ("shop", "log_2023"),
    ("shop", "log_2024"),
    ("crm", "orders"),
]


def choose(
    folder: Path, rules: str, tables: list[tuple[str, str]] | None = None, *, fold_case: bool = False
) -> Selection:
    path = folder / "shop.yaml"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in rules.splitlines()))
    return select(load(path, {"P": "x"}), SHOP if tables is None else tables, fold_target_case=fold_case)


def names(selection: Selection) -> dict[str, str]:
    return {str(table.source): table.target for table in selection.tables}


def faults(
    folder: Path, rules: str, tables: list[tuple[str, str]] | None = None, *, fold_case: bool = False
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        choose(folder, rules, tables, fold_case=fold_case)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_an_exact_name_wins_over_a_glob_then_the_longest_glob(tmp_path: Path) -> None:
    rules = """\
"*": {existing_rows: merge}
"log_*": {skip: true}
log_2024: {to: log}
orders: {to: sales}"""
    chosen = choose(tmp_path, rules)
    assert names(chosen) == {"shop.customers": "customers", "shop.log_2024": "log", "shop.orders": "sales"}
    assert [table.existing_rows for table in chosen.tables] == [
        ExistingRows.MERGE,
        ExistingRows.REFUSE,
        ExistingRows.REFUSE,
    ]
    assert chosen.warnings == ()


def test_the_length_of_a_glob_counts_the_completed_name(tmp_path: Path) -> None:
    assert names(choose(tmp_path, '"*.orders": {skip: true}\n"order*": {to: "x_{table}"}')) == {
        "shop.orders": "x_orders"
    }


def test_placeholders_stand_for_database_and_table(tmp_path: Path) -> None:
    chosen = choose(tmp_path, '"*.orders": {to: "{schema}_{table}_{table}"}')
    assert names(chosen) == {"crm.orders": "crm_orders_orders", "shop.orders": "shop_orders_orders"}


def test_a_placeholder_is_replaced_once_even_by_a_name_that_looks_like_one(tmp_path: Path) -> None:
    chosen = choose(tmp_path, '"*": {to: "{table}_{schema}"}', [("shop", "{schema}")])
    assert names(chosen) == {"shop.{schema}": "{schema}_shop"}


def test_a_tie_that_several_tables_show_is_reported_once(tmp_path: Path) -> None:
    found = faults(tmp_path, '"log_*": {}\n"*_20*": {}')
    assert len(found) == 1
    assert 'matches "shop.log_2023"' in found[0]


def test_two_globs_of_equal_length_name_both_lines(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, '"*_2024": {}\n"log_20*": {skip: true}\n"log_2*": {}\n"*g_2024": {}')
    assert found == (
        'shop.yaml:8:3: tables."*g_2024": matches "shop.log_2024", as does "log_20*" of equal length on line 6; '
        'name the table itself: "shop.log_2024": {}'
    )


def test_a_tie_below_the_longest_glob_is_no_error(tmp_path: Path) -> None:
    rules = '"log_20*": {}\n"*g_2024": {}\n"log_2024*": {}'
    assert names(choose(tmp_path, rules, [("shop", "log_2024")])) == {"shop.log_2024": "log_2024"}


def test_two_sources_for_one_target_name_both_places(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, "crm.orders: {}\nshop.orders:\n  to: orders")
    assert found == (
        'shop.yaml:7:9: tables."shop.orders": "shop.orders" goes to target table "orders", and so does "crm.orders" '
        f'({tmp_path}/shop.yaml:5:3); tell them apart with "to", for example "{{schema}}_{{table}}"'
    )


def test_targets_that_meet_after_lower_casing_are_refused_where_the_target_folds_case(tmp_path: Path) -> None:
    tables = [("shop", "Orders"), ("shop", "orders")]
    assert len(choose(tmp_path, '"*": {}', tables).tables) == 2
    (found,) = faults(tmp_path, '"*": {}', tables, fold_case=True)
    assert 'and so does "shop.Orders"' in found
    assert 'as "Orders": the target ignores case' in found


def test_an_exact_name_must_exist_and_a_glob_should(tmp_path: Path) -> None:
    found = faults(tmp_path, "Orders: {}\nnope.nothing: {}\n'*': {}")
    assert found == [
        'shop.yaml:5:3: tables."Orders": the source has no table "shop.Orders"; did you mean "shop.orders"?',
        'shop.yaml:6:3: tables."nope.nothing": the source has no table "nope.nothing"; '
        "does it exist, and may the user read it?",
    ]
    chosen = choose(tmp_path, "orders: {}\n'tmp_*': {}\ngone: {skip: true}")
    assert [str(w).removeprefix(f"{tmp_path}/").split(";")[0] for w in chosen.warnings] == [
        'shop.yaml:6:3: tables."tmp_*": matches no table of the source',
        'shop.yaml:7:3: tables."gone": matches no table of the source',
    ]


def test_a_glob_that_never_wins_but_matches_is_no_warning(tmp_path: Path) -> None:
    assert choose(tmp_path, "orders: {}\n'order*': {}").warnings == ()


def test_system_databases_and_our_own_tables_are_never_selected(tmp_path: Path) -> None:
    system = [
        (s, "t") for s in ("mysql", "information_schema", "INFORMATION_SCHEMA", "performance_schema", "sys")
    ]
    own = [("shop", "_replicator_status"), ("app", "_replicator_checkpoint")]
    chosen = choose(tmp_path, '"*.*": {}', [*system, *own, ("shop", "orders")])
    assert names(chosen) == {"shop.orders": "orders"}
    (found,) = faults(tmp_path, '"*.*": {}', system)
    assert found.startswith("shop.yaml:1:1: no table of the source is selected")


def test_a_target_name_must_fit_mysql(tmp_path: Path) -> None:
    long = "t" * 59
    assert names(choose(tmp_path, '"*": {to: "{schema}{table}_"}', [("shop", long)])) == {
        f"shop.{long}": f"shop{long}_"
    }
    (found,) = faults(tmp_path, '"*": {to: "{schema}__{table}"}', [("shop", long)])
    assert found.startswith('shop.yaml:5:13: tables."*".to: "shop.')
    assert "65 characters; MySQL holds 64" in found
    (found,) = faults(tmp_path, '"*": {to: "_{table}"}', [("shop", "replicator_x")])
    assert '"_replicator_…" tables belong to this program' in found


def test_a_table_is_never_mirrored_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(HEAD.replace("app-db", "db") + '  "*.*": {}\n')
    config = load(path, {"P": "x"})
    assert len(select(config, [("shop", "orders")]).tables) == 1
    with pytest.raises(ConfigError, match=r'"app.orders" would be mirrored onto itself'):
        select(config, [("app", "orders")])


def test_wildcards_do_not_reach_across_the_dot_and_case_counts(tmp_path: Path) -> None:
    tables = [("shop", "orders"), ("shop", "Orders"), ("shop2", "orders"), ("shop", "a.orders")]
    assert set(names(choose(tmp_path, '"sh*.orders": {to: "{schema}_{table}"}', tables))) == {
        "shop.orders",
        "shop2.orders",
    }
    assert set(names(choose(tmp_path, '"shop.[A-Z]*": {}', tables))) == {"shop.Orders"}
    assert set(names(choose(tmp_path, '"shop?.orders": {}', tables))) == {"shop2.orders"}
    assert set(names(choose(tmp_path, "shop.a.orders: {}", tables))) == {"shop.a.orders"}
