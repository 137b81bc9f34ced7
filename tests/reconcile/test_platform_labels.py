"""A service that names its GPU finds it on every platform's nodes, with the real scheduler and API server."""

from __future__ import annotations

import pytest
from octavo_testing.api_client import until
from octavo_testing.operator_runs import API, conditions, service, wait_for

ENGINES = "octavo.dev/service=s,app.kubernetes.io/component=engine"
GKE = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
KARPENTER = {"karpenter.k8s.aws/instance-gpu-name": "a100", "karpenter.k8s.aws/instance-gpu-memory": "81920"}
AKS = {"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4", "kubernetes.azure.com/accelerator": "nvidia"}
SHARED = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}


@pytest.fixture
def nodes(kubelet):
    """One of each platform, all with two GPUs."""
    kubelet.add_node("gke", gpus=2, labels=GKE)
    kubelet.add_node("karpenter", gpus=2, labels=KARPENTER)
    kubelet.add_node("aks", gpus=2, labels=AKS)
    kubelet.add_node("silent", gpus=2)


def nodes_of(plane, namespace):
    return [pod["spec"].get("nodeName") for pod in plane.api.list("v1", "Pod", namespace, ENGINES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accelerator", "node"),
    [
        ({"products": ["NVIDIA-L4"]}, "gke"),
        ({"products": ["nvidia-l4"]}, "gke"),
        ({"products": ["NVIDIA-A100-SXM4-80GB"]}, "karpenter"),
        ({"products": ["NVIDIA-A100-80GB-PCIe"]}, "aks"),
        ({"products": ["silent"], "productLabel": "kubernetes.io/hostname"}, "silent"),
    ],
)
def test_a_named_gpu_is_found_by_its_platforms_label(installed, operator, namespace, nodes, accelerator, node):
    installed.api.create(service("s", namespace, accelerator=accelerator))
    until(lambda: nodes_of(installed, namespace) == [node], 30, f"a replica on {node}")


def test_nodes_whose_gpus_have_no_name_are_named_with_the_remedy(installed, operator, namespace, kubelet):
    kubelet.add_node("silent", gpus=2)
    installed.api.create(service("s", namespace, accelerator={"products": ["NVIDIA-L4"]}))
    message = wait_for(installed, "s", namespace, "Ready", "False", "NoSuchGpu")["message"]
    assert "silent has GPUs and no label that names them" in message


def test_several_gpus_of_a_shared_one_are_refused_before_a_pod_exists(installed, operator, namespace, kubelet):
    kubelet.add_node("sliced", gpus=4, product="NVIDIA-L4-SHARED", memory=23034, labels=SHARED)
    body = service("s", namespace, accelerator={"products": ["NVIDIA-L4"]}, engine={"tensorParallelSize": 2})
    installed.api.create(body)
    wait_for(installed, "s", namespace, "Fits", "False", "GpuShared")
    assert nodes_of(installed, namespace) == []
    installed.api.patch(API, "LLMService", "s", namespace, {"spec": {"engine": {"tensorParallelSize": 1}}})
    until(lambda: nodes_of(installed, namespace) == ["sliced"], 30, "a replica on the shared GPU")
    until(lambda: conditions(installed, "s", namespace)["Fits"]["status"] != "False", 30, "no verdict against it")
