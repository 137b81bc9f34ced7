"""Replicas pass between the manifest and the autoscaler without a fight over their number, and without a dip."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

APPS = "apps/v1"


def replicas(plane, namespace):
    return plane.api.get(APPS, "Deployment", "s", namespace)["spec"]["replicas"]


def seen_replicas(plane, namespace, change, after):
    """All values of `spec.replicas` that a watcher sees while `change` happens, until `after` holds."""
    api, seen = plane.api, []
    version = api.request("GET", api.path(APPS, "Deployment", namespace))["metadata"]["resourceVersion"]
    change()
    until(after, 20)
    with api.watching(APPS, "Deployment", namespace, resourceVersion=version, timeoutSeconds=2) as events:
        seen += [event["object"]["spec"].get("replicas") for event in events if event["type"] == "MODIFIED"]
    return seen


def test_replicas_are_handed_to_the_autoscaler_without_a_dip(installed, operator, namespace):
    """Three replicas stay three while autoscaling is turned on, and the autoscaler's number stays afterwards."""
    api = installed.api
    api.create(service("s", namespace, replicas=3))
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 20)
    settled(installed, operator, namespace)
    seen = seen_replicas(
        installed,
        namespace,
        lambda: api.patch(
            API,
            "LLMService",
            "s",
            namespace,
            {"spec": {"replicas": None, "autoscaling": {"minReplicas": 2, "maxReplicas": 5}}},
        ),
        lambda: api.find("autoscaling/v2", "HorizontalPodAutoscaler", "s", namespace),
    )
    settled(installed, operator, namespace)
    assert set(seen) <= {3}
    managers = {
        entry["manager"]: entry
        for entry in api.get(APPS, "Deployment", "s", namespace)["metadata"]["managedFields"]
        if entry["operation"] == "Apply"
    }
    assert "f:replicas" not in managers["octavo"]["fieldsV1"]["f:spec"]
    api.patch(APPS, "Deployment", "s", namespace, {"spec": {"replicas": 4}}, subresource="scale")
    settled(installed, operator, namespace)
    assert replicas(installed, namespace) == 4
    api.patch(API, "LLMService", "s", namespace, {"spec": {"replicas": 1, "autoscaling": None}})
    until(lambda: replicas(installed, namespace) == 1, 15, "the manifest's number is back")


@pytest.mark.slow
def test_an_autoscaled_service_starts_with_its_minimum(installed, operator, namespace):
    """The autoscaler would otherwise have to notice a single replica first."""
    installed.api.create(service("s", namespace, autoscaling={"minReplicas": 2, "maxReplicas": 5}))
    until(lambda: installed.api.find("autoscaling/v2", "HorizontalPodAutoscaler", "s", namespace), 20)
    settled(installed, operator, namespace)
    assert replicas(installed, namespace) == 2


def test_a_suspended_service_wakes_up_under_its_autoscaler(installed, operator, namespace):
    """At zero an autoscaler rests; waking it up is the operator's."""
    api = installed.api
    api.create(service("s", namespace, autoscaling={"minReplicas": 2, "maxReplicas": 5}))
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 20)
    api.patch(API, "LLMService", "s", namespace, {"spec": {"suspend": True}})
    until(lambda: replicas(installed, namespace) == 0, 15)
    wait_for(installed, "s", namespace, "Ready", "False", "Suspended")
    api.patch(API, "LLMService", "s", namespace, {"spec": {"suspend": False}})
    until(lambda: replicas(installed, namespace) == 2, 15)


def test_the_operator_does_not_fight_the_hpa(installed, operator, namespace):
    """The autoscaler's writes through `scale` stay, also where another autoscaler scales a fixed number."""
    api = installed.api
    api.create(service("s", namespace, replicas=2))
    target = {"apiVersion": APPS, "kind": "Deployment", "name": "s"}
    theirs = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    theirs |= {"metadata": {"name": "theirs", "namespace": namespace}}
    api.create({**theirs, "spec": {"scaleTargetRef": target, "maxReplicas": 9}})
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 20)
    settled(installed, operator, namespace)
    query = {"fieldManager": "kube-controller-manager"}
    api.patch(APPS, "Deployment", "s", namespace, {"spec": {"replicas": 5}}, subresource="scale", **query)
    until(
        lambda: (
            "spec.replicas is set by the HorizontalPodAutoscaler theirs"
            in conditions(installed, "s", namespace).get("Ready", {}).get("message", "")
        ),
        15,
    )
    settled(installed, operator, namespace)
    assert replicas(installed, namespace) == 5


def test_replicas_are_not_reset_by_a_defaulted_field(installed, operator, namespace):
    """The schema defaults `replicas` to one, for /scale to answer; the autoscaler's number stays all the while."""
    api = installed.api
    body = service("s", namespace, autoscaling={"minReplicas": 1, "maxReplicas": 5})
    api.apply(body, "person")
    until(lambda: api.find(APPS, "Deployment", "s", namespace), 20)
    settled(installed, operator, namespace)
    api.patch(APPS, "Deployment", "s", namespace, {"spec": {"replicas": 4}}, subresource="scale")
    assert api.apply(body, "person")["spec"]["replicas"] == 1
    api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": 7}}})
    until(
        lambda: "7" in api.get(APPS, "Deployment", "s", namespace)["spec"]["template"]["spec"]["containers"][0]["args"]
    )
    assert replicas(installed, namespace) == 4
