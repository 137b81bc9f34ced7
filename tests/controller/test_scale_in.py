"""The replica that a scale-in should take, and when it is worth saying."""

from __future__ import annotations

import asyncio

import pytest

from octavo_operator.api.resources import AUTOSCALERS
from octavo_operator.controller.scale_in import AT_ONCE, ScaleIn, candidate
from octavo_operator.errors import UnreachableError


@pytest.mark.parametrize(
    ("loads", "marked", "chosen"),
    [
        ({}, None, None),
        ({"a": 3}, None, None),  # there is no choice
        ({"a": 3, "b": 1}, None, "b"),
        ({"a": 0, "b": 0}, None, "a"),
        ({"a": 0, "b": 0}, "b", "b"),  # an idle service is left as it is
        ({"a": 1, "b": 0}, "a", "a"),  # one request is no reason
        ({"a": 5, "b": 4}, "a", "a"),
        ({"a": 20, "b": 4}, "a", "b"),
        ({"b": 4, "c": 2}, "a", "c"),  # the marked one is gone, or does not answer
    ],
)
def test_the_cheapest_replica_is_chosen_and_kept_until_another_is_clearly_cheaper(loads, marked, chosen):
    """A mark that moved with each request would be a write for each."""
    assert candidate(loads, marked) == chosen


class SlowCluster:
    """Many services that could shrink; the pods of each are listed once `answers` is set, but for one that hangs."""

    def __init__(self, services: int) -> None:
        self.names = [f"s{number}" for number in range(services)]
        self.answers = asyncio.Event()
        self.begun: list[str] = []
        self.done: list[str] = []
        self.at_once = self.most = 0

    async def list(self, resource, namespace, selector):
        if resource is AUTOSCALERS:
            labels = [{"octavo.dev/service": name} for name in self.names]
            replicas = {"spec": {"minReplicas": 1}, "status": {"currentReplicas": 2}}
            return [{"metadata": {"namespace": "ns", "labels": each}, **replicas} for each in labels]
        name = selector.partition("=")[2].partition(",")[0]
        self.begun.append(name)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await (asyncio.Event().wait() if name == "s0" else self.answers.wait())
        finally:
            self.at_once -= 1
        self.done.append(name)
        if name == "s1":
            raise UnreachableError("no answer")
        return []


async def test_a_service_that_hangs_or_fails_holds_up_no_other_and_only_some_are_asked_at_once():
    """One after the other a round over many services would take minutes; all at once they would flood the API server."""
    cluster = SlowCluster(3 * AT_ONCE)
    look = asyncio.create_task(ScaleIn(cluster, ())._look(None))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(cluster.begun) == AT_ONCE, "some at once, and no more before one of them is done"
    cluster.answers.set()
    for _ in range(200):
        await asyncio.sleep(0)
    assert sorted(cluster.done) == sorted(set(cluster.names) - {"s0"})
    assert cluster.most == AT_ONCE
    assert not look.done()
    look.cancel()
    await asyncio.gather(look, return_exceptions=True)
