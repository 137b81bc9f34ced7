"""The node labels that name a GPU's product: NVIDIA's own, each platform's, and the table between them. Pure.

A product is written as GPU feature discovery writes it (`NVIDIA-L4`). Where a node carries that label, it decides.
Elsewhere a platform has labels and values of its own, which `ROWS` lists; a manifest may use these words, too.

Sources: the label values that Google, AWS (Karpenter and EKS Auto Mode) and Azure document for their nodes, and their
lists of instance types with whole GPUs (fractions, such as g6f and NV6ads_A10_v5, are left out).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from octavo_operator.planner.plan import Requirement, Term

PRODUCT = "nvidia.com/gpu.product"  # set by GPU feature discovery
STRATEGY = "nvidia.com/gpu.sharing-strategy"
SHARED = "-SHARED"  # the suffix of a time-sliced GPU's product
SLICE = re.compile(r"^(?P<whole>.+)-MIG-(?P<profile>\d+c?\.?\d*g\.(?P<size>\d+)gb.*)$")
GKE = "cloud.google.com/gke-accelerator"
GKE_PARTITION = "cloud.google.com/gke-gpu-partition-size"
GKE_SHARES = "cloud.google.com/gke-max-shared-clients-per-gpu"
GKE_STRATEGY = "cloud.google.com/gke-gpu-sharing-strategy"
INSTANCE = "node.kubernetes.io/instance-type"
AWS = ("karpenter.k8s.aws/", "eks.amazonaws.com/")  # Karpenter; EKS Auto Mode
MIG_RESOURCE = re.compile(r"^nvidia\.com/mig-(?P<profile>.+)$")  # strategy "mixed": the slice is the resource

Labels = Mapping[str, str]
Row = tuple[str, Term]
"""A product, and the labels of a node that has it."""


def _is(key: str, *values: str) -> Requirement:
    return Requirement(key, "In", values)


def _google() -> Iterator[Row]:
    values = {
        "nvidia-b200": "NVIDIA-B200",
        "nvidia-a100-80gb": "NVIDIA-A100-SXM4-80GB",
        "nvidia-h100-80gb": "NVIDIA-H100-80GB-HBM3",
        "nvidia-h100-mega-80gb": "NVIDIA-H100-80GB-HBM3",
        "nvidia-h200-141gb": "NVIDIA-H200",
        "nvidia-l4": "NVIDIA-L4",
        "nvidia-rtx-pro-6000": "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
        "nvidia-tesla-a100": "NVIDIA-A100-SXM4-40GB",
        "nvidia-tesla-p100": "Tesla-P100-PCIE-16GB",
        "nvidia-tesla-p4": "Tesla-P4",
        "nvidia-tesla-t4": "Tesla-T4",
        "nvidia-tesla-v100": "Tesla-V100-SXM2-16GB",
    }
    for value, product in values.items():
        yield product, (_is(GKE, value), Requirement(GKE_PARTITION, "DoesNotExist"))


def _amazon(prefix: str) -> Iterator[Row]:
    """One name may stand for two sizes, or for a fraction: the memory, in MiB, distinguishes them."""
    name, memory = f"{prefix}instance-gpu-name", f"{prefix}instance-gpu-memory"
    for value, product, limit in (
        ("a100", "NVIDIA-A100-SXM4-40GB", Requirement(memory, "Lt", ("60000",))),
        ("a100", "NVIDIA-A100-SXM4-80GB", Requirement(memory, "Gt", ("60000",))),
        ("a10g", "NVIDIA-A10G", None),
        ("b200", "NVIDIA-B200", None),
        ("h100", "NVIDIA-H100-80GB-HBM3", None),
        ("h200", "NVIDIA-H200", None),
        ("l4", "NVIDIA-L4", Requirement(memory, "Gt", ("20000",))),
        ("l40s", "NVIDIA-L40S", None),
        ("t4", "Tesla-T4", None),
        ("v100", "Tesla-V100-SXM2-16GB", Requirement(memory, "Lt", ("20000",))),
        ("v100", "Tesla-V100-SXM2-32GB", Requirement(memory, "Gt", ("20000",))),
    ):
        yield product, (_is(name, value), *([limit] if limit else []))


def _instance_types() -> Iterator[Row]:
    """EKS' and AKS' node groups, whose nodes carry no other label of their GPUs."""
    large = ["xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge"]
    types = {
        "NVIDIA-A10": ["Standard_NV36ads_A10_v5", "Standard_NV36adms_A10_v5", "Standard_NV72ads_A10_v5"],
        "NVIDIA-A100-80GB-PCIe": [f"Standard_NC{n}ads_A100_v4" for n in (24, 48, 96)],
        "NVIDIA-A100-SXM4-40GB": ["p4d.24xlarge", "Standard_ND96asr_v4"],
        "NVIDIA-A100-SXM4-80GB": ["p4de.24xlarge", "Standard_ND96amsr_A100_v4"],
        "NVIDIA-A10G": [f"g5.{size}" for size in large],
        "NVIDIA-B200": ["p6-b200.48xlarge"],
        "NVIDIA-H100-80GB-HBM3": ["p5.4xlarge", "p5.48xlarge", "Standard_ND96isr_H100_v5"],
        "NVIDIA-H100-NVL": ["Standard_NC40ads_H100_v5", "Standard_NC80adis_H100_v5"],
        "NVIDIA-H200": ["p5e.48xlarge", "p5en.48xlarge", "Standard_ND96isr_H200_v5"],
        "NVIDIA-L4": [*(f"g6.{size}" for size in large), "gr6.4xlarge", "gr6.8xlarge"],
        "NVIDIA-L40S": [f"g6e.{size}" for size in large],
        "Tesla-T4": [
            *(f"g4dn.{size}" for size in [*large[:6], "metal"]),
            *(f"Standard_NC{n}as_T4_v3" for n in (4, 8, 16, 64)),
        ],
        "Tesla-V100-PCIE-16GB": [f"Standard_NC{n}s_v3" for n in (6, 12, 24)],
        "Tesla-V100-SXM2-16GB": ["p3.2xlarge", "p3.8xlarge", "p3.16xlarge"],
        "Tesla-V100-SXM2-32GB": ["p3dn.24xlarge", "Standard_ND40rs_v2"],
    }
    for product, values in types.items():
        yield product, (_is(INSTANCE, *values),)


ROWS: Sequence[Row] = (*_google(), *(row for prefix in AWS for row in _amazon(prefix)), *_instance_types())


def product_of(labels: Labels, resource: str) -> str | None:
    """The product that a node has, by the label of GPU feature discovery, else by its platform's."""
    if (named := labels.get(_label(resource, "product"))) is not None:
        return named
    for product, term in ROWS:
        partition = labels.get(GKE_PARTITION)
        if holds(_of_partition(term, partition), labels):
            return f"{product}-MIG-{partition}" if partition and _speaks_of(term, GKE) else product
    return labels.get(PRODUCT)


def shares_of(labels: Labels, resource: str) -> int:
    """Pods that take turns on one GPU."""
    for key in (_label(resource, "replicas"), GKE_SHARES):
        if (text := labels.get(key, "")).isdigit() and int(text) > 1:
            return int(text)
    return 1


def memory_of(labels: Labels, resource: str) -> int | None:
    """MiB of one GPU, or slice, as nvidia-smi counts them."""
    for key in (_label(resource, "memory"), *(f"{prefix}instance-gpu-memory" for prefix in AWS)):
        if (text := labels.get(key, "")).isdigit():
            return int(text)
    return None


@lru_cache(maxsize=256)
def selection(products: tuple[str, ...], label: str | None, resource: str, *, together: bool) -> tuple[Term, ...]:
    """The labels that a node must carry, one term or another; empty where any node will do.

    `label` is the manifest's own key, whose values the products then are. GPUs that are used `together` are whole ones:
    two shares may be of one GPU.
    """
    alone = (
        Requirement(STRATEGY, "NotIn", ("time-slicing", "mps")),
        Requirement(GKE_STRATEGY, "NotIn", GKE_STRATEGIES),
    )
    beside = alone if together else ()
    if not products:
        return (beside,) if beside else ()
    if label is not None:
        return ((_is(label, *products), *beside),)
    words = {word for _, term in ROWS for word in term[0].values}
    names = [product for product in products if product not in words]
    terms: list[Term] = []
    if names:
        both = [name for product in names for name in ((product,) if together else _with_shared(product))]
        keys = {name: _label(resource, "product") if SLICE.match(name) else PRODUCT for name in both}
        terms += [(_is(key, name), *beside) for name, key in keys.items()]
    unlabelled = Requirement(PRODUCT, "DoesNotExist")
    for product, term in ROWS:
        for name in names:
            part = SLICE.match(name)
            if product == (part["whole"] if part else name) and (not part or _speaks_of(term, GKE)):
                terms.append((*_of_partition(term, part["profile"] if part else None), unlabelled, *beside))
        if named := tuple(word for word in term[0].values if word in products):
            terms.append((replace(term[0], values=named), *term[1:], *beside))
    return tuple(_merged(terms))


def known_as(product: str) -> tuple[str, ...]:
    """The products, as GPU feature discovery has them, that a manifest's word may mean."""
    return tuple(dict.fromkeys(name for name, term in ROWS if product in term[0].values)) or (product,)


def holds(term: Iterable[Requirement], labels: Labels) -> bool:
    """True if labels meet all requirements, as the scheduler reads them."""
    return all(_holds(each, labels) for each in term)


def matches(terms: Collection[Term], labels: Labels) -> bool:
    """True if labels meet one of the terms; no term rules nothing out."""
    return not terms or any(holds(term, labels) for term in terms)


GKE_STRATEGIES = ("time-sharing", "mps")


def _holds(requirement: Requirement, labels: Labels) -> bool:
    value, wanted = labels.get(requirement.key), requirement.values
    match requirement.operator:
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    try:
        number, bound = int(value or ""), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return number > bound if requirement.operator == "Gt" else number < bound


def _label(resource: str, what: str) -> str:
    """GPU feature discovery's: a slice that is a resource of its own has labels of its own."""
    base = resource.removesuffix(".shared")  # the device plugin's renameByDefault
    return f"{base if MIG_RESOURCE.match(base) else 'nvidia.com/gpu'}.{what}"


def _speaks_of(term: Term, key: str) -> bool:
    return term[0].key == key


def _of_partition(term: Term, profile: str | None) -> Term:
    """Turn the term of a whole GPU into that of a slice of it."""
    if not profile:
        return term
    return tuple(_is(each.key, profile) if each.key == GKE_PARTITION else each for each in term)


def _with_shared(product: str) -> tuple[str, ...]:
    return (product,) if product.endswith(SHARED) else (product, product + SHARED)


def _merged(terms: Iterable[Term]) -> Iterator[Term]:
    """Terms that differ in the first one's values only become one."""
    found: dict[tuple[str, Term], list[str]] = {}
    for term in terms:
        values = found.setdefault((term[0].key, term[1:]), [])
        values += [value for value in term[0].values if value not in values]
    for (key, rest), values in found.items():
        yield (_is(key, *values), *rest)
