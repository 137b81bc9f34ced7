"""Requests that come at once take turns: the event loop serves streams between any two of them.

The loop runs everything that is ready before it looks at a socket again. A thousand requests that arrive together, each
of a few milliseconds, would keep it for seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lets one caller of `take` through in each iteration of the event loop, in order but for those that have begun."""

    def __init__(self) -> None:
        self._begun: deque[asyncio.Future[None]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False

    async def take(self, *, begun: bool = False) -> None:
        """Wait until no other request has its turn; what follows, up to the next await, is this one's.

        Requests that have `begun`, in a turn before, go in front of those that have not, in their own order: each is in
        the queue, or refused, before work goes into another.
        """
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on)
            return
        turn = loop.create_future()
        (self._begun if begun else self._waiting).append(turn)
        await turn

    def _pass_on(self) -> None:
        self._taken = False
        while not self._taken and (queue := self._begun or self._waiting):
            turn = queue.popleft()
            if not turn.done():  # else its request is gone
                turn.set_result(None)
                self._taken = True
                turn.get_loop().call_soon(self._pass_on)
