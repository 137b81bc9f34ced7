"""Changes logits before a draw: multiplier and soft cap, bans, penalties.

Twins: `reference.soft_cap_logits`, `ReferenceOperations.ban`, `reference_sampling.apply_penalties`.
Each reads and writes the logits at most once, some 10 FLOP for 8 bytes: bound by memory, and rows without anything to
do return at once. Penalties read how often each token was used from a table that lasts, 4 bytes a logit more, and take
the tokens since into it by a histogram a tile of the vocabulary: one token, or all where a request is new to its slot.
Shared memory: the histogram, TILE · 4 bytes. Registers: TILE / (32 · num_warps) elements of logits and two counts,
under 64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels import operations
from octavo_engine.kernels.operations import Bans, KnownTokens, Penalties, TokenCounts
from octavo_engine.kernels.triton.activation import tanh
from octavo_engine.kernels.triton.arguments import ANY, FLOATS, cdiv, expect
from octavo_engine.kernels.triton.launch import Launcher

LARGEST = tl.constexpr(3.4028234663852886e38)  # float32
IN_PROMPT = tl.constexpr(operations.IN_PROMPT)
TILE = 1024
TOKENS = 512  # of a request, counted at a time


@triton.jit
def soft_cap_kernel(logits, out, vocab, multiplier, soft_cap, SOFT_CAP: tl.constexpr, TILE: tl.constexpr):
    row, token = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    at, held = row * vocab + token, token < vocab
    x = tl.load(logits + at, mask=held, other=0.0).to(tl.float32) * multiplier
    if SOFT_CAP:
        x = soft_cap * tanh(x / soft_cap)
    tl.store(out + at, x, mask=held)


@triton.jit(do_not_specialize_on_alignment=["allowed"])
def allow_kernel(logits, allowed, vocab, words, TILE: tl.constexpr):
    """Ban what `allowed` has no bit for."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    word = tl.load(allowed + row * words + token // 32, mask=token < vocab, other=-1)
    banned = ((word >> (token % 32)) & 1) == 0
    tl.store(logits + row * vocab + token, float("-inf"), mask=banned & (token < vocab))


@triton.jit(
    do_not_specialize=["stride"],
    do_not_specialize_on_alignment=[
        "logits",
        "ban_rows",
        "tokens",
        "prefix_starts",
        "prefixes",
        "token_table",
        "rows",
        "lengths",
        "prompt_lens",
    ],
)
def ban_kernel(
    logits,
    vocab,
    ban_rows,
    tokens,
    prefix_starts,
    prefixes,
    token_table,
    stride,
    rows,
    lengths,
    prompt_lens,
    BLOCK: tl.constexpr,
):
    ban = tl.program_id(0)
    row, token = tl.load(ban_rows + ban).to(tl.int64), tl.load(tokens + ban)
    start, end = tl.load(prefix_starts + ban), tl.load(prefix_starts + ban + 1)
    length = tl.load(lengths + row)
    holds = end - start <= length - tl.load(prompt_lens + row)
    tail = token_table + tl.load(rows + row).to(tl.int64) * stride + length - end
    differing = 0
    if holds:
        for at in range(start, end, BLOCK):
            i = at + tl.arange(0, BLOCK)
            wanted, got = tl.load(prefixes + i, mask=i < end, other=0), tl.load(tail + i, mask=i < end, other=0)
            differing += tl.sum((wanted != got).to(tl.int32))
    tl.store(logits + row * vocab + token, float("-inf"), mask=holds & (differing == 0) & (token < vocab))


@triton.jit
def count(tokens, start, end, first, TILE: tl.constexpr, TOKENS: tl.constexpr):
    """The number of times that each of the tokens first … first + TILE - 1 is among tokens[start:end]: [TILE]."""
    counts = tl.zeros([TILE], tl.int32)
    for at in range(start, end, TOKENS):
        i = at + tl.arange(0, TOKENS)
        token = tl.load(tokens + i, mask=i < end, other=-1) - first
        inside = (token >= 0) & (token < TILE)
        counts += tl.histogram(tl.where(inside, token, 0), TILE, mask=inside)
    return counts


@triton.jit(
    do_not_specialize=["stride"],
    do_not_specialize_on_alignment=[
        "repetition",
        "frequency",
        "presence",
        "token_table",
        "rows",
        "lengths",
        "prompt_lens",
        "slots",
        "counted",
    ],
)
def penalize_kernel(
    logits,
    vocab,
    repetition,
    frequency,
    presence,
    token_table,
    stride,
    rows,
    lengths,
    prompt_lens,
    count_table,
    slots,
    counted,
    TILE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        divisor, per_use, once = tl.load(repetition + row), tl.load(frequency + row), tl.load(presence + row)
        token = first + tl.arange(0, TILE)
        tokens = token_table + tl.load(rows + row).to(tl.int64) * stride
        prompt_end, end, start = tl.load(prompt_lens + row), tl.load(lengths + row), tl.load(counted + row)
        kept = count_table + slot * vocab + token
        counts = tl.zeros([TILE], tl.int32)
        if start > 0:
            counts = tl.load(kept, mask=token < vocab, other=0)
        new = count(tokens, tl.maximum(start, prompt_end), end, first, TILE, TOKENS)
        if start == 0:
            new += tl.where(count(tokens, 0, prompt_end, first, TILE, TOKENS) > 0, IN_PROMPT, 0)
        counts += new
        if (start == 0) | (tl.sum(new) > 0):
            tl.store(kept, counts, mask=token < vocab)
        used = counts & (IN_PROMPT - 1)
        raw = tl.load(logits + row * vocab + token, mask=token < vocab, other=0.0)
        x = raw
        if divisor != 1.0:
            x = tl.where(counts > 0, tl.where(x > 0, tl.div_rn(x, tl.zeros_like(x) + divisor), x * divisor), x)
        x -= per_use * used.to(tl.float32) + tl.where(used > 0, once, 0.0)
        x = tl.where(tl.abs(raw) <= LARGEST, tl.clamp(x, -LARGEST, LARGEST), raw)  # bans, and no numbers, stay
        tl.store(logits + row * vocab + token, x, mask=token < vocab)


def expect_known(known: KnownTokens, n: int) -> None:
    """Assert that `known` is of n rows."""
    expect(known.token_ids, (ANY, ANY), torch.int32, strided=True)
    for numbers in (known.rows, known.lengths, known.prompt_lens):
        expect(numbers, (n,), torch.int32)


def soft_cap_logits(launch: Launcher, logits: Tensor, multiplier: float, soft_cap: float | None) -> Tensor:
    """See `Operations.soft_cap_logits`."""
    n, vocab = logits.shape
    expect(logits, (n, vocab), *FLOATS)
    out = torch.empty(n, vocab, dtype=torch.float32, device=logits.device)
    grid = (n, cdiv(vocab, TILE))
    capped = soft_cap is not None
    launch(
        soft_cap_kernel,
        grid,
        logits,
        out,
        vocab,
        float(multiplier),
        soft_cap or 1.0,
        SOFT_CAP=capped,
        TILE=TILE,
        num_warps=4,
    )
    return out


def ban(launch: Launcher, logits: Tensor, bans: Bans | None, known: KnownTokens, allowed: Tensor | None) -> None:
    """See `Operations.ban`."""
    n, vocab = logits.shape
    expect(logits, (n, vocab), torch.float32)
    expect(allowed, (n, cdiv(vocab, 32)), torch.int32)
    if allowed is not None:
        grid = (n, cdiv(vocab, TILE))
        launch(allow_kernel, grid, logits, allowed, vocab, allowed.shape[1], TILE=TILE, num_warps=4)
    if bans is not None:
        expect_known(known, n)
        expect(bans.tokens, (ANY,), torch.int32)
        expect(bans.rows, bans.tokens.shape, torch.int32)
        expect(bans.prefix_starts, (bans.tokens.shape[0] + 1,), torch.int32)
        expect(bans.prefixes, (ANY,), torch.int32)
        launch(
            ban_kernel,
            (bans.tokens.shape[0],),
            logits,
            vocab,
            bans.rows,
            bans.tokens,
            bans.prefix_starts,
            bans.prefixes,
            known.token_ids,
            known.token_ids.stride(0),
            known.rows,
            known.lengths,
            known.prompt_lens,
            BLOCK=32,
            num_warps=1,
        )


def penalize(launch: Launcher, logits: Tensor, penalties: Penalties, known: KnownTokens, counts: TokenCounts) -> None:
    """See `Operations.penalize`."""
    n, vocab = logits.shape
    expect(logits, (n, vocab), torch.float32)
    expect_known(known, n)
    for amounts in (penalties.repetition, penalties.frequency, penalties.presence):
        expect(amounts, (n,), torch.float32)
    expect(counts.table, (ANY, vocab), torch.int32)
    for numbers in (counts.slots, counts.counted):
        expect(numbers, (n,), torch.int32)
    launch(
        penalize_kernel,
        (n, cdiv(vocab, TILE)),
        logits,
        vocab,
        penalties.repetition,
        penalties.frequency,
        penalties.presence,
        known.token_ids,
        known.token_ids.stride(0),
        known.rows,
        known.lengths,
        known.prompt_lens,
        counts.table,
        counts.slots,
        counts.counted,
        TILE=TILE,
        TOKENS=TOKENS,
        num_warps=4,
    )
