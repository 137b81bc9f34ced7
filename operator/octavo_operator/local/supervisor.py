"""Runs a plan's replicas until a signal: processes, front, readiness, signals. The order of things, no more.

With one replica the engine itself listens on the Service's port; with more, a front does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from collections.abc import Sequence

import aiohttp
from aiohttp import web

from octavo_operator.errors import LocalError
from octavo_operator.local.display import Plain
from octavo_operator.local.front import Front
from octavo_operator.local.front_tls import FrontTls
from octavo_operator.local.launch import LOOPBACK, Launch
from octavo_operator.local.replica import HopelessError, Replica, port_is_free
from octavo_operator.local.upstream import Upstream, session, watch
from octavo_operator.planner.plan import Plan
from octavo_operator.settings import Settings

BACKLOG = 1024  # connections that wait to be accepted; aiohttp's 128 are refused in a burst


class Supervisor:
    """One run of `octavo up`."""

    def __init__(self, plan: Plan, launches: Sequence[Launch], port: int, settings: Settings, display: Plain) -> None:
        self.plan, self.port, self.display = plan, port, display
        alone = len(launches) == 1
        self.upstreams = [Upstream(name, plan.engine.scheme) for name in names_of(plan, len(launches))]
        self.replicas = [
            Replica(
                upstream,
                launch,
                settings.engine_command,
                _Listener(display, upstream),
                fixed_port=port if alone else None,
                first_pause=settings.first_restart_pause_s,
                others_ready=lambda: any(u.ready for u in self.upstreams),
            )
            for upstream, launch in zip(self.upstreams, launches, strict=True)
        ]
        self._announced: set[str] = set()
        self._interrupts = 0
        self._printed_url = False

    async def run(self) -> int:
        """Run until Ctrl-C (0; 130 if it took two), or until the replicas can't run (1, or 2 for a wrong configuration).

        Raises LocalError where the port is taken.
        """
        if not port_is_free(self.port):
            raise LocalError(f"port {self.port} is in use on this machine; --port N takes another one")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        for number in (signal.SIGUSR2, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        async with session() as client:
            tls = (
                FrontTls(self.plan.engine.tls) if self.plan.engine.tls is not None and len(self.replicas) > 1 else None
            )
            front = await self._start_front(client, tls)
            watching = asyncio.ensure_future(self._watch(client, tls))
            tasks = [asyncio.create_task(replica.keep_running()) for replica in self.replicas]
            try:
                return await self._wait(tasks, watching)
            finally:
                for replica in self.replicas:
                    replica.kill()
                watching.cancel()
                await asyncio.gather(*tasks, watching, return_exceptions=True)
                if front is not None:
                    await front.cleanup()
                self.display.close()

    async def _start_front(self, client: aiohttp.ClientSession, tls: FrontTls | None) -> web.AppRunner | None:
        if len(self.replicas) == 1:
            return None
        runner = Front(self.upstreams, client).runner()
        await runner.setup()
        context = None if tls is None else tls.context
        await web.TCPSite(runner, LOOPBACK, self.port, backlog=BACKLOG, ssl_context=context).start()
        return runner

    async def _wait(self, tasks: Sequence[asyncio.Task[None]], watching: asyncio.Future[None]) -> int:
        """0 when all have stopped as asked; else what can't be fixed ends the others too."""
        running = asyncio.gather(*tasks)
        await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():  # it has no other end than a fault of ours
            watching.result()
        try:
            await running
        except HopelessError as error:
            self.display.close()
            self.display.show(f"octavo up: {error}")
            for replica in self.replicas:
                replica.stop()
            await asyncio.wait(tasks, timeout=5)
            return 2 if error.ended.status == 2 else 1
        return 0 if self._interrupts < 2 else 130

    async def _watch(self, client: aiohttp.ClientSession, tls: FrontTls | None) -> None:
        """Watch each replica by itself: one that hangs does not affect the others. Ends only by an exception."""
        readiness = self.plan.lifecycle.readiness
        following = () if tls is None else (tls.follow(),)
        watching = (watch(client, each, readiness) for each in self.upstreams)
        await asyncio.gather(self._keep_noticing(), *following, *watching)

    async def _keep_noticing(self) -> None:
        while True:
            self._notice()
            await asyncio.sleep(0.1)

    def _notice(self) -> None:
        """Report replicas that became ready or ceased to be, and the URL at the first one."""
        for upstream, replica in zip(self.upstreams, self.replicas, strict=True):
            if upstream.ready and upstream.name not in self._announced:
                replica.became_ready()
                self._announced.add(upstream.name)
                self.display.replica(upstream.name, "ready", "")
                if not self._printed_url:
                    self._printed_url = True
                    self._print_url()
            elif not upstream.ready and upstream.name in self._announced:
                self._announced.discard(upstream.name)
                if upstream.port is not None and not upstream.draining:  # one that ends reports so by its health
                    self.display.replica(upstream.name, "unready", "its health check fails")

    def _print_url(self) -> None:
        names = " or ".join(self.plan.served_names)
        key = " (with an API key)" if any(v.name == "OCTAVO_API_KEY" for v in self.plan.engine.env) else ""
        self.display.show("Ctrl-C lets it finish its requests and stops it; a second one stops it at once")
        self.display.show(
            f"{self.plan.name} answers at {self.plan.engine.scheme}://{LOOPBACK}:{self.port}/v1 as {names}{key}"
        )

    def _hang_up(self) -> None:
        """The terminal is gone: it, its shell and the kernel send several signals, none of which is a second Ctrl-C."""
        if not self._interrupts:
            self._interrupt()

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self.display.close()
            self.display.show(
                f"stopping: requests have {self.plan.lifecycle.drain} s to finish; Ctrl-C again ends them"
            )
            for replica in self.replicas:
                replica.stop()
        else:
            for replica in self.replicas:
                replica.kill()


class _Listener:
    """Passes what a replica reports to the display."""

    def __init__(self, display: Plain, upstream: Upstream) -> None:
        self._display = display
        self._upstream = upstream

    def __call__(self, kind: str, text: str) -> None:
        self._display.replica(self._upstream.name, "loading" if kind == "line" else kind, text)


def names_of(plan: Plan, count: int) -> list[str]:
    """The replicas' names: the service's, numbered where there are several."""
    return [plan.name] if count == 1 else [f"{plan.name}-{i}" for i in range(count)]
