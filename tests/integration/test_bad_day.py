"""docs/howto/bad-day.md quotes what the program says: each quotation is planted here, or is a text of the program's own.

A quotation's ``…`` stands for anything. Words that are the server's come from a real server where one can be brought to
say them.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

import replicator
from replicator.check.probe import probe
from replicator.config import Target
from replicator.config.kinds import Secret
from replicator.pgserver import PostgresServer, start_postgres
from replicator.readers import mysql_checks
from replicator.refusals import classify
from replicator.tls import Tls, TlsMode
from tests.accounts import Account
from tests.pgaccounts import PostgresAccount, make_postgres_account
from tests.processes import write_pipeline
from tests.streams import make_source
from tests.targets import Stranger, build_endpoint, set_global

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "bad-day.md"
QUOTES = [
    quote
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| you see")
    for quote in re.findall(r"`([^`]+)`", line.split("|")[1])
    if quote != "status"
]


def to_pattern(quote: str) -> str:
    return ".*".join(re.escape(part.strip()) for part in quote.split("…"))


@dataclasses.dataclass(frozen=True, slots=True)
class Ends:
    """Both ends, each as it should be until a planter spoils it."""

    source: Account
    target: Account
    untold: Account  # at a server without a certificate
    postgres: PostgresServer
    folder: Path

    @property
    def endpoint(self) -> Target:
        return build_endpoint(self.target)

    def probe(self, **changes: object) -> str:
        """What is said of a target that differs from the right one in ``changes``."""
        found = probe(dataclasses.replace(self.endpoint, **changes), "target").failure  # type: ignore[arg-type]
        return found.message if found else ""

    def check_source(self) -> str:
        with self.source.connect() as connection:
            return "\n".join(item.message for item in mysql_checks.check(connection, [], "mysql"))


@pytest.fixture
def ends(
    mysql_source_account: Account,
    target_account: Account,
    mariadb_source_account: Account,
    postgres_debian: PostgresServer,
    tmp_path: Path,
) -> Ends:
    return Ends(mysql_source_account, target_account, mariadb_source_account, postgres_debian, tmp_path)


def unresolved(ends: Ends) -> str:
    return ends.probe(host="no-such-host.invalid")


def refused(ends: Ends) -> str:
    return ends.probe(port=1)


def answered_by(greeting: bytes, answer: bytes, ends: Ends) -> str:
    with Stranger(greeting, answer=answer) as stranger:
        return ends.probe(port=stranger.port)


def closed(ends: Ends) -> str:
    pipeline = write_pipeline(ends.folder, ends.source, ends.target)
    with set_global(ends.target.server, "read_only", "ON"):
        return pipeline.must("check", "FILE", exit_code=3)


def crowded(ends: Ends) -> str:
    """Over one connection from first to last: nobody else would be let in to set it right."""
    server = ends.target.server
    before = server.execute("SELECT @@GLOBAL.max_connections")[0][0]
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET GLOBAL max_connections = 1")
        try:
            return ends.probe()
        finally:
            cursor.execute("SET GLOBAL max_connections = %s", (before,))


def exhausted(ends: Ends) -> str:
    server, user = ends.target.server, ends.target.user
    server.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 1")
    with ends.target.connect():
        return ends.probe()


def full(_: Ends) -> str:
    return classify(pymysql.OperationalError(1114, "The table 't' is full", sqlstate="HY000")).message


def wrong_password(ends: Ends) -> str:
    return ends.probe(password=Secret("wrong"))


def no_account(ends: Ends) -> str:
    """Whoever asks is let in from another host only, root too: told by the words alone, as MySQL 9.7 says them."""
    words = "Host 'gate' is not allowed to connect to this MySQL server"
    return classify(pymysql.OperationalError(1130, words, sqlstate="HY000")).message


def no_database(ends: Ends) -> str:
    server = ends.target.server
    return ends.probe(user=server.user, password=Secret(server.password), database="missing")


def no_tls(ends: Ends) -> str:
    account = ends.untold
    source = make_source(account.server, account.user, account.password, tls=Tls(TlsMode.REQUIRED))
    failure = probe(source, "source").failure
    return failure.message if failure else ""


def untrusted(ends: Ends) -> str:
    return ends.probe(tls=Tls(TlsMode.VERIFY_IDENTITY))


def tls_demanded(ends: Ends) -> str:
    with set_global(ends.target.server, "require_secure_transport", "ON"):
        return ends.probe(tls=Tls(TlsMode.DISABLED))


def unfit(name: str, value: str, ends: Ends) -> str:
    with set_global(ends.source.server, name, f"'{value}'"):
        return ends.check_source()


def paused(ends: Ends) -> str:
    write = functools.partial(ends.source.server.execute, database=ends.source.database)
    write("CREATE TABLE t (id INT PRIMARY KEY)")
    pipeline = write_pipeline(ends.folder, ends.source, ends.target)
    pipeline.must("load", "FILE")
    write("ALTER TABLE t ADD v INT")
    pipeline.must("run", "FILE", "--until-current", exit_code=6)
    return pipeline.must("status", "FILE")


def not_let_in(line: str, ends: Ends) -> str:
    with start_postgres() as server, make_postgres_account(server) as account:
        (server.datadir / "pg_hba.conf").write_text(f"host all root all scram-sha-256\n{line}")
        server.restart()
        return check_from(account, ends)


def refused_login(deed: str, ends: Ends) -> str:
    with make_postgres_account(ends.postgres) as account:
        ends.postgres.execute(deed.format(name=account.user))
        return check_from(account, ends)


def no_postgres_database(ends: Ends) -> str:
    with make_postgres_account(ends.postgres) as account:
        return check_from(dataclasses.replace(account, database="missing"), ends)


def not_logical(ends: Ends) -> str:
    with start_postgres(wal_level="replica") as server, make_postgres_account(server) as account:
        return check_from(account, ends)


def check_from(account: PostgresAccount, ends: Ends) -> str:
    return write_pipeline(ends.folder, account, ends.target).must("check", "FILE", exit_code=3)


PLANTED: dict[str, Callable[[Ends], str]] = {
    "… does not resolve": unresolved,
    "refused: a machine answers …": refused,
    "the port answers, and nothing there greets us": functools.partial(answered_by, b"", b""),
    "what answers there speaks HTTP, not MySQL": functools.partial(
        answered_by, b"", b"HTTP/1.1 400 Bad Request"
    ),
    "read_only is on": closed,
    "what answers … does not speak MySQL": functools.partial(answered_by, b"SSH-2.0-OpenSSH_9.9\r\n", b""),
    "out of room: … (error 1114…)": full,
    "Too many connections (error 1040…)": crowded,
    "… has exceeded the … resource … (error 1226…)": exhausted,
    "Access denied for user … (error 1045…)": wrong_password,
    "Host … is not allowed to connect … (error 1130…)": no_account,
    "Unknown database … (error 1049…)": no_database,
    "the server offers no TLS, and the file demands it": no_tls,
    "the certificate is not to be trusted": untrusted,
    "the server demands TLS": tls_demanded,
    "no pg_hba.conf entry for host …": functools.partial(not_let_in, ""),
    "pg_hba.conf rejects connection …": functools.partial(not_let_in, "host all all all reject\n"),
    "password authentication failed …": functools.partial(
        refused_login, "ALTER ROLE {name} PASSWORD 'other'"
    ),
    'database "…" does not exist': no_postgres_database,
    "permission denied for database …": functools.partial(
        refused_login, "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
    ),
    "wal_level is replica": not_logical,
    "state=paused … error=…": paused,
    **{
        f"{name} is {value}, it must be {needed}": functools.partial(unfit, name, value)
        for name, value, needed in (
            ("binlog_format", "STATEMENT", "ROW"),
            ("binlog_row_image", "MINIMAL", "FULL"),
            ("binlog_row_metadata", "MINIMAL", "FULL"),
        )
    },
}


@pytest.mark.parametrize("quote", PLANTED)
def test_what_is_quoted_is_what_is_said(ends: Ends, quote: str) -> None:
    assert quote in QUOTES
    assert re.search(to_pattern(quote), PLANTED[quote](ends))


def list_texts() -> Iterator[str]:
    """Every text of the program, with a gap for each value that is put into it."""
    for path in Path(replicator.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_other_quotation_is_a_text_of_the_program() -> None:
    texts = list(list_texts())
    others = [quote for quote in QUOTES if quote not in PLANTED]
    assert len(others) > 8
    missing = [quote for quote in others if not any(re.search(to_pattern(quote), text) for text in texts)]
    assert missing == []
