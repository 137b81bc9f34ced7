"""The queue between watchers and workers: a key waits in it once, however often it is added.

A key that is being worked on is not given out again until it is done; what was added meanwhile makes it due once more.
A failure delays it by 1, 2, 4 … s; an event brings it back at once, for what it waits for may have happened.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from dataclasses import dataclass, field
from typing import NamedTuple

FIRST_DELAY_S = 1.0
SETTLE_S = 0.05  # events come in bursts: a Deployment's own, its pods'


class Key(NamedTuple):
    """An LLMService."""

    namespace: str
    name: str

    @property
    def logged(self) -> dict[str, dict[str, str]]:
        """For a log record's `extra`."""
        return {"about": {"namespace": self.namespace, "name": self.name}}


@dataclass
class WorkQueue:
    """Belongs to one event loop."""

    _due: dict[Key, float] = field(default_factory=dict)  # monotonic seconds
    _heap: list[tuple[float, Key]] = field(default_factory=list)
    _active: set[Key] = field(default_factory=set)
    _again: set[Key] = field(default_factory=set)
    _failures: dict[Key, int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, key: Key, delay: float = SETTLE_S) -> None:
        """Due after `delay` seconds, or earlier where it is due earlier already."""
        if key in self._active and delay <= SETTLE_S:
            self._again.add(key)
            return
        when = time.monotonic() + delay
        if key not in self._due or when < self._due[key]:
            self._due[key] = when
            heapq.heappush(self._heap, (when, key))
            self._changed.set()

    async def get(self) -> Key:
        """The next key, once it is due; tell `done` or `failed` of it."""
        while True:
            timeout = self._until_next()
            if timeout is not None and timeout <= 0:
                when, key = heapq.heappop(self._heap)
                if self._due.get(key) != when:
                    continue  # it was added anew with an earlier time
                del self._due[key]
                if key in self._active:
                    self._again.add(key)
                    continue
                self._active.add(key)
                return key
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout)
            except TimeoutError:
                continue

    def done(self, key: Key) -> None:
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: Key, longest: float) -> float:
        """Seconds until it is tried again; `longest` at the most."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(FIRST_DELAY_S * 2.0 ** min(count - 1, 16), longest)
        self._release(key)
        self.add(key, delay)
        return delay

    def _release(self, key: Key) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _until_next(self) -> float | None:
        return self._heap[0][0] - time.monotonic() if self._heap else None

    @property
    def depth(self) -> int:
        """Keys that are due or worked on; not those that wait for a later try."""
        now = time.monotonic()
        return len(self._active) + sum(when <= now for when in self._due.values())

    def overdue(self) -> float:
        """Seconds that the longest waiting key has been due: workers that hang show here."""
        now = time.monotonic()
        return max([0.0, *(now - when for when in self._due.values())])
