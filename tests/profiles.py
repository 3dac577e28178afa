"""All suites, once for each way in which a managed target is set up: `make test-full`.

    python -m tests.profiles [--jobs N] [--again] [PROFILE…] [-- PYTEST ARGUMENTS]

A profile whose run has ended keeps its result in a file, so that a matrix that was interrupted goes on where it stopped;
a change of the code, or ``--again``, makes all of them anew. The table at the end is also written to docs/test-full.md
when every profile ran all suites.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypedDict

from replicator.binaries import PRODUCTS, find
from replicator.servers import Setting

PROFILES: Final[dict[str, dict[str, Setting]]] = {
    "plain": {},
    "no-local-infile": {"local_infile": False},
    "primary-keys": {"sql_require_primary_key": True, "sql_generate_invisible_primary_key": True},
    "tls-required": {"require_secure_transport": True},
    "lower-case": {"lower_case_table_names": 1},
    "small-packet": {"max_allowed_packet": 4 << 20},
}
"""What the server that tests share as a target is started with (SEMANTICS §8)."""

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / ".pytest_cache" / "profiles"
PAGE = ROOT / "docs" / "test-full.md"


_ONCE: Final = "not full and not slow"
"""Repetitions of one case, and the long runs, say nothing more of a setting: the plain target alone has them."""


class Result(TypedDict):
    """One profile's run; ``state`` is what it ran on, ``failures`` the ids of what failed.

    ``commit`` names the state for a reader, and ends with ``-dirty`` where the files were not those of the commit;
    ``day`` is the UTC date of the end.
    """

    profile: str
    state: str
    commit: str
    day: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    failures: list[str]


def main() -> int:
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    ours, arguments = words[:end], words[end + 1 :]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help=f"of {', '.join(PROFILES)}; default: all"
    )
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args(ours)
    if unknown := set(options.profiles) - PROFILES.keys():
        parser.error(f"no such profile: {', '.join(sorted(unknown))}")
    state = _hash_state(arguments)
    results = []
    for profile in options.profiles or PROFILES:
        kept = None if options.again else _read_kept(profile, state)
        results.append(kept or _run(profile, state, options.jobs, arguments))
    table = _build_table(results)
    print(table)
    if not arguments and len(results) == len(PROFILES):
        PAGE.write_text(_PAGE.format(servers=_name_servers()) + table)
    return 1 if any(result["failed"] for result in results) else 0


def _hash_state(arguments: list[str]) -> str:
    """What a result depends on: the code, the tests, and which of them run."""
    digest = hashlib.sha256(json.dumps(arguments).encode())
    for path in sorted([*ROOT.glob("replicator/**/*.py"), *ROOT.glob("tests/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _name_commit() -> str:
    """The commit that is checked out, or ``unknown`` for files that are in no repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _name_servers() -> str:
    return ", ".join(
        f"{product.title} {'.'.join(map(str, find(kind).version))}" for kind, product in PRODUCTS.items()
    )


def _read_kept(profile: str, state: str) -> Result | None:
    path = RESULTS / f"{profile}.json"
    result: Result | None = json.loads(path.read_text()) if path.exists() else None
    return result if result and result["state"] == state else None


def _run(profile: str, state: str, jobs: str, arguments: list[str]) -> Result:
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / f"{profile}.xml"
    report.unlink(missing_ok=True)
    begun, commit = time.monotonic(), _name_commit()
    print(f"== target: {profile}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-n", jobs, "--target", profile, f"--junitxml={report}"]
    which = [] if profile == "plain" else ["-m", _ONCE]
    code = subprocess.run([*command, *which, *arguments], cwd=ROOT, check=False).returncode
    if code not in (0, 1) or not report.exists():
        raise SystemExit(f"{profile}: pytest ended with {code}, before its tests did")
    result = _read_report(report, profile, state, commit, time.monotonic() - begun)
    (RESULTS / f"{profile}.json").write_text(json.dumps(result, indent=1))
    return result


def _read_report(report: Path, profile: str, state: str, commit: str, seconds: float) -> Result:
    cases = list(ET.parse(report).iter("testcase"))
    failures = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failures) - skipped
    return Result(
        profile=profile, state=state, commit=commit, day=f"{datetime.now(UTC):%Y-%m-%d}", passed=passed,
        failed=len(failures), skipped=skipped, seconds=round(seconds, 1), failures=failures,
    )  # fmt: skip


def _build_table(results: list[Result]) -> str:
    lines = [
        "| target | settings | passed | failed | skipped | minutes | commit | day |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for one in results:
        settings = (
            ", ".join(f"`{name}={value}`" for name, value in PROFILES[one["profile"]].items()) or "none"
        )
        counts = f"{one['passed']} | {one['failed']} | {one['skipped']} | {one['seconds'] / 60:.1f}"
        lines.append(f"| {one['profile']} | {settings} | {counts} | `{one['commit']}` | {one['day']} |")
    failures = [f"- {one['profile']}: `{name}`" for one in results for name in one["failures"]]
    return "\n".join([*lines, *([""] if failures else []), *failures]) + "\n"


_PAGE: Final = """\
# All suites under each setting of a managed target

<!-- Made by `make test-full`. -->

Every test that uses the shared target, with that server set up in each way in which managed ones are; the account has the
rights of an ordinary one, on one database. The repetitions and the long runs are in the row of the plain target alone.
`make test-full PROFILES="small-packet"` runs one of them. Servers: {servers}.

"""


if __name__ == "__main__":
    sys.exit(main())
