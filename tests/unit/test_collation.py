"""Collations of a source and what stands for them: never one that calls two source keys equal (SEMANTICS §8)."""

from __future__ import annotations

import pytest

from replicator.typemap.collation import (
    COLLATIONS,
    can_hold,
    charset_of,
    choose_collation,
    is_as_fine,
    is_no_pad,
)


def test_a_mysql_collation_keeps_its_name() -> None:
    choice = choose_collation("utf8mb4_0900_ai_ci", same_product=True)
    assert choice == ("utf8mb4", "utf8mb4_0900_ai_ci", "")


def test_old_names_become_todays() -> None:
    assert choose_collation("utf8_general_ci", same_product=True)[:2] == ("utf8mb3", "utf8mb3_general_ci")
    assert choose_collation("utf8mb3_general_ci", same_product=False)[:2] == ("utf8mb3", "utf8mb3_general_ci")


@pytest.mark.parametrize(
    ("source", "charset", "expected"),
    [
        ("utf8mb4_general_ci", "utf8mb4", "utf8mb4_general_ci"),
        ("latin1_swedish_ci", "latin1", "latin1_swedish_ci"),
        ("utf8mb4_uca1400_ai_ci", "utf8mb4", "utf8mb4_0900_bin"),
        ("utf8mb4_nopad_bin", "utf8mb4", "utf8mb4_0900_bin"),
        ("latin1_swedish_nopad_ci", "utf8mb4", "utf8mb4_0900_bin"),
        ("utf16_myanmar_ci", "utf16", "utf16_bin"),
        ("ucs2_uca1400_ai_ci", "ucs2", "ucs2_bin"),
        # MariaDB's and MySQL's croatian_ci differ.
        ("utf8mb4_croatian_ci", "utf8mb4", "utf8mb4_0900_bin"),
        ("cp1250_croatian_ci", "cp1250", "cp1250_croatian_ci"),
        ("binary", "binary", "binary"),
    ],
)
def test_a_mariadb_collation_maps_to_one_as_fine(source: str, charset: str, expected: str) -> None:
    choice = choose_collation(source, same_product=False)
    assert (choice.charset, choice.collation) == (charset, expected)
    assert bool(choice.note) == (choice.collation != source)
    # What pads at the target must have padded at the source.
    assert is_no_pad(choice.collation) or not is_no_pad(source)


@pytest.mark.parametrize(
    ("target", "source", "fine"),
    [
        ("utf8mb4_0900_ai_ci", "utf8mb4_0900_ai_ci", True),
        ("utf8mb4_0900_as_cs", "utf8mb4_0900_ai_ci", True),
        ("utf8mb4_0900_ai_ci", "utf8mb4_0900_as_cs", False),
        ("utf8mb4_0900_bin", "utf8mb4_general_ci", True),
        ("utf8mb4_bin", "utf8mb4_general_ci", True),
        ("utf8mb4_bin", "utf8mb4_0900_ai_ci", False),  # it pads, the source does not
        ("utf8mb4_general_ci", "utf8mb4_unicode_ci", False),
        ("utf8mb4_de_pb_0900_as_cs", "utf8mb4_0900_ai_ci", False),
        ("utf8mb4_0900_bin", "utf8mb4_0900_as_cs", True),
        ("binary", "latin1_swedish_ci", True),
    ],
)
def test_finer_only_where_that_is_known(target: str, source: str, fine: bool) -> None:
    assert is_as_fine(target, source) is fine


@pytest.mark.parametrize(
    ("target", "source", "holds"),
    [
        ("utf8mb4", "gbk", True),
        ("latin1", "utf8mb4", False),
        ("utf8mb3", "utf8mb4", False),
        ("utf8mb3", "latin1", True),
        ("latin1", "ascii", True),
        ("sjis", "ascii", False),
        ("latin1", "latin2", False),
    ],
)
def test_character_sets_hold_what_they_can(target: str, source: str, holds: bool) -> None:
    assert can_hold(target, source) is holds


def test_every_known_collation_names_its_character_set() -> None:
    assert len(COLLATIONS) > 280
    assert {charset_of(name) for name in COLLATIONS} >= {"utf8mb4", "latin1", "gbk", "binary"}
