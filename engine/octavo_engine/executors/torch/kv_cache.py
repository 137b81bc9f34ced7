"""Paged keys and values: one pair of tensors a layer, allocated once, indexed by page.

Owns the memory; whoever schedules owns the pages' meaning. Knows nothing of requests.
"""

from __future__ import annotations

import math

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
        self._host_keys: dict[int, Tensor] = {}
        self._host_values: dict[int, Tensor] = {}
        dtype = KV_DTYPES[kv_format]
        arena = _Arena(layout, num_host_blocks, dtype, pinned=device.type == "cuda")
        for g, group in enumerate(layout.groups):
            page_bytes = 0
            for i in group.layers:
                attention = spec.layers[i].attention
                lead = (num_blocks[g], layout.block_size, attention.num_kv_heads)
                self.keys[i] = torch.zeros(*lead, attention.head_dim_k, dtype=dtype, device=device)
                self.values[i] = torch.zeros(*lead, attention.head_dim_v, dtype=dtype, device=device)
                self.group_of_layer[i] = g
                if num_host_blocks:
                    for cache, swapped in ((self.keys, self._host_keys), (self.values, self._host_values)):
                        swapped[i] = arena.take((num_host_blocks[g], *cache[i].shape[1:]))
                page_bytes += self.keys[i][0].nbytes + self.values[i][0].nbytes
            assert page_bytes == group.page_bytes, (page_bytes, group.page_bytes)

    def apply(self, ops: KVOps) -> None:
        """Swap out, copy, swap in, each in order; on a card in the order of its stream, without waiting."""
        device, host = (self.keys, self.values), (self._host_keys, self._host_values)
        for moves, sources, targets in (
            (ops.swap_out, device, host),
            (ops.copies, device, device),
            (ops.swap_in, host, device),
        ):
            for group, source, target in moves:
                for i in self.layout.groups[group].layers:
                    for old, new in zip(sources, targets, strict=True):
                        new[i][target].copy_(old[i][source], non_blocking=True)


class _Arena:
    """The swap space in one piece: PyTorch pins the next power of two of each tensor, up to twice as much for many."""

    def __init__(
        self,
        layout: KVLayout,
        num_host_blocks: tuple[int, ...],
        dtype: torch.dtype,
        *,
        pinned: bool,
    ) -> None:
        size = sum(n * group.page_bytes for n, group in zip(num_host_blocks, layout.groups, strict=False))
        self._elements = torch.empty(size // dtype.itemsize, dtype=dtype, pin_memory=pinned)
        self._taken = 0

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """The next tensor of `shape`."""
        start, self._taken = self._taken, self._taken + math.prod(shape)
        return self._elements[start : self._taken].view(shape)
