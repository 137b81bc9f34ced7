"""No edit removes a claim that holds data, nor anything that the manifest refers to."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, settled, wait_for

CLAIM, LLMS, APPS = "PersistentVolumeClaim", "LLMService", "apps/v1"
ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"


def edit(plane, namespace, **spec):
    plane.api.patch(API, LLMS, "s", namespace, {"spec": spec})


def claim(plane, namespace, name="s-cache"):
    found = plane.api.find("v1", CLAIM, name, namespace)
    return None if found is None or "deletionTimestamp" in found["metadata"] else found


def bound(plane, kubelet, namespace, **cache):
    kubelet.run_pods = True
    kubelet.add_node("n1")
    plane.api.create(service("s", namespace, cache={"size": "1Gi", **cache}))
    wait_for(plane, "s", namespace, "Ready", "True", "Serving", seconds=60)
    return claim(plane, namespace)["metadata"]["uid"]


def warnings(plane, namespace):
    return plane.api.get(API, LLMS, "s", namespace)["status"]["plan"].get("warnings", [])


@pytest.mark.slow
def test_a_claim_with_data_stays_and_the_status_names_the_command(installed, operator, namespace, kubelet):
    """Where the manifest no longer has a cache, or has another."""
    uid = bound(installed, kubelet, namespace)
    edit(installed, namespace, cache=None)
    command = f"kubectl delete pvc -n {namespace} s-cache deletes it"
    until(lambda: any(command in each for each in warnings(installed, namespace)), 20, "it is named")
    settled(installed, operator, namespace)
    assert claim(installed, namespace)["metadata"]["uid"] == uid
    assert installed.api.find("batch/v1", "Job", "s-preload", namespace) is None
    installed.api.delete(API, LLMS, "s", namespace)
    until(lambda: claim(installed, namespace) is None, 60, "it goes with its service")


def test_the_services_own_claim_named_as_an_existing_one_is_kept(installed, operator, namespace, kubelet):
    """The claim outlasts the service, as existing claims do; nothing is downloaded again."""
    uid = bound(installed, kubelet, namespace)
    edit(installed, namespace, cache={"size": None, "existingClaim": "s-cache"})
    until(lambda: not claim(installed, namespace)["metadata"].get("ownerReferences"), 20, "it has no owner any more")
    settled(installed, operator, namespace)
    assert claim(installed, namespace)["metadata"]["uid"] == uid
    assert not [each for each in warnings(installed, namespace) if "s-cache" in each]
    installed.api.delete(API, LLMS, "s", namespace)
    until(lambda: installed.api.find(APPS, "Deployment", "s", namespace) is None, 60)
    assert claim(installed, namespace)["metadata"]["uid"] == uid


def test_a_claim_that_pod_template_or_pvc_refers_to_is_kept(installed, operator, namespace, kubelet):
    """Wherever the manifest names it."""
    uid = bound(installed, kubelet, namespace)
    edit(installed, namespace, cache=None, model={"uri": "pvc://s-cache/model"})
    settled(installed, operator, namespace)
    assert claim(installed, namespace)["metadata"]["uid"] == uid
    assert not [each for each in warnings(installed, namespace) if "kubectl delete pvc" in each]


def test_a_claim_without_a_volume_goes(installed, operator, namespace, kubelet):
    """Such a claim holds nothing."""
    kubelet.bind_claims = False
    installed.api.create(service("s", namespace, cache={"size": "1Gi"}))
    until(lambda: claim(installed, namespace), 30)
    edit(installed, namespace, cache=None)
    until(lambda: claim(installed, namespace) is None, 30)


def test_a_smaller_size_is_not_asked_for(installed, operator, namespace, kubelet):
    """A claim cannot shrink: the API server would refuse this change and every later one."""
    kubelet.add_node("n1")
    installed.api.create(service("s", namespace, cache={"size": "2Gi"}))
    until(lambda: claim(installed, namespace), 30)
    edit(installed, namespace, cache={"size": None})  # the schema refuses to shrink it at once
    edit(installed, namespace, cache={"size": "1Gi", "retain": True})
    until(lambda: not claim(installed, namespace)["metadata"].get("ownerReferences"), 20, "another change is made")
    assert claim(installed, namespace)["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert conditions(installed, "s", namespace)["Stalled"]["status"] == "False"


def existing(plane, kubelet, namespace, mode):
    body = {"accessModes": [mode], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}
    plane.api.create(
        {"apiVersion": "v1", "kind": CLAIM, "metadata": {"name": "mine", "namespace": namespace}, "spec": body}
    )


@pytest.mark.slow
def test_a_replica_that_waits_for_a_volume_on_another_node_is_reported(installed, operator, namespace, kubelet):
    """Multi-Attach: the node and the pod that has it; the old replica makes way after the patience."""
    kubelet.add_node("n1", cpu="2")
    existing(installed, kubelet, namespace, "ReadWriteOnce")
    cpus = {"requests": {"cpu": "1500m", "memory": "1Gi"}}
    cache = {"existingClaim": "mine", "preload": False}
    installed.api.create(service("s", namespace, cache=cache, resources=cpus))
    (old,) = kubelet.mark_pods_ready(namespace, ENGINES)
    wait_for(installed, "s", namespace, "Ready", "True", "Serving")
    kubelet.add_node("n2", cpu="2")
    edit(installed, namespace, engine={"maxModelLen": 512, "maxNumSeqs": 5})
    message = wait_for(installed, "s", namespace, "Progressing", "True", "MultiAttach")["message"]
    assert f"the pod {old} has it on n1" in message
    assert conditions(installed, "s", namespace)["Ready"]["status"] == "True"
    until(
        lambda: old not in {pod["metadata"]["name"] for pod in installed.api.list("v1", "Pod", namespace, ENGINES)},
        150,
        "the old one makes way",
    )


def node_local(plane, nodes, name):
    """A class of node-local volumes, one volume a node."""
    api = plane.api
    storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    api.create({**storage, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})
    for node in nodes:
        term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        spec = {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "local": {"path": "/models"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{name}-{node}"}}
        api.create({**volume, "spec": spec})


def test_a_node_local_volume_is_bound_where_replicas_can_run(installed, operator, namespace, kubelet):
    """GPUs on one node that nothing labels, volumes on all: the download that ran on another would bind it there."""
    kubelet.bind_claims = False
    names = [f"{namespace}-cpu-1", f"{namespace}-cpu-2", f"{namespace}-gpu"]
    for name in names:
        kubelet.add_node(name, gpus=1 if name.endswith("gpu") else 0)
    node_local(installed, names, namespace)
    cache = {"size": "10Gi", "storageClassName": namespace}
    try:
        installed.api.create(service("s", namespace, accelerator={"vendor": "nvidia"}, cache=cache))
        download = "app.kubernetes.io/component=preload"
        placed = until(
            lambda: [
                node
                for pod in installed.api.list("v1", "Pod", namespace, download)
                if (node := pod["spec"].get("nodeName"))
            ],
            60,
            "the download has a node",
        )
        assert placed == [f"{namespace}-gpu"]
        kubelet.finish_pods(namespace, download)
        until(
            lambda: [p["spec"].get("nodeName") for p in installed.api.list("v1", "Pod", namespace, ENGINES)] == placed,
            60,
            "the replica has the node with the volume",
        )
    finally:
        for node in names:
            installed.api.delete("v1", "PersistentVolume", f"{namespace}-{node}")
        installed.api.delete("storage.k8s.io/v1", "StorageClass", namespace)
