"""The launches of float8 operations: kernels are there for them, and no model that is served asks for one yet.

Shapes are those of a layer of Llama-3-8B, on the meta device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import Float8Weight, PagedBatch
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_models.layers import Attention, Rotary

ROTARY = Rotary(128, 5e5)
ATTENTION = Attention(32, 8, 128, 128, 128**-0.5, ROTARY)
FLOAT8 = torch.float8_e4m3fn


def launch_float8(ops: TritonOperations) -> None:
    """Launch a product by few rows, by more and by many; writes into a cache, prompts and decodes over it."""
    for rows in (1, 64, 512):
        weight = Float8Weight(_empty(4096, 4096, dtype=FLOAT8), _empty(4096, dtype=torch.float32))
        ops.matmul(_empty(rows, 4096), weight)
    k, v = (_empty(64, 16, ATTENTION.num_kv_heads, 128, dtype=FLOAT8) for _ in range(2))
    tokens = 512
    angle = _empty(tokens, ROTARY.dim // 2, dtype=torch.float32)
    qkv = _empty(tokens, ATTENTION.q_size + ATTENTION.k_size + ATTENTION.v_size)
    prompts = _paged(0, 4, 4096, 128)
    q = ops.write_qkv(qkv, ATTENTION, HeadChanges((angle, angle)), k, v, prompts)
    ops.attention(q, k, v, prompts, ATTENTION)
    ops.attention(q[:32], k, v, _paged(32, 0, 4096, 1), ATTENTION)


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _paged(num_decodes: int, num_prefills: int, length: int, queries: int) -> PagedBatch:
    n = num_decodes + num_prefills
    return PagedBatch(
        rows=_empty(n, dtype=torch.int32),
        query_starts=_empty(n + 1, dtype=torch.int32),
        seq_lens=_empty(n, dtype=torch.int32),
        block_tables=_empty(256, 512, dtype=torch.int32),
        slots=_empty(num_decodes + num_prefills * queries, dtype=torch.int64),
        num_decodes=num_decodes,
        max_query_len=queries,
        max_seq_len=length,
    )
