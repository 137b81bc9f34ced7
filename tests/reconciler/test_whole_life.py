"""A service's life on a real API server."""

from __future__ import annotations

from api_client import until
from operator_runs import ROOT, wait_for

APPS = "apps/v1"


def test_a_sample_becomes_a_deployment_that_serves(installed, operator, namespace, kubelet):
    """kubectl apply of the smallest sample makes its objects; once a pod is ready, the status says so."""
    kubelet.add_node("n1")
    installed.kubectl("apply", "-n", namespace, "-f", ROOT / "config/samples/smollm2.yaml")
    api = installed.api
    until(lambda: api.find(APPS, "Deployment", "smollm2", namespace), 20)
    assert {each["metadata"]["name"] for each in api.list("v1", "Service", namespace)} >= {"smollm2", "smollm2-pods"}
    kubelet.mark_pods_ready(namespace, "octavo.dev/service=smollm2")
    assert "1 of 1" in wait_for(installed, "smollm2", namespace, "Ready", "True", "Serving")["message"]
    wait_for(installed, "smollm2", namespace, "Progressing", "False")
    table = installed.kubectl("get", "llms", "-n", namespace)
    print(table, installed.kubectl("describe", "llms", "-n", namespace))
    assert "Serving" in table
    assert "1/1" in table
