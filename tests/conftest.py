"""Shared fixtures: servers that start when first asked for and serve the whole run; accounts of each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from replicator.pgserver import PostgresServer, start_postgres
from replicator.servers import Server, start_mariadb, start_mysql
from tests.accounts import Account, make_source_account, make_target_account, pick_name
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.profiles import PROFILES
from tests.sources import any_source

__all__ = ["any_source"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", choices=sorted(PROFILES), default="plain", help="the target's settings")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under a setting of the shared target, what does not use it could only say again what it says without."""
    if config.getoption("--target") == "plain":
        return
    concerned = {item: "mysql_target" in getattr(item, "fixturenames", ()) for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not concerned[item]])
    items[:] = [item for item in items if concerned[item]]


@pytest.fixture(scope="session")
def mysql_target(request: pytest.FixtureRequest) -> Iterator[Server]:
    with start_mysql(**cast(Any, PROFILES[request.config.getoption("--target")])) as server:
        yield server


@pytest.fixture(scope="session")
def mysql_source() -> Iterator[Server]:
    with start_mysql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_source() -> Iterator[Server]:
    with start_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_debian() -> Iterator[PostgresServer]:
    with start_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_newest() -> Iterator[PostgresServer]:
    with start_postgres(newest=True) as server:
        yield server


@pytest.fixture(params=[pytest.param("debian", marks=pytest.mark.full), "newest"])
def postgres_source(request: pytest.FixtureRequest) -> PostgresServer:
    """Each version of PostgreSQL that can be had. `make test` runs both in the contract and in the sample of kills alone."""
    server: PostgresServer = request.getfixturevalue(f"postgres_{request.param}")
    return server


@pytest.fixture
def postgres_account(postgres_source: PostgresServer) -> Iterator[PostgresAccount]:
    """The least-privileged reader, on a database of this test's own."""
    with make_postgres_account(postgres_source) as account:
        yield account


@pytest.fixture(scope="session")
def mysql_unlogged_source() -> Iterator[Server]:
    """MySQL whose storage engine runs the cascades, so that no log tells of them (SEMANTICS §5.3)."""
    with start_mysql(innodb_native_foreign_keys=True) as server:
        yield server


@pytest.fixture(params=["mysql", "mariadb"])
def source_server(request: pytest.FixtureRequest) -> Server:
    """Each source product in turn; a test that takes it runs once for each."""
    server: Server = request.getfixturevalue(f"{request.param}_source")
    return server


@pytest.fixture
def target_account(mysql_target: Server) -> Iterator[Account]:
    """The ordinary account of a managed target (SEMANTICS §8) on a database of this test's own."""
    with make_target_account(mysql_target) as account:
        yield account


@pytest.fixture
def takes_files(mysql_target: Server) -> None:
    """For tests whose subject is LOAD DATA LOCAL itself."""
    if not mysql_target.execute("SELECT @@GLOBAL.local_infile")[0][0]:
        pytest.skip("local_infile is off at this target: no LOAD DATA LOCAL is ever answered")


@pytest.fixture
def source_account(source_server: Server) -> Iterator[Account]:
    """The least-privileged reader of each source product, on a database of this test's own."""
    with make_source_account(source_server) as account:
        yield account


@pytest.fixture
def mysql_source_account(mysql_source: Server) -> Iterator[Account]:
    with make_source_account(mysql_source) as account:
        yield account


@pytest.fixture
def mariadb_source_account(mariadb_source: Server) -> Iterator[Account]:
    with make_source_account(mariadb_source) as account:
        yield account


@pytest.fixture
def database_name() -> str:
    """A name no other test uses; the test creates and drops the database itself."""
    return pick_name()


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of sample data, which is no part of the project; without it the test is skipped."""
    path = Path(os.environ.get("REPLICATOR_FIXTURES", ""))
    if not os.environ.get("REPLICATOR_FIXTURES") or not path.is_dir():
        pytest.skip("REPLICATOR_FIXTURES names no folder of sample data")
    return path
