"""TLS against real servers: each mode connects, or refuses, as its name says, and the socket is what it claims."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pymysql
import pytest

from replicator.certificates import make_certificates
from replicator.config import Endpoint, Secret, connect_options
from replicator.errors import TargetError
from replicator.servers import Server, start_mysql
from replicator.tls import Tls, TlsMode, assert_encrypted, negotiated


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server whose certificate is for "localhost" alone, so that its address is the wrong name."""
    with start_mysql(tls=make_certificates(folder, ["localhost"])) as running:
        running.execute("CREATE USER tcp@'%' IDENTIFIED BY 'pässwörd'; GRANT ALL ON *.* TO tcp@'%'")
        yield running


def endpoint_of(server: Server, tls: Tls, host: str = "localhost", user: str = "tcp") -> Endpoint:
    return Endpoint(host, server.port, user, Secret("pässwörd"), None, tls)


def speak(endpoint: Endpoint, demanded: Tls | None = None) -> str | None:
    with pymysql.connect(**connect_options(endpoint)) as connection:
        return assert_encrypted(connection, demanded or endpoint.tls, TargetError)


def test_demanding_modes_connect_encrypted(server: Server, folder: Path) -> None:
    ca = folder / "ca.pem"
    for tls in (Tls(TlsMode.REQUIRED), Tls(TlsMode.VERIFY_CA, ca), Tls(TlsMode.VERIFY_IDENTITY, ca)):
        assert (speak(endpoint_of(server, tls)) or "").startswith("TLSv1.")
    assert speak(endpoint_of(server, Tls(TlsMode.VERIFY_CA, ca), host="127.0.0.1"))


def test_the_wrong_authority_and_the_wrong_name_are_refused(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path, ["localhost"]).ca
    for mode, ca, host in (
        (TlsMode.VERIFY_CA, other, "localhost"),
        (TlsMode.VERIFY_IDENTITY, other, "localhost"),
        (TlsMode.VERIFY_IDENTITY, folder / "ca.pem", "127.0.0.1"),
    ):
        with pytest.raises((pymysql.err.OperationalError, ssl.SSLError), match="certificate verify failed"):
            speak(endpoint_of(server, Tls(mode, ca), host=host))


def test_a_connection_that_verified_less_than_demanded_is_refused(server: Server, folder: Path) -> None:
    ca = folder / "ca.pem"
    required = endpoint_of(server, Tls(TlsMode.REQUIRED))
    with pytest.raises(TargetError, match="the certificate was not verified"):
        speak(required, Tls(TlsMode.VERIFY_CA, ca))
    with pytest.raises(TargetError, match="the server's name was not verified"):
        speak(replace(required, tls=Tls(TlsMode.VERIFY_CA, ca)), Tls(TlsMode.VERIFY_IDENTITY, ca))


def test_preferred_uses_tls_and_disabled_does_not(server: Server) -> None:
    assert speak(endpoint_of(server, Tls(TlsMode.PREFERRED)))
    disabled = endpoint_of(server, Tls(TlsMode.DISABLED))
    assert speak(disabled) is None
    with pytest.raises(TargetError, match="the connection is not encrypted"):
        speak(disabled, Tls(TlsMode.REQUIRED))


def test_a_server_without_tls_takes_preferred_and_fails_required(mariadb_source: Server) -> None:
    mariadb_source.execute("CREATE OR REPLACE USER tls_test@'%' IDENTIFIED BY 'pässwörd'")
    try:
        assert speak(endpoint_of(mariadb_source, Tls(TlsMode.PREFERRED), "127.0.0.1", "tls_test")) is None
        with pytest.raises(pymysql.err.OperationalError, match="SSL is required"):
            speak(endpoint_of(mariadb_source, Tls(TlsMode.REQUIRED), "127.0.0.1", "tls_test"))
    finally:
        mariadb_source.execute("DROP USER tls_test@'%'")


def test_what_was_negotiated_can_be_shown(server: Server) -> None:
    with pymysql.connect(**connect_options(endpoint_of(server, Tls(TlsMode.REQUIRED)))) as connection:
        version, cipher = (negotiated(connection) or "").split()
        cursor = connection.cursor()
        cursor.execute("SHOW STATUS WHERE Variable_name IN ('Ssl_cipher', 'Ssl_version')")
        assert dict(cursor.fetchall()) == {"Ssl_cipher": cipher, "Ssl_version": version}
