"""What a run costs and what holds it back: clocks, /proc, medians, and the result line of DESIGN's `bench`.

CPU and memory come from /proc of the processes themselves. `bottleneck` is an attribution from CPU alone: a thread that
was busy nearly all the time limits, else all cores together do, else the run waited (disk flushes, round trips).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUSY = 0.85
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of named processes at one moment: in all, with those of their children that have ended (PostgreSQL has
    one for each session), and of each thread; and of the whole machine."""

    at: float
    totals: Mapping[str, float]
    threads: Mapping[str, Mapping[int, float]]
    machine: float

    @classmethod
    def read(cls, pids: Mapping[str, int]) -> Usage:
        return cls(
            time.perf_counter(),
            {name: _parse_cpu(Path(f"/proc/{pid}/stat").read_text(), 4) for name, pid in pids.items()},
            {name: _read_threads(pid) for name, pid in pids.items()},
            _parse_machine(Path("/proc/stat").read_text()),
        )


def _read_threads(pid: int) -> dict[int, float]:
    threads = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        try:
            threads[int(folder.name)] = _parse_cpu((folder / "stat").read_text())
        except (FileNotFoundError, ProcessLookupError):  # the thread ended while we looked
            continue
    return threads


def _parse_cpu(stat: str, count: int = 2) -> float:
    """User and system seconds of a /proc/…/stat line, of 4 counts its ended children's too; its name may hold anything."""
    fields = stat[stat.rindex(")") + 2 :].split()
    return sum(map(int, fields[11 : 11 + count])) / _TICKS


def _parse_machine(stat: str) -> float:
    """Busy seconds of all cores: everything but idle and iowait."""
    user, nice, system, _, _, *rest = (int(number) for number in stat.splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / _TICKS


def read_peak_rss(pid: int) -> int:
    """Bytes. (rusage would count the parent's memory too, which a child shares until it execs.)"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0  # a process that has ended has no memory


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contestant. ``extra`` goes into the result's list of runs as it is."""

    seconds: float
    rows: int
    transactions: int
    cpu: Mapping[str, float]
    bottleneck: str = ""
    peak_rss: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


def build_run(
    before: Usage, after: Usage, *, rows: int, transactions: int, clients: float = 0.0, **more: Any
) -> Run:
    """The run between two moments; ``more`` are further fields of Run. Says what CPU others used meanwhile.

    ``clients``: CPU seconds of short-lived programs that belong to the contestant.
    """
    seconds = after.at - before.at
    cpu = {name: round(after.totals[name] - before.totals[name], 2) for name in after.totals}
    if clients:
        cpu["clients"] = round(clients, 2)
    busiest = {name: _busiest(before.threads[name], after.threads[name]) / seconds for name in after.threads}
    machine = after.machine - before.machine
    others = max(0.0, machine - sum(cpu.values()))
    extra = {"other_cpu_seconds": round(others, 2)} | more.pop("extra", {})
    return Run(
        seconds,
        rows,
        transactions,
        cpu,
        bottleneck=attribute(
            {name: used / seconds for name, used in cpu.items()},
            busiest,
            others / seconds,
            os.cpu_count() or 1,
        ),
        extra=extra,
        **more,
    )


def _busiest(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    return max((used - before.get(thread, 0.0) for thread, used in after.items()), default=0.0)


def attribute(processes: dict[str, float], threads: Mapping[str, float], others: float, cores: int) -> str:
    """Name the bottleneck. Shares are CPU seconds a second: of each process, of its busiest thread, of all others.

    The replicator's threads share one interpreter lock, so the whole process counts as one thread.
    """
    single = dict(threads)
    if "replicator" in processes:
        single["replicator"] = processes["replicator"]
    name, share = max(single.items(), key=lambda item: item[1])
    if share >= BUSY:
        return f"{name}: {'process' if name == 'replicator' else 'one thread'} {share:.0%} of a core"
    if sum(processes.values()) + others >= BUSY * cores:
        shares = processes | {"others on this machine": others}
        parts = sorted(shares.items(), key=lambda item: -item[1])
        return f"all {cores} cores: " + ", ".join(f"{part} {used:.0%}" for part, used in parts if used >= 0.1)
    return f"waiting (flushes, round trips); busiest is {name} ({share:.0%} of a core)"


def build_result(workload: str, ours: Sequence[Run], peer: str, theirs: Sequence[Run]) -> dict[str, Any]:
    """The result object: medians, with every run's own figures and their spread beside them.

    ``ratio`` is the ratio of the median rates. ``spread`` is (max - min) / median of the rates, ours and theirs.
    """
    median = sorted(ours, key=lambda run: run.rate)[len(ours) // 2]
    our_rate = statistics.median(run.rate for run in ours)
    result: dict[str, Any] = {
        "workload": workload,
        "rows": median.rows,
        "transactions": median.transactions,
        "seconds": round(median.seconds, 3),
        "rows_per_second": round(our_rate),
        "peak_rss_bytes": max(run.peak_rss for run in ours),
        "cpu_seconds": {name: median.cpu.get(name, 0.0) for name in ("replicator", "source", "target")},
        "peer": peer,
        "peer_rows_per_second": None,
        "ratio": None,
        "bottleneck": median.bottleneck,
        "spread": round(spread([run.rate for run in ours]), 3),
        "runs": [describe_run(run) for run in ours],
    }
    if theirs:
        peer_rate = statistics.median(run.rate for run in theirs)
        result["peer_rows_per_second"] = round(peer_rate)
        result["ratio"] = round(our_rate / peer_rate, 2)
        result["peer_spread"] = round(spread([run.rate for run in theirs]), 3)
        result["peer_runs"] = [describe_run(run) for run in theirs]
    return result


def describe_run(run: Run) -> dict[str, Any]:
    return {
        "seconds": round(run.seconds, 3),
        "rows_per_second": round(run.rate),
        "cpu_seconds": dict(run.cpu),
        "bottleneck": run.bottleneck,
        **run.extra,
    }


def spread(rates: Sequence[float]) -> float:
    return (max(rates) - min(rates)) / statistics.median(rates)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * len(ordered) * 1000) // 1000) - 1)]
