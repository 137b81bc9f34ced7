"""One vector of each prompt's rows: their mean, maximum, the first or the last one. Twin: `ReferenceOperations.pool`.

A program takes BLOCK columns of one prompt and reads its rows once. 1 FLOP for 2 bytes (bf16): bound by memory. Shared
memory: none. Registers: 4 elements a thread.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import ANY, FLOATS, expect
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.pooling import PoolingKind

BLOCK = 512
MEAN, MAX, CLS, LAST = range(4)
NUMBERS: dict[PoolingKind, int] = {"mean": MEAN, "max": MAX, "cls": CLS, "last": LAST}


@triton.jit(do_not_specialize_on_alignment=["starts"])
def pool_kernel(hidden, starts, out, DIM: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr):
    prompt, at = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = at < DIM
    first, end = tl.load(starts + prompt).to(tl.int64), tl.load(starts + prompt + 1).to(tl.int64)
    if KIND == 3:
        first = end - 1
    found = tl.load(hidden + first * DIM + at, mask=held, other=0.0).to(tl.float32)
    if KIND < 2:
        for row in range(first + 1, end):
            x = tl.load(hidden + row * DIM + at, mask=held, other=0.0).to(tl.float32)
            if KIND == 0:
                found += x
            else:
                found = tl.maximum(found, x)
    if KIND == 0:
        found /= (end - first).to(tl.float32)
    tl.store(out + prompt.to(tl.int64) * DIM + at, found, mask=held)


def pool(launch: Launcher, hidden: Tensor, starts: Tensor, kind: PoolingKind) -> Tensor:
    """See `Operations.pool`."""
    expect(hidden, (ANY, ANY), *FLOATS)
    expect(starts, (ANY,), torch.int32)
    n, dim = starts.shape[0] - 1, hidden.shape[1]
    out = torch.empty(n, dim, dtype=torch.float32, device=hidden.device)
    launch(
        pool_kernel, (n, triton.cdiv(dim, BLOCK)), hidden, starts, out, DIM=dim, KIND=NUMBERS[kind], BLOCK=BLOCK,
        num_warps=4,
    )  # fmt: skip
    return out
