"""Log-probabilities of drawn tokens, their ranks, and the best of each row. Twin: `reference_sampling.token_logprobs`.

The first kernel, a program a row, sums the row's mass, counts what beats the token, and gathers the best by radix
selection; the second orders these few. Passes over the row: one, and six more where the best are wanted; 4 bytes for
some 20 operations: bound by L2. Shared memory: reductions and a histogram, under 4 KiB. Registers: under 64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.operations import Logprobs
from octavo_engine.kernels.triton.arguments import expect, next_power_of_2
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.selection import LOWEST, key_of, kth_best, load_row, up_to

TILE = 1024
MOST_TOP = 32
# How many of the best are sought: a kernel for each number that could be asked for would be compiled while serving.
TOP_SIZES = (0, 1, 8, MOST_TOP)


@triton.jit(do_not_specialize_on_alignment=["drawn", "own", "ranks", "normalizers", "best_tokens"])
def score_kernel(logits, drawn, own, ranks, normalizers, best_tokens, vocab, NUM_TOP: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    source = logits + row * vocab
    token = tl.load(drawn + row)
    inside = (token >= 0) & (token < vocab)
    value = tl.load(source + tl.where(inside, token, 0))
    largest, total, rank = float("-inf"), 0.0, tl.full([], 1, tl.int64)
    for first in range(0, vocab, TILE):
        x = load_row(source, first + tl.arange(0, TILE), vocab)
        new = tl.maximum(largest, tl.max(x))
        # Of a row that starts with banned tokens: nothing is subtracted from itself while all is -inf.
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(x - base))
        largest = new
        rank += tl.sum((x > value).to(tl.int32)).to(tl.int64)
    normalizer = largest + tl.log(total)
    tl.store(own + row, value - normalizer)
    tl.store(ranks + row, rank)
    tl.store(normalizers + row, normalizer)
    if NUM_TOP > 0:
        key, last = kth_best(source, source, drawn, False, vocab, 0.0, 1.0, vocab * 0 + NUM_TOP, LOWEST, vocab, TILE)
        found = vocab * 0
        for first in range(0, vocab, TILE):
            tokens = first + tl.arange(0, TILE)
            keys = key_of(load_row(source, tokens, vocab))
            best = up_to(keys, tokens, key, last) & (tokens < vocab)
            place = found + tl.cumsum(best.to(tl.int32), 0) - 1
            tl.store(best_tokens + row * NUM_TOP + place, tokens, mask=best)
            found += tl.sum(best.to(tl.int32))


@triton.jit(do_not_specialize_on_alignment=["normalizers", "best_tokens", "top_ids", "top"])
def order_kernel(logits, normalizers, best_tokens, top_ids, top, vocab, NUM_TOP: tl.constexpr, BLOCK: tl.constexpr):
    """Put a row's best in order: each one's place is how many come before it."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    held = i < NUM_TOP
    tokens = tl.load(best_tokens + row * NUM_TOP + i, mask=held, other=2147483647)
    values = tl.load(logits + row * vocab + tokens, mask=held, other=float("-inf"))
    keys = tl.where(held, key_of(values), LOWEST)
    earlier = up_to(keys[None, :], tokens[None, :], keys[:, None], tokens[:, None])
    place = tl.sum(earlier.to(tl.int32), 1) - 1
    tl.store(top_ids + row * NUM_TOP + place, tokens.to(tl.int64), mask=held)
    tl.store(top + row * NUM_TOP + place, values - tl.load(normalizers + row), mask=held)


def logprobs(launch: Launcher, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
    """See `Operations.logprobs`."""
    n, vocab = logits.shape
    expect(logits, (n, vocab), torch.float32)
    expect(tokens, (n,), torch.int64)
    wanted = min(num_top, vocab)
    num_top = min(next(size for size in TOP_SIZES if size >= wanted), vocab)
    device = logits.device
    own, normalizers = torch.empty(2, n, dtype=torch.float32, device=device).unbind()
    ranks = torch.empty(n, dtype=torch.int64, device=device)
    best = torch.empty(n, max(1, num_top), dtype=torch.int32, device=device)
    top_ids = torch.empty(n, num_top, dtype=torch.int64, device=device)
    top = torch.empty(n, num_top, dtype=torch.float32, device=device)
    launch(
        score_kernel,
        (n,),
        logits,
        tokens,
        own,
        ranks,
        normalizers,
        best,
        vocab,
        NUM_TOP=num_top,
        TILE=TILE,
        num_warps=4,
    )
    if num_top > 0:
        block = next_power_of_2(num_top)
        launch(
            order_kernel,
            (n,),
            logits,
            normalizers,
            best,
            top_ids,
            top,
            vocab,
            NUM_TOP=num_top,
            BLOCK=block,
            num_warps=1,
        )
    return Logprobs(own, ranks, top_ids[:, :wanted], top[:, :wanted])
