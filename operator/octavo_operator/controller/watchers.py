"""Supervises kopf in a dedicated thread, restarts it when it exits, and tracks each watch's liveness from its HTTP traffic.

kopf ends as a whole on one watch ERROR 500 or 504, and cancels every task of its event loop that is not its own: hence
the thread. A LIST that fails is retried for as long as it fails, every ten seconds at the latest; the rest is healed by
restart, after 1, 2, 4 … 15 s. The process gives up only after ten minutes without any answer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf

from octavo_operator.api.resources import CHILDREN, MONITORS, PODS, SERVICES, Resource
from octavo_operator.cluster.client import PAGE, Cluster
from octavo_operator.cluster.connection import Connection
from octavo_operator.controller.handlers import Due, NoHistory, register, select
from octavo_operator.errors import NoClusterError, OperatorError
from octavo_operator.reconcile.metrics import Metrics

GRACE_S = 10.0  # a watch that was closed is opened again within a moment
RENEWAL_S = 20  # a watch is renewed after so long: an answer shows that it is alive
BREAK_OFF_S = 24  # where the server did not end it by then
SILENCE_S = 28.0
GIVE_UP_S = 600.0
LONGEST_PAUSE_S = 15.0
ENDING_S = 5.0

log = logging.getLogger(__name__)


class Patience:
    """kopf's back-offs of one request: they never run out."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 1, 2, 3, 5, 5)
        while True:
            yield 5


@dataclass
class Watch:
    """The state of one watched collection, by the answers to its requests."""

    resource: Resource
    namespace: str | None
    received: float | None = None  # monotonic: the last successful list, or start of a watch
    failed_since: float | None = None
    why: str = ""

    def trouble(self, now: float) -> str | None:
        """The reason why the watch cannot be relied on; None where it can."""
        if self.failed_since is not None and now - self.failed_since > GRACE_S:
            return f"fails for {now - self.failed_since:.0f} s: {self.why}"
        if self.received is None:
            return "not listed yet"
        if now - self.received > SILENCE_S:
            return f"silent for {now - self.received:.0f} s"
        return None


class Watchers:
    """The watchers of a process. `run` returns only when it gives up."""

    def __init__(
        self, cluster: Cluster, connection: Connection, namespaces: Sequence[str], due: Due, metrics: Metrics
    ) -> None:
        self._cluster = cluster
        self._connection = connection
        self._namespaces = tuple(namespaces)
        self._due = due
        self._metrics = metrics
        self._stopped = False
        self._renewed = False
        self._flag = threading.Event()  # ends the kopf that runs
        self.monitors = False
        self.restarts = 0
        self.running = False
        self.why = "not started yet"
        self.watches: dict[tuple[str, str | None], Watch] = {}

    def troubles(self) -> dict[str, str]:
        """The watches that cannot be relied on, each with the reason."""
        now = time.monotonic()
        found = {name(watch): text for watch in self.watches.values() if (text := watch.trouble(now)) is not None}
        if not self.running:
            found["watchers"] = self.why
        return found

    async def run(self) -> None:
        """Keeps kopf running; returns after ten minutes without any answer."""
        pause, began = 1.0, time.monotonic()
        while True:
            started = time.monotonic()
            try:
                self.monitors = await self._known()
                self.why = await self._run_kopf()
            except OperatorError as error:
                self.why = str(error)
            if self._stopped:
                return
            if self._renewed:
                self._renewed = False
                continue
            pause = 1.0 if time.monotonic() - started > 60 else min(pause * 2, LONGEST_PAUSE_S)
            if time.monotonic() - max([began, *(w.received or 0 for w in self.watches.values())]) > GIVE_UP_S:
                log.error("the watchers did not heal for %d s: %s", GIVE_UP_S, self.why)
                return
            self.restarts += 1
            self._metrics.watcher_restarts.inc()
            log.warning("the watchers ended and restart in %g s: %s", pause, self.why)
            await asyncio.sleep(pause)

    def stop(self) -> None:
        self._stopped = True
        self._flag.set()

    def expect(self, *, monitors: bool) -> None:
        """Restart, and so list everything, when the cluster begins or ceases to serve ServiceMonitors."""
        if monitors != self.monitors:
            self.monitors = monitors
            self.renew(f"ServiceMonitors are {'known now' if monitors else 'no longer known'}")

    def renew(self, why: str) -> None:
        """List and watch everything again."""
        if self.running:
            log.info("the watches start again: %s", why)
            self._renewed = True
            self._flag.set()

    async def _known(self) -> bool:
        """True if the API server serves ServiceMonitors; waits until it serves LLMServices."""
        reported = False
        while not await self._cluster.serves(SERVICES):
            self.why = "the CustomResourceDefinition llmservices.octavo.dev is not installed: kubectl apply -f crds"
            if not reported:
                log.warning(self.why)
                reported = True
            await asyncio.sleep(2)
        return await self._cluster.serves(MONITORS)

    async def _run_kopf(self) -> str:
        """Run kopf until it exits; returns the reason."""
        watched = (*CHILDREN, PODS, *([MONITORS] if self.monitors else []))
        now = time.monotonic()
        flag = self._flag = threading.Event()
        self.watches = {
            (resource.path(), namespace): Watch(resource, namespace, failed_since=now, why="not listed yet")
            for resource in (SERVICES, *watched)
            for namespace in self._namespaces or (None,)
        }
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def report(why: str) -> None:
            if not ended.done():
                ended.set_result(why)

        def run() -> None:
            try:
                asyncio.run(self._kopf(watched, flag, lambda why: loop.call_soon_threadsafe(report, why)))
            except BaseException as error:  # noqa: BLE001 — any end of it leads to a restart
                loop.call_soon_threadsafe(report, f"{type(error).__name__}: {error}")

        self.running = True
        threading.Thread(target=run, name="kopf", daemon=True).start()
        try:
            return await ended
        finally:
            self.running = False

    async def _kopf(self, watched: Sequence[Resource], flag: threading.Event, report: Callable[[str], object]) -> None:
        registry = kopf.OperatorRegistry()
        sessions: list[aiohttp.ClientSession] = []
        register(registry, watched, self._due)

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            if sessions:  # the former one's credentials were refused
                await self._renew_credentials()
            sessions.append(self._session())  # with the token as it is now
            return kopf.AiohttpSession(server=self._connection.server, aiohttp_session=sessions[-1])

        settings = kopf.OperatorSettings()
        select(settings, watched)
        settings.persistence.diffbase_storage = NoHistory()
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.scanning.disabled = True
        settings.process.ultimate_exiting_timeout = None
        settings.networking.error_backoffs = Patience()
        settings.networking.request_timeout = 20
        settings.networking.connect_timeout = 5
        settings.watching.connect_timeout = 5
        settings.watching.server_timeout = RENEWAL_S
        settings.watching.client_timeout = BREAK_OFF_S
        settings.watching.chunk_size = PAGE
        settings.queueing.idle_timeout = 1
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=flag,
        )
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        errors = [task.exception() for task in done if not task.cancelled()]
        report(next((f"{type(error).__name__}: {error}" for error in errors if error is not None), "kopf ended"))
        # kopf's own end would wait for watchers that wait for a session that is closed: they are not waited for.
        flag.set()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=ENDING_S)
        for session in sessions:
            await session.close()

    async def _renew_credentials(self) -> None:
        if self._connection.renewed is None:
            return
        try:
            self._connection = await asyncio.to_thread(self._connection.renewed)
        except NoClusterError as error:
            log.warning("the watches' credentials were refused and could not be renewed: %s", error)

    def _session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.on_request_exception.append(self._broken)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._connection.tls()),
            headers={"User-Agent": "octavo-operator/watch", **self._connection.headers()},
            trace_configs=[trace],
        )

    def _of(self, url: Any) -> Watch | None:
        """The watch that an address belongs to: /apis/GROUP/VERSION[/namespaces/NAME]/PLURAL."""
        parts = url.path.split("/")
        namespace = None
        if "namespaces" in parts[:-2]:
            at = parts.index("namespaces")
            namespace = parts[at + 1]
            del parts[at : at + 2]
        return self.watches.get(("/".join(parts), namespace))

    async def _answered(self, _: object, __: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
        if (watch := self._of(params.url)) is None:
            return
        if params.response.status < 400:
            watch.received, watch.failed_since, watch.why = time.monotonic(), None, ""
        else:
            self._failed(watch, f"HTTP {params.response.status}")

    async def _broken(self, _: object, __: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams) -> None:
        if (watch := self._of(params.url)) is not None:
            self._failed(watch, f"{type(params.exception).__name__}: {params.exception}")

    @staticmethod
    def _failed(watch: Watch, why: str) -> None:
        watch.why = why
        if watch.failed_since is None:
            watch.failed_since = time.monotonic()


def name(watch: Watch) -> str:
    """`deployments.apps`, with its namespace where there are several."""
    kind = ".".join(part for part in (watch.resource.plural, watch.resource.group) if part)
    return f"{kind} in {watch.namespace}" if watch.namespace else kind
