"""Products of rows with the experts they go to: no expert is read that no row goes to. Twin: `reference_experts.experts`.

Rows are sorted by their expert (`routing.arrange`); a program makes BLOCK_M × BLOCK_N outputs of rows of one expert. The
first product makes gate and up at once and ends with the activation, the second multiplies by the token's weight for
the expert; a token's experts are then summed. Grids are bounds: a program without a tile ends at once.
Arithmetic intensity: rows of an expert FLOP a byte of weights (bf16): with a few it streams weights. Shared memory a
stage: BLOCK_M · BLOCK_K of rows and BLOCK_N · BLOCK_K of weights, twice where gated, 2 bytes each: 20 KiB for
16 × 32 × 128. Registers: the accumulators, BLOCK_M · BLOCK_N / (32 · num_warps) each, 64 for two of 64 × 128 on 4 warps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.triton.activation import activated, gated_by
from octavo_engine.kernels.triton.arguments import ANY, FLOATS, cdiv, expect
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.launch_defaults import Parameters
from octavo_engine.kernels.triton.packed_matmul import INTERPRETED, scales_of, widened
from octavo_engine.kernels.triton.routing import arrange, most_tiles
from octavo_models.formats import SUPER_BLOCK
from octavo_models.layers import Experts


@triton.jit
def tile_of(
    weight,
    scales,
    supers,
    n,
    held_n,
    num_rows,
    first,
    k,
    K,
    shift,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_MINIMA: tl.constexpr,
    OF_SUPER: tl.constexpr,
    ONE_SUPER: tl.constexpr,
    IN_HALVES: tl.constexpr,
    dtype: tl.constexpr,
):
    """Rows `n` and columns `k`, which begin with `first`, of a matrix of `num_rows` rows: [BLOCK_N, BLOCK_K]."""
    BLOCK_K: tl.constexpr = k.shape[0]
    if BITS == 0:
        w = tl.load(weight + n[:, None] * K + k[None, :], mask=held_n & (k < K)[None, :], other=0.0).to(dtype)
    else:
        words_of_row = K * BITS // 32
        at = first * BITS // 32 + tl.arange(0, BLOCK_K * BITS // 32)
        words = tl.load(
            weight + n[:, None] * words_of_row + at[None, :], mask=held_n & (at < words_of_row)[None, :], other=0
        )
        held = held_n & (first // GROUP + tl.arange(0, BLOCK_K // GROUP) < K // GROUP)[None, :]
        scale, minimum = scales_of(
            scales, supers, first // GROUP, n, num_rows, held, shift, BLOCK_K // GROUP, HAS_MINIMA, OF_SUPER, ONE_SUPER
        )  # fmt: skip
        w = widened(words, scale, minimum, BITS, HAS_MINIMA, dtype, IN_HALVES)
    return w


@triton.jit(
    do_not_specialize=["bound", "NUM_RUNS", "shift"],
    do_not_specialize_on_alignment=["bias", "gate_bias", "order", "tiles", "shares"],
)
def experts_kernel(
    x,
    up,
    up_scales,
    up_supers,
    gate,
    gate_scales,
    gate_supers,
    bias,
    gate_bias,
    shares,
    out,
    order,
    tiles,
    bound,
    N,
    NUM_RUNS,
    shift,
    NUM: tl.constexpr,
    RUN: tl.constexpr,
    ROWS_OF: tl.constexpr,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SHARE: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_MINIMA: tl.constexpr,
    OF_SUPER: tl.constexpr,
    ONE_SUPER: tl.constexpr,
    IN_HALVES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out[i] of choice i in `order`, of row i // ROWS_OF of x. K is NUM_RUNS * RUN: a fact for the compiler.

    SHARE: where the weight of the choice comes in: "input", "output" or "none". KIND "none": there is no activation.
    """
    K = NUM_RUNS * RUN
    dtype: tl.constexpr = x.dtype.element_ty
    t = tl.program_id(1)
    expert = tl.load(tiles + t)
    if expert >= 0:
        place = tl.load(tiles + bound + t) + tl.arange(0, BLOCK_M)
        held = place < tl.load(tiles + 2 * bound + t)
        choice = tl.load(order + place, mask=held, other=0).to(tl.int64)
        row = choice // ROWS_OF
        column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        held_n = (column < N)[:, None]
        n = expert.to(tl.int64) * N + column
        num_rows = NUM * N.to(tl.int64)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        gates = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in range(0, K, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            rows = tl.load(x + row[:, None] * K + k[None, :], mask=held[:, None] & (k < K)[None, :], other=0.0)
            w = tile_of(
                up, up_scales, up_supers, n, held_n, num_rows, first, k, K, shift,
                BITS, GROUP, HAS_MINIMA, OF_SUPER, ONE_SUPER, IN_HALVES, dtype,
            )  # fmt: skip
            acc = tl.dot(rows, tl.trans(w), acc, input_precision=PRECISION)
            if GATED:
                w = tile_of(
                    gate, gate_scales, gate_supers, n, held_n, num_rows, first, k, K, shift,
                    BITS, GROUP, HAS_MINIMA, OF_SUPER, ONE_SUPER, IN_HALVES, dtype,
                )  # fmt: skip
                gates = tl.dot(rows, tl.trans(w), gates, input_precision=PRECISION)
        if SHARE != "none":
            share = tl.load(shares + choice, mask=held, other=0.0)[:, None]
        if SHARE == "input":  # a product is linear
            acc *= share
            gates *= share
        if HAS_BIAS:
            acc += tl.load(bias + n, mask=column < N, other=0.0).to(tl.float32)[None, :]
            if GATED:
                gates += tl.load(gate_bias + n, mask=column < N, other=0.0).to(tl.float32)[None, :]
        if GATED:
            acc = gated_by(gates, acc, KIND)
        elif KIND != "none":
            acc = activated(acc, KIND)
        if SHARE == "output":
            acc *= share
        at = choice[:, None] * N + column[None, :]
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=held[:, None] & (column < N)[None, :])


def experts(
    launch: Launcher, x: Tensor, chosen: Tensor, shares: Tensor, weights: ExpertWeights, spec: Experts
) -> Tensor:
    """See `Operations.experts`."""
    n, k = chosen.shape
    hidden = x.shape[1]
    expect(x, (n, hidden), *FLOATS)
    expect(chosen, (n, k), torch.int32)
    expect(shares, (n, k), torch.float32)
    name = launch_name(n * k, spec.num_experts)
    arranged = arrange(launch, chosen, spec, launch.parameters(name)["BLOCK_M"])
    inner = x.new_empty(n * k, weights.up.shape[0] // spec.num_held)
    first, second = ("input", "none") if spec.router.weighs_input else ("none", "output")
    up = weights.up, weights.gate, weights.up_bias, weights.gate_bias
    _product(launch, x, *up, shares, inner, arranged, spec, name, rows_of=k, kind=spec.expert.activation, share=first)
    each = x.new_empty(n, k, hidden) if spec.held is None else x.new_zeros(n, k, hidden)  # other ranks make the rest
    down = weights.down, None, weights.down_bias, None
    _product(launch, inner, *down, shares, each, arranged, spec, name, rows_of=1, kind="none", share=second)
    del inner
    return each.sum(1)


def launch_name(num_choices: int, num_experts: int) -> str:
    """The launch that suits the rows that an expert has on average, as named in `launch_defaults`."""
    rows = num_choices // num_experts
    return f"experts.{16 if rows <= 16 else 64 if rows <= 128 else 128}"


def scratch_bytes(launch: Launcher, num_tokens: int, spec: Experts) -> int:
    """The most bytes of what is chosen and how it is arranged, for up to `num_tokens` tokens."""
    num = num_tokens * spec.num_experts_per_token
    fewest = min(launch.parameters(f"experts.{rows}")["BLOCK_M"] for rows in (16, 64, 128))
    return 4 * (3 * num + 3 * most_tiles(num, spec.num_experts, fewest))


def _product(
    launch: Launcher,
    x: Tensor,
    up: Tensor | PackedWeight,
    gate: Tensor | PackedWeight | None,
    bias: Tensor | None,
    gate_bias: Tensor | None,
    shares: Tensor,
    out: Tensor,
    arranged: tuple[Tensor, Tensor],
    spec: Experts,
    name: str,
    *,
    rows_of: int,
    kind: str,
    share: str,
) -> None:
    order, tiles = arranged
    bound = tiles.shape[1]
    total, k = up.shape
    n = total // spec.num_held
    expect(x, (ANY, k), *FLOATS)
    for vector in (bias, gate_bias):
        expect(vector, (total,), *FLOATS)
    for matrix in (up, gate):
        _expect_matrix(matrix, total, k)
    packed = up if isinstance(up, PackedWeight) else None
    assert gate is None or (gate.layout if isinstance(gate, PackedWeight) else None) == (packed and packed.layout)
    of_super = 0 if packed is None or packed.supers is None else SUPER_BLOCK // packed.group
    chosen: Parameters = launch.parameters(name)
    if x.element_size() == 4:  # which no model is served in on a GPU
        chosen = {**chosen, "BLOCK_K": min(64, chosen["BLOCK_K"]), "num_stages": 2}
    run = 32 if packed is not None else 16 if k % 16 == 0 else 1
    launch(
        experts_kernel,
        (cdiv(n, chosen["BLOCK_N"]), bound),
        x,
        *_parts(up),
        *_parts(gate),
        bias,
        gate_bias,
        shares,
        out,
        order,
        tiles,
        bound,
        n,
        k // run,
        0 if packed is None else packed.shift,
        NUM=spec.num_held,
        RUN=run,
        ROWS_OF=rows_of,
        KIND=kind,
        GATED=gate is not None,
        HAS_BIAS=bias is not None,
        SHARE=share,
        BITS=0 if packed is None else packed.bits,
        GROUP=1 if packed is None else packed.group,
        HAS_MINIMA=packed is not None and packed.has_minima,
        OF_SUPER=of_super,
        ONE_SUPER=packed is not None and of_super > 0 and packed.shift * packed.group % chosen["BLOCK_K"] == 0,
        IN_HALVES=packed is not None and not INTERPRETED and packed.bits == 4 and x.element_size() == 2,
        PRECISION="ieee" if x.element_size() == 4 else "tf32",
        **chosen,
    )


def _expect_matrix(matrix: Tensor | PackedWeight | None, total: int, k: int) -> None:
    if not isinstance(matrix, PackedWeight):
        expect(matrix, (total, k), *FLOATS)
        return
    expect(matrix.quants, (total, k * matrix.bits // 32), torch.int32)
    expect(matrix.scales, (k // matrix.group, total), matrix.scale_dtype)
    expect(matrix.supers, (ANY, total), matrix.super_dtype)


def _parts(matrix: Tensor | PackedWeight | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if isinstance(matrix, PackedWeight):
        return matrix.quants, matrix.scales, matrix.supers
    return matrix, None, None
