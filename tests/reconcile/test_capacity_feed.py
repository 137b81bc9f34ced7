"""Nodes and pods are followed at a pace that a cluster bears, and a missing right is reported at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
from aiohttp import web
from octavo_testing.scripted_api_server import answering, listed

from octavo_operator.api.names import NamespacedName
from octavo_operator.api.resources import NODES
from octavo_operator.cluster.mirror import Mirror
from octavo_operator.controller.work_queue import WorkQueue
from octavo_operator.controller.workers import WORKERS, Workers
from octavo_operator.errors import ApiError, NotListedYetError
from octavo_operator.reconcile.capacity_feed import CapacityFeed
from octavo_operator.reconcile.metrics import Metrics


def forbidden():
    return web.json_response({"reason": "Forbidden", "message": "may not"}, status=403)


def ended_at_once():
    return web.Response()


@asynccontextmanager
async def during(work):
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_right_that_is_missing_is_reported_at_once():
    """A look that waited for what is refused would keep a worker from every other service."""
    async with answering(forbidden) as (cluster, _):
        feed = CapacityFeed(cluster)
        async with during(feed.run()), asyncio.timeout(20):
            with pytest.raises(NotListedYetError):
                feed.current()
            await feed.tried()
            with pytest.raises(ApiError, match="may not"):
                feed.current()


class Early:
    """A reconciler whose services with GPUs need the cluster's capacity."""

    def __init__(self, feed):
        self.feed = feed
        self.looked = []
        self._changed = asyncio.Condition()

    async def have_looked(self, times):
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.looked) >= times)

    async def reconcile(self, key):
        self.looked.append(key.name)
        async with self._changed:
            self._changed.notify_all()
        if key.name.startswith("gpu"):
            self.feed.current()
        return "unchanged"


async def test_services_with_gpus_hold_up_no_other_while_pods_are_listed_for_the_first_time():
    """More of them than there are workers; each is looked at again as soon as the lists are there."""
    release = asyncio.Event()

    async def late(resource, *_, **__):
        await release.wait()
        yield [], "1"

    async def silent(*_, **__):
        await asyncio.Event().wait()
        yield {}

    cluster = SimpleNamespace(pages=late, watch=silent)
    feed, queue = CapacityFeed(cluster), WorkQueue()
    reconciler = Early(feed)
    health = SimpleNamespace(metrics=Metrics(), services=set(), forget=lambda _: None, last_success=0.0)
    workers = Workers(reconciler, queue, health)
    for index in range(3 * WORKERS):
        queue.add(NamespacedName(f"n{index}", f"gpu{index}"))
    async with during(feed.run()), during(workers.run()), asyncio.timeout(20):
        await reconciler.have_looked(3 * WORKERS)
        queue.add(NamespacedName("n", "cpu"))
        await reconciler.have_looked(3 * WORKERS + 1)
        assert reconciler.looked[-1] == "cpu"
        release.set()
        await reconciler.have_looked(6 * WORKERS + 1)
    assert len(set(reconciler.looked)) == 3 * WORKERS + 1


@pytest.mark.parametrize(
    "answers",
    [[listed(), forbidden] * 100, [listed(), ended_at_once]],
    ids=["lists are answered, watches are refused", "watches end at once"],
)
async def test_what_can_not_be_watched_is_asked_for_ever_more_seldom(answers):
    async with answering(*answers) as (cluster, asked):
        mirror = Mirror(cluster, NODES, lambda item: item, lambda _: None)
        async with during(mirror.run()):
            await asyncio.sleep(2)
    assert len(asked) <= 7
