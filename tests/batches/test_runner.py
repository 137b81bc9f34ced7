"""The runner of a batch's rows, against a server whose answers are given."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from octavo_engine.batches import runner as runner_module
from octavo_engine.batches.rows import Row
from octavo_engine.batches.runner import Runner


class Answering:
    """A server on a Unix socket that takes its answers from a list, once it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.answers: list[dict] = []
        self.num_waiting = 0

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def answer(self, _request: web.Request) -> web.Response:
        self.num_waiting += 1
        await self.open.wait()
        return web.json_response(self.answers.pop(0) if self.answers else choice("stop"))


def choice(reason: str) -> dict:
    return {"choices": [{"text": "x", "finish_reason": reason}]}


@pytest.fixture
async def server(tmp_path):
    server = Answering()
    app = web.Application()
    app.router.add_get("/health", server.health)
    app.router.add_post("/v1/completions", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    server.path = str(tmp_path / "rows")
    await web.UnixSite(runner, server.path).start()
    yield server
    await runner.cleanup()


def row(number: int) -> Row:
    return Row(str(number), "/v1/completions", {"prompt": "x"})


def alive() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_a_row_that_the_engine_broke_off_is_sent_again(server, monkeypatch):
    """An engine that is paused or put to sleep aborts what runs; that is no answer."""
    monkeypatch.setattr(runner_module, "RETRY_SECONDS", 0.001)
    server.open.set()
    server.answers = [choice("abort"), choice("abort"), choice("length")]
    answers = []
    runner = Runner(server.path, lambda *answer: answers.append(answer), 1, asyncio.Semaphore(1))
    await runner.run(iter([row(0)]), alive())
    assert answers == [(row(0), 200, choice("length"))]


async def test_rows_that_have_no_slot_are_not_read(server):
    """Two slots and eight workers: two rows are in memory; a pause among the rows ends nothing."""
    read, answers = [], []

    def rows():
        for number in range(20):
            read.append(number)
            yield row(number) if number % 5 else None

    runner = Runner(server.path, lambda *answer: answers.append(answer), 8, asyncio.Semaphore(2))
    task = asyncio.create_task(runner.run(rows(), alive()))
    async with asyncio.timeout(5):
        while server.num_waiting < 2:  # noqa: ASYNC110 — of the server
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert read == [0, 1, 2]
    server.open.set()
    await task
    assert sorted(int(each.custom_id) for each, _, _ in answers) == [n for n in range(20) if n % 5]
