"""The flags of `octavo serve` for HTTPS, in vLLM's spelling, and what they ask for."""

from __future__ import annotations

import argparse

from octavo_engine.config import TlsConfig
from octavo_engine.errors import ConfigError


def add_tls_flags(group: argparse._ArgumentGroup) -> None:
    """Define them."""
    add = group.add_argument
    add(
        "--ssl-certfile",
        metavar="PATH",
        help="serve HTTPS with this PEM certificate, its chain behind it; default: plain HTTP",
    )
    add("--ssl-keyfile", metavar="PATH", help="its private key, not encrypted; default: in the same file")
    add(
        "--ssl-ca-certs", metavar="PATH", help="PEM certificates of the authorities that clients' certificates are from"
    )
    add(
        "--ssl-cert-reqs",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="clients' certificates: 0 none, 1 checked where a client has one, 2 required; default: 0",
    )
    add("--ssl-ciphers", metavar="LIST", help="ciphers of TLS 1.2, as OpenSSL lists them; default: Python's")
    add(
        "--enable-ssl-refresh",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read the files of --ssl-* again when they change; default: on",
    )


def tls_of(options: argparse.Namespace) -> TlsConfig | None:
    """The TLS that the flags ask for, its files read once; None for plain HTTP.

    Raises:
        ConfigError: flags that need others, or a file that can't be used.
    """
    if not options.ssl_certfile:
        given = {"--ssl-keyfile": options.ssl_keyfile, "--ssl-ca-certs": options.ssl_ca_certs}
        given["--ssl-cert-reqs"] = options.ssl_cert_reqs
        alone = next((flag for flag, value in given.items() if value), None)
        if alone is not None:
            raise ConfigError(
                f"{alone} needs --ssl-certfile, without which plain HTTP is served: give both, or neither"
            )
        return None
    if options.ssl_cert_reqs and not options.ssl_ca_certs:
        raise ConfigError(
            f"--ssl-cert-reqs {options.ssl_cert_reqs} needs --ssl-ca-certs: name the authorities that sign the clients' "
            "certificates, or leave it out"
        )
    config = TlsConfig(
        certfile=options.ssl_certfile,
        keyfile=options.ssl_keyfile or None,
        ca_certs=options.ssl_ca_certs or None,
        cert_reqs=options.ssl_cert_reqs,
        ciphers=options.ssl_ciphers or None,
        refresh=options.enable_ssl_refresh,
    )
    from octavo_engine.server import serving_tls  # noqa: PLC0415 — only a start with TLS pays for OpenSSL

    serving_tls.read(config)
    return config
