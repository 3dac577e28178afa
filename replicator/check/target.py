"""The target's part of `check`: grants and settings, the tables that are there, and what earlier runs left.

Everything is asked on a session as a run would open it; nothing is written, not even a control table.
"""

from __future__ import annotations

import pymysql

from replicator import tablestate, target
from replicator.check.checklist import Findings
from replicator.check.grants import missing, privileges_on
from replicator.check.probe import TARGET_GRANT, Probe
from replicator.check.source import Source, Tables, parse_version
from replicator.check.verdict import Judge, Verdict
from replicator.config import ExistingRows, PipelineConfig
from replicator.config.selection import SelectedTable
from replicator.errors import ReplicatorError, TargetError, spell_account
from replicator.readers.base import Reader
from replicator.session import Session
from replicator.tablestate import Status, read_known_tables

OLDEST = (8, 0, 20)
SMALL_PACKET = 16 << 20
_BY_HAND = "replicator plan FILE --ddl    # to make it otherwise by hand"

_VARIABLES = (
    "version",
    "version_comment",
    "read_only",
    "super_read_only",
    "innodb_read_only",
    "transaction_read_only",
    "local_infile",
    "max_allowed_packet",
    "lower_case_table_names",
    "sql_require_primary_key",
    "sql_generate_invisible_primary_key",
)


def check_target(
    findings: Findings, config: PipelineConfig, found: Probe, source: Source, tables: Tables
) -> None:
    """Look at the server, the account, the tables and the stored checkpoint."""
    subject = f"target {config.target.address}"
    variables = _read_variables(found)
    if not _check_version(findings, variables, subject):
        return report_unseen(findings, tables)
    is_able = _check_grants(findings, config, found, subject)
    _check_writable(findings, variables, subject)
    _check_settings(findings, variables, subject)
    try:
        with Session.connect(config.target) as session:
            findings.passed("target.session", subject, "takes and keeps the settings of a run")
            _check_stored(findings, config, session, source.reader)
            if is_able:
                _check_tables(findings, config, session, tables, source.reader)
            else:
                report_unseen(findings, tables)
    except TargetError as error:
        report_unseen(findings, tables)
        findings.failed("target.session", subject, error.message, error.hint or "see the target's error log")


def find_short_id(config: PipelineConfig, found: Probe) -> str:
    """What the pipeline's names at the source end with, '' where it never began, or its checkpoint cannot be read."""
    try:
        with found.connection.cursor() as cursor:
            cursor.execute(
                "SELECT short_id FROM _replicator_checkpoint WHERE pipeline=%s AND worker=0",
                (config.pipeline,),
            )
            row = cursor.fetchone()
    except pymysql.MySQLError:  # the checks of the target say why
        return ""
    return str(row[0]) if row else ""


def report_unseen(findings: Findings, tables: Tables) -> None:
    """Where the target cannot be asked: what its tables are made of tells the source; the rest is said to be untold."""
    if not tables.schemas:
        return
    for schema in tables.schemas:
        for note in schema.notes:
            findings.warned("tables.differences", f"target table {schema.target}", note, _BY_HAND)
    findings.warned(
        "target.table",
        f"{len(tables.schemas)} target tables",
        "not compared: the target could not be asked; what is there already may differ in other ways",
        "replicator check FILE    # again, once what failed at the target is mended",
    )


# --- the server -------------------------------------------------------------------------------------------------------


def _read_variables(found: Probe) -> dict[str, str]:
    names = ", ".join(["%s"] * len(_VARIABLES))
    with found.connection.cursor() as cursor:
        cursor.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})", _VARIABLES)
        return {str(name): str(value) for name, value in cursor.fetchall()}


def _check_version(findings: Findings, variables: dict[str, str], subject: str) -> bool:
    version = f"{variables['version']}, {variables['version_comment'].strip('()')}"
    if "mariadb" in version.lower():
        findings.failed(
            "target.version",
            subject,
            f"{version} is MariaDB, not MySQL",
            "the target must be MySQL 8.0.20 or newer",
        )
        return False
    if parse_version(version) < OLDEST:
        fix = "upgrade the target to MySQL 8.0.20 or newer"
        findings.failed("target.version", subject, f"{version} is older than 8.0.20", fix)
        return False
    findings.passed("target.version", subject, version)
    return True


def _check_grants(findings: Findings, config: PipelineConfig, found: Probe, subject: str) -> bool:
    database = config.target.database
    account, grants = _read_grants(found)
    lacking = missing(privileges_on(grants, database), TARGET_GRANT.split(", "))
    if not lacking:
        findings.passed("target.grants", subject, f"{account} has all it needs on {database}")
        return True
    findings.failed(
        "target.grants",
        subject,
        f"{account} lacks {', '.join(lacking)} on database {database}",
        f"GRANT {', '.join(lacking)} ON `{database}`.* TO {account};    -- at the target, as its administrator",
    )
    return False


def _read_grants(found: Probe) -> tuple[str, list[str]]:
    """The account in GRANT's spelling, and its grants with those of its active roles."""
    with found.connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_USER(), CURRENT_ROLE()")
        user, roles = map(str, cursor.fetchone())
        using = "" if roles == "NONE" else f" USING {roles}"
        cursor.execute(f"SHOW GRANTS FOR CURRENT_USER(){using}")
        return spell_account(user), [str(row[0]) for row in cursor.fetchall()]


def _check_writable(findings: Findings, variables: dict[str, str], subject: str) -> None:
    closed = [
        name
        for name in ("read_only", "super_read_only", "innodb_read_only", "transaction_read_only")
        if variables.get(name) in ("ON", "1")
    ]
    if not closed:
        findings.passed("target.writable", subject, "takes writes")
        return
    findings.failed(
        "target.writable",
        subject,
        f"{', '.join(closed)} is on: a replica, or a server that is failing over; a run waits until it is off",
        "SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF, GLOBAL transaction_read_only = OFF;"
        "    -- or point target.host at the writer",
    )


def _check_settings(findings: Findings, variables: dict[str, str], subject: str) -> None:
    if variables["local_infile"] == "ON":
        findings.passed("target.local_infile", subject, "LOAD DATA LOCAL is allowed")
    else:
        findings.warned(
            "target.local_infile",
            subject,
            "local_infile is off: rows go through multi-row INSERT, about half as fast",
            "SET GLOBAL local_infile = ON;    -- or in the managed server's parameters; a run works without it",
        )
    packet = int(variables["max_allowed_packet"])
    if packet < SMALL_PACKET:
        message = f"max_allowed_packet is {packet:,} bytes: no larger row can be inserted, and batches go in many packets"
        findings.warned("target.packet", subject, message, f"SET GLOBAL max_allowed_packet = {64 << 20};")
    else:
        findings.passed("target.packet", subject, f"max_allowed_packet is {packet:,} bytes")
    _check_names(findings, variables, subject)
    wishes = [
        name
        for name in ("sql_require_primary_key", "sql_generate_invisible_primary_key")
        if variables.get(name) == "ON"
    ]
    message = f"{' and '.join(wishes)} on: met by every table that is made" if wishes else "not asked for"
    findings.passed("target.primary_key", subject, message)


def _check_names(findings: Findings, variables: dict[str, str], subject: str) -> None:
    value = variables["lower_case_table_names"]
    if value == "0":
        findings.passed("target.names", subject, "lower_case_table_names is 0: the case of names is kept")
        return
    findings.warned(
        "target.names",
        subject,
        f"lower_case_table_names is {value}: names that differ in case alone are one table here",
        'tell such tables apart with "to"; nothing to do where there are none',
    )


# --- what earlier runs left -------------------------------------------------------------------------------------------


def _check_stored(
    findings: Findings, config: PipelineConfig, session: Session, reader: Reader | None
) -> None:
    status = tablestate.read_status(session, config.pipeline)
    subject = f"pipeline {config.pipeline}"
    if status is None:
        findings.passed("pipeline.running", subject, "never started here")
        return
    if status.is_running:
        findings.warned(
            "pipeline.running",
            subject,
            f"process {status.pid} on {status.host} runs it since {status.started_at} UTC; another start takes it over",
            f"ssh {status.host} kill {status.pid}    # only where that one is not wanted; or give this file another name",
        )
    else:
        message = (
            f"not running; last written {status.updated_at} UTC by process {status.pid} on {status.host}"
        )
        findings.passed("pipeline.running", subject, message)
    if reader is not None and _check_identity(findings, config, status, reader):
        _check_position(findings, status, reader)


def _check_identity(findings: Findings, config: PipelineConfig, status: Status, reader: Reader) -> bool:
    subject = f"pipeline {config.pipeline}"
    if status.identity in ("", reader.identity):
        findings.passed("pipeline.identity", subject, f"follows {reader.identity}")
        return True
    findings.failed(
        "pipeline.identity",
        subject,
        f"{config.source.address} is {reader.identity}, but the stored checkpoint belongs to {status.identity}: another "
        "server stands behind the same address",
        f"correct source.host; to follow this server from now on: replicator drop {config.path}    # then load anew",
    )
    return False


def _check_position(findings: Findings, status: Status, reader: Reader) -> None:
    """The pipeline's position, and those of tables that have not caught up with it."""
    subject = f"pipeline {status.pipeline}"
    own = {str(table.source): table.position for table in status.tables if table.is_loaded}
    stored = {subject: status.read_from or status.position} | own
    for place, position in stored.items():
        if position is None:
            continue
        try:
            reader.verify_position(reader.parse_position(position))
        except ReplicatorError as error:
            fix = error.hint or "replicator drop FILE    # then load anew"
            findings.failed("pipeline.position", place, error.message, fix)
            return
    start = stored[subject]
    message = f"the source can resume at {start}" if start else "none stored yet: it starts with a load"
    findings.passed("pipeline.position", subject, message)


# --- tables -----------------------------------------------------------------------------------------------------------


def _check_tables(
    findings: Findings, config: PipelineConfig, session: Session, tables: Tables, reader: Reader | None
) -> None:
    """What a run would say of each selected table, in its place at the target."""
    if tables.selection is None or not tables.schemas or reader is None:
        return
    judge = Judge.of(session, tables.schemas, reader)
    chosen = {table.source: table for table in tables.selection.tables}
    existing = target.read_tables(session, [schema.target for schema in tables.schemas])
    states = {state.source: state for state in read_known_tables(session, config.pipeline)}
    for schema in tables.schemas:
        if not schema.key:
            continue  # said already
        selected, found = chosen[schema.source], existing.get(schema.target)
        verdict = judge.judge(schema, selected, found, states.get(schema.source))
        _report_verdict(findings, verdict, selected)
    session.rollback()


_WORDS = {
    "create": "will be created",
    "fill": "is there and can hold {source}",
    "merge": "is there and can hold {source}",
    "keep": "is loaded from {source}",
}


def _report_verdict(findings: Findings, verdict: Verdict, selected: SelectedTable) -> None:
    subject = f"target table {selected.target}"
    for fault in verdict.faults:
        where = f"{subject}, column {fault.column}" if fault.column else subject
        findings.failed(fault.check, where, fault.message, fault.fix)
    for column, text in verdict.remarks:
        check = "tables.differences" if verdict.action == "create" else "target.table"
        where = f"{subject}, column {column}" if column else subject
        findings.warned(check, where, text, _BY_HAND)
    if verdict.action == "refuse":
        return
    findings.passed("target.table", subject, _WORDS[verdict.action].format(source=selected.source))
    if verdict.action == "merge":
        fate = "they stay" if selected.existing_rows is ExistingRows.MERGE else "those the source lacks go"
        message = f"has rows of others; existing_rows is {selected.existing_rows}: {fate}"
        findings.passed("target.rows", subject, message)
    elif verdict.action == "fill":
        findings.passed("target.rows", subject, "has no rows of others")
