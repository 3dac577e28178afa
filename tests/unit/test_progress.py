"""Progress that people trust: never above 100 %, never backwards, an ETA only when there is one."""

from __future__ import annotations

import pytest

from replicator.load.progress import Progress
from replicator.model import Column, Kind, TableName, TableSchema


def table(name: str, rows: int, size: int = 0) -> TableSchema:
    columns = (Column("id", Kind.INTEGER, "int", nullable=False),)
    return TableSchema(TableName("shop", name), name, columns, (0,), rows_estimate=rows, bytes_estimate=size)


def test_estimate_far_too_low_never_passes_one_hundred_percent() -> None:
    orders = table("orders", rows=10, size=1000)
    progress = Progress([orders])
    progress.begin(orders.source, chunks=10, now=0.0)
    for number in range(10):
        progress.finish_chunk(orders.source, 1000, 5000, now=1.0 + number)
        seen = progress.observe(1.0 + number)
        assert seen.fraction < 1.0
        assert seen.rows <= seen.rows_expected
    progress.finish(orders.source, "catching_up", 11.0)
    assert progress.observe(11.0).fraction == 1.0
    assert progress.observe(11.0).rows_expected == 10_000


def test_fraction_never_goes_back_when_the_estimate_grows() -> None:
    orders = table("orders", rows=1000, size=1000)
    progress = Progress([orders])
    progress.begin(orders.source, chunks=100, now=0.0)
    fractions = []
    for number in range(100):
        progress.finish_chunk(orders.source, 900, 900, now=float(number))
        fractions.append(progress.observe(float(number)).fraction)
    assert fractions == sorted(fractions)


def test_estimate_far_too_high_gives_way_to_the_chunks() -> None:
    orders = table("orders", rows=1_000_000, size=1_000_000)
    progress = Progress([orders])
    progress.begin(orders.source, chunks=10, now=0.0)
    for number in range(9):
        progress.finish_chunk(orders.source, 100, 100, now=float(number))
    assert progress.observe(9.0).rows_expected < 110_000


def test_rate_is_that_of_the_window_and_eta_follows_it() -> None:
    orders = table("orders", rows=10_000, size=10_000)
    progress = Progress([orders])
    progress.observe(0.0)
    progress.begin(orders.source, chunks=100, now=0.0)
    for number in range(50):
        progress.finish_chunk(orders.source, 100, 100, now=1.0 + number)
    seen = progress.observe(50.0)
    assert seen.rows_per_second == pytest.approx(100, rel=0.1)
    assert seen.eta_seconds == pytest.approx(50, rel=0.1)


def test_stall_shows_in_the_rate_and_hides_the_eta() -> None:
    orders = table("orders", rows=10_000, size=10_000)
    progress = Progress([orders])
    progress.begin(orders.source, chunks=100, now=0.0)
    for number in range(10):
        progress.finish_chunk(orders.source, 100, 100, now=float(number))
    for second in range(10, 60):
        seen = progress.observe(float(second))
    assert seen.rows_per_second == 0
    assert seen.eta_seconds is None


def test_no_eta_before_the_figures_have_settled() -> None:
    orders = table("orders", rows=10_000, size=10_000)
    progress = Progress([orders])
    progress.observe(0.0)
    progress.begin(orders.source, chunks=100, now=0.0)
    progress.finish_chunk(orders.source, 100, 100, now=0.5)
    assert progress.observe(0.6).eta_seconds is None


def test_big_table_outweighs_small_ones() -> None:
    big, small = table("big", 1000, 1_000_000), table("small", 1000, 1000)
    progress = Progress([big, small])
    progress.begin(small.source, 1, 0.0)
    progress.finish_chunk(small.source, 1000, 1000, 1.0)
    progress.finish(small.source, "catching_up", 1.0)
    seen = progress.observe(1.0)
    assert seen.tables_done == 1
    assert seen.fraction < 0.01


def test_empty_table_is_done_at_once() -> None:
    empty = table("empty", 0)
    progress = Progress([empty])
    assert progress.observe(0.0).fraction == 0.0
    progress.begin(empty.source, 1, 0.0)
    progress.finish(empty.source, "catching_up", 0.1)
    seen = progress.observe(0.1)
    assert (seen.fraction, seen.eta_seconds) == (1.0, 0.0)


def test_restarted_table_forgets_what_it_had_counted() -> None:
    orders = table("orders", 100, 100)
    progress = Progress([orders])
    progress.begin(orders.source, 2, 0.0)
    progress.finish_chunk(orders.source, 50, 50, 1.0)
    progress.restart(orders.source)
    seen = progress.observe(2.0)
    assert (seen.rows, seen.fraction) == (0, 0.0)


def test_summary_has_one_line_a_table_in_order() -> None:
    first, second = table("first", 10, 10), table("second", 10, 10)
    progress = Progress([first, second])
    progress.begin(first.source, 1, 0.0)
    progress.finish_chunk(first.source, 10, 90, 2.0)
    progress.finish(first.source, "catching_up", 2.0)
    progress.fail(second.source)
    lines = progress.summarize(3.0)
    assert [line.source.table for line in lines] == ["first", "second"]
    assert (lines[0].rows, lines[0].bytes, lines[0].seconds, lines[0].rows_per_second) == (10, 90, 2.0, 5.0)
    assert lines[1].state == "error"
