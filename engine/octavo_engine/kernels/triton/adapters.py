"""Low-rank adapters added to a product, in a step whose rows use different ones. Twin: `reference_adapters`.

Two launches, as Punica (Chen et al., 2023) and S-LoRA (Sheng et al., 2023) describe them: rows of one adapter are tiles.
*Shrink* makes `a @ x`, float32, for all projections that share the input; K is split among programs where rows are few,
and each writes its part. *Expand* adds the parts up in their order, rounds, multiplies by `b` and adds to y: nothing is
added by two programs, so a result does not depend on which ends first. Programs of empty tiles, and of adapters that
have nothing for this product, end at once; rows without an adapter are in no tile.
Arithmetic intensity: rows of an adapter FLOP a byte (bf16): streams adapters. Shared memory: a stage of shrink has
(BLOCK_M + BLOCK_R) · BLOCK_K elements, 8 KiB for 16 × 16 × 128. Registers: accumulators, at most 64 · 64 / 128 = 32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.triton.arguments import ANY, FLOATS, cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher

FEW_ROWS = 256  # up to so many take small tiles and a split of K
MOST_PARTS = 3  # q, k and v
WIDEST_RANK = 32  # of one pass of expand: with 64 it spills registers on 8.9


@triton.jit(
    do_not_specialize=["num_rows", "num_tiles", "width"], do_not_specialize_on_alignment=["ranks", "order", "tiles"]
)
def shrink_kernel(
    x,
    a,
    ranks,
    order,
    tiles,
    low,
    num_rows,
    num_tiles,
    K,
    slot_stride,
    width,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """low[part, place] = this program's share of `a @ x` of the row at `place` of `order`."""
    t = tl.program_id(1)
    slot = tl.load(tiles + t)
    if tl.load(ranks + slot, mask=slot >= 0, other=0) > 0:
        place = tl.load(tiles + num_tiles + t) + tl.arange(0, BLOCK_M)
        held = (place < tl.load(tiles + 2 * num_tiles + t))[:, None]
        row = tl.load(order + place[:, None], mask=held, other=0).to(tl.int64)
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        matrix = a + slot.to(tl.int64) * slot_stride + r[None, :] * K
        part = tl.program_id(2)
        acc = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
        for first in range(part * BLOCK_K, K, BLOCK_K * tl.num_programs(2)):
            k = first + tl.arange(0, BLOCK_K)
            rows = tl.load(x + row * K + k[None, :], mask=held & (k < K)[None, :], other=0.0)
            columns = tl.load(matrix + k[:, None], mask=(r < width)[None, :] & (k < K)[:, None], other=0.0)
            acc = tl.dot(rows, columns, acc, input_precision=PRECISION)
        at = (part.to(tl.int64) * num_rows + place[:, None]) * width + r[None, :]
        tl.store(low + at, acc, mask=held & (r < width)[None, :])


@triton.jit(
    do_not_specialize=["num_rows", "num_tiles", "num_splits", "width"],
    do_not_specialize_on_alignment=["ranks", "order", "tiles"],
)
def expand_kernel(
    low,
    b,
    ranks,
    order,
    tiles,
    y,
    num_rows,
    num_tiles,
    num_splits,
    size_0,
    size_1,
    size_2,
    slot_stride,
    width,
    RANK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Add `b @ low` to the rows of y. A block of columns lies in one part: a part's last block may be short."""
    t = tl.program_id(1)
    slot = tl.load(tiles + t)
    rank = tl.load(ranks + slot, mask=slot >= 0, other=0)
    if rank > 0:
        place = tl.load(tiles + num_tiles + t) + tl.arange(0, BLOCK_M)
        held = (place < tl.load(tiles + 2 * num_tiles + t))[:, None]
        row = tl.load(order + place[:, None], mask=held, other=0).to(tl.int64)
        block, blocks_0 = tl.program_id(0), tl.cdiv(size_0, BLOCK_N)
        blocks_1 = tl.cdiv(size_1, BLOCK_N)
        behind_0, behind_1 = (block >= blocks_0).to(tl.int32), (block >= blocks_0 + blocks_1).to(tl.int32)
        part = behind_0 + behind_1
        block -= behind_0 * blocks_0 + behind_1 * blocks_1
        start = behind_0 * size_0 + behind_1 * size_1
        end = start + (1 - behind_0) * size_0 + (behind_0 - behind_1) * size_1 + behind_1 * size_2
        n = start + block * BLOCK_N + tl.arange(0, BLOCK_N)
        held_n = (n < end)[None, :]
        matrix = b + slot.to(tl.int64) * slot_stride + n[None, :] * RANK
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in range(0, rank, BLOCK_R):
            r = first + tl.arange(0, BLOCK_R)
            held_r = r < RANK
            source = low + place[:, None].to(tl.int64) * width + part * RANK + r[None, :]
            h = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
            for _ in range(num_splits):
                h += tl.load(source, mask=held & held_r[None, :], other=0.0)
                source += num_rows.to(tl.int64) * width
            columns = tl.load(matrix + r[:, None], mask=held_r[:, None] & held_n, other=0.0)
            acc = tl.dot(h.to(columns.dtype), columns, acc, input_precision=PRECISION)
        at = y + row * (size_0 + size_1 + size_2) + n[None, :]
        total = tl.load(at, mask=held & held_n, other=0.0).to(tl.float32) + acc
        tl.store(at, total.to(y.dtype.element_ty), mask=held & held_n)


def tile_rows(launch: Launcher, num_rows: int) -> int:
    """See `Operations.adapter_tile`."""
    return launch.parameters(f"shrink.{16 if num_rows <= FEW_ROWS else 64}")["BLOCK_M"]


def scratch_bytes(launch: Launcher, num_tokens: int, width: int) -> int:
    """See `Operations.adapters_scratch`."""
    few, many = (launch.parameters(f"shrink.{rows}")["SPLIT_K"] for rows in (16, 64))
    # Of few tokens in all, the class is that of few rows; of many, it may be either.
    return 4 * width * max(few * min(num_tokens, FEW_ROWS), many * num_tokens if num_tokens > FEW_ROWS else 0)


def add_adapters(launch: Launcher, y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
    """See `Operations.add_adapters`."""
    num_rows, num_tiles = len(rows.order), rows.tiles.shape[1]
    if not num_rows or not num_tiles:
        return
    x = x.contiguous()
    width, k = weights.a.shape[1], x.shape[1]
    like = add_adapters, x.dtype, k, width, weights.sizes, weights.a.stride(0), weights.b.stride(0), rows.tile_rows
    made = launch.bound.get(like)
    if made is None:
        made = launch.bound[like] = AdaptedLaunches(launch, y, x, weights, rows)
    made(y, x, weights, rows)


class AdaptedLaunches:
    """Both launches for products of one shape, and tiles of one size."""

    def __init__(self, launch: Launcher, y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
        k, width, rank, sizes = x.shape[1], weights.a.shape[1], weights.rank, weights.sizes
        assert len(sizes) <= MOST_PARTS
        self._expect(y, x, weights, rows)
        kind = next(kind for kind in (16, 64) if launch.parameters(f"shrink.{kind}")["BLOCK_M"] == rows.tile_rows)
        shrink, expand = (dict(launch.parameters(f"{name}.{kind}")) for name in ("shrink", "expand"))
        assert shrink["BLOCK_M"] == expand["BLOCK_M"], "both launches take the same tiles"
        wide = x.element_size() == 4  # which no model is served in on a GPU
        if wide:
            shrink |= {"BLOCK_K": min(64, shrink["BLOCK_K"]), "num_stages": 2}
        self._split = min(shrink.pop("SPLIT_K"), cdiv(k, shrink["BLOCK_K"]))
        self._width = width
        self._first = cdiv(width, shrink["BLOCK_R"])
        self._second = sum(cdiv(size, expand["BLOCK_N"]) for size in sizes)
        precision = "ieee" if wide else "tf32"
        low = torch.empty(self._split, 1, width, dtype=torch.float32, device="meta")
        stride_a, stride_b = weights.a.stride(0), weights.b.stride(0)
        self._shrink = launch.bind(
            shrink_kernel,
            (x, weights.a, weights.ranks, rows.order, rows.tiles, low, 1, 1, k, stride_a, width),
            changing=range(8),
            apart=(1,),
            PRECISION=precision,
            **shrink,
        )
        padded = (*sizes, *[0] * (MOST_PARTS - len(sizes)))
        self._expand = launch.bind(
            expand_kernel,
            (low, weights.b, weights.ranks, rows.order, rows.tiles, y, 1, 1, self._split, *padded, stride_b, width),
            changing=range(9),
            apart=(1,),
            RANK=rank,
            PRECISION=precision,
            BLOCK_R=min(WIDEST_RANK, max(16, next_power_of_2(rank))),
            **expand,
        )

    def __call__(self, y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
        num_rows, num_tiles, split = len(rows.order), rows.tiles.shape[1], self._split
        low = torch.empty(split, num_rows, self._width, dtype=torch.float32, device=x.device)
        step = weights.ranks, rows.order, rows.tiles
        self._shrink((self._first, num_tiles, split), x, weights.a, *step, low, num_rows, num_tiles)
        self._expand((self._second, num_tiles), low, weights.b, *step, y, num_rows, num_tiles, split)

    @staticmethod
    def _expect(y: Tensor, x: Tensor, weights: AdapterWeights, rows: AdapterRows) -> None:
        n, k = x.shape
        slots, rank, out = len(weights.a), weights.rank, sum(weights.sizes)
        expect(x, (n, k), *FLOATS)
        expect(y, (n, out), x.dtype)
        expect(weights.a, (slots, len(weights.sizes) * rank, k), x.dtype, strided=True)
        expect(weights.b, (slots, out, rank), x.dtype, strided=True)
        expect(weights.ranks, (slots,), torch.int32)
        expect(rows.order, (ANY,), torch.int32)
        expect(rows.tiles, (3, ANY), torch.int32)
