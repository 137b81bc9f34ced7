"""Attention of prefill chunks, or of whole prompts in both directions, over paged keys and values. Twin: `reference.paged_attention`.

A program takes BLOCK_M rows: BLOCK_M // group queries of one request by the `group` query heads of one KV head, so
that keys and values are read once for all of them. It walks from the window's start to its last query.
Arithmetic intensity: BLOCK_M FLOP a byte of KV (bf16: 4 · BLOCK_M · D FLOP for 4 · D bytes a key): with 128 rows
compute-bound on an A100 (156 FLOP/B) only together with L2, where a request's KV is shared by its tiles.
Shared memory: up to num_stages tiles of K and V plus Q, BLOCK_N · (D + DV) · 2 · stages + BLOCK_M · D · 2 bytes:
128 KiB for 128 rows, 64 keys, D 128, 3 stages. Registers: the accumulator, BLOCK_M · DV / (32 · num_warps) float32, 64
with 8 warps, and as many for scores and weights: under 255 in all (`make kernels-report`), one program an SM.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from octavo_engine.kernels.operations import PagedBatch
from octavo_engine.kernels.triton.arguments import next_power_of_2
from octavo_engine.kernels.triton.attention_launch import constants_of, numbers_of, tiles_of
from octavo_engine.kernels.triton.attention_tile import (
    ScoreBiases,
    attend,
    load_blocks,
    load_query,
    slopes_of,
    take_in_sinks,
)
from octavo_engine.kernels.triton.launch import Launcher
from octavo_models.layers import Attention


@triton.jit
def find_request(query_starts, tile, first_request, num_requests, BLOCK_Q: tl.constexpr):
    """The request whose tiles hold `tile`. Tiles of request r begin at (query_starts[r] - first row) // BLOCK_Q + r -
    first_request: at most one tile a request is spare, and no prefix sum is needed."""
    first_row = tl.load(query_starts + first_request)
    low, high = first_request, num_requests
    while high - low > 1:
        middle = (low + high) // 2
        begin = (tl.load(query_starts + middle) - first_row) // BLOCK_Q + middle - first_request
        if begin <= tile:
            low = middle
        else:
            high = middle
    return low, tile - ((tl.load(query_starts + low) - first_row) // BLOCK_Q + low - first_request)


@triton.jit(
    do_not_specialize=["first_request", "num_requests", "table_stride"],
    do_not_specialize_on_alignment=["rows", "query_starts", "seq_lens", "block_tables", "sinks"],
)
def prefill_kernel(
    q,
    k_cache,
    v_cache,
    out,
    rows,
    query_starts,
    seq_lens,
    block_tables,
    slopes,
    sinks,
    first_request,
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
    CAUSAL: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    ALIBI: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    HEADS: tl.constexpr = KV_HEADS * GROUP
    KEY: tl.constexpr = 0 if SHARED > 0 else D
    # A request's last tiles see the most keys: they start first, and the short ones fill up what is left.
    tile, kv_head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    r, part = find_request(query_starts, tile, first_request, num_requests, BLOCK_Q)
    start = tl.load(query_starts + r)
    num_queries = tl.load(query_starts + r + 1) - start
    seq_len = tl.load(seq_lens + r)
    first_query = part * BLOCK_Q
    if first_query >= num_queries or seq_len == 0:
        return
    m = tl.arange(0, BLOCK_M)
    query = first_query + m // GROUP
    held = (m < BLOCK_Q * GROUP) & (query < num_queries)
    heads = kv_head * GROUP + m % GROUP
    row = (start + query).to(tl.int64)
    query_at = tl.where(held, seq_len - num_queries + query, -1)
    q_tile = load_query(q, row, heads, held, 0, D, BLOCK_D, D + SHARED, HEADS)
    turned = q_tile
    if SHARED > 0:
        turned = load_query(q, row, heads, held, D, SHARED, BLOCK_SHARED, D + SHARED, HEADS)
    end = seq_len
    if CAUSAL:
        end = tl.minimum(seq_len - num_queries + first_query + BLOCK_Q, seq_len)
    elif WINDOW > 0:
        end = tl.minimum(seq_len - num_queries + first_query + BLOCK_Q + WINDOW - 1, seq_len)
    first_key = 0
    if WINDOW > 0:
        first_key = tl.maximum(seq_len - num_queries + first_query - WINDOW + 1, 0)
    if CHUNK > 0:
        first_key = tl.maximum((seq_len - num_queries + first_query) // CHUNK * CHUNK, first_key)
    slope = slopes_of(slopes, heads, held, ALIBI)
    table = block_tables + tl.load(rows + r).to(tl.int64) * table_stride
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    begin = first_key // BLOCK_N * BLOCK_N
    blocks = load_blocks(table, begin + tl.arange(0, BLOCK_N), first_key, end, BLOCK_SIZE)
    for at in range(begin, end, BLOCK_N):
        keys = at + tl.arange(0, BLOCK_N)
        coming = load_blocks(table, keys + BLOCK_N, first_key, end, BLOCK_SIZE)
        row_max, row_sum, acc = attend(
            q_tile, turned, keys, blocks, first_key, end, query_at,
            k_cache + kv_head * KEY, v_cache + kv_head * DV, k_block_stride, v_block_stride, scale, soft_cap, slope,
            row_max, row_sum, acc, KV_HEADS, D, DV, SHARED, BLOCK_D, BLOCK_DV, BLOCK_SHARED, BLOCK_SIZE, WINDOW, CHUNK, CAUSAL, SOFT_CAP,
            ALIBI, PRECISION,
        )  # fmt: skip
        blocks = coming
    if SINKS:
        row_sum, acc = take_in_sinks(sinks, heads, held, row_max, row_sum, acc)
    result = acc * (v_scale / tl.where(row_sum > 0, row_sum, 1.0))[:, None]
    dv = tl.arange(0, BLOCK_DV)
    at_out = (row * HEADS + heads)[:, None] * DV + dv[None, :]
    tl.store(out + at_out, result.to(out.dtype.element_ty), mask=held[:, None] & (dv < DV)[None, :])


class PrefillAttention:
    """The prefills of a step, for layers of one kind: those of the requests after the first `batch.num_decodes`."""

    def __init__(
        self,
        launch: Launcher,
        spec: Attention,
        batch: PagedBatch,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        kv_scales: tuple[float, float],
        biases: ScoreBiases,
    ) -> None:
        """Settle the launch for queries and caches like these."""
        constants = constants_of(spec, q, k_cache, biases)
        chosen = launch.tiles(tiles_of("prefill", spec), q.element_size())
        group = constants["GROUP"]
        block_m = max(next_power_of_2(group), chosen["BLOCK_M"])
        num_prefills = batch.num_requests - batch.num_decodes
        num_rows = q.shape[0] - batch.num_decodes
        self._grid = num_rows // (block_m // group) + num_prefills if num_prefills else 0, constants["KV_HEADS"]
        self._run = launch.bind(
            prefill_kernel,
            (
                q,
                k_cache,
                v_cache,
                q,
                batch.rows,
                batch.query_starts,
                batch.seq_lens,
                batch.block_tables,
                biases.slopes,
                biases.sinks,
                batch.num_decodes,
                batch.num_requests,
                *numbers_of(spec, batch, k_cache, v_cache, kv_scales),
            ),
            changing=(0, 1, 2, 3, 9),
            apart=(1, 2),
            **constants,
            CAUSAL=spec.causal,
            **(chosen | {"BLOCK_M": block_m}),
        )

    def __call__(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, sinks: Tensor | None) -> None:
        """Attend, into the requests' rows of `out`."""
        self._run(self._grid, q, k_cache, v_cache, out, sinks)
