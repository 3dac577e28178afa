"""Accounts and databases as a customer's administrator would make them: no more rights than the work needs."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pymysql

from replicator.servers import Server

# Quotes, backslash, colon, hash, dollar: what breaks careless quoting. Hand it on through ${env:} or ${file:}.
PASSWORD = "it's $9%: #\\{x}"

TARGET_PRIVILEGES = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES"
)

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Account:
    """One ordinary account and the one database it works on."""

    server: Server
    user: str
    password: str
    database: str

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        return self.server.connect(self.user, self.password, **({"database": self.database} | options))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement with this account's rights."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


def pick_name() -> str:
    """A database or account name that nothing else in this test run has."""
    return f"t{os.getpid()}_{next(_numbers)}"


@contextlib.contextmanager
def make_target_account(server: Server) -> Iterator[Account]:
    """The managed target's account: rights on one database, which is fresh and empty; no global right."""
    with _make_account(server, TARGET_PRIVILEGES) as account:
        yield account


@contextlib.contextmanager
def limit_host(account: Account) -> Iterator[str]:
    """The account for local clients only, for a while; yields its name, which is not what a denial calls it."""
    name = f"{account.user}@'127.0.0.%'"
    account.server.execute(f"RENAME USER {account.user} TO {name}")
    try:
        yield name
    finally:
        account.server.execute(f"RENAME USER {name} TO {account.user}")


@contextlib.contextmanager
def make_source_account(server: Server) -> Iterator[Account]:
    """The least a source account needs: to read the log, to see XA transactions, to read the tables, to lock them."""
    with _make_account(server, "SELECT, LOCK TABLES, SHOW VIEW") as account:
        rights = ["REPLICATION SLAVE", "REPLICATION CLIENT"]
        if server.kind == "mysql":
            rights.append("XA_RECOVER_ADMIN")
        server.execute(f"GRANT {', '.join(rights)} ON *.* TO {account.user}")
        yield account


@contextlib.contextmanager
def _make_account(server: Server, privileges: str) -> Iterator[Account]:
    name = pick_name()
    server.execute(f"CREATE DATABASE {name}")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {name} IDENTIFIED BY %s", (PASSWORD,))
        cursor.execute(f"GRANT {privileges} ON {name}.* TO {name}")
    try:
        yield Account(server, name, PASSWORD, name)
    finally:
        if server.is_running():
            server.execute(f"DROP USER {name}; DROP DATABASE IF EXISTS {name}")
