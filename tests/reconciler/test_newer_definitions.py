"""What the API server sends may be newer than this operator: unknown fields are passed over, and reported."""

from __future__ import annotations

import json

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

LLMS = "LLMService"
ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"


@pytest.fixture
def newer(installed):
    """The CRD of a later version: one more field, with a default that every object has from then on."""
    name = "llmservices.octavo.dev"
    kind = ("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    crd = installed.api.get(*kind)
    later = json.loads(json.dumps(crd))
    spec = later["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["engine"]["default"] = {}
    spec["engine"]["properties"]["turbo"] = {"type": "string", "default": "on"}
    path = installed.api.path(*kind[:2], name=name)
    installed.api.request("PUT", path, later)
    yield
    now = installed.api.get(*kind)
    now["spec"] = crd["spec"]
    installed.api.request("PUT", path, now)


def test_a_newer_definition_stops_nothing(installed, operator, namespace, kubelet, newer):
    """The service is served and edited as ever; the field is carried, and told in a warning."""
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
