"""Finding the k-th best of a row without sorting it. What sampling and logprobs share.

Tokens are ordered by value, the largest first, equals by token id, the lowest first. A place in this order is a pair
(key, token): everything up to it is `up_to` it. Keys are floats as integers that order alike.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**31))  # below every key
MINUS_INFINITY = tl.constexpr(-(2**31) + 0x7FFFFF)  # the key of -inf


@triton.jit
def key_of(x):
    """int32 that orders as float32 does; -0 is 0."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def unsigned(keys):
    """Keys as uint32 that orders alike, and back."""
    return keys.to(tl.uint32, bitcast=True) ^ 0x80000000


@triton.jit
def up_to(keys, tokens, key, token):
    """A mask of the (keys, tokens) that come no later than (key, token)."""
    return (keys > key) | ((keys == key) & (tokens <= token))


@triton.jit
def load_row(row, tokens, vocab):
    """row[tokens], -inf outside the vocabulary."""
    return tl.load(row + tokens, mask=tokens < vocab, other=float("-inf"))


@triton.jit
def load_scaled(row, tokens, vocab, largest, temperature):
    """(row[tokens] - largest) / temperature, -inf outside the vocabulary. Rounded as the twin's division is."""
    x = load_row(row, tokens, vocab) - largest
    return tl.div_rn(x, tl.zeros_like(x) + temperature)


@triton.jit
def load_ordered(row, kept, kept_tokens, collected, at, size, largest, temperature):
    """Scaled logits and tokens at `at`: of what was collected of the row, in the order of tokens, or of the row itself.

    -inf from `size` on, which is how many were collected, or the vocabulary.
    """
    if collected:
        x, tokens = load_row(kept, at, size), tl.load(kept_tokens + at, mask=at < size, other=0)
    else:
        x, tokens = load_scaled(row, at, size, largest, temperature), at
    return x, tokens


@triton.jit
def kth_best(row, kept, kept_tokens, collected, size, largest, temperature, k, lowest, last, TILE: tl.constexpr):
    """The place of the k-th best of `load_ordered` among keys >= lowest; where there are fewer: (lowest, last).

    Radix selection: four histograms of 8 bits each, from the top, over the tokens that match so far. If more equals
    than fit tie for the k-th place, one more pass finds the token id up to which they fit.
    """
    bins = tl.arange(0, 256)
    prefix = (k * 0).to(tl.uint32)
    remaining = k
    equal = k * 0
    exists = k > 0
    for level in range(4):
        shift = 24 - 8 * level
        counts = tl.zeros([256], tl.int32)
        for first in range(0, size, TILE):
            at = first + tl.arange(0, TILE)
            x, _ = load_ordered(row, kept, kept_tokens, collected, at, size, largest, temperature)
            keys = key_of(x)
            digits = unsigned(keys) >> shift
            inside = (at < size) & (keys >= lowest) & (digits >> 8 == prefix)
            counts += tl.histogram((digits & 255).to(tl.int32), 256, mask=inside)
        above = tl.sum(counts) - tl.cumsum(counts, 0)
        chosen = tl.max(tl.where(above + counts >= remaining, bins, -1))
        exists = exists & (chosen >= 0)
        is_chosen = bins == chosen
        equal = tl.sum(tl.where(is_chosen, counts, 0))
        remaining -= tl.sum(tl.where(is_chosen, above, 0))
        prefix = (prefix << 8) | chosen.to(tl.uint32)
    key = unsigned(prefix).to(tl.int32, bitcast=True)
    last += k * 0
    if exists & (remaining < equal):
        before = k * 0
        for first in range(0, size, TILE):
            at = first + tl.arange(0, TILE)
            x, tokens = load_ordered(row, kept, kept_tokens, collected, at, size, largest, temperature)
            tied = (at < size) & (key_of(x) == key)
            place = before + tl.cumsum(tied.to(tl.int32), 0)
            last = tl.minimum(last, tl.min(tl.where(tied & (place == remaining), tokens, last)))
            before += tl.sum(tied.to(tl.int32))
    return tl.where(exists, key, lowest), last
