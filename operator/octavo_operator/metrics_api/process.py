"""The process: its tasks, from start to orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from octavo_operator.cluster.client import Cluster
from octavo_operator.cluster.connection import Connection
from octavo_operator.metrics_api.authentication import Authenticator
from octavo_operator.metrics_api.authorization import Authorizer
from octavo_operator.metrics_api.credentials import ServingCredentials
from octavo_operator.metrics_api.deregistration import leave
from octavo_operator.metrics_api.engines import Engines
from octavo_operator.metrics_api.scraper import Scraper
from octavo_operator.metrics_api.server import Api

log = logging.getLogger(__name__)


async def run(
    connection: Connection,
    *,
    namespace: str,
    address: tuple[str | None, int],
    certificate_files: tuple[Path, Path] | None,
    period: float,
) -> None:
    """Serves at an address (None: all) until SIGTERM or SIGINT. `namespace` is the operator's own."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    cluster = Cluster(connection)
    # No connection to an engine is shared or waited for: each scrape has its own deadline.
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"User-Agent": "octavo-metrics-api"}, trust_env=False
    )
    scraper = Scraper(session, period)
    engines = Engines(cluster, scraper.follow)
    authenticator = Authenticator(cluster)
    credentials = ServingCredentials(cluster, authenticator, namespace, certificate_files)

    def troubles() -> dict[str, str]:
        found = {"credentials": "" if credentials.usable else credentials.trouble}
        found["engines"] = "" if engines.are_known(time.monotonic()) else "the pods are not listed yet, or not lately"
        found["end"] = "this replica ends" if ended.is_set() else ""
        return {name: text for name, text in found.items() if text}

    api = Api(engines, scraper, authenticator, Authorizer(cluster), troubles)
    runner = web.AppRunner(api.app(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, *address, ssl_context=credentials.tls.context).start()
    log.info("serving custom.metrics.k8s.io", extra={"port": address[1], "period": period})
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engines.run()), group.create_task(credentials.run())]
            await ended.wait()
            await leave(cluster, namespace, socket.gethostname())
            for task in tasks:
                task.cancel()
    finally:
        await runner.cleanup()
        await scraper.close()
        await session.close()
        await cluster.close()
    log.info("ended")
