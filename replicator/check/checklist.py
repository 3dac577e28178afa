"""Every check that `replicator check` knows, with what it means: the registrations that report.py reports against.

An id is stable: scripts match it. docs/reference/checks.md is made from this table
(``python -m replicator.check.checklist``), and a test fails when it is out of date. What a check of one run found, and the
fix that fits it, stands in the report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

REFERENCE: Final = "docs/reference/checks.md"


class Registration(NamedTuple):
    """One check: its stable id, what it looks at, and what it means when it does not pass."""

    id: str
    looks_at: str
    otherwise: str


_FILE: Final = (
    Registration(
        "config.file",
        "The pipeline file loads: keys, values, variables, certificate files.",
        "Fails once for each fault, with file, line and column. The command then ends with 2.",
    ),
    Registration(
        "config.warning",
        "What the file allows and a careful reader would not.",
        "Warns; a run starts anyway.",
    ),
)

_ENDPOINT: Final = (
    (
        "resolve",
        "The host's name resolves.",
        "Fails: misspelt, or the DNS server that knows it stands behind a tunnel that is down.",
    ),
    (
        "reach",
        "A TCP connect to the port.",
        "Fails. *Refused*: a machine answered, so the tunnel is up and the database is down or elsewhere. *Timed out*: "
        "nothing answered, so the tunnel is down or a firewall drops packets. *No route*: the tunnel's network is gone.",
    ),
    (
        "login",
        "User, password and authentication plugin.",
        "Fails: wrong password, unknown account, or an account that may not come from this host.",
    ),
    (
        "tls",
        "What was negotiated (version and cipher) against what the file demands.",
        "Fails when the file demands TLS that the server does not offer, or a certificate cannot be trusted. Warns when "
        "the connection is plain text.",
    ),
    ("rtt", "Median of a few pings.", "Warns above 100 ms: each batch waits for one round trip."),
    (
        "version",
        "Product and version.",
        "Fails below MySQL 8.0 or MariaDB 10.5 at a source and MySQL 8.0.20 at the target, and for the wrong product.",
    ),
    (
        "clock",
        "The server's clock against this machine's.",
        "Warns beyond 5 s: lag is measured in the source's clock and corrected, but times in logs will not match.",
    ),
)

_SOURCE: Final = (
    Registration(
        "source.database",
        "source.database exists and the account may use it.",
        "Fails, with the GRANT or the name to correct.",
    ),
    Registration(
        "source.reader",
        "The source tells who it is and where its log stands.",
        "Fails with what the server said; the checks that need it are left out.",
    ),
)

# What the reader of a MySQL or MariaDB source asks for (readers/mysql_checks.py).
_SETTINGS: Final = (
    Registration("source.log_bin", "The binary log is on.", "Fails: there is nothing to read."),
    Registration("source.server_id", "server_id is not 0.", "Fails: the server refuses to send its log."),
    Registration(
        "source.binlog_format",
        "ROW.",
        "Fails: statements cannot be mirrored exactly. Sessions may still override it.",
    ),
    Registration("source.binlog_row_image", "FULL.", "Fails: other images leave columns out."),
    Registration(
        "source.binlog_row_metadata",
        "FULL.",
        "Fails: without it the log does not say signs, character sets and names of columns.",
    ),
    Registration(
        "source.binlog_row_value_options", "Empty.", "Fails: JSON columns are then logged in part only."
    ),
    Registration(
        "source.gtid_mode",
        "ON (MySQL).",
        "Warns: positions are files and offsets, which no other server knows, and each snapshot locks for a moment.",
    ),
    Registration(
        "source.retention",
        "How long the log is kept.",
        "Warns below a day: a longer outage means a new load.",
    ),
    Registration(
        "source.replica",
        "A replica logs what it replicates.",
        "Fails: those changes would never arrive.",
    ),
    Registration(
        "source.gtid_domain",
        "A replica that may be written to counts its own transactions in a domain of its own (MariaDB).",
        "Warns: two servers in one domain give the same numbers, and a run ends where they go backwards.",
    ),
    Registration(
        "source.filters",
        "binlog_do_db and binlog_ignore_db.",
        "Fails when they leave a selected database out, with the lines to change; warns when they are set at all.",
    ),
    Registration(
        "source.generated_keys",
        "Whether the server hides generated primary keys.",
        "Never fails: they are mirrored.",
    ),
    Registration(
        "source.grant.replication_slave", "REPLICATION SLAVE, to read the log.", "Fails, with the GRANT."
    ),
    Registration(
        "source.grant.replication_client",
        "REPLICATION CLIENT (MySQL), to ask where the log stands.",
        "Fails, with the GRANT.",
    ),
    Registration(
        "source.grant.binlog_monitor",
        "BINLOG MONITOR (MariaDB), to ask where the log stands.",
        "Fails, with the GRANT.",
    ),
    Registration(
        "source.grant.xa_recover_admin",
        "XA_RECOVER_ADMIN (MySQL), to see prepared transactions before a snapshot.",
        "Fails, with the GRANT.",
    ),
    Registration(
        "source.grant.select", "Every column of every selected table can be read.", "Fails, with the GRANT."
    ),
    Registration(
        "source.primary", "A primary (PostgreSQL).", "Fails for a standby: this version reads from none."
    ),
    Registration("source.wal_level", "wal_level is logical (PostgreSQL).", "Fails, with the ALTER SYSTEM."),
    Registration(
        "source.encoding", "The database's encoding is UTF8 (PostgreSQL).", "Fails: no other is read."
    ),
    Registration(
        "source.slots",
        "A replication slot is free (PostgreSQL).",
        "Fails, with the ALTER SYSTEM; warns where the pipeline has its own already.",
    ),
    Registration(
        "source.senders",
        "A WAL sender is free (PostgreSQL).",
        "Fails, with the ALTER SYSTEM; warns where the pipeline has its slot already: its run waits for one.",
    ),
    Registration("source.grant.replication", "REPLICATION (PostgreSQL).", "Fails, with the ALTER ROLE."),
    Registration(
        "source.grant.create",
        "CREATE on the database, for a publication (PostgreSQL).",
        "Fails, with the GRANT.",
    ),
    Registration(
        "source.publication",
        "The publication of a pipeline that has begun is as it was left (PostgreSQL).",
        "Fails where somebody changed or dropped it; warns where somebody took tables out: those will be paused.",
    ),
    Registration(
        "source.owner",
        "The account owns what it publishes, or belongs to who does (PostgreSQL).",
        "Fails, with the GRANT; with the ALTER TABLE where the owner is a superuser.",
    ),
    Registration(
        "source.row_security",
        "Row-level security hides no row of a selected table from the load (PostgreSQL).",
        "Fails, with the ALTER ROLE.",
    ),
)

_TABLES: Final = (
    Registration(
        "tables.selected",
        "The names and globs of the file against the tables of the source.",
        "Fails once for each fault, with file, line and column. Warns for a glob that matches nothing.",
    ),
    Registration(
        "tables.readable",
        "Every selected table can be described: kinds of table, column types.",
        "Fails for each table that this version cannot mirror, naming the column.",
    ),
    Registration(
        "tables.system_versioned",
        "No selected table is SYSTEM VERSIONED (MariaDB).",
        "Fails for each: such a table logs an update as an update and an insert of the old version.",
    ),
    Registration(
        "tables.columns",
        "No selected table has columns whose names differ by case alone (PostgreSQL).",
        "Fails for each table: they are one name for MySQL.",
    ),
    Registration(
        "tables.column_rules",
        "What the file says under `columns` of types and of values that the target cannot hold.",
        "Fails once for each fault, with file, line and column.",
    ),
    Registration(
        "tables.key",
        "Every selected table has a primary key or a unique key without NULLs.",
        "Fails: changes of a table without one cannot be matched to rows.",
    ),
    Registration(
        "tables.cascades",
        "No table outside the pipeline changes a selected one through a foreign key that the source does not log.",
        "Fails for each such key of a MariaDB source, or of MySQL before 9.6: those changes would never arrive.",
    ),
    Registration(
        "tables.differences",
        "What will be different at the target by design: collations, defaults, indexes, partitions.",
        "Warns, once for each; no row loses anything by it.",
    ),
    Registration(
        "tables.identity",
        "Every selected table has a usable replica identity (PostgreSQL).",
        "Fails: once published, such a table refuses the application's own UPDATE. With the ALTER TABLE.",
    ),
    Registration(
        "tables.unique",
        "The stream tells when other unique values than the key's change (PostgreSQL).",
        "Warns: without REPLICA IDENTITY FULL updates of such a table are applied one after the other.",
    ),
    Registration(
        "tables.deferrable",
        "Deferrable unique keys of selected tables have values to spare while rows exchange theirs (PostgreSQL).",
        "Warns, once for each that has not (boolean, real, time, bit, short bytes): such an exchange stops the run.",
    ),
    Registration(
        "tables.money",
        "lc_monetary, as database and roles set it, gives money two decimals (PostgreSQL).",
        "Fails for each column of type money: the point would be elsewhere. With the ALTER TABLE that makes it numeric.",
    ),
    Registration(
        "tables.text_form",
        "One value of each column whose type an extension brought can be shown as text (PostgreSQL).",
        "Fails for types that cannot be shown, such as gtrgm; the table can only be left out.",
    ),
    Registration(
        "tables.unlogged",
        "No selected table is unlogged (PostgreSQL).",
        "Fails, with the ALTER TABLE.",
    ),
    Registration(
        "tables.engine",
        "Every selected table's engine takes part in snapshots.",
        "Warns for MyISAM, Aria, MEMORY: rows that change while such a table loads may arrive twice or not at all.",
    ),
)

_TARGET: Final = (
    Registration(
        "target.database",
        "target.database exists and the account may use it.",
        "Fails, with the CREATE DATABASE or the GRANT.",
    ),
    Registration(
        "target.session",
        "A session takes the settings that replicator needs, and keeps them.",
        "Fails when the server or a proxy answers something else than what was set.",
    ),
    Registration(
        "target.grants",
        "The account's privileges on the target database, roles included.",
        "Fails, naming each one that is missing, with the GRANT that gives it.",
    ),
    Registration(
        "target.writable",
        "read_only, super_read_only, innodb_read_only and transaction_read_only are off.",
        "Fails: a replica, or a server that is failing over.",
    ),
    Registration(
        "target.local_infile",
        "LOAD DATA LOCAL is allowed.",
        "Warns: loading and large inserts go through multi-row INSERT instead, about half as fast.",
    ),
    Registration(
        "target.packet",
        "max_allowed_packet.",
        "Warns below 16 MB: a row that is larger than it cannot be written by INSERT.",
    ),
    Registration(
        "target.names",
        "lower_case_table_names.",
        "Warns when the target folds the case of table names: names that differ in case alone are then one table.",
    ),
    Registration(
        "target.primary_key",
        "sql_require_primary_key and sql_generate_invisible_primary_key.",
        "Never fails: every table that replicator makes has a primary key.",
    ),
    Registration(
        "target.table",
        "Each target table that exists, against what its source table needs.",
        "Fails for every difference that could lose data; warns for the others. Also fails for a missing table under "
        "`create: false`. Warns where the target cannot be asked.",
    ),
    Registration(
        "target.rows",
        "Rows in target tables that this pipeline has not loaded.",
        "Fails unless the table says `existing_rows: merge` (they stay) or `replace` (they go at the end of the load).",
    ),
)

_PIPELINE: Final = (
    Registration(
        "pipeline.running",
        "Whether a replicator runs under this pipeline's name.",
        "Warns, naming its host, pid and start: a second one takes the pipeline over and the first one ends.",
    ),
    Registration(
        "pipeline.identity",
        "The source is the server that the stored checkpoint belongs to.",
        "Fails: another server stands behind the same address.",
    ),
    Registration(
        "pipeline.position",
        "The source can still resume at the stored position.",
        "Fails when its logs were purged or reset, naming both sides.",
    ),
)


def _register_endpoint(side: str) -> tuple[Registration, ...]:
    return tuple(Registration(f"{side}.{name}", what, otherwise) for name, what, otherwise in _ENDPOINT)


CHECKS: Final = {
    check.id: check
    for check in (
        *_FILE,
        *_register_endpoint("source"),
        *_SOURCE,
        *_SETTINGS,
        *_TABLES,
        *_register_endpoint("target"),
        *_TARGET,
        *_PIPELINE,
    )
}
"""Every registration by id, in the order in which they are tried."""


class Outcome(NamedTuple):
    """What one check found; ``status`` is pass, warn or fail. ``fix`` is empty only where nothing is to be done."""

    id: str
    status: str
    subject: str
    message: str
    fix: str = ""
    pipeline: str = ""


@dataclass(slots=True)
class Findings:
    """The outcomes of one pipeline, in the order in which they came. Only registered ids are taken (KeyError)."""

    pipeline: str
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, check: str, status: str, subject: str, message: str, fix: str = "") -> None:
        registered = CHECKS[check].id
        self.outcomes.append(Outcome(registered, status, subject, message, fix, self.pipeline))

    def passed(self, check: str, subject: str, message: str) -> None:
        self.add(check, "pass", subject, message)

    def warned(self, check: str, subject: str, message: str, fix: str = "") -> None:
        self.add(check, "warn", subject, message, fix)

    def failed(self, check: str, subject: str, message: str, fix: str) -> None:
        self.add(check, "fail", subject, message, fix)


_INTRODUCTION: Final = """\
# What `replicator check` checks

<!-- Made by `python -m replicator.check.checklist`; edit the registrations in replicator/check/checklist.py instead. -->

`replicator check FILE…` tries everything that a run needs and changes nothing. It does not stop at the first failure;
what a failure makes senseless is left out (without a login there are no grants to look at). Each outcome has a stable
id, `pass`, `warn` or `fail`, what it is about, what was found, and where it did not pass a fix to paste. The exit code
is 0 when nothing failed, 3 when something did, and 2 when a pipeline file cannot be used.

`--json` prints `{"ok": …, "checks": [{"id", "status", "subject", "message", "fix", "pipeline"}, …]}`.

| id | looks at | when it does not pass |
|---|---|---|
"""


def render_reference() -> str:
    """The reference page as Markdown."""
    rows = (f"| `{check.id}` | {check.looks_at} | {check.otherwise} |\n" for check in CHECKS.values())
    return _INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    (root / REFERENCE).write_text(render_reference(), encoding="utf-8")
