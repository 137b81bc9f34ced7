"""Attention of one query a request over long paged contexts. Twin: `reference.paged_attention`.

Keys are split into runs, one work item a run and KV head; a grid of as many programs as the GPU holds at once walks
the items, whatever the lengths are. Where something was split a second kernel joins the runs of a request by their
maxima (as in FlashDecoding), tiles of runs and several heads a program. How long runs are and where they begin depends
on the request's length alone, so its result doesn't change with the batch.
Which item is whose is found in registers from all seq_lens, so that a captured graph needs no host and no scan.
Arithmetic intensity: `group` FLOP a byte of KV (4 · group · D FLOP for 4 · D bytes, bf16), 4 to 8 for most models:
bound by memory; the matrix units work on 16 rows of which `group` count. Shared memory: num_stages - 1 tiles of K and
V, BLOCK_N · (D + DV) · 2 bytes each: 64 KiB for 64 keys, D 128 and 3 stages. Registers: the accumulator is
16 · DV / (32 · num_warps), 16 with 4 warps; 80 to 150 in all (`make kernels-report`), so that two to four programs share
an SM.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo_engine.kernels.triton.attention_tile import attend, load_blocks, load_query, slopes_of, take_in_sinks

SHORT = tl.constexpr(4)  # runs: up to so many a request has twice as many, of half the length


@triton.jit
def runs_of(seq_len, SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr):
    """A request's runs: the first key in reach of its newest query, the tile's edge at or before it, where runs begin,
    the
    keys of a run, and the number of runs, at least one.

    A few runs would leave most SMs idle when the request is alone, so they are halved; a context that fits one run stays
    whole, and needs no join.
    """
    first_key = seq_len * 0
    if WINDOW > 0:
        first_key = tl.maximum(seq_len - WINDOW, 0)
    if CHUNK > 0:
        first_key = tl.maximum(tl.maximum(seq_len - 1, 0) // CHUNK * CHUNK, first_key)
    begin = first_key // BLOCK_N * BLOCK_N
    reach = seq_len - begin
    split = tl.where((reach > SPLIT) & (reach <= SHORT * SPLIT), SPLIT // 2, SPLIT)
    return first_key, begin, split, tl.maximum((reach + split - 1) // split, 1)


def most_runs(reach: int, split: int) -> int:
    """The most runs of a request with up to `reach` keys in reach: an upper bound of `runs_of`."""
    halved = -(-min(reach, SHORT.value * split) // (split // 2)) if reach > split else 1
    return int(max(halved, -(-reach // split)))


@triton.jit
def count_runs(
    seq_lens,
    num_requests,
    REQUESTS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """The number of runs of each request, and the sum up to and including each: [REQUESTS] each."""
    r = tl.arange(0, REQUESTS)
    lengths = tl.load(seq_lens + r, mask=r < num_requests, other=0)
    _, _, _, runs = runs_of(lengths, SPLIT, BLOCK_N, WINDOW, CHUNK)
    runs = tl.where(r < num_requests, runs, 0)
    return runs, tl.cumsum(runs, 0)


@triton.jit(
    do_not_specialize=["num_requests", "table_stride"],
    do_not_specialize_on_alignment=["partial_max", "partial_sum", "rows", "seq_lens", "block_tables", "sinks"],
)
def decode_kernel(
    q,
    k_cache,
    v_cache,
    out,
    partial,
    partial_max,
    partial_sum,
    rows,
    seq_lens,
    block_tables,
    slopes,
    sinks,
    num_requests,
    table_stride,
    k_block_stride,
    v_block_stride,
    scale,
    soft_cap,
    v_scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    SHARED: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_SHARED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    ALIBI: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    REQUESTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
):
    HEADS: tl.constexpr = KV_HEADS * GROUP
    KEY: tl.constexpr = 0 if SHARED > 0 else D
    runs, runs_until = count_runs(seq_lens, num_requests, REQUESTS, SPLIT, BLOCK_N, WINDOW, CHUNK)
    num_items = tl.sum(runs) * KV_HEADS
    m, dv = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_DV)
    wide = tl.full([], 0, tl.int64)  # added to what a loop counts, which the interpreter has as Python's
    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        # KV heads of a run are neighbours: together they read whole rows of its blocks.
        run, kv_head = item // KV_HEADS, item % KV_HEADS
        r = tl.sum((runs_until <= run).to(tl.int32))
        is_r = tl.arange(0, REQUESTS) == r
        runs_of_r = tl.sum(tl.where(is_r, runs, 0))
        part = run - (tl.sum(tl.where(is_r, runs_until, 0)) - runs_of_r)
        seq_len = tl.load(seq_lens + r)
        first_key, begin, split, _ = runs_of(seq_len, SPLIT, BLOCK_N, WINDOW, CHUNK)
        begin += part * split
        end = tl.minimum(begin + split, seq_len)
        held = m < GROUP
        heads = kv_head * GROUP + m
        row = r.to(tl.int64) + tl.zeros([BLOCK_M], tl.int64)
        q_tile = load_query(q, row, heads, held, 0, D, BLOCK_D, D + SHARED, HEADS)
        turned = q_tile
        if SHARED > 0:
            turned = load_query(q, row, heads, held, D, SHARED, BLOCK_SHARED, D + SHARED, HEADS)
        query_at = tl.where(held, seq_len - 1, -1)
        slope = slopes_of(slopes, heads, held, ALIBI)
        table = block_tables + tl.load(rows + r).to(tl.int64) * table_stride
        row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
        row_sum = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
        blocks = load_blocks(table, begin + tl.arange(0, BLOCK_N), first_key, end, BLOCK_SIZE)
        for at in range(begin, end, BLOCK_N):
            keys = at + tl.arange(0, BLOCK_N)
            coming = load_blocks(table, keys + BLOCK_N, first_key, end, BLOCK_SIZE)
            row_max, row_sum, acc = attend(
                q_tile, turned, keys, blocks, first_key, end, query_at,
                k_cache + kv_head * KEY, v_cache + kv_head * DV, k_block_stride, v_block_stride, scale, soft_cap, slope,
                row_max, row_sum, acc, KV_HEADS, D, DV, SHARED, BLOCK_D, BLOCK_DV, BLOCK_SHARED, BLOCK_SIZE, 0, 0, True, SOFT_CAP,
                ALIBI, PRECISION,
            )  # fmt: skip
            blocks = coming
        mask = held[:, None] & (dv < DV)[None, :]
        acc *= v_scale
        if runs_of_r == 1:
            if SINKS:
                row_sum, acc = take_in_sinks(sinks, heads, held, row_max, row_sum, acc)
            at_out = (row * HEADS + heads)[:, None] * DV + dv[None, :]
            tl.store(
                out + at_out, (acc / tl.where(row_sum > 0, row_sum, 1.0)[:, None]).to(out.dtype.element_ty), mask=mask
            )
        else:
            at_row = (wide + run) * HEADS + heads
            tl.store(partial + at_row[:, None] * DV + dv[None, :], acc, mask=mask)
            tl.store(partial_max + at_row, row_max, mask=held)
            tl.store(partial_sum + at_row, row_sum, mask=held)


@triton.jit(
    do_not_specialize=["num_requests"],
    do_not_specialize_on_alignment=["partial_max", "partial_sum", "seq_lens", "sinks"],
)
def join_kernel(
    partial,
    partial_max,
    partial_sum,
    out,
    sinks,
    seq_lens,
    num_requests,
    HEADS: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SINKS: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    REQUESTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    RUNS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """out[r, heads] of request r's runs, where it has several: RUNS are loaded at once, and joined in their order."""
    r = tl.program_id(0)
    runs, runs_until = count_runs(seq_lens, num_requests, REQUESTS, SPLIT, BLOCK_N, WINDOW, CHUNK)
    is_r = tl.arange(0, REQUESTS) == r
    count = tl.sum(tl.where(is_r, runs, 0))
    if count == 1:
        return
    end = tl.sum(tl.where(is_r, runs_until, 0))
    heads, dv = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS), tl.arange(0, BLOCK_DV)
    best = tl.full([BLOCK_HEADS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_HEADS], tl.float32)
    acc = tl.zeros([BLOCK_HEADS, BLOCK_DV], tl.float32)
    for first in range(end - count, end, RUNS):
        run = first + tl.arange(0, RUNS)
        held = (run < end)[:, None] & (heads < HEADS)[None, :]
        at = run.to(tl.int64)[:, None] * HEADS + heads[None, :]  # [RUNS, BLOCK_HEADS]
        own = tl.load(partial_max + at, mask=held, other=float("-inf"))
        new = tl.maximum(best, tl.max(own, 0))
        base = tl.where(new == float("-inf"), 0.0, new)  # of heads that there are not
        shrink, weight = tl.exp2(best - base), tl.exp2(own - base[None, :])
        total = total * shrink + tl.sum(weight * tl.load(partial_sum + at, mask=held, other=0.0), 0)
        columns = held[:, :, None] & (dv < DV)[None, None, :]
        values = tl.load(partial + at[:, :, None] * DV + dv[None, None, :], mask=columns, other=0.0)
        acc = acc * shrink[:, None] + tl.sum(weight[:, :, None] * values, 0)
        best = new
    if SINKS:
        total, acc = take_in_sinks(sinks, heads, heads < HEADS, best, total, acc)
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    at_out = (r.to(tl.int64) * HEADS + heads)[:, None] * DV + dv[None, :]
    tl.store(out + at_out, result.to(out.dtype.element_ty), mask=(heads < HEADS)[:, None] & (dv < DV)[None, :])
