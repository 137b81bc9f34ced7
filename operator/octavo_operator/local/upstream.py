"""A running replica seen from outside: its readiness and its load."""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import dataclass

import aiohttp

from octavo_operator.exposition import parse
from octavo_operator.local.launch import LOOPBACK
from octavo_operator.planner.plan import Probe
from octavo_operator.runtimes import OCTAVO
from octavo_operator.runtimes.runtime import METRICS_PATH

QUEUE = {*OCTAVO.metrics.running, *OCTAVO.metrics.waiting}
LONGEST_HEADER = 1 << 16  # bytes; the engine's limit
OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


@dataclass(slots=True)
class Upstream:
    """One replica as the front sees it. `port` changes with each start, None while it does not run."""

    name: str
    scheme: str = "http"
    port: int | None = None
    ready: bool = False
    draining: bool = False  # it is ending: even while healthy it gets nothing new
    in_flight: int = 0  # requests that the front has with it
    failures: int = 0  # readiness probes in a row
    failing_since: float | None = None  # when the first of these began
    _reported: int = 0  # running + waiting, as the replica reported last
    _in_flight_then: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{LOOPBACK}:{self.port}"

    @property
    def load(self) -> int:
        """Sequences running and waiting: what it reported, carried forward by what the front has seen since."""
        return max(self.in_flight, self._reported + self.in_flight - self._in_flight_then)

    def reported(self, metrics: str) -> None:
        """Take running + waiting from the text of its /metrics."""
        found = parse(metrics, QUEUE)
        self._reported = round(sum(sample.value for samples in found.values() for sample in samples))
        self._in_flight_then = self.in_flight

    def stopped(self) -> None:
        """Forget a process that has exited, with what it reported."""
        self.port, self.ready, self.failures, self.failing_since = None, False, 0, None
        self._reported = self._in_flight_then = 0


def session() -> aiohttp.ClientSession:
    """The HTTP session from the front to its replicas.

    No connection is used twice: a request on one that was just closed might have been read or not. A replica's certificate
    is not checked: it is a child process on the loopback, and the certificate has the service's name.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0, ssl=False),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        auto_decompress=False,
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )


def refuses(error: aiohttp.ClientConnectorError) -> bool:
    """True if nothing listens there."""
    return error.os_error.errno == errno.ECONNREFUSED


def lacks_descriptors(error: aiohttp.ClientConnectorError) -> bool:
    """True if it is this process that can't connect, which proves nothing about the replica."""
    return error.os_error.errno in OUT_OF_DESCRIPTORS


async def refresh(session: aiohttp.ClientSession, upstream: Upstream, probe: Probe) -> None:
    """Read its health and its queue. It becomes unready after the probe's number of failures, as in a pod."""
    port, began = upstream.port, time.monotonic()
    if port is None:
        return
    timeout = aiohttp.ClientTimeout(total=probe.timeout)
    try:
        async with session.get(f"{upstream.url}{probe.path}", timeout=timeout) as response:
            healthy = response.status == 200
        if healthy:
            async with session.get(f"{upstream.url}{METRICS_PATH}", timeout=timeout) as response:
                text = await response.text() if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if isinstance(error, aiohttp.ClientConnectorError) and lacks_descriptors(error):
            return
        healthy = False
    if upstream.port != port:  # it was restarted meanwhile
        return
    if healthy and not upstream.draining:
        upstream.failures, upstream.failing_since, upstream.ready = 0, None, True
        upstream.reported(text)
    else:
        upstream.failures += 1
        upstream.failing_since = upstream.failing_since or began
        if upstream.failures >= probe.failures:
            upstream.ready = False


async def watch(session: aiohttp.ClientSession, upstream: Upstream, probe: Probe) -> None:
    """Refresh it until cancelled: often while it is starting, once a second later."""
    while True:
        await refresh(session, upstream, probe)
        await asyncio.sleep(1.0 if upstream.ready else 0.2)
