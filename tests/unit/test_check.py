"""The reference page, grants in text, and what a failed connect says about tunnel and database; no server."""

from __future__ import annotations

import errno
import inspect
import re
import socket
from pathlib import Path

import orjson
import pytest

from replicator.check.checklist import CHECKS, REFERENCE, Findings, Outcome, render_reference
from replicator.check.grants import missing, privileges_on
from replicator.check.probe import TARGET_GRANT, explain_unreachable, probe
from replicator.check.report import Report, check_files, print_report
from replicator.check.source import parse_version
from replicator.config import Endpoint, Secret
from replicator.readers import mysql_checks
from replicator.tls import Tls, TlsMode

WANTED = TARGET_GRANT.split(", ")


def endpoint(host: str, port: int = 3306) -> Endpoint:
    return Endpoint(host, port, "u", Secret("x"), "app", Tls(TlsMode.PREFERRED))


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / REFERENCE
    assert page.read_text(encoding="utf-8") == render_reference(), "run python -m replicator.check.checklist"


def test_only_registered_checks_can_be_reported() -> None:
    with pytest.raises(KeyError):
        Findings("p").passed("target.invented", "x", "y")
    assert all(check.id == name and check.looks_at and check.otherwise for name, check in CHECKS.items())


def test_what_the_source_asks_for_is_registered() -> None:
    text = inspect.getsource(mysql_checks)
    written = set(re.findall(r'"((?:source|tables)\.[a-z_.]+)"', text))
    assert "source.log_bin" in written
    built = {f"source.{name}" for name in mysql_checks._NEEDED}
    rights = ("REPLICATION SLAVE", "REPLICATION CLIENT", "BINLOG MONITOR", "XA_RECOVER_ADMIN")
    built |= {mysql_checks._right(name, True, "u@%").id for name in rights}
    assert written | built <= CHECKS.keys()


@pytest.mark.parametrize(
    ("grants", "lacking"),
    [
        ([f"GRANT {TARGET_GRANT} ON `app`.* TO `u`@`%`"], []),
        (["GRANT USAGE ON *.* TO `u`@`%`", "GRANT ALL PRIVILEGES ON `app`.* TO `u`@`%`"], []),
        (["GRANT ALL PRIVILEGES ON `other`.* TO `u`@`%`"], WANTED),
        (["GRANT ALL PRIVILEGES ON `a%`.* TO `u`@`%`"], []),
        (["GRANT ALL PRIVILEGES ON `a\\_p`.* TO `u`@`%`"], WANTED),
        (["GRANT ALL PRIVILEGES ON `a_p`.* TO `u`@`%`"], []),
        (["GRANT ALL PRIVILEGES ON `app`.`t` TO `u`@`%`"], WANTED),
        ([f"GRANT {TARGET_GRANT} ON *.* TO `u`@`%`", "REVOKE INSERT ON `app`.* FROM `u`@`%`"], ["INSERT"]),
        ([f"GRANT {TARGET_GRANT.replace('INDEX, ', '')} ON *.* TO `u`@`%` WITH GRANT OPTION"], ["INDEX"]),
        (["GRANT `role`@`%` TO `u`@`%`"], WANTED),
    ],
)
def test_missing_privileges_are_read_from_grants(grants: list[str], lacking: list[str]) -> None:
    assert missing(privileges_on(grants, "app"), WANTED) == lacking


def test_an_escaped_database_name_is_matched_literally() -> None:
    assert privileges_on(["GRANT SELECT ON `a\\_b`.* TO `u`@`%`"], "a_b") == {"SELECT"}


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "the database is down"),
        (TimeoutError("timed out"), "a tunnel that is down"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "the tunnel is down"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "the tunnel is down"),
        (OSError(errno.ECONNRESET, "Connection reset"), "reset"),
    ],
)
def test_a_failed_connect_tells_tunnel_from_database(error: OSError, word: str) -> None:
    failure = explain_unreachable(error, endpoint("10.1.2.3"), "target")
    assert failure.step == "reach"
    assert word in failure.message
    assert "10.1.2.3" in failure.fix


def test_an_unknown_name_ends_the_probe_at_its_first_step() -> None:
    found = probe(endpoint("no-such-host.invalid"), "source")
    assert found.failure is not None
    assert found.failure.step == "resolve"
    assert "no-such-host.invalid" in found.failure.message


def test_a_port_that_nobody_listens_on_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        found = probe(endpoint("127.0.0.1", taken.getsockname()[1]), "target")
    assert found.failure is not None
    assert found.failure.message.startswith("refused")


def test_versions_are_read_from_what_servers_say() -> None:
    assert parse_version("8.0.36-28") == (8, 0, 36)
    assert parse_version("10.11.14-MariaDB-0+deb12u2-log") >= (10, 5)
    assert parse_version("10.4.34-MariaDB") < (10, 5)


def test_faults_of_a_file_are_outcomes_of_their_own_and_end_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("pipeline: shop\nsurce: {}\ntarget: 5\n")
    report = check_files([path])
    assert report.exit_code == 2
    assert {item.id for item in report.outcomes} == {"config.file"}
    assert len(report.outcomes) > 1
    print_report(report, as_json=True)
    answer = orjson.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert set(answer["checks"][0]) >= {"id", "status", "subject", "message", "fix"}
    assert any(f"{path}:2:1" in check["subject"] for check in answer["checks"])


def test_exit_codes_follow_the_worst_outcome() -> None:
    def code(check: str, status: str) -> int:
        return Report((Outcome(check, status, "", ""),)).exit_code

    assert code("target.rtt", "pass") == 0
    assert code("target.rtt", "warn") == 0
    assert code("target.login", "fail") == 3
    assert code("config.file", "fail") == 2


def test_the_printed_report_has_one_line_a_check_and_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    findings = Findings("shop")
    findings.passed("source.login", "source db:3306", "as u")
    findings.failed("target.grants", "target cloud:3306", "lacks INDEX", "GRANT INDEX ON `app`.* TO 'u'@'%';")
    print_report(Report(tuple(findings.outcomes)), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pass  source.login ")
    assert lines[1].startswith("fail  target.grants ")
    assert lines[2].strip() == "fix: GRANT INDEX ON `app`.* TO 'u'@'%';"
    assert lines[3] == "2 checks: 1 failed, 0 with a warning"
