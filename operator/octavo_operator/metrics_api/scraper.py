"""Scrapes the engines, each in a task of its own: one that hangs or fails delays no other."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping

import aiohttp

from octavo_operator.cluster.client import Name
from octavo_operator.errors import OperatorError
from octavo_operator.exposition import parse
from octavo_operator.metrics_api.catalog import COUNTERS, GAUGES
from octavo_operator.metrics_api.engines import EnginePod
from octavo_operator.metrics_api.series import Moment, Samples, Series

DEADLINE_S = 2.0
LARGEST = 4 << 20  # bytes of an answer
LONGEST_PAUSE_S = 30.0
WELL_S = 60.0  # an engine that answered so lately is asked as often as ever: the busiest one misses a deadline first
HOST = "X-Octavo-Host"
JITTER = 0.1

PodName = tuple[str, str]
"""`EnginePod.key`."""

log = logging.getLogger(__name__)


class ScrapeError(OperatorError):
    """An engine's metrics could not be had."""


async def scrape(session: aiohttp.ClientSession, engine: EnginePod) -> Samples:
    """An engine's present metrics. Raises ScrapeError, within the deadline."""
    try:
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        # Its certificate is for the Service's name, and this is a pod's address: a forged answer is no more likely than
        # over plain HTTP.
        async with session.get(engine.url, timeout=timeout, allow_redirects=False, ssl=False) as response:
            if response.status != 200:
                raise ScrapeError(f"{engine.url}: HTTP {response.status}")
            host = response.headers.get(HOST)
            if host is not None and engine.host is not None and host != engine.host:
                raise ScrapeError(f"{engine.url} is {host} by now: the address was given to another pod")
            body = bytearray()
            async for part in response.content.iter_chunked(1 << 16):
                body += part
                if len(body) > LARGEST:
                    raise ScrapeError(f"{engine.url}: more than {LARGEST} bytes")
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise ScrapeError(f"{engine.url}: {str(error) or f'no answer within {DEADLINE_S:g} s'}") from error
    return parse(body.decode(errors="replace"), GAUGES | COUNTERS)


class Scraper:
    """Keeps a series of each engine that it was given last."""

    def __init__(self, session: aiohttp.ClientSession, period: float) -> None:
        self._session = session
        self._period = period
        self._tasks: dict[PodName, asyncio.Task[None]] = {}
        self.series: dict[PodName, Series] = {}

    def follow(self, engines: Mapping[Name, EnginePod]) -> None:
        """Scrape these from now on, and no others; one that is new at once."""
        desired = {engine.key: engine for engine in engines.values()}
        for key in self._tasks.keys() - desired.keys():
            self._tasks.pop(key).cancel()
            del self.series[key]
        for key in desired.keys() - self._tasks.keys():
            self.series[key] = Series(self._period)
            self._tasks[key] = asyncio.create_task(self._keep(desired[key], self.series[key]))

    async def close(self) -> None:
        self.follow({})

    async def _keep(self, engine: EnginePod, series: Series) -> None:
        """A failure doubles the pause, so that an engine in trouble is not pressed; one that was well has some time."""
        pause, well, failed = self._period, float("-inf"), False
        about = {"about": {"namespace": engine.namespace, "name": engine.name}}
        while True:
            began = time.monotonic()
            try:
                samples = await scrape(self._session, engine)
            except ScrapeError as error:
                level = logging.DEBUG if failed else logging.WARNING  # once, until it is well again
                failed = True
                log.log(level, "an engine's metrics can't be had, and are not served: %s", error, extra=about)
                if began - well > WELL_S:
                    pause = max(self._period, min(pause * 2, LONGEST_PAUSE_S))
            else:
                series.record(samples, Moment(time.monotonic(), time.time()))
                pause, well, failed = self._period, time.monotonic(), False
            elapsed = time.monotonic() - began
            await asyncio.sleep(max(0.0, pause * random.uniform(1 - JITTER, 1) - elapsed))
