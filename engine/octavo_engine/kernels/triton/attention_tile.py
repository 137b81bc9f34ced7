"""One tile of keys and values under a running softmax: the inner step that prefill and decode attention share.

Online softmax as in FlashAttention (Dao et al. 2022), in base 2; blocks are gathered key by key, so that any block size
serves. Their ids are loaded a tile ahead and carried through the caller's loop: a tile's keys and values then depend on
nothing that is loaded in the same round, and Triton copies them num_stages - 1 rounds ahead. Independent of requests:
the caller says which keys lie in reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634
IN_LOG2 = tl.constexpr(LOG2_E)


@dataclass(frozen=True, slots=True)
class ScoreBiases:
    """The terms of the softmax beside products of queries and keys, where the model has them."""

    slopes: Tensor | None  # ALiBi's: [num_heads] float32, in units of log2
    sinks: Tensor | None  # [num_heads]


@triton.jit
def load_query(
    source, row, heads, held, FIRST: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, STRIDE: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    """Elements FIRST … FIRST + D - 1 of q[row, heads]: [BLOCK_M, BLOCK_D], zero where not held. A head has STRIDE."""
    d = tl.arange(0, BLOCK_D)
    at = (row * HEADS + heads)[:, None] * STRIDE + FIRST + d[None, :]
    return tl.load(source + at, mask=held[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def load_blocks(table, keys, first_key, end_key, BLOCK_SIZE: tl.constexpr):
    """The block ids of `keys`, [BLOCK_N] int32; the null block outside first_key … end_key - 1, where none is read."""
    return tl.load(table + keys // BLOCK_SIZE, mask=(keys < end_key) & (keys >= first_key), other=0)


@triton.jit
def attend(
    q,
    turned,
    keys,
    blocks,
    first_key,
    end_key,
    query_at,
    k_head,
    v_head,
    k_block_stride,
    v_block_stride,
    scale,
    soft_cap,
    slopes,
    row_max,
    row_sum,
    acc,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_SHARED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    CAUSAL: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    ALIBI: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Take the keys first_key … end_key - 1 of `keys` [BLOCK_N] into (row_max, row_sum, acc), which are returned.

    blocks: of `load_blocks` for the same keys; q: [BLOCK_M, BLOCK_D] at positions query_at [BLOCK_M]; `scale`, `soft_cap` and
    `slopes` (ALiBi's, of each row) are in units of log2. With SHARED, the D elements of a latent are key and value of all
    heads, and the key's SHARED elements behind them meet `turned`, [BLOCK_M, BLOCK_SHARED].
    Keys outside are never read: null blocks may hold anything, NaN included.
    """
    d, dv = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    held = (keys >= first_key) & (keys < end_key)
    block_at = blocks.to(tl.int64)
    in_block = keys % BLOCK_SIZE
    TOKEN: tl.constexpr = D + SHARED if SHARED > 0 else KV_HEADS * D
    k_at = k_head + block_at * k_block_stride + in_block * TOKEN
    k = tl.load(k_at[None, :] + d[:, None], mask=held[None, :] & (d < D)[:, None], other=0.0)  # [BLOCK_D, BLOCK_N]
    scores = tl.dot(q, k.to(q.dtype), input_precision=PRECISION)
    if SHARED > 0:
        s = tl.arange(0, BLOCK_SHARED)
        shared = tl.load(k_at[None, :] + D + s[:, None], mask=held[None, :] & (s < SHARED)[:, None], other=0.0)
        scores = tl.dot(turned, shared.to(q.dtype), scores, input_precision=PRECISION)
    scores *= scale
    if SOFT_CAP:
        scores = soft_cap * (2.0 * tl.sigmoid(2.0 * scores / soft_cap) - 1.0)  # tanh
    if ALIBI:
        scores += slopes[:, None] * (keys[None, :] - query_at[:, None]).to(tl.float32)
    seen = held[None, :]
    if CAUSAL:
        seen &= keys[None, :] <= query_at[:, None]
    if WINDOW > 0:
        seen &= keys[None, :] > query_at[:, None] - WINDOW
        if not CAUSAL:
            seen &= keys[None, :] < query_at[:, None] + WINDOW
    if CHUNK > 0:
        seen &= keys[None, :] >= (query_at // CHUNK * CHUNK)[:, None]
    scores = tl.where(seen, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    # A row that has seen nothing yet keeps -inf; subtracting it from itself would be NaN.
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(row_max - base)
    if SHARED > 0:
        v = tl.trans(k)
    else:
        v_at = v_head + block_at * v_block_stride + in_block * (KV_HEADS * DV)
        v = tl.load(v_at[:, None] + dv[None, :], mask=held[:, None] & (dv < DV)[None, :], other=0.0)
    # v: [BLOCK_N, BLOCK_DV]
    acc = tl.dot(weights.to(q.dtype), v.to(q.dtype), acc * shrink[:, None], input_precision=PRECISION)
    return new_max, row_sum * shrink + tl.sum(weights, 1), acc


@triton.jit
def slopes_of(slopes, heads, held, ALIBI: tl.constexpr):
    """ALiBi's slopes of rows that belong to `heads`: [BLOCK_M] float32."""
    found = tl.zeros_like(heads).to(tl.float32)
    if ALIBI:
        found = tl.load(slopes + heads, mask=held, other=0.0)
    return found


@triton.jit
def take_in_sinks(sinks, heads, held, row_max, row_sum, acc):
    """(row_sum, acc), once each row has seen its head's sink, which has no value."""
    sink = tl.load(sinks + heads, mask=held, other=float("-inf")).to(tl.float32) * IN_LOG2
    best = tl.maximum(row_max, sink)
    base = tl.where(best == float("-inf"), 0.0, best)
    shrink = tl.exp2(row_max - base)
    return row_sum * shrink + tl.exp2(sink - base), acc * shrink[:, None]
