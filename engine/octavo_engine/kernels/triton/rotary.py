"""cos and sin of a step's positions, and factors on its queries. Twins: `reference.rotary_table`, `reference_heads`.

One program a token. Two transcendental functions an element of 8 written bytes, a few hundred kilobytes a step:
bound by its launch. No shared memory; a handful of registers beyond what the argument's reduction takes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import QueryScaling

BLOCK = 256


@triton.jit(do_not_specialize_on_alignment=["positions"])
def rotary_kernel(positions, frequencies, cos, sin, factor, HALF: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    held = i < HALF
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + i, mask=held, other=0.0)
    tl.store(cos + token * HALF + i, tl.cos(angle) * factor, mask=held)
    tl.store(sin + token * HALF + i, tl.sin(angle) * factor, mask=held)


def rotary_table(launch: Launcher, frequencies: Tensor, factor: float, positions: Tensor) -> tuple[Tensor, Tensor]:
    """positions: [num_tokens]; frequencies: [dim / 2] float32 -> cos, sin: [num_tokens, dim / 2] float32 each."""
    n, half = positions.shape[0], frequencies.shape[0]
    expect(positions, (n,), torch.int64)
    expect(frequencies, (half,), torch.float32)
    cos = torch.empty(n, half, dtype=torch.float32, device=positions.device)
    sin = torch.empty_like(cos)
    block = next_power_of_2(half)
    launch(rotary_kernel, (n,), positions, frequencies, cos, sin, factor, HALF=half, BLOCK=block, num_warps=1)
    return cos, sin


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["positions"])
def query_scales_kernel(positions, scales, beta, n, PERIOD: tl.constexpr, OFFSET: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    periods = (tl.load(positions + i, mask=i < n, other=0) + OFFSET) // PERIOD
    tl.store(scales + i, 1.0 + beta * tl.log(1.0 + periods.to(tl.float32)), mask=i < n)


def query_scales(launch: Launcher, scaling: QueryScaling, positions: Tensor) -> Tensor:
    """See `Operations.query_scales`."""
    n = positions.shape[0]
    expect(positions, (n,), torch.int64)
    scales = torch.empty(n, dtype=torch.float32, device=positions.device)
    options = {"PERIOD": scaling.period, "OFFSET": scaling.offset, "BLOCK": BLOCK, "num_warps": 4}
    launch(query_scales_kernel, (cdiv(n, BLOCK),), positions, scales, scaling.beta, n, **options)
    return scales
