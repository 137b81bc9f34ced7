"""/openapi.json, and the same as HTML at /docs and /redoc."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from aiohttp import web
from aiohttp.typedefs import Handler

from octavo_engine.server.context import CONTEXT

DESCRIPTION: web.AppKey[Callable[[], bytes]] = web.AppKey("description")
"""Makes the document, which takes a moment the first time."""

# The HTML has its own script and style, and asks nothing but this server.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; form-action 'none'"
)


async def openapi(request: web.Request) -> web.Response:
    """Describe this API as OpenAPI 3.1."""
    data = await request.app[CONTEXT].pools.run("read", request.app[DESCRIPTION])
    return web.Response(body=data, content_type="application/json")


async def docs(_request: web.Request) -> web.Response:
    """Show this API as HTML that can send requests."""
    html = files("octavo_engine.server.api_description").joinpath("docs.html").read_bytes()
    return web.Response(
        body=html, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": POLICY}
    )


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/openapi.json", openapi),
    ("GET", "/docs", docs),
    ("GET", "/redoc", docs),
)
