"""Sends the rows of a batch to a server, some at a time, and hands on each answer as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp

from octavo_engine.batches.rows import Row

RETRY_SECONDS = 1.0  # where the server says nothing else, until a row that its queue had no room for is sent again
START_SECONDS = 0.2  # between two looks at whether the server has come up

END = Row("", "", {})  # no row of a file

OnAnswer = Callable[[Row, int, Any], None]


class Runner:
    """One batch. `socket` is the Unix socket that the server listens on.

    `on_answer` gets each row with the status and the body of its answer, once. `slots` are shared by several batches: a
    row takes one while the server has it.
    """

    def __init__(self, socket: str, on_answer: OnAnswer, concurrency: int, slots: asyncio.Semaphore) -> None:
        self._socket = socket
        self._on_answer = on_answer
        self._concurrency = concurrency
        self._slots = slots

    async def run(self, rows: Iterator[Row | None], alive: asyncio.Event) -> None:
        """Wait for the server, then send `rows`; at each None other tasks get a turn. `alive` is cleared when the server has ended.

        Raises:
            ExceptionGroup: of ConnectionError where the server has ended, and of what `on_answer` and `rows` raise.
        """
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.UnixConnector(self._socket, limit=0)
        session = aiohttp.ClientSession("http://batch", connector=connector, timeout=timeout)
        async with session, asyncio.TaskGroup() as group:
            await self._until_served(session, alive)
            for _ in range(self._concurrency):
                group.create_task(self._work(session, rows, alive))

    async def _until_served(self, session: aiohttp.ClientSession, alive: asyncio.Event) -> None:
        while alive.is_set():
            try:
                async with session.get("/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(START_SECONDS)
        raise ConnectionError("the server has ended")

    async def _work(self, session: aiohttp.ClientSession, rows: Iterator[Row | None], alive: asyncio.Event) -> None:
        while True:
            async with self._slots:  # before the row is read: workers without a slot hold none
                row = next(rows, END)  # shared by all workers
                if row is END:
                    return
                if row is not None:
                    status, body = await self._outcome(session, row, alive)
                    self._on_answer(row, status, body)
            await asyncio.sleep(0)  # rows that are refused take turns with what else the event loop does

    async def _outcome(self, session: aiohttp.ClientSession, row: Row, alive: asyncio.Event) -> tuple[int, Any]:
        if row.problem is not None:
            return 400, {"error": {"message": row.problem, "type": "BadRequestError", "code": 400}}
        while True:
            status, body = await self._answer(session, row, alive)
            if not _is_aborted(body):
                return status, body
            await asyncio.sleep(RETRY_SECONDS)  # the engine was paused or put to sleep: it holds the next one back

    async def _answer(self, session: aiohttp.ClientSession, row: Row, alive: asyncio.Event) -> tuple[int, Any]:
        while True:
            try:
                async with session.post(row.url, json=row.body) as response:
                    if response.status == 503:  # no answer to the row: another server may have one
                        raise ConnectionError("the server has ended")
                    if response.status != 429:
                        return response.status, await response.json(content_type=None)
                    wait = float(response.headers.get("Retry-After", RETRY_SECONDS))
            except aiohttp.ClientError as error:
                raise ConnectionError(f"the server does not answer: {error}") from error
            if not alive.is_set():
                raise ConnectionError("the server has ended")
            await asyncio.sleep(wait)


def _is_aborted(body: Any) -> bool:
    """True for an answer that was broken off by something else than its request."""
    choices = body.get("choices") if isinstance(body, dict) else None
    return isinstance(choices, list) and any(choice.get("finish_reason") == "abort" for choice in choices)
