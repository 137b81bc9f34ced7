"""xIELU, and gates of attention's output. Twins: `reference.xielu`, `ReferenceOperations.gate_by_sigmoid`.

One program BLOCK elements. Some 10 FLOP for 4 to 6 bytes (bf16): bound by memory. No shared memory; 8 elements a thread,
under 40 registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import FLOATS, cdiv, expect
from octavo_engine.kernels.triton.launch import Launcher

BLOCK = 1024


@triton.jit
def expm1(x):
    """exp(x) - 1 for x at most 0; near 0 by its series, where the difference would cancel."""
    series = x * (1.0 + x * (0.5 + x * (0.16666667 + x * (0.041666667 + x * 0.0083333333))))
    return tl.where(x > -0.25, series, tl.exp(x) - 1.0)


@triton.jit(do_not_specialize=["num"], do_not_specialize_on_alignment=["positive", "negative"])
def xielu_kernel(x, positive, negative, out, num, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    h = tl.load(x + at, mask=at < num, other=0.0).to(tl.float32)
    below = tl.load(negative) * (expm1(tl.minimum(h, 0.0)) - h)
    h = tl.where(h > 0.0, tl.load(positive) * h * h, below) + 0.5 * h
    tl.store(out + at, h.to(out.dtype.element_ty), mask=at < num)


@triton.jit(do_not_specialize=["num"])
def sigmoid_gate_kernel(x, gate, num, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    h = tl.load(x + at, mask=at < num, other=0.0).to(tl.float32)
    h *= tl.sigmoid(tl.load(gate + at, mask=at < num, other=0.0).to(tl.float32))
    tl.store(x + at, h.to(x.dtype.element_ty), mask=at < num)


def xielu(launch: Launcher, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """See `Operations.xielu`."""
    expect(x, x.shape, *FLOATS)
    for learned in (positive, negative):
        expect(learned, (1,), torch.float32)
    out = torch.empty_like(x)
    num = x.numel()
    launch(xielu_kernel, (cdiv(num, BLOCK),), x, positive, negative, out, num, BLOCK=BLOCK, num_warps=4)
    return out


def gate_by_sigmoid(launch: Launcher, x: Tensor, gate: Tensor) -> Tensor:
    """See `Operations.gate_by_sigmoid`."""
    expect(x, x.shape, *FLOATS)
    expect(gate, x.shape, x.dtype)
    num = x.numel()
    launch(sigmoid_gate_kernel, (cdiv(num, BLOCK),), x, gate, num, BLOCK=BLOCK, num_warps=4)
    return x
