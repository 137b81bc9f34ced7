"""Attention over a step's requests: what layers of one kind have in common is checked and settled once a step.

A layer then passes its own projections and caches. What is settled lives as long as the step's `PagedBatch`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import PagedBatch
from octavo_engine.kernels.triton.arguments import ANY, CACHED, FLOATS, expect, signature
from octavo_engine.kernels.triton.attention_tile import ScoreBiases
from octavo_engine.kernels.triton.decode_step import DecodeAttention
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.prefill_attention import PrefillAttention
from octavo_engine.kernels.triton.qkv import QkvWrite
from octavo_models.layers import Attention


class PagedAttention:
    """The attention of layers that have one `spec` and caches of one layout, over the requests of one batch."""

    def __init__(
        self,
        launch: Launcher,
        spec: Attention,
        batch: PagedBatch,
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: tuple[float, float],
    ) -> None:
        expect(k_cache, (ANY, ANY, spec.num_kv_heads, spec.head_dim_k), *CACHED, strided=True)
        values = spec.head_dim_v if spec.latent is None else spec.latent.width
        expect(v_cache, (*k_cache.shape[:2], spec.num_kv_heads, values), k_cache.dtype, strided=True)
        if k_cache.dtype == torch.float8_e4m3fn:
            launch.gpu.require_float8("a KV cache in float8")
        for numbers in (batch.rows, batch.query_starts, batch.seq_lens):
            expect(numbers, (ANY,), torch.int32)
        expect(batch.block_tables, (ANY, ANY), torch.int32, strided=True)
        self.launch = launch
        self.spec = spec
        self._kv_scales = kv_scales
        self._layouts = _layout(k_cache), _layout(v_cache)
        self._found = k_cache, v_cache  # the last that were found to be laid out so
        self._writes: dict[object, QkvWrite] = {}
        self._attends: list[DecodeAttention | PrefillAttention] = []
        self._q_like: tuple[object, ...] | None = None

    def takes(self, k_cache: Tensor, v_cache: Tensor) -> bool:
        """True if these caches have the layout that this kernel reads."""
        k_found, v_found = self._found
        if k_cache is not k_found or v_cache is not v_found:
            if (_layout(k_cache), _layout(v_cache)) != self._layouts:
                return False
            self._found = k_cache, v_cache
        return True

    def write(
        self,
        batch: PagedBatch,
        qkv: Tensor,
        changes: HeadChanges,
        k_cache: Tensor,
        v_cache: Tensor,
    ) -> Tensor:
        """See `Operations.write_qkv`."""
        norms = changes.q_norm, changes.k_norm, changes.q_norm_bias, changes.k_norm_bias
        like = id(changes.turn), id(changes.scales), changes.num_ranks, qkv.dtype, *map(signature, norms)
        write = self._writes.get(like)
        if write is None:
            write = QkvWrite(self.launch, self.spec, changes, batch.slots, qkv, k_cache, v_cache, self._kv_scales)
            self._writes[like] = write
        return write(qkv, changes, k_cache, v_cache)

    def attend(self, batch: PagedBatch, q: Tensor, k_cache: Tensor, v_cache: Tensor, biases: ScoreBiases) -> Tensor:
        """See `Operations.attention`."""
        like = q.shape, q.dtype, signature(biases.sinks)
        if like != self._q_like:
            expect(q, (ANY, self.spec.num_heads, self.spec.head_dim_k), *FLOATS)
            expect(biases.slopes, (self.spec.num_heads,), torch.float32)
            expect(biases.sinks, (self.spec.num_heads,), *FLOATS)
            kinds: list[type[DecodeAttention | PrefillAttention]] = []
            if batch.num_decodes > 0:
                kinds.append(DecodeAttention)
            if batch.num_decodes < batch.num_requests:
                kinds.append(PrefillAttention)
            self._attends = [
                kind(self.launch, self.spec, batch, q, k_cache, v_cache, self._kv_scales, biases) for kind in kinds
            ]
            self._q_like = like
        out = q.new_empty(q.shape[0], self.spec.num_heads, self.spec.head_dim_v)
        for attend in self._attends:
            attend(q, k_cache, v_cache, out, biases.sinks)
        return out


def _layout(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.stride(), x.dtype
