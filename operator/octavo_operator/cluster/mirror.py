"""One collection of the API server as trimmed values, kept current by paged lists and a watch.

Memory grows with what `trim` keeps, never with what the API server has. A watch is asked for again every `WATCH_S`
seconds and resumes where it stopped, so that one that has fallen silent is noticed within 30 s; everything is listed
again from time to time, so that an event that was lost is not lost for good.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

from octavo_operator.api.resources import Resource
from octavo_operator.cluster.client import Cluster, Name, Object
from octavo_operator.errors import ApiError, UnreachableError

RELIST_S = 1800.0
SILENCE_S = 28.0
RETRY_S = (0.2, 1.0, 2.0, 5.0, 15.0)
SETTLED_S = 1.0  # a watch that has lasted as long was answered
DEFINITE = {"ADDED", "MODIFIED", "DELETED"}

T = TypeVar("T")
Change = tuple[T | None, T | None]
"""The value before and after; None where the object was not, or is no longer, there or of interest."""

log = logging.getLogger(__name__)


class Mirror(Generic[T]):
    """`changed` is called with what a list's part, an event or the end of a list has changed, and never with nothing."""

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        trim: Callable[[Object], T | None],
        changed: Callable[[Sequence[Change[T]]], None],
        *,
        selector: str = "",
        fields: str = "",
    ) -> None:
        self._cluster = cluster
        self._resource = resource
        self._trim = trim
        self._changed = changed
        self._selector = selector
        self._fields = fields
        self._received: float | None = None
        self._listed = False
        self._answered = asyncio.Event()
        self.known: dict[Name, T] = {}
        self.trouble = "not listed yet"
        self.refusal: ApiError | None = None
        """The API server's last error; None after a list that it answered."""

    def is_current(self, now: float) -> bool:
        """True if it has been listed, and the API server has answered lately (monotonic `now`)."""
        return self._listed and self._received is not None and now - self._received < SILENCE_S

    async def answered(self) -> None:
        """Returns once everything was listed, or the API server has refused to list it."""
        await self._answered.wait()

    async def run(self) -> None:
        """Follows until it is cancelled."""
        failures = 0
        version: str | None = None
        relist = 0.0
        while True:
            watching = math.inf
            try:
                if version is None or time.monotonic() > relist:
                    version = await self._list()
                    relist = time.monotonic() + RELIST_S * random.uniform(0.8, 1.2)
                watching = time.monotonic()
                version = await self._watch(version)
                self.trouble = "the API server ends the watch at once"
            except UnreachableError as error:  # the watch resumes from the version that it had come to
                self.trouble = str(error)
            except ApiError as error:
                version, self.trouble, self.refusal = None, str(error), error
                self._answered.set()
            # A list that succeeds before a watch that does not would otherwise be repeated without a pause.
            if time.monotonic() - watching >= SETTLED_S:
                failures = 0
                continue
            if failures == 0:
                log.warning("%s can't be followed: %s", self._resource.plural, self.trouble)
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)] * random.uniform(0.8, 1.2))
            failures += 1

    async def _list(self) -> str:
        seen: set[Name] = set()
        version = ""
        pages = self._cluster.pages(self._resource, selector=self._selector, fields=self._fields)
        async for items, version in pages:  # noqa: B007 — the last part's is returned
            seen.update(name_of(item) for item in items)
            self._notify([self._keep(item) for item in items])
            self._received, self.refusal = time.monotonic(), None
        self._notify([(self.known.pop(name), None) for name in self.known.keys() - seen])
        self._listed = True
        self._answered.set()
        return version

    async def _watch(self, version: str) -> str | None:
        """Follow one watch until the server ends it; returns the version to continue from, or None where that is too old."""
        events = self._cluster.watch(self._resource, version, selector=self._selector, fields=self._fields)
        async with aclosing(events):
            async for event in events:
                self._received = time.monotonic()
                kind, item = event["type"], event.get("object", {})
                if kind == "ERROR" and item.get("code") == 410:
                    return None
                if kind == "ERROR":
                    raise UnreachableError(f"the watch of {self._resource.plural} fails: {item.get('message') or item}")
                if kind == "DELETED":
                    self._notify([(self.known.pop(name_of(item), None), None)])
                elif kind in DEFINITE:
                    self._notify([self._keep(item)])
                version = item.get("metadata", {}).get("resourceVersion") or version
        return version

    def _keep(self, item: Object) -> Change[T]:
        name, value = name_of(item), self._trim(item)
        before = self.known.pop(name, None) if value is None else self.known.get(name)
        if value is not None:
            self.known[name] = value
        return before, value

    def _notify(self, changes: Sequence[Change[T]]) -> None:
        real = [(before, after) for before, after in changes if before != after]
        if real:
            self._changed(real)


def name_of(item: Object) -> Name:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
