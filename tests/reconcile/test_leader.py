"""One replica at a time: a second one waits, takes over, and nothing is written by two."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import ACCOUNT, USER, Operator, service

LEASE = ("coordination.k8s.io/v1", "Lease", "octavo-operator", "octavo-system")


@pytest.fixture
def replicas(installed, tmp_path):
    """Starts replicas, and ends them after the test."""
    started: list[Operator] = []

    def start(name: str) -> Operator:
        started.append(Operator(installed.kubeconfig(ACCOUNT), tmp_path / f"{name}.log"))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def holder(plane) -> str:
    lease = plane.api.find(*LEASE)
    return lease["spec"].get("holderIdentity", "") if lease else ""


def identity(operator: Operator) -> str:
    return next(record["identity"] for record in operator.records() if "identity" in record)


@pytest.mark.slow
def test_a_second_replica_waits_and_takes_over_within_20_s_of_the_first_ones_death(
    installed, replicas, namespace, record_property
):
    """Killed with -9, so that it can't give the Lease back; the second one finishes what was begun."""
    first = replicas("first")
    first.wait_ready()
    second = replicas("second")
    until(lambda: second.ask("/readyz")[0] == 200, 30)
    assert second.health["role"] == "standby"
    first.kill()
    died = datetime.now(UTC)
    installed.api.create(service("s", namespace))
    until(lambda: holder(installed) == identity(second), 25, "the second one takes the Lease")
    taken = datetime.fromisoformat(installed.api.get(*LEASE)["spec"]["acquireTime"])
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 20)
    took = (taken - died).total_seconds()
    record_property("takeover_s", round(took, 1))
    record_property("takeover_and_reconciled_s", round((datetime.now(UTC) - died).total_seconds(), 1))
    assert took < 20


def test_an_orderly_end_hands_the_lease_on_at_once(installed, replicas):
    """SIGTERM: exit status 0, and the next one leads within seconds."""
    first = replicas("first")
    first.wait_ready()
    second = replicas("second")
    until(lambda: second.ask("/readyz")[0] == 200, 30)
    assert first.end() == 0
    ended = time.monotonic()
    second.wait_ready()
    assert time.monotonic() - ended < 12  # not fifteen, as long as the Lease lasts


@pytest.mark.slow
def test_a_leader_that_was_stopped_writes_nothing_when_it_wakes_up(installed, replicas, namespace):
    """Stopped for longer than the Lease lasts, it finds another one leading and ends; no write is its own."""
    first = replicas("first")
    first.wait_ready()
    second = replicas("second")
    first.process.send_signal(signal.SIGSTOP)
    second.wait_ready(30)
    mark = installed.audit.mark()
    installed.api.create(service("s", namespace))
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(15) == 1
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 10)
    made = [a for a in installed.audit.asked(USER, mark) if a.resource == "deployments" and a.created]
    assert len(made) == 1
    assert any("another's" in record["message"] for record in first.records())
