"""The state that `/livez` and `/healthz` report."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from octavo_operator.api.names import NamespacedName
from octavo_operator.controller.health import STUCK_S, UNAUTHORIZED_S, Health
from octavo_operator.controller.work_queue import Seen, WorkQueue
from octavo_operator.errors import ApiError
from octavo_operator.reconcile.failed_pass import status_beside
from octavo_operator.reconcile.metrics import Metrics
from octavo_operator.reconcile.rivals import GONE_S, Rivals

A, B = NamespacedName("n", "a"), NamespacedName("n", "b")


def health(**leader):
    leader = {"unauthorized_since": None, "leads": True, "heard": time.monotonic()} | leader
    watchers = SimpleNamespace(watches={}, restarts=0, troubles=dict)
    return Health(SimpleNamespace(**leader), watchers, WorkQueue(), Metrics(), leading=True)


async def livez(of: Health) -> tuple[int, dict]:
    response = await of._livez(None)
    return response.status, json.loads(response.text)


async def test_an_operator_that_is_merely_behind_is_alive():
    """A thousand services at seconds each are due for many minutes; a restart would begin all over again."""
    tracked = health()
    for index in range(1000):
        tracked.queue.add(NamespacedName("n", str(index)), -3600)
    tracked.queue.done(await tracked.queue.get())
    assert tracked.queue.overdue() > STUCK_S
    assert (await livez(tracked))[0] == 200
    well, said = tracked.report()
    assert not well, "/healthz says so all the same"
    assert "reconciles" in said["troubles"]


async def test_workers_that_finish_nothing_for_long_are_restarted():
    tracked = health()
    tracked.queue.add(A, 0)
    await tracked.queue.get()
    tracked.queue._finished -= STUCK_S + 1
    assert (await livez(tracked))[0] == 503


@pytest.mark.parametrize(("seconds", "status"), [(UNAUTHORIZED_S - 10, 200), (UNAUTHORIZED_S + 10, 503)])
async def test_credentials_that_are_refused_for_long_are_no_life(seconds, status):
    """401 to everything: nothing is done, and only a restart reads other credentials."""
    assert (await livez(health(unauthorized_since=time.monotonic() - seconds)))[0] == status


async def test_a_generation_is_news_once_and_makes_its_service_urgent():
    tracked = health()
    assert tracked.take(Seen(A, 3))
    assert not tracked.take(Seen(A, 3)), "a status that changed"
    assert not tracked.take(Seen(A)), "a child's event"
    assert not tracked.take(Seen(A, 2)), "an older event that came late"
    assert tracked.take(Seen(A, 4))
    tracked.forget(A)
    assert tracked.take(Seen(A, 1)), "another of that name"


def test_the_operator_that_was_there_first_gives_way_to_a_rival():
    """An operator that comes later takes over from an installation that is gone."""
    first, second = Rivals("first"), Rivals("second")
    assert first.of(A, None) is None
    assert first.of(A, {"operator": "first"}) is None
    assert second.of(A, {"operator": "first"}) is None
    assert first.of(A, {"operator": "second"}) == "second"
    assert second.of(A, {"operator": "second"}) is None
    assert first.of(B, {"operator": "second"}) is None
    first.forget(A)
    assert first.of(A, {"operator": "second"}) is None


@pytest.mark.parametrize(
    ("later", "gone"),
    [
        (lambda _: None, True),
        (lambda lease: lease, True),
        (lambda lease: {**lease, "metadata": {"resourceVersion": "2"}}, False),
    ],
    ids=["its Lease was deleted", "its Lease is not renewed", "its Lease is renewed"],
)
async def test_a_rival_that_was_uninstalled_is_a_rival_no_longer(later, gone):
    """The remedy is to uninstall one of two: the other then has its services back, without a restart."""
    lease = {"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": ""}}
    answers, now = [lease, later(lease)], [0.0]

    async def get(*_):
        return answers.pop(0)

    rivals = Rivals("first", clock=lambda: now[0])
    cluster = SimpleNamespace(get=get)
    assert not await rivals.is_gone(cluster, "second")
    now[0] = GONE_S + 1
    assert await rivals.is_gone(cluster, "second") is gone


async def test_where_leases_may_not_be_read_a_rival_stays_one():
    async def get(*_):
        raise ApiError("GET", "/", 403, {})

    assert not await Rivals("first").is_gone(SimpleNamespace(get=get), "second")


@pytest.mark.parametrize("renewed", [True, False])
async def test_the_operator_that_stays_says_of_another_while_that_one_runs(renewed):
    """A condition that outlives the second installation would send people after nothing."""
    versions, now = iter("123456789"), [0.0]

    async def get(*_):
        return {"metadata": {"resourceVersion": next(versions) if renewed else "1"}}

    rivals, cluster = Rivals("second", clock=lambda: now[0]), SimpleNamespace(get=get)
    beside = {"operator": "second", "otherOperator": "first"}
    assert await rivals.gave_way(cluster, A, beside) is None, "written before this process began: to be said again"
    assert await rivals.gave_way(cluster, A, beside) == "first"
    now[0] = GONE_S + 1
    assert await rivals.gave_way(cluster, A, beside) == ("first" if renewed else None)
    assert await rivals.gave_way(cluster, A, {"operator": "second"}) is None
    assert await rivals.gave_way(cluster, A, {"operator": "second", "otherOperator": "second"}) is None


def test_the_operator_that_gives_way_leaves_the_rest_of_the_status_alone():
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": "t"}
    body = {"metadata": {"generation": 3}, "status": {"operator": "second", "readyReplicas": 1, "conditions": [ready]}}
    status = status_beside(body, "second", "first", "now")
    assert status["conditions"][0] == ready
    assert (status["readyReplicas"], status["operator"], status["otherOperator"]) == (1, "second", "first")
    (condition,) = [each for each in status["conditions"] if each["type"] == "TwoOperators"]
    assert (condition["status"], condition["observedGeneration"]) == ("True", 3)
    assert status_beside({"metadata": {"generation": 4}, "status": status}, "second", "first", "later") is None
