"""Arguments that the launches of both kernels of attention have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from octavo_engine.kernels.operations import PagedBatch
from octavo_engine.kernels.triton.arguments import next_power_of_2
from octavo_engine.kernels.triton.attention_tile import LOG2_E, ScoreBiases
from octavo_models.layers import Attention

LATENT_HEADS = 16  # rows of a matrix unit's product


def block_of(head_dim: int) -> int:
    """Elements that a tile has for a head of `head_dim`."""
    return next_power_of_2(max(16, head_dim))


def tiles_of(kind: str, spec: Attention) -> str:
    """The name of the launch parameters for "prefill" or "decode"."""
    return f"{kind}.latent" if spec.latent is not None else f"{kind}.{max(64, block_of(spec.head_dim_k))}"


def groups_of(spec: Attention) -> tuple[int, int]:
    """KV heads, and the query heads of each. Query heads over one latent are taken some at a time, as if each few of them
    had their own: sums of all would not fit registers."""
    if spec.latent is None:
        return spec.num_kv_heads, spec.num_heads // spec.num_kv_heads
    group = max(n for n in range(1, LATENT_HEADS + 1) if spec.num_heads % n == 0)
    return spec.num_heads // group, group


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
    kv_heads, group = groups_of(spec)
    shared = 0 if spec.latent is None else spec.latent.rotary_dim
    return {
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "D": spec.head_dim_k - shared,
        "DV": spec.head_dim_v,
        "SHARED": shared,
        "BLOCK_D": block_of(spec.head_dim_k - shared),
        "BLOCK_DV": block_of(spec.head_dim_v),
        "BLOCK_SHARED": block_of(shared),
        "BLOCK_SIZE": k_cache.shape[1],
        "WINDOW": spec.window or 0,
        "CHUNK": spec.chunk or 0,
        "SOFT_CAP": spec.soft_cap is not None,
        "ALIBI": biases.slopes is not None,
        "SINKS": biases.sinks is not None,
        "PRECISION": "ieee" if q.element_size() == 4 else "tf32",
    }
