"""Sums of q and k over all heads, for norms that span them. Twin: `reference_heads.head_sums`.

Two programs a token. 4 FLOP for 2 bytes (bf16): bound by memory. Shared memory: the reductions. 8 elements a thread.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.triton.arguments import FLOATS, expect
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import Attention

BLOCK = 1024


@triton.jit
def head_sums_kernel(
    qkv,
    sums,
    clip,
    Q_SIZE: tl.constexpr,
    K_SIZE: tl.constexpr,
    V_SIZE: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    source = qkv + token * (Q_SIZE + K_SIZE + V_SIZE) + part * Q_SIZE
    size = tl.where(part == 0, Q_SIZE, K_SIZE)
    total = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(source + at, mask=at < size, other=0.0).to(tl.float32)
        if CLIP:
            x = tl.minimum(tl.maximum(x, -clip), clip)
        total += x
        squares += x * x
    tl.store(sums + token * 4 + part * 2, tl.sum(total))
    tl.store(sums + token * 4 + part * 2 + 1, tl.sum(squares))


def head_sums(launch: Launcher, qkv: Tensor, spec: Attention) -> Tensor:
    """See `Operations.head_sums`."""
    n = qkv.shape[0]
    expect(qkv, (n, spec.q_size + spec.k_size + spec.v_size), *FLOATS)
    sums = torch.empty(n, 4, dtype=torch.float32, device=qkv.device)
    launch(
        head_sums_kernel,
        (n, 2),
        qkv,
        sums,
        spec.qkv_clip or 0.0,
        Q_SIZE=spec.q_size,
        K_SIZE=spec.k_size,
        V_SIZE=spec.v_size,
        CLIP=spec.qkv_clip is not None,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return sums
