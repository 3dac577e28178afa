"""The target's part of `check`: grants and settings, the tables that are there, and what earlier runs left.

Everything is asked on a session as a run would open it; nothing is written, not even a control table.
"""

from __future__ import annotations

from replicator import tablestate, target
from replicator.checklist import Findings
from replicator.config import ExistingRows, PipelineConfig
from replicator.errors import ReplicatorError, TargetError
from replicator.grants import missing, privileges_on
from replicator.model import TableSchema
from replicator.probe import TARGET_GRANT, Probe
from replicator.readers.base import Reader
from replicator.selection import SelectedTable
from replicator.session import Session
from replicator.sourcecheck import Source, Tables, parse_version
from replicator.status import read_known_tables
from replicator.tablestate import State, Status, TableState

OLDEST = (8, 0, 20)
SMALL_PACKET = 16 << 20

_VARIABLES = (
    "version",
    "version_comment",
    "read_only",
    "super_read_only",
    "innodb_read_only",
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
        return
    _check_grants(findings, config, found, subject)
    _check_writable(findings, variables, subject)
    _check_settings(findings, variables, subject)
    try:
        with Session.connect(config.target) as session:
            findings.passed("target.session", subject, "takes and keeps the settings of a run")
            _check_stored(findings, config, session, source.reader)
            _check_tables(findings, config, session, tables)
    except TargetError as error:
        findings.failed("target.session", subject, error.message, error.hint or "see the target's error log")


# --- the server -------------------------------------------------------------------------------------------------------


def _read_variables(found: Probe) -> dict[str, str]:
    names = ", ".join(["%s"] * len(_VARIABLES))
    with found.connection.cursor() as cursor:
        cursor.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})", _VARIABLES)
        return {str(name): str(value) for name, value in cursor.fetchall()}


def _check_version(findings: Findings, variables: dict[str, str], subject: str) -> bool:
    version = f"{variables['version']} ({variables['version_comment']})"
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


def _check_grants(findings: Findings, config: PipelineConfig, found: Probe, subject: str) -> None:
    database = config.target.database
    account, grants = _read_grants(found)
    lacking = missing(privileges_on(grants, database), TARGET_GRANT.split(", "))
    if not lacking:
        findings.passed("target.grants", subject, f"{account} has all it needs on {database}")
        return
    findings.failed(
        "target.grants",
        subject,
        f"{account} lacks {', '.join(lacking)} on database {database}",
        f"GRANT {', '.join(lacking)} ON `{database}`.* TO {account};    -- at the target, as its administrator",
    )


def _read_grants(found: Probe) -> tuple[str, list[str]]:
    """The account in GRANT's spelling, and its grants with those of its active roles."""
    with found.connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_USER(), CURRENT_ROLE()")
        user, roles = map(str, cursor.fetchone())
        using = "" if roles == "NONE" else f" USING {roles}"
        cursor.execute(f"SHOW GRANTS FOR CURRENT_USER(){using}")
        name, _, host = user.rpartition("@")
        return f"'{name}'@'{host}'", [str(row[0]) for row in cursor.fetchall()]


def _check_writable(findings: Findings, variables: dict[str, str], subject: str) -> None:
    closed = [
        name
        for name in ("read_only", "super_read_only", "innodb_read_only")
        if variables.get(name) in ("ON", "1")
    ]
    if not closed:
        findings.passed("target.writable", subject, "takes writes")
        return
    findings.failed(
        "target.writable",
        subject,
        f"{', '.join(closed)} is on: a replica, or a server that is failing over; a run waits until it is off",
        "point target.host at the writer, or, as administrator: SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF;",
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
    stored = status.read_from or status.position
    subject = f"pipeline {status.pipeline}"
    if stored is None:
        findings.passed("pipeline.position", subject, "none stored yet: it starts with a load")
        return
    try:
        reader.verify_position(reader.parse_position(stored))
    except ReplicatorError as error:
        fix = error.hint or "replicator drop FILE    # then load anew"
        findings.failed("pipeline.position", subject, error.message, fix)
        return
    findings.passed("pipeline.position", subject, f"the source can resume at {stored}")


# --- tables -----------------------------------------------------------------------------------------------------------


def _check_tables(findings: Findings, config: PipelineConfig, session: Session, tables: Tables) -> None:
    """Each selected table that is there already, against what its source needs of it."""
    if tables.selection is None:
        return
    chosen = {table.source: table for table in tables.selection.tables}
    existing = target.read_tables(session, [schema.target for schema in tables.schemas])
    ours = {state.source for state in read_known_tables(session, config.pipeline) if _is_settled(state)}
    for schema in tables.schemas:
        table = existing.get(schema.target)
        if table is None:
            _check_missing(findings, chosen[schema.source])
        elif _compare(findings, schema, table) and schema.source not in ours:
            _check_rows(findings, session, chosen[schema.source])
    session.rollback()
    if tables.schemas and not existing:
        findings.passed("target.table", f"database {config.target.database}", "no target table is there yet")


def _is_settled(state: TableState) -> bool:
    """Whether nobody needs to decide about the table's rows: ours alone, or the decision was made at its load."""
    return state.found.is_ours_alone or state.state not in (State.PENDING, State.NEEDS_RELOAD)


def _check_missing(findings: Findings, table: SelectedTable) -> None:
    if table.create:
        return
    findings.failed(
        "target.table",
        f"target table {table.target}",
        f"it is not there, and {table.source} says create: false",
        f'tables: {{"{table.source}": {{create: true}}}}    # or create it by hand: replicator plan --ddl',
    )


def _compare(findings: Findings, schema: TableSchema, table: target.TargetTable) -> bool:
    """Whether the table can hold its source; each difference is an outcome of its own."""
    subject = f"target table {schema.target}"
    differences = target.compare(schema, table)
    for item in differences:
        where = f"{subject}, column {item.column}" if item.column else subject
        if item.fatal:
            fix = build_fix(schema, item)
            findings.failed("target.table", where, f"cannot hold {schema.source}: {item.message}", fix)
        else:
            findings.warned("target.table", where, item.message, "nothing, where that is meant")
    fits = not any(item.fatal for item in differences)
    if fits:
        findings.passed("target.table", subject, f"can hold {schema.source}")
    return fits


def build_fix(schema: TableSchema, difference: target.Difference) -> str:
    """The ALTER that makes a column fit, where the source's schema says what it must be."""
    table = f"`{schema.target}`"
    column = next((c for c in schema.columns if c.name == difference.column), None)
    if column is None:
        return (
            f'correct {table} by hand, or another target: tables: {{"{schema.source}": {{to: other_name}}}}'
        )
    charset = ""
    if column.collation:
        charset = f" CHARACTER SET {column.collation.partition('_')[0]} COLLATE {column.collation}"
    definition = f"`{column.name}` {column.type}{charset} {'NULL' if column.nullable else 'NOT NULL'}"
    verb = "ADD COLUMN" if "lacks this column" in difference.message else "MODIFY COLUMN"
    return f"ALTER TABLE {table} {verb} {definition};    -- at the target"


def _check_rows(findings: Findings, session: Session, table: SelectedTable) -> None:
    subject = f"target table {table.target}"
    if target.is_empty(session, table.target):
        findings.passed("target.rows", subject, "empty")
        return
    if table.existing_rows is not ExistingRows.REFUSE:
        fate = (
            "stay"
            if table.existing_rows is ExistingRows.MERGE
            else "go at the end of the load, where the source lacks them"
        )
        findings.passed(
            "target.rows", subject, f"has rows of others; existing_rows: {table.existing_rows}, they {fate}"
        )
        return
    findings.failed(
        "target.rows",
        subject,
        f"has {target.count_rows(session, table.target):,} rows that this pipeline did not load",
        f'tables: {{"{table.source}": {{existing_rows: merge}}}}    # they stay; with replace, those the source lacks go',
    )
