"""Does it fit? Weights, overheads and KV against the memory of a card, and what would fit where it does not.

It fits if weights + overhead + the KV of `minConcurrency` sequences of `maxModelLen` ≤ memory ×
`gpuMemoryUtilization`. What is unknown blocks nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from octavo_models import ModelSpec
from octavo_models.sharding import kv_on_card, kv_once_on_card, obstacle, possible_sizes, weights_on_card
from octavo_models.spec import Experts
from octavo_operator.api.engine import Engine
from octavo_operator.planner.cards import smallest
from octavo_operator.planner.plan import CardBudget, Fit, Hardware, Limits
from octavo_operator.planner.sizes import GIB, MIB, gib, human, in_gib, round_up

# Device context, libraries and workspaces, before the first activation.
CONTEXT_ON_CARD = 512 * MIB
# API server, engine core and template worker, without torch: 115 MiB measured, and as much again for clients.
CONTEXT_ON_CPU = 256 * MIB
# Cards of one node: a larger tensor-parallel size is never proposed.
MOST_CARDS = 16
# Sequences that a CPU's KV cache has room for where neither manifest nor memory limit says more.
SEQUENCES_ON_CPU = 4
LEAST_KV_ON_CPU, MOST_KV_ON_CPU = 256 * MIB, 4 * GIB
UNKNOWN_KV_ON_CPU = GIB


@dataclass(frozen=True, slots=True)
class Demand:
    """What a service asks of each card, once the model is known."""

    spec: ModelSpec
    engine: Engine
    limits: Limits
    on_card: bool

    @property
    def max_model_len(self) -> int:
        return self.limits.max_model_len or self.spec.max_position

    def weights(self, tensor_parallel: int) -> int:
        dtype = None if self.engine.dtype == "auto" else self.engine.dtype
        if not self.on_card:
            return self.spec.weight_bytes(dtype)
        return weights_on_card(self.spec, dtype, tensor_parallel, self.engine.pipeline_parallel_size)

    def kv(self, tokens: int, tensor_parallel: int) -> int:
        engine = self.engine
        return kv_on_card(
            self.spec,
            tokens,
            self.limits.kv_format,
            engine.block_size,
            tensor_parallel,
            engine.pipeline_parallel_size,
        )

    def kv_once(self, tensor_parallel: int) -> int:
        engine = self.engine
        return kv_once_on_card(
            self.spec,
            self.max_model_len,
            self.limits.max_num_batched_tokens,
            self.limits.kv_format,
            engine.block_size,
            tensor_parallel,
            engine.pipeline_parallel_size,
        )

    def overhead(self, tensor_parallel: int) -> int:
        """Context, and the activations of one full step: residual stream, attention's and MLP's rows, logits."""
        element = 4 if self.engine.dtype == "float32" else 2
        rows = min(self.limits.max_num_batched_tokens, self.max_model_len * self.limits.max_num_seqs)
        widths = [_widths(self.spec, i, tensor_parallel) for i in range(len(self.spec.layers))]
        activations = rows * (2 * self.spec.hidden_size + max(widths)) * element
        logits = 2 * self.limits.max_num_seqs * self.spec.vocab_size * 4  # raw, and processed
        return (CONTEXT_ON_CARD if self.on_card else CONTEXT_ON_CPU) + activations + logits

    def budget(self, capacity: int, utilization: float, tensor_parallel: int, product: str | None) -> CardBudget:
        return CardBudget(
            capacity=capacity,
            usable=int(capacity * utilization),
            weights=self.weights(tensor_parallel),
            overhead=self.overhead(tensor_parallel),
            kv_per_sequence=self.kv(self.max_model_len, tensor_parallel),
            kv_once=self.kv_once(tensor_parallel),
            product=product,
        )

    def least_kv(self, tensor_parallel: int) -> int:
        """KV bytes below which it does not fit."""
        one = self.kv(self.max_model_len, tensor_parallel)
        return one * self.engine.min_concurrency + self.kv_once(tensor_parallel)

    def needed(self, tensor_parallel: int) -> int:
        """Bytes of all kinds below which it does not fit."""
        return self.weights(tensor_parallel) + self.overhead(tensor_parallel) + self.least_kv(tensor_parallel)


def kv_format(engine: Engine, spec: ModelSpec | None) -> str:
    """The KV cache's format: bfloat16, float32 where the model runs in float32, or what `kvCacheDtype` says."""
    if engine.kv_cache_dtype.startswith("fp8"):
        return "f8_e4m3"
    if engine.kv_cache_dtype != "auto":
        return {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}[engine.kv_cache_dtype]
    plain_float32 = spec is not None and spec.dtype == "float32" and spec.quantization is None
    return "f32" if engine.dtype == "float32" or (engine.dtype == "auto" and plain_float32) else "bf16"


def kv_bytes_on_cpu(demand: Demand | None, memory: int | None) -> int:
    """Bytes of a CPU's KV cache: what the memory limit leaves, else room for a few sequences.

    At most 4 GiB without a limit, unless one sequence alone needs more. For an unknown model half of the limit, or
    one GiB.
    """
    if demand is None:
        return UNKNOWN_KV_ON_CPU if memory is None else memory // 2
    one, once, least = demand.kv(demand.max_model_len, 1), demand.kv_once(1), demand.least_kv(1)
    if memory is not None:
        left = memory - demand.weights(1) - demand.overhead(1)
        most = one * demand.limits.max_num_seqs + once  # more could never be used
        return max(least, min(left, most) // MIB * MIB)
    return round_up(max(least, min(max(SEQUENCES_ON_CPU * one + once, LEAST_KV_ON_CPU), MOST_KV_ON_CPU)), MIB)


def fit_on_cards(demand: Demand | None, engine: Engine, hardware: Hardware, why_unknown: str) -> Fit:
    """The verdict for cards."""
    if demand is None:
        return Fit("Unknown", "ModelUnknown", f"whether it fits is not known: {why_unknown}")
    tensor_parallel = engine.tensor_parallel_size
    hindrance = obstacle(demand.spec, tensor_parallel, engine.pipeline_parallel_size)
    card = smallest(hardware.products)
    if hindrance is not None:
        sizes = possible_sizes(demand.spec, engine.pipeline_parallel_size, MOST_CARDS)
        if card is not None:
            sizes = [s for s in sizes if demand.needed(s) <= card[1] * engine.gpu_memory_utilization] or sizes
        near = min(sizes, key=lambda size: (abs(size - tensor_parallel), size), default=1)
        return Fit("False", "CannotBeDivided", hindrance, f"set engine.tensorParallelSize: {near}")
    if card is None:
        unnamed = "no product is named" if not hardware.products else "the memory of the products named is not known"
        message = (
            f"each card needs {gib(demand.needed(tensor_parallel))} GiB; whether it has that is not known: {unnamed}"
        )
        return Fit("Unknown", "CardUnknown", message)
    product, capacity = card
    budget = demand.budget(capacity, engine.gpu_memory_utilization, tensor_parallel, product)
    if budget.kv >= demand.least_kv(tensor_parallel):
        return Fit("True", "Fits", _room(budget, demand), None, budget)
    cards = "" if hardware.cards == 1 else f" on each of {hardware.cards}"
    message = (
        f"weights {in_gib(budget.weights)} + overhead {in_gib(budget.overhead)} + "
        f"{_kv_words(demand, budget, in_gib)} do not fit"
        f" 1 × {gib(budget.usable).removesuffix('.0')} GiB{cards} ({product} × {engine.gpu_memory_utilization:.2f})"
    )
    return Fit("False", "DoesNotFit", message, _remedy(demand, engine, budget), budget)


def fit_in_memory(demand: Demand | None, memory: int | None, why_unknown: str) -> Fit:
    """The verdict for a CPU, against the container's memory limit or request."""
    if demand is None:
        return Fit("Unknown", "ModelUnknown", f"whether it fits is not known: {why_unknown}")
    capacity = memory
    if capacity is None:
        assert demand.limits.kv_cache_bytes is not None
        capacity = demand.weights(1) + demand.overhead(1) + demand.limits.kv_cache_bytes
    budget = demand.budget(capacity, 1.0, 1, None)
    if budget.kv >= demand.least_kv(1):
        return Fit("True", "Fits", _room(budget, demand), None, budget)
    message = (
        f"weights {human(budget.weights)} + overhead {human(budget.overhead)} + {_kv_words(demand, budget, human)}"
        f" do not fit the container's memory, {human(capacity)}"
    )
    needed = round_up(demand.needed(1), 256 * MIB)
    remedies = [f"set resources.requests.memory: {needed // MIB}Mi"]
    if shorter := _longest(demand, budget, 1):
        remedies.append(f"engine.maxModelLen: {shorter}")
    return Fit("False", "DoesNotFit", message, ", or ".join(remedies), budget)


def _remedy(demand: Demand, engine: Engine, budget: CardBudget) -> str:
    usable, remedies = budget.usable, []
    # NCCL does not join slices of a card.
    most = 1 if budget.product is not None and "-MIG-" in budget.product else MOST_CARDS
    sizes = possible_sizes(demand.spec, engine.pipeline_parallel_size, most)
    more = next((s for s in sizes if s > engine.tensor_parallel_size and demand.needed(s) <= usable), None)
    if shorter := _longest(demand, budget, engine.tensor_parallel_size):
        remedies.append(f"engine.maxModelLen: {shorter}")
    if more is not None:
        remedies.append(f"engine.tensorParallelSize: {more}")
    if remedies:
        return "set " + ", or ".join(remedies)
    needed = math.ceil(demand.needed(engine.tensor_parallel_size) / engine.gpu_memory_utilization / GIB)
    return f"use cards of {needed} GiB or more, or a quantized model"


def _longest(demand: Demand, budget: CardBudget, tensor_parallel: int) -> int | None:
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


def _room(budget: CardBudget, demand: Demand) -> str:
    count = min(budget.sequences, demand.limits.max_num_seqs)
    sequences = "one sequence" if count == 1 else f"{count} sequences"
    return f"{sequences} of {demand.max_model_len} tokens at once"


def _kv_words(demand: Demand, budget: CardBudget, show: Callable[[int], str]) -> str:
    many = demand.engine.min_concurrency
    amount = show(budget.kv_per_sequence * many)
    for_whom = "one sequence" if many == 1 else f"{many} sequences (minConcurrency)"
    return f"KV {amount} for {for_whom} of {demand.max_model_len} tokens"


def _widths(spec: ModelSpec, index: int, tensor_parallel: int) -> int:
    """Elements a row that one layer holds at its widest, in attention or in the MLP: they do not live at once."""
    layer = spec.layers[index]
    mlp = layer.mlp.expert if isinstance(layer.mlp, Experts) else layer.mlp
    attention = layer.attention
    in_attention = attention.q_size + attention.k_size + attention.v_size + attention.o_size
    return max(in_attention, mlp.intermediate_size * (2 if mlp.gated else 1)) // tensor_parallel
