"""The queue between watchers and workers: a key waits in it once, however often it is added.

A key that is being worked on is not given out again until it is done; what was added meanwhile makes it due once more.
A failure delays it by 1, 2, 4 … s; an event brings it back at once, for what it waits for may have happened.

Of keys that are due, those that a person has changed go first: an edit never waits behind a flood. No namespace has all
workers to itself, and one whose passes are slow (a webhook that times out) has one at a time.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from octavo_operator.api.names import NamespacedName

FIRST_DELAY_S = 1.0
SETTLE_S = 0.05  # events come in bursts: a Deployment's own, its pods'
A_NAMESPACE = 6  # workers at the most
A_SLOW_NAMESPACE = 1
SLOW_S = 10.0  # a pass that takes longer waited for an answer


class Seen(NamedTuple):
    """A report of a watch or a list on a service: its generation, or the kind of one of its children."""

    key: NamespacedName
    generation: int | None = None
    kind: str = ""


@dataclass
class WorkQueue:
    """Belongs to one event loop."""

    _due: dict[NamespacedName, float] = field(default_factory=dict)  # monotonic seconds
    _later: list[tuple[float, NamespacedName]] = field(default_factory=list)  # a heap
    _ready: tuple[dict[NamespacedName, None], dict[NamespacedName, None]] = field(
        default_factory=lambda: ({}, {})
    )  # urgent, others; in order
    _urgent: set[NamespacedName] = field(default_factory=set)
    _active: dict[NamespacedName, float] = field(default_factory=dict)  # since when
    _again: set[NamespacedName] = field(default_factory=set)
    _failures: dict[NamespacedName, int] = field(default_factory=dict)
    _slow: set[str] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _finished: float = field(default_factory=time.monotonic)  # when a key was last done, or none was due

    def add(self, key: NamespacedName, delay: float = SETTLE_S, *, urgent: bool = False) -> None:
        """Due after `delay` seconds, or earlier where it is due earlier already."""
        if urgent:
            self._urgent.add(key)
        if key in self._active and delay <= SETTLE_S:
            self._again.add(key)
            return
        if not self._due and not self._active:
            self._finished = time.monotonic() + delay
        when = time.monotonic() + delay
        if key not in self._due or when < self._due[key]:
            self._due[key] = when
            heapq.heappush(self._later, (when, key))
        elif urgent and key in self._ready[1]:
            del self._ready[1][key]
            self._ready[0][key] = None
        self._changed.set()

    async def get(self) -> NamespacedName:
        """The next key, once it is due; `done` or `failed` is called for it afterwards."""
        while True:
            self._sort()
            for ready in self._ready:
                for key in ready:
                    if self._may_start(key.namespace):
                        del ready[key], self._due[key]
                        self._urgent.discard(key)
                        self._active[key] = time.monotonic()
                        return key
            self._changed.clear()
            timeout = self._later[0][0] - time.monotonic() if self._later else None
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):  # not wait_for, which may lose a cancellation before Python 3.12
                    await self._changed.wait()

    def _sort(self) -> None:
        """Move what is due by now to the ready ones."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            when, key = heapq.heappop(self._later)
            if self._due.get(key) != when:
                continue  # it was added again with an earlier time
            if key in self._active:
                del self._due[key]
                self._again.add(key)
                continue
            ready = self._ready[0 if key in self._urgent else 1]
            ready[key] = None

    def _may_start(self, namespace: str) -> bool:
        active = sum(key.namespace == namespace for key in self._active)
        return active < (A_SLOW_NAMESPACE if namespace in self._slow else A_NAMESPACE)

    def done(self, key: NamespacedName) -> None:
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: NamespacedName, longest: float) -> float:
        """Seconds until the next try; `longest` at the most."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(FIRST_DELAY_S * 2.0 ** min(count - 1, 16), longest)
        self._release(key)
        self.add(key, delay)
        return delay

    def _release(self, key: NamespacedName) -> None:
        now = time.monotonic()
        took = now - self._active.pop(key, now)
        (self._slow.add if took > SLOW_S else self._slow.discard)(key.namespace)
        self._finished = now
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        self._changed.set()  # a namespace may have another worker now

    @property
    def depth(self) -> int:
        """Keys that are due or worked on; not those that wait for a later try."""
        now = time.monotonic()
        return len(self._active) + sum(when <= now for when in self._due.values())

    def overdue(self) -> float:
        """Seconds that the longest waiting key has been due: an operator that is behind shows here."""
        now = time.monotonic()
        return max([0.0, *(now - when for when in self._due.values())])

    def stuck(self) -> float:
        """Seconds for which there was work and none of it was finished: workers that hang show here."""
        now = time.monotonic()
        return max(0.0, now - self._finished) if self._active or self.overdue() > 0 else 0.0
