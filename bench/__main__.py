"""`python -m bench`: run the workloads, print one JSON line each, end with 1 when a figure is below what is wanted."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import postgres
from bench.peers import BenchFailed
from bench.report import WANTED, describe_figure, describe_machine, is_met, write_document
from bench.workloads import FULL, QUICK, SETTINGS, Scale
from bench.workloads import WORKLOADS as MYSQL_WORKLOADS
from replicator import binaries
from replicator.errors import ReplicatorError

WORKLOADS = MYSQL_WORKLOADS | postgres.WORKLOADS


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    scale = QUICK if options.quick else FULL
    if options.runs:
        scale = dataclasses.replace(scale, runs=options.runs)
    try:
        results = [_measure(name, scale) for name in options.only or WORKLOADS]
    except (BenchFailed, ReplicatorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        write_document(_build_document(arguments, results), options.json)
    return 0 if options.quick or all(is_met(result) for result in results) else 1


def _measure(name: str, scale: Scale) -> dict[str, Any]:
    began = time.monotonic()
    result = WORKLOADS[name](scale)
    print(json.dumps(result, ensure_ascii=False), flush=True)
    verdict = "met" if is_met(result) else "NOT MET"
    spent = time.monotonic() - began
    print(
        f"{name}: {describe_figure(result)}, wanted {WANTED[name]}: {verdict} ({spent:.0f} s)",
        file=sys.stderr,
    )
    return result


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--runs", type=int, help="runs of each contestant (default 3)")
    parser.add_argument(
        "--only", action="append", choices=list(WORKLOADS), help="this workload; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="write all results to this file, and a .md page beside it")
    parser.add_argument(
        "--quick", action="store_true", help="tiny, to see that it works: the figures mean nothing"
    )
    return parser.parse_args(arguments)


def _build_document(arguments: list[str], results: list[dict[str, Any]]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "command": " ".join(["python -m bench", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit or "unknown",
        "machine": describe_machine(),
        "mysql": ".".join(map(str, binaries.find("mysql").version)),
        "settings": "Every server: sync_binlog = 1, innodb_flush_log_at_trx_commit = 1, "
        + ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
        + ".",
        "results": results,
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`
    sys.exit(main(sys.argv[1:]))
