"""Keys and values of a model that pools: blocks that hold one layer's at a time, for each prompt is computed whole.

Stands in for `KVCache`, so that attention and the write before it are those of decoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from octavo_engine.core.outputs import KVOps, SchedulerOutput
from octavo_models.spec import ModelSpec


class ScratchCache:
    """`keys[layer]` and `values[layer]` as `KVCache` has them; layers of one shape share theirs."""

    def __init__(
        self, spec: ModelSpec, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.on_part: Callable[[], None] = lambda: None
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.group_of_layer = dict.fromkeys(range(len(spec.layers)), 0)
        shared: dict[tuple[str, int, int], Tensor] = {}
        for i, attention in enumerate(spec.attentions):
            for held, name, dim in (
                (self.keys, "k", attention.head_dim_k),
                (self.values, "v", attention.head_dim_v),
            ):
                kind = name, attention.num_kv_heads, dim
                if kind not in shared:
                    shape = num_blocks, block_size, attention.num_kv_heads, dim
                    shared[kind] = torch.zeros(shape, dtype=dtype, device=device)
                held[i] = shared[kind]

    def apply(self, ops: KVOps) -> None:
        assert ops == KVOps(), "prompts that are pooled have no blocks to move"

    def close(self) -> None:
        pass


def blocks_for(max_tokens: int, max_prompts: int, block_size: int) -> int:
    """Blocks that any step's prompts fit in, the null block included."""
    return max_tokens // block_size + max_prompts + 1


def with_blocks(step: SchedulerOutput, block_size: int) -> SchedulerOutput:
    """The step with blocks for its prompts, one after another: each prompt is new in it, and ends with it."""
    new, first = [], 1
    for request in step.new:
        end = first - (-len(request.token_ids) // block_size)
        new.append(replace(request, block_ids=(list(range(first, end)),)))
        first = end
    return replace(step, new=tuple(new))
