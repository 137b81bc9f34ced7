"""Faults that users of other operators suffered do not occur, a test each.

An operator that fights the HPA, and replicas reset by a defaulted field, are in test_handover.py.
"""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.fake_kubelet import Ended
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

APPS = "apps/v1"
PODS = "octavo.dev/service=s,app.kubernetes.io/component=engine"


def made(plane, namespace, **spec):
    plane.api.create(service("s", namespace, **spec))
    until(lambda: plane.api.find(APPS, "Deployment", "s", namespace), 30)


def deployment(plane, namespace):
    return plane.api.get(APPS, "Deployment", "s", namespace)["spec"]


def test_stale_conditions_after_recovery(installed, operator, namespace, kubelet):
    """Nothing of a crash is left in any condition, reason or message once the replica answers."""
    kubelet.add_node("n1")
    made(installed, namespace)
    kubelet.crash_pods(namespace, PODS, Ended(137, "OOMKilled"))
    wait_for(installed, "s", namespace, "Stalled", "True", "OOMKilled")
    kubelet.mark_pods_ready(namespace, PODS, restarts=3)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    settled(installed, operator, namespace)
    found = conditions(installed, "s", namespace)
    assert "OOM" not in str(found)
    assert (found["Stalled"]["status"], found["Progressing"]["status"]) == ("False", "False")


def test_rollout_deadlock_on_one_gpu_with_surge(installed, operator, namespace, kubelet):
    """With its only GPU taken by the old replica, a change replaces in place: nothing waits for a GPU for ever."""
    kubelet.add_node("n1", gpus=1, product="NVIDIA-L4")
    gpu = {"vendor": "nvidia", "products": ["NVIDIA-L4"]}
    made(installed, namespace, accelerator=gpu)
    old = kubelet.mark_pods_ready(namespace, PODS)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    settled(installed, operator, namespace)
    installed.api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": 7}}})
    until(lambda: "7" in deployment(installed, namespace)["template"]["spec"]["containers"][0]["args"], 20)
    assert deployment(installed, namespace)["strategy"]["type"] == "Recreate", "chosen when the change begins"

    def replaced():
        pods = installed.api.list("v1", "Pod", namespace, PODS)
        return [p for p in pods if p["metadata"]["name"] not in old and p["spec"].get("nodeName")]

    until(replaced, 30, "the new replica has the GPU")
    kubelet.mark_pods_ready(namespace, PODS)
    wait_for(installed, "s", namespace, "Progressing", "False", "Serving")


def test_a_free_gpu_is_used_for_a_surge(installed, operator, namespace, kubelet):
    """With a second GPU free the old replica stays until the new one answers."""
    kubelet.add_node("with-two", gpus=2, product="NVIDIA-L40")  # a product of its own: other tests' pods may linger
    made(installed, namespace, accelerator={"vendor": "nvidia", "products": ["NVIDIA-L40"]})
    (old,) = kubelet.mark_pods_ready(namespace, PODS)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    settled(installed, operator, namespace)
    installed.api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"maxNumSeqs": 7}}})
    both = kubelet.pods(namespace, PODS, count=2)
    assert old in [pod["metadata"]["name"] for pod in both]
    assert deployment(installed, namespace)["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    kubelet.mark_pods_ready(namespace, PODS, count=2)
    wait_for(installed, "s", namespace, "Progressing", "False", "Serving")


@pytest.mark.slow
def test_a_model_killed_by_its_probe_while_loading(installed, operator, namespace, kubelet):
    """No other probe counts until the start-up probe has succeeded, and its budget is as long as loading may take."""
    kubelet.add_node("n1")
    made(installed, namespace)
    container = deployment(installed, namespace)["template"]["spec"]["containers"][0]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800  # its size is not known
    assert startup["httpGet"]["path"] == container["livenessProbe"]["httpGet"]["path"]
    kubelet.mark_pods_loading(namespace, PODS)
    condition = wait_for(installed, "s", namespace, "Ready", "False", "LoadingModel")
    assert "1800 s" in condition["message"]
    assert conditions(installed, "s", namespace)["Stalled"]["status"] == "False"
    patience = deployment(installed, namespace)["progressDeadlineSeconds"]
    assert patience > 1800
