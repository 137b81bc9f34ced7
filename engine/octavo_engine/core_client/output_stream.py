"""The outputs of one client's requests, held until they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from octavo_engine.errors import EngineDeadError
from octavo_engine.messages import EngineOutput


class OutputStream:
    """The outputs of requests that were submitted together, in order; `get` returns all that have arrived.

    Further output of a request is merged into one that is still unread, so that a slow client costs its tokens and not
    a message for each. `close` aborts all unfinished requests.
    """

    def __init__(self, end: Callable[[list[str], str], None], request_ids: Iterable[str]) -> None:
        """`end` ends requests, for a reason."""
        self._end = end
        self.unfinished = set(request_ids)
        self._pending: list[EngineOutput] = []
        self._open: dict[str, EngineOutput] = {}  # of `_pending`: the last one of each unfinished request
        self._waiter: asyncio.Future[bool] | None = None  # its result: whether something has come
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None  # one for many waits: most end long before their deadline
        self._error: EngineDeadError | None = None

    async def get(self, seconds: float | None = None) -> list[EngineOutput]:
        """Everything since the last call, at least one output; empty once all requests have finished.

        Raises:
            EngineDeadError: the core is gone.
            TimeoutError: nothing has come for `seconds`.
        """
        while not self._pending:
            if self._error is not None:
                raise self._error
            if not self.unfinished:
                return []
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            if seconds is not None:
                self._deadline = loop.time() + seconds
                if self._timer is None:
                    self._timer = loop.call_at(self._deadline, self._look_at_clock)
            try:
                if not await self._waiter:
                    raise TimeoutError
            finally:
                self._waiter = None
        pending, self._pending = self._pending, []
        self._open.clear()
        return pending

    def finish(self, request_id: str, reason: str) -> None:
        """End one request from this side, such as for a stop string; later outputs of it are dropped."""
        if request_id in self.unfinished:
            self.unfinished.discard(request_id)
            self._end([request_id], reason)

    def abort(self) -> None:
        """End what has not finished, with the reason "abort" as its last output."""
        ended = sorted(self.unfinished)
        if ended:
            self._end(ended, "abort")
        for request_id in ended:
            self.put(EngineOutput(request_id=request_id, new_token_ids=[], finish_reason="abort"))

    def close(self) -> None:
        """Abort what has not finished; its blocks are free within a step."""
        if self.unfinished:
            self._end(list(self.unfinished), "abort")
            self.unfinished.clear()
        self._pending.clear()
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def put(self, output: EngineOutput) -> None:
        last = self._open.get(output.request_id)
        if output.finish_reason is not None:
            self.unfinished.discard(output.request_id)
            self._open.pop(output.request_id, None)
        elif (
            last is not None and output.prompt_logprobs is None and (last.logprobs is None) == (output.logprobs is None)
        ):
            last.new_token_ids.extend(output.new_token_ids)
            if last.logprobs is not None:
                last.logprobs.extend(output.logprobs or ())
            return
        else:
            self._open[output.request_id] = output
        self._pending.append(output)
        self._wake()

    def fail(self, error: EngineDeadError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        loop = self._waiter.get_loop()
        if loop.time() < self._deadline:
            self._timer = loop.call_at(self._deadline, self._look_at_clock)
        else:
            self._waiter.set_result(False)
