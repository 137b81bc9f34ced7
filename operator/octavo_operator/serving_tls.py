"""The server's side of TLS: certificate and trusted front proxies may change while it serves.

Each handshake takes the context of that moment, so a change needs no restart and breaks no connection.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from typing import Any


class ServingTls:
    """`context` is what a listener is given, once; `update` may be called at any time."""

    def __init__(self, certificate: bytes, key: bytes, trusted: str = "") -> None:
        """Raises ssl.SSLError or ValueError where the certificate and its key can't be used."""
        self._now = _made(certificate, key, trusted)
        self.context = _made(certificate, key, trusted)
        self.context.sni_callback = self._choose

    def update(self, certificate: bytes, key: bytes, trusted: str = "") -> None:
        """Use another certificate from the next handshake on. Raises as the constructor does, and then changes nothing."""
        self._now = _made(certificate, key, trusted)

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._now  # called for every handshake, whether the client names a server or not


def _made(certificate: bytes, key: bytes, trusted: str) -> ssl.SSLContext:
    """`trusted` signs the certificates of clients that have one; others may authenticate by a token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    # A session that is resumed would keep the word of a front proxy that is no longer trusted.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    if trusted:
        context.load_verify_locations(cadata=trusted)
    _load(context, certificate + b"\n" + key)
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL reads files alone; one in memory leaves the key on no disk."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            with os.fdopen(file, "wb", closefd=False) as stream:
                stream.write(pem)
            context.load_cert_chain(f"/proc/self/fd/{file}", password=_no_password)
        finally:
            os.close(file)
    else:
        with tempfile.NamedTemporaryFile() as named:
            named.write(pem)
            named.flush()
            context.load_cert_chain(named.name, password=_no_password)


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one that is not")
