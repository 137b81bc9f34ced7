"""Sends each password to the origin that it was given for, and to no other."""

from __future__ import annotations

import netrc
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

PORTS = {"http": 80, "https": 443}
Origin = tuple[str, str, int | None]


class Passwords:
    """Passwords by origin: from the addresses requested so far (https://USER:PASSWORD@HOST/…), else from ~/.netrc."""

    def __init__(self) -> None:
        self._words: dict[Origin, str] = {}

    def request(self, url: str, headers: Mapping[str, str]) -> urllib.request.Request:
        """A request for `url` with the password of its origin, if there is one; the address has none any more."""
        parts = urlsplit(url)
        if parts.username is not None:
            self._words[_origin(parts)] = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        kept = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        request = urllib.request.Request(address, headers=kept)
        word = self._word(_origin(parts))
        if word is not None:
            # Unredirected: the target of a redirect gets a request of its own.
            request.add_unredirected_header("Authorization", "Basic " + b64encode(word.encode()).decode())
        return request

    def _word(self, origin: Origin) -> str | None:
        scheme, host, port = origin
        if origin in self._words:
            return self._words[origin]
        # A server that sends its clients on to https is the same one.
        if (scheme, port) == ("https", 443) and ("http", host, 80) in self._words:
            return self._words["http", host, 80]
        try:
            found = netrc.netrc().authenticators(host)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError, RuntimeError):
            return None
        return None if found is None else f"{found[0]}:{found[2] or ''}"


def _origin(parts: SplitResult) -> Origin:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme)
