"""Access control: the API key, on every route except a few that are listed here.

Decided on the path exactly as it was sent, before any routing or decoding: any path that is not literally one of the open
ones needs the key, so no spelling of a path bypasses it.
"""

from __future__ import annotations

import hashlib
import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from octavo_engine.api_keys import ApiKeys
from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import error_response

KEY: web.RequestKey[int] = web.RequestKey("key", int)  # which of the keys the request has brought
OPEN_PATHS = ("/health", "/ping", "/version", "/metrics", "/load", "/docs", "/redoc", "/openapi.json")


def require_key(keys: ApiKeys, root_path: str) -> Middleware:
    """A middleware that lets a request pass with one of `keys` as bearer, or to an open path."""
    open_paths = frozenset(prefix + path for path in OPEN_PATHS for prefix in ("", root_path))

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        known = _known(request, keys.current())
        if known is not None:
            request[KEY] = known
        if known is not None or request.raw_path.partition("?")[0] in open_paths:
            return await handler(request)
        given = "Authorization" in request.headers or "X-Api-Key" in request.headers
        problem = "the API key is wrong" if given else "an API key is needed: send Authorization: Bearer KEY"
        return error_response(RequestError(problem, status=401, code="invalid_api_key"), path=request.path)

    return check


def _known(request: web.Request, keys: tuple[str, ...]) -> int | None:
    """The key of the request. Compares digests of equal length, and all of them, so that the time reveals nothing."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = request.headers.get("X-Api-Key", "")  # Anthropic's clients
    given = _digest(token.strip())
    matches = [hmac.compare_digest(given, digest) for digest in map(_digest, keys)]
    return matches.index(True) if any(matches) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
