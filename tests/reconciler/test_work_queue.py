"""The queue between watchers and workers."""

from __future__ import annotations

import asyncio
import time

import pytest

from octavo_operator.work_queue import Key, WorkQueue

A, B = Key("n", "a"), Key("n", "b")


async def nothing_is_due(queue: WorkQueue, seconds: float = 0.15) -> bool:
    try:
        await asyncio.wait_for(queue.get(), seconds)
    except TimeoutError:
        return True
    return False


async def test_a_key_waits_once_however_often_it_is_added():
    queue = WorkQueue()
    for _ in range(5):
        queue.add(A)
    assert await queue.get() == A
    queue.done(A)
    assert await nothing_is_due(queue)


async def test_a_key_that_is_worked_on_is_not_given_out_twice_but_comes_again():
    queue = WorkQueue()
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    queue.add(B)
    assert await queue.get() == B
    assert await nothing_is_due(queue)
    queue.done(A)
    assert await asyncio.wait_for(queue.get(), 1) == A


async def test_a_failure_delays_longer_each_time_up_to_a_bound():
    queue = WorkQueue()
    delays = []
    for _ in range(7):
        queue._active[A] = time.monotonic()
        delays.append(queue.failed(A, 15))
    assert delays == [1, 2, 4, 8, 15, 15, 15]


async def test_an_event_brings_back_at_once_what_failed():
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.failed(A, 60)
    began = time.monotonic()
    queue.add(A)
    assert await asyncio.wait_for(queue.get(), 1) == A
    assert time.monotonic() - began < 0.5


async def test_success_forgets_failures():
    queue = WorkQueue()
    queue._active[A] = time.monotonic()
    queue.failed(A, 60)
    queue._active[A] = time.monotonic()
    queue.done(A)
    queue._active[A] = time.monotonic()
    assert queue.failed(A, 60) == pytest.approx(1)


async def test_a_key_that_nobody_takes_is_told():
    queue = WorkQueue()
    queue.add(A, 0)
    await asyncio.sleep(0.1)
    assert queue.overdue() > 0.05
    assert queue.depth == 1
