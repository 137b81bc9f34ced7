"""The speed of the queue, from which Retry-After follows for a client that found it full."""

from __future__ import annotations

import math
from collections import deque

WINDOW = 64  # starts that are looked back at
LONGEST_SECONDS = 60  # clients give up on more


class QueuePace:
    """Times at which requests have left the queue; `time.monotonic()`."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=WINDOW)

    def started(self, now: float) -> None:
        self._starts.append(now)

    def seconds_for(self, waiting: int, now: float) -> int:
        """Whole seconds until half of those `waiting` will have started: 1 to LONGEST_SECONDS.

        Half, because a client that waits for all of them would find the queue empty, and the server idle.
        """
        if len(self._starts) < 2:
            return 1
        each = (now - self._starts[0]) / (len(self._starts) - 1)
        return max(1, min(LONGEST_SECONDS, math.ceil(each * waiting / 2)))
