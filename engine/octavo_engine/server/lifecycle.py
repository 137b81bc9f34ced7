"""The server's life: it starts, serves, drains at the first signal, ends at the second, and ends with its engine."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from aiohttp import web

from octavo_engine.config import EngineConfig
from octavo_engine.errors import EngineDeadError, OctavoError
from octavo_engine.frontend.engine_client import EngineClient
from octavo_engine.server.app import build_app
from octavo_engine.server.context import ServerContext
from octavo_engine.server.listener import url_of
from octavo_engine.server.start import build_context

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0
LAST_WORDS_SECONDS = 1.0  # for answers to those whose requests are cut off
KEEPALIVE_SECONDS = 75.0
BACKLOG = 2048


def run(config: EngineConfig, client: EngineClient, listener: socket.socket, started: float) -> int:
    """Serve until told to stop; the process's exit code. `started` is `time.perf_counter()` at the process's start."""
    try:
        import uvloop  # noqa: PLC0415

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(Server(config, client, listener, started).run())


class Server:
    """One run of the server, from the wait for the core to the exit code."""

    def __init__(self, config: EngineConfig, client: EngineClient, listener: socket.socket, started: float) -> None:
        self._config = config
        self._client = client
        self._listener = listener
        self._started = started
        self._stop = asyncio.Event()
        self._serving = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        self._client.on_death = lambda _error: self._stop.set()
        try:
            context = await build_context(self._config, self._client, _print_stage)
        except OctavoError as error:
            _complain(error)
            self._client.close()
            return 1
        try:
            return await self._serve(context)
        finally:
            context.chat_template.close()
            self._client.close()

    async def _serve(self, context: ServerContext) -> int:
        runner = web.AppRunner(
            build_app(context),
            handler_cancellation=True,  # a client that goes away ends its requests
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=LAST_WORDS_SECONDS,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener, backlog=BACKLOG).start()
        except OSError as error:
            _complain(f"can't listen on port {self._config.server.port}: {os.strerror(error.errno or 0)}")
            await runner.cleanup()
            return 1
        self._serving = True
        # What the start has made stays: collections need not look at it again.
        gc.collect()
        gc.freeze()
        url = url_of(self._listener, self._config.server) + self._config.server.root_path
        seconds = time.perf_counter() - self._started
        print(f"{context.names[0]} is served at {url}/v1 after {seconds:.2f} s ({context.ready.executor})", flush=True)  # noqa: T201
        log = asyncio.create_task(_log_load(context)) if not self._config.server.disable_log_stats else None
        await self._stop.wait()
        if log is not None:
            log.cancel()
        code = await self._wind_up(context)
        await runner.cleanup()
        return code

    async def _wind_up(self, context: ServerContext) -> int:
        """Let what runs finish, if the engine still lives; 0, or 1 if it does not."""
        context.draining = True
        unanswered = context.metrics.num_http_requests
        if self._client.dead is None and unanswered:
            timeout = self._config.server.shutdown_timeout
            print(f"draining: {unanswered} requests have {timeout:g} s to finish", flush=True)  # noqa: T201
            await self._until_idle(context, timeout)
            if self._client.dead is None and context.metrics.num_http_requests:
                logger.warning("%d requests did not finish in time", context.metrics.num_http_requests)
                self._client.drop_all("the server is shutting down; ask another replica")
        if context.metrics.num_http_requests:
            await self._until_idle(context, LAST_WORDS_SECONDS, engine_needed=False)
        if self._client.dead is not None:
            _complain(self._client.dead)
            return 1
        return 0

    async def _until_idle(self, context: ServerContext, seconds: float, *, engine_needed: bool = True) -> None:
        end = time.monotonic() + seconds
        while context.metrics.num_http_requests and time.monotonic() < end:
            if engine_needed and self._client.dead is not None:
                return
            await asyncio.sleep(0.02)

    def _on_signal(self, number: int) -> None:
        """The first one drains; the second one, or one while nothing is served yet, ends at once."""
        if self._serving and not self._stop.is_set():
            self._stop.set()
            return
        self._client.kill()
        sys.stdout.flush()
        os._exit(128 + number)


async def _log_load(context: ServerContext) -> None:
    """A line each ten seconds while there is something to tell."""
    told = False
    while True:
        await asyncio.sleep(LOG_SECONDS)
        stats = context.metrics.stats
        prompt, generation = context.metrics.throughput()
        busy = bool(prompt or generation or stats.num_running or stats.num_waiting)
        if busy or told:
            logger.info(
                "prompt %.1f tokens/s, generation %.1f tokens/s, running %d, waiting %d, KV pages in use %.1f%%",
                prompt,
                generation,
                stats.num_running,
                stats.num_waiting,
                100 * stats.kv_usage,
            )
        told = busy


def _print_stage(stage: str, seconds: float) -> None:
    print(f"  {stage:<44} {seconds:6.2f} s", flush=True)  # noqa: T201


def _complain(problem: EngineDeadError | OctavoError | str) -> None:
    print(f"octavo serve: {problem}", file=sys.stderr, flush=True)  # noqa: T201
