"""Faults between the operator and the API server heal without a crash, and /healthz reports them meanwhile.

Faults last two seconds, and 75 in `make test-all`: kopf by itself would end after 54.
"""

from __future__ import annotations

import time

import pytest
from octavo_testing.api_client import until
from octavo_testing.fault_proxy import FaultProxy
from octavo_testing.operator_runs import ACCOUNT, API, running, service, wait_for

HEAL_S = 30
of_any_length = pytest.mark.parametrize("seconds", [2, pytest.param(75, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def proxied(installed, tmp_path_factory):
    """An operator whose way to the API server can be disturbed, and that way."""
    installed.kubeconfig(ACCOUNT)
    with FaultProxy(installed) as proxy:
        log = tmp_path_factory.mktemp("proxied") / "operator.log"
        with running(installed, log, server=proxy.server) as operator:
            yield operator, proxy


def reconciles(plane, namespace, name, since):
    """Seconds until a new service is served."""
    plane.api.create(service(name, namespace))
    until(lambda: plane.api.find("apps/v1", "Deployment", name, namespace), HEAL_S + 10, f"{name} is reconciled")
    return time.monotonic() - since


def heals(plane, namespace, operator, name, record_property):
    healed = time.monotonic()
    took = reconciles(plane, namespace, name, healed)
    restarts = operator.health.get("watcherRestarts")
    record_property(f"{name}_s", round(took, 1))
    print(f"{name}: reconciling {took:.1f} s after it healed; watchers restarted {restarts} times in all")
    assert took < HEAL_S
    assert operator.process.poll() is None, "the process went on"
    until(lambda: operator.ask("/healthz")[0] == 200, HEAL_S, "/healthz is well again")


@pytest.mark.parametrize("code", [500, pytest.param(504, marks=pytest.mark.slow)])
def test_a_watch_error_heals_by_itself(installed, proxied, namespace, record_property, code):
    """kopf ends; the watchers start again in the same process."""
    operator, proxy = proxied
    before = operator.health["watcherRestarts"]
    proxy.watch_error(code, path="/llmservices", seconds=10, times=1)
    until(lambda: operator.health.get("watcherRestarts", 0) > before, 10, "the watchers end")
    heals(installed, namespace, operator, f"watch-error-{code}", record_property)


@pytest.mark.slow
def test_half_an_event_of_a_watch_heals_by_itself(installed, proxied, namespace, record_property):
    """The rest of its line never comes; the next list has the object."""
    operator, proxy = proxied
    halved = proxy.halve_event("/llmservices")
    installed.api.create(service("halved", namespace))
    until(lambda: halved.met, HEAL_S, "an event is halved")
    heals(installed, namespace, operator, "half-event", record_property)


@of_any_length
@pytest.mark.parametrize("code", [403, pytest.param(503, marks=pytest.mark.slow)])
def test_a_list_that_is_refused_for_long_heals_by_itself(installed, proxied, namespace, record_property, code, seconds):
    """/healthz is 503 and names the watch for as long as it lasts."""
    operator, proxy = proxied
    proxy.fail(code, verb="list", path="/llmservices")
    proxy.fail(code, verb="watch", path="/llmservices")
    proxy.watch_error(410, path="/llmservices")
    until(lambda: operator.ask("/healthz")[0] == 503, 45, "/healthz tells")
    assert any("llmservices" in name for name in operator.health["troubles"])
    assert operator.ask("/livez")[0] == 200
    time.sleep(seconds)
    proxy.heal()
    heals(installed, namespace, operator, f"list-{code}-{seconds}", record_property)


def test_broken_connections_are_tried_again(installed, proxied, namespace):
    """A write that had begun is tried again as well."""
    operator, proxy = proxied
    proxy.reset(seconds=2)
    installed.api.create(service("s", namespace))
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), HEAL_S)
    assert operator.process.poll() is None


@pytest.mark.slow
@of_any_length
def test_an_api_server_that_is_away_is_waited_for(installed, proxied, namespace, record_property, seconds):
    """Connections refused: nothing is written, nothing ends, and it leads again afterwards."""
    operator, _ = proxied
    with installed.api_server_stopped():
        until(lambda: operator.ask("/healthz")[0] == 503, 45, "/healthz tells")
        time.sleep(seconds)
    heals(installed, namespace, operator, f"stopped-{seconds}", record_property)
    assert operator.leads


@pytest.mark.slow
def test_a_service_whose_events_were_lost_is_found_by_listing(installed, proxied, namespace):
    """Created and edited while the watch is open and delivers nothing; the watches then start again, and list."""
    operator, proxy = proxied
    until(lambda: operator.ask("/healthz")[0] == 200, HEAL_S, "/healthz is well")
    proxy.lose_events(path="/llmservices")
    installed.api.create(service("s", namespace))
    until(lambda: installed.api.find("apps/v1", "Deployment", "s", namespace), 60, "it is reconciled")
    assert any("lost the events of 1 services" in record["message"] for record in operator.records())
    installed.api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxModelLen": 256}}})
    wait_for(installed, "s", namespace, "Ready", "False")

    def observed():
        return installed.api.get(API, "LLMService", "s", namespace)["status"]["observedGeneration"] == 2

    until(observed, 60, "its edit is seen")
    proxy.heal()


@pytest.mark.slow
def test_a_watch_that_falls_silent_is_noticed_within_30_s(installed, proxied, record_property):
    """No packet says that the connection died. /livez is well: a restart would not help."""
    operator, proxy = proxied
    until(lambda: operator.ask("/healthz")[0] == 200, HEAL_S, "/healthz is well")
    proxy.hang(verb="watch", path="/deployments")
    began = time.monotonic()
    until(lambda: operator.ask("/healthz")[0] == 503, 30, "/healthz tells")
    record_property("silent_watch_noticed_s", round(time.monotonic() - began, 1))
    assert any("deployments" in name for name in operator.health["troubles"])
    assert operator.ask("/livez")[0] == 200
    proxy.heal()
    until(lambda: operator.ask("/healthz")[0] == 200, 60, "/healthz is well again")
