"""The pipeline file as frozen, typed configuration: what every command is started with.

``load`` reads the whole file before it judges it, so that one ConfigError holds every fault, each with file,
line, column and a suggestion. The ``*_KEYS`` tables are the one place where a key is defined: reading, the
JSON Schema and docs/reference/configuration.md (configdoc.py) all come from them. Names of databases and
tables are compared exactly as written. Secrets are ``Secret`` from the moment they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from replicator.config.keys import (
    DEFAULT_PORT,
    MAX_TRANSACTION_BYTES,
    POSTGRES_PORT,
    TOP,
    ExistingRows,
    SourceType,
)
from replicator.config.kinds import Secret, Values, read_section
from replicator.config.yamlfile import Document, Invalid, Mark
from replicator.errors import ConfigError, Problem
from replicator.model import Unrepresentable
from replicator.tls import Tls, TlsMode, build_context, load_authorities, load_client_certificate

__all__ = [
    "OWN_PREFIX",
    "SYSTEM_SCHEMAS",
    "ColumnRule",
    "Defaults",
    "Endpoint",
    "ExistingRows",
    "PipelineConfig",
    "Secret",
    "Source",
    "SourceType",
    "TableRule",
    "Target",
    "Tls",
    "TlsMode",
    "connect_options",
    "load",
    "target_name",
]

CONNECT_TIMEOUT = 10
OWN_PREFIX = "_replicator_"
_MYSQL_SCHEMAS = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
SYSTEM_SCHEMAS = {
    SourceType.MYSQL: _MYSQL_SCHEMAS,
    SourceType.MARIADB: _MYSQL_SCHEMAS,
    SourceType.POSTGRES: frozenset({"pg_catalog", "information_schema", "pg_toast"}),
}
_PLACEHOLDER = re.compile(r"\{(schema|table)\}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and how to log in to it."""

    host: str
    port: int
    user: str
    password: Secret
    database: str | None
    tls: Tls

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Source(Endpoint):
    """``database`` completes names in ``tables`` that have no dot; it selects nothing by itself."""

    type: SourceType


@dataclass(frozen=True, slots=True)
class Target(Endpoint):
    database: str


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """One entry of a table's ``columns``. ``type``: at the target, as MySQL spells it; '' where the type map decides."""

    name: str
    mark: Mark
    type: str
    type_mark: Mark
    unrepresentable: Unrepresentable
    unrepresentable_mark: Mark


@dataclass(frozen=True, slots=True)
class TableRule:
    """One entry of ``tables``: what it matches, and what shall happen to it. ``to`` may hold placeholders."""

    pattern: str  # as written
    schema: str  # the pattern's part for the database, completed by source.database
    table: str
    mark: Mark
    to: str
    to_mark: Mark
    skip: bool
    create: bool
    existing_rows: ExistingRows
    columns: tuple[ColumnRule, ...] = ()

    @property
    def is_glob(self) -> bool:
        return is_glob(self.schema) or is_glob(self.table)

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def where(self) -> str:
        return f'tables."{self.pattern}"'


@dataclass(frozen=True, slots=True)
class Defaults:
    """``on_conflict``, ``schema_changes`` and ``on_error`` have one value each in this version."""

    on_conflict: str
    schema_changes: str
    on_error: str
    create: bool
    existing_rows: ExistingRows


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """A pipeline file, complete and valid."""

    path: Path
    pipeline: str
    source: Source
    target: Target
    max_transaction_bytes: int  # of row images
    defaults: Defaults
    tables: tuple[TableRule, ...]
    warnings: tuple[Problem, ...]

    def describe(self) -> dict[str, Any]:
        """The configuration as JSON-ready values for logs; passwords are shown as ``***``."""
        return {
            "pipeline": self.pipeline,
            "source": {"type": str(self.source.type), **_describe_endpoint(self.source)},
            "target": {"type": "mysql", **_describe_endpoint(self.target)},
            "max_transaction_bytes": self.max_transaction_bytes,
            "defaults": {field.name: getattr(self.defaults, field.name) for field in fields(Defaults)},
            "tables": {rule.name: _describe_rule(rule) for rule in self.tables},
        }

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the configuration does; passwords do not count."""
        text = json.dumps(self.describe(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def load(path: str | Path, env: Mapping[str, str] | None = None) -> PipelineConfig:
    """Read a pipeline file; ``env`` (default: the process's) answers ``${env:}``. Raises ConfigError with all
    faults.

    Reads the file, the files that ``${file:}`` names and the TLS files; connects to nothing.
    """
    document = Document(Path(path), os.environ if env is None else env)
    try:
        top = read_section(document, document.parse(), TOP, "")
    except Invalid:
        _fail(document)
    _check_tls(document, top.section("source"), "source", TlsMode.PREFERRED)
    _check_tls(document, top.section("target"), "target", TlsMode.REQUIRED)
    _check_database(document, top.section("source"))
    rules = _build_rules(document, top)
    if document.problems:
        _fail(document)
    return PipelineConfig(
        path=document.path,
        pipeline=top.get("pipeline"),
        source=_build_source(top.section("source")),
        target=_build_target(top.section("target")),
        max_transaction_bytes=top.get("max_transaction_bytes", MAX_TRANSACTION_BYTES),
        defaults=_build_defaults(top.section("defaults")),
        tables=rules,
        warnings=tuple(document.warnings),
    )


def _fail(document: Document) -> NoReturn:
    raise ConfigError.of(sorted(document.problems, key=lambda problem: (problem.line, problem.column)))


def _check_database(document: Document, source: Values) -> None:
    """A session of PostgreSQL sees one database."""
    if source.get("type") == SourceType.POSTGRES and not source.has("database"):
        message = "PostgreSQL needs the database to read"
        document.report(source.mark("type"), "source", message, 'add "database"')


def _tls_of(endpoint: Values, fallback: TlsMode) -> Tls:
    values = endpoint.section("tls")
    ca = values.get("ca")
    mode = values.get("mode", TlsMode.VERIFY_IDENTITY if ca else fallback)
    return Tls(TlsMode(mode), ca, values.get("cert"), values.get("key"))


def _check_tls(document: Document, endpoint: Values, name: str, fallback: TlsMode) -> None:
    values = endpoint.section("tls")
    where = f"{name}.tls"
    tls = _tls_of(endpoint, fallback)
    if tls.ca and not tls.mode.is_verified:
        message = f'"ca" is given, but mode "{tls.mode}" never looks at it'
        document.report(values.mark("ca"), where, message, "use verify_identity or verify_ca, or remove ca")
    if tls.mode is TlsMode.VERIFY_CA and not values.has("ca"):
        message = 'mode "verify_ca" needs "ca"'
        document.report(values.mark("mode"), where, message, "any public authority would do without it")
    if tls.key and not values.has("cert"):
        document.report(values.mark("key"), where, '"key" without "cert"', "name the client certificate too")
    if tls.cert and not tls.mode.is_demanded:
        message = f'"cert" does not go with mode "{tls.mode}"'
        document.report(values.mark("cert"), where, message, "use required, verify_ca or verify_identity")
    _check_tls_files(document, values, where, tls)


def _check_tls_files(document: Document, values: Values, where: str, tls: Tls) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca:
        _check_file(
            document, values.mark("ca"), f"{where}.ca", tls.ca, lambda: load_authorities(context, tls.ca)
        )
    if (cert := tls.cert) and (not values.has("key") or tls.key):
        place = f"{where}.cert"
        _check_file(
            document,
            values.mark("cert"),
            place,
            cert,
            lambda: load_client_certificate(context, cert, tls.key),
        )


def _check_file(document: Document, mark: Mark, where: str, path: Path, use: Callable[[], None]) -> None:
    try:
        use()
    except (ssl.SSLError, ValueError):
        message = f"{path} holds no usable PEM certificate or key"
        document.report(
            mark, where, message, "is it PEM, do certificate and key belong together, no passphrase?"
        )
    except OSError as error:
        document.report(mark, where, f"{path}: {error.strerror}", "check the path and its permissions")


def _build_source(values: Values) -> Source:
    return Source(
        **_endpoint_fields(values, TlsMode.PREFERRED),
        database=values.get("database"),
        type=SourceType(values.get("type")),
    )


def _build_target(values: Values) -> Target:
    return Target(**_endpoint_fields(values, TlsMode.REQUIRED), database=values.get("database"))


def _endpoint_fields(values: Values, fallback: TlsMode) -> dict[str, Any]:
    fields = {name: values.get(name) for name in ("host", "user", "password")}
    port = POSTGRES_PORT if values.get("type") == SourceType.POSTGRES else DEFAULT_PORT
    return {**fields, "port": values.get("port", port), "tls": _tls_of(values, fallback)}


def _build_defaults(values: Values) -> Defaults:
    return Defaults(
        on_conflict=values.get("on_conflict", "source_wins"),
        schema_changes=values.get("schema_changes", "pause"),
        on_error=values.get("on_error", "stop"),
        create=values.get("create", True),
        existing_rows=ExistingRows(values.get("existing_rows", ExistingRows.REFUSE)),
    )


def _build_rules(document: Document, top: Values) -> tuple[TableRule, ...]:
    source = top.section("source")
    defaults = _build_defaults(top.section("defaults"))
    seen: dict[str, TableRule] = {}
    for pattern, mark, values in top.get("tables", ()):
        try:
            schema, table = _split_pattern(document, pattern, mark, source)
        except Invalid:
            continue
        rule = _build_rule(pattern, mark, (schema, table), values, defaults)
        _check_to(document, rule)
        if (first := seen.get(rule.name)) is not None:
            message = f'means the same as "{first.pattern}" on line {first.mark.line}'
            document.report(mark, rule.where, message, "keep one of them")
        seen.setdefault(rule.name, rule)
    return tuple(seen.values())


def _build_rule(
    pattern: str, mark: Mark, name: tuple[str, str], values: Values, defaults: Defaults
) -> TableRule:
    return TableRule(
        pattern=pattern,
        schema=name[0],
        table=name[1],
        mark=mark,
        to=values.get("to", "{table}"),
        to_mark=values.mark("to") if values.has("to") else mark,
        skip=values.get("skip", False),
        create=values.get("create", defaults.create),
        existing_rows=ExistingRows(values.get("existing_rows", defaults.existing_rows)),
        columns=tuple(_build_column_rule(*entry) for entry in values.get("columns", ())),
    )


def _build_column_rule(name: str, mark: Mark, values: Values) -> ColumnRule:
    return ColumnRule(
        name=name,
        mark=mark,
        type=values.get("type", ""),
        type_mark=values.mark("type"),
        unrepresentable=Unrepresentable(values.get("unrepresentable", Unrepresentable.FAIL)),
        unrepresentable_mark=values.mark("unrepresentable"),
    )


def _split_pattern(document: Document, pattern: str, mark: Mark, source: Values) -> tuple[str, str]:
    """A pattern's parts for database and table, split at the first dot; source.database completes a bare
    name.
    """
    where = f'tables."{pattern}"'
    schema, dot, table = pattern.partition(".")
    if not dot:
        is_postgres = source.get("type") == SourceType.POSTGRES
        schema, table = "public" if is_postgres else source.get("database") or "", pattern
        if source.has("database") and not schema:
            raise Invalid  # its own problem is already recorded
    if not schema or not table:
        raise document.report(
            mark, where, "names no database", 'write "database.table", or set source.database'
        )
    if schema.casefold() in SYSTEM_SCHEMAS[source.get("type", SourceType.MYSQL)]:
        raise document.report(mark, where, "a system database is never mirrored", "name tables of your own")
    if table.startswith(OWN_PREFIX) and not is_glob(pattern):
        raise document.report(mark, where, f'"{OWN_PREFIX}…" tables belong to this program', "remove it")
    return schema, table


def _check_to(document: Document, rule: TableRule) -> None:
    rest = _PLACEHOLDER.sub("", rule.to)
    if "{" in rest or "}" in rest:
        message = 'only the placeholders "{schema}" and "{table}" are known'
        document.report(rule.to_mark, f"{rule.where}.to", message, 'for example "{schema}_{table}"')
    elif rule.to.startswith(OWN_PREFIX):
        message = f'"{OWN_PREFIX}…" tables belong to this program'
        document.report(rule.to_mark, f"{rule.where}.to", message, "choose another name")
    elif rule.to != rule.to.rstrip():
        document.report(rule.to_mark, f"{rule.where}.to", "a table name cannot end with a space", "remove it")


def target_name(rule: TableRule, schema: str, table: str) -> str:
    """The target table of a source table under a rule."""
    names = {"schema": schema, "table": table}
    return _PLACEHOLDER.sub(lambda match: names[match[1]], rule.to)


def connect_options(endpoint: Endpoint, *, connect_timeout: int = CONNECT_TIMEOUT) -> dict[str, Any]:
    """Keyword arguments of ``pymysql.connect`` for an endpoint: address, login, database, TLS and character
    set.

    The password is in there in the clear (as bytes: PyMySQL would encode text as latin1): never log the
    result. Time-outs in seconds. Raises ConfigError where a TLS file has gone since the file was loaded.
    """
    try:
        context = build_context(endpoint.tls)
    except OSError as error:
        raise ConfigError(
            f"{endpoint.address}: a TLS file cannot be used: {error.strerror or error}"
        ) from None
    options: dict[str, Any] = {
        "host": endpoint.host,
        "port": endpoint.port,
        "user": endpoint.user,
        "password": endpoint.password.reveal().encode(),
        "database": endpoint.database,
        "charset": "utf8mb4",
        "connect_timeout": connect_timeout,
    }
    if context is not None:
        options["ssl"] = context
    elif endpoint.tls.mode is TlsMode.DISABLED:
        options["ssl_disabled"] = True
    return options


def _describe_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    files = {"ca": endpoint.tls.ca, "cert": endpoint.tls.cert, "key": endpoint.tls.key}
    return {
        "host": endpoint.host,
        "port": endpoint.port,
        "user": endpoint.user,
        "password": str(endpoint.password),
        "database": endpoint.database,
        "tls": {"mode": endpoint.tls.mode, **{name: str(path) for name, path in files.items() if path}},
    }


def _describe_rule(rule: TableRule) -> dict[str, Any]:
    return {
        "to": rule.to,
        "skip": rule.skip,
        "create": rule.create,
        "existing_rows": str(rule.existing_rows),
        "columns": {
            column.name: {"type": column.type, "unrepresentable": str(column.unrepresentable)}
            for column in rule.columns
        },
    }
