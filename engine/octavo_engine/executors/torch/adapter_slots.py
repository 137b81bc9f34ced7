"""Low-rank adapters on a rank: all that are kept in host memory, and some of them in slots on the device.

Owns the slots' memory, which adapter lies in which, and a rank's part of each. A slot is one run of elements, so that
it is filled by one copy, behind the steps that were launched before: whatever read it until then has read it. Addresses
stay, as captured graphs need. Independent of requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo_engine.config import AdapterConfig, EngineConfig
from octavo_engine.errors import ExecutorError
from octavo_engine.kernels.adapter_weights import AdapterWeights
from octavo_engine.weights.adapter import Adapter, LowRank
from octavo_models.adapted import AdaptedProduct, adapted_products, aligned, slot_elements
from octavo_models.outline import Model, ModelOutline
from octavo_models.partition import Place, Shard, part, shards
from octavo_models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class _Kept:
    """One adapter in host memory, as its slot has it; page-locked beside a GPU."""

    numbers: Tensor | None  # [elements of a slot]; None: it has no part here
    ranks: Tensor  # [num_products] int32


@dataclass(frozen=True, slots=True)
class _Room:
    """The place of one weight's matrices within a slot."""

    product: int
    a: int  # the first element
    b: int
    shape: tuple[int, int]  # of the weight, on this rank


def without_adapters(config: EngineConfig, model: Model) -> str:
    """The reason why an engine of `model` has no slots, and what to do."""
    if isinstance(model, ModelOutline):
        return (
            "transformers computes this model, and adapters change the engine's own products alone: leave "
            "--model-impl transformers out, or merge the adapter into the model's weights"
        )
    if model.pooling is not None:
        return "a model that pools takes no adapters: merge the adapter into its weights"
    assert not config.adapters.enabled
    return "this engine was started without adapters: start it with --enable-lora"


class AdapterSlots:
    """The adapters of the rank at `place` of the model `whole`."""

    def __init__(
        self, whole: ModelSpec, place: Place, config: AdapterConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._products = adapted_products(part(whole, place))
        self._adaptable = {name for product in adapted_products(whole) for name in product.names}
        self._shapes = {weight.name: weight.shape for weight in whole.weights}
        self._shards = {shard.whole.name: shard for shard in shards(whole, place)}
        self._rank = config.max_lora_rank
        self._device = device
        elements = slot_elements(self._products, self._rank)
        self._slots = torch.zeros(config.max_loras, elements, dtype=dtype, device=device)
        self._ranks = torch.zeros(len(self._products), config.max_loras, dtype=torch.int32, device=device)
        self._rooms: dict[str, _Room] = {}
        self._weights: dict[tuple[str, ...], AdapterWeights] = {}
        at = 0
        for number, product in enumerate(self._products):
            at = self._divide(number, product, at)
        self._kept: dict[int, _Kept] = {}
        self._slot_of: dict[int, int] = {}  # the one that was used longest ago comes first
        self._free = list(range(config.max_loras))

    @property
    def max_loras(self) -> int:
        return len(self._slots)

    @property
    def width(self) -> int:
        """The most rows that the first matrices of a product have together."""
        return max((len(product.names) * self._rank for product in self._products), default=0)

    def of(self, names: tuple[str, ...]) -> AdapterWeights | None:
        """The slots of the product of these weights; None if adapters can't change it."""
        return self._weights.get(names)

    def has(self, adapter_id: int) -> bool:
        """True if this adapter is kept."""
        return adapter_id in self._kept

    def keep(self, adapter: Adapter) -> None:
        """Take this rank's part of `adapter`.

        Raises:
            ExecutorError: it has a part for a weight that can't be adapted, or of other sizes.
        """
        for low_rank in adapter.parts:
            self._check(low_rank)
        ranks = torch.zeros(len(self._products), dtype=torch.int32)
        mine = [(part, self._shards[part.weight]) for part in adapter.parts if part.weight in self._shards]
        numbers = torch.zeros(self._slots.shape[1], dtype=self._slots.dtype) if mine else None
        for low_rank, shard in mine:
            assert numbers is not None
            room = self._rooms[shard.weight.name]
            self._place_part(numbers, room, low_rank, shard)
            ranks[room.product] = max(int(ranks[room.product]), len(low_rank.a))
        locked = self._device.type == "cuda"
        kept = _Kept(numbers.pin_memory() if locked and numbers is not None else numbers, ranks)
        self.remove(adapter.adapter_id)
        self._kept[adapter.adapter_id] = kept

    def remove(self, adapter_id: int) -> None:
        """Forget an adapter; an unknown id is ignored."""
        self._kept.pop(adapter_id, None)
        slot = self._slot_of.pop(adapter_id, None)
        if slot is not None:
            self._free.append(slot)

    def place(self, adapter_ids: Iterable[int]) -> dict[int, int]:
        """The slot of each, at most `max_loras` different ones; those that are in none are copied to one first.

        A slot that can't be filled is free afterwards, whatever is in it.
        """
        wanted = dict.fromkeys(adapter_ids)
        assert len(wanted) <= self.max_loras, "a step has no more adapters than there are slots"
        for adapter_id in wanted:
            if adapter_id in self._slot_of:
                self._slot_of[adapter_id] = self._slot_of.pop(adapter_id)
        for adapter_id in wanted:
            if adapter_id not in self._slot_of:
                self._fill(adapter_id, wanted)
        return {adapter_id: self._slot_of[adapter_id] for adapter_id in wanted}

    def _fill(self, adapter_id: int, wanted: dict[int, None]) -> None:
        if not self._free:
            self._free.append(self._slot_of.pop(next(held for held in self._slot_of if held not in wanted)))
        slot, kept = self._free[-1], self._kept[adapter_id]
        if kept.numbers is not None:
            self._slots[slot].copy_(kept.numbers, non_blocking=True)
        ranks = kept.ranks.pin_memory() if self._device.type == "cuda" else kept.ranks
        self._ranks[:, slot].copy_(ranks, non_blocking=True)
        self._free.pop()
        self._slot_of[adapter_id] = slot

    def _divide(self, number: int, product: AdaptedProduct, at: int) -> int:
        """Give a product its place in each slot, from element `at` on; where the next one begins."""
        rank, columns, out = self._rank, product.in_features, sum(product.out_features)
        a_size, b_size = product.a_elements(rank), product.b_elements(rank)
        b_at = at + aligned(a_size)
        num = self.max_loras
        self._weights[product.names] = AdapterWeights(
            self._slots[:, at : at + a_size].view(num, len(product.names) * rank, columns),
            self._slots[:, b_at : b_at + b_size].view(num, out, rank),
            product.out_features,
            self._ranks[number],
        )
        row = 0
        for i, (name, rows) in enumerate(zip(product.names, product.out_features, strict=True)):
            self._rooms[name] = _Room(number, at + i * rank * columns, b_at + row * rank, (rows, columns))
            row += rows
        return b_at + aligned(b_size)

    def _check(self, low_rank: LowRank) -> None:
        name, shape = low_rank.weight, self._shapes.get(low_rank.weight)
        if name not in self._adaptable or shape is None:
            missing = (
                "the model has no such weight" if shape is None else "the torch executor adapts no weight of its kind"
            )
            raise ExecutorError(
                f"the adapter changes {name}, and {missing}: leave its module out of the adapter's target_modules"
            )
        rank = len(low_rank.a)
        if rank > self._rank:
            raise ExecutorError(
                f"the adapter's part for {name} has rank {rank}, and there is room for {self._rank}: raise --max-lora-rank"
            )
        expected = (rank, shape[1]), (shape[0], rank)
        if (low_rank.a.shape, low_rank.b.shape) != expected:
            raise ExecutorError(
                f"the adapter's matrices for {name} have the shapes {list(low_rank.a.shape)} and "
                f"{list(low_rank.b.shape)}, and the model takes {list(expected[0])} and {list(expected[1])}: it was "
                "trained on another model"
            )

    def _place_part(self, numbers: Tensor, room: _Room, low_rank: LowRank, shard: Shard) -> None:
        """Copy the rank's part of both matrices to their place among a slot's `numbers`."""
        rank, (rows, columns) = len(low_rank.a), room.shape
        a, b = low_rank.a, low_rank.b
        if shard.axis == 1:  # the input is cut: each rank's product is a part of a sum
            a = a[:, shard.start : shard.start + columns]
        elif shard.axis == 0:
            b = np.concatenate([b[first:last] for first, last in shard.row_ranges])
        numbers[room.a : room.a + rank * columns].view(rank, columns).copy_(_tensor(a))
        into = numbers[room.b : room.b + rows * self._rank].view(rows, self._rank)
        into[: len(b), :rank].copy_(_tensor(b))


def _tensor(matrix: NDArray[np.float32]) -> Tensor:
    return torch.tensor(matrix)  # a copy: what numpy has may not be written to, which torch warns of
