"""The download's pod: a replica's with another container, where replicas can run."""

from __future__ import annotations

from octavo_testing.children_cases import engine_of, only, pod_of, rendered
from octavo_testing.planner_cases import CPU

from octavo_operator.api.observed import Nodes
from octavo_operator.children.preload_job import DOWNLOAD, TEMPLATE

CA = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"sidecar.istio.io/inject": "false"}},
    "spec": {
        "dnsPolicy": "None",
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}],
        "securityContext": {"runAsUser": 1000},
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}, {"name": "unused", "emptyDir": {}}],
        "containers": [
            {
                "name": "engine",
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
                "envFrom": [{"configMapRef": {"name": "more"}}],
                "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/certs"}],
            },
            {"name": "side", "image": "x"},
        ],
    },
}


def job(**spec):
    return only(rendered(**({"cache": {}, "accelerator": CPU} | spec)), "Job")


def pod(**spec):
    return job(**spec)["spec"]["template"]


def container(**spec):
    (only_one,) = pod(**spec)["spec"]["containers"]
    return only_one


def test_it_has_what_the_cluster_demands_of_a_replica():
    """A company's CA, a proxy, a mesh's opt-out and an assigned user reach the download, too; sidecars never end."""
    made = pod(podTemplate=CA)
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["labels"]["app.kubernetes.io/component"] == "preload"
    assert made["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert made["spec"]["dnsPolicy"] == "None"
    assert made["spec"]["hostAliases"][0]["hostnames"] == ["hub"]
    assert made["spec"]["securityContext"]["runAsUser"] == 1000
    assert [each["name"] for each in made["spec"]["volumes"]] == ["tmp", "cache", "ca"]
    (only_one,) = made["spec"]["containers"]
    assert {"name": "ca", "mountPath": "/etc/ssl/certs"} in only_one["volumeMounts"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy"} in only_one["env"]
    assert only_one["envFrom"] == [{"configMapRef": {"name": "more"}}]


def test_it_has_the_replicas_limits_and_asks_for_little():
    """A quota that counts limits refuses a pod that has none; GPUs it has no use for."""
    assert container()["resources"]["requests"] == {"cpu": "250m", "memory": "1Gi"}
    resources = {"limits": {"cpu": "2", "memory": "4Gi"}}
    assert container(resources=resources)["resources"] == {
        "requests": {"cpu": "250m", "memory": "1Gi"},
        "limits": {"cpu": "2", "memory": "4Gi"},
    }
    small = {"limits": {"cpu": "100m"}}
    assert container(resources=small)["resources"]["requests"]["cpu"] == "100m", "a request is never above its limit"
    assert "nvidia.com/gpu" not in str(container(accelerator={})["resources"])


def test_it_runs_where_replicas_can_run():
    """A node-local volume is bound to its first pod's node: one with GPUs, whether or not anything labels it."""
    nodes = Nodes(free=0, largest=2, names=("gpu-1", "gpu-2"))
    spec = pod(accelerator={}, observed={"nodes": nodes})["spec"]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    expected = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["gpu-1", "gpu-2"]}
    assert required == {"nodeSelectorTerms": [{"matchExpressions": [expected]}]}
    assert "nodeAffinity" not in pod_of(rendered(cache={}, accelerator={}, observed={"nodes": nodes}))["affinity"]
    shared = pod(accelerator={}, cache={"accessMode": "ReadWriteMany"}, observed={"nodes": nodes})["spec"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in shared["affinity"]["nodeAffinity"]


def test_what_the_manifest_demands_of_nodes_still_holds():
    """The manifest's own terms are narrowed to those nodes, not replaced."""
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}
    template = {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}}
    nodes = Nodes(free=0, largest=2, names=("gpu-1",))
    spec = pod(accelerator={}, podTemplate=template, observed={"nodes": nodes})["spec"]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [each["key"] for each in term["matchExpressions"]] == ["zone", "kubernetes.io/hostname"]


def test_what_concerns_the_pod_alone_is_no_other_download():
    """A new limit is no reason to throw away half a download; another revision is."""
    first, limited = job(), job(resources={"limits": {"memory": "4Gi"}})
    marks, others = first["metadata"]["annotations"], limited["metadata"]["annotations"]
    assert marks[DOWNLOAD] == others[DOWNLOAD]
    assert marks[TEMPLATE] != others[TEMPLATE]
    another = job(model={"uri": "hf://org/name", "revision": "v2"})["metadata"]["annotations"]
    assert another[DOWNLOAD] != marks[DOWNLOAD]


def test_what_only_an_engine_needs_is_left_out():
    """A ConfigMap of a chat template that is missing would hold up a download that never reads it."""
    model = {"uri": "hf://org/name", "chatTemplate": {"configMapName": "t", "key": "k"}}
    children = rendered(cache={}, model=model)
    assert "chat-template" in str(engine_of(children)["volumeMounts"])
    made = only(children, "Job")["spec"]["template"]["spec"]
    assert [each["name"] for each in made["volumes"]] == ["tmp", "cache"]
    assert [each["mountPath"] for each in made["containers"][0]["volumeMounts"]] == ["/tmp", "/var/cache/octavo"]


def test_no_meshs_sidecar_and_no_autoscaler_of_nodes_comes_in_its_way():
    """A sidecar would never end, and with it the Job; a download that is moved to save a node begins again."""
    metadata = pod()["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
    assert metadata["annotations"]["linkerd.io/inject"] == "disabled"
    assert metadata["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert metadata["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    meshed = pod(podTemplate={"metadata": {"labels": {"sidecar.istio.io/inject": "true"}}})["metadata"]
    assert meshed["labels"]["sidecar.istio.io/inject"] == "true", "a person knows better"


def test_volumes_of_the_pods_own_keep_no_node():
    """The cluster autoscaler leaves a node alone whose pods have volumes on it, unless marked as disposable."""
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"

    def named(**spec):
        template = only(rendered(accelerator=CPU, **spec), "Deployment")["spec"]["template"]
        volumes = template["spec"]["volumes"]
        on_disk = {v["name"] for v in volumes if "emptyDir" in v and v["emptyDir"].get("medium") != "Memory"}
        return set(template["metadata"]["annotations"][key].split(",")), on_disk

    assert named() == ({"tmp", "cache"},) * 2
    assert named(cache={}) == ({"tmp"},) * 2
