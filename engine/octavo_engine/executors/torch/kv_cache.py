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
    """`keys[layer]` and `values[layer]`: [num_blocks of the layer's group, block_size, num_kv_heads, head_dim].

    The swap space has the same shapes over `num_host_blocks`, in host memory; pinned beside a card, so that moves
    need not be waited for.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layout: KVLayout,
        num_blocks: tuple[int, ...],
        kv_format: str,
        device: torch.device,
        num_host_blocks: tuple[int, ...] = (),
    ) -> None:
        assert len(num_blocks) == len(layout.groups)
        self.layout = layout
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.group_of_layer: dict[int, int] = {}
        self._host: dict[int, tuple[Tensor, Tensor]] = {}  # by layer: keys, values
        dtype = KV_DTYPES[kv_format]
        pinned = device.type == "cuda"
        for g, group in enumerate(layout.groups):
            page_bytes = 0
            for i in group.layers:
                attention = spec.layers[i].attention
                lead = (num_blocks[g], layout.block_size, attention.num_kv_heads)
                self.keys[i] = torch.zeros(*lead, attention.head_dim_k, dtype=dtype, device=device)
                self.values[i] = torch.zeros(*lead, attention.head_dim_v, dtype=dtype, device=device)
                self.group_of_layer[i] = g
                if num_host_blocks:
                    shapes = [(num_host_blocks[g], *cache[i].shape[1:]) for cache in (self.keys, self.values)]
                    k, v = (torch.empty(shape, dtype=dtype, pin_memory=pinned) for shape in shapes)
                    self._host[i] = k, v
                page_bytes += self.keys[i][0].nbytes + self.values[i][0].nbytes
            assert page_bytes == group.page_bytes, (page_bytes, group.page_bytes)

    def apply(self, ops: KVOps) -> None:
        """Swap out, copy, swap in, each in order; on a card in the order of its stream, without waiting."""
        for group, source, target in ops.swap_out:
            for i in self.layout.groups[group].layers:
                keys, values = self._host[i]
                keys[target].copy_(self.keys[i][source], non_blocking=True)
                values[target].copy_(self.values[i][source], non_blocking=True)
        for group, source, target in ops.copies:
            for i in self.layout.groups[group].layers:
                self.keys[i][target] = self.keys[i][source]
                self.values[i][target] = self.values[i][source]
        for group, source, target in ops.swap_in:
            for i in self.layout.groups[group].layers:
                keys, values = self._host[i]
                self.keys[i][target].copy_(keys[source], non_blocking=True)
                self.values[i][target].copy_(values[source], non_blocking=True)
