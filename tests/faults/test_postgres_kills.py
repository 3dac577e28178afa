"""``test_kills`` for PostgreSQL: a seeded sample of its column of the matrix, half of it on either version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.accounts import Account
from tests.faults.dying import POINTS, POSTGRES_POINTS
from tests.faults.survival import MOST_VISITS, Ends, survive, survive_cuts, survive_takeovers
from tests.pgaccounts import PostgresAccount

ALL = (*POINTS, *POSTGRES_POINTS)
VERSIONS = ("debian", "newest")


@pytest.fixture
def ends(postgres_account: PostgresAccount, target_account: Account, tmp_path: Path) -> Ends:
    return Ends(postgres_account, target_account, tmp_path)


@pytest.mark.parametrize(
    ("postgres_source", "point"),
    [(VERSIONS[at % 2], point) for at, point in enumerate(ALL)],
    indirect=["postgres_source"],
)
def test_a_killed_run_loses_nothing_and_doubles_nothing(ends: Ends, point: str) -> None:
    survive(ends, [(point, 1)], seed=7)


@pytest.mark.parametrize("postgres_source", VERSIONS[1:], indirect=True)
def test_links_cut_at_any_byte_lose_nothing(ends: Ends) -> None:
    survive_cuts(ends, seed=5, cuts=3)


@pytest.mark.parametrize("postgres_source", VERSIONS[1:], indirect=True)
def test_newcomers_take_over(ends: Ends) -> None:
    survive_takeovers(ends, seed=5)


@pytest.mark.full
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("point", ALL)
def test_later_visits_kill_as_little(ends: Ends, point: str, times: int) -> None:
    survive(ends, [(point, min(times, MOST_VISITS.get(point, times)))], seed=100 + times)
