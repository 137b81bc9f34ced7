"""Latents and their keys to their blocks, and the part of queries that turns. Twin: `reference_heads.write_latent`.

One program a token for the latent, and one for each few heads. Some 10 FLOP for 4 bytes (bf16): bound by memory; a token's
row is read once and written once. Registers: a latent of 512 is 4 elements a thread.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import ANY, FLOATS, cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import Attention

HEADS = 8  # of a program


@triton.jit
def turn(
    source, target, row_cos, row_sin, held, written, ROTARY: tl.constexpr, HALF: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Turn ROTARY elements at each of `source` [n] into `target` [n], where held and written."""
    i = tl.arange(0, HALF)
    pair = i < ROTARY // 2
    if INTERLEAVED:
        at_a, at_b = 2 * i, 2 * i + 1
    else:
        at_a, at_b = i, i + ROTARY // 2
    mask = held[:, None] & pair[None, :]
    a = tl.load(source[:, None] + at_a[None, :], mask=mask, other=0.0).to(tl.float32)
    b = tl.load(source[:, None] + at_b[None, :], mask=mask, other=0.0).to(tl.float32)
    c, s = tl.load(row_cos + i, mask=pair, other=0.0)[None, :], tl.load(row_sin + i, mask=pair, other=0.0)[None, :]
    mask &= written[:, None]
    tl.store(target[:, None] + at_a[None, :], (a * c - b * s).to(target.dtype.element_ty), mask=mask)
    tl.store(target[:, None] + at_b[None, :], (b * c + a * s).to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize_on_alignment=["slots"])
def latent_kernel(
    q,
    kv,
    norm,
    cos,
    sin,
    out,
    cache,
    slots,
    block_stride,
    eps,
    offset,
    NUM_HEADS: tl.constexpr,
    D: tl.constexpr,
    RANK: tl.constexpr,
    ROTARY: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
):
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    WIDTH: tl.constexpr = RANK + ROTARY
    cos += token * (ROTARY // 2)
    sin += token * (ROTARY // 2)
    if block == 0:
        slot = tl.load(slots + token)
        kv_block, in_block = slot // BLOCK_SIZE, slot % BLOCK_SIZE
        d = tl.arange(0, BLOCK_RANK)
        held = d < RANK
        row = kv + token * WIDTH
        target = cache + kv_block * block_stride + in_block * WIDTH
        c = tl.load(row + d, mask=held, other=0.0).to(tl.float32)
        weight = tl.load(norm + d, mask=held, other=0.0).to(tl.float32) + offset
        normed = c * tl.rsqrt(tl.sum(c * c, 0) / RANK + eps) * weight
        tl.store(target + d, normed.to(cache.dtype.element_ty), mask=held & (kv_block + d * 0 > 0))
        one = tl.arange(0, 1)
        turn(row + RANK + one, target + RANK + one, cos, sin, one == 0, one + kv_block > 0, ROTARY, HALF, INTERLEAVED)
    else:
        heads = (block - 1) * HEADS + tl.arange(0, HEADS)
        are_heads = heads < NUM_HEADS
        at = token * NUM_HEADS + heads
        turn(
            q + at * D + D - ROTARY, out + at * WIDTH + RANK, cos, sin, are_heads, are_heads, ROTARY, HALF, INTERLEAVED
        )


def write_latent(
    launch: Launcher,
    q: Tensor,
    kv: Tensor,
    norm: Tensor,
    spec: Attention,
    turned: tuple[Tensor, Tensor],
    cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """See `Operations.write_latent`."""
    latent = spec.latent
    assert latent is not None
    assert latent.norm.kind == "rms"
    n, half = q.shape[0], latent.rotary_dim // 2
    expect(q, (n, spec.q_size), *FLOATS)
    expect(kv, (n, latent.width), q.dtype)
    expect(norm, (latent.rank,), *FLOATS)
    expect(cache, (ANY, ANY, 1, latent.width), *FLOATS, strided=True)
    expect(slots, (n,), torch.int64)
    for angles in turned:
        expect(angles, (n, half), torch.float32)
    out = q.new_empty(n, spec.num_heads, latent.width)
    launch(
        latent_kernel,
        (n, 1 + cdiv(spec.num_heads, HEADS)),
        q,
        kv,
        norm,
        *turned,
        out,
        cache,
        slots,
        cache.stride(0),
        latent.norm.eps,
        latent.norm.offset,
        NUM_HEADS=spec.num_heads,
        D=spec.head_dim_k,
        RANK=latent.rank,
        ROTARY=latent.rotary_dim,
        BLOCK_SIZE=cache.shape[1],
        INTERLEAVED=spec.rotary is not None and spec.rotary.interleaved,
        BLOCK_RANK=next_power_of_2(latent.rank),
        HALF=next_power_of_2(max(1, half)),
        HEADS=HEADS,
        num_warps=4,
    )
    return out
