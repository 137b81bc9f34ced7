"""QK norm, rotary and the write of keys and values to their blocks, in one pass. Twin: `ReferenceOperations.write_qkv`.

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

from octavo_engine.kernels.triton.arguments import FLOATS, cdiv, expect, next_power_of_2
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
def turn_heads(
    source,
    norm_weight,
    eps,
    offset,
    target,
    scale,
    target_row,
    cos,
    sin,
    heads,
    held_heads,
    written,
    D: tl.constexpr,
    ROTARY: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
):
    """Norm and turn heads [HEADS, D] at `source` into `target`; elements are held as pairs, then the unturned rest."""
    i, r = tl.arange(0, HALF), ROTARY + tl.arange(0, REST)
    is_pair, is_rest = i < ROTARY // 2, r < D
    if INTERLEAVED:
        at_a, at_b = 2 * i, 2 * i + 1
    else:
        at_a, at_b = i, i + ROTARY // 2
    base = heads[:, None] * D
    mask_pair, mask_rest = held_heads[:, None] & is_pair[None, :], held_heads[:, None] & is_rest[None, :]
    a = tl.load(source + base + at_a[None, :], mask=mask_pair, other=0.0).to(tl.float32)
    b = tl.load(source + base + at_b[None, :], mask=mask_pair, other=0.0).to(tl.float32)
    rest = tl.load(source + base + r[None, :], mask=mask_rest, other=0.0).to(tl.float32)
    if NORM != "none":
        if NORM == "layer":
            mean = ((tl.sum(a, 1) + tl.sum(b, 1) + tl.sum(rest, 1)) / D)[:, None]
            a, b = tl.where(mask_pair, a - mean, 0.0), tl.where(mask_pair, b - mean, 0.0)
            rest = tl.where(mask_rest, rest - mean, 0.0)
        square = tl.sum(a * a, 1) + tl.sum(b * b, 1) + tl.sum(rest * rest, 1)
        inverse = tl.rsqrt(square / D + eps)[:, None]
        a *= inverse * (tl.load(norm_weight + at_a, mask=is_pair, other=0.0).to(tl.float32) + offset)[None, :]
        b *= inverse * (tl.load(norm_weight + at_b, mask=is_pair, other=0.0).to(tl.float32) + offset)[None, :]
        rest *= inverse * (tl.load(norm_weight + r, mask=is_rest, other=0.0).to(tl.float32) + offset)[None, :]
    out = target + target_row + base
    store_pair, store_rest = written[:, None] & is_pair[None, :], written[:, None] & is_rest[None, :]
    if ROTARY > 0:
        c = tl.load(cos + i, mask=is_pair, other=0.0)[None, :]
        s = tl.load(sin + i, mask=is_pair, other=0.0)[None, :]
        tl.store(out + at_a[None, :], stored(a * c - b * s, scale, target), mask=store_pair)
        tl.store(out + at_b[None, :], stored(b * c + a * s, scale, target), mask=store_pair)
    tl.store(out + r[None, :], stored(rest, scale, target), mask=store_rest)


@triton.jit(do_not_specialize_on_alignment=["slots"])
def qkv_kernel(
    qkv,
    cos,
    sin,
    q_norm,
    k_norm,
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
    HEADS: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_blocks: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    row = qkv + token * (Q_HEADS * D + KV_HEADS * (D + DV))
    cos += token * (ROTARY // 2)
    sin += token * (ROTARY // 2)
    if block < q_blocks:
        heads = block * HEADS + tl.arange(0, HEADS)
        turn_heads(
            row, q_norm, eps, offset, q_out, 1.0, token * (Q_HEADS * D), cos, sin, heads, heads < Q_HEADS, heads < Q_HEADS,
            D, ROTARY, HALF, REST, INTERLEAVED, NORM,
        )  # fmt: skip
    else:
        heads = (block - q_blocks) * HEADS + tl.arange(0, HEADS)
        held = heads < KV_HEADS
        slot = tl.load(slots + token)
        kv_block, in_block = slot // BLOCK_SIZE, slot % BLOCK_SIZE
        written = held & (kv_block + heads * 0 > 0)
        k_row = kv_block * k_block_stride + in_block * (KV_HEADS * D)
        turn_heads(
            row + Q_HEADS * D, k_norm, eps, offset, k_cache, k_scale, k_row, cos, sin, heads, held, written,
            D, ROTARY, HALF, REST, INTERLEAVED, NORM,
        )  # fmt: skip
        d = tl.arange(0, BLOCK_DV)
        mask = held[:, None] & (d < DV)[None, :]
        at = heads[:, None] * DV + d[None, :]
        v = tl.load(row + (Q_HEADS + KV_HEADS) * D + at, mask=mask, other=0.0).to(tl.float32)
        v_row = kv_block * v_block_stride + in_block * (KV_HEADS * DV)
        tl.store(v_cache + v_row + at, stored(v, v_scale, v_cache), mask=mask & written[:, None])


class QkvWrite:
    """The writes of a step's keys and values, for layers of one kind. See `Operations.write_qkv`."""

    def __init__(
        self,
        launch: Launcher,
        spec: Attention,
        turn: tuple[Tensor, Tensor] | None,
        slots: Tensor,
        qkv: Tensor,
        norms: tuple[Tensor | None, Tensor | None],
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: tuple[float, float],
    ) -> None:
        """Settle the launch for projections, norms and caches like these. Blocks of a cache may lie apart; each is dense."""
        num_tokens = qkv.shape[0]
        self.turn = turn  # held: by its id this is found again
        self._qkv_shape = (num_tokens, spec.q_size + spec.k_size + spec.v_size)
        self._q_shape = (num_tokens, spec.num_heads, spec.head_dim_k)
        expect(qkv, self._qkv_shape, *FLOATS)
        expect(slots, (num_tokens,), torch.int64)
        for norm in norms:
            expect(norm, (spec.head_dim_k,), *FLOATS)
        rotary = 0 if spec.rotary is None or turn is None else spec.rotary.dim
        cos, sin = (qkv, qkv) if turn is None else turn  # not read without rotary
        if rotary:
            for angles in (cos, sin):
                expect(angles, (num_tokens, rotary // 2), torch.float32)
        heads = 4
        self._grid = num_tokens, cdiv(spec.num_heads, heads) + cdiv(spec.num_kv_heads, heads)
        self._run = launch.bind(
            qkv_kernel,
            (
                qkv,
                cos,
                sin,
                *norms,
                qkv,
                k_cache,
                v_cache,
                slots,
                k_cache.stride(0),
                v_cache.stride(0),
                *kv_scales,
                0.0 if spec.qk_norm is None else spec.qk_norm.eps,
                0.0 if spec.qk_norm is None else spec.qk_norm.offset,
            ),
            changing=(0, 3, 4, 5, 6, 7),
            apart=(6, 7),
            Q_HEADS=spec.num_heads,
            KV_HEADS=spec.num_kv_heads,
            D=spec.head_dim_k,
            DV=spec.head_dim_v,
            BLOCK_SIZE=k_cache.shape[1],
            ROTARY=rotary,
            HALF=next_power_of_2(max(1, rotary // 2)),
            REST=next_power_of_2(max(1, spec.head_dim_k - rotary)),
            INTERLEAVED=spec.rotary is not None and spec.rotary.interleaved,
            NORM="none" if spec.qk_norm is None else spec.qk_norm.kind,
            HEADS=heads,
            BLOCK_DV=next_power_of_2(spec.head_dim_v),
            num_warps=2,  # a turned half of 4 heads of 128 is 256 elements: 4 a thread
        )

    def __call__(
        self, qkv: Tensor, q_norm: Tensor | None, k_norm: Tensor | None, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """q, normed and turned: [num_tokens, num_heads, head_dim_k]."""
        assert qkv.shape == self._qkv_shape, f"qkv of shape {tuple(qkv.shape)}, not {self._qkv_shape}"
        q = qkv.new_empty(*self._q_shape)
        self._run(self._grid, qkv, q_norm, k_norm, q, k_cache, v_cache)
        return q
