"""A pod that has failed for good is replaced, and its object may stay for long: it decides nothing."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import conditions, service, wait_for

ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"


def fail(plane, namespace, name, reason, message):
    """Fail a pod as the kubelet does: by eviction, or because it did not admit the pod."""
    status = {"phase": "Failed", "reason": reason, "message": message, "containerStatuses": []}
    ready = {"type": "Ready", "status": "False", "reason": "PodFailed"}
    plane.api.patch("v1", "Pod", name, namespace, {"status": status | {"conditions": [ready]}}, subresource="status")


@pytest.mark.parametrize("reason", ["Evicted", "OutOfnvidia.com/gpu", "UnexpectedAdmissionError", "1-bad reason."])
def test_a_failed_pod_that_was_replaced_decides_nothing(installed, operator, namespace, kubelet, reason):
    """The kubelet may use a word that is no reason by the API's pattern."""
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace, replicas=2))
    names = kubelet.mark_pods_ready(namespace, ENGINES, 2)
    wait_for(installed, "s", namespace, "Progressing", "False", "Serving")
    fail(installed, namespace, names[0], reason, "The node was low on resource: memory.")
    until(lambda: "2 of 2" not in conditions(installed, "s", namespace)["Ready"]["message"], 30, "it is seen")
    kubelet.pods(namespace, ENGINES, count=2)
    kubelet.mark_pods_ready(namespace, ENGINES, 2)
    until(lambda: "2 of 2" in conditions(installed, "s", namespace)["Ready"]["message"], 20)
    wait_for(installed, "s", namespace, "Progressing", "False", "Serving")
    found = conditions(installed, "s", namespace)
    assert "Reconciling" not in found
    assert found["Ready"]["reason"] == "Serving"
    assert names[0] in {pod["metadata"]["name"] for pod in installed.api.list("v1", "Pod", namespace, ENGINES)}


def test_a_kubelet_that_admits_no_pod_is_reported(installed, operator, namespace, kubelet):
    """While the newest one has failed, that is why replicas are missing; the status is written whatever the word."""
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace))
    kubelet.mark_pods_loading(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "False", "LoadingModel")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": namespace}}
    installed.api.create({**quota, "spec": {"hard": {"pods": "1"}}})
    (pod,) = kubelet.pods(namespace, ENGINES)
    fail(installed, namespace, pod["metadata"]["name"], "OutOfnvidia.com/gpu", "Pod was rejected")
    until(lambda: conditions(installed, "s", namespace)["Ready"]["reason"] != "LoadingModel", 30, "it is reported")


def test_what_the_kubelet_complains_of_before_a_container_starts_is_reported(installed, operator, namespace, kubelet):
    """A pod's status says only that it is being created; the reason is an Event, which nothing watches."""
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace))
    (pod,) = kubelet.pods(namespace, ENGINES)
    name = pod["metadata"]["name"]
    installed.api.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.1", "namespace": namespace},
            "involvedObject": {"kind": "Pod", "name": name, "namespace": namespace, "uid": pod["metadata"]["uid"]},
            "type": "Warning",
            "reason": "FailedMount",
            "message": 'MountVolume.SetUp failed for volume "chat-template" : configmap "templates" not found',
            "lastTimestamp": "2036-01-01T00:00:00Z",
        }
    )
    message = wait_for(installed, "s", namespace, "Stalled", "True", "FailedMount", seconds=60)["message"]
    assert 'configmap "templates" not found; create it' in message
    kubelet.mark_pods_ready(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")


def miss_the_deadline(plane, namespace):
    """The Deployment's controller itself finds that it has passed: its last progress lies two hours back."""
    then = "2020-01-01T00:00:00Z"
    progress = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "message": "is progressing"}
    status = {"conditions": [progress | {"lastUpdateTime": then, "lastTransitionTime": then}]}
    plane.api.patch("apps/v1", "Deployment", "s", namespace, {"status": status}, subresource="status")

    def late():
        found = plane.api.get("apps/v1", "Deployment", "s", namespace)["status"]["conditions"]
        return any(each.get("reason") == "ProgressDeadlineExceeded" for each in found)

    until(late, 60, "the deadline passes")


@pytest.mark.slow
def test_a_change_that_misses_its_deadline_is_stalled_until_a_replica_is_ready(installed, operator, namespace, kubelet):
    """A model that loads for ever crashes nothing: without the deadline it would be Progressing for ever."""
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace))
    kubelet.mark_pods_loading(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "False", "LoadingModel")
    miss_the_deadline(installed, namespace)
    message = wait_for(installed, "s", namespace, "Stalled", "True", "ProgressDeadlineExceeded")["message"]
    assert "kubectl logs" in message
    kubelet.mark_pods_ready(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    assert conditions(installed, "s", namespace)["Stalled"]["status"] == "False"


def test_what_a_late_change_waited_for_stays_the_reason(installed, operator, namespace, kubelet):
    """ "No node will do" for an hour is no progress, and says more than that time has passed."""
    kubelet.add_node("n1")
    large = {"resources": {"requests": {"cpu": "4000"}}}
    installed.api.create(service("s", namespace, **large))
    wait_for(installed, "s", namespace, "Ready", "False", "Unschedulable")
    assert conditions(installed, "s", namespace)["Stalled"]["status"] == "False"
    miss_the_deadline(installed, namespace)
    message = wait_for(installed, "s", namespace, "Stalled", "True", "Unschedulable")["message"]
    assert "resources.requests.cpu" in message
    assert "in time" in message
