"""Connecting step by step: each address of a name in turn, none for longer than it may take."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from replicator.errors import SourceError, SourceUnavailable
from replicator.readers import postgres_login, postgres_session
from replicator.readers.postgres_session import Refused, connect, fetch
from tests.pgaccounts import PostgresAccount
from tests.pgsources import make_source


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Every name has these addresses; returns those that were connected to."""
    found = [(0, 0, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    asked: list[str] = []

    def listen(**options: Any) -> str:
        asked.append(options["hostaddr"])
        return make_conninfo(**options)

    monkeypatch.setattr(postgres_login, "make_conninfo", listen)
    return asked


def test_the_next_address_is_tried_where_nobody_listens(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with connect(make_source(postgres_account)) as connection:
        assert fetch(connection, "SELECT current_user AS name") == [{"name": postgres_account.user}]
    assert asked == ["127.0.0.2", "127.0.0.1"]


def test_a_server_that_refuses_is_not_asked_again_elsewhere(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password counts once: some servers lock accounts."""
    asked = resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    postgres_account.server.execute(f"ALTER ROLE {postgres_account.user} PASSWORD 'another'")
    with pytest.raises(Refused, match=r"password authentication failed .*SQLSTATE 28P01"):
        connect(make_source(postgres_account))
    assert asked == ["127.0.0.1"]


def test_a_port_that_accepts_and_says_nothing_is_left_in_time(
    postgres_account: PostgresAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_session, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port: int = silent.getsockname()[1]
        with pytest.raises(SourceUnavailable, match="timeout expired"):
            connect(make_source(postgres_account, port=port))


@pytest.mark.parametrize("answers", [(), ("28P01", "53300"), ("53300", "28000"), ("57P03",)])
def test_what_may_pass_is_waited_for(answers: Sequence[str]) -> None:
    """Also where the second answer, without TLS, is final."""
    assert explain(answers).retryable


@pytest.mark.parametrize("answers", [("28P01",), ("28P01", "28000"), ("3D000",), ("42501",), ("22023",)])
def test_what_does_not_pass_is_refused(answers: Sequence[str]) -> None:
    assert not explain(answers).retryable


def explain(answers: Sequence[str]) -> SourceError:
    return postgres_session._explain_login(postgres_login.LoginFailed("words", answers), "source:5432")
