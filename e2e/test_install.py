"""One command installs it, and everything that it says it serves is served."""

from __future__ import annotations

import pytest

from e2e.world import SYSTEM

pytestmark = pytest.mark.short
METRICS_API = "/apis/custom.metrics.k8s.io"


def test_helm_installs_the_operator(world, install, record_property):
    """`helm install octavo charts/octavo`, nothing before it: CustomResourceDefinition, operator and metrics API"""
    said = install()
    assert "kubectl apply" in said, "it says what to do next"
    (established,) = [
        each["status"]
        for each in world.get("crd", "llmservices.octavo.dev")["status"]["conditions"]
        if each["type"] == "Established"
    ]
    assert established == "True"
    for version in ("v1beta1", "v1beta2"):
        name = f"{version}.custom.metrics.k8s.io"
        took = world.until(lambda name=name: _available(world, name), 90, f"{name} is not available")
        record_property(version, f"after {took:.0f} s")
    assert world.kubectl("get", "--raw", METRICS_API)


def _available(world, name):
    api_service = world.get("apiservice", name) or {}
    conditions = api_service.get("status", {}).get("conditions", ())
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)


def test_the_operator_runs_under_pod_security_restricted(octavo):
    """The operator's own namespace may enforce Pod Security `restricted`"""
    label = "pod-security.kubernetes.io/enforce=restricted"
    said = octavo.kubectl("label", "namespace", SYSTEM, label, "--overwrite", "--dry-run=server")
    assert "Warning" not in said, said


def test_helm_test_passes(octavo, helm):
    """`helm test octavo`: each replica says that it is ready"""
    assert "Succeeded" in helm("test", "octavo", "-n", SYSTEM, "--timeout", "3m")


def test_a_second_install_changes_nothing(octavo, install):
    """`helm upgrade` with the same values restarts no pod"""
    before = {pod["metadata"]["uid"] for pod in octavo.operator_pods()}
    install()
    assert {pod["metadata"]["uid"] for pod in octavo.operator_pods()} == before
