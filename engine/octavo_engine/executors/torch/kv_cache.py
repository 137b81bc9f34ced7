"""Paged keys and values: one pair of tensors a layer, allocated once, indexed by page.

Owns the memory; whoever schedules owns the pages' meaning. Knows nothing of requests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.core.outputs import KVOps
from octavo_models.spec import KVLayout, ModelSpec

KV_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class KVCache:
    """`keys[layer]` and `values[layer]`: [num_blocks of the layer's group, block_size, num_kv_heads, head_dim]."""

    def __init__(
        self,
        spec: ModelSpec,
        layout: KVLayout,
        num_blocks: tuple[int, ...],
        kv_format: str,
        device: torch.device,
    ) -> None:
        assert len(num_blocks) == len(layout.groups)
        self.layout = layout
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.group_of_layer: dict[int, int] = {}
        dtype = KV_DTYPES[kv_format]
        for g, group in enumerate(layout.groups):
            page_bytes = 0
            for i in group.layers:
                attention = spec.layers[i].attention
                lead = (num_blocks[g], layout.block_size, attention.num_kv_heads)
                self.keys[i] = torch.zeros(*lead, attention.head_dim_k, dtype=dtype, device=device)
                self.values[i] = torch.zeros(*lead, attention.head_dim_v, dtype=dtype, device=device)
                self.group_of_layer[i] = g
                page_bytes += self.keys[i][0].nbytes + self.values[i][0].nbytes
            assert page_bytes == group.page_bytes, (page_bytes, group.page_bytes)

    def apply(self, ops: KVOps) -> None:
        """Copy pages, in order. Swaps are for executors that say so in their capabilities."""
        assert not ops.swap_in, "this executor does not swap"
        assert not ops.swap_out, "this executor does not swap"
        for group, source, target in ops.copies:
            for i in self.layout.groups[group].layers:
                self.keys[i][target] = self.keys[i][source]
                self.values[i][target] = self.values[i][source]
