"""Arguments that the launches of both kernels of attention have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from octavo_engine.kernels.operations import PagedBatch
from octavo_engine.kernels.triton.arguments import next_power_of_2
from octavo_engine.kernels.triton.attention_tile import LOG2_E, ScoreBiases
from octavo_models.layers import Attention


def block_of(head_dim: int) -> int:
    """Elements that a tile has for a head of `head_dim`."""
    return next_power_of_2(max(16, head_dim))


def numbers_of(
    spec: Attention, batch: PagedBatch, k_cache: Tensor, v_cache: Tensor, kv_scales: tuple[float, float]
) -> tuple[float, ...]:
    """The kernels' arguments from `table_stride` to `v_scale`, in their order."""
    return (
        batch.block_tables.stride(0),
        k_cache.stride(0),
        v_cache.stride(0),
        spec.scale * kv_scales[0] * LOG2_E,
        (spec.soft_cap or 0.0) * LOG2_E,
        kv_scales[1],
    )


def constants_of(spec: Attention, q: Tensor, k_cache: Tensor, biases: ScoreBiases) -> dict[str, Any]:
    """The kernels' constants, but for those of their tiles."""
    return {
        "KV_HEADS": spec.num_kv_heads,
        "GROUP": spec.num_heads // spec.num_kv_heads,
        "D": spec.head_dim_k,
        "DV": spec.head_dim_v,
        "BLOCK_D": block_of(spec.head_dim_k),
        "BLOCK_DV": block_of(spec.head_dim_v),
        "BLOCK_SIZE": k_cache.shape[1],
        "WINDOW": spec.window or 0,
        "CHUNK": spec.chunk or 0,
        "SOFT_CAP": spec.soft_cap is not None,
        "ALIBI": biases.slopes is not None,
        "SINKS": biases.sinks is not None,
        "PRECISION": "ieee" if q.element_size() == 4 else "tf32",
    }
