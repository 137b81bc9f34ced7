"""Products with weights of four or eight bits, widened in registers. Twin: `reference_quantized.widen` and a product.

A program makes BLOCK_M × BLOCK_N outputs over its share of K; with few rows K is split over SPLIT_K programs, whose
sums a second kernel adds in one order, with bias and cast. Words lie so that a thread finds in one of them what its
part of a matrix instruction takes: nothing is shuffled. Four bits become 16-bit floats two at a time: under the bits of
128 (float16: 1,024) they are 128 + q, which one packed instruction centres and another scales. Scales lie [groups, out],
so that loads of them are contiguous, and come through the same pipeline as the words.
Arithmetic intensity: 2 · rows FLOP a weight of 0.56 to 0.63 bytes (four bits, groups of 32): 3.4 · rows FLOP/B: streams
weights up to some 50 rows on an A100, 90 on an H100. Shared memory a stage: x's tile, BLOCK_M · BLOCK_K · 2 bytes, and
BLOCK_N · BLOCK_K / 2 of words: 27 KiB for 16 × 64 × 128 with 4 stages, of which three are on their way. Registers:
accumulator BLOCK_M · BLOCK_N / (32 · num_warps), 64 for 128 × 128 on 8 warps, and the widened tile.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.triton.arguments import ANY, FLOATS, cdiv, expect, next_power_of_2, signature
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.launch_defaults import Parameters
from octavo_models.formats import SUPER_BLOCK

INTERPRETED = triton.knobs.runtime.interpret  # it has no instructions of packed halves
JOINED = 1024  # columns of a program that joins parts
PROGRAMS_PER_SM = 2  # that a product of few rows should have
MOST_SPLIT_ROWS = 256  # with more, tiles are enough for every SM
ROW_CLASSES = (16, 64, MOST_SPLIT_ROWS, sys.maxsize)  # x of up to so many rows are multiplied alike


@triton.jit
def float_of_half(bits):
    """The float16 in the low half of an int32, as float32."""
    return (bits & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def scales_of(
    scales,
    supers,
    first,
    n,
    N,
    held,
    shift,
    GROUPS: tl.constexpr,
    HAS_MINIMA: tl.constexpr,
    OF_SUPER: tl.constexpr,
    ONE_SUPER: tl.constexpr,
):
    """Scales and minima of groups `group` [g] for columns `n` [n]: float32, [n, g] each."""
    group = first + tl.arange(0, GROUPS)
    own = tl.load(scales + group[None, :] * N + n[:, None], mask=held, other=0)
    if OF_SUPER > 0:
        if ONE_SUPER:  # of all groups here
            group = first + tl.arange(0, 1)
            held = (n < N)[:, None]
        above = tl.load(supers + ((group + shift) // OF_SUPER)[None, :] * N + n[:, None], mask=held, other=0)
        if HAS_MINIMA:
            scale = float_of_half(above) * (own & 255).to(tl.float32)
            minimum = -(float_of_half(above >> 16) * ((own >> 8) & 255).to(tl.float32))
        else:
            scale = above.to(tl.float32) * own.to(tl.float32)
            minimum = tl.zeros_like(scale)
    elif HAS_MINIMA:
        scale, minimum = float_of_half(own), float_of_half(own >> 16)
    else:
        scale = own.to(tl.float32)
        minimum = tl.zeros_like(scale)
    return scale, minimum


@triton.jit
def twice(x, BFLOAT16: tl.constexpr):
    """float32 rounded to two equal 16-bit floats in an int32."""
    if BFLOAT16:
        made = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $1, $1;", "=r,f", [x], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        made = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $1, $1;", "=r,f", [x], dtype=tl.int32, is_pure=True, pack=1
        )
    return made


@triton.jit
def scaled_twice(pair, scale, centre, BFLOAT16: tl.constexpr):
    """(x - 136) * scale + centre (float16: x - 1032) of both halves of each int32."""
    if BFLOAT16:
        made = tl.inline_asm_elementwise(
            """{
            .reg .b32 one, less, q;
            mov.b32 one, 0x3f803f80;
            mov.b32 less, 0xc308c308;
            fma.rn.bf16x2 q, $1, one, less;
            fma.rn.bf16x2 $0, q, $2, $3;
            }""",
            "=r,r,r,r",
            [pair, scale, centre],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        made = tl.inline_asm_elementwise(
            """{
            .reg .b32 one, less, q;
            mov.b32 one, 0x3c003c00;
            mov.b32 less, 0xe408e408;
            fma.rn.f16x2 q, $1, one, less;
            fma.rn.f16x2 $0, q, $2, $3;
            }""",
            "=r,r,r,r",
            [pair, scale, centre],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    return made


@triton.jit
def nibbles(words, i: tl.constexpr, scale, centre, dtype: tl.constexpr, IN_HALVES: tl.constexpr):
    """(q - 8) * scale + centre of bits 4i and 16 + 4i on of each word: [..., 2] in dtype.

    IN_HALVES: two at a time, which no interpreter does; scale and centre are `twice` of themselves then.
    """
    if dtype == tl.float16:
        pair = ((words >> (4 * i)) & 0x000F000F) | 0x64006400
    else:
        pair = ((words >> (4 * i)) & 0x000F000F) | 0x43004300
    if IN_HALVES:
        made = scaled_twice(pair, scale, centre, dtype == tl.bfloat16)
        low = (made & 0xFFFF).to(tl.int16).to(dtype, bitcast=True)
        high = (made >> 16).to(tl.int16).to(dtype, bitcast=True)
    else:
        if dtype == tl.float16:
            low, high = float_of_half(pair) - 1032.0, float_of_half(pair >> 16) - 1032.0
        else:
            low = (pair << 16).to(tl.float32, bitcast=True) - 136.0
            high = ((pair >> 16) << 16).to(tl.float32, bitcast=True) - 136.0
        low, high = (low * scale + centre).to(dtype), (high * scale + centre).to(dtype)
    return tl.join(low, high)


@triton.jit
def of_byte(words, b: tl.constexpr, scale, minimum, HAS_MINIMA: tl.constexpr):
    """(q - 128) * scale + minimum of byte b of each word: under the bits of 2 ** 23 it is that plus q."""
    w = (((words >> (8 * b)) & 255) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + 128.0)
    return w * scale + minimum if HAS_MINIMA else w * scale


@triton.jit
def widened(
    words,
    scale,
    minimum,
    BITS: tl.constexpr,
    HAS_MINIMA: tl.constexpr,
    dtype: tl.constexpr,
    IN_HALVES: tl.constexpr,
):
    """Words [n, words] with scales and minima [n, groups]: the weights in dtype, [n, groups * group]."""
    N: tl.constexpr = words.shape[0]
    GROUPS: tl.constexpr = scale.shape[1]
    WORDS: tl.constexpr = words.shape[1]
    words = tl.reshape(words, [N, GROUPS, WORDS // GROUPS])
    if BITS == 4:
        centre = minimum + 8.0 * scale if HAS_MINIMA else minimum
        scale = tl.broadcast_to(scale[:, :, None], words.shape)
        centre = tl.broadcast_to(centre[:, :, None], words.shape)
        if IN_HALVES:
            scale, centre = twice(scale, dtype == tl.bfloat16), twice(centre, dtype == tl.bfloat16)
        else:
            scale, centre = scale.to(dtype).to(tl.float32), centre.to(dtype).to(tl.float32)
        a, b = nibbles(words, 0, scale, centre, dtype, IN_HALVES), nibbles(words, 1, scale, centre, dtype, IN_HALVES)
        c, d = nibbles(words, 2, scale, centre, dtype, IN_HALVES), nibbles(words, 3, scale, centre, dtype, IN_HALVES)
        w = tl.permute(tl.join(tl.join(a, c), tl.join(b, d)), [0, 1, 4, 5, 2, 3])  # [n, group, i, i, word, j]
    else:
        scale, minimum = scale[:, :, None], minimum[:, :, None]
        a, b = of_byte(words, 0, scale, minimum, HAS_MINIMA), of_byte(words, 1, scale, minimum, HAS_MINIMA)
        c, d = of_byte(words, 2, scale, minimum, HAS_MINIMA), of_byte(words, 3, scale, minimum, HAS_MINIMA)
        w = tl.join(tl.join(a.to(dtype), b.to(dtype)), tl.join(c.to(dtype), d.to(dtype)))
        w = tl.permute(tl.reshape(w, [N, WORDS // 4, 4, 2, 2]), [0, 1, 4, 2, 3])  # [n, run of 16, i, word, j]
    return tl.reshape(w, [N, WORDS * 32 // BITS])


@triton.jit(do_not_specialize=["M", "RUNS", "shift"], do_not_specialize_on_alignment=["bias"])
def packed_kernel(
    x,
    quants,
    scales,
    supers,
    bias,
    out,
    M,
    N,
    RUNS,
    shift,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_MINIMA: tl.constexpr,
    OF_SUPER: tl.constexpr,
    ONE_SUPER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IN_HALVES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """K is 32 * RUNS: the compiler then infers that rows begin at multiples of 16 bytes."""
    K, WORDS = RUNS * 32, RUNS * BITS
    part = tl.program_id(2)
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    held_m, held_n = (m < M)[:, None], (n < N)[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(part * BLOCK_K, K, BLOCK_K * tl.num_programs(2)):
        k = first + tl.arange(0, BLOCK_K)
        rows = tl.load(x + m[:, None] * K + k[None, :], mask=held_m & (k < K)[None, :], other=0.0)
        at = first * BITS // 32 + tl.arange(0, BLOCK_K * BITS // 32)
        words = tl.load(quants + n[:, None] * WORDS + at[None, :], mask=held_n & (at < WORDS)[None, :], other=0)
        held = held_n & (first // GROUP + tl.arange(0, BLOCK_K // GROUP) < K // GROUP)[None, :]
        scale, minimum = scales_of(
            scales, supers, first // GROUP, n, N, held, shift, BLOCK_K // GROUP, HAS_MINIMA, OF_SUPER, ONE_SUPER
        )
        w = widened(words, scale, minimum, BITS, HAS_MINIMA, x.dtype.element_ty, IN_HALVES)
        acc = tl.dot(rows, tl.trans(w), acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    at = part.to(tl.int64) * M * N + m[:, None] * N + n[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=held_m & (n < N)[None, :])


def rows_of_tile(num_rows: int) -> int:
    """The launch that suits a number of rows, as named in `launch_defaults`."""
    return 16 if num_rows <= 16 else 64 if num_rows <= 64 else 128


def parts_of(launch: Launcher, chosen: Parameters, columns: int, num_rows: int) -> int:
    """The number of parts that K is split into: enough for PROGRAMS_PER_SM by the columns alone, which the weight decides, and no
    more than the launch's SPLIT_K. A wide weight keeps every SM at work unsplit, and saves the join; so do many rows."""
    if num_rows > MOST_SPLIT_ROWS:
        return 1
    tiles = cdiv(columns, chosen["BLOCK_N"])
    wanted = next_power_of_2(cdiv(launch.gpu.num_sms * PROGRAMS_PER_SM, tiles))
    return int(min(chosen["SPLIT_K"], wanted))


def parts_bytes(launch: Launcher, columns: int, most_rows: int) -> int:
    """The most that the parts of a product of up to so many rows take."""
    most = 0
    for num_rows in ROW_CLASSES[:-1]:
        chosen = launch.parameters(f"packed.{rows_of_tile(num_rows)}")
        split = parts_of(launch, chosen, columns, num_rows)
        most = max(most, 4 * split * min(num_rows, most_rows) * columns if split > 1 else 0)
    return most


def matmul_packed(launch: Launcher, x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """x: [num_tokens, in] -> [num_tokens, out] in x's dtype."""
    num_rows, k = x.shape
    like = id(launch), x.dtype, k, next(most for most in ROW_CLASSES if num_rows <= most), signature(bias)
    product = weight.settled.get(like)
    if product is None:
        product = weight.settled[like] = PackedProduct(launch, x, weight, bias)
    return product(x, bias)


class PackedProduct:
    """Products with one weight, of x of one dtype and one of ROW_CLASSES."""

    def __init__(self, launch: Launcher, x: Tensor, weight: PackedWeight, bias: Tensor | None) -> None:
        m, k = x.shape
        n = weight.shape[0]
        assert k % 32 == 0, f"rows of {k} elements, where words are laid out in runs of 32"
        expect(x, (m, k), *FLOATS)
        expect(weight.quants, (n, k * weight.bits // 32), torch.int32)
        expect(weight.scales, (k // weight.group, n), weight.scale_dtype)
        expect(weight.supers, (ANY, n), weight.super_dtype)
        expect(bias, (n,), *FLOATS)
        of_super = 0 if weight.supers is None else SUPER_BLOCK // weight.group
        chosen = dict(launch.parameters(f"packed.{rows_of_tile(m)}"))
        split = parts_of(launch, chosen, n, m)
        del chosen["SPLIT_K"]  # no constant: it depends on how many SMs the GPU has
        self._launch = launch
        self._parts, self._columns = split, n
        self._tile = chosen["BLOCK_M"], chosen["BLOCK_N"]
        self._dtype = x.dtype if split == 1 else torch.float32  # of parts
        out = torch.empty(split, m, n, dtype=self._dtype, device="meta")
        self._run = launch.bind(
            packed_kernel,
            (
                x,
                weight.quants,
                weight.scales,
                weight.supers,
                bias if split == 1 else None,
                out,
                m,
                n,
                k // 32,
                weight.shift,
            ),
            changing=(0, 4, 5, 6),
            apart=(),
            BITS=weight.bits,
            GROUP=weight.group,
            HAS_MINIMA=weight.has_minima,
            OF_SUPER=of_super,
            ONE_SUPER=of_super > 0 and weight.shift * weight.group % chosen["BLOCK_K"] == 0,
            IN_HALVES=not INTERPRETED and weight.bits == 4 and x.element_size() == 2,
            HAS_BIAS=bias is not None and split == 1,
            PRECISION="ieee" if x.element_size() == 4 else "tf32",
            **chosen,
        )

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x: [num_tokens, in] -> [num_tokens, out] in x's dtype."""
        m, n, split = x.shape[0], self._columns, self._parts
        out = torch.empty(split, m, n, dtype=self._dtype, device=x.device)
        grid = cdiv(n, self._tile[1]), cdiv(m, self._tile[0]), split
        self._run(grid, x, bias if split == 1 else None, out, m)
        return joined(self._launch, out, bias, x.dtype)


@triton.jit(do_not_specialize=["M", "num_parts"], do_not_specialize_on_alignment=["bias"])
def join_parts_kernel(parts, bias, out, M, N, num_parts, HAS_BIAS: tl.constexpr, TILE: tl.constexpr):
    """out[m, n] = the sum of parts[:, m, n] in their order, bias[n] included: float32 until it is stored."""
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    at = tl.program_id(1).to(tl.int64) * N + n
    total = tl.load(parts + at, mask=n < N, other=0.0)
    for part in range(1, num_parts):
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
    like = joined, n, split, dtype, signature(bias)
    run = launch.bound.get(like)
    if run is None:
        run = launch.bound[like] = launch.bind(
            join_parts_kernel,
            (parts, bias, out, m, n, split),
            changing=(0, 1, 2, 3),
            HAS_BIAS=bias is not None,
            TILE=JOINED,
            num_warps=4,
        )
    run((cdiv(n, JOINED), m), parts, bias, out, m)
    return out
