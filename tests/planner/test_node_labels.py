"""Nodes say which GPU they have in their platform's words; a manifest names it once."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import MISTRAL_7B, SMALL, planned, service

from octavo_operator.api.observed import Gpu, Nodes
from octavo_operator.planner import node_labels
from octavo_operator.planner.gpus import PRODUCTS, of_cuda, of_node
from octavo_operator.planner.hardware import hardware_of
from octavo_operator.planner.plan import Requirement
from octavo_operator.planner.sizes import GIB, MIB
from octavo_operator.reconcile import free_gpus
from octavo_operator.reconcile.capacity import ClusterCapacity
from octavo_operator.reconcile.diagnosis.pods import trouble_of

GPU = "nvidia.com/gpu"
GFD = f"{GPU}.product"
GKE = "cloud.google.com/gke-accelerator"
PARTITION = "cloud.google.com/gke-gpu-partition-size"
TYPE = "node.kubernetes.io/instance-type"
AKS = {"kubernetes.azure.com/accelerator": "nvidia"}


def karpenter(name: str, memory: int, prefix: str = "karpenter.k8s.aws") -> dict[str, str]:
    return {f"{prefix}/instance-gpu-name": name, f"{prefix}/instance-gpu-memory": str(memory)}


# Labels of a node, and the product that it has.
NODES = [
    ({GFD: "NVIDIA-L4"}, "NVIDIA-L4"),
    ({GFD: "NVIDIA-L4", GKE: "nvidia-tesla-t4"}, "NVIDIA-L4"),
    ({GKE: "nvidia-l4"}, "NVIDIA-L4"),
    ({GKE: "nvidia-tesla-a100"}, "NVIDIA-A100-SXM4-40GB"),
    ({GKE: "nvidia-a100-80gb"}, "NVIDIA-A100-SXM4-80GB"),
    ({GKE: "nvidia-h100-mega-80gb"}, "NVIDIA-H100-80GB-HBM3"),
    ({GKE: "nvidia-tesla-a100", PARTITION: "1g.5gb"}, "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"),
    (karpenter("a10g", 24576), "NVIDIA-A10G"),
    (karpenter("a100", 40960), "NVIDIA-A100-SXM4-40GB"),
    (karpenter("a100", 81920), "NVIDIA-A100-SXM4-80GB"),
    (karpenter("v100", 32768), "Tesla-V100-SXM2-32GB"),
    (karpenter("l4", 22888, "eks.amazonaws.com"), "NVIDIA-L4"),
    ({TYPE: "g5.12xlarge"}, "NVIDIA-A10G"),
    ({TYPE: "p4d.24xlarge"}, "NVIDIA-A100-SXM4-40GB"),
    ({TYPE: "Standard_NC48ads_A100_v4", **AKS}, "NVIDIA-A100-80GB-PCIe"),
    ({TYPE: "Standard_NC4as_T4_v3", **AKS}, "Tesla-T4"),
]
SILENT = [{}, AKS, {GKE: "nvidia-new"}, {TYPE: "m7i.large"}, karpenter("l4", 3000), {TYPE: "Standard_NV6ads_A10_v5"}]


def node(labels: dict[str, str], *, name: str = "n", gpus: int = 1, resource: str = GPU) -> dict:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"allocatable": {resource: str(gpus)} if gpus else {}},
    }


def seen(*nodes: dict, template: dict | None = None, **spec) -> Nodes:
    """The GPUs that a service finds on nodes."""
    return free_gpus.nodes_for(hardware_of(service(**spec).spec), template or {}, ClusterCapacity(nodes, []))


@pytest.mark.parametrize(("labels", "product"), NODES)
def test_a_node_says_its_product_in_its_platforms_words(labels, product):
    gpu = of_node(labels)
    assert gpu is not None
    assert (gpu.product, gpu.memory is not None, gpu.capability is not None) == (product, True, True)


@pytest.mark.parametrize("labels", SILENT)
def test_what_no_label_says_is_not_guessed(labels):
    assert of_node(labels) is None


def test_every_product_of_the_table_of_labels_is_known_with_memory_and_capability():
    assert {product for product, _ in node_labels.ROWS} <= PRODUCTS.keys()


@pytest.mark.parametrize(("labels", "product"), NODES)
def test_the_scheduler_finds_a_named_product_where_the_planner_does(labels, product):
    """What is rendered and what is counted come from the same terms."""
    for asked in {each for _, each in NODES}:
        found = seen(node(labels), accelerator={"products": [asked]})
        assert (found.free, found.largest) == ((1, 1) if asked == product else (0, 0)), asked
        assert found.products == (product,)


@pytest.mark.parametrize(
    ("word", "others"),
    [("nvidia-l4", 1), ("a100", 2), ("Standard_NC48ads_A100_v4", 1), ("g5.12xlarge", 1)],
)
def test_a_platforms_word_selects_by_its_label(word, others):
    """Karpenter's `a100` may be either size: both are judged."""
    found = [labels for labels, _ in NODES if seen(node(labels), accelerator={"products": [word]}).largest]
    assert len(found) == others
    assert all(word in labels.values() for labels in found)
    assert planned(SMALL, accelerator={"products": [word]}).fit.state == "True"


def test_a_label_of_ones_own_names_products_by_its_values():
    own = {"accelerator": {"products": ["H100_NVLINK_80GB"], "productLabel": "gpu.nvidia.com/class"}}
    found = seen(node({"gpu.nvidia.com/class": "H100_NVLINK_80GB"}), node({GFD: "H100_NVLINK_80GB"}, name="m"), **own)
    assert (found.largest, found.unlabelled) == (1, ("n",))
    assert planned(SMALL, {"nodes": found}, **own).fit.reason == "GpuUnknown"
    known = {"gpu.nvidia.com/class": "H100_NVLINK_80GB", GFD: "NVIDIA-H100-80GB-HBM3"}
    assert planned(SMALL, {"nodes": seen(node(known), **own)}, **own).fit.budget.product == "NVIDIA-H100-80GB-HBM3"


def test_gpus_are_counted_by_what_is_allocatable_whatever_labels_say():
    nodes = [node({GKE: "nvidia-l4"}, gpus=4), node({TYPE: "g6.xlarge"}, name="m", gpus=0)]
    assert seen(*nodes, accelerator={"products": ["NVIDIA-L4"]}).largest == 4
    assert seen(node({}, gpus=8)).free == 8, "any GPU"


def test_nodes_without_a_label_are_named_with_what_to_do():
    pod = {"metadata": {}, "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": ""}]}}
    spec = {"accelerator": {"products": ["NVIDIA-L4"]}}
    trouble = trouble_of(pod, planned(SMALL, **spec), seen(node(AKS, gpus=2), **spec))
    assert trouble.reason == "NoSuchGpu"
    assert "n has GPUs and no label that names them" in trouble.message
    assert "accelerator.productLabel" in trouble.message
    assert "no node has any GPU" not in trouble.message


def test_the_manifests_own_affinity_rules_nodes_out():
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zone]}}
    template = {"spec": {"affinity": {"nodeAffinity": required}}}
    nodes = [node({GFD: "NVIDIA-L4", "zone": "b"}, gpus=8), node({GFD: "NVIDIA-L4", "zone": "a"}, name="m")]
    assert seen(*nodes, template=template).largest == 1


@pytest.mark.parametrize(
    ("operator", "values", "label", "holds"),
    [
        ("In", ("a", "b"), "b", True), ("In", ("a",), None, False),
        ("NotIn", ("a",), "b", True), ("NotIn", ("a",), None, True), ("NotIn", ("a",), "a", False),
        ("Exists", (), "a", True), ("Exists", (), None, False),
        ("DoesNotExist", (), None, True), ("DoesNotExist", (), "a", False),
        ("Gt", ("5",), "6", True), ("Gt", ("5",), "5", False), ("Gt", ("5",), None, False), ("Gt", ("5",), "x", False),
        ("Lt", ("5",), "4", True), ("Lt", ("5",), "5", False), ("Lt", ("5",), None, False),
    ],
)  # fmt: skip
def test_requirements_mean_what_the_scheduler_makes_of_them(operator, values, label, holds):
    """The meaning is that of the documentation of node affinity's operators."""
    labels = {} if label is None else {"key": label}
    assert node_labels.holds([Requirement("key", operator, values)], labels) == holds


SLICED = {
    GFD: "NVIDIA-L4-SHARED",
    f"{GPU}.replicas": "4",
    f"{GPU}.sharing-strategy": "time-slicing",
    f"{GPU}.memory": "23034",
}
RENAMED = {**SLICED, GFD: "NVIDIA-L4"}
GOOGLES = {
    GKE: "nvidia-l4",
    "cloud.google.com/gke-max-shared-clients-per-gpu": "4",
    "cloud.google.com/gke-gpu-sharing-strategy": "mps",
}


class TestShared:
    """Time-slicing and MPS: several pods on one GPU."""

    @pytest.mark.parametrize(
        ("labels", "resource"), [(SLICED, GPU), (RENAMED, "nvidia.com/gpu.shared"), (GOOGLES, GPU)]
    )
    @pytest.mark.parametrize("products", [[], ["NVIDIA-L4"]])
    def test_a_pod_has_its_share_of_the_memory(self, labels, resource, products):
        spec = {"accelerator": {"products": products, "resourceName": resource}}
        found = seen(node(labels, gpus=4, resource=resource), **spec)
        (gpu,) = found.gpus
        assert (gpu.memory, gpu.shares, found.largest) == (of_cuda(23034 * MIB) // 4, 4, 4)
        fit = planned(MISTRAL_7B, {"nodes": found}, engine={"maxModelLen": 4096}, **spec).fit
        assert (fit.state, fit.reason) == ("False", "DoesNotFit")
        assert "÷ 4" in fit.message
        assert "tensorParallelSize" not in fit.remedy
        assert planned(SMALL, {"nodes": found}, **spec).fit.state == "True"

    @pytest.mark.parametrize("labels", [SLICED, GOOGLES])
    @pytest.mark.parametrize("products", [[], ["NVIDIA-L4"], ["NVIDIA-L4-SHARED"]])
    def test_several_shares_are_no_several_gpus(self, labels, products):
        spec = {"accelerator": {"products": products}, "engine": {"tensorParallelSize": 2}}
        config = SMALL | {"num_attention_heads": 8, "num_key_value_heads": 4}
        found = seen(node(labels, gpus=4), **spec)
        assert found.largest == 0
        refusal = planned(config, {"nodes": found}, **spec).refusal
        assert (refusal.reason, refusal.remedy) == (
            "GpuShared",
            "set engine.tensorParallelSize: 1, or use nodes with whole GPUs",
        )
        whole = seen(node(labels, gpus=4), node({GFD: "NVIDIA-L4"}, name="m", gpus=2), **spec)
        if "NVIDIA-L4-SHARED" not in products:
            assert planned(config, {"nodes": whole}, **spec).fit.state == "True"

    def test_slices_do_not_work_together_either(self):
        spec = {
            "accelerator": {"products": ["NVIDIA-H100-80GB-HBM3-MIG-3g.40gb"]},
            "engine": {"pipelineParallelSize": 2},
        }
        refusal = planned(SMALL, **spec).refusal
        assert refusal.reason == "GpuShared"
        assert "engine.pipelineParallelSize: 1" in refusal.remedy

    def test_what_the_engine_takes_of_the_whole_is_warned_of(self):
        def warned(**engine) -> str:
            spec = {"engine": engine}
            made = planned(SMALL, {"nodes": seen(node(SLICED, gpus=4), **spec)}, **spec)
            return " ".join(each for each in made.warnings if "gpuMemoryUtilization" in each)

        assert "set engine.gpuMemoryUtilization: 0.25" in warned()
        assert warned(gpuMemoryUtilization=0.2) == ""

    def test_a_share_of_unknown_size_is_unknown(self):
        assert planned(SMALL, accelerator={"products": ["NVIDIA-L4-SHARED"]}).fit.reason == "GpuUnknown"


def test_a_slice_that_is_a_resource_of_its_own_has_its_own_memory():
    """MIG, strategy mixed: the node's product and memory are the whole GPU's."""
    slices = "nvidia.com/mig-1g.5gb"
    labels = {
        GFD: "NVIDIA-A100-SXM4-40GB",
        f"{GPU}.memory": "40960",
        f"{slices}.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
        f"{slices}.memory": "4864",
    }
    for products in (["NVIDIA-A100-SXM4-40GB"], ["NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"], []):
        spec = {"accelerator": {"products": products, "resourceName": slices}}
        found = seen(node(labels, gpus=7, resource=slices), **spec)
        assert found.gpus == (Gpu("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864 * MIB, (8, 0)),)
    spec = {"accelerator": {"products": ["NVIDIA-A100-SXM4-40GB"], "resourceName": slices}}
    assert planned(SMALL, **spec).fit.budget.capacity == int(5 * GIB * 0.95), "no node is seen"
