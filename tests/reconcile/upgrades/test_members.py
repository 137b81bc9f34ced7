"""A campaign's memory of services that are deleted, or whose manifest can't be followed at present."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from upgrade_cases import NEW, OLD, at, rendering

from octavo_operator.api.names import NamespacedName
from octavo_operator.children import Manifest
from octavo_operator.reconcile.metrics import Metrics
from octavo_operator.reconcile.upgrades.campaign import Campaign, Member
from octavo_operator.reconcile.upgrades.rendering import Attempt, Move, Record, annotated
from octavo_operator.reconcile.upgrades.upgrades import Upgrades

A, B, C, D = (NamespacedName("n", name) for name in "abcd")


def deployment(key: NamespacedName, record: Record, ready: int = 1, **status) -> Manifest:
    labels = {"octavo.dev/service": key.name}
    made = {"metadata": {"namespace": key.namespace, "name": key.name, "labels": labels}, "spec": {"replicas": 1}}
    counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "observedGeneration": 1}
    return annotated(made, record) | {"status": counts | status}


async def campaign(*deployments: Manifest, limit: int = 1) -> tuple[Upgrades, list[NamespacedName]]:
    async def pages(*_, **__):
        yield list(deployments), None

    woken: list[NamespacedName] = []
    upgrades = Upgrades(SimpleNamespace(pages=pages), Campaign(NEW, limit), Metrics(), woken.append)
    await upgrades.read()
    return upgrades, woken


def failed(second: int) -> Record:
    return Record(rendering(), None, Attempt(NEW, "1", "", served=False, at=at(second), why="it crashed"))


async def test_a_stopped_campaign_stays_stopped_when_a_failed_service_is_deleted():
    """The release is no better for it; the next one in the row would be interrupted for nothing."""
    upgrades, _ = await campaign(*(deployment(key, failed(n)) for n, key in enumerate((A, B, C))))
    assert upgrades.stopped == (A, B, C)
    upgrades.leave(B)
    assert upgrades.stopped == (A, B, C)


async def moving(ready: int, **status) -> tuple[Upgrades, Manifest]:
    record = Record(rendering(NEW), Move(rendering(OLD), 1, at(0)))
    live = deployment(A, record, ready, **status)
    return (await campaign(live))[0], live


@pytest.mark.parametrize(
    ("ready", "status", "over"),
    [
        (0, {}, False),
        (1, {}, True),
        (0, {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}, True),
    ],
    ids=["loads", "serves", "never will"],
)
async def test_a_service_whose_manifest_breaks_while_it_moves_keeps_its_turn_until_its_replicas_serve(
    ready, status, over
):
    """Two services at a time would otherwise be without a replica, where one was allowed."""
    upgrades, live = await moving(ready, **status)
    upgrades.leave(A, live)
    assert (upgrades._campaign.next({**upgrades._members, D: Member(waits=True)}) == (D,)) == over


async def test_a_service_that_is_deleted_while_it_moves_gives_its_turn_back():
    upgrades, _ = await moving(0)
    upgrades.leave(A)
    assert upgrades._campaign.next({**upgrades._members, D: Member(waits=True)}) == (D,)
