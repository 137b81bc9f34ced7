"""The server's life: it starts, serves, drains at the first signal, ends at the second, and ends with its engine.

A drain loses no request. Readiness turns false, so that nothing new is sent here; until all clients have noticed, what
arrives is still answered, and each answer closes its connection. It ends when nothing has arrived for a moment, or
after `shutdown_timeout`; in the second half of that nothing new is admitted, so that the rest can finish.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from octavo_engine.core_client.engine_link import EngineLink
from octavo_engine.core_client.start_watch import StartWatch
from octavo_engine.errors import EngineDeadError, OctavoError
from octavo_engine.server.app import ROW_ROUTES, build_app
from octavo_engine.server.context import ServerContext
from octavo_engine.server.http_server import listen
from octavo_engine.server.listener import url_of
from octavo_engine.server.serving_tls import ServingTls
from octavo_engine.server.start import build_context
from octavo_engine.server.stored_batches.row_server import RowServer
from octavo_engine.server.stored_batches.runs import BatchRuns
from octavo_engine.signals import hangup_ends

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0
LAST_WORDS_SECONDS = 1.0  # for answers to those whose requests are cut off
QUIET_SECONDS = 2.0  # without a request until those who balance them are taken to have forgotten this server
POLL_SECONDS = 0.02
# Until a thread of a pool hands over the interpreter's lock, which the event loop asks for again after each system call.
SWITCH_SECONDS = 0.0005
GC_OBJECTS = 20_000  # new ones until a collection


def run(config: EngineConfig, client: EngineLink, listener: socket.socket, started: float) -> int:
    """Serve until a signal. Returns the process's exit code. `started` is `time.perf_counter()` at the process's start."""
    try:
        import uvloop  # noqa: PLC0415

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = asyncio.new_event_loop
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(Server(config, client, listener, started).run())


class Server:
    """One run of the server, from the wait for the core to the exit code."""

    def __init__(self, config: EngineConfig, client: EngineLink, listener: socket.socket, started: float) -> None:
        self._config = config
        self._client = client
        self._listener = listener
        self._tls = None if config.server.tls is None else ServingTls(config.server.tls).context
        self._started = started
        self._stop = asyncio.Event()
        self._serving = False
        self._quiet = 0.0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        ends = [signal.SIGINT, signal.SIGTERM]
        if hangup_ends():
            ends.append(signal.SIGHUP)
        for number in ends:
            loop.add_signal_handler(number, self._on_signal, number)
        self._client.on_death = lambda _error: self._stop.set()
        try:
            watch = StartWatch(self._client.bytes_moved, self._config.server.start_timeout)
            context = await watch.until(build_context(self._config, self._client, watch.noting(self._report_stage)))
        except OctavoError as error:
            self._client.close()  # before the last words: whatever else it says comes first
            _complain(error)
            return 1
        try:
            return await self._serve(context)
        finally:
            context.metrics.loop.stop()
            if context.metrics.tracing is not None:
                await asyncio.to_thread(context.metrics.tracing.close)
            context.pools.close()
            context.chat_template.close()
            if context.metrics.batches.folder is not None:
                context.metrics.batches.folder.close()
            self._client.close()

    def _report_stage(self, stage: str, seconds: float) -> None:
        self._say(f"  {stage:<44} {seconds:6.2f} s")

    def _say(self, line: str) -> None:
        """Print a line for who started the server, or log it where the log is a machine's."""
        if self._config.server.log_format == "json":
            logger.info("%s", line.strip())
        else:
            print(line, flush=True)  # noqa: T201

    async def _serve(self, context: ServerContext) -> int:
        folder, runs = context.metrics.batches.folder, None
        if folder is not None:
            rows = RowServer(context, ROW_ROUTES)
            runs = BatchRuns(
                folder, context.metrics, rows, self._config.scheduler.max_num_seqs, context.limits.body_bytes
            )
        runner = web.AppRunner(
            build_app(context, runs),
            handler_cancellation=True,  # a client that goes away ends its requests
            shutdown_timeout=LAST_WORDS_SECONDS,
        )
        try:
            listening = await listen(runner, self._listener, context.metrics.http, self._tls)
        except OSError as error:
            _complain(f"can't listen on port {self._config.server.port}: {os.strerror(error.errno or 0)}")
            await runner.cleanup()
            return 1
        if runs is not None:
            await runs.start()
        self._serving = True
        context.metrics.loop.start()
        # The start's objects stay: garbage collections need not scan them again, nor for each large body that is parsed.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
        url = url_of(self._listener, self._config.server) + self._config.server.root_path
        seconds = time.perf_counter() - self._started
        self._say(f"{context.names[0]} is served at {url}/v1 after {seconds:.2f} s ({context.ready.executor})")
        log = asyncio.create_task(_log_load(context)) if not self._config.server.disable_log_stats else None
        await self._stop.wait()
        if log is not None:
            log.cancel()
        if runs is not None:
            await runs.stop()
        code = await self._wind_up(context)
        listening.close()
        await runner.cleanup()
        return code

    async def _wind_up(self, context: ServerContext) -> int:
        """Let what runs finish, if the engine still lives; 0, or 1 if it does not."""
        context.draining = True
        metrics, timeout = context.metrics, self._config.server.shutdown_timeout
        if metrics.num_http_requests and self._client.dead is None:
            with contextlib.suppress(OSError):  # SIGHUP: the terminal is gone
                self._say(f"draining: {metrics.num_http_requests} requests have {timeout:g} s to finish")
        await self._until_quiet(context, timeout / 2)
        context.refusing = True
        await self._until_answered(context, timeout / 2)
        if metrics.num_http_requests and self._client.dead is None:
            logger.warning("%d requests did not finish in time", metrics.num_http_requests)
            self._client.drop_all("the server is shutting down; ask another replica")
        await self._until_answered(context, LAST_WORDS_SECONDS, engine_needed=False)
        if self._client.dead is not None:
            self._client.close()  # as above
            _complain(self._client.dead)
            return 1
        return 0

    async def _until_quiet(self, context: ServerContext, seconds: float) -> None:
        """Wait until all is answered and nothing has arrived for a moment; not at all if there was no request recently."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._client.dead is None:
            if not context.metrics.num_http_requests and context.connections.quiet_for >= self._quiet:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _until_answered(self, context: ServerContext, seconds: float, *, engine_needed: bool = True) -> None:
        end = time.monotonic() + seconds
        while context.metrics.num_http_requests and time.monotonic() < end:
            if engine_needed and self._client.dead is not None:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _on_signal(self, number: int) -> None:
        """The first one drains; the second one, or one while nothing is served yet, ends at once.

        Ctrl-C comes from a person who waits, SIGHUP from a terminal that is gone;
        SIGTERM from what may still send requests.
        """
        if self._serving and not self._stop.is_set():
            self._quiet = QUIET_SECONDS if number == signal.SIGTERM else 0.0
            self._stop.set()
            return
        if self._serving and number == signal.SIGHUP:
            return  # a terminal that goes sends several: its shell does, and the kernel
        self._client.kill()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(128 + number)


async def _log_load(context: ServerContext) -> None:
    """Log a line each ten seconds while there is something to report."""
    was_busy = False
    while True:
        await asyncio.sleep(LOG_SECONDS)
        stats = context.metrics.stats
        prompt, generation = context.metrics.throughput()
        busy = bool(prompt or generation or stats.num_running or stats.num_waiting)
        if busy or was_busy:
            logger.info(
                "prompt %.1f tokens/s, generation %.1f tokens/s, running %d, waiting %d, KV cache in use %.1f%%",
                prompt,
                generation,
                stats.num_running,
                stats.num_waiting,
                100 * stats.kv_usage,
            )
        was_busy = busy


def _complain(problem: EngineDeadError | OctavoError | str) -> None:
    print(f"octavo serve: {problem}", file=sys.stderr, flush=True)  # noqa: T201
