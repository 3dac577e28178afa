"""Every source product under one face, for tests that say nothing of the kind: an account, and a judge of the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest

from replicator.pgserver import PostgresServer
from tests import compare, pgcompare
from tests.accounts import Account, make_source_account
from tests.pgaccounts import PostgresAccount, make_postgres_account


class AnySource(Protocol):
    """A source database with the account that reads it."""

    @property
    def account(self) -> Account | PostgresAccount: ...

    def run(self, statements: Sequence[str]) -> None:
        """Run statements on one session, each a transaction of its own unless BEGIN says otherwise."""
        ...

    def compare(self, target: Account) -> int:
        """Every table equals its namesake at the target; how many rows were compared."""
        ...

    def restart(self) -> None:
        """Kill the server and start it again."""
        ...


class MysqlLike:
    """MySQL or MariaDB."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def run(self, statements: Sequence[str]) -> None:
        self.account.server.execute(list(statements), database=self.account.database)

    def compare(self, target: Account) -> int:
        mine = self.account
        return compare.assert_equal(mine.server, mine.database, target.server, target.database)

    def restart(self) -> None:
        self.account.server.kill()
        self.account.server.start()


class Postgres:
    """PostgreSQL; the account owns its tables, so it makes them."""

    def __init__(self, account: PostgresAccount) -> None:
        self.account = account

    def run(self, statements: Sequence[str]) -> None:
        with self.account.connect() as connection:
            for text in statements:
                connection.execute(text.encode())

    def compare(self, target: Account) -> int:
        mine = self.account
        return pgcompare.assert_equal(mine.server, mine.database, target.server, target.database)

    def restart(self) -> None:
        self.account.server.kill()
        self.account.server.start()


def open_source(server: Any) -> Iterator[AnySource]:
    """The face of a running server, with an account and a database of its own."""
    if isinstance(server, PostgresServer):
        with make_postgres_account(server) as account:
            yield Postgres(account)
    else:
        with make_source_account(server) as account:
            server.execute(
                f"ALTER DATABASE {account.database} CHARACTER SET utf8mb4"
            )  # PostgreSQL's is Unicode
            yield MysqlLike(account)


SOURCES = ["mysql_source", "mariadb_source", "postgres_debian", "postgres_newest"]


@pytest.fixture(params=SOURCES)
def any_source(request: pytest.FixtureRequest) -> Iterator[AnySource]:
    """Each source product in turn; a test that takes it runs once for each."""
    yield from open_source(request.getfixturevalue(request.param))
