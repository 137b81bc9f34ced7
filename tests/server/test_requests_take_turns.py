"""Requests take turns: one in each iteration of the event loop, in order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from octavo_engine.errors import QueueFullError
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.intake import admission, protocol
from octavo_engine.server.turns import Turns


async def test_no_two_requests_have_their_turn_in_one_iteration_of_the_loop():
    """Requests that go away while they wait keep none from theirs."""
    turns, iteration, taken = Turns(), 0, []

    def count() -> None:
        nonlocal iteration
        iteration += 1
        asyncio.get_running_loop().call_soon(count)

    async def request(number: int) -> None:
        await turns.take()
        taken.append((iteration, number))

    count()
    tasks = [asyncio.create_task(request(number)) for number in range(100)]
    await asyncio.sleep(0)
    for gone in tasks[50:60]:
        gone.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for _, number in taken] == [*range(50), *range(60, 100)]
    assert len({when for when, _ in taken}) == len(taken)


async def test_a_request_alone_does_not_wait():
    """Its turn is now."""
    turns = Turns()
    for _ in range(3):
        taking = turns.take()
        try:
            taking.send(None)
        except StopIteration:
            await asyncio.sleep(0)
            continue
        raise AssertionError("it waits")


async def test_those_that_have_begun_go_first():
    turns, taken = Turns(), []

    async def request(name: str) -> None:
        await turns.take()
        taken.append(name)
        await turns.take(begun=True)
        taken.append(name)

    await asyncio.gather(*(request(name) for name in "abc"))
    assert taken == list("aabbcc")


async def test_those_that_have_begun_keep_their_order():
    """Many come back from the pools at once: the first ones are not overtaken by all that follow."""
    turns, taken = Turns(), []

    async def request(name: str, *, begun: bool) -> None:
        await turns.take(begun=begun)
        taken.append(name)

    names = [("holds the turn", False), ("new", False), ("first", True), ("second", True), ("third", True)]
    await asyncio.gather(*(request(name, begun=begun) for name, begun in names))
    assert taken == ["holds the turn", "first", "second", "third", "new"]


async def test_a_burst_is_refused_before_it_is_parsed(monkeypatch):
    """Each is tokenized and in the queue before another is read, so that those behind find it full."""
    parsed, submitted = [], []

    class Client:
        def check_room(self) -> None:
            if len(submitted) >= 4:
                raise QueueFullError("the queue is full", retry_after=1)

    async def received(*_) -> bytes:
        return b'{"prompt": "a"}'

    def parse(kind, data):
        parsed.append(data)
        return protocol.parse_body(kind, data)

    monkeypatch.setattr(admission, "plain_body", received)
    monkeypatch.setattr(admission, "parse_body", parse)
    context = SimpleNamespace(
        refusing=False,
        client=Client(),
        turns=Turns(),
        limits=None,
        pools=None,
        metrics=SimpleNamespace(num_http_requests=0),
        runs_rows=False,
        config=SimpleNamespace(server=SimpleNamespace(enable_log_requests=False)),
    )

    class Request(dict):
        def __init__(self) -> None:
            super().__init__({admission.SHARE: None})
            self.app = {CONTEXT: context}

    async def answer() -> None:
        await admission.read_body(Request(), protocol.CompletionBody)
        await context.turns.take(begun=True)  # as for tokenizing
        submitted.append(None)

    results = await asyncio.gather(*(answer() for _ in range(100)), return_exceptions=True)
    assert (len(submitted), len(parsed)) == (4, 4)
    assert sum(isinstance(result, QueueFullError) for result in results) == 96
