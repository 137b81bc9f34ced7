"""Decides when a connection ends, and announces that with its last answer, so that no request is lost.

A proxy that balances connections (kube-proxy does) never moves one that is kept alive. So an answer closes its
connection when the server drains, and when the connection has grown old: clients then reach replicas that were added
since. HTTP/1.1 has no other word for it, and a connection that is simply closed may have the next request on its way.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

LONGEST_LIFE_S = 60.0
SPREAD = 0.2  # of the life, so that clients that came together do not all come again together


class Connections:
    """The server's connections, by the task that serves each; and when the last request ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: WeakKeyDictionary[asyncio.Task[None], float] = WeakKeyDictionary()
        self._last_request = clock() - LONGEST_LIFE_S

    def has_grown_old(self, connection: asyncio.Task[None]) -> bool:
        """True if the answer now begun should be the connection's last. Its age counts from its first answer."""
        end = self._ends.get(connection)
        if end is None:
            spread = random.uniform(1 - SPREAD, 1 + SPREAD)
            self._ends[connection] = self._clock() + LONGEST_LIFE_S * spread
            return False
        return self._clock() >= end

    def request_ended(self) -> None:
        self._last_request = self._clock()

    @property
    def quiet_for(self) -> float:
        """Seconds since the last request ended."""
        return self._clock() - self._last_request
