"""An API server that gives prepared answers, and a `Cluster` that asks it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from octavo_operator.cluster.client import Cluster
from octavo_operator.cluster.connection import Connection


@asynccontextmanager
async def answering(
    *answers: Callable[[], web.Response], read_s: float = 5.0
) -> AsyncIterator[tuple[Cluster, list[float]]]:
    """A Cluster whose server gives these answers in turn, the last one for ever; and when it was asked."""
    asked: list[float] = []

    async def handle(_: web.Request) -> web.Response:
        answer = answers[min(len(asked), len(answers) - 1)]
        asked.append(time.monotonic())
        return answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    cluster = Cluster(Connection(f"http://127.0.0.1:{runner.addresses[0][1]}", None), read_s=read_s)
    try:
        yield cluster, asked
    finally:
        await cluster.close()
        await runner.cleanup()


def listed(*items: dict[str, Any], **headers: str) -> Callable[[], web.Response]:
    """An answer that lists these nodes."""
    body = {"kind": "NodeList", "metadata": {"resourceVersion": "7"}, "items": list(items) or None}
    return lambda: web.json_response(body, headers=headers)
