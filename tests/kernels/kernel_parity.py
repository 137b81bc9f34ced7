"""The common part of the parity tests: the dtypes, and how near a kernel must be to its twin in each."""

from __future__ import annotations

import torch

from octavo_engine.kernels.operations import PagedBatch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Kernels round once where a twin rounds after each operation: one unit in the last place of the larger, and of the
# results near zero a little of what cancelled. float32 differs in the order of sums alone.
TOLERANCES = {
    torch.float32: {"atol": 2e-5, "rtol": 2e-5},
    torch.bfloat16: {"atol": 4e-3, "rtol": 8e-3},
    torch.float16: {"atol": 1e-3, "rtol": 1e-3},
}


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that tensors are equal within the precision of their dtype."""
    torch.testing.assert_close(got, expected, **TOLERANCES[expected.dtype])


def writing_batch(slots):
    """A step that writes to these slots; nothing else of it is of any meaning."""
    numbers = torch.zeros(2, dtype=torch.int32, device=slots.device)
    return PagedBatch(numbers[:1], numbers, numbers[:1], numbers[None], slots, 0, len(slots), len(slots))


def paged_batch(spec, requests, block_size, dtype, device, cache_dtype=None):
    """(q, k_cache, v_cache, batch) of random contents: requests as (tokens in all, of which queries), those of one query
    that come first as decodes.

    Blocks are shuffled, tables in rows of another order; what no request may read, blocks before the window included,
    is NaN (float8: the largest number).
    """
    cache_dtype = cache_dtype or dtype
    lengths = [length for length, _ in requests]
    num_blocks = sum(-(-length // block_size) for length in lengths)
    caches = []
    for dim in (spec.head_dim_k, spec.head_dim_v):
        values = torch.randn(num_blocks + 1, block_size, spec.num_kv_heads, dim, device=device)
        caches.append(values)
    free = (torch.randperm(num_blocks) + 1).tolist()
    rows = torch.randperm(len(requests) + 2)[: len(requests)].int()
    tables = torch.zeros(len(requests) + 2, -(-max(lengths) // block_size), dtype=torch.int32)
    unread = torch.ones(num_blocks + 1, block_size, dtype=torch.bool)
    starts = [0]
    for row, (length, queries) in zip(rows.tolist(), requests, strict=True):
        blocks = [free.pop() for _ in range(-(-length // block_size))]
        tables[row, : len(blocks)] = torch.tensor(blocks)
        first = 0 if spec.window is None else max(0, length - queries - spec.window + 1)
        if spec.chunk is not None:
            first = max(first, (length - queries) // spec.chunk * spec.chunk)
        at = torch.arange(first, length)
        unread[torch.tensor(blocks)[at // block_size], at % block_size] = False
        tables[row, : first // block_size] = 0
        starts.append(starts[-1] + queries)
    for cache in caches:
        cache[unread.to(device)] = torch.nan if cache_dtype != torch.float8_e4m3fn else 448.0
    q = torch.randn(starts[-1], spec.num_heads, spec.head_dim_k, device=device).to(dtype)
    decodes = [queries for _, queries in requests]
    batch = PagedBatch(
        rows=rows.to(device),
        query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_tables=tables.to(device),
        slots=torch.zeros(starts[-1], dtype=torch.int64, device=device),
        num_decodes=next((i for i, queries in enumerate(decodes) if queries > 1), len(decodes)),
        max_query_len=max(decodes),
        max_seq_len=max(lengths),
    )
    return q, *(cache.to(cache_dtype) for cache in caches), batch
