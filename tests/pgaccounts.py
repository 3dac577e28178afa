"""Accounts and databases of PostgreSQL as an administrator would make them: one schema in a database, of the same name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from replicator.pgserver import PostgresServer
from tests.accounts import PASSWORD, pick_name


@dataclass(frozen=True, slots=True)
class PostgresAccount:
    """See ``accounts.Account``. What the account makes is in the schema named like the database."""

    server: PostgresServer
    user: str
    password: str
    database: str

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        return self.server.connect(self.user, self.password, **({"database": self.database} | options))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def make_postgres_account(server: PostgresServer) -> Iterator[PostgresAccount]:
    """The least a source account needs: REPLICATION, CREATE on its database, and to own the tables it publishes."""
    name = pick_name()
    server.execute(f"CREATE DATABASE {name}")
    literal = PASSWORD.replace("'", "''")
    server.execute(
        [
            f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD '{literal}'",
            f"GRANT CREATE ON DATABASE {name} TO {name}",
            f"CREATE SCHEMA {name} AUTHORIZATION {name}",
            f"ALTER ROLE {name} IN DATABASE {name} SET search_path = {name}",
        ],
        database=name,
    )
    try:
        yield PostgresAccount(server, name, PASSWORD, name)
    finally:
        if server.is_running():
            slots = server.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s", (name,))
            for (slot,) in slots:
                server.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                    (slot,),
                )
                server.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            server.execute(f"DROP ROLE {name}")
