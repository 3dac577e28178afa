"""Run the replicator as a user does: a pipeline file and a child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.accounts import Account
from tests.pgaccounts import PostgresAccount

SECONDS = 120.0
STOPPING = ("-m", "tests.faults.stopping")
"""The program for ``PipelineFile.start`` that stops at a point: see there."""


@dataclass(slots=True)
class PipelineFile:
    """A pipeline file between two accounts; passwords travel through the environment."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def edit(self, section: str, **values: object) -> None:
        """Change keys of one section; None removes a key."""
        content = json.loads(self.path.read_text())
        content[section] = {
            key: value for key, value in (content[section] | values).items() if value is not None
        }
        self.path.write_text(json.dumps(content, indent=2))

    def set_top(self, **values: object) -> dict[str, Any]:
        """Set keys at the top of the file; returns what it held before."""
        before: dict[str, Any] = json.loads(self.path.read_text())
        self.path.write_text(json.dumps(before | values, indent=2))
        return before

    def command(self, *arguments: str, program: Sequence[str] = ("-m", "replicator")) -> list[str]:
        """``arguments`` with ``FILE`` in place of the path."""
        return [sys.executable, *program, *(str(self.path) if a == "FILE" else a for a in arguments)]

    def run(self, *arguments: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Run to the end, whatever the exit code."""
        return subprocess.run(
            self.command(*arguments),
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def must(self, *arguments: str, exit_code: int = 0, seconds: float = SECONDS) -> str:
        """Run to the end with exactly this exit code; returns standard output."""
        done = self.run(*arguments, seconds=seconds)
        assert done.returncode == exit_code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.must("status", "FILE", "--json"))
        return answer

    def start(self, *arguments: str, program: Sequence[str] = ("-m", "replicator")) -> subprocess.Popen[str]:
        """Start in the background; the caller ends it (``end``)."""
        return subprocess.Popen(
            self.command(*arguments, program=program),
            env=os.environ | self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def end(
    process: subprocess.Popen[str], number: int = signal.SIGTERM, seconds: float = 60.0
) -> tuple[int, str]:
    """Send a signal, wait, and return the exit code and all output."""
    if process.poll() is None:
        process.send_signal(number)
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def is_stopped(pid: int) -> bool:
    """Whether a process has received SIGSTOP."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def follow(process: subprocess.Popen[str], text: str) -> str:
    """Read the output of a process up to a line that holds ``text``."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"ended without a word of {text!r}:\n{seen}")


def write_pipeline(
    folder: Path,
    source: Account | PostgresAccount,
    target: Account,
    *,
    name: str = "shop",
    tables: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> PipelineFile:
    """A pipeline of every table of the source account's database, unless ``tables`` says otherwise."""
    content = {
        "pipeline": name,
        "source": {"type": source.server.kind, **_endpoint(source, "SOURCE_PASSWORD")},
        "target": {"type": "mysql", **_endpoint(target, "TARGET_PASSWORD")},
        "tables": dict(tables or {f"{source.database}.*": {}}),
    }
    if defaults:
        content["defaults"] = dict(defaults)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content, indent=2))
    return PipelineFile(path, {"SOURCE_PASSWORD": source.password, "TARGET_PASSWORD": target.password})


def _endpoint(account: Account | PostgresAccount, variable: str) -> dict[str, object]:
    return {
        "host": account.server.host,
        "port": account.server.port,
        "user": account.user,
        "password": f"${{env:{variable}}}",
        "database": account.database,
    }
