"""What is known of a running replica from outside: is it ready, and how much does it have to do."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

import aiohttp

from octavo_operator.local.launch import LOOPBACK
from octavo_operator.planner.plan import Probe

# A number of the exposition format, of either gauge, any labels.
QUEUE = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.eE+]+)", re.MULTILINE)


@dataclass(slots=True)
class Upstream:
    """One replica as the front sees it. `port` changes with each start, None while it does not run."""

    name: str
    port: int | None = None
    ready: bool = False
    draining: bool = False  # it was told to end: whatever it says, it gets nothing new
    in_flight: int = 0  # requests that the front has with it
    failures: int = 0  # readiness probes in a row
    _reported: int = 0  # running + waiting, as the replica said last
    _in_flight_then: int = 0

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def load(self) -> int:
        """Sequences running and waiting: what it reported, carried forward by what the front has seen since."""
        return max(self.in_flight, self._reported + self.in_flight - self._in_flight_then)

    def reported(self, metrics: str) -> None:
        """Take running + waiting from the text of its /metrics."""
        self._reported = round(sum(float(number) for number in QUEUE.findall(metrics)))
        self._in_flight_then = self.in_flight

    def stopped(self) -> None:
        """It is gone: what it reported goes with it."""
        self.port, self.ready, self.failures = None, False, 0
        self._reported = self._in_flight_then = 0


async def refresh(session: aiohttp.ClientSession, upstream: Upstream, probe: Probe) -> None:
    """Ask for its health and its queue. It becomes unready after the probe's number of failures, as in a pod."""
    port = upstream.port
    if port is None:
        return
    timeout = aiohttp.ClientTimeout(total=probe.timeout)
    try:
        async with session.get(f"{upstream.url}{probe.path}", timeout=timeout) as response:
            healthy = response.status == 200
        if healthy:
            async with session.get(f"{upstream.url}/metrics", timeout=timeout) as response:
                text = await response.text() if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError):
        healthy = False
    if upstream.port != port:  # it was restarted meanwhile
        return
    if healthy and not upstream.draining:
        upstream.failures, upstream.ready = 0, True
        upstream.reported(text)
    else:
        upstream.failures += 1
        if upstream.failures >= probe.failures:
            upstream.ready = False


async def watch(session: aiohttp.ClientSession, upstreams: list[Upstream], probe: Probe) -> None:
    """Refresh all of them until cancelled: often while one is starting, once a second later."""
    while True:
        await asyncio.gather(*(refresh(session, upstream, probe) for upstream in upstreams))
        await asyncio.sleep(1.0 if all(upstream.ready for upstream in upstreams) else 0.2)
