"""The sources that ``tests.replay`` runs files on: one session each, in which statements may fail."""

from __future__ import annotations

import contextlib
import re
from collections import Counter

import psycopg
import pymysql

from replicator.pgserver import PostgresServer
from replicator.servers import Server
from tests import pgcompare
from tests.accounts import Account
from tests.compare import Side, describe_difference
from tests.pgaccounts import PostgresAccount
from tests.pgscripts import COPY_DATA
from tests.scripts import CREATE_TABLE

SESSION = "SET SESSION sql_mode='NO_ENGINE_SUBSTITUTION', foreign_key_checks=1, default_storage_engine=InnoDB, NAMES utf8mb4"

# Accounts, the server's own tables and what would outlive the file.
_FOREIGN = re.compile(
    r"(?is)\s*(GRANT|REVOKE|(CREATE|DROP|ALTER|RENAME) USER|SET (@@)?(GLOBAL|PERSIST|PASSWORD)|SET @@global|FLUSH|RESET"
    r"|SHUTDOWN|KILL|PURGE|(CHANGE|START|STOP) (MASTER|SLAVE|REPLICA|REPLICATION|GROUP)|INSTALL|LOAD DATA"
    r"|(CREATE|DROP|ALTER) (TABLESPACE|SERVER|LOGFILE)"
    r"|SELECT SLEEP|SET.*(BINLOG_|SQL_LOG_BIN)"
    r"|.{0,80}\b(FROM|INTO|TABLE|UPDATE|EXISTS)\s+`?(mysql|sys|performance_schema)`?\.)"
)


class MysqlSource:
    """MySQL or MariaDB. A table gets its key when it is made: an invisible one changes nothing for what follows."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.product = server.kind
        self.failed: Counter[str] = Counter()
        system = {"mysql", "sys", "performance_schema", "information_schema"}
        found = {str(row[0]) for row in server.execute("SHOW DATABASES")} - system
        server.execute(["SET foreign_key_checks = 0", *(f"DROP DATABASE `{name}`" for name in found)])
        server.execute("CREATE DATABASE replay CHARACTER SET utf8mb4")
        self._connection = server.connect(database="replay", autocommit=True)
        self.run(SESSION)
        self.run("SET time_zone = '+00:00'")

    @property
    def account(self) -> Account:
        return Account(self.server, self.server.user, self.server.password, "replay")

    def run(self, statement: str) -> None:
        """A statement that fails is counted; every table it makes gets a key, as the replicator needs one."""
        if _FOREIGN.match(statement):
            self.failed["not run: " + " ".join(statement.split()[:2])] += 1
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
                while cursor.nextset():
                    pass
        except pymysql.MySQLError as error:
            self.failed[f"{error.args[0]}"] += 1
        except (UnicodeError, ValueError) as error:
            self.failed[type(error).__name__] += 1
        match = CREATE_TABLE.match(statement)
        if match:
            self._give_key(match[2])

    def _give_key(self, table: str) -> None:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(f"SHOW INDEX FROM {table}")
                nullable = {row[2] for row in cursor.fetchall() if row[1] or row[9]}
                cursor.execute(f"SHOW INDEX FROM {table}")
                if not {row[2] for row in cursor.fetchall()} - nullable:
                    cursor.execute(
                        f"ALTER TABLE {table} ADD COLUMN replay_key BIGINT UNSIGNED NOT NULL AUTO_INCREMENT INVISIBLE"
                        " PRIMARY KEY"
                    )
        except pymysql.MySQLError:
            return  # the table is not there, or has a counter of its own: it will be refused for having no key

    def rewind(self) -> None:
        self.run("USE replay")

    def give_keys(self) -> None:
        """They have them."""

    def tables(self) -> list[tuple[str, str]]:
        return [
            (str(schema), str(table))
            for schema, table in self.server.execute(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
                " AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1, 2"
            )
        ]

    def compare(self, schema: str, table: str, target: Side) -> tuple[str, int]:
        text = describe_difference(Side(self.server, schema, table), target)
        return text, int(self.server.execute(f"SELECT COUNT(*) FROM `{schema}`.`{table}`")[0][0])

    def close(self) -> None:
        self._connection.close()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

# Roles, other databases, the server's own settings and what psql would read from elsewhere.
_FOREIGN_TO_POSTGRES = re.compile(
    r"(?is)(GRANT|REVOKE|REASSIGN|(CREATE|DROP|ALTER)\s+(USER|ROLE|DATABASE|TABLESPACE|SERVER|SUBSCRIPTION)|ALTER\s+SYSTEM"
    r"|DROP\s+OWNED|CHECKPOINT|SELECT\s+pg_sleep|SELECT\s+pg_reload|\\)"
)
_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    ORDER BY 1, 2"""
_WITHOUT_KEY = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND c.relreplident <> 'i'
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
      AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"""


class PostgresSource:
    """PostgreSQL, which has no invisible columns: a table without a key gets one more column once the file has made it."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.product = f"{server.kind}{server.installation.version[0]}"
        self.failed: Counter[str] = Counter()
        for (slot,) in server.execute("SELECT slot_name FROM pg_replication_slots WHERE database = 'replay'"):
            server.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        server.execute(["DROP DATABASE IF EXISTS replay WITH (FORCE)", "CREATE DATABASE replay"])
        self._connection = server.connect(database="replay")

    @property
    def account(self) -> PostgresAccount:
        return PostgresAccount(self.server, self.server.user, self.server.password, "replay")

    def run(self, statement: str) -> None:
        """As psql does it: a statement that fails is counted, and within a transaction those after it as well."""
        if _FOREIGN_TO_POSTGRES.match(statement):
            self.failed["not run: " + " ".join(statement.split()[:2])] += 1
            return
        text, is_copy, data = statement.partition(COPY_DATA)
        try:
            cursor = self._connection.cursor()
            if is_copy:
                with cursor.copy(_encode(text)) as copy:
                    copy.write(_encode(data))
            else:
                cursor.execute(_encode(text))
        except psycopg.Error as error:
            self.failed[error.sqlstate or type(error).__name__] += 1

    def rewind(self) -> None:
        self._connection.rollback()
        self._connection.execute("DISCARD ALL")

    def give_keys(self) -> None:
        for (name,) in self._connection.execute(_WITHOUT_KEY).fetchall():
            # Where a partitioned table's key would have to hold other columns, or the table cannot be changed at all, it is
            # refused for having none.
            with contextlib.suppress(psycopg.Error):
                statement = (
                    f"ALTER TABLE {name} ADD replay_key bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
                )
                self._connection.execute(statement.encode())

    def tables(self) -> list[tuple[str, str]]:
        return [(str(schema), str(table)) for schema, table in self._connection.execute(_TABLES.encode())]

    def compare(self, schema: str, table: str, target: Side) -> tuple[str, int]:
        side = pgcompare.PostgresSide(self.server, "replay", schema, table)
        return pgcompare.describe_difference(side, target), side.count()

    def close(self) -> None:
        self._connection.close()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def open_replay_source(server: Server | PostgresServer) -> MysqlSource | PostgresSource:
    """Emptied of what the last file left."""
    return PostgresSource(server) if isinstance(server, PostgresServer) else MysqlSource(server)
