"""TLS in MySQL's five words: from the `tls` section of a pipeline file to a context that really verifies.

PyMySQL's own ``ssl_ca=`` verifies nothing unless told to twice, so contexts are built here and nowhere else,
and ``assert_encrypted`` looks at the socket after the connect instead of trusting that it happened.

``preferred`` encrypts when the server offers TLS and goes on in plain text only when it does not; nothing is
verified, so whoever sits on the way can strip it. PyMySQL (from 1.2) does this by itself when it is given no
TLS option at all, and treats any context as "required": that is why ``preferred`` has no context.
"""

from __future__ import annotations

import enum
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.errors import ReplicatorError


class TlsMode(enum.StrEnum):
    """How much TLS a connection demands, in MySQL's words."""

    DISABLED = "disabled"
    PREFERRED = "preferred"
    REQUIRED = "required"
    VERIFY_CA = "verify_ca"
    VERIFY_IDENTITY = "verify_identity"

    @property
    def is_demanded(self) -> bool:
        return self in _DEMANDED

    @property
    def is_verified(self) -> bool:
        return self in _VERIFIED


_VERIFIED = frozenset({TlsMode.VERIFY_CA, TlsMode.VERIFY_IDENTITY})
_DEMANDED = _VERIFIED | {TlsMode.REQUIRED}


@dataclass(frozen=True, slots=True)
class Tls:
    """``ca``, ``cert`` and ``key`` are PEM files; without ``ca``, verify_identity trusts the system's
    authorities.
    """

    mode: TlsMode
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def build_context(tls: Tls) -> ssl.SSLContext | None:
    """The context for ``pymysql.connect(ssl=…)``; None for disabled and preferred, which must be given none.

    The server's name is checked against the ``host`` that PyMySQL connects to. Raises OSError (ssl.SSLError
    is one) where a file is missing or holds no usable certificate.
    """
    if not tls.mode.is_demanded:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.mode is TlsMode.VERIFY_IDENTITY
    context.verify_mode = ssl.CERT_REQUIRED if tls.mode.is_verified else ssl.CERT_NONE
    # Certificates that MySQL servers make for themselves lack extensions that Python 3.13's strict flag asks
    # for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.mode.is_verified:
        load_authorities(context, tls.ca)
    if tls.cert is not None:
        load_client_certificate(context, tls.cert, tls.key)
    return context


def load_authorities(context: ssl.SSLContext, ca: Path | None) -> None:
    """Trust the certificates of a PEM file, or the system's where there is none. Raises OSError."""
    if ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=ca)


def load_client_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Present a client certificate. Raises OSError, also for a key with a passphrase: nobody is there to type
    it.
    """
    context.load_cert_chain(cert, key, password="")


def negotiated(connection: Any) -> str | None:
    """What a PyMySQL connection's socket speaks (``TLSv1.3 TLS_AES_256_GCM_SHA384``), or None for plain text.

    PyMySQL promises no public name for its socket; a test fails when ``_sock`` moves.
    """
    sock = connection._sock
    if not isinstance(sock, ssl.SSLSocket) or (cipher := sock.cipher()) is None:
        return None
    return f"{sock.version()} {cipher[0]}"


def assert_encrypted(connection: Any, tls: Tls, error: type[ReplicatorError]) -> str | None:
    """Fail with ``error`` unless the connected socket is what ``tls.mode`` demands; returns what was
    negotiated.
    """
    spoken = negotiated(connection)
    if not tls.mode.is_demanded:
        return spoken
    where = f"{connection.host}:{connection.port}"
    if spoken is None:
        raise error(f"{where}: tls mode {tls.mode} is demanded, but the connection is not encrypted")
    context = connection._sock.context
    if tls.mode.is_verified and context.verify_mode is not ssl.CERT_REQUIRED:
        raise error(f"{where}: tls mode {tls.mode} is demanded, but the certificate was not verified")
    if tls.mode is TlsMode.VERIFY_IDENTITY and not context.check_hostname:
        raise error(f"{where}: tls mode {tls.mode} is demanded, but the server's name was not verified")
    return spoken
