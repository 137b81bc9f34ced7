"""The runtimes that a GPU runs are known before a pod exists: by its product, or by what nodes say of it."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import MISTRAL_7B, SMALL, planned, service

from octavo_operator.api.observed import Gpu, Nodes
from octavo_operator.planner.gpus import PRODUCTS, of_cuda, of_node
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.planner.plan import Hardware
from octavo_operator.planner.sizes import MIB
from octavo_operator.reconcile import free_gpus
from octavo_operator.reconcile.capacity import ClusterCapacity
from octavo_operator.reconcile.diagnosis.pods import trouble_of
from octavo_operator.runtimes import RUNTIMES

ON_TURING = " or ".join(name for name, each in RUNTIMES.items() if each.capability <= (7, 5))
# A model of 0.3 GiB: memory decides nothing, so what is refused is too old.
TOO_OLD = {
    "octavo": {
        "Quadro-RTX-6000", "Quadro-RTX-8000", "Tesla-P4", "Tesla-P40", "Tesla-P100-PCIE-16GB", "Tesla-P100-SXM2-16GB",
        "Tesla-T4", "Tesla-V100-PCIE-16GB", "Tesla-V100-PCIE-32GB", "Tesla-V100-SXM2-16GB", "Tesla-V100-SXM2-32GB",
        "Tesla-V100-SXM3-32GB",
    },
    "vllm": {
        "Tesla-P4", "Tesla-P40", "Tesla-P100-PCIE-16GB", "Tesla-P100-SXM2-16GB", "Tesla-V100-PCIE-16GB",
        "Tesla-V100-PCIE-32GB", "Tesla-V100-SXM2-16GB", "Tesla-V100-SXM2-32GB", "Tesla-V100-SXM3-32GB",
    },
}  # fmt: skip


@pytest.mark.parametrize("runtime", TOO_OLD)
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("config", [SMALL, None], ids=["known", "unknown"])
def test_what_a_runtime_cannot_use_is_refused_whether_the_model_is_known_or_not(product, runtime, config):
    plan = planned(config, accelerator={"products": [product]}, engine={"runtime": runtime})
    refused = plan.refusal is not None and plan.refusal.reason == "GpuTooOld"
    assert refused == (product in TOO_OLD[runtime])
    if refused:
        assert product in plan.refusal.message
        assert "set accelerator.products to some that would do, such as NVIDIA-" in plan.refusal.remedy
        assert plan.children == ()


def test_a_refusal_names_products_that_are_large_enough_and_a_runtime_that_would_do():
    refusal = planned(MISTRAL_7B, accelerator={"products": ["Tesla-T4"]}, engine={"maxModelLen": 4096}).refusal
    assert refusal.message == "engine.runtime octavo needs compute capability 8.0 or newer, and Tesla-T4 has 7.5"
    assert refusal.remedy == (
        "set accelerator.products to some that would do, such as NVIDIA-A10, NVIDIA-A10G, NVIDIA-L4, "
        f"NVIDIA-GeForce-RTX-4090, or set engine.runtime: {ON_TURING}"
    )


def test_bfloat16_by_name_needs_a_newer_gpu_under_vllm_too():
    engine = {"runtime": "vllm", "dtype": "bfloat16"}
    assert planned(SMALL, accelerator={"products": ["Tesla-T4"]}, engine=engine).refusal.reason == "GpuTooOld"


def test_one_old_product_among_newer_ones_is_to_be_removed():
    refusal = planned(SMALL, accelerator={"products": ["Tesla-T4", "NVIDIA-L4"]}).refusal
    assert (refusal.reason, refusal.remedy) == ("GpuTooOld", "remove Tesla-T4 from accelerator.products")


def test_what_serves_already_is_kept():
    plan = planned(SMALL, {"serving": True}, accelerator={"products": ["Tesla-T4"]})
    assert plan.refusal is None


def labels(product: str, memory: int, capability: str, **more: str) -> dict[str, str]:
    major, minor = capability.split(".")
    names = {"product": product, "memory": str(memory), "compute.major": major, "compute.minor": minor} | more
    return {f"nvidia.com/gpu.{name}": value for name, value in names.items()}


@pytest.mark.parametrize(
    ("given", "gpu"),
    [
        (labels("NVIDIA-L4", 23034, "8.9"), Gpu("NVIDIA-L4", of_cuda(23034 * MIB), (8, 9))),
        (labels("NVIDIA-New", 65536, "11.0"), Gpu("NVIDIA-New", of_cuda(65536 * MIB), (11, 0))),
        (labels("NVIDIA-L4", 23034, "8.9", replicas="4"), Gpu("NVIDIA-L4", of_cuda(23034 * MIB) // 4, (8, 9), 4)),
        (
            labels("NVIDIA-H200-MIG-1g.18gb", 16384, "9.0", replicas="1"),
            Gpu("NVIDIA-H200-MIG-1g.18gb", 16384 * MIB, (9, 0)),
        ),
        ({"nvidia.com/gpu.product": "Tesla-T4"}, Gpu("Tesla-T4", of_cuda(15360 * MIB), (7, 5))),
        ({"nvidia.com/gpu.product": "NVIDIA-New", "nvidia.com/gpu.memory": "?"}, Gpu("NVIDIA-New", None, None)),
        ({"nvidia.com/gpu.product": "NVIDIA-L4-SHARED"}, Gpu("NVIDIA-L4-SHARED", None, (8, 9))),
        ({"nvidia.com/gpu.count": "1"}, None),
    ],
)
def test_a_node_says_what_gpu_it_has(given, gpu):
    assert of_node(given) == gpu


ANY = Hardware("nvidia", 1, "nvidia.com/gpu", ())
L4, T4 = labels("NVIDIA-L4", 23034, "8.9"), labels("Tesla-T4", 15360, "7.5")
A100 = labels("NVIDIA-A100-SXM4-80GB", 81920, "8.0")


def cluster(*nodes: dict[str, str], count: str = "1") -> Nodes:
    made = [
        {
            "metadata": {"name": f"n{i}", "labels": given},
            "spec": {},
            "status": {"allocatable": {"nvidia.com/gpu": count} if count else {}, "conditions": []},
        }
        for i, given in enumerate(nodes)
    ]
    return free_gpus.nodes_for(ANY, {}, ClusterCapacity(made, []))


@pytest.mark.parametrize(
    ("nodes", "state", "reason", "remedy"),
    [
        ([L4], "True", "Fits", None),
        ([L4, L4, A100], "True", "Fits", None),
        ([T4], "False", "GpuTooOld", f"set engine.runtime: {ON_TURING}"),
        ([T4, L4], "Unknown", "DependsOnNode", "set accelerator.products: [NVIDIA-L4]"),
        ([labels("NVIDIA-A2", 15356, "8.6")], "False", "DoesNotFit", "engine.tensorParallelSize: 2"),
        (
            [labels("NVIDIA-A2", 15356, "8.6"), L4, A100],
            "Unknown",
            "DependsOnNode",
            "set accelerator.products: [NVIDIA-A100-SXM4-80GB, NVIDIA-L4]",
        ),
        ([labels("NVIDIA-New", 65536, "11.0")], "True", "Fits", None),
        ([{"nvidia.com/gpu.count": "1"}], "Unknown", "GpuUnknown", None),
        ([], "Unknown", "GpuUnknown", None),
    ],
)
def test_for_any_gpu_the_verdict_is_what_the_nodes_have(nodes, state, reason, remedy):
    fit = planned(MISTRAL_7B, {"nodes": cluster(*nodes)}, engine={"maxModelLen": 4096}).fit
    assert (fit.state, fit.reason) == (state, reason), fit.message
    assert remedy is None or remedy in fit.remedy


def test_a_named_product_that_no_table_has_is_described_by_its_node():
    nodes = free_gpus.nodes_for(
        hardware_of(service(accelerator={"products": ["NVIDIA-New"]}).spec),
        {},
        ClusterCapacity([{
            "metadata": {"name": "n", "labels": labels("NVIDIA-New", 65536, "11.0")},
            "spec": {},
            "status": {"allocatable": {"nvidia.com/gpu": "1"}},
        }], []),
    )  # fmt: skip
    plan = planned(MISTRAL_7B, {"nodes": nodes}, accelerator={"products": ["NVIDIA-New"]}, engine={"maxModelLen": 4096})
    assert (plan.fit.state, plan.fit.budget.product) == ("True", "NVIDIA-New")


def unscheduled(message: str) -> dict:
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    return {"metadata": {}, "status": {"conditions": [condition]}}


def test_without_a_device_plugin_the_remedy_is_the_operator_that_installs_it():
    for products in ([], ["NVIDIA-L4"]):
        accelerator = {"products": products}
        trouble = trouble_of(
            unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
            planned(SMALL, accelerator=accelerator),
            cluster(L4, count=""),
        )
        assert trouble.reason == "NoSuchGpu"
        assert "install NVIDIA's GPU Operator or device plugin" in trouble.message


def test_a_node_that_is_too_small_is_reported_with_the_field_that_asks_for_less():
    trouble = trouble_of(
        unscheduled("0/1 nodes are available: 1 Insufficient cpu."), planned(SMALL, accelerator={"vendor": "cpu"}), None
    )
    assert trouble.message.endswith(
        "a replica requests cpu 400m: lower resources.requests.cpu, or add a node with more"
    )


def test_what_the_freest_node_has_left_is_reported_with_what_is_requested():
    left = {"cpu": 230, "memory": 900 * 2**20 * 1000 + 1}
    for words, found in (
        ("1 Insufficient cpu", "requests cpu 400m, the freest node has cpu 230m: lower resources.requests.cpu, or"),
        ("1 Insufficient cpu, 1 Insufficient memory", ", the freest node has cpu 230m and memory 900Mi: lower"),
    ):
        pod = unscheduled(f"0/1 nodes are available: {words}.")
        assert found in trouble_of(pod, planned(SMALL, accelerator={"vendor": "cpu"}), None, most_free=left).message


def test_an_engine_that_ended_for_want_of_a_gpu_is_classified():
    """The marker is the engine's own (octavo_engine.gpus)."""
    from octavo_engine.gpus import NO_GPU

    words = f"octavo serve: {NO_GPU}the driver shows none and one is needed; on Kubernetes see that …"
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": words}}
    pod = {
        "metadata": {},
        "status": {"containerStatuses": [{"name": "engine", "restartCount": 1, "state": {}, "lastState": ended}]},
    }
    trouble = trouble_of(pod, planned(SMALL), None)
    assert (trouble.reason, trouble.stuck, NO_GPU in trouble.message) == ("GpuUnavailable", True, True)
