"""Every key of the pipeline file, once: reading, JSON Schema and reference page come from these tables.

A ``later`` key or word is one of the design that this version does not know yet, and is refused by saying so.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from replicator.config.kinds import (
    Boolean,
    Choice,
    ColumnType,
    FilePath,
    Integer,
    Key,
    NameMapping,
    Password,
    Section,
    Word,
)
from replicator.model import Unrepresentable
from replicator.tls import TlsMode

DEFAULT_PORT = 3306
POSTGRES_PORT = 5432
MAX_NAME = 64
MAX_TRANSACTION_BYTES = 256 << 20


class SourceType(enum.StrEnum):
    MYSQL = "mysql"
    MARIADB = "mariadb"
    POSTGRES = "postgres"


class ExistingRows(enum.StrEnum):
    """What a first load does with rows that a target table already holds (SEMANTICS §6.1)."""

    REFUSE = "refuse"
    MERGE = "merge"
    REPLACE = "replace"


_NAME = Word(
    r"[^\x00-\x1f/\\.\U00010000-\U0010ffff]{0,63}[^\x00-\x20/\\.\U00010000-\U0010ffff]",
    "a name of at most 64 characters without dot, slash or backslash",
)
_CREATE = Key("create", Boolean(), "Create the target table when it is missing.", default="true")
_EXISTING_ROWS = Key(
    "existing_rows",
    Choice(tuple(ExistingRows)),
    "What the first load does when the target table already holds rows: `refuse` stops and counts them, "
    "`merge` keeps rows that the source lacks, `replace` removes them at the end of the load.",
    default="refuse",
)
TLS_KEYS = (
    Key(
        "mode",
        Choice(tuple(TlsMode)),
        "MySQL's five words: `disabled`; `preferred` (encrypted when the server can, nothing verified); "
        "`required` (encrypted, nothing verified); `verify_ca` (signed by `ca`); `verify_identity` (signed, "
        "and `host` is a name in the certificate).",
        default="`verify_identity` when `ca` is given, else `required` (target), `preferred` (source)",
    ),
    Key(
        "ca",
        FilePath(),
        "PEM file of the authorities to trust; a relative path starts at the pipeline file's directory. "
        "`verify_identity` without it trusts the system's.",
    ),
    Key("cert", FilePath(), "PEM file of the client certificate, where the server asks for one."),
    Key("key", FilePath(), "PEM file of the client certificate's private key, without a passphrase."),
)
_HOST = Word(r"[A-Za-z0-9._:%-]{1,253}", "a host name or address alone, not a URL")


def _endpoint_keys(type_kind: Choice, database: Key) -> tuple[Key, ...]:
    return (
        Key("type", type_kind, "The server's product.", is_required=True),
        Key("host", _HOST, "Host name or address, resolved again at every connect.", is_required=True),
        Key(
            "port",
            Integer(1, 65535),
            "TCP port.",
            default=f"{DEFAULT_PORT}, or {POSTGRES_PORT} for PostgreSQL",
        ),
        Key(
            "user",
            Word(r"[^\x00]{1,80}", "an account name"),
            "Account name.",
            is_required=True,
        ),
        Key(
            "password",
            Password(),
            "Use `${env:NAME}` or `${file:PATH}`; a literal works, with a warning.",
            is_required=True,
        ),
        database,
        Key("tls", Section(TLS_KEYS), "Encryption and its verification."),
    )


SOURCE_KEYS = _endpoint_keys(
    Choice(tuple(SourceType)),
    Key(
        "database",
        _NAME,
        "MySQL and MariaDB: completes the names under `tables` that have no dot, and selects nothing by itself. "
        "PostgreSQL: the database to read, required; names without a dot are in schema `public`.",
    ),
)
TARGET_KEYS = _endpoint_keys(
    Choice(("mysql",)), Key("database", _NAME, "The database to write to; it must exist.", is_required=True)
)
DEFAULTS_KEYS = (
    Key(
        "on_conflict",
        Choice(("source_wins",)),
        "The source's values overwrite the target's.",
        default="source_wins",
    ),
    Key(
        "schema_changes",
        Choice(("pause",), later=("additive", "apply", "ignore")),
        "A schema change at the source pauses its table.",
        default="pause",
    ),
    Key(
        "on_error",
        Choice(("stop",), later=("pause_table", "quarantine")),
        "A row that the target refuses ends the run; nothing is skipped.",
        default="stop",
    ),
    _CREATE,
    _EXISTING_ROWS,
)
COLUMN_KEYS = (
    Key(
        "type",
        ColumnType(),
        "The column's type at the target, in MySQL's words: `binary(16)` for a uuid, `varchar(30)` for a date that may be "
        "infinite. For PostgreSQL sources; a value that the type does not hold follows `unrepresentable`.",
        default="as the reference of types says",
    ),
    Key(
        "unrepresentable",
        Choice(tuple(Unrepresentable), later=("quarantine",)),
        "What becomes of a value that the target's column cannot hold exactly: `fail` stops the run and names it, `clamp` "
        "stores the nearest value the column holds, `null` stores NULL. What was changed is counted, and `status` shows a "
        "sample's key. Not for columns of a primary or unique key.",
        default="fail",
    ),
)
TABLE_KEYS = (
    Key(
        "to",
        Word(
            r"[^\x00-\x1f/\\.]{1,256}",
            "a table name without database; placeholders {schema} and {table}",
        ),
        "Name of the target table; may hold the placeholders `{schema}` and `{table}`.",
        default="{table}",
    ),
    Key("skip", Boolean(), "Leave the matching tables out.", default="false"),
    replace(_CREATE, default="as in `defaults`"),
    replace(_EXISTING_ROWS, default="as in `defaults`"),
    Key(
        "columns",
        NameMapping(
            Section(COLUMN_KEYS, later=("owner", "merge")), "column", "price: {unrepresentable: null}"
        ),
        "Options of single columns, by the source's names.",
    ),
)
TABLE_LATER = (
    "where",
    "rename",
    "exclude",
    "include",
    "on_conflict",
    "schema_changes",
    "on_error",
    "keyless",
    "pause_limit",
    "max_quarantined",
    "unrepresentable",
)
TOP_KEYS = (
    Key(
        "pipeline",
        Word(r"[a-z0-9][a-z0-9_-]{0,39}", "1 to 40 of a-z, 0-9, _ and -, beginning with a letter or digit"),
        "Names the pipeline's checkpoint in the target database.",
        is_required=True,
    ),
    Key("source", Section(SOURCE_KEYS), "Where changes are read.", is_required=True),
    Key("target", Section(TARGET_KEYS, later=("compress",)), "Where they are applied.", is_required=True),
    Key(
        "max_transaction_bytes",
        Integer(32 << 20, 8 << 30),
        "Bytes of row images up to which a transaction of the source is one transaction of the target. A larger one "
        "comes in slices of about this size, and is `torn` until its last one.",
        default=str(MAX_TRANSACTION_BYTES),
    ),
    Key(
        "defaults",
        Section(
            DEFAULTS_KEYS, later=("keyless", "pause_limit", "max_quarantined", "unrepresentable", "columns")
        ),
        "For all tables that do not say otherwise.",
    ),
    Key(
        "tables",
        NameMapping(Section(TABLE_KEYS, later=TABLE_LATER, is_nullable=True), "table", '"shop.*": {}'),
        "Which tables to mirror: names and globs, and options for each.",
        is_required=True,
    ),
)
TOP = Section(TOP_KEYS)
