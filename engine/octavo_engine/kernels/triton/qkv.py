"""Clip, QK norm, rotary and the write of keys and values to their blocks, in one pass. Twin: `ReferenceOperations.write_qkv`.

One program a token and HEADS heads: q's heads first, then those of k, which take v's along.
Arithmetic intensity: some 10 FLOP for 4 bytes (bf16): bound by memory; fused, a token's row is read once and written
once instead of three times. Shared memory: the norm's reduction. Registers: HEADS · head_dim / (32 · num_warps)
elements of heads and of cos and sin, under 64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.triton.arguments import FLOATS, cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.head_norm import normed
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import Attention

FLOAT8_MAX = tl.constexpr(448.0)  # the largest float8_e4m3fn; saturated, as the twin does


@triton.jit
def stored(x, scale, target):
    """x as the cache holds it: float8 scaled and saturated, else rounded."""
    if target.dtype.element_ty == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x / scale, -FLOAT8_MAX), FLOAT8_MAX)
    return x.to(target.dtype.element_ty)


@triton.jit
def clipped(x, clip, CLIP: tl.constexpr):
    """x within ±clip, where there is one."""
    if CLIP:
        x = tl.minimum(tl.maximum(x, -clip), clip)
    return x


@triton.jit
def turn_heads(
    source,
    norm_weight,
    norm_bias,
    sums,
    eps,
    offset,
    share,
    clip,
    target,
    scale,
    target_row,
    cos,
    sin,
    factor,
    heads,
    held_heads,
    written,
    D: tl.constexpr,
    ROTARY: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
    SPAN: tl.constexpr,
    AFTER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CLIP: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Clip, norm, turn and scale heads [HEADS, D] at `source` into `target`; elements are held as pairs, then the
    unturned rest."""
    i, r = tl.arange(0, HALF), ROTARY + tl.arange(0, REST)
    is_pair, is_rest = i < ROTARY // 2, r < D
    if INTERLEAVED:
        at_a, at_b = 2 * i, 2 * i + 1
    else:
        at_a, at_b = i, i + ROTARY // 2
    base = heads[:, None] * D
    mask_pair, mask_rest = held_heads[:, None] & is_pair[None, :], held_heads[:, None] & is_rest[None, :]
    a = clipped(tl.load(source + base + at_a[None, :], mask=mask_pair, other=0.0).to(tl.float32), clip, CLIP)
    b = clipped(tl.load(source + base + at_b[None, :], mask=mask_pair, other=0.0).to(tl.float32), clip, CLIP)
    rest = clipped(tl.load(source + base + r[None, :], mask=mask_rest, other=0.0).to(tl.float32), clip, CLIP)
    if NORM != "none" and not AFTER:
        a, b, rest = normed(
            a, b, rest, at_a, at_b, r, is_pair, is_rest, heads, held_heads, norm_weight, norm_bias, sums,
            eps, offset, share, D, NORM, SPAN, HAS_WEIGHT, HAS_BIAS,
        )  # fmt: skip
    if ROTARY > 0:
        c = tl.load(cos + i, mask=is_pair, other=0.0)[None, :]
        s = tl.load(sin + i, mask=is_pair, other=0.0)[None, :]
        a, b = a * c - b * s, b * c + a * s
    if NORM != "none" and AFTER:
        a, b, rest = normed(
            a, b, rest, at_a, at_b, r, is_pair, is_rest, heads, held_heads, norm_weight, norm_bias, sums,
            eps, offset, share, D, NORM, SPAN, HAS_WEIGHT, HAS_BIAS,
        )  # fmt: skip
    if SCALED:
        a, b, rest = a * factor, b * factor, rest * factor
    out = target + target_row + base
    store_pair, store_rest = written[:, None] & is_pair[None, :], written[:, None] & is_rest[None, :]
    if ROTARY > 0:
        tl.store(out + at_a[None, :], stored(a, scale, target), mask=store_pair)
        tl.store(out + at_b[None, :], stored(b, scale, target), mask=store_pair)
    tl.store(out + r[None, :], stored(rest, scale, target), mask=store_rest)


@triton.jit(do_not_specialize_on_alignment=["slots", "scales"])
def qkv_kernel(
    qkv,
    cos,
    sin,
    q_norm,
    k_norm,
    q_norm_bias,
    k_norm_bias,
    sums,
    scales,
    q_out,
    k_cache,
    v_cache,
    slots,
    k_block_stride,
    v_block_stride,
    k_scale,
    v_scale,
    eps,
    offset,
    q_share,
    k_share,
    clip,
    v_eps,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROTARY: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
    SPAN: tl.constexpr,
    AFTER: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CLIP: tl.constexpr,
    SCALED: tl.constexpr,
    V_NORM: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_blocks: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    row = qkv + token * (Q_HEADS * D + KV_HEADS * (D + DV))
    cos += token * (ROTARY // 2)
    sin += token * (ROTARY // 2)
    q_sums, k_sums = sums, sums
    if SPAN == "width":
        q_sums, k_sums = sums + token * 4, sums + token * 4 + 2
    if block < q_blocks:
        heads = block * HEADS + tl.arange(0, HEADS)
        factor = 1.0
        if SCALED:
            factor = tl.load(scales + token)
        turn_heads(
            row, q_norm, q_norm_bias, q_sums, eps, offset, q_share, clip, q_out, 1.0, token * (Q_HEADS * D), cos, sin,
            factor, heads, heads < Q_HEADS, heads < Q_HEADS,
            D, ROTARY, HALF, REST, INTERLEAVED, NORM, SPAN, AFTER, HAS_WEIGHT, HAS_BIAS, CLIP, SCALED,
        )  # fmt: skip
    elif KV_HEADS > 0:
        heads = (block - q_blocks) * HEADS + tl.arange(0, HEADS)
        held = heads < KV_HEADS
        slot = tl.load(slots + token)
        kv_block, in_block = slot // BLOCK_SIZE, slot % BLOCK_SIZE
        written = held & (kv_block + heads * 0 > 0)
        k_row = kv_block * k_block_stride + in_block * (KV_HEADS * D)
        turn_heads(
            row + Q_HEADS * D, k_norm, k_norm_bias, k_sums, eps, offset, k_share, clip, k_cache, k_scale, k_row, cos, sin,
            1.0, heads, held, written,
            D, ROTARY, HALF, REST, INTERLEAVED, NORM, SPAN, AFTER, HAS_WEIGHT, HAS_BIAS, CLIP, False,
        )  # fmt: skip
        d = tl.arange(0, BLOCK_DV)
        mask = held[:, None] & (d < DV)[None, :]
        at = heads[:, None] * DV + d[None, :]
        v = tl.load(row + (Q_HEADS + KV_HEADS) * D + at, mask=mask, other=0.0).to(tl.float32)
        v = clipped(v, clip, CLIP)
        if V_NORM:
            v *= tl.rsqrt(tl.sum(v * v, 1) / DV + v_eps)[:, None]
        v_row = kv_block * v_block_stride + in_block * (KV_HEADS * DV)
        tl.store(v_cache + v_row + at, stored(v, v_scale, v_cache), mask=mask & written[:, None])


class QkvWrite:
    """The writes of a step's keys and values, for layers of one kind. See `Operations.write_qkv`."""

    def __init__(
        self,
        launch: Launcher,
        spec: Attention,
        changes: HeadChanges,
        slots: Tensor,
        qkv: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: tuple[float, float],
    ) -> None:
        """Bind the launch to projections, norms and caches like these. Each block of a cache is dense."""
        num_tokens = qkv.shape[0]
        self.held = changes.turn, changes.scales  # by their ids this is found again
        self._qkv_shape = (num_tokens, spec.q_size + spec.k_size + spec.v_size)
        self._q_shape = (num_tokens, spec.num_heads, spec.head_dim_k)
        span = "head" if spec.qk_norm is None else spec.qk_norm_span
        self._sums_shape = (num_tokens, 4) if span == "width" else None
        expect(qkv, self._qkv_shape, *FLOATS)
        expect(slots, (num_tokens,), torch.int64)
        expect(changes.sums, (num_tokens, 4), torch.float32)
        expect(changes.scales, (num_tokens,), torch.float32)
        for norm, heads in (
            (changes.q_norm, spec.num_heads),
            (changes.q_norm_bias, spec.num_heads),
            (changes.k_norm, spec.own_kv_heads),
            (changes.k_norm_bias, spec.own_kv_heads),
        ):
            expect(norm, ((1 if span == "head" else heads) * spec.head_dim_k,), *FLOATS)
        rotary = 0 if spec.rotary is None or changes.turn is None else spec.rotary.dim
        cos, sin = (qkv, qkv) if changes.turn is None else changes.turn  # not read without rotary
        if rotary:
            for angles in (cos, sin):
                expect(angles, (num_tokens, rotary // 2), torch.float32)
        heads = 4
        self._grid = num_tokens, cdiv(spec.num_heads, heads) + cdiv(spec.own_kv_heads, heads)
        self._run = launch.bind(
            qkv_kernel,
            (
                qkv,
                cos,
                sin,
                changes.q_norm,
                changes.k_norm,
                changes.q_norm_bias,
                changes.k_norm_bias,
                changes.sums,
                changes.scales,
                qkv,
                k_cache,
                v_cache,
                slots,
                k_cache.stride(0),
                v_cache.stride(0),
                *kv_scales,
                0.0 if spec.qk_norm is None else spec.qk_norm.eps,
                0.0 if spec.qk_norm is None else spec.qk_norm.offset,
                1.0 / (changes.num_ranks * spec.q_size),
                1.0 / (changes.num_ranks * max(1, spec.k_size)),
                spec.qkv_clip or 0.0,
                0.0 if spec.v_norm is None else spec.v_norm.eps,
            ),
            changing=(0, 3, 4, 5, 6, 7, 9, 10, 11),
            apart=(10, 11),
            Q_HEADS=spec.num_heads,
            KV_HEADS=spec.own_kv_heads,
            D=spec.head_dim_k,
            DV=spec.head_dim_v,
            BLOCK_SIZE=k_cache.shape[1],
            ROTARY=rotary,
            HALF=next_power_of_2(max(1, rotary // 2)),
            REST=next_power_of_2(max(1, spec.head_dim_k - rotary)),
            INTERLEAVED=spec.rotary is not None and spec.rotary.interleaved,
            NORM="none" if spec.qk_norm is None else spec.qk_norm.kind,
            SPAN=span,
            AFTER=spec.qk_norm_after_rotary,
            HAS_WEIGHT=spec.qk_norm is None or spec.qk_norm.weight,
            HAS_BIAS=changes.q_norm_bias is not None,
            CLIP=spec.qkv_clip is not None,
            SCALED=changes.scales is not None,
            V_NORM=spec.v_norm is not None,
            HEADS=heads,
            BLOCK_DV=next_power_of_2(spec.head_dim_v),
            num_warps=2,  # a turned half of 4 heads of 128 is 256 elements: 4 a thread
        )

    def __call__(self, qkv: Tensor, changes: HeadChanges, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        """q, normed and turned: [num_tokens, num_heads, head_dim_k]."""
        assert qkv.shape == self._qkv_shape, f"qkv of shape {tuple(qkv.shape)}, not {self._qkv_shape}"
        sums = changes.sums
        assert (None if sums is None else tuple(sums.shape)) == self._sums_shape, "sums of another step, or none"
        q = qkv.new_empty(*self._q_shape)
        norms = changes.q_norm, changes.k_norm, changes.q_norm_bias, changes.k_norm_bias
        self._run(self._grid, qkv, *norms, sums, q, k_cache, v_cache)
        return q
