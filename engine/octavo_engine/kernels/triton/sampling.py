"""A draw from each row of logits: greedy, or by Gumbel-max within top-k, top-p and min-p, without a sort.

Twin: `reference_sampling.sample`, with the same Philox words, so that a draw depends on seed, position and token alone.
Every row is shared out over PARTS programs. The first kernel takes the largest logit of each part. The second draws
from what no filter touches: each part's noisy maximum; of a row with filters it counts each part's tokens by their
distance from the largest logit instead, and sums their mass. From these counts the third kernel reads how far down the
order anything may be drawn, and collects what lies above, a few hundred tokens of 128k, with their noise. The last joins
the parts, a program a row, and filters what was collected; a row so flat that more than MOST_KEPT tokens are left is
filtered in place. Rows of padding, which have nothing before them, end at once in each.

What min-p and top-k keep is a stretch of the tokens' order, found by radix selection. Top-p keeps one too, so it is
tested only for the token drawn: if the mass before it reaches top_p, neither it nor any token after it may be drawn,
and the draw is repeated among those before it. That ends after 1 / top_p draws on average, each one pass.
Arithmetic intensity: some 150 integer and 40 float operations (Philox, two logarithms) for 4 bytes: at 32 rows of
128k tokens bound by arithmetic in the second kernel; it and the third read L2. Shared memory: reductions and a
histogram, under 4 KiB. Registers: TILE / (32 · num_warps) = 8 elements a thread of logits, words and noise, under 128.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.reference_sampling import SamplingBatch
from octavo_engine.kernels.triton.arguments import cdiv, expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.selection import (
    MINUS_INFINITY,
    key_of,
    kth_best,
    load_ordered,
    load_row,
    load_scaled,
    up_to,
)

TILE = 1024
MOST_PARTS = 32  # of a row: programs enough for a GPU when few rows are drawn
MOST_KEPT = 8192  # tokens that are collected of a row
BINS = tl.constexpr(256)  # of distances from the largest logit
BINS_A_UNIT = tl.constexpr(8.0)  # the last bin holds all beyond 31.9, a mass of 10⁻¹⁴ each


@triton.jit
def gumbel_noise(seed, position, first, TILE: tl.constexpr):
    """The noise of tokens first … first + TILE - 1 (first a multiple of 4): `reference_sampling.gumbel_noise`.

    u = (n + 0.5) · 2⁻²⁴ needs 25 bits. Below 1/2 a float32 holds it, above it holds 1 - u, and log(1 - c) comes by
    Kahan's correction of log(fl(1 - c)): float64, slow on most GPUs, isn't needed.
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
def is_filtered(heat, k, share, least, vocab):
    """True if anything but temperature decides what a row draws."""
    return (heat > 0.0) & (((k > 0) & (k < vocab)) | (share < 1.0) | (least > 0.0))


@triton.jit
def bin_of(x):
    """The bin of a distance from the largest logit, x <= 0: int32, never less for a smaller x."""
    return tl.minimum(x * -BINS_A_UNIT, BINS - 1.0).to(tl.int32)


@triton.jit
def first_best(x, tokens):
    """The largest of x, and the lowest of the tokens that have it."""
    best = tl.max(x)
    return best, tl.min(tl.where(x == best, tokens, 2147483647))


@triton.jit(do_not_specialize_on_alignment=["positions", "part_max"])
def largest_kernel(logits, positions, part_max, vocab, part_size, PARTS: tl.constexpr, TILE: tl.constexpr):
    """The largest logit of one part of one row (NaN counts as infinite)."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(positions + row) == 0:
        return
    largest = float("-inf")
    begin = part * part_size
    for first in range(begin, tl.minimum(begin + part_size, vocab), TILE):
        x = load_row(logits + row * vocab, first + tl.arange(0, TILE), vocab)
        largest = tl.maximum(largest, tl.max(tl.where(x == x, x, float("inf"))))
    tl.store(part_max + row * PARTS + part, largest)


ROWS = ["temperature", "top_k", "top_p", "min_p", "seeds", "positions"]
BEST = ["part_max", "part_best", "part_token"]
KEPT = ["num_kept", "kept", "kept_noisy", "kept_tokens"]


@triton.jit(do_not_specialize_on_alignment=[*ROWS, *BEST, "part_counts", "part_mass"])
def draw_kernel(
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
    part_counts,
    part_mass,
    vocab,
    part_size,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The noisy maximum of one part of one row, and its token; of a row with filters how many tokens each bin has, and
    their mass relative to the best token's."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions + row)
    if position == 0:
        return
    heat, k = tl.load(temperature + row), tl.load(top_k + row)
    share, least = tl.load(top_p + row), tl.load(min_p + row)
    seed = tl.load(seeds + row)
    largest = tl.max(tl.load(part_max + row * PARTS + tl.arange(0, PARTS)))
    finite = tl.abs(largest) < float("inf")  # else the last kernel says why nothing is drawn
    at, begin = row * PARTS + part, part * part_size
    end = tl.minimum(begin + part_size, vocab)
    if finite & is_filtered(heat, k, share, least, vocab):
        counts = tl.zeros([BINS], tl.int32)
        mass = tl.sum(tl.zeros([TILE], tl.float64))
        for first in range(begin, end, TILE):
            x = load_scaled(logits + row * vocab, first + tl.arange(0, TILE), vocab, largest, heat)
            counts += tl.histogram(bin_of(x), BINS, mask=x > float("-inf"))
            mass += tl.sum(tl.exp(x)).to(tl.float64)
        tl.store(part_counts + at * BINS + tl.arange(0, BINS), counts)
        tl.store(part_mass + at, mass)
        return
    best, token = float("-inf"), vocab * 0
    for first in range(begin, end, TILE):
        tokens = first + tl.arange(0, TILE)
        if finite & (heat > 0.0):
            x = load_scaled(logits + row * vocab, tokens, vocab, largest, heat)
            x += gumbel_noise(seed, position, first, TILE)
        else:
            x = load_row(logits + row * vocab, tokens, vocab)
        tile_best, tile_token = first_best(x, tokens)
        token = tl.where(tile_best > best, tile_token, token)
        best = tl.maximum(best, tile_best)
    tl.store(part_best + at, best)
    tl.store(part_token + at, token)


@triton.jit
def last_bin(counts, mass, k, share, least, vocab):
    """The bin after which nothing can be drawn. counts: [BINS] of the whole row; mass: of the whole row.

    By top-k it is where the k-th best lies, by min-p where the least probability does. By top-p alone it is the first
    that leaves no more than 1 - share of the mass behind, each token there counted as its bin's likeliest. Where one of
    the first two is on, the mass that top-p shares out is that of what they keep: all of it is needed.
    """
    bins = tl.arange(0, BINS)
    last = tl.max(tl.where(counts > 0, bins, 0))
    if ((k > 0) & (k < vocab)) | (least > 0.0):
        if (k > 0) & (k < vocab):
            last = tl.minimum(last, tl.min(tl.where(tl.cumsum(counts, 0) >= k, bins, BINS - 1)))
        if least > 0.0:
            last = tl.minimum(last, bin_of(tl.log(least)))
    else:
        most = counts.to(tl.float32) * tl.exp(bins.to(tl.float32) / -BINS_A_UNIT)
        behind = tl.cumsum(most, 0, reverse=True)  # a bin's own mass included
        enough = behind > (1.0 - share) * mass.to(tl.float32) * 0.999
        last = tl.minimum(last, tl.maximum(tl.sum(enough.to(tl.int32)) - 1, 0))
    return last


@triton.jit(do_not_specialize_on_alignment=[*ROWS, *KEPT, "part_max", "part_counts", "part_mass"])
def collect_kernel(
    logits,
    temperature,
    top_k,
    top_p,
    min_p,
    seeds,
    positions,
    part_max,
    part_counts,
    part_mass,
    num_kept,
    kept,
    kept_noisy,
    kept_tokens,
    vocab,
    part_size,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    MOST: tl.constexpr,
):
    """Put what may be drawn of one part of a row with filters where the parts before it end, in the order of tokens."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions + row)
    if position == 0:
        return
    heat, k = tl.load(temperature + row), tl.load(top_k + row)
    share, least = tl.load(top_p + row), tl.load(min_p + row)
    parts, bins = tl.arange(0, PARTS), tl.arange(0, BINS)
    largest = tl.max(tl.load(part_max + row * PARTS + parts))
    if (tl.abs(largest) == float("inf")) | (is_filtered(heat, k, share, least, vocab) == 0):
        return
    counts = tl.load(part_counts + (row * PARTS + parts)[:, None] * BINS + bins[None, :])
    mass = tl.sum(tl.load(part_mass + row * PARTS + parts))
    last = last_bin(tl.sum(counts, 0), mass, k, share, least, vocab)
    of_parts = tl.sum(tl.where((bins <= last)[None, :], counts, 0), 1)
    total, own = tl.sum(of_parts), tl.sum(tl.where(parts == part, of_parts, 0))
    place = tl.sum(tl.where(parts < part, of_parts, 0))
    if part == 0:
        tl.store(num_kept + row, total)
    if (total > MOST) | (own == 0):
        return
    seed, begin = tl.load(seeds + row), part * part_size
    for first in range(begin, tl.minimum(begin + part_size, vocab), TILE):
        tokens = first + tl.arange(0, TILE)
        x = load_scaled(logits + row * vocab, tokens, vocab, largest, heat)
        held = (x > float("-inf")) & (bin_of(x) <= last)
        found = tl.sum(held.to(tl.int32))
        if found > 0:
            at = row * MOST + place + tl.cumsum(held.to(tl.int32), 0) - 1
            tl.store(kept + at, x, mask=held)
            tl.store(kept_noisy + at, x + gumbel_noise(seed, position, first, TILE), mask=held)
            tl.store(kept_tokens + at, tokens, mask=held)
            place += found


@triton.jit
def redraw(row, kept, kept_noisy, kept_tokens, collected, size, largest, heat, seed, position, key, last, TILE: tl.constexpr):  # fmt: skip
    """The draw among the tokens of `load_ordered` up to the place (key, last), with their mass relative to the best
    token's.

    Returns (mass, token, the token's key).
    """
    mass = tl.sum(tl.zeros([TILE], tl.float64))
    best, token, best_key = float("-inf"), size * 0, size * 0
    for first in range(0, size, TILE):
        at = first + tl.arange(0, TILE)
        x, tokens = load_ordered(row, kept, kept_tokens, collected, at, size, largest, heat)
        keys = key_of(x)
        held = up_to(keys, tokens, key, last) & (at < size)
        mass += tl.sum(tl.where(held, tl.exp(x), 0.0)).to(tl.float64)
        if tl.sum(held.to(tl.int32)) > 0:
            if collected:
                noisy = load_row(kept_noisy, at, size)
            else:
                noisy = x + gumbel_noise(seed, position, first, TILE)
            tile_best, tile_token = first_best(tl.where(held, noisy, float("-inf")), tokens)
            if tile_best > best:
                best, token = tile_best, tile_token
                best_key = tl.max(tl.where(tokens == tile_token, keys, -2147483648))
    return mass, token, best_key


@triton.jit(do_not_specialize_on_alignment=[*ROWS, *BEST, *KEPT, "part_mass", "drawn"])
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
    part_mass,
    num_kept,
    kept,
    kept_noisy,
    kept_tokens,
    drawn,
    vocab,
    PARTS: tl.constexpr,
    TILE: tl.constexpr,
    MOST: tl.constexpr,
):
    """The draw of one row, or why there is none."""
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    if position == 0:
        tl.store(drawn + row, -1)
        return
    heat, k = tl.load(temperature + row), tl.load(top_k + row)
    share, least = tl.load(top_p + row), tl.load(min_p + row)
    at = row * PARTS + tl.arange(0, PARTS)
    largest = tl.max(tl.load(part_max + at))
    token = vocab * 0
    if largest == float("-inf"):
        token = vocab * 0 - 1
    elif largest == float("inf"):
        token = vocab * 0 - 2
    elif is_filtered(heat, k, share, least, vocab):
        source, seed = logits + row * vocab, tl.load(seeds + row)
        found = tl.load(num_kept + row)
        collected = found <= MOST
        size = tl.where(collected, found, vocab)
        x, noisy, tokens = kept + row * MOST, kept_noisy + row * MOST, kept_tokens + row * MOST
        key, last = MINUS_INFINITY + 1, vocab
        if least > 0.0:
            key = tl.maximum(key, key_of(tl.log(least)))
        if (k > 0) & (k < vocab):
            key, last = kth_best(source, x, tokens, collected, size, largest, heat, k, key, vocab, TILE)
        mass, token, token_key = redraw(
            source, x, noisy, tokens, collected, size, largest, heat, seed, position, key, last, TILE
        )
        if share < 1.0:
            if ((k <= 0) | (k >= vocab)) & (least <= 0.0):
                mass = tl.sum(tl.load(part_mass + at))  # of what wasn't collected too
            limit = mass * share
            before, earlier, earlier_key = redraw(
                source, x, noisy, tokens, collected, size, largest, heat, seed, position, token_key, token - 1, TILE
            )
            while (before > 0.0) & (before >= limit):
                token, token_key = earlier, earlier_key
                before, earlier, earlier_key = redraw(
                    source, x, noisy, tokens, collected, size, largest, heat, seed, position, token_key, token - 1, TILE
                )
    else:
        _, token = first_best(tl.load(part_best + at), tl.load(part_token + at))
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
    num_parts = min(MOST_PARTS, next_power_of_2(cdiv(vocab, TILE)))
    part_size = cdiv(cdiv(vocab, num_parts), TILE) * TILE
    device, grid = logits.device, (n, num_parts)
    part_max, part_best = torch.empty(2, n, num_parts, dtype=torch.float32, device=device).unbind()
    part_token = torch.empty(n, num_parts, dtype=torch.int32, device=device)
    counts = torch.empty(n, num_parts, BINS.value, dtype=torch.int32, device=device)
    mass = torch.empty(n, num_parts, dtype=torch.float64, device=device)
    most = min(MOST_KEPT, next_power_of_2(vocab))
    kept, noisy = torch.empty(2, n, most, dtype=torch.float32, device=device).unbind()
    kept_tokens = torch.empty(n, most, dtype=torch.int32, device=device)
    num_kept = torch.empty(n, dtype=torch.int32, device=device)
    drawn = torch.empty(n, dtype=torch.int64, device=device)
    parts = {"PARTS": num_parts, "TILE": TILE, "num_warps": 4}
    rows = (batch.temperature, batch.top_k, batch.top_p, batch.min_p, batch.seeds, batch.positions)
    of_parts, collected = (part_max, part_best, part_token), (num_kept, kept, noisy, kept_tokens)
    launch(largest_kernel, grid, logits, batch.positions, part_max, vocab, part_size, **parts)
    launch(draw_kernel, grid, logits, *rows, *of_parts, counts, mass, vocab, part_size, **parts)
    launch(
        collect_kernel, grid, logits, *rows, part_max, counts, mass, *collected, vocab, part_size, MOST=most, **parts
    )
    launch(finish_kernel, (n,), logits, *rows, *of_parts, mass, *collected, drawn, vocab, MOST=most, **parts)
    return drawn
