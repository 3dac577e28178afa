"""A PostgreSQL account as the reader of the program's own process sees it."""

from __future__ import annotations

from replicator.config import Secret, Source, SourceType, Tls, TlsMode
from replicator.readers.postgres import PostgresReader
from tests.pgaccounts import PostgresAccount

SHORT_ID = "0a1b2c3d"


def make_source(account: PostgresAccount, *, port: int = 0) -> Source:
    """The account's database as a pipeline's source, through another port when one is given."""
    server = account.server
    return Source(
        host=server.host,
        port=port or server.port,
        user=account.user,
        password=Secret(account.password),
        database=account.database,
        tls=Tls(TlsMode.PREFERRED),
        type=SourceType.POSTGRES,
    )


def open_reader(account: PostgresAccount, *, port: int = 0) -> PostgresReader:
    """The caller closes it; what it makes at the source goes with the account."""
    return PostgresReader(make_source(account, port=port), "shop", short_id=SHORT_ID)


def run(account: PostgresAccount, *statements: str) -> None:
    """Statements of one session, each a transaction of its own unless BEGIN says otherwise."""
    with account.connect() as connection:
        for text in statements:
            connection.execute(text.encode())
