"""Memory of the cards, by the value of the node label `nvidia.com/gpu.product`.

Total memory in MiB as nvidia-smi reports it (memory.total), which is what GPU feature discovery puts into the
label nvidia.com/gpu.memory.
"""

from __future__ import annotations

import re

from octavo_operator.planner.sizes import GIB, MIB

MEMORY_MIB = {
    "NVIDIA-A2": 15356,
    "NVIDIA-A10": 23028,
    "NVIDIA-A10G": 23028,
    "NVIDIA-A16": 15356,
    "NVIDIA-A30": 24576,
    "NVIDIA-A40": 46068,
    "NVIDIA-A100-PCIE-40GB": 40960,
    "NVIDIA-A100-SXM4-40GB": 40960,
    "NVIDIA-A100-80GB-PCIe": 81920,
    "NVIDIA-A100-SXM4-80GB": 81920,
    "NVIDIA-B200": 183359,
    "NVIDIA-GeForce-RTX-3090": 24576,
    "NVIDIA-GeForce-RTX-4090": 24564,
    "NVIDIA-GeForce-RTX-5090": 32607,
    "NVIDIA-GH200-480GB": 97871,
    "NVIDIA-H100-80GB-HBM3": 81559,
    "NVIDIA-H100-NVL": 95830,
    "NVIDIA-H100-PCIe": 81559,
    "NVIDIA-H200": 143771,
    "NVIDIA-H200-NVL": 143771,
    "NVIDIA-L4": 23034,
    "NVIDIA-L40": 46068,
    "NVIDIA-L40S": 46068,
    "NVIDIA-RTX-A4000": 16376,
    "NVIDIA-RTX-A5000": 24564,
    "NVIDIA-RTX-A6000": 49140,
    "NVIDIA-RTX-6000-Ada-Generation": 49140,
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": 97887,
    "Tesla-P100-PCIE-16GB": 16384,
    "Tesla-T4": 15360,
    "Tesla-V100-PCIE-16GB": 16384,
    "Tesla-V100-PCIE-32GB": 32768,
    "Tesla-V100-SXM2-16GB": 16384,
    "Tesla-V100-SXM2-32GB": 32768,
    "Tesla-V100-SXM3-32GB": 32768,
}

SLICE = re.compile(r"-MIG-\d+c?\.?\d*g\.(\d+)gb")
SIZE = re.compile(r"-(\d+)GB\b")


def memory_of(product: str) -> int | None:
    """Bytes of one card of this product, or of one MIG slice; None where neither table nor name tells.

    A time-sliced card (`-SHARED`) counts whole: what its other users take is not known here.
    """
    product = product.removesuffix("-SHARED")
    if part := SLICE.search(product):
        return int(part[1]) * GIB
    if product in MEMORY_MIB:
        return MEMORY_MIB[product] * MIB
    if size := SIZE.search(product):
        return int(size[1]) * GIB
    return None


def smallest(products: tuple[str, ...]) -> tuple[str, int] | None:
    """The product with the least memory, which has to do; None where one of them is unknown, or none is named."""
    sizes = [(product, memory_of(product)) for product in products]
    known = [(size, product) for product, size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        return None
    size, product = min(known)
    return product, size
