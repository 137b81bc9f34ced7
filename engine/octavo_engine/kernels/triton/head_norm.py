"""Norms of heads of q and k that a program holds in registers, for `qkv`. Twin: `reference_heads`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def of_norm(source, heads, held_heads, at, held, D: tl.constexpr, SHARED: tl.constexpr):
    """A norm's numbers for elements `at` of the heads, which share theirs or not: [1 or HEADS, elements]."""
    if SHARED:
        numbers = tl.load(source + at, mask=held, other=0.0).to(tl.float32)[None, :]
    else:
        where = heads[:, None] * D + at[None, :]
        numbers = tl.load(source + where, mask=held_heads[:, None] & held[None, :], other=0.0).to(tl.float32)
    return numbers


@triton.jit
def normed(
    a,
    b,
    rest,
    at_a,
    at_b,
    r,
    is_pair,
    is_rest,
    heads,
    held_heads,
    weight,
    bias,
    sums,
    eps,
    offset,
    share,
    D: tl.constexpr,
    NORM: tl.constexpr,
    SPAN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Heads, held as pairs a, b and the rest, normed. Of a norm of the width `sums` has both of its sums, which times
    `share` are means."""
    mask_pair, mask_rest = held_heads[:, None] & is_pair[None, :], held_heads[:, None] & is_rest[None, :]
    if NORM == "layer":
        if SPAN == "width":
            mean = tl.load(sums) * share
        else:
            mean = ((tl.sum(a, 1) + tl.sum(b, 1) + tl.sum(rest, 1)) / D)[:, None]
        a, b = tl.where(mask_pair, a - mean, 0.0), tl.where(mask_pair, b - mean, 0.0)
        rest = tl.where(mask_rest, rest - mean, 0.0)
    if SPAN == "width":
        square = tl.load(sums + 1) * share
        if NORM == "layer":
            square -= mean * mean
        inverse = tl.rsqrt(square + eps)
    else:
        square = tl.sum(a * a, 1) + tl.sum(b * b, 1) + tl.sum(rest * rest, 1)
        inverse = tl.rsqrt(square / D + eps)[:, None]
    SHARED: tl.constexpr = SPAN == "head"
    if HAS_WEIGHT:
        a *= inverse * (of_norm(weight, heads, held_heads, at_a, is_pair, D, SHARED) + offset)
        b *= inverse * (of_norm(weight, heads, held_heads, at_b, is_pair, D, SHARED) + offset)
        rest *= inverse * (of_norm(weight, heads, held_heads, r, is_rest, D, SHARED) + offset)
    else:
        a, b, rest = a * inverse, b * inverse, rest * inverse
    if HAS_BIAS:
        a += of_norm(bias, heads, held_heads, at_a, is_pair, D, SHARED)
        b += of_norm(bias, heads, held_heads, at_b, is_pair, D, SHARED)
        rest += of_norm(bias, heads, held_heads, r, is_rest, D, SHARED)
    return a, b, rest
