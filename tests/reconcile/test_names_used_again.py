"""A service that is deleted and created again under its name within a second: nothing of the former counts."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

APPS = "apps/v1"
ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"


def seen_conditions(plane, namespace, change, after):
    """All that a watcher reads in `Ready` and `ModelCached` from `change` on, until `after` holds."""
    api = plane.api
    version = api.request("GET", api.path(API, "LLMService", namespace))["metadata"]["resourceVersion"]
    change()
    until(after, 60)
    seen = []
    with api.watching(API, "LLMService", namespace, resourceVersion=version, timeoutSeconds=2) as events:
        for event in events:
            if event["type"] in {"ADDED", "MODIFIED"}:
                found = event["object"].get("status", {}).get("conditions", ())
                seen.append({each["type"]: each["status"] for each in found})
    return seen


@pytest.mark.slow
def test_a_service_that_is_created_again_is_not_ready_by_the_formers_pods(installed, operator, namespace, kubelet):
    """Its Deployment, its pods and its Job go with it, some seconds later."""
    api = installed.api
    kubelet.run_pods = True
    kubelet.add_node("n1")
    body = service("s", namespace, replicas=2, cache={"size": "1Gi"})
    api.create(body)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving", seconds=60)
    settled(installed, operator, namespace)
    kubelet.run_pods = False
    old = api.get(APPS, "Deployment", "s", namespace)["metadata"]["uid"]

    def again():
        api.delete(API, "LLMService", "s", namespace)
        api.create(body)

    def remade():
        found = api.find(APPS, "Deployment", "s", namespace)
        return found and found["metadata"]["uid"] != old

    seen = seen_conditions(installed, namespace, again, remade)
    assert seen
    assert not [each for each in seen if "True" in (each.get("Ready"), each.get("ModelCached"))]
    settled(installed, operator, namespace)
    found = conditions(installed, "s", namespace)
    assert (found["Ready"]["status"], found["ModelCached"]["status"]) == ("False", "False")
    kubelet.run_pods = True
    for pod in api.list("v1", "Pod", namespace):
        kubelet._handle_pod(api, pod)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving", seconds=60)


def test_what_a_former_service_owns_is_waited_for(installed, operator, namespace):
    """The former service's objects are not taken for a stranger's: they go by themselves."""
    api = installed.api
    api.create(service("s", namespace))
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 30)
    held = {"metadata": {"finalizers": ["tests/hold"]}}
    api.patch(APPS, "Deployment", "s", namespace, held)
    settled(installed, operator, namespace)
    api.delete(API, "LLMService", "s", namespace)
    api.create(service("s", namespace))
    wait_for(installed, "s", namespace, "Ready", "False", "FormerServiceRemoved")
    awaited = "Deployment s of a former service"  # once its Services have gone
    until(lambda: awaited in conditions(installed, "s", namespace)["Ready"]["message"], 60, awaited)
    api.patch(APPS, "Deployment", "s", namespace, {"metadata": {"finalizers": None}})
    uid = api.get(API, "LLMService", "s", namespace)["metadata"]["uid"]
    until(
        lambda: (
            (found := api.find(APPS, "Deployment", "s", namespace))
            and found["metadata"]["ownerReferences"][0]["uid"] == uid
        ),
        70,
        "the new service has its own",
    )
