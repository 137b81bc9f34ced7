"""A task that holds up the event loop is measured, and named."""

from __future__ import annotations

import asyncio
import time

from octavo_engine.server import loop_watch
from octavo_engine.server.loop_watch import LoopWatch


async def test_a_late_loop_is_counted_and_its_task_is_named(caplog):
    """The name is the route that the task serves; a loop that is on time logs nothing."""
    watch = LoopWatch()
    watch.start()

    async def hold_up():
        time.sleep(1.0)  # noqa: ASYNC251 — the point

    await asyncio.sleep(0.2)
    await asyncio.create_task(hold_up(), name="POST '/v1/completions'")
    await asyncio.sleep(0.2)
    watch.stop()
    assert watch.longest > 0.8
    assert sum(watch.delays.counts[loop_watch.BOUNDS.index(0.5) + 1 :]) == 1
    (line,) = [record.getMessage() for record in caplog.records if "held up" in record.getMessage()]
    assert line.endswith("by POST '/v1/completions'")


async def test_a_delay_while_no_route_is_served_is_counted_and_not_logged(caplog):
    """A start, or a machine that gives the process no time, is no request's fault."""
    watch = LoopWatch()
    watch.start()

    async def start_up():
        time.sleep(0.6)  # noqa: ASYNC251 — the point

    await asyncio.sleep(0.2)
    await asyncio.create_task(start_up())
    await asyncio.sleep(0.2)
    watch.stop()
    assert watch.longest > 0.4
    assert [record for record in caplog.records if "held up" in record.getMessage()] == []
