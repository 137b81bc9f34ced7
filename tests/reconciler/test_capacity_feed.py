"""Nodes and pods are followed at a pace that a cluster bears, and a missing right is reported at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from test_cluster_client import answering, listed

from octavo_operator.capacity_feed import CapacityFeed
from octavo_operator.errors import ApiError
from octavo_operator.mirror import Mirror
from octavo_operator.resources import NODES


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
            with pytest.raises(ApiError, match="may not"):
                await feed.current()


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
