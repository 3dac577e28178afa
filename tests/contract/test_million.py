"""A million rows in one transaction, killed three times on the way: right, and in less than 400 MB (SEMANTICS §1.4)."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.compare import assert_equal
from tests.contract.paths import run_all
from tests.processes import PipelineFile, write_pipeline

ROWS = 1_000_000
LIMIT_BYTES = 400 << 20
SLICED = {"max_transaction_bytes": 32 << 20}
WHOLE = {"max_transaction_bytes": 256 << 20}
TABLE = (
    "CREATE TABLE million (id INT PRIMARY KEY, name VARCHAR(60) NOT NULL, price DECIMAL(10,2) NOT NULL,"
    " made DATETIME NOT NULL, note VARCHAR(100) NOT NULL)"
)
DIGITS = "(SELECT 0 d" + "".join(f" UNION ALL SELECT {n}" for n in range(1, 10)) + ")"
NUMBER = "a.d + 10*b.d + 100*c.d + 1000*d.d + 10000*e.d + 100000*f.d"
FACTORS = ", ".join(f"{DIGITS} {name}" for name in "abcdef")
CHANGES = {
    "insert": f"INSERT INTO million SELECT {NUMBER}, 'a name', 12.50, '2026-01-02', REPEAT('n', 60) FROM {FACTORS}",
    "update": "UPDATE million SET price = price + id % 7, note = CONCAT(REPEAT('u', 60), id)",
    "delete": "DELETE FROM million",
    "small rows": f"INSERT INTO million SELECT {NUMBER}, 'n', 1, '2026-01-02', '' FROM {FACTORS}",
}


def read_peak(pid: int) -> int:
    """The most memory a process ever had resident, in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def watch(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, int]:
    """Run to the end: the exit code, and the peak. The output of such a run fits in its pipe."""
    peak, deadline = 0, time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < deadline
        peak = max(peak, read_peak(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)  # between two looks
    return process.returncode, peak


def mirror(pipeline: PipelineFile, deaths: list[tuple[str, int]]) -> int:
    """Die as told, then run to the end; the highest peak of all these processes."""
    peaks = []
    for point, times in deaths:
        program = ("-m", "tests.faults.dying", point, str(times))
        code, peak = watch(pipeline.start("run", "FILE", "--until-current", program=program))
        assert code == -signal.SIGKILL, (point, code)
        peaks.append(peak)
    process = pipeline.start("run", "FILE", "--until-current")
    code, peak = watch(process)
    assert code == 0, process.communicate()[0]
    return max(*peaks, peak)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_million_rows_in_one_transaction(
    source_account: Account, target_account: Account, tmp_path: Path
) -> None:
    """As one target transaction for the insert (killed in the spill, half sent, and when it is about to be
    acknowledged), in slices for the update and the delete."""
    source, target = source_account, target_account
    run_all(source, [TABLE])
    pipeline = write_pipeline(tmp_path, source, target)
    pipeline.must("load", "FILE")
    deaths = {
        "insert": [("large-batch-half-sent", 3), ("large-batch-half-sent", 5), ("before-ack", 1)],
        "update": [("between-slices", 1), ("large-batch-half-sent", 2), ("between-slices", 2)],
        "delete": [("large-batch-half-sent", 1), ("between-slices", 1), ("between-slices", 1)],
        "small rows": [("large-batch-half-sent", times) for times in (1, 3, 5)],
    }
    for name, statement in CHANGES.items():
        pipeline.set_top(**(SLICED if name in {"update", "delete"} else WHOLE))
        began = time.monotonic()
        run_all(source, [statement])
        wrote = time.monotonic() - began
        peak = mirror(pipeline, deaths[name])
        took = time.monotonic() - began - wrote
        rows = assert_equal(source.server, source.database, target.server, target.database)
        print(
            f"{source.server.kind} {name}: {ROWS:,} rows written in {wrote:.0f} s, mirrored in {took:.0f} s over three "
            f"kills, peak {peak >> 20} MiB, {rows:,} rows equal"
        )
        assert rows == (0 if name == "delete" else ROWS)
        assert peak < LIMIT_BYTES, f"{name}: {peak >> 20} MiB"
