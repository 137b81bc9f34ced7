"""The definition that is installed may be newer or older than the operator: what one of them lacks is passed over, and
reported."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for, writes

LLMS = "LLMService"
ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"


@contextmanager
def another_definition(plane, change):
    """The CRD of another version: `change` gets the schema's properties."""
    name = "llmservices.octavo.dev"
    kind = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    crd = plane.api.get(*kind)
    other = json.loads(json.dumps(crd))
    change(other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
    path = plane.api.path(*kind[:2], name=name)
    plane.api.request("PUT", path, other)
    try:
        yield
    finally:
        now = plane.api.get(*kind)
        now["spec"] = crd["spec"]
        plane.api.request("PUT", path, now)


@pytest.fixture
def newer(installed):
    """One more field, with a default that every object has from then on."""

    def change(properties):
        spec = properties["spec"]["properties"]
        spec["engine"]["default"] = {}
        spec["engine"]["properties"]["turbo"] = {"type": "string", "default": "on"}

    with another_definition(installed, change):
        yield


@pytest.fixture
def older(installed):
    """A definition of the time before upgrades were paced, and plans explained themselves."""

    def change(properties):
        for field in ("upgrade", "operator"):
            del properties["status"]["properties"][field]
        del properties["status"]["properties"]["plan"]["properties"]["reasons"]

    with another_definition(installed, change):
        yield


@pytest.mark.slow
def test_a_newer_definition_stops_nothing(installed, operator, namespace, kubelet, newer):
    """The service is served and edited as ever; the field is carried, and a warning names it."""
    kubelet.add_node("n1")
    api = installed.api

    def has_the_field():
        api.create(service("probe", namespace))
        body = api.get(API, LLMS, "probe", namespace)
        api.delete(API, LLMS, "probe", namespace)
        return body["spec"].get("engine", {}).get("turbo") == "on"

    until(has_the_field, 20, "the newer definition is in force", pause=0.3)
    api.create(service("s", namespace))
    kubelet.mark_pods_ready(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    settled(installed, operator, namespace)
    body = api.get(API, LLMS, "s", namespace)
    assert body["spec"]["engine"]["turbo"] == "on"
    assert any(each.startswith("spec.engine.turbo: not known") for each in body["status"]["plan"]["warnings"])
    assert conditions(installed, "s", namespace)["Stalled"]["status"] == "False"
    api.patch(API, LLMS, "s", namespace, {"spec": {"replicas": 2}})
    until(lambda: api.get("apps/v1", "Deployment", "s", namespace)["spec"]["replicas"] == 2, 15, "edits are followed")


@pytest.mark.slow
def test_an_older_definition_stops_nothing(installed, operator, namespace, kubelet, older):
    """The status is written without what it lacks, which is reported; and nothing is written again and again."""
    kubelet.add_node("n1")
    api = installed.api

    def lacks_the_field():
        api.create(service("probe", namespace))
        api.patch(API, LLMS, "probe", namespace, {"status": {"operator": "x"}}, subresource="status")
        body = api.get(API, LLMS, "probe", namespace)
        api.delete(API, LLMS, "probe", namespace)
        return "operator" not in body.get("status", {})

    until(lacks_the_field, 20, "the older definition is in force", pause=0.3)
    api.create(service("s", namespace))
    kubelet.mark_pods_ready(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    mark = settled(installed, operator, namespace)
    status = api.get(API, LLMS, "s", namespace)["status"]
    assert "reasons" not in status["plan"]
    assert any("kubectl apply -f crds" in each for each in status["plan"]["warnings"])
    api.patch(API, LLMS, "s", namespace, {"metadata": {"labels": {"looked": "at"}}})
    settled(installed, operator, namespace)
    assert writes(installed, mark, namespace) == []
