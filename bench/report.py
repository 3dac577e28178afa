"""Where results go: one JSON line each, a file of all of them, and a Markdown table with the machine they hold for."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What is asked for; `ratio` unless said.
WANTED = {
    "inserts": "≥ 0.5",
    "oltp": "≥ 10",
    "load": "≥ 1.5",
    "latency": "median ≤ 50 ms",
    "postgres-decoding": "≥ 250,000 rows/s of one core",
    "postgres-load": "≥ 0.75, plain ≥ 5",
    "postgres-inserts": "≥ 0.35",
}


def describe_machine() -> dict[str, Any]:
    cpu = [line.split(":", 1)[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line.split()[1] for line in _read("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[0]) / 1024**2) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _read(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def is_met(result: Mapping[str, Any]) -> bool:
    """Whether the result is what is asked for."""
    if result["workload"] == "latency":
        return bool(result["latency_ms"]["median"] <= 50)
    if result["workload"] == "postgres-decoding":
        return bool(result["rows_per_cpu_second"] >= 250_000)
    if result.get("plain_ratio", 5) < 5:
        return False
    return bool(result["ratio"] >= float(WANTED[result["workload"]].split()[1].strip(",")))


def describe_figure(result: Mapping[str, Any]) -> str:
    """The figure that `WANTED` is about."""
    if result["workload"] == "latency":
        return f"median {result['latency_ms']['median']:.1f} ms"
    if result["workload"] == "postgres-decoding":
        return f"{result['rows_per_cpu_second']:,} rows/s of one core"
    plain = f", plain {result['plain_ratio']:.2f}" if "plain_ratio" in result else ""
    return f"ratio {result['ratio']:.2f}{plain}"


def build_markdown(document: Mapping[str, Any]) -> str:
    """The whole page: table, machine, command, and how to read it."""
    machine, results = document["machine"], document["results"]
    lines = [
        "# Benchmark",
        "",
        f"`{document['command']}` on {document['date']}, commit {document['commit']}: {machine['cpu']},"
        f" {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']},"
        f" MySQL {document['mysql']} on all sides, loopback. {document['settings']}",
        "",
        "| workload | rows | replicator | peer | ratio | wanted | met | spread | peak memory | limited by |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_build_row(result) for result in results),
        "",
        *_build_notes(results),
    ]
    return "\n".join(lines) + "\n"


def _build_row(result: Mapping[str, Any]) -> str:
    cells = [
        result["workload"],
        f"{result['rows']:,}",
        _describe_side(result, "latency_ms", "rows_per_second"),
        f"{result['peer']}: {_describe_side(result, 'peer_latency_ms', 'peer_rows_per_second')}"
        if result["peer"]
        else "-",
        describe_figure(result).removeprefix("ratio ")
        if result["ratio"] is None
        else f"{result['ratio']:.2f}",
        WANTED[result["workload"]],
        "yes" if is_met(result) else "**no**",
        f"{result['spread']:.0%}",
        f"{result['peak_rss_bytes'] / 2**20:.0f} MiB",
        result["bottleneck"],
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _describe_side(result: Mapping[str, Any], latency: str, rate: str) -> str:
    if latency in result:
        seen = result[latency]
        return f"median {seen['median']:.1f}, p99 {seen['p99']:.1f}, max {seen['max']:.1f} ms"
    return f"{result[rate]:,} rows/s"


def measure_others(results: Sequence[Mapping[str, Any]]) -> float:
    """How much of a core other programs used during the runs of all contestants, on average."""
    runs = [run for result in results for run in [*result["runs"], *result.get("peer_runs", ())]]
    spent = sum(run["seconds"] for run in runs)
    return float(sum(run.get("other_cpu_seconds", 0.0) for run in runs) / spent) if spent else 0.0


def _build_notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {result["workload"]: result for result in results}
    notes = [
        "Medians of the runs, contestants in turn; spread is (max - min) / median. `inserts` and `oltp` are timed from the"
        " first commit of a run (right before it opens the log; START REPLICA for the peer) until all is applied,"
        " `load` from command to command's end. Every copy was compared with its source by a checksum.",
    ]
    if (others := measure_others(results)) >= 0.1:
        notes.append(
            f"Other programs used {others:.0%} of a core while this was measured: the figures are lower than they would be"
            " on a quiet machine, and the ratios are not sure."
        )
    if oltp := found.get("oltp"):
        notes.append(
            f"`oltp`: MySQL's own replication commits each transaction durably, the replicator many at once; measured over"
            f" {oltp['peer_transactions']:,} of the same transactions. With relaxed flushing it reaches"
            f" {oltp['relaxed_peer_rows_per_second']:,} transactions/s, ratio {oltp['relaxed_ratio']:.2f}."
        )
    if load := found.get("load"):
        notes.append(
            f"`load`: without the command's start-up the ratio is {load['ratio_without_start_up']:.2f}."
        )
    if "latency" in found:
        notes.append(
            "`latency`: 200 one-row commits/s; from COMMIT's answer at the source until a reader that asks about every"
            " millisecond sees the row; `ratio` is the peer's median to ours."
        )
    return [line for note in notes for line in (note, "")][:-1]


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """The JSON file, and the Markdown page beside it under the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(build_markdown(document))
