"""The queue between watchers and workers."""

from __future__ import annotations

import asyncio
import time

import pytest

from octavo_operator.api.names import NamespacedName
from octavo_operator.controller.work_queue import A_NAMESPACE, SLOW_S, WorkQueue

A, B = NamespacedName("n", "a"), NamespacedName("n", "b")


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


async def test_a_key_that_waits_too_long_is_reported():
    queue = WorkQueue()
    queue.add(A, 0)
    await asyncio.sleep(0.1)
    assert queue.overdue() > 0.05
    assert queue.depth == 1


async def taken(queue: WorkQueue, count: int) -> list[NamespacedName]:
    return [await asyncio.wait_for(queue.get(), 1) for _ in range(count)]


async def test_what_a_person_has_changed_goes_before_a_flood():
    """An edit does not wait for a thousand services that a restart or a resync has made due."""
    queue = WorkQueue()
    flood = [NamespacedName(f"n{index}", "x") for index in range(100)]
    for key in flood:
        queue.add(key, 0)
    assert await taken(queue, 1) == [flood[0]]
    queue.add(flood[70], urgent=True)
    queue.add(A, 0, urgent=True)
    assert set(await taken(queue, 2)) == {flood[70], A}
    assert await taken(queue, 1) == [flood[1]]


async def test_no_namespace_has_all_workers_to_itself():
    queue = WorkQueue()
    for index in range(20):
        queue.add(NamespacedName("bad", str(index)), 0)
    assert {key.namespace for key in await taken(queue, A_NAMESPACE)} == {"bad"}
    assert await nothing_is_due(queue)
    queue.add(A, 0)
    assert await taken(queue, 1) == [A]


async def test_a_namespace_whose_passes_are_slow_has_one_worker_until_one_is_quick(monkeypatch):
    queue = WorkQueue()
    keys = [NamespacedName("bad", str(index)) for index in range(4)]
    for key in keys:
        queue.add(key, 0)
    (first,) = await taken(queue, 1)
    queue._active[first] -= SLOW_S + 1
    queue.done(first)
    (second,) = await taken(queue, 1)
    assert await nothing_is_due(queue), "one at a time"
    queue.done(second)
    assert len(await taken(queue, 2)) == 2


async def test_being_behind_is_not_being_stuck():
    """`/livez` follows the second: a thousand services that take seconds each are no reason for a restart."""
    queue = WorkQueue()
    queue.add(A, 0)
    queue.add(B, 0)
    await asyncio.sleep(0.1)
    assert queue.overdue() > 0.05
    queue._finished -= 400
    assert queue.stuck() > 399, "nothing was finished"
    await queue.get()
    queue.done(A)
    assert queue.stuck() < 1, "something was"
    await queue.get()
    queue.done(B)
    queue._finished -= 400
    assert queue.stuck() == 0, "there is nothing to do"


@pytest.mark.parametrize("ticks", range(6))
async def test_a_cancellation_that_comes_together_with_an_event_is_not_lost(ticks):
    """A worker that went on instead would keep the operator from ending, and the Lease from the next one."""
    queue = WorkQueue()
    queue.add(A, 60)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    queue._changed.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    worker.cancel()
    await asyncio.wait({worker}, timeout=1)
    assert worker.cancelled()
