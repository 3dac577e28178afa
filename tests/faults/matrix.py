"""The kill matrix: ``python -m tests.faults.matrix [WORD…]`` runs every point × source × seed that the words select.

Beside the points of ``dying.py`` two rows of the matrix cut links and let newcomers take over. ``SEEDS`` says how many
seeds (10). A cell that fails is told with the command that runs it again; see ``tests.matrix`` for the rest.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.accounts import Account, make_source_account, make_target_account
from tests.faults.dying import POINTS, POSTGRES_POINTS
from tests.faults.survival import MOST_VISITS, Ends, survive, survive_cuts, survive_takeovers
from tests.matrix import Bench, Result, run_cells
from tests.pgaccounts import PostgresAccount, make_postgres_account

PRODUCTS = ("mysql", "mariadb", "postgres", "postgres_newest")
OTHERS: dict[str, Callable[[Ends, int], None]] = {"links-cut": survive_cuts, "takeover": survive_takeovers}


def crash_cell(bench: Bench, cell: str) -> Result:
    """``POINT PRODUCT seed=N``; the seed also says at which visit the point kills (the first to the third)."""
    point, product, word = cell.split()
    seed = int(word.removeprefix("seed="))
    with (
        _make_account(bench, product) as source,
        make_target_account(bench.target) as target,
        tempfile.TemporaryDirectory() as folder,
    ):
        ends = Ends(source, target, Path(folder))
        if point in OTHERS:
            OTHERS[point](ends, seed)
        else:
            survive(ends, [(point, min(1 + seed % 3, MOST_VISITS.get(point, 3)))], seed)
    return {"bad": ""}


def _make_account(bench: Bench, product: str) -> AbstractContextManager[Account | PostgresAccount]:
    if product.startswith("postgres"):
        return make_postgres_account(bench.postgres(product))
    return make_source_account(bench.source(product))


def report(results: Sequence[Result]) -> int:
    """The table; 1 when a cell failed."""
    rows: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        point, product, _ = result["cell"].split()
        rows[point, product].append(result)
    print(f"\n{'point':24}{'source':17}{'passed':>7}{'failed':>7}{'seconds':>9}")
    for (point, product), found in rows.items():
        failed = sum(bool(result["bad"]) for result in found)
        seconds = sum(result["seconds"] for result in found)
        print(f"{point:24}{product:17}{len(found) - failed:7}{failed:7}{seconds:9.1f}")
    bad = [result for result in results if result["bad"]]
    for result in bad:
        print(
            f"\n{result['cell']} failed; again: make crash WORDS='{result['cell']}'\n{result['bad'][-3000:]}"
        )
    print(f"\n{len(results)} cells, {len(bad)} failed, {sum(r['seconds'] for r in results):.0f} s of work")
    return 1 if bad else 0


def main(words: Sequence[str]) -> int:
    seeds = [int(w.removeprefix("seed=")) for w in words if w.startswith("seed=")]
    seeds = seeds or list(range(1, 1 + int(os.environ.get("SEEDS") or 10)))
    cells = [
        cell
        for seed in seeds
        for point in (*POINTS, *OTHERS, *POSTGRES_POINTS)
        for product in PRODUCTS
        if product.startswith("postgres") or point not in POSTGRES_POINTS
        if set(words) <= set((cell := f"{point} {product} seed={seed}").split())
    ]
    return report(run_cells("crash", cells, crash_cell))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
