"""Products in float8: rows of x rounded with a scale each, weights stored so. Twin: `reference_quantized.matmul_float8`.

Needs compute capability 8.9. A program makes BLOCK_M × BLOCK_N outputs over its share of K, summed in float32; scales
of row and column come at the end. Arithmetic intensity: 2 · rows FLOP a weight of one byte; streams weights up to some
150 rows on an H100 (660 FLOP of dense float8 a byte at most: more rows than that for its full rate). Shared memory:
(BLOCK_M + BLOCK_N) · BLOCK_K bytes a stage: 96 KiB for 128 × 128 × 128 and 3 stages. Registers: accumulator
BLOCK_M · BLOCK_N / (32 · num_warps), 64 on 8 warps. Rounding a row reads it once: bound by memory, a row in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.operations import Float8Weight
from octavo_engine.kernels.triton.arguments import FLOATS, cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.packed_matmul import joined, parts_of, rows_of_tile


@triton.jit(do_not_specialize_on_alignment=["scales"])
def round_rows_kernel(x, values, scales, K, BLOCK: tl.constexpr):
    """values = x / scale in float8, the row's largest magnitude at 448."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    h = tl.load(x + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(h)), 448.0), 1e-12)
    h = tl.minimum(tl.maximum(tl.div_rn(h, tl.zeros_like(h) + scale), -448.0), 448.0)
    tl.store(values + row * K + k, h.to(tl.float8e4nv), mask=k < K)
    tl.store(scales + row, scale)


@triton.jit(do_not_specialize=["M"], do_not_specialize_on_alignment=["x_scales", "bias"])
def float8_kernel(
    x,
    weight,
    x_scales,
    weight_scales,
    bias,
    out,
    M,
    N,
    K,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Products of sm_90 sum in some 13 bits: after so many, they are added up in float32.
    IMPRECISE: tl.constexpr = BLOCK_K if BLOCK_K < 128 else 128  # noqa: FURB136 — min() is no constant here
    part = tl.program_id(2)
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    held_m, held_n = (m < M)[:, None], (n < N)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(part * BLOCK_K, K, BLOCK_K * tl.num_programs(2)):
        k = first + tl.arange(0, BLOCK_K)
        rows = tl.load(x + m[:, None] * K + k[None, :], mask=held_m & (k < K)[None, :], other=0.0)
        columns = tl.load(weight + n[None, :] * K + k[:, None], mask=held_n & (k < K)[:, None], other=0.0)
        acc = tl.dot(rows, columns, acc, max_num_imprecise_acc=IMPRECISE)
    acc *= tl.load(x_scales + m, mask=m < M, other=0.0)[:, None]
    acc *= tl.load(weight_scales + n, mask=n < N, other=0.0)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at = part.to(tl.int64) * M * N + m[:, None] * N + n[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=held_m & held_n)


def matmul_float8(launch: Launcher, x: Tensor, weight: Float8Weight, bias: Tensor | None) -> Tensor:
    """x: [num_tokens, in] -> [num_tokens, out] in x's dtype."""
    m, k = x.shape
    n = weight.shape[0]
    expect(x, (m, k), *FLOATS)
    expect(weight.values, (n, k), torch.float8_e4m3fn)
    expect(weight.scales, (n,), torch.float32)
    expect(bias, (n,), *FLOATS)
    values = torch.empty(m, k, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    block = next_power_of_2(k)
    launch(round_rows_kernel, (m,), x, values, scales, k, BLOCK=block, num_warps=min(16, max(1, block // 512)))
    chosen = dict(launch.parameters(f"float8.{rows_of_tile(m)}"))
    split = parts_of(launch, chosen, n, m)
    del chosen["SPLIT_K"]  # no constant: it depends on how many SMs the GPU has
    out = torch.empty(split, m, n, dtype=x.dtype if split == 1 else torch.float32, device=x.device)
    launch(
        float8_kernel,
        (cdiv(n, chosen["BLOCK_N"]), cdiv(m, chosen["BLOCK_M"]), split),
        values,
        weight.values,
        scales,
        weight.scales,
        bias if split == 1 else None,
        out,
        m,
        n,
        k,
        HAS_BIAS=bias is not None and split == 1,
        **chosen,
    )
    return joined(launch, out, bias, x.dtype)
