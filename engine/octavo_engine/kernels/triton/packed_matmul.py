"""Products with weights of four or eight bits, widened in registers. Twin: `reference_quantized.unpack` and a product.

A program makes BLOCK_M × BLOCK_N outputs over its share of K; with few rows K is split over SPLIT_K programs, whose
sums a second kernel adds in one order, with bias and cast. A byte of four-bit weights holds elements 16 apart: a tile is two products, of
low and of high nibbles with their columns of x, and nothing is shuffled. Scales are loaded once a group: what is loaded
for each element waits in shared memory like the quants, at up to eight times their size.
Arithmetic intensity: 2 · rows FLOP a weight of 0.625 bytes (four bits, scale and minimum a group of 32): 3.2 · rows
FLOP/B: streams weights up to some 50 rows on an A100, 90 on an H100. Shared memory: x's tile a stage,
BLOCK_M · BLOCK_K · 2 bytes, and BLOCK_N · BLOCK_K / 2 of nibbles: 32 KiB for 16 × 64 × 128 with 4 stages. Registers:
accumulator BLOCK_M · BLOCK_N / (32 · num_warps), 64 for 128 × 128 on 8 warps, and the widened tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.operations import PackedWeight
from octavo_engine.kernels.triton.arguments import FLOATS, cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.launch_defaults import Parameters

JOINED = 1024  # columns of a program that joins parts
PROGRAMS_PER_SM = 2  # that a product of few rows should have


@triton.jit
def by_group(quants, scale, minimum, HAS_MINIMA: tl.constexpr):
    """quants * scale + minimum, float32: [k, n], and one scale and minimum for each of k's groups, [groups, n]."""
    GROUPS: tl.constexpr = scale.shape[0]
    w = tl.reshape(quants.to(tl.float32), [GROUPS, quants.shape[0] // GROUPS, quants.shape[1]]) * scale[:, None, :]
    if HAS_MINIMA:
        w += minimum[:, None, :]
    return tl.reshape(w, quants.shape)


@triton.jit(do_not_specialize=["M"], do_not_specialize_on_alignment=["bias"])
def packed_kernel(
    x,
    quants,
    scales,
    minima,
    bias,
    out,
    M,
    N,
    K,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_MINIMA: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    part = tl.program_id(2)
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    held_m, held_n = (m < M)[:, None], (n < N)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(part * BLOCK_K, K, BLOCK_K * SPLIT_K):
        group = first // GROUP + tl.arange(0, BLOCK_K // GROUP)
        at = n[None, :] * (K // GROUP) + group[:, None]
        held = held_n & (group < K // GROUP)[:, None]
        scale = tl.load(scales + at, mask=held, other=0.0).to(tl.float32)
        minimum = scale
        if HAS_MINIMA:
            minimum = tl.load(minima + at, mask=held, other=0.0).to(tl.float32)
        if BITS == 8:
            k = first + tl.arange(0, BLOCK_K)
            q = tl.load(quants + n[None, :] * K + k[:, None], mask=held_n & (k < K)[:, None], other=0)
            w = by_group(q.to(tl.float32) - 128.0, scale, minimum, HAS_MINIMA)
            rows = tl.load(x + m[:, None] * K + k[None, :], mask=held_m & (k < K)[None, :], other=0.0)
            acc = tl.dot(rows, w.to(rows.dtype), acc, input_precision=PRECISION)
        else:
            j = tl.arange(0, BLOCK_K // 2)
            low = first + j // 16 * 32 + j % 16
            high = low + 16
            q = tl.load(
                quants + n[None, :] * (K // 2) + (first // 2 + j)[:, None], mask=held_n & (low < K)[:, None], other=0
            )
            rows = tl.load(x + m[:, None] * K + low[None, :], mask=held_m & (low < K)[None, :], other=0.0)
            w = by_group(q & 15, scale, minimum, HAS_MINIMA)
            acc = tl.dot(rows, w.to(rows.dtype), acc, input_precision=PRECISION)
            rows = tl.load(x + m[:, None] * K + high[None, :], mask=held_m & (high < K)[None, :], other=0.0)
            w = by_group(q >> 4, scale, minimum, HAS_MINIMA)
            acc = tl.dot(rows, w.to(rows.dtype), acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at = part.to(tl.int64) * M * N + m[:, None] * N + n[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=held_m & held_n)


def rows_of_tile(num_rows: int) -> int:
    """The launch that suits a number of rows, as named in `launch_defaults`."""
    return 16 if num_rows <= 16 else 64 if num_rows <= 64 else 128


def parts_of(launch: Launcher, chosen: Parameters, columns: int) -> int:
    """Into how many parts K is split: enough for PROGRAMS_PER_SM by the columns alone, which the weight decides, and no
    more than the launch's SPLIT_K. A wide weight keeps every SM at work unsplit, and saves the join."""
    tiles = cdiv(columns, chosen["BLOCK_N"])
    wanted = next_power_of_2(cdiv(launch.card.num_sms * PROGRAMS_PER_SM, tiles))
    return int(min(chosen["SPLIT_K"], wanted))


def matmul_packed(launch: Launcher, x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """x: [num_tokens, in] -> [num_tokens, out] in x's dtype."""
    m, k = x.shape
    n = weight.shape[0]
    expect(x, (m, k), *FLOATS)
    expect(weight.quants, (n, k * weight.bits // 8), torch.uint8)
    for numbers in (weight.scales, weight.minima):
        expect(numbers, (n, k // weight.group), *FLOATS)
    expect(bias, (n,), *FLOATS)
    chosen = dict(launch.parameters(f"packed.{rows_of_tile(m)}"))
    split = chosen["SPLIT_K"] = parts_of(launch, chosen, n)
    out = torch.empty(split, m, n, dtype=x.dtype if split == 1 else torch.float32, device=x.device)
    launch(
        packed_kernel,
        (cdiv(n, chosen["BLOCK_N"]), cdiv(m, chosen["BLOCK_M"]), split),
        x,
        weight.quants,
        weight.scales,
        weight.minima,
        bias if split == 1 else None,
        out,
        m,
        n,
        k,
        BITS=weight.bits,
        GROUP=weight.group,
        HAS_MINIMA=weight.minima is not None,
        HAS_BIAS=bias is not None and split == 1,
        PRECISION="ieee" if x.element_size() == 4 else "tf32",
        **chosen,
    )
    return joined(launch, out, bias, x.dtype)


@triton.jit(do_not_specialize=["M"], do_not_specialize_on_alignment=["bias"])
def join_parts_kernel(parts, bias, out, M, N, SPLIT_K: tl.constexpr, HAS_BIAS: tl.constexpr, TILE: tl.constexpr):
    """out[m, n] = the sum of parts[:, m, n] in their order, bias[n] included: float32 until it is stored."""
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    at = tl.program_id(1).to(tl.int64) * N + n
    total = tl.load(parts + at, mask=n < N, other=0.0)
    for part in tl.static_range(1, SPLIT_K):
        total += tl.load(parts + part * M.to(tl.int64) * N + at, mask=n < N, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=n < N)


def joined(launch: Launcher, parts: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The sum of a product's parts [split, m, n], bias included, as dtype; a single part has it already."""
    split, m, n = parts.shape
    if split == 1:
        return parts[0]
    out = torch.empty(m, n, dtype=dtype, device=parts.device)
    grid = (cdiv(n, JOINED), m)
    options = {"SPLIT_K": split, "HAS_BIAS": bias is not None, "TILE": JOINED, "num_warps": 4}
    launch(join_parts_kernel, grid, parts, bias, out, m, n, **options)
    return out
