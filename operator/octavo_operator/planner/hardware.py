"""Cards and container resources of a replica."""

from __future__ import annotations

from octavo_operator.api.placement import Accelerator, Resources
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import Spec
from octavo_operator.planner.plan import ContainerResources, Hardware
from octavo_operator.planner.sizes import GIB, MIB, round_up

RESOURCE_NAME = "nvidia.com/gpu"
PRODUCT_LABEL = "nvidia.com/gpu.product"  # set by GPU feature discovery


def hardware_of(spec: Spec) -> Hardware:
    """The cards that the parallel sizes ask for."""
    accelerator = spec.accelerator or Accelerator()
    if accelerator.vendor == "cpu":
        return Hardware("cpu", 0, None, (), None)
    cards = spec.engine.tensor_parallel_size * spec.engine.pipeline_parallel_size
    name = accelerator.resource_name or RESOURCE_NAME
    return Hardware("nvidia", cards, name, tuple(accelerator.products), PRODUCT_LABEL)


def memory_limit(resources: Resources) -> int | None:
    """The memory that the container has for sure: its limit, else its request."""
    for amounts in (resources.limits, resources.requests):
        if "memory" in amounts:
            return int(amounts["memory"])
    return None


def shared_memory(spec: Spec, hardware: Hardware) -> Quantity:
    """Size of /dev/shm: NCCL's buffers and the queues between ranks grow with the cards; a CPU's ranks use sockets."""
    if spec.shared_memory is not None:
        return spec.shared_memory
    if hardware.cards == 0:
        return Quantity("256Mi")
    return Quantity(f"{min(16, 4 * hardware.cards)}Gi")


def container_resources(spec: Spec, hardware: Hardware, memory_needed: int | None) -> ContainerResources:
    """Requests and limits, the manifest's first. `memory_needed` is what a CPU replica takes, None if unknown.

    On cards, memory holds the /dev/shm, the swap space and the process itself; weights only pass through.
    """
    shm = shared_memory(spec, hardware)
    requests = {name: str(amount) for name, amount in spec.resources.requests.items()}
    limits = {name: str(amount) for name, amount in spec.resources.limits.items()}
    if hardware.cards:
        assert hardware.resource_name is not None
        memory = int(shm) + int(spec.engine.swap_space) * hardware.cards + 8 * GIB
        requests.setdefault("cpu", limits.get("cpu", str(2 + 2 * hardware.cards)))
        requests.setdefault("memory", limits.get("memory", str(Quantity.of_bytes(round_up(memory, GIB)))))
        requests[hardware.resource_name] = limits[hardware.resource_name] = str(hardware.cards)
    else:
        requests.setdefault("cpu", limits.get("cpu", "2"))
        if memory_needed is not None:
            needed = Quantity.of_bytes(round_up(memory_needed + int(shm), 64 * MIB))
            requests.setdefault("memory", limits.get("memory", str(needed)))
            # What the KV cache was sized by is also the bound: a leak ends this pod, not its neighbours.
            limits.setdefault("memory", requests["memory"])
    return ContainerResources(requests, limits, str(shm))
