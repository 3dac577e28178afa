"""The benchmark's pure parts: the work it asks for, what it makes of measurements, and what it prints."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from bench.data import Orders
from bench.latency import Latencies
from bench.measure import Run, Usage, attribute, build_result, build_run, percentile, spread
from bench.report import build_markdown, is_met
from bench.workloads import alternate, build_latency_result, read_last_number

# What DESIGN §5.2 promises of each line.
KEYS = [
    "workload",
    "rows",
    "transactions",
    "seconds",
    "rows_per_second",
    "peak_rss_bytes",
    "cpu_seconds",
    "peer",
    "peer_rows_per_second",
    "ratio",
    "bottleneck",
]


def make_run(rate: float, *, rss: int = 0, **extra: float) -> Run:
    cpu = {"replicator": 1.0, "source": 0.1, "target": 2.0}
    return Run(10.0, int(rate * 10), 5, cpu, "target", rss, extra)


def test_one_seed_is_one_work() -> None:
    first, again, other = Orders(1), Orders(1), Orders(2)
    assert [*first.insert_statements(50, 20), *first.mixed_statements(50)] == [
        *again.insert_statements(50, 20),
        *again.mixed_statements(50),
    ]
    assert next(iter(other.insert_statements(1, 1))) != next(iter(Orders(1).insert_statements(1, 1)))


def test_inserts_are_cut_into_statements_without_gaps() -> None:
    statements = list(Orders(3).insert_statements(25, 10))
    ids = [[int(n) for n in re.findall(r"[(,]\((\d+),|VALUES \((\d+),", s)[0] if n] for s in statements]
    assert [first for (first,) in ids] == [1, 11, 21]
    assert [statement.count("'SKU-") for statement in statements] == [10, 10, 5]


def test_the_mix_is_the_one_asked_for_and_names_living_rows_only() -> None:
    orders = Orders(4)
    list(orders.insert_statements(1000, 1000))
    living = set(range(1, 1001))
    verbs: Counter[str] = Counter()
    for statement in orders.mixed_statements(5000):
        verb = statement.split(" ", 1)[0]
        verbs[verb] += 1
        number = int(re.findall(r"VALUES \((\d+)|id = (\d+)", statement)[0][verb != "INSERT"])
        if verb == "INSERT":
            assert number not in living
            living.add(number)
        else:
            assert number in living
            living -= {number} if verb == "DELETE" else set()
    assert verbs["UPDATE"] == pytest.approx(3000, rel=0.05)
    assert verbs["INSERT"] == pytest.approx(1000, rel=0.1)
    assert verbs["DELETE"] == pytest.approx(1000, rel=0.1)


def test_a_result_has_the_promised_keys_and_the_ratio_of_medians() -> None:
    ours = [make_run(100, rss=7), make_run(300, rss=9), make_run(200, rss=8)]
    result = build_result("inserts", ours, "peer", [make_run(50), make_run(80), make_run(60)])
    assert [key for key in KEYS if key not in result] == []
    assert (result["rows_per_second"], result["peer_rows_per_second"], result["ratio"]) == (200, 60, 3.33)
    assert result["peak_rss_bytes"] == 9
    assert result["spread"] == 1.0
    assert len(result["runs"]) == len(result["peer_runs"]) == 3


@pytest.mark.parametrize(
    ("processes", "threads", "others", "expected"),
    [
        (
            {"replicator": 0.95, "target": 0.5},
            {"replicator": 0.5, "target": 0.4},
            0.1,
            "replicator: process 95%",
        ),
        (
            {"replicator": 0.5, "target": 0.9},
            {"replicator": 0.4, "target": 0.9},
            0.1,
            "target: one thread 90%",
        ),
        ({"replicator": 0.7, "target": 0.8}, {"target": 0.7}, 0.4, "all 2 cores: target 80%, replicator 70%"),
        ({"replicator": 0.2, "target": 0.3}, {"target": 0.3}, 0.1, "waiting"),
    ],
)
def test_the_bottleneck_is_who_was_busy(
    processes: dict[str, float], threads: dict[str, float], others: float, expected: str
) -> None:
    assert attribute(processes, threads, others, cores=2).startswith(expected)


def test_a_disturbed_run_says_so() -> None:
    assert "others on this machine 120%" in attribute({"replicator": 0.6}, {}, 1.2, cores=2)


def test_a_run_is_the_difference_of_two_moments() -> None:
    before = Usage(
        10.0, {"replicator": 1.0, "target": 5.0}, {"replicator": {1: 1.0}, "target": {2: 5.0}}, 20.0
    )
    after = Usage(
        14.0, {"replicator": 2.0, "target": 8.5}, {"replicator": {1: 2.0}, "target": {2: 5.0, 3: 3.5}}, 25.5
    )
    run = build_run(before, after, rows=400, transactions=4, clients=0.5)
    assert run.rate == 100
    assert run.cpu == {"replicator": 1.0, "target": 3.5, "clients": 0.5}
    assert run.extra["other_cpu_seconds"] == 0.5
    assert run.bottleneck.startswith("target: one thread 88%")


def test_percentile_is_the_nearest_rank() -> None:
    values = list(range(1, 101))
    assert (percentile(values, 0.99), percentile(values, 0.5), percentile([3.0], 0.99)) == (99, 50, 3.0)
    assert spread([90.0, 100.0, 110.0]) == 0.2


def test_who_goes_first_turns() -> None:
    seen: list[str] = []
    for number in range(3):
        alternate(number, [lambda: seen.append("a"), lambda: seen.append("b")])
    assert "".join(seen) == "abbaab"


def test_the_last_number_of_a_server_is_found_among_others() -> None:
    assert read_last_number("aa:1-7,\nbb:1-99,\ncc:5", "bb") == 99
    assert read_last_number("aa:1-7", "bb") == 0
    assert read_last_number("aa:1", "aa") == 1


def test_latency_is_judged_by_its_own_median() -> None:
    quick, slow = Latencies([0.01] * 99 + [0.2], 200.0), Latencies([0.06] * 100, 200.0)
    runs = [(make_run(200, median_ms=10.0), quick), (make_run(200, median_ms=60.0), slow)]
    result = build_latency_result(runs[:1], runs[1:])
    assert result["latency_ms"] == {"median": 10.0, "p99": 10.0, "max": 200.0}
    assert (result["ratio"], is_met(result)) == (6.0, True)
    assert not is_met(build_latency_result(runs[1:], runs[:1]))


def test_the_page_names_machine_command_and_what_is_not_met() -> None:
    ours, peers = make_run(100, other_cpu_seconds=8.0), make_run(100, other_cpu_seconds=0.0)
    result = build_result("load", [ours], "mysqldump | mysql", [peers])
    machine = {"cpu": "x", "cores": 2, "memory_gib": 4.0, "system": "Linux", "python": "3.11"}
    page = build_markdown(
        {
            "machine": machine,
            "results": [result | {"ratio_without_start_up": 1.2}],
            "command": "python -m bench",
            "date": "2024-01-01",
            "commit": "abc",
            "mysql": "9.7",
            "settings": "durable",
        }
    )
    row = next(line for line in page.splitlines() if line.startswith("| load"))
    assert "mysqldump \\| mysql" in row
    assert "| 1.00 | ≥ 1.5 | **no** |" in row
    assert "`python -m bench`" in page
    assert "2 cores" in page
    assert "Other programs used 40% of a core" in page
