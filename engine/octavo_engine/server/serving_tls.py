"""TLS of the server's port: a certificate, its key and, for clients that have certificates too, their authorities.

Each handshake takes the certificate of that moment, so a file that changes needs no restart and breaks no connection.
"""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import Any

from octavo_engine.config import TlsConfig
from octavo_engine.errors import ConfigError

PAUSE_S = 1.0  # between two checks of the files

log = logging.getLogger(__name__)


class ServingTls:
    """`context` is what the listener is given, once."""

    def __init__(self, config: TlsConfig) -> None:
        """Raises ConfigError where a file can't be used; names its flag."""
        self._config = config
        self._stamps = _stamps(config)
        self._now = read(config)
        self._next_look = 0.0  # monotonic
        self.context = read(config)
        self.context.sni_callback = self._choose

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for every handshake, whether the client names a server or not."""
        if self._config.refresh and time.monotonic() >= self._next_look:
            self._look()
            self._next_look = time.monotonic() + PAUSE_S
        connection.context = self._now

    def _look(self) -> None:
        """Read the files again if one has changed. A pair that can't be used leaves the last one in place."""
        stamps = _stamps(self._config)
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._now = read(self._config)
        except ConfigError as error:
            log.warning("the TLS certificate stays as it was: %s", error)
        else:
            log.info("the TLS certificate was read again: %s", self._config.certfile)


def read(config: TlsConfig) -> ssl.SSLContext:
    """A server's context with the files as they are now.

    Raises:
        ConfigError: a file can't be read or used, or the ciphers are unknown; names the flag.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A session that is resumed would keep the word of a client's certificate that is no longer trusted.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, config)
    if config.ca_certs is not None:
        _check("--ssl-ca-certs", config.ca_certs, "CERTIFICATE-----")
        try:
            context.load_verify_locations(cafile=config.ca_certs)
        except ssl.SSLError as error:
            raise ConfigError(
                f"--ssl-ca-certs {config.ca_certs} holds a broken certificate ({_reason(error)}): give PEM certificates "
                "of the authorities that sign the clients' certificates"
            ) from error
    context.verify_mode = ssl.VerifyMode(config.cert_reqs)
    if config.ciphers is not None:
        try:
            context.set_ciphers(config.ciphers)
        except ssl.SSLError as error:
            raise ConfigError(
                f"--ssl-ciphers {config.ciphers}: OpenSSL has none of these; give a list as `openssl ciphers` takes it, "
                "or leave it out"
            ) from error
    return context


def _load_pair(context: ssl.SSLContext, config: TlsConfig) -> None:
    _check("--ssl-certfile", config.certfile, "CERTIFICATE-----")
    if config.keyfile is not None:
        _check("--ssl-keyfile", config.keyfile, "PRIVATE KEY-----")
    else:
        _check("--ssl-certfile", config.certfile, "PRIVATE KEY-----", "the file holds no key: give --ssl-keyfile")
    key = f"--ssl-keyfile {config.keyfile}" if config.keyfile is not None else f"the key in {config.certfile}"
    try:
        context.load_cert_chain(config.certfile, config.keyfile, password=_no_password)
    except _EncryptedKeyError as error:
        raise ConfigError(
            f"{key} is encrypted, and no one is there to type its password: decrypt it (openssl pkey -in KEY -out PLAIN)"
        ) from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key} does not belong to --ssl-certfile {config.certfile}: give the pair") from error
        raise ConfigError(
            f"--ssl-certfile {config.certfile} and {key} can't be used ({_reason(error)}): give a PEM certificate, its "
            "chain behind it, and its key"
        ) from error


def _check(flag: str, path: str, mark: str, otherwise: str | None = None) -> None:
    """OpenSSL's own messages name neither the file nor what is wrong with it."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{flag} {path} can't be read ({error.strerror}): give the path of a PEM file that this user may read"
        ) from error
    if mark.encode() not in content:
        kind = "certificate" if mark.startswith("CERT") else "private key"
        raise ConfigError(
            f"{flag} {path}: {otherwise or f'the file holds no {kind} in PEM format: give one that does'}"
        )


class _EncryptedKeyError(Exception):
    """The key would need a password."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _stamps(config: TlsConfig) -> tuple[object, ...]:
    """A value that differs once a file has changed. Follows links: a Secret's volume changes by exchanging one."""
    return tuple(_stamp(path) for path in (config.certfile, config.keyfile, config.ca_certs) if path is not None)


def _stamp(path: str) -> object:
    try:
        state = Path(path).stat()
    except OSError as error:
        return error.errno
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size
