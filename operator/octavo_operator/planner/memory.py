"""Fit: a service's demand against the memory of a GPU, and what would fit where it does not.

It fits if weights + overhead + the KV of `minConcurrency` sequences of `maxModelLen` ≤ memory ×
`gpuMemoryUtilization`. What is unknown blocks nothing, nor does what the estimate's error could turn around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from octavo_models.sharding import obstacle
from octavo_operator.api.engine import Engine
from octavo_operator.api.observed import Capability, Gpu
from octavo_operator.api.reasons import FitReason
from octavo_operator.planner.demand import CONTEXT_ON_GPU, Demand
from octavo_operator.planner.given_flags import shares_out_experts
from octavo_operator.planner.gpus import PRODUCTS, Candidates, capability_text, is_shared, is_slice, of_product
from octavo_operator.planner.plan import Fit, GpuBudget, Hardware
from octavo_operator.planner.sizes import GIB, MIB, gib, human, in_gib, round_up
from octavo_operator.runtimes import RUNTIMES, runtime_of

# GPUs of one node: a larger tensor-parallel size is never proposed.
MOST_GPUS = 16
# Products that a remedy names.
MOST_NAMED = 4


def fit_on_gpus(
    demand: Demand | None,
    model_bytes: int | None,
    engine: Engine,
    hardware: Hardware,
    found: Candidates,
    why_unknown: str,
) -> Fit:
    """The verdict for GPUs. `model_bytes` is the size of the files, for a model that nothing more is known of."""
    needed, apart = runtime_of(engine).oldest_gpu(engine), _parts(found, engine)
    if apart is not None:
        return apart
    young = tuple(gpu for gpu in found.gpus if gpu.capability is None or gpu.capability >= needed)
    old = tuple(gpu for gpu in found.gpus if gpu not in young)
    if old and (found.named or not young):
        return _too_old(old, needed, demand, engine, remove=bool(young or found.unknown) and found.named)
    if demand is not None:
        sizes = engine.tensor_parallel_size, engine.pipeline_parallel_size
        hindrance = obstacle(demand.spec, *sizes, whole_experts=shares_out_experts(engine))
        if hindrance is not None:
            return Fit("False", FitReason.CANNOT_BE_DIVIDED, hindrance, _dividing(demand, engine, young))
    if demand is None and model_bytes is None:
        return Fit("Unknown", FitReason.MODEL_UNKNOWN, f"whether it fits is not known: {why_unknown}")
    known = tuple(gpu for gpu in young if gpu.memory is not None)
    if not known or found.unknown:
        return _gpu_unknown(demand, model_bytes, engine, found)

    def verdict(gpu: Gpu) -> Fit:
        assert gpu.memory is not None
        if demand is None:
            assert model_bytes is not None
            return _by_size(model_bytes, engine, hardware, gpu, why_unknown)
        return _on(demand, engine, hardware, gpu)

    smallest = verdict(min(known, key=_memory))
    if found.named:
        return smallest
    largest = verdict(max(known, key=_memory))
    if largest.state == "False" or (smallest.state == largest.state and not old):
        return largest if largest.state == "False" else smallest
    good = sorted({gpu.product for gpu in known if verdict(gpu).state != "False"})
    unusable = {gpu.product for gpu in known if verdict(gpu).state == "False"} | {gpu.product for gpu in old}
    bad = ", ".join(sorted(unusable))
    message = f"it depends on the node: {', '.join(good)} would do ({largest.message}), {bad} would not"
    return Fit(
        "Unknown", FitReason.DEPENDS_ON_NODE, message, f"set accelerator.products: [{', '.join(good)}]", largest.budget
    )


def fit_in_memory(demand: Demand | None, model_bytes: int | None, memory: int | None, why_unknown: str) -> Fit:
    """The verdict for a CPU, against the container's memory limit or request."""
    if demand is None:
        if model_bytes is not None and memory is not None and model_bytes > memory:
            message = f"the model's files, {human(model_bytes)}, are more than the container's memory, {human(memory)}"
            least = round_up(model_bytes * 5 // 4, 256 * MIB)
            return Fit(
                "False", FitReason.DOES_NOT_FIT, message, f"set resources.requests.memory: {least // MIB}Mi or more"
            )
        return Fit("Unknown", FitReason.MODEL_UNKNOWN, f"whether it fits is not known: {why_unknown}")
    capacity = memory
    if capacity is None:
        assert demand.limits.kv_cache_bytes is not None
        capacity = demand.weights(1) + demand.overhead(1) + demand.limits.kv_cache_bytes
    budget = demand.budget(capacity, 1.0, 1, None)
    if budget.kv >= demand.least_kv(1):
        return Fit("True", FitReason.FITS, _capacity(budget, demand), None, budget)
    message = (
        f"weights {human(budget.weights)} + overhead {human(budget.overhead)} + {_kv_words(demand, budget, human)}"
        f" do not fit the container's memory, {human(capacity)}"
    )
    needed = round_up(demand.needed(1), 256 * MIB)
    remedies = [f"set resources.requests.memory: {needed // MIB}Mi"]
    if shorter := longest(demand, budget, 1):
        remedies.append(f"engine.maxModelLen: {shorter}")
    return Fit("False", FitReason.DOES_NOT_FIT, message, ", or ".join(remedies), budget)


def longest(demand: Demand, budget: GpuBudget, tensor_parallel: int) -> int | None:
    """The largest maxModelLen that fits, in steps a person would choose; None below 512 tokens."""
    if budget.kv <= 0:
        return None
    low, high = 0, demand.max_model_len
    while low < high:  # KV grows with the length
        middle = (low + high + 1) // 2
        if demand.kv(middle, tensor_parallel) * demand.engine.min_concurrency + budget.kv_once <= budget.kv:
            low = middle
        else:
            high = middle - 1
    step = 1024 if low >= 2048 else 256
    length = low // step * step
    return length if 512 <= length < demand.max_model_len else None


def _parts(found: Candidates, engine: Engine) -> Fit | None:
    """Several GPUs for one replica, of which each is a share or a slice: two of them may be the same GPU."""
    ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size
    parts = [gpu for gpu in found.gpus if is_shared(gpu) or is_slice(gpu.product)]
    if ranks == 1 or not parts or (len(parts) < len(found.gpus) and not found.named):
        return None
    names = ", ".join(sorted({gpu.product for gpu in parts}))
    why = "parts of a GPU (MIG) can't work together" if is_slice(parts[0].product) else "pods take turns on it"
    message = f"a replica takes {ranks} GPUs, and {names} is no whole one: {why}"
    remedy = "set engine.tensorParallelSize: 1"
    if engine.pipeline_parallel_size > 1:
        remedy += " and engine.pipelineParallelSize: 1"
    return Fit("False", FitReason.GPU_SHARED, message, f"{remedy}, or use nodes with whole GPUs")


def _utilization(engine: Engine, gpu: Gpu) -> float:
    """The share of a pod's memory that the engine takes: on a GPU that several share, it takes of the whole."""
    return min(1.0, engine.gpu_memory_utilization * gpu.shares)


def _on(demand: Demand, engine: Engine, hardware: Hardware, gpu: Gpu) -> Fit:
    """The verdict for one kind of GPU."""
    product, capacity = gpu.product, gpu.memory
    assert capacity is not None
    budget = demand.budget(capacity, _utilization(engine, gpu), engine.tensor_parallel_size, product, gpu.shares)
    least = demand.least_kv(engine.tensor_parallel_size)
    if budget.kv >= least:
        return Fit("True", FitReason.FITS, _capacity(budget, demand), None, budget)
    where = "" if hardware.gpus == 1 else f" on each of {hardware.gpus}"
    shared = f" ÷ {gpu.shares}" if gpu.shares > 1 else ""
    message = (
        f"weights {in_gib(budget.weights)} + overhead {in_gib(budget.overhead)} + "
        f"{_kv_words(demand, budget, in_gib)} do not fit"
        f" 1 × {gib(budget.usable).removesuffix('.0')} GiB{where} ({product}{shared} × {_utilization(engine, gpu):.2f})"
    )
    remedy = _remedy(demand, engine, budget, whole=gpu.shares == 1 and not is_slice(product))
    if budget.kv + budget.error >= least:
        close = f"{message}; short of {in_gib(least - budget.kv)}, which is within the estimate's {_error(budget)}"
        return Fit("Unknown", FitReason.BORDERLINE, close, remedy, budget)
    return Fit("False", FitReason.DOES_NOT_FIT, message, remedy, budget)


def _by_size(size: int, engine: Engine, hardware: Hardware, gpu: Gpu, why_unknown: str) -> Fit:
    """A lower bound: the files alone against the memory."""
    assert gpu.memory is not None
    product, usable = gpu.product, int(gpu.memory * _utilization(engine, gpu))
    share = -(-size // hardware.gpus)
    where = "each GPU" if hardware.gpus > 1 else "the GPU"
    if share + CONTEXT_ON_GPU <= usable:
        left = in_gib(usable - share - CONTEXT_ON_GPU)
        message = f"the weights take {in_gib(share)} of {where} and leave {left} for the KV cache and a step's work"
        return Fit("Unknown", FitReason.MODEL_UNKNOWN, f"{message}; whether that is enough is not known: {why_unknown}")
    message = f"the weights alone, {in_gib(share)} of {where}, do not fit {in_gib(usable)} ({product})"
    stages = engine.pipeline_parallel_size
    sizes = [1] if is_slice(product) or gpu.shares > 1 else [1, 2, 4, 8, 16]
    more = next((s for s in sizes if size / (s * stages) + CONTEXT_ON_GPU <= usable * 0.95), None)
    if more is not None:
        return Fit("False", FitReason.DOES_NOT_FIT, message, f"set engine.tensorParallelSize: {more} or more")
    least = math.ceil(size / hardware.gpus / engine.gpu_memory_utilization / GIB)
    return Fit(
        "False",
        FitReason.DOES_NOT_FIT,
        message,
        f"use GPUs of more than {least} GiB, or more of them in several stages",
    )


def _too_old(old: Iterable[Gpu], needed: Capability, demand: Demand | None, engine: Engine, *, remove: bool) -> Fit:
    had = {gpu.product: capability_text(gpu.capability) for gpu in old if gpu.capability is not None}
    have = ", ".join(f"{product} has {capability}" for product, capability in sorted(had.items()))
    message = f"engine.runtime {engine.runtime} needs compute capability {capability_text(needed)} or newer, and {have}"
    if remove:
        return Fit(
            "False", FitReason.GPU_TOO_OLD, message, f"remove {', '.join(sorted(had))} from accelerator.products"
        )
    remedies = [f"set accelerator.products to some that would do, such as {', '.join(_suitable(demand, engine))}"]
    others = [
        name
        for name, runtime in RUNTIMES.items()
        if all(gpu.capability is not None and gpu.capability >= runtime.capability for gpu in old)
        and engine.dtype != "bfloat16"
    ]
    if others:
        remedies.append(f"engine.runtime: {' or '.join(others)}")
    return Fit("False", FitReason.GPU_TOO_OLD, message, ", or set ".join(remedies))


def _suitable(demand: Demand | None, engine: Engine) -> list[str]:
    """Products that are new enough and, where the model is known, large enough; the smallest first."""
    gpus = [of_product(name) for name in PRODUCTS]
    fitting = [
        gpu
        for gpu in gpus
        if gpu.capability is not None
        and gpu.capability >= runtime_of(engine).oldest_gpu(engine)
        and gpu.memory is not None
        and (demand is None or demand.needed(engine.tensor_parallel_size) <= gpu.memory * engine.gpu_memory_utilization)
    ]
    return [gpu.product for gpu in sorted(fitting, key=_memory)[:MOST_NAMED]] or ["none that is known: split the model"]


def _gpu_unknown(demand: Demand | None, size: int | None, engine: Engine, found: Candidates) -> Fit:
    ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size
    if demand is not None:
        amount = f"{gib(demand.needed(engine.tensor_parallel_size))} GiB"
    else:
        assert size is not None
        amount = f"{gib(-(-size // ranks))} GiB for the weights alone"
    if found.unknown:
        why = f"the memory of {', '.join(found.unknown)} is not known"
    elif found.named:
        why = "the memory of the products named is not known"
    else:
        why = "no product is named, and no node with labels of GPU feature discovery is seen"
    return Fit("Unknown", FitReason.GPU_UNKNOWN, f"each GPU needs {amount}; whether it has that is not known: {why}")


def _dividing(demand: Demand, engine: Engine, gpus: Iterable[Gpu]) -> str:
    sizes = demand.sizes(MOST_GPUS)
    memories = [gpu.memory for gpu in gpus if gpu.memory is not None]
    if memories:
        sizes = [s for s in sizes if demand.needed(s) <= min(memories) * engine.gpu_memory_utilization] or sizes
    near = min(sizes, key=lambda size: (abs(size - engine.tensor_parallel_size), size), default=1)
    return f"set engine.tensorParallelSize: {near}"


def _remedy(demand: Demand, engine: Engine, budget: GpuBudget, *, whole: bool) -> str:
    usable, remedies = budget.usable, []
    sizes = demand.sizes(MOST_GPUS if whole else 1)
    more = next((s for s in sizes if s > engine.tensor_parallel_size and demand.needed(s) <= usable), None)
    if shorter := longest(demand, budget, engine.tensor_parallel_size):
        remedies.append(f"engine.maxModelLen: {shorter}")
    if more is not None:
        remedies.append(f"engine.tensorParallelSize: {more}")
    if remedies:
        return "set " + ", or ".join(remedies)
    needed = math.ceil(demand.needed(engine.tensor_parallel_size) / engine.gpu_memory_utilization / GIB)
    return f"use GPUs of {needed} GiB or more, or a quantized model"


def _capacity(budget: GpuBudget, demand: Demand) -> str:
    if demand.spec.pooling is not None:
        return f"prompts of up to {demand.max_model_len} tokens, without a KV cache"
    most = demand.limits.max_num_seqs
    count = min(budget.sequences, most)
    sequences = "one sequence" if count == 1 else f"{count} sequences"
    text = f"{sequences} of {demand.max_model_len} tokens at once"
    if not budget.error:
        return text
    low, high = (min(n, most) for n in budget.sequences_within_error)
    spread = "" if low == high else f"{low} to {high}, "
    return f"{text} ({spread}memory {_error(budget)})"


def _error(budget: GpuBudget) -> str:
    return f"± {in_gib(budget.error)}"


def _kv_words(demand: Demand, budget: GpuBudget, show: Callable[[int], str]) -> str:
    if demand.spec.pooling is not None:
        return "no KV"
    many = demand.engine.min_concurrency
    amount = show(budget.kv_per_sequence * many)
    for_whom = "one sequence" if many == 1 else f"{many} sequences (minConcurrency)"
    return f"KV {amount} for {for_whom} of {demand.max_model_len} tokens"


def _memory(gpu: Gpu) -> int:
    assert gpu.memory is not None
    return gpu.memory
