"""TLS in MySQL's five words: what each accepts, shown by handshakes in memory; no network."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymysql
import pytest
from cryptography.hazmat.primitives import serialization

from replicator.certificates import Certificates, make_certificates
from replicator.config import TlsMode, load
from replicator.errors import ConfigError, TargetError
from replicator.tls import Tls, assert_encrypted, build_context, negotiated

HOST = "app-db.example"


@dataclass(frozen=True)
class Authorities:
    ours: Certificates
    other: Certificates


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ours").mkdir()
    (folder / "other").mkdir()
    return Authorities(
        make_certificates(folder / "ours", [HOST]), make_certificates(folder / "other", [HOST])
    )


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """A whole handshake through memory; raises what either side would."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    steps: list[Callable[[], object]] = [ours.do_handshake, theirs.do_handshake]
    while steps:
        step = steps.pop(0)
        try:
            step()
        except ssl.SSLWantReadError:
            steps.append(step)
    return ours


def build_server(certificates: Certificates, client_ca: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = (
        ssl.TLSVersion.TLSv1_2
    )  # its server answers for the client certificate in the handshake
    context.load_cert_chain(certificates.cert, certificates.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def build_client(mode: TlsMode, ca: Path | None = None, **files: Path) -> ssl.SSLContext:
    context = build_context(Tls(mode, ca, **files))
    assert context is not None
    return context


@pytest.mark.parametrize("mode", [TlsMode.DISABLED, TlsMode.PREFERRED])
def test_disabled_and_preferred_have_no_context(mode: TlsMode) -> None:
    assert build_context(Tls(mode)) is None


@pytest.mark.parametrize(
    ("mode", "wrong_ca", "wrong_name"),
    [
        (TlsMode.REQUIRED, True, True),
        (TlsMode.VERIFY_CA, False, True),
        (TlsMode.VERIFY_IDENTITY, False, False),
    ],
)
def test_each_mode_verifies_what_its_name_says(
    authorities: Authorities, mode: TlsMode, wrong_ca: bool, wrong_name: bool
) -> None:
    server = build_server(authorities.ours)
    verified = mode is not TlsMode.REQUIRED
    assert shake_hands(build_client(mode, authorities.ours.ca if verified else None), server, HOST).cipher()
    for ca, host, accepted in (
        (authorities.other.ca, HOST, wrong_ca),
        (authorities.ours.ca, "elsewhere.example", wrong_name),
    ):
        client = build_client(mode, ca if verified else None)
        if accepted:
            assert shake_hands(client, server, host).cipher()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                shake_hands(client, server, host)


def test_verify_identity_without_a_ca_trusts_the_system_not_everybody(authorities: Authorities) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(build_client(TlsMode.VERIFY_IDENTITY), build_server(authorities.ours), HOST)


def test_a_client_certificate_is_presented(authorities: Authorities) -> None:
    ours = authorities.ours
    server = build_server(ours, client_ca=ours.ca)
    assert shake_hands(build_client(TlsMode.REQUIRED, cert=ours.cert, key=ours.key), server, HOST).cipher()
    with pytest.raises(ssl.SSLError):
        shake_hands(build_client(TlsMode.REQUIRED), server, HOST)


def test_old_protocols_are_refused() -> None:
    assert build_client(TlsMode.REQUIRED).minimum_version == ssl.TLSVersion.TLSv1_2


def connection(sock: object) -> Any:
    return SimpleNamespace(_sock=sock, host=HOST, port=3306)


def test_a_plain_socket_fails_every_demanding_mode() -> None:
    for mode in TlsMode:
        if mode in (TlsMode.DISABLED, TlsMode.PREFERRED):
            assert assert_encrypted(connection(object()), Tls(mode), TargetError) is None
        else:
            with pytest.raises(TargetError, match=rf"{HOST}:3306: tls mode {mode} is demanded"):
                assert_encrypted(connection(object()), Tls(mode), TargetError)


def test_pymysql_still_keeps_its_socket_where_we_look() -> None:
    assert hasattr(pymysql.connect(defer_connect=True), "_sock")
    assert negotiated(pymysql.connect(defer_connect=True)) is None


HEAD = """\
pipeline: shop
source: {type: mysql, host: db, user: u, password: "${env:P}"}
tables: {shop.a: {}}
target:
  type: mysql
  host: app-db
  user: u
  password: ${env:P}
  database: app
"""


def load_tls(folder: Path, line: str) -> Tls:
    path = folder / "shop.yaml"
    path.write_text(HEAD + f"  tls: {line}\n")
    return load(path, {"P": "x"}).target.tls


def test_a_ca_makes_verify_identity_the_default(authorities: Authorities, tmp_path: Path) -> None:
    ca = authorities.ours.ca
    assert load_tls(tmp_path, "{}") == Tls(TlsMode.REQUIRED)
    assert load_tls(tmp_path, f"{{ca: {ca}}}") == Tls(TlsMode.VERIFY_IDENTITY, ca)
    assert load_tls(tmp_path, "{mode: verify_identity}") == Tls(TlsMode.VERIFY_IDENTITY)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "{mode: required, ca: CA}",
            '10:29: target.tls: "ca" is given, but mode "required" never looks at it',
        ),
        ("{mode: verify_ca}", '10:15: target.tls: mode "verify_ca" needs "ca"'),
        ("{ca: nope.pem}", "10:13: target.tls.ca: FOLDER/nope.pem: No such file or directory"),
        ("{ca: KEY}", "10:13: target.tls.ca: KEY holds no usable PEM"),
        ("{key: KEY}", '10:14: target.tls: "key" without "cert"'),
        ("{cert: CERT, key: LOCKED}", "10:15: target.tls.cert: CERT holds no usable PEM certificate or key"),
        ("{cert: CERT, key: OTHER}", "10:15: target.tls.cert: CERT holds no usable PEM certificate or key"),
        ("{cert: nope.pem}", "10:15: target.tls.cert: FOLDER/nope.pem: No such file or directory"),
        (
            "{mode: preferred, cert: CERT, key: KEY}",
            '10:32: target.tls: "cert" does not go with mode "preferred"',
        ),
        ("{mode: on}", '10:15: target.tls.mode: "on" is not a known word here'),
    ],
)
def test_tls_sections_that_would_not_do_what_they_say(
    authorities: Authorities, tmp_path: Path, line: str, expected: str
) -> None:
    key = serialization.load_pem_private_key(authorities.ours.key.read_bytes(), None)
    (tmp_path / "locked.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    places = {
        "LOCKED": tmp_path / "locked.pem",
        "OTHER": authorities.other.key,
        "CERT": authorities.ours.cert,
        "KEY": authorities.ours.key,
        "CA": authorities.ours.ca,
        "FOLDER": tmp_path,
    }
    for name, path in places.items():
        line, expected = line.replace(name, str(path)), expected.replace(name, str(path))
    with pytest.raises(ConfigError) as caught:
        load_tls(tmp_path, line)
    (fault,) = caught.value.problems
    assert str(fault).removeprefix(f"{tmp_path}/shop.yaml:").startswith(expected)
