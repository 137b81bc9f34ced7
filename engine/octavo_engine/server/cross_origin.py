"""CORS: which web pages may read the answers. Methods and headers are free, credentials are never allowed."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

MAX_AGE = "600"  # seconds that a browser may keep a preflight's answer
EXPOSED = "X-Request-Id, Retry-After"  # headers that a client in a browser may read


class CrossOrigin:
    """The origins that may read answers; `*` is any."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._everyone = "*" in origins
        self._known = frozenset(origins)

    def headers(self, request: web.Request) -> dict[str, str]:
        """The CORS headers of an answer to `request`; none if the origin is not allowed."""
        origin = request.headers.get("Origin")
        if origin is None or not (self._everyone or origin in self._known):
            return {}
        allowed = "*" if self._everyone else origin
        return {
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Expose-Headers": EXPOSED,
            "Vary": "Origin",
        }

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put them on whatever is answered, errors and streams too: a signal of the application."""
        response.headers.update(self.headers(request))

    def middleware(self) -> Middleware:
        """Answers preflights: a browser asks before it sends the key, so this comes before the key is looked at."""

        @web.middleware
        async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer_preflight(request, handler)

        return answer_preflight

    async def _answer_preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return await handler(request)
        if not self.headers(request):
            return await handler(request)
        headers = {
            "Access-Control-Allow-Methods": request.headers["Access-Control-Request-Method"],
            "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
            "Access-Control-Max-Age": MAX_AGE,
        }
        return web.Response(status=204, headers=headers)
