"""Writes to clients that may be slow: for as long as they take anything, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from octavo_engine.server.intake.limits import STALL_SECONDS


async def deliver(request: web.Request, writing: Awaitable[None]) -> None:
    """Wait for `writing`, while the client takes something at least every STALL_SECONDS.

    Raises:
        ConnectionResetError: the client is gone, or has taken nothing for so long; its connection is then closed.
    """
    task = asyncio.ensure_future(writing)
    left = _unsent(request)
    try:
        while not (await asyncio.wait({task}, timeout=STALL_SECONDS))[0]:
            before, left = left, _unsent(request)
            if left >= before:
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the client has stopped reading")
        task.result()
    finally:
        task.cancel()


async def send(request: web.Request, response: web.Response) -> None:
    """Write a whole answer. Raises as `deliver`."""
    await response.prepare(request)
    await deliver(request, response.write_eof())


def _unsent(request: web.Request) -> int:
    return 0 if request.transport is None else request.transport.get_write_buffer_size()
