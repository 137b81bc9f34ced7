"""Requests take turns: one in each iteration of the event loop, in order."""

from __future__ import annotations

import asyncio

from octavo_engine.server.turns import Turns


async def test_no_two_requests_have_their_turn_in_one_iteration_of_the_loop():
    """And those that go away while they wait keep none from theirs."""
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
