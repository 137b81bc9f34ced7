"""GPUs and container resources of a replica."""

from __future__ import annotations

from fractions import Fraction

from octavo_operator.api.placement import Accelerator, Resources
from octavo_operator.api.quantity import Quantity
from octavo_operator.api.v1alpha1 import Spec
from octavo_operator.planner.node_labels import selection
from octavo_operator.planner.plan import ContainerResources, Hardware, Limits
from octavo_operator.planner.request_memory import request_bytes
from octavo_operator.planner.sizes import GIB, MIB, round_up
from octavo_operator.runtimes import runtime_of

RESOURCE_NAME = "nvidia.com/gpu"
# Two of them fit a one-node cluster of two cores with its system pods. A replica uses what is idle.
CPU_ALONE = "400m"
PROCESS_BESIDE_GPU = 2 * GIB  # API server and engine core, when idle
REQUESTS_OF_OTHERS = GIB  # of a runtime whose bounds are not known
RANK_BESIDE_GPU = 2 * GIB  # torch, the driver's own, and a shard of the weights on its way


def hardware_of(spec: Spec) -> Hardware:
    """The GPUs that the parallel sizes require."""
    accelerator = spec.accelerator or Accelerator()
    if accelerator.vendor == "cpu":
        return Hardware("cpu", 0, None, ())
    gpus = spec.engine.tensor_parallel_size * spec.engine.pipeline_parallel_size
    name = accelerator.resource_name or RESOURCE_NAME
    terms = selection(tuple(accelerator.products), accelerator.product_label, name, together=gpus > 1)
    return Hardware("nvidia", gpus, name, tuple(accelerator.products), terms, accelerator.product_label)


def memory_limit(resources: Resources) -> int | None:
    """The memory that the container is guaranteed: its limit, else its request."""
    for amounts in (resources.limits, resources.requests):
        if "memory" in amounts:
            return int(amounts["memory"])
    return None


def shared_memory(spec: Spec, hardware: Hardware) -> Quantity:
    """Size of /dev/shm: NCCL's buffers and the queues between ranks grow with the GPUs; a CPU's ranks use sockets."""
    if spec.shared_memory is not None:
        return spec.shared_memory
    if hardware.gpus == 0:
        return Quantity("256Mi")
    return Quantity(f"{min(16, 4 * hardware.gpus)}Gi")


def container_resources(
    spec: Spec, hardware: Hardware, memory_needed: int | None, downloaded: int | None, limits: Limits
) -> ContainerResources:
    """Requests and limits, the manifest's first.

    `memory_needed` is what a CPU replica takes, `downloaded` what it fetches onto the node's disk; None if unknown.
    Defaults are what a replica is sure to use, so that the smallest machine with one GPU, or a laptop's cluster, takes
    it: /dev/shm is a bound, of which little is used, and weights only pass through the memory.
    """
    shm = shared_memory(spec, hardware)
    requests = {name: str(amount) for name, amount in spec.resources.requests.items()}
    bounds = {name: str(amount) for name, amount in spec.resources.limits.items()}
    if hardware.gpus:
        assert hardware.resource_name is not None
        swap = pinned(int(spec.engine.swap_space)) if runtime_of(spec.engine).swaps else 0
        bounded = runtime_of(spec.engine).bounds_requests
        largest = request_bytes(limits.max_model_len or 0) if bounded else REQUESTS_OF_OTHERS
        memory = PROCESS_BESIDE_GPU + largest + hardware.gpus * (swap + RANK_BESIDE_GPU)
        requests.setdefault("cpu", bounds.get("cpu", str(1 + hardware.gpus)))
        requests.setdefault("memory", bounds.get("memory", str(Quantity.of_bytes(round_up(memory, GIB)))))
        requests[hardware.resource_name] = bounds[hardware.resource_name] = str(hardware.gpus)
    else:
        requests.setdefault("cpu", bounds.get("cpu", CPU_ALONE))
        if memory_needed is not None:
            # What the KV cache was sized by is also the bound: a leak ends this pod, not its neighbours. The largest
            # requests are rare, so that what they take is not set aside.
            asked, most = (
                str(Quantity.of_bytes(round_up(amount + int(shm), 64 * MIB)))
                for amount in (memory_needed - limits.request_bytes, memory_needed)
            )
            bounds.setdefault("memory", requests.get("memory", most))
            requests.setdefault("memory", asked if "memory" not in spec.resources.limits else bounds["memory"])
    if downloaded is not None:
        disk = str(Quantity.of_bytes(round_up(downloaded * Fraction(11, 10), GIB)))
        requests.setdefault("ephemeral-storage", bounds.get("ephemeral-storage", disk))
    return ContainerResources(requests, bounds, str(shm))


def pinned(count: int) -> int:
    """The host memory that PyTorch takes for `count` bytes that a GPU reads: the next power of two."""
    return 1 << (count - 1).bit_length() if count else 0


def requests_in_words(spec: Spec, resources: ContainerResources) -> str | None:
    """The default requests, and the fields that change them, in words; None where the manifest sets them all."""
    ours = [n for n in ("cpu", "memory") if n in resources.requests and n not in spec.resources.requests]
    if not ours:
        return None
    amounts = " and ".join(f"{_UNITS[name]} {resources.requests[name]}" for name in ours)
    fields = " and ".join(f"resources.requests.{name}" for name in ours)
    return f"a replica requests {amounts} by default; {fields} set{'' if len(ours) > 1 else 's'} another amount"


_UNITS = {"cpu": "CPU", "memory": "memory"}
