"""docs/howto is true: its GRANTs are enough, its pipeline file runs, its SELECTs answer; one GRANT less is noticed (I7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymysql.constants import CLIENT

from replicator.certificates import make_certificates
from replicator.pgserver import PostgresServer, start_postgres
from replicator.servers import Server, start_mysql
from tests.processes import PipelineFile

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
TABLES = """
CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(40));
CREATE TABLE orders (id INT PRIMARY KEY, customer INT, FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE);
INSERT INTO customers VALUES (1, 'Zoë'); INSERT INTO orders VALUES (10, 1), (11, NULL);
"""


def find_blocks(page: str, mark: str) -> list[str]:
    """The code blocks of a page under a ``<!-- run: … -->`` with this mark."""
    text = (HOWTO / page).read_text()
    return re.findall(rf"<!-- run: {re.escape(mark)} -->\n```\w+\n(.*?)```", text, re.DOTALL)


def find_block(page: str, mark: str) -> str:
    (block,) = find_blocks(page, mark)
    return block


@pytest.fixture
def source(source_server: Server) -> Iterator[Server]:
    """A source with the database and the account of the page."""
    source_server.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
    source_server.execute(TABLES, database="shop")
    source_server.execute(find_block("getting-started.md", f"{source_server.kind} source"))
    yield source_server
    source_server.execute("DROP DATABASE shop; DROP USER replicator")


@pytest.fixture(scope="module")
def empty_target() -> Iterator[Server]:
    """A target of our own: the page names the database and the account."""
    with start_mysql() as server:
        yield server


@pytest.fixture
def target(empty_target: Server) -> Iterator[Server]:
    empty_target.execute(find_block("getting-started.md", "target"))
    yield empty_target
    empty_target.execute("DROP DATABASE app; DROP USER replicator")


@pytest.fixture
def pipeline(tmp_path: Path, source: Server, target: Server) -> PipelineFile:
    """The page's file, with the places of our servers."""
    text = find_block("getting-started.md", "pipeline").replace("type: mysql ", f"type: {source.kind} ", 1)
    for host, server in (("shop-db.office", source), ("10.8.0.2", target)):
        text = text.replace(f"host: {host}", f"host: {server.host}\n  port: {server.port}")
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    return PipelineFile(
        path, {"SHOP_SOURCE_PASSWORD": "choose-one", "SHOP_TARGET_PASSWORD": "choose-another"}
    )


def test_the_ten_minutes_lead_to_mirrored_tables(pipeline: PipelineFile, target: Server) -> None:
    assert " 0 failed" in pipeline.must("check", "FILE")
    assert "CREATE TABLE `customers`" in pipeline.must("plan", "FILE")
    pipeline.must("run", "FILE", "--until-current")
    assert pipeline.status()["consistent"] is True
    assert target.execute("SELECT name FROM app.customers") == [("Zoë",)]
    target.execute("CREATE USER reader IDENTIFIED BY 'x'; GRANT SELECT ON app.* TO reader")
    try:
        check_selects(target)
    finally:
        target.execute("DROP USER reader")


def check_selects(target: Server) -> None:
    """Every SELECT of the page for app developers, with nothing but SELECT."""
    blocks = find_blocks("status-for-app-developers.md", "app")
    assert len(blocks) == 5
    answers = []
    with target.connect("reader", "x", database="app", client_flag=CLIENT.MULTI_STATEMENTS) as connection:
        cursor = connection.cursor()
        for block in blocks:
            cursor.execute(block)
            rows = list(cursor.fetchall())
            while cursor.nextset():
                rows = list(cursor.fetchall()) or rows
            answers.append(rows)
    overview, fresh, moment, tables, coerced = answers
    assert overview[0][:3] == ("shop", "streaming", 1)
    assert abs(overview[0][-1]) < 30
    assert fresh == [(1,)]
    assert moment[0][0] == 1
    assert [row[:3] for row in tables] == [("customers", "streaming", 1), ("orders", "streaming", 2)]
    assert coerced == []


@pytest.mark.parametrize("source_server", ["mariadb"], indirect=True)
def test_foreign_keys_that_are_seen_in_part_are_refused(pipeline: PipelineFile, source: Server) -> None:
    source.execute("REVOKE SHOW VIEW ON shop.* FROM replicator")
    for command, code in (("check", 3), ("load", 4)):
        done = pipeline.run(command, "FILE")
        assert done.returncode == code, done.stdout + done.stderr
        assert "GRANT SHOW VIEW ON `shop`.*" in done.stdout + done.stderr


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

POSTGRES_TABLES = """
CREATE ROLE shop_owner;
SET ROLE shop_owner;
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers (id) ON DELETE CASCADE);
INSERT INTO customers VALUES (1, 'Zoë'); INSERT INTO orders VALUES (10, 1), (11, NULL);
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """As a distribution leaves it, but for a certificate: nobody comes in from outside; then what the page says."""
    with start_postgres(
        tls=make_certificates(tmp_path), wal_level=None, max_replication_slots=None, max_wal_senders=None
    ) as server:
        settings = find_block("getting-started.md", "postgres settings")
        server.execute([line.partition("--")[0] for line in settings.splitlines()])
        hba = find_block("getting-started.md", "postgres hba").replace("10.8.0.5/32", "127.0.0.1/32")
        (server.datadir / "pg_hba.conf").write_text(f"host all root all scram-sha-256\n{hba}")
        server.restart()
        server.execute("CREATE DATABASE shop")
        server.execute("GRANT CREATE ON SCHEMA public TO PUBLIC", database="shop")
        server.execute(POSTGRES_TABLES, database="shop")
        server.execute(find_block("getting-started.md", "postgres source"), database="shop")
        yield server


@pytest.fixture
def postgres_pipeline(tmp_path: Path, postgres: PostgresServer, target: Server) -> PipelineFile:
    text = find_block("getting-started.md", "postgres pipeline")
    for host, place in (
        ("shop-db.office", f"{postgres.host}\n  port: {postgres.port}"),
        ("10.8.0.2", f"{target.host}\n  port: {target.port}"),
    ):
        text = text.replace(f"host: {host}", f"host: {place}")
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    return PipelineFile(
        path, {"SHOP_SOURCE_PASSWORD": "choose-one", "SHOP_TARGET_PASSWORD": "choose-another"}
    )


def test_the_ten_minutes_with_postgresql(
    postgres_pipeline: PipelineFile, postgres: PostgresServer, target: Server
) -> None:
    assert " 0 failed" in postgres_pipeline.must("check", "FILE")
    assert "CREATE TABLE `customers`" in postgres_pipeline.must("plan", "FILE")
    postgres_pipeline.must("load", "FILE")
    postgres.execute("DELETE FROM customers; INSERT INTO customers VALUES (2, 'Ayşe')", database="shop")
    postgres_pipeline.must("run", "FILE", "--until-current")
    assert postgres_pipeline.status()["consistent"] is True
    assert target.execute("SELECT name FROM app.customers") == [("Ayşe",)]
    assert target.execute("SELECT id FROM app.orders") == [(11,)]
    postgres_pipeline.must("drop", "FILE")
    assert postgres.execute("SELECT slot_name FROM pg_replication_slots") == []
