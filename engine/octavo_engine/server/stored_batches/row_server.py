"""The server of rows: the API's own handlers on a private Unix socket, with requests that run in the background.

Its context shares everything with the online one but the queue, the memory for bodies and the stored responses.
"""

from __future__ import annotations

import copy
import shutil
import socket
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from octavo_engine.core_client.core_handle import private_folder
from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.core_client.output_stream import OutputStream
from octavo_engine.messages import EngineRequest, PoolingRequest
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.http_server import listen
from octavo_engine.server.intake.admission import SHARE
from octavo_engine.server.intake.request_body import BodyBudget
from octavo_engine.server.stored_responses import StoredResponses

LAST_SECONDS = 1.0  # for handlers that end with the server


class RowServer:
    """Serves `routes` to the batches of one server. `path` is the socket's, in a folder that only this user can enter."""

    def __init__(self, context: ServerContext, routes: Iterable[tuple[str, str, Handler]]) -> None:
        app = web.Application(middlewares=[_share_memory])
        app[CONTEXT] = _in_background(context)
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=LAST_SECONDS)
        self._folder = private_folder()
        self.path = str(self._folder / "rows")

    async def start(self) -> None:
        """Listen. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        self._listening = await listen(self._runner, listener)

    async def stop(self) -> None:
        """End, and leave nothing behind."""
        self._listening.close()
        await self._runner.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


class BackgroundLink:
    """The same engine's link, but its requests run in the background and are no part of the queue."""

    def __init__(self, link: EngineLink) -> None:
        self._link = link

    def submit(self, requests: Sequence[EngineRequest | PoolingRequest], **how: Any) -> OutputStream:
        """Send requests as the link does, in the background."""
        return self._link.submit([msgspec.structs.replace(each, background=True) for each in requests], **how)

    def check_room(self) -> None:
        """Raise EngineDeadError if the core is gone: there is always room."""
        if self._link.dead is not None:
            raise self._link.dead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)  # all else is the link's


def _in_background(context: ServerContext) -> ServerContext:
    rows = copy.copy(context)
    rows.client = cast("EngineLink", BackgroundLink(context.client))
    rows.bodies = BodyBudget(context.limits.all_body_bytes)
    rows.responses = StoredResponses()
    rows.runs_rows = True
    return rows


@web.middleware
async def _share_memory(request: web.Request, handler: Handler) -> web.StreamResponse:
    with request.app[CONTEXT].bodies.share() as request[SHARE]:
        return await handler(request)
