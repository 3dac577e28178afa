"""The pipeline file's loader: what it accepts, and where and how it says what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
from pathlib import Path

import pytest

from replicator.config import (
    ExistingRows,
    PipelineConfig,
    Secret,
    SourceType,
    TlsMode,
    connect_options,
    load,
)
from replicator.errors import ConfigError

HEAD = """\
pipeline: shop
source:
  type: mysql
  host: shop-db
  user: reader
  password: ${env:SOURCE}
target:
  type: mysql
  host: 10.8.0.2
  user: writer
  password: ${env:TARGET}
  database: app
"""
ENV = {"SOURCE": "s3cret-source", "TARGET": "s3cret-target"}


def write(folder: Path, text: str) -> Path:
    path = folder / "shop.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def load_text(folder: Path, text: str, **env: str) -> PipelineConfig:
    return load(write(folder, text), {**ENV, **env})


def faults(folder: Path, text: str, **env: str) -> list[str]:
    """Every problem as ``line:column: message; suggestion``."""
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, **env)
    return [str(problem).removeprefix(f"{folder}/shop.yaml:") for problem in caught.value.problems]


def test_a_full_file_becomes_frozen_typed_configuration(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        HEAD.replace("type: mysql", "type: mariadb", 1).replace(
            "host: shop-db", "host: shop-db\n  port: 3307"
        )
        + "defaults: {create: false, existing_rows: merge}\n"
        + "tables:\n  shop.customers:\n  shop.orders: {to: sales, create: true, existing_rows: replace}\n",
    )
    assert (config.pipeline, config.source.type, config.source.port) == ("shop", SourceType.MARIADB, 3307)
    assert (config.target.port, config.target.database, config.source.database) == (3306, "app", None)
    assert config.source.password.reveal() == "s3cret-source"
    assert (config.source.tls.mode, config.target.tls.mode) == (TlsMode.PREFERRED, TlsMode.REQUIRED)
    customers, orders = config.tables
    assert (customers.create, customers.existing_rows, customers.to) == (False, ExistingRows.MERGE, "{table}")
    assert (orders.create, orders.existing_rows, orders.to) == (True, ExistingRows.REPLACE, "sales")
    assert (config.defaults.on_conflict, config.defaults.schema_changes, config.defaults.on_error) == (
        "source_wins",
        "pause",
        "stop",
    )
    assert config.warnings == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.pipeline = "other"  # type: ignore[misc]


def test_defaults_behind_tables_count_too(tmp_path: Path) -> None:
    text = HEAD + "tables: {shop.a: {}}\ndefaults: {create: false}\n"
    assert load_text(tmp_path, text).tables[0].create is False


def test_every_fault_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    text = """\
pipeline: Shop
source:
  type: oracle
  hots: erp
  port: "3306"
  user: ~
  password: ${env:NOPE}
  password: x
target:
  type: mysql
  host: mysql://root@h
  user: 012
  password: ${file:missing}
  tls: {mode: verify-ca, ca: nope.pem}
  compress: zlib
defaults: {on_error: quarantine, create: yes}
tables:
  orders: {}
  shop.orders:
    existing_row: merge
    to: "{schma}_x"
  "shop.*": {skip: 1, where: "a=1"}
  mysql.user:
unknown: 1
"""
    found = faults(tmp_path, text)
    assert [fault.split(": ", 1)[0] for fault in found] == [
        "1:11",
        "3:9",
        "4:3",
        "5:9",
        "6:9",
        "7:13",
        "8:3",
        "10:3",
        "11:9",
        "13:13",
        "14:15",
        "14:30",
        "15:3",
        "16:22",
        "16:42",
        "18:3",
        "20:5",
        "21:9",
        "22:20",
        "22:23",
        "23:3",
        "24:1",
    ]
    assert '20:5: tables."shop.orders": unknown key "existing_row"; did you mean "existing_rows"?' in found
    assert '4:3: source: unknown key "hots"; did you mean "host"?' in found
    assert "7:13: source.password: environment variable NOPE is not set; export NOPE=…" in found
    assert '14:15: target.tls.mode: "verify-ca" is not a known word here; did you mean "verify_ca"?' in found
    assert '8:3: duplicate key "password", first on line 7; keep one of them' in found
    assert '10:3: target: "database" is missing; add database: a name of at most 64 characters' in "\n".join(
        found
    )


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "no",
        "yes",
        "22:22",
        "1e3",
        "012",
        "0x1F",
        "1_000",
        "2024-01-01",
        "true",
        ".inf",
        "3",
        "1.5",
        "=",
        "y",
    ],
)
def test_yaml_traps_stay_text(tmp_path: Path, text: str) -> None:
    config = load_text(tmp_path, HEAD.replace("reader", text) + "tables: {shop.a: {}}\n")
    assert config.source.user == text


@pytest.mark.parametrize(
    "text", ["012", "0x1F", "1e3", "1_000", "22:22", "3306.0", '"3306"', "+3306", "0", "65536", "-1", "９"]
)
def test_only_plain_decimal_digits_in_range_are_a_port(tmp_path: Path, text: str) -> None:
    found = faults(
        tmp_path, HEAD.replace("host: shop-db", f"host: shop-db\n  port: {text}") + "tables: {s.a: }"
    )
    assert len(found) == 1
    assert found[0].startswith("5:9: source.port: expected an integer from 1 to 65535")


@pytest.mark.parametrize("text", ["on", "no", "yes", "True", "TRUE", '"true"', "1", "y", "[true]", "~"])
def test_only_true_and_false_are_booleans(tmp_path: Path, text: str) -> None:
    found = faults(tmp_path, HEAD + f"tables:\n  shop.a:\n    skip: {text}\n")
    assert len(found) == 1
    assert found[0].startswith('15:11: tables."shop.a".skip: ')


def test_references_stand_for_text_numbers_and_booleans(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("two words \n\n")
    text = HEAD.replace("${env:SOURCE}", "${file:password}").replace(
        "shop-db", "db.${env:ZONE}\n  port: '${env:PORT}'"
    )
    config = load_text(
        tmp_path, text + "tables: {shop.a: {skip: '${env:SKIP}'}}", ZONE="office", PORT="3307", SKIP="true"
    )
    assert (config.source.host, config.source.port, config.tables[0].skip) == ("db.office", 3307, True)
    assert config.source.password.reveal() == "two words \n"  # one line break is dropped, nothing else
    assert config.warnings == ()


def test_a_message_is_one_line_without_control_characters(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, HEAD + 'tables: {shop.a: {"to\\e[2J\\nx": b}}\n')
    assert r'unknown key "to\x1b[2J\nx"' in found


def test_what_a_reference_brings_is_not_searched_again_and_a_doubled_dollar_escapes(tmp_path: Path) -> None:
    text = HEAD.replace("${env:SOURCE}", "'$${env:A}${env:A}$'") + "tables: {shop.a: }"
    assert load_text(tmp_path, text, A="${env:B}").source.password.reveal() == "${env:A}${env:B}$"


@pytest.mark.parametrize(
    "text", ["${HOME}", "${env:}", "${env:A-B}", "${vault:x}", "x${", "${file:}", "${env:SOURCE"]
)
def test_a_broken_reference_is_an_error_that_does_not_quote_it(tmp_path: Path, text: str) -> None:
    found = faults(tmp_path, HEAD.replace("${env:SOURCE}", f"'{text}'") + "tables: {shop.a: }")
    assert len(found) == 1
    assert found[0].startswith(
        '6:13: source.password: a "${" that begins neither ${env:NAME} nor ${file:PATH}'
    )


def test_unreadable_secret_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("nope", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8")):
        (found,) = faults(tmp_path, HEAD.replace("${env:SOURCE}", f"${{file:{name}}}") + "tables: {shop.a: }")
        assert found.startswith("6:13: source.password: ")
        assert reason in found


def test_a_literal_password_warns_and_an_empty_one_too(tmp_path: Path) -> None:
    text = (
        HEAD.replace("${env:SOURCE}", "null and void").replace("${env:TARGET}", "''") + "tables: {shop.a: }"
    )
    config = load_text(tmp_path, text)
    assert config.source.password.reveal() == "null and void"
    first, second = (str(warning) for warning in config.warnings)
    assert "shop.yaml:6:13: source.password: the password stands in the file itself" in first
    assert "shop.yaml:11:13: target.password: is empty" in second


def test_no_secret_is_ever_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_text(tmp_path, HEAD + "tables: {shop.a: }")
    secret = config.source.password
    logging.getLogger("test").warning("%s %r %s", secret, config, config.source)
    shown = [
        caplog.text,
        repr(config),
        str(config),
        f"{secret} {secret!r} {secret:>5}",
        json.dumps(config.describe()),
    ]
    shown += [str(dataclasses.asdict(config)), str(copy.deepcopy(secret)), str(dir(secret)), str([secret])]
    assert "s3cret" not in "\n".join(shown)
    assert f"{secret}" == "***"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret("s3cret-source") != Secret("other")
    assert secret != "s3cret-source"


@pytest.mark.parametrize(
    "line",
    [
        "port: ${env:SOURCE}",
        "type: ${env:SOURCE}",
        "database: /${env:SOURCE}",
        "tls: {mode: '${env:SOURCE}'}",
        "password:s3cret",
        "{password:s3cret}",
        "password: *s3cret",
        "password: !s3cret x",
        "password: !s3cret!x y",
        "password: &s3cret",
        "password: [s3cret]",
        "password: {s3cret: x}",
        "password: s3cret: x",
        "password: %s3cret",
        "password: '${s3cret'",
        "password: 's3cret",
        'password: "s3cret\\q"',
        'password: "s3cret\\ud800"',
        "password: '${s3cret}'",
        "host: root:s3cret@db",
        "password: s3cret\n s3cret: x",
    ],
)
def test_no_message_quotes_a_secret(tmp_path: Path, line: str) -> None:
    key = line.partition(":")[0]
    kept = "".join(row + "\n" for row in HEAD.splitlines()[1:6] if not row.startswith(f"  {key}"))
    text = "pipeline: shop\n" + kept + f"  {line}\n" + HEAD.split("\n", 6)[6] + "tables: {shop.a: }"
    assert "s3cret" not in "\n".join(faults(tmp_path, text))


def test_a_key_without_space_behind_its_colon_does_not_show_what_follows(tmp_path: Path) -> None:
    found = faults(tmp_path, "pipeline: x\nsource: {password:s3cret}\ntarget: {}\ntables: {a.b: }\n")
    assert '2:10: source: no space behind "password:"; write "password: value"' in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("- a\n", "1:1: expected a mapping, found a list"),
        ("hello\n", "1:1: expected a mapping, found text"),
        ("a: 1\n\tb: 2\n", "2:1: YAML syntax"),
        ("a: [1\n", "2:1: YAML syntax"),
        ("a: b: c\n", "1:5: YAML syntax"),
        ("a: 1\na: 2\n", '2:1: duplicate key "a", first on line 1'),
        ("a: &x 1\nb: *x\n", "1:4: YAML anchors (&name) are not supported"),
        ("a: &x 1\nb: *x\n", "2:4: YAML aliases (*name) are not supported"),
        ("<<: {a: 1}\n", "1:1: YAML merge keys (<<) are not supported"),
        ("a: !!python/object:os.system x\n", "1:4: YAML tags (!name) are not supported"),
        ("a: 1\n---\nb: 2\n", "2:1: a second YAML document starts here"),
        ("? [a]\n: 1\n", "1:3: a key must be text"),
        ("'': 1\n", "1:1: a key must be text"),
        ("${env:A}: 1\n", "1:1: a key cannot hold a reference"),
        ("a: " + "[" * 40 + "]" * 40, "1:20: nested too deeply"),
        ("a: \x07\n", "1:4: a character that YAML does not allow"),
        ('a: "\\UFFFFFFFF"\n', "1:1: an escape or %YAML directive out of range"),
        ("a: b\n\ufffe", "2:1: a character that YAML does not allow"),
        ("pipeline: 1\n", '1:1: "tables" is missing'),
        ("pipeline: 1\ntables: {}\n", "2:9: tables: selects nothing"),
        ("tables: [shop.a]\n", "1:9: tables: expected a mapping of table names, found a list"),
        ("tables:\n", "1:8: tables: expected a mapping of table names, found nothing"),
        ("tables: {shop.a: yes}\n", '1:18: tables."shop.a": expected a mapping, found text'),
        ("tables: {~: {}}\n", "1:10: tables: a table name is missing"),
        (
            "max_transaction_bytes: 5\n",
            "1:24: max_transaction_bytes: expected an integer from 33554432 to 8589934592",
        ),
    ],
)
def test_what_is_not_a_pipeline_file_is_refused_where_it_stands(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert any(fault.startswith(expected) for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_a_file_that_is_not_there_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.yaml:1:1: cannot be read: No such file or directory"):
        load(tmp_path / "nope.yaml", {})
    (tmp_path / "latin1.yaml").write_bytes("pipeline: x\nsöurce:\n".encode("latin1"))
    with pytest.raises(ConfigError, match=r"latin1.yaml:2:2: not UTF-8"):
        load(tmp_path / "latin1.yaml", {})


def test_crlf_and_a_byte_order_mark_are_harmless(tmp_path: Path) -> None:
    text = "\ufeff" + (HEAD + "tables:\n  shop.a: {x: 1}\n").replace("\n", "\r\n")
    assert faults(tmp_path, text) == [
        '14:12: tables."shop.a": unknown key "x"; known: to, skip, create, existing_rows, columns'
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("username", "user"),
        ("Passwd", "password"),
        ("db", "database"),
        ("ssl", "tls"),
        ("hostname", "host"),
        ("prot", "port"),
    ],
)
def test_a_misspelt_key_names_the_one_that_was_meant(tmp_path: Path, key: str, meant: str) -> None:
    found = faults(
        tmp_path, HEAD.replace("  type: mysql\n", f"  type: mysql\n  {key}: x\n", 1) + "tables: {s.a: }"
    )
    assert found == [f'4:3: source: unknown key "{key}"; did you mean "{meant}"?']


@pytest.mark.parametrize(
    "key", ["where", "rename", "exclude", "include", "on_conflict", "keyless", "pause_limit"]
)
def test_keys_of_later_versions_are_refused_by_name(tmp_path: Path, key: str) -> None:
    (found,) = faults(tmp_path, HEAD + f"tables:\n  shop.a:\n    {key}: x\n")
    assert found.startswith(f'15:5: tables."shop.a": key "{key}" is not known to this version yet')


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("orders: ", '14:3: tables."orders": names no database'),
        ("shop.: ", '14:3: tables."shop.": names no database'),
        (".orders: ", '14:3: tables.".orders": names no database'),
        ("MySQL.user: ", '14:3: tables."MySQL.user": a system database is never mirrored'),
        (
            "shop._replicator_status: ",
            '14:3: tables."shop._replicator_status": "_replicator_…" tables belong',
        ),
        ("shop.a: {to: _replicator_x}", '14:16: tables."shop.a".to: "_replicator_…" tables belong'),
        ("shop.a: {to: app.a}", '14:16: tables."shop.a".to: expected a table name without database'),
        ("shop.a: {to: '{table'}", '14:16: tables."shop.a".to: only the placeholders'),
        ("shop.a: {to: '{column}'}", '14:16: tables."shop.a".to: only the placeholders'),
        ("shop.a: {to: 'a '}", '14:16: tables."shop.a".to: a table name cannot end with a space'),
        ("shop.a: {to: ''}", '14:16: tables."shop.a".to: expected a table name'),
    ],
)
def test_table_names_that_cannot_work(tmp_path: Path, entry: str, expected: str) -> None:
    (found,) = faults(tmp_path, HEAD + f"tables:\n  {entry}\n")
    assert found.startswith(expected)


def test_source_database_completes_bare_names(tmp_path: Path) -> None:
    head = HEAD.replace("  user: reader\n", "  user: reader\n  database: erp\n")
    config = load_text(tmp_path, head + "tables: {orders: , '*': , crm.orders: }")
    assert [rule.name for rule in config.tables] == ["erp.orders", "erp.*", "crm.orders"]
    (found,) = faults(tmp_path, head + "tables:\n  orders: {}\n  erp.orders: {}\n")
    assert found.startswith('16:3: tables."erp.orders": means the same as "orders" on line 15')


def test_connect_options_hold_what_pymysql_needs_and_no_url(tmp_path: Path) -> None:
    text = HEAD.replace("${env:SOURCE}", 'pässwörd€ /@"')
    config = load_text(tmp_path, text + "tables: {shop.a: }")
    source = connect_options(config.source, connect_timeout=3)
    assert source == {
        "host": "shop-db",
        "port": 3306,
        "user": "reader",
        "password": 'pässwörd€ /@"'.encode(),
        "database": None,
        "charset": "utf8mb4",
        "connect_timeout": 3,
    }  # preferred: PyMySQL tries TLS by itself only when it is given no option
    assert connect_options(config.target)["ssl"].check_hostname is False
    disabled = load_text(tmp_path, text + "  tls: {mode: disabled}\ntables: {shop.a: }")
    assert connect_options(disabled.target)["ssl_disabled"] is True


def test_the_fingerprint_follows_the_configuration_but_not_the_password(tmp_path: Path) -> None:
    first = load_text(tmp_path, HEAD + "tables: {shop.a: }").fingerprint
    assert load_text(tmp_path, HEAD + "tables: {shop.a: }", SOURCE="other").fingerprint == first
    assert load_text(tmp_path, HEAD + "tables: {shop.a: {to: b}}").fingerprint != first


def test_column_rules(tmp_path: Path) -> None:
    text = HEAD + (
        "tables:\n  shop.a:\n    columns:\n      id: {type: BINARY ( 16 )}\n      price: {unrepresentable: null}\n"
        "      day: {unrepresentable: clamp}\n      note: {unrepresentable: 'null'}\n"
    )
    (rule,) = load_text(tmp_path, text).tables
    found = [(column.name, column.type, str(column.unrepresentable)) for column in rule.columns]
    assert found == [
        ("id", "binary(16)", "fail"),
        ("price", "", "null"),
        ("day", "", "clamp"),
        ("note", "", "null"),
    ]
    assert (rule.columns[0].type_mark.line, rule.columns[1].unrepresentable_mark.line) == (16, 17)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "{type: uuid}",
            '16:17: tables."shop.a".columns."c".type: uuid is no column type that a value can be',
        ),
        (
            "{type: varchar}",
            '16:17: tables."shop.a".columns."c".type: varchar needs a length, such as varchar(100)',
        ),
        (
            "{unrepresentable: quarantine}",
            '16:28: tables."shop.a".columns."c".unrepresentable: "quarantine" is not known to this version yet',
        ),
        ("{unrepresentable: }", '16:27: tables."shop.a".columns."c".unrepresentable: has no value'),
        (
            "{owner: target}",
            '16:11: tables."shop.a".columns."c": key "owner" is not known to this version yet',
        ),
        ("{typ: int}", '16:11: tables."shop.a".columns."c": unknown key "typ"; did you mean "type"?'),
    ],
)
def test_column_rules_that_cannot_be(tmp_path: Path, rule: str, expected: str) -> None:
    (found,) = faults(tmp_path, HEAD + f"tables:\n  shop.a:\n    columns:\n      c: {rule}\n")
    assert found.startswith(expected)
