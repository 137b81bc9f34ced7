"""Facts of GPUs: memory and compute capability by product, and by the labels of nodes.

A product is the value of the node label `nvidia.com/gpu.product`. Memory in the table is the total that nvidia-smi
reports, which is also what GPU feature discovery puts into the label `nvidia.com/gpu.memory`; `Gpu.memory` is what
CUDA has of it. Compute capabilities are NVIDIA's (developer.nvidia.com/cuda-gpus).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from octavo_operator.api.observed import Capability, Gpu, Nodes
from octavo_operator.planner.node_labels import (
    MIG_RESOURCE,
    SHARED,
    SLICE,
    known_as,
    memory_of,
    product_of,
    shares_of,
)
from octavo_operator.planner.plan import Hardware
from octavo_operator.planner.sizes import GIB, MIB

# Memory in MiB, compute capability.
PRODUCTS: Mapping[str, tuple[int, Capability]] = {
    "NVIDIA-A2": (15356, (8, 6)),
    "NVIDIA-A10": (23028, (8, 6)),
    "NVIDIA-A10G": (23028, (8, 6)),
    "NVIDIA-A16": (15356, (8, 6)),
    "NVIDIA-A30": (24576, (8, 0)),
    "NVIDIA-A40": (46068, (8, 6)),
    "NVIDIA-A100-PCIE-40GB": (40960, (8, 0)),
    "NVIDIA-A100-SXM4-40GB": (40960, (8, 0)),
    "NVIDIA-A100-80GB-PCIe": (81920, (8, 0)),
    "NVIDIA-A100-SXM4-80GB": (81920, (8, 0)),
    "NVIDIA-B200": (183359, (10, 0)),
    "NVIDIA-GeForce-RTX-3090": (24576, (8, 6)),
    "NVIDIA-GeForce-RTX-4090": (24564, (8, 9)),
    "NVIDIA-GeForce-RTX-5090": (32607, (12, 0)),
    "NVIDIA-GH200-480GB": (97871, (9, 0)),
    "NVIDIA-H100-80GB-HBM3": (81559, (9, 0)),
    "NVIDIA-H100-NVL": (95830, (9, 0)),
    "NVIDIA-H100-PCIe": (81559, (9, 0)),
    "NVIDIA-H200": (143771, (9, 0)),
    "NVIDIA-H200-NVL": (143771, (9, 0)),
    "NVIDIA-L4": (23034, (8, 9)),
    "NVIDIA-L40": (46068, (8, 9)),
    "NVIDIA-L40S": (46068, (8, 9)),
    "NVIDIA-RTX-A4000": (16376, (8, 6)),
    "NVIDIA-RTX-A5000": (24564, (8, 6)),
    "NVIDIA-RTX-A6000": (49140, (8, 6)),
    "NVIDIA-RTX-6000-Ada-Generation": (49140, (8, 9)),
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": (97887, (12, 0)),
    "Quadro-RTX-6000": (24576, (7, 5)),
    "Quadro-RTX-8000": (49152, (7, 5)),
    "Tesla-P4": (8192, (6, 1)),
    "Tesla-P40": (24576, (6, 1)),
    "Tesla-P100-PCIE-16GB": (16384, (6, 0)),
    "Tesla-P100-SXM2-16GB": (16384, (6, 0)),
    "Tesla-T4": (15360, (7, 5)),
    "Tesla-V100-PCIE-16GB": (16384, (7, 0)),
    "Tesla-V100-PCIE-32GB": (32768, (7, 0)),
    "Tesla-V100-SXM2-16GB": (16384, (7, 0)),
    "Tesla-V100-SXM2-32GB": (32768, (7, 0)),
    "Tesla-V100-SXM3-32GB": (32768, (7, 0)),
}
SIZE = re.compile(r"-(\d+)GB\b")
# A slice has less than its name states, so much less at most.
SLICE_SHARE, SLICE_SHARES = 0.95, {"NVIDIA-H200": 0.88, "NVIDIA-H200-NVL": 0.88}
# The driver keeps a part of what nvidia-smi reports: CUDA, by whose total engines divide, has this much less.
DRIVER_SHARE, DRIVER_LEAST = 0.01, 400 * MIB
MAJOR, MINOR = "nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor"  # set by GPU feature discovery


@dataclass(frozen=True, slots=True)
class Candidates:
    """The GPUs that a replica may get."""

    gpus: tuple[Gpu, ...]
    unknown: tuple[str, ...] = ()
    """Products that were named and whose memory is not known."""
    named: bool = True
    """The manifest names them; else they are what the cluster has now."""


def of_product(product: str) -> Gpu:
    """A GPU by its name alone; None for what neither table nor name gives, and for a share of a time-sliced GPU."""
    name = product.removesuffix(SHARED)
    if part := SLICE.match(name):
        whole = of_product(part["whole"])
        share = SLICE_SHARES.get(part["whole"], SLICE_SHARE)
        return Gpu(product, int(int(part["size"]) * GIB * share) if name == product else None, whole.capability)
    if name in PRODUCTS:
        total, capability = PRODUCTS[name]
        return Gpu(product, of_cuda(total * MIB) if name == product else None, capability)
    size = SIZE.search(name)
    return Gpu(product, of_cuda(int(size[1]) * GIB) if size is not None and name == product else None, None)


def of_node(labels: Mapping[str, str], resource: str = "nvidia.com/gpu") -> Gpu | None:
    """A node's GPU by its labels, completed by the product; None without a product."""
    if (product := product_of(labels, resource)) is None:
        return None
    product = _sliced(product, resource)
    shares = shares_of(labels, resource)
    known = of_product(product.removesuffix(SHARED))
    memory, capability = known.memory, known.capability
    if (total := memory_of(labels, resource)) is not None:
        whole = total * MIB
        memory = whole if SLICE.match(product) else of_cuda(whole)
    elif product.endswith(SHARED) and shares == 1:
        memory = None  # shared among a number that is not known
    if (major := labels.get(MAJOR, "")).isdigit():
        minor = labels.get(MINOR, "")
        capability = (int(major), int(minor) if minor.isdigit() else 0)
    return Gpu(product, None if memory is None else memory // shares, capability, shares)


def candidates(hardware: Hardware, nodes: Nodes | None) -> Candidates:
    """GPUs of the products that the manifest names, or else of the nodes that would do."""
    seen, shared = ((), ()) if nodes is None else (nodes.gpus, nodes.shared if hardware.gpus > 1 else ())
    if not hardware.products:
        return Candidates(tuple(gpu for gpu in seen or shared if gpu.memory is not None), named=False)
    found, unknown = [], []
    for product in hardware.products:
        names = known_as(product)
        # By a label of the manifest's own, a node's GPU may have any name.
        gpus = [gpu for gpu in seen if hardware.product_label or _is_any(gpu, names)]
        gpus = gpus or [gpu for gpu in shared if _is_any(gpu, names)]
        gpus = gpus or [of_product(_sliced(name, hardware.resource_name or "")) for name in names]
        known = [gpu for gpu in gpus if gpu.memory is not None or gpu.capability is not None]
        found += known
        unknown += [gpu.product for gpu in gpus if gpu.memory is None]
    return Candidates(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(unknown)))


def of_cuda(total: int) -> int:
    """The part of the total, as nvidia-smi reports it, that CUDA has."""
    return total - max(DRIVER_LEAST, int(total * DRIVER_SHARE))


def is_slice(product: str | None) -> bool:
    """True if it is a part of a GPU (MIG); NCCL joins none of these."""
    return product is not None and SLICE.match(product) is not None


def is_shared(gpu: Gpu) -> bool:
    """True if pods take turns on it."""
    return gpu.shares > 1 or gpu.product.endswith(SHARED)


def _is_any(gpu: Gpu, names: Collection[str]) -> bool:
    return gpu.product in names or _plain(gpu.product) in names


def _plain(product: str) -> str:
    """The GPU of which it is a share or a slice."""
    name = product.removesuffix(SHARED)
    part = SLICE.match(name)
    return part["whole"] if part else name


def _sliced(product: str, resource: str) -> str:
    """A slice's name, where the resource is the slice and the product the whole GPU."""
    profile = MIG_RESOURCE.match(resource.removesuffix(".shared"))
    return product if profile is None or SLICE.match(product) else f"{product}-MIG-{profile['profile']}"


def capability_text(capability: Capability) -> str:
    return ".".join(map(str, capability))
