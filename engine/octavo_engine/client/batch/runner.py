"""Sends the rows of a batch to a server, as many at a time as it runs, and writes each answer as it comes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from octavo_engine.client.batch.rows import Row, answer_line, append

RETRY_SECONDS = 1.0  # where the server says nothing else, until a row that its queue had no room for is sent again
START_SECONDS = 0.2  # between two looks at whether the server has come up


class Runner:
    """One batch. `socket` is the Unix socket that the server listens on; `output` is appended to."""

    def __init__(self, socket: str, output: Path, concurrency: int) -> None:
        self._socket = socket
        self._output = output
        self._concurrency = concurrency
        self.num_good = self.num_failed = 0

    async def run(self, rows: Iterator[Row], alive: asyncio.Event) -> None:
        """Wait for the server, then send `rows`. `alive` is cleared when the server has ended.

        Raises:
            ConnectionError: the server has ended.
        """
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.UnixConnector(self._socket, limit=0)
        file = os.open(self._output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            async with aiohttp.ClientSession("http://batch", connector=connector, timeout=timeout) as session:
                await self._until_served(session, alive)
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._concurrency):
                        group.create_task(self._work(session, rows, file, alive))
        finally:
            os.close(file)

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

    async def _work(self, session: aiohttp.ClientSession, rows: Iterator[Row], file: int, alive: asyncio.Event) -> None:
        for row in rows:  # shared by all workers
            if row.problem is not None:
                status, body = 400, {"error": {"message": row.problem, "type": "BadRequestError", "code": 400}}
            else:
                status, body = await self._answer(session, row, alive)
            if status < 400:
                self.num_good += 1
            else:
                self.num_failed += 1
            append(file, answer_line(row, status, body))

    async def _answer(self, session: aiohttp.ClientSession, row: Row, alive: asyncio.Event) -> tuple[int, Any]:
        while True:
            try:
                async with session.post(row.url, json=row.body) as response:
                    if response.status != 429:
                        return response.status, await response.json(content_type=None)
                    wait = float(response.headers.get("Retry-After", RETRY_SECONDS))
            except aiohttp.ClientError as error:
                raise ConnectionError(f"the server does not answer: {error}") from error
            if not alive.is_set():
                raise ConnectionError("the server has ended")
            await asyncio.sleep(wait)
