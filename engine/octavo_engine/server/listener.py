"""The server's listening socket. Bound before the model loads, so that a port in use is reported at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from octavo_engine.config import ServerConfig
from octavo_engine.errors import ConfigError
from octavo_engine.server.intake.limits import VANISHED_SECONDS

# Host, port and, for IPv6, flow and scope.
Address = tuple[Any, ...]


def bind(server: ServerConfig) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises:
        ConfigError: the address can't be had.
    """
    if server.uds is not None:
        return _bind_unix(server.uds)
    listener = _bind_tcp(server)
    notice_vanished_clients(listener)
    return listener


def notice_vanished_clients(listener: socket.socket) -> None:
    """Let the kernel end connections whose other side has gone without a word; those accepted have it from `listener`.

    One that is written to ends by TCP_USER_TIMEOUT, an idle one by keep-alive (which aiohttp turns on).
    """
    options = (
        ("TCP_USER_TIMEOUT", VANISHED_SECONDS * 1000),  # only Linux has it
        ("TCP_KEEPIDLE", VANISHED_SECONDS // 2),
        ("TCP_KEEPINTVL", VANISHED_SECONDS // 6),
        ("TCP_KEEPCNT", 3),
    )
    for name, value in options:
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _bind_tcp(server: ServerConfig) -> socket.socket:
    address: Address
    if server.host is None and socket.has_dualstack_ipv6():
        family, address = socket.AddressFamily.AF_INET6, ("::", server.port)
    else:
        family, address = _resolve(server.host or "0.0.0.0", server.port)  # noqa: S104 — vLLM's default
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if server.host is None and family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind(address)
    except PermissionError as error:
        listener.close()
        raise ConfigError(f"port {server.port} needs privileges this process lacks; choose one above 1023") from error
    except OSError as error:
        listener.close()
        where = f"{server.host or 'all interfaces'}, port {server.port}"
        raise ConfigError(f"can't listen on {where}: {os.strerror(error.errno or 0)}; choose another --port") from error
    return listener


def url_of(listener: socket.socket, server: ServerConfig) -> str:
    """The URL for a user on this machine."""
    if server.uds is not None:
        return f"unix:{server.uds}"
    scheme = "http" if server.tls is None else "https"
    host = server.host or "127.0.0.1"
    if host in {"0.0.0.0", "::"}:  # noqa: S104 — shown as what can be opened
        host = "127.0.0.1"
    port = listener.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine: {error}") from error
    family, _, _, _, address = found[0]
    return family, address


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).exists() and Path(path).is_socket() and not _answers(path):
            Path(path).unlink()  # left behind by a server that was killed
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ConfigError(f"--uds {path} can't be had: {error}; remove it, or choose another path") from error
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
