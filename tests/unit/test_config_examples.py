"""The example pipelines load, and the schema and the reference page are those of the loader's key tables."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from replicator.certificates import make_certificates
from replicator.config import Defaults, Source, TableRule, Target, Tls, TlsMode, load
from replicator.config import doc as configdoc
from replicator.config.keys import DEFAULTS_KEYS, SOURCE_KEYS, TABLE_KEYS, TARGET_KEYS, TLS_KEYS
from replicator.config.selection import select

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
ENV = dict.fromkeys(
    ("SHOP_SOURCE_PASSWORD", "SHOP_TARGET_PASSWORD", "ERP_SOURCE_PASSWORD", "ERP_TARGET_PASSWORD"), "x"
)


def test_every_example_is_tested_here() -> None:
    assert {path.name for path in SCHEMAS.glob("*.yaml")} == {
        "mysql.yaml",
        "mariadb.yaml",
        "mysql-tls.yaml",
        "postgres.yaml",
    }


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_begin_with_the_editor_line(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=./replicator.schema.json\n")


def test_the_smallest_example_selects_a_database() -> None:
    config = load(SCHEMAS / "mysql.yaml", ENV)
    assert config.warnings == ()
    chosen = select(config, [("shop", "a"), ("crm", "b")])
    assert [(str(table.source), table.target) for table in chosen.tables] == [("shop.a", "a")]


def test_the_mariadb_example_does_what_its_comments_say() -> None:
    config = load(SCHEMAS / "mariadb.yaml", ENV)
    erp = [("erp", name) for name in ("customers", "orders", "countries", "log_1", "parts")]
    chosen = select(config, [*erp, ("archive", "orders_2024"), ("archive", "other")])
    assert {str(table.source): table.target for table in chosen.tables} == {
        "archive.orders_2024": "archive_orders_2024",
        "erp.countries": "countries",
        "erp.customers": "customers",
        "erp.orders": "sales_orders",
        "erp.parts": "erp_parts",
    }
    assert [table.create for table in chosen.tables] == [True, False, True, True, True]
    assert chosen.warnings == ()


def test_the_postgresql_example_does_what_its_comments_say() -> None:
    config = load(SCHEMAS / "postgres.yaml", ENV)
    public = [("public", name) for name in ("orders", "sessions", "measurements")]
    chosen = select(config, [*public, ("billing", "invoices"), ("audit", "log")])
    assert {str(table.source): table.target for table in chosen.tables} == {
        "billing.invoices": "billing_invoices",
        "public.measurements": "measurements",
        "public.orders": "orders",
    }
    assert chosen.warnings == ()


def test_the_tls_example_reads_the_files_beside_it(tmp_path: Path) -> None:
    path = Path(shutil.copy(SCHEMAS / "mysql-tls.yaml", tmp_path))
    for name in ("certificates", "secrets"):
        (tmp_path / name).mkdir()
    made = make_certificates(tmp_path / "certificates")
    for name, origin in (
        ("source-ca", made.ca),
        ("target-ca", made.ca),
        ("client-cert", made.cert),
        ("client-key", made.key),
    ):
        shutil.copy(origin, tmp_path / "certificates" / f"{name}.pem")
    for name in ("source", "target"):
        (tmp_path / "secrets" / name).write_text(f"{name}-secret\n")
    config = load(path, {})
    assert config.warnings == ()
    assert (config.source.tls.mode, config.target.tls.mode) == (TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY)
    assert config.source.tls.key == tmp_path / "certificates" / "client-key.pem"
    assert config.target.password.reveal() == "target-secret"


def test_reference_and_schema_are_current() -> None:
    message = "run: python -m replicator.config.doc"
    assert (ROOT / configdoc.REFERENCE).read_text() == configdoc.render_reference(), message
    assert (ROOT / configdoc.SCHEMA).read_text() == configdoc.render_schema(), message


def test_every_key_has_its_field_and_every_field_its_key() -> None:
    for keys, kind in ((SOURCE_KEYS, Source), (DEFAULTS_KEYS, Defaults), (TLS_KEYS, Tls)):
        assert {key.name for key in keys} == {field.name for field in fields(kind)}
    assert {key.name for key in TARGET_KEYS} - {"type"} == {field.name for field in fields(Target)}
    assert {key.name for key in TABLE_KEYS} <= {field.name for field in fields(TableRule)}


def test_the_schema_refuses_unknown_keys_everywhere() -> None:
    schema = configdoc.json_schema()
    options = schema["properties"]["tables"]["additionalProperties"]
    sections = [schema, options, *(schema["properties"][name] for name in ("source", "target", "defaults"))]
    assert all(section["additionalProperties"] is False for section in sections)
    assert schema["required"] == ["pipeline", "source", "target", "tables"]
    assert set(options["properties"]) == {"to", "skip", "create", "existing_rows", "columns"}
