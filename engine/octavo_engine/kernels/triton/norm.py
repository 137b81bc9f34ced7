"""RMSNorm and LayerNorm of rows, alone or after adding a residual. Twin: `reference.norm`, `reference.add_norm`.

One program a row, the row in registers: read once, written once (twice with the residual).
Arithmetic intensity: about 5 FLOP for 4 bytes (bf16): bound by memory everywhere. Shared memory: the reduction's few
words. Registers: BLOCK / (32 · num_warps) float32 for each of row and weight, 32 each for 8,192 columns on 8 warps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import FLOATS, expect, next_power_of_2, signature
from octavo_engine.kernels.triton.launch import BoundLaunch, Launcher
from octavo_models.layers import Norm


@triton.jit
def norm_kernel(
    x,
    residual,
    weight,
    bias,
    out,
    total,
    dim,
    eps,
    offset,
    LAYER: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * dim
    at = tl.arange(0, BLOCK)
    held = at < dim
    h = tl.load(x + row + at, mask=held, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        h += tl.load(residual + row + at, mask=held, other=0.0).to(tl.float32)
        # The norm sees the sum as the next layer will: rounded.
        rounded = h.to(total.dtype.element_ty)
        tl.store(total + row + at, rounded, mask=held)
        h = rounded.to(tl.float32)
    if LAYER:
        h = tl.where(held, h - tl.sum(h) / dim, 0.0)
    h *= tl.rsqrt(tl.sum(h * h) / dim + eps)
    if HAS_WEIGHT:
        h *= tl.load(weight + at, mask=held, other=0.0).to(tl.float32) + offset
    if HAS_BIAS:
        h += tl.load(bias + at, mask=held, other=0.0).to(tl.float32)
    tl.store(out + row + at, h.to(out.dtype.element_ty), mask=held)


def norm(
    launch: Launcher, x: Tensor, residual: Tensor | None, weight: Tensor | None, spec: Norm, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The norm and what was normed: `x`, or its sum with `residual`. x: [..., dim]."""
    shape = x.shape
    dim = shape[-1]
    assert residual is None or residual.shape == shape, f"shape {residual.shape} of a residual for {shape}"
    residual_dtype = None if residual is None else residual.dtype
    like = norm, spec, dim, x.dtype, residual_dtype, signature(weight), signature(bias)
    run = launch.bound.get(like)
    if run is None:
        run = launch.bound[like] = _bound(launch, x, residual, weight, spec, bias)
    out = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    run((x.numel() // dim,), x, residual, weight, bias, out, total)
    return out, total


def _bound(
    launch: Launcher, x: Tensor, residual: Tensor | None, weight: Tensor | None, spec: Norm, bias: Tensor | None
) -> BoundLaunch:
    dim = x.shape[-1]
    expect(x, x.shape, *FLOATS)
    expect(residual, x.shape, x.dtype)
    expect(weight, (dim,), *FLOATS)
    expect(bias, (dim,), *FLOATS)
    block = next_power_of_2(dim)
    return launch.bind(
        norm_kernel,
        (x, residual, weight, bias, x, x, dim, spec.eps, spec.offset),
        changing=range(6),
        LAYER=spec.kind == "layer",
        HAS_RESIDUAL=residual is not None,
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        BLOCK=block,
        # 16 elements a thread: two 16-byte loads of bf16 in flight, and a row of 8,192 on half an SM's warps.
        num_warps=min(16, max(1, block // 512)),
    )
