"""The MLP's nonlinearity, gated or plain. Twin: `reference.gated`, `reference.activation`.

One program a row and BLOCK columns. Arithmetic intensity: some 10 FLOP for 6 bytes (bf16): bound by memory. No shared
memory. Registers: 8 elements a thread of gate, up and result, under 40.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import FLOATS, cdiv, expect
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import Activation

BLOCK = 1024
CLAMP = tl.constexpr(7.0)  # of swiglu_clamped


@triton.jit
def tanh(x):
    """The hyperbolic tangent by the exponential, which every target has: tanh x = 2 · sigmoid(2x) - 1."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def activated(h, KIND: tl.constexpr):
    """act(h), float32. `swiglu_clamped` is the gate's part of it, as `gated_by` takes it."""
    if KIND == "silu":
        h = h * tl.sigmoid(h)
    elif KIND == "gelu":
        h = 0.5 * h * (1.0 + tl.erf(h * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        h = 0.5 * h * (1.0 + tanh(0.7978845608028654 * (h + 0.044715 * h * h * h)))
    elif KIND == "quick_gelu":
        h = h * tl.sigmoid(1.702 * h)
    elif KIND == "relu":
        h = tl.maximum(h, 0.0)
    elif KIND == "swiglu_clamped":
        h = tl.minimum(h, CLAMP)
        h = h * tl.sigmoid(1.702 * h)
    else:
        tl.static_assert(KIND == "relu2")
        h = tl.maximum(h, 0.0)
        h = h * h
    return h


@triton.jit
def gated_by(gate, up, KIND: tl.constexpr):
    """act(gate) * up, float32."""
    if KIND == "swiglu_clamped":
        up = tl.minimum(tl.maximum(up, -CLAMP), CLAMP) + 1.0
    return activated(gate, KIND) * up


@triton.jit
def activation_kernel(x, out, size, KIND: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = at < size
    source = x + row * size * (2 if GATED else 1) + at
    h = tl.load(source, mask=held, other=0.0).to(tl.float32)
    if GATED:
        h = gated_by(h, tl.load(source + size, mask=held, other=0.0).to(tl.float32), KIND)
    else:
        h = activated(h, KIND)
    tl.store(out + row * size + at, h.to(out.dtype.element_ty), mask=held)


def activation(launch: Launcher, x: Tensor, kind: Activation, *, gated: bool) -> Tensor:
    """x: [num_tokens, size], or [num_tokens, 2 * size] where gated -> [num_tokens, size]."""
    *rows, columns = x.shape
    size = columns // 2 if gated else columns
    out = x.new_empty(*rows, size)
    like = activation, kind, gated, columns, x.dtype
    run = launch.bound.get(like)
    if run is None:
        expect(x, (*rows, size * (2 if gated else 1)), *FLOATS)
        run = launch.bound[like] = launch.bind(
            activation_kernel, (x, out, size), changing=(0, 1), KIND=kind, GATED=gated, BLOCK=BLOCK, num_warps=4
        )
    run((x.numel() // columns, cdiv(size, BLOCK)), x, out)
    return out
