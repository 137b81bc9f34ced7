"""A draw from each row of logits: greedy, or by Gumbel-max within top-k, top-p and min-p, without a sort.

Twin: `reference_sampling.sample`, with the same Philox words, so that a draw depends on seed, position and token alone.
The first kernel takes the largest logit of some stretches of each row, and the second their noisy maximum relative to
the row's largest; the third joins them, and ends there unless the row filters. What min-p and top-k keep is a stretch of the tokens' order, found by radix selection. Top-p keeps one
too, so it is tested only for the token drawn: if the mass before it reaches top_p, neither it nor any token after it
may be drawn, and the draw is repeated among those before it. That ends after 1 / top_p draws on average, and each is
one pass, in which the next draw is made while the mass is summed.
Arithmetic intensity: some 150 integer and 40 float operations (Philox, two logarithms) for 4 bytes: at 32 rows of
128k tokens bound by arithmetic in the second kernel; it and the passes of the third read L2. Shared memory: reductions and a
histogram, under 4 KiB. Registers: TILE / (32 · num_warps) = 8 elements a thread of logits, words and noise, under 96.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.operations import SamplingBatch
from octavo_engine.kernels.triton.arguments import expect
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.selection import MINUS_INFINITY, key_of, kth_best, load_row, load_scaled, up_to

TILE = 1024
MOST_PARTS = 32  # of a row: programs enough for a card when few rows are drawn


@triton.jit
def gumbel_noise(seed, position, first, TILE: tl.constexpr):
    """The noise of tokens first … first + TILE - 1 (first a multiple of 4): `reference_sampling.gumbel_noise`.

    u = (n + 0.5) · 2⁻²⁴ needs 25 bits. Below 1/2 a float32 holds it, above it holds 1 - u, and log(1 - c) comes by
    Kahan's correction of log(fl(1 - c)): float64, slow on most cards, isn't needed.
    """
    counter = first // 4 + tl.arange(0, TILE // 4)
    zero = counter * 0
    a, b, c, d = tl.philox(seed, counter, zero + position.to(tl.int32), zero, zero)
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    n = (words >> 8).to(tl.int32)
    low = n < 8388608
    u = (n.to(tl.float32) + 0.5) * 5.9604644775390625e-08
    complement = ((16777215 - n).to(tl.float32) + 0.5) * 5.9604644775390625e-08
    rounded = tl.where(low, 0.5, 1.0 - complement)
    gap = 1.0 - rounded
    log_high = tl.where(gap == 0.0, -complement, tl.log(rounded) * complement / tl.where(gap == 0.0, 1.0, gap))
    return -tl.log(-tl.where(low, tl.log(tl.where(low, u, 0.5)), log_high))


@triton.jit
def first_best(x, tokens):
    """The largest of x, and the lowest of the tokens that have it."""
    best = tl.max(x)
    return best, tl.min(tl.where(x == best, tokens, 2147483647))


@triton.jit(do_not_specialize_on_alignment=["part_max"])
def largest_kernel(logits, part_max, vocab, part_size, PARTS: tl.constexpr, TILE: tl.constexpr):
    """Of one stretch of one row: the largest logit (NaN counts as infinite)."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    largest = float("-inf")
    begin = part * part_size
    for first in range(begin, tl.minimum(begin + part_size, vocab), TILE):
        x = load_row(logits + row * vocab, first + tl.arange(0, TILE), vocab)
        largest = tl.maximum(largest, tl.max(tl.where(x == x, x, float("inf"))))
    tl.store(part_max + row * PARTS + part, largest)


@triton.jit(
    do_not_specialize_on_alignment=["temperature", "seeds", "positions", "part_max", "part_best", "part_token"],
)
def draw_kernel(
    logits,
    temperature,
    seeds,
    positions,
    part_max,
    part_best,
    part_token,
    vocab,
    part_size,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Of one stretch of one row: the noisy maximum and its token."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat = tl.load(temperature + row)
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    largest = tl.max(tl.load(part_max + row * PARTS + tl.arange(0, PARTS)))
    noisy = (heat > 0.0) & (tl.abs(largest) < float("inf"))  # else the last kernel says why nothing is drawn
    best, token = float("-inf"), vocab * 0
    begin = part * part_size
    for first in range(begin, tl.minimum(begin + part_size, vocab), TILE):
        tokens = first + tl.arange(0, TILE)
        if noisy:
            x = load_scaled(logits + row * vocab, tokens, vocab, largest, heat)
            x += gumbel_noise(seed, position, first, TILE)
        else:
            x = load_row(logits + row * vocab, tokens, vocab)
        tile_best, tile_token = first_best(x, tokens)
        token = tl.where(tile_best > best, tile_token, token)
        best = tl.maximum(best, tile_best)
    at = row * PARTS + part
    tl.store(part_best + at, best)
    tl.store(part_token + at, token)


@triton.jit
def redraw(row, vocab, largest, heat, seed, position, key, last, TILE: tl.constexpr):
    """The draw among the tokens up to the place (key, last), with their mass relative to the best token's.

    Returns (mass, token, the token's key).
    """
    mass = tl.sum(tl.zeros([TILE], tl.float64))
    best, token, best_key = float("-inf"), vocab * 0, vocab * 0
    for first in range(0, vocab, TILE):
        tokens = first + tl.arange(0, TILE)
        x = load_scaled(row, tokens, vocab, largest, heat)
        keys = key_of(x)
        kept = up_to(keys, tokens, key, last) & (tokens < vocab)
        mass += tl.sum(tl.where(kept, tl.exp(x), 0.0)).to(tl.float64)
        if tl.sum(kept.to(tl.int32)) > 0:
            noisy = tl.where(kept, x + gumbel_noise(seed, position, first, TILE), float("-inf"))
            tile_best, tile_token = first_best(noisy, tokens)
            if tile_best > best:
                best, token = tile_best, tile_token
                best_key = tl.max(tl.where(tokens == tile_token, keys, -2147483648))
    return mass, token, best_key


@triton.jit(
    do_not_specialize_on_alignment=[
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "seeds",
        "positions",
        "part_max",
        "part_best",
        "part_token",
        "drawn",
    ],
)
def finish_kernel(
    logits,
    temperature,
    top_k,
    top_p,
    min_p,
    seeds,
    positions,
    part_max,
    part_best,
    part_token,
    drawn,
    vocab,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    heat, k = tl.load(temperature + row), tl.load(top_k + row)
    share, least = tl.load(top_p + row), tl.load(min_p + row)
    at = row * PARTS + tl.arange(0, PARTS)
    largest = tl.max(tl.load(part_max + at))
    _, token = first_best(tl.load(part_best + at), tl.load(part_token + at))
    if largest == float("-inf"):
        token = vocab * 0 - 1
    elif largest == float("inf"):
        token = vocab * 0 - 2
    elif (heat > 0.0) & (((k > 0) & (k < vocab)) | (share < 1.0) | (least > 0.0)):
        source, seed, position = logits + row * vocab, tl.load(seeds + row), tl.load(positions + row)
        key, last = MINUS_INFINITY + 1, vocab
        if least > 0.0:
            key = tl.maximum(key, key_of(tl.log(least)))
        if (k > 0) & (k < vocab):
            key, last = kth_best(source, vocab, largest, heat, k, key, TILE)
        mass, token, token_key = redraw(source, vocab, largest, heat, seed, position, key, last, TILE)
        if share < 1.0:
            limit = mass * share
            before, earlier, earlier_key = redraw(
                source, vocab, largest, heat, seed, position, token_key, token - 1, TILE
            )
            while (before > 0.0) & (before >= limit):
                token, token_key = earlier, earlier_key
                before, earlier, earlier_key = redraw(
                    source, vocab, largest, heat, seed, position, token_key, token - 1, TILE
                )
    tl.store(drawn + row, token.to(tl.int64))


def sample(launch: Launcher, logits: Tensor, batch: SamplingBatch) -> Tensor:
    """See `Operations.sample`."""
    n, vocab = logits.shape
    expect(logits, (n, vocab), torch.float32)
    for floating in (batch.temperature, batch.top_p, batch.min_p):
        expect(floating, (n,), torch.float32)
    expect(batch.top_k, (n,), torch.int32)
    for wide in (batch.seeds, batch.positions):
        expect(wide, (n,), torch.int64)
    num_parts = min(MOST_PARTS, triton.next_power_of_2(triton.cdiv(vocab, TILE)))
    floats = torch.empty(2, n, num_parts, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(n, num_parts, dtype=torch.int32, device=logits.device)
    drawn = torch.empty(n, dtype=torch.int64, device=logits.device)
    part_size = triton.cdiv(triton.cdiv(vocab, num_parts), TILE) * TILE
    options = {"PARTS": num_parts, "TILE": TILE, "num_warps": 4}
    parts = (floats[0], floats[1], tokens)
    draws = (batch.seeds, batch.positions)
    launch(largest_kernel, (n, num_parts), logits, floats[0], vocab, part_size, **options)
    launch(draw_kernel, (n, num_parts), logits, batch.temperature, *draws, *parts, vocab, part_size, **options)
    filters = (batch.temperature, batch.top_k, batch.top_p, batch.min_p)
    launch(finish_kernel, (n,), logits, *filters, *draws, *parts, drawn, vocab, **options)
    return drawn
