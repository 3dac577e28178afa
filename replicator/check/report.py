"""`replicator check`: try everything that a run needs, change nothing, and say how to mend what is not right.

Above the parts that look (probe, sourcecheck, targetcheck), below the command line. Nothing stops at the first failure;
only what a failure makes senseless is left out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.text import Text

from replicator.check.checklist import Findings, Outcome
from replicator.check.probe import Probe, probe
from replicator.check.source import Source, check_source, describe_selected
from replicator.check.target import check_target, find_short_id, report_unseen
from replicator.config import PipelineConfig, load
from replicator.errors import ConfigError

FAR_SECONDS = 0.1
SKEW_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks of all files found."""

    outcomes: tuple[Outcome, ...]

    @property
    def is_ok(self) -> bool:
        return not any(item.status == "fail" for item in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0, or 3 when a check failed, or 2 when a file cannot be used."""
        if any(item.id == "config.file" and item.status == "fail" for item in self.outcomes):
            return ConfigError.exit_code
        return 0 if self.is_ok else 3


def check_files(files: Sequence[Path]) -> Report:
    """Check each pipeline file; raises nothing for what it finds."""
    outcomes: list[Outcome] = []
    for path in files:
        outcomes += _check_file(path)
    return Report(tuple(outcomes))


def _check_file(path: Path) -> list[Outcome]:
    findings = Findings(path.stem)
    try:
        config = load(path)
    except ConfigError as error:
        for problem in error.problems:
            where = f"{problem.file}:{problem.line}:{problem.column}"
            fix = problem.suggestion or "see docs/reference/configuration.md"
            findings.failed("config.file", where, problem.message, fix)
        if not error.problems:
            findings.failed("config.file", str(path), error.message, error.hint)
        return findings.outcomes
    findings.pipeline = config.pipeline
    findings.passed(
        "config.file", str(path), f"pipeline {config.pipeline}, {len(config.tables)} entries under tables"
    )
    for problem in config.warnings:
        where = f"{problem.file}:{problem.line}:{problem.column}"
        findings.warned("config.warning", where, problem.message, problem.suggestion)
    check_pipeline(findings, config)
    return [item._replace(fix=item.fix.replace(" FILE", f" {path}")) for item in findings.outcomes]


def check_pipeline(findings: Findings, config: PipelineConfig) -> None:
    """Both ends, the tables between them, and what is stored of earlier runs."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(probe(config.source, "source")))
        target = stack.enter_context(contextlib.closing(probe(config.target, "target")))
        _report_endpoint(findings, source, "source")
        found = Source()
        if source.failure is None:
            found = check_source(findings, config, source)
            stack.callback(found.close)
        if found.reader is not None and target.failure is None:
            found.reader.recognise(find_short_id(config, target))
        folds = _folds_names(target)
        tables = describe_selected(findings, config, found, fold_target_case=folds)
        _report_endpoint(findings, target, "target")
        if target.failure is None:
            check_target(findings, config, target, found, tables)
        else:
            report_unseen(findings, tables)


def _folds_names(target: Probe) -> bool:
    if target.failure is not None:
        return False
    with target.connection.cursor() as cursor:
        cursor.execute("SELECT @@lower_case_table_names")
        return int(cursor.fetchone()[0]) != 0


_STEPS = ("resolve", "reach", "tls", "login", "database")


def _report_endpoint(findings: Findings, found: Probe, side: str) -> None:
    """One outcome for each step that was taken; a failed one is the last."""
    subject = f"{side} {found.endpoint.address}"
    failure = found.failure
    done = _STEPS if failure is None else _STEPS[: _STEPS.index(failure.step)]
    if "resolve" in done:
        findings.passed(f"{side}.resolve", subject, f"{found.endpoint.host} is {', '.join(found.addresses)}")
    if "reach" in done:
        findings.passed(f"{side}.reach", subject, f"connected in {_format_ms(found.connect_seconds)}")
    if failure is not None:
        findings.failed(f"{side}.{failure.step}", subject, failure.message, failure.fix)
        return
    _report_tls(findings, found, side, subject)
    findings.passed(f"{side}.login", subject, f"as {found.endpoint.user}")
    if found.endpoint.database:
        findings.passed(f"{side}.database", subject, f"database {found.endpoint.database}")
    _report_distance(findings, found, side, subject)


def _report_tls(findings: Findings, found: Probe, side: str, subject: str) -> None:
    mode = found.endpoint.tls.mode
    if found.tls is not None:
        verified = "verified" if mode.is_verified else "not verified"
        findings.passed(f"{side}.tls", subject, f"{found.tls}, tls mode {mode}, certificate {verified}")
        return
    findings.warned(
        f"{side}.tls",
        subject,
        f"plain text, tls mode {mode}: passwords and rows can be read on the way",
        f"where the server has TLS: {side}: {{tls: {{mode: required}}}}; else only on a private network",
    )


def _report_distance(findings: Findings, found: Probe, side: str, subject: str) -> None:
    rtt = f"median round trip {_format_ms(found.rtt)}"
    if found.rtt > FAR_SECONDS:
        fix = f"ping -c 10 {found.endpoint.host}    # is the way through the tunnel the shortest?"
        findings.warned(f"{side}.rtt", subject, rtt, fix)
    else:
        findings.passed(f"{side}.rtt", subject, rtt)
    offset = f"{found.clock_offset:+.3f} s against this machine"
    if abs(found.clock_offset) > SKEW_SECONDS:
        fix = "timedatectl set-ntp true    # on the machine whose clock is wrong"
        findings.warned(f"{side}.clock", subject, offset, fix)
    else:
        findings.passed(f"{side}.clock", subject, offset)


def _format_ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


# --- printing ---------------------------------------------------------------------------------------------------------

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def print_report(report: Report, *, as_json: bool) -> None:
    """Print for a program, or one line a check with its fix below it."""
    if as_json:
        checks = [item._asdict() for item in report.outcomes]
        sys.stdout.write(orjson.dumps({"ok": report.is_ok, "checks": checks}).decode() + "\n")
        return
    console = Console(soft_wrap=True, highlight=False)
    several = len({item.pipeline for item in report.outcomes}) > 1
    for item in report.outcomes:
        console.print(_render(item, several))
    console.print(Text(_count(report.outcomes), "bold" if report.is_ok else "bold red"))


def _render(item: Outcome, several: bool) -> Text:
    text = Text.assemble(
        (f"{item.status}  ", _STYLES[item.status]),
        (f"{item.id:<32}", "bold" if item.status == "fail" else ""),
        f" {item.pipeline}: " if several else " ",
        (item.subject, "dim"),
        f"  {_indent(item.message)}",
    )
    if item.status != "pass" and item.fix:
        text.append(f"\n      fix: {_indent(item.fix)}", "cyan")
    return text


def _indent(text: str) -> str:
    return text.replace("\n", "\n           ")


def _count(outcomes: Iterable[Outcome]) -> str:
    statuses = [item.status for item in outcomes]
    failed, warned = statuses.count("fail"), statuses.count("warn")
    return f"{len(statuses)} checks: {failed} failed, {warned} with a warning"
