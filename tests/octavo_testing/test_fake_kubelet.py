"""Pretended nodes and pods: the real scheduler and the real controllers believe in them."""

from __future__ import annotations

import time

from octavo_testing.api_client import until
from octavo_testing.fake_kubelet import Ended, name_of
from test_control_plane import deployment, pod_template

GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}


def test_two_pods_share_one_gpu_in_turn_only(control_plane, namespace, kubelet):
    """The second stays Pending for want of a GPU, and gets the first one's when that is deleted."""
    kubelet.add_node("gpu-node", gpus=1, product="NVIDIA-A100-SXM4-80GB", memory=81920)
    api = control_plane.api
    for name in ("first", "second"):
        template = pod_template(**GPU)
        template["metadata"] |= {"name": name, "namespace": namespace}
        api.create({"apiVersion": "v1", "kind": "Pod", **template})
        until(lambda name=name: api.get("v1", "Pod", name, namespace)["status"].get("conditions"))
    assert api.get("v1", "Pod", "first", namespace)["spec"]["nodeName"] == "gpu-node"
    (scheduled,) = api.get("v1", "Pod", "second", namespace)["status"]["conditions"]
    assert scheduled["status"] == "False"
    assert "Insufficient nvidia.com/gpu" in scheduled["message"]
    api.delete("v1", "Pod", "first", namespace)
    until(lambda: api.get("v1", "Pod", "second", namespace)["spec"].get("nodeName") == "gpu-node")


def test_a_deployment_becomes_available_when_its_pods_are_marked_ready(control_plane, namespace, kubelet):
    control_plane.api.apply(deployment(namespace))
    assert len(kubelet.mark_pods_ready(namespace, "app=x", count=2)) == 2
    deployed = until(lambda: _status(control_plane, namespace).get("availableReplicas") == 2 and "yes")
    assert deployed == "yes"
    kubelet.mark_pods_loading(namespace, "app=x")
    until(lambda: "readyReplicas" not in _status(control_plane, namespace), 20, "no pod is ready any more")


def test_pods_run_by_themselves_where_that_is_asked_for(control_plane, namespace, kubelet):
    """Rollouts too: the old pods end as the new ones are Ready."""
    kubelet.run_pods = True
    kubelet.add_node("cpu-node")
    control_plane.api.apply(deployment(namespace))
    until(lambda: _status(control_plane, namespace).get("availableReplicas") == 2)
    control_plane.api.apply(deployment(namespace, image="example.org/pause:2"))
    until(lambda: [pod["spec"]["containers"][0]["image"][-1] for pod in kubelet.pods(namespace)] == ["2", "2"])


def test_a_container_has_started_once_its_startup_probe_has_succeeded(control_plane, namespace, kubelet):
    """A readiness probe that fails later does not take that back; without a startup probe it counts from the start."""
    probe = {"startupProbe": {"httpGet": {"path": "/health", "port": 8000}}}
    for name, fields in (("probed", probe), ("bare", {})):
        template = pod_template(**fields)
        template["metadata"] |= {"name": name, "namespace": namespace}
        control_plane.api.create({"apiVersion": "v1", "kind": "Pod", **template})

    def started() -> dict[str, bool]:
        return {name_of(pod): pod["status"]["containerStatuses"][0]["started"] for pod in kubelet.pods(namespace)}

    kubelet.mark_pods_loading(namespace, count=2)
    assert started() == {"probed": False, "bare": True}
    kubelet.mark_pods_ready(namespace)
    kubelet.mark_pods_loading(namespace)
    assert started() == {"probed": True, "bare": True}


def test_a_deleted_pod_drains_for_as_long_as_that_takes(control_plane, namespace, kubelet):
    """A pod that drains is there and no longer Ready."""
    kubelet.run_pods, kubelet.drain_seconds = True, 2.0
    kubelet.add_node("cpu-node")
    api, template = control_plane.api, pod_template()
    template["metadata"] |= {"name": "a", "namespace": namespace}
    api.create({"apiVersion": "v1", "kind": "Pod", **template})

    def ready() -> str | None:
        conditions = (api.find("v1", "Pod", "a", namespace) or {}).get("status", {}).get("conditions", ())
        return next((each["status"] for each in conditions if each["type"] == "Ready"), None)

    until(lambda: ready() == "True")
    deleted = time.monotonic()
    api.delete("v1", "Pod", "a", namespace, gracePeriodSeconds=30)
    until(lambda: ready() == "False", 20, "it is not Ready while it drains")
    until(lambda: api.find("v1", "Pod", "a", namespace) is None, 20, "it is gone in the end")
    assert time.monotonic() - deleted >= 2.0


def test_a_crash_is_reported_with_exit_code_and_message(control_plane, namespace, kubelet):
    control_plane.api.apply(deployment(namespace, replicas=1))
    kubelet.crash_pods(namespace, "app=x", Ended(137, "OOMKilled", "out of memory"), restarts=4)
    (pod,) = kubelet.pods(namespace, "app=x")
    (container,) = pod["status"]["containerStatuses"]
    assert container["restartCount"] == 4
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert container["lastState"]["terminated"]["message"] == "out of memory"


def test_a_job_is_complete_when_its_pod_has_finished(control_plane, namespace, kubelet):
    template = pod_template()
    template["spec"]["restartPolicy"] = "Never"
    metadata = {"name": "j", "namespace": namespace}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
    control_plane.api.create(job)
    kubelet.finish_pods(namespace, "app=x")
    until(lambda: control_plane.api.get("batch/v1", "Job", "j", namespace)["status"].get("succeeded") == 1)


def test_a_claim_gets_a_volume(control_plane, namespace, kubelet):
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    claim = control_plane.api.create(claim)
    until(
        lambda: (
            control_plane.api.get("v1", "PersistentVolumeClaim", name_of(claim), namespace)["status"]["phase"]
            == "Bound"
        )
    )


def _status(control_plane, namespace: str) -> dict:
    return control_plane.api.get("apps/v1", "Deployment", "d", namespace)["status"]
