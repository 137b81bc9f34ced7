"""Each operation of one layer of a model, and of a draw, against a device's limits.

Owns what each operation must read, write and multiply at least; the operations are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from bench.gpu_limits import Limits, seconds_of
from torch import Tensor

from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import Operations, PagedBatch
from octavo_engine.kernels.packing import pack_blocks
from octavo_engine.kernels.reference_sampling import Filters, SamplingBatch
from octavo_models.formats import FORMATS
from octavo_models.layers import Mlp
from octavo_models.spec import ModelSpec

BLOCK_SIZE = 16
PACKED = "q4_k"  # the format of most files
KINDS = {
    "draws": {"greedy", "draw", "top-k, top-p", "log-probabilities, 5 best"},
    "attention": {"norm, rotary, KV write", "attention"},
    "products": {"qkv projection", "o projection", "gate and up", "down", "head", f"gate and up, {PACKED}"},
}


@dataclass(frozen=True, slots=True)
class Work:
    """One operation: what it is called, a call of it, and the least it has to move and to do."""

    name: str
    call: Callable[[], object]
    num_bytes: float
    num_flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A step: so many requests of so many tokens each, of which the last `queries` are computed."""

    name: str
    num_requests: int
    length: int
    queries: int

    @property
    def num_tokens(self) -> int:
        return self.num_requests * self.queries


def works(ops: Operations, spec: ModelSpec, shape: Shape, dtype: torch.dtype, device: torch.device) -> Iterator[Work]:
    """The operations of one layer at `shape`, then those of a draw for each request."""
    layer = spec.layers[0]
    attention, mlp = layer.attention, layer.mlp
    assert isinstance(mlp, Mlp)
    assert attention.rotary is not None
    n, hidden, size = shape.num_tokens, spec.hidden_size, dtype.itemsize

    def rows(*dims: int) -> Tensor:
        return torch.randn(*dims, dtype=dtype, device=device)

    def product(name: str, inner: int, outer: int) -> Work:
        x, weight = rows(n, inner), rows(outer, inner) / inner**0.5
        moved = size * (n * (inner + outer) + inner * outer)
        return Work(name, lambda: ops.matmul(x, weight), moved, 2.0 * n * inner * outer)

    x, residual, weight = rows(n, hidden), rows(n, hidden), rows(hidden)
    yield Work(
        "add, norm",
        lambda: ops.add_norm(x, residual, weight, spec.final_norm),
        size * 4 * n * hidden,
    )
    qkv_size = attention.q_size + attention.k_size + attention.v_size
    yield product("qkv projection", hidden, qkv_size)
    batch = paged(shape, device)
    positions = torch.arange(n, device=device) % shape.length
    turn = ops.rotary_table(attention.rotary, positions)
    blocks = 1 + shape.num_requests * -(-shape.length // BLOCK_SIZE)
    k_cache = rows(blocks, BLOCK_SIZE, attention.num_kv_heads, attention.head_dim_k)
    v_cache = rows(blocks, BLOCK_SIZE, attention.num_kv_heads, attention.head_dim_v)
    qkv = rows(n, qkv_size)
    heads = None if attention.qk_norm is None else rows(attention.head_dim_k)
    yield Work(
        "norm, rotary, KV write",
        lambda: ops.write_qkv(qkv, attention, HeadChanges(turn, heads, heads), k_cache, v_cache, batch),
        size * 2 * n * qkv_size,
    )
    q = rows(n, attention.num_heads, attention.head_dim_k)
    reach = shape.length if attention.window is None else min(shape.length, attention.window + shape.queries - 1)
    pairs = shape.queries * (shape.length - (shape.queries - 1) / 2)  # causal, of one request
    yield Work(
        "attention",
        lambda: ops.attention(q, k_cache, v_cache, batch, attention),
        size
        * (
            shape.num_requests * reach * (attention.k_size + attention.v_size)
            + n * (attention.q_size + attention.o_size)
        ),
        2.0 * shape.num_requests * pairs * (attention.q_size + attention.o_size),
    )
    yield product("o projection", attention.o_size, hidden)
    yield product("gate and up", hidden, 2 * mlp.intermediate_size)
    if ops.prefers_packed and hidden % 256 == 0:
        yield _packed_product(ops, rows(n, hidden), 2 * mlp.intermediate_size)
    gate_up = rows(n, 2 * mlp.intermediate_size)
    yield Work("gated", lambda: ops.gated(gate_up, mlp.activation), size * 3 * n * mlp.intermediate_size)
    yield product("down", mlp.intermediate_size, hidden)
    yield from _draws(ops, spec, shape, dtype, device)


def _packed_product(ops: Operations, x: Tensor, outer: int) -> Work:
    """The product with a matrix of random blocks; bytes are those of the file."""
    n, inner = x.shape
    row = FORMATS[PACKED].bytes_per_block * inner // FORMATS[PACKED].block_size
    stored = torch.randint(0, 256, (outer, row), dtype=torch.uint8)
    packed = pack_blocks(PACKED, stored).map(lambda t: t.to(x.device))
    moved = x.element_size() * n * (inner + outer) + stored.nbytes
    return Work(f"gate and up, {PACKED}", lambda: ops.matmul(x, packed), moved, 2.0 * n * inner * outer)


def _draws(ops: Operations, spec: ModelSpec, shape: Shape, dtype: torch.dtype, device: torch.device) -> Iterator[Work]:
    n, vocab = shape.num_requests, spec.vocab_size
    hidden = torch.randn(n, spec.hidden_size, dtype=dtype, device=device)
    head = torch.randn(vocab, spec.hidden_size, dtype=dtype, device=device)
    moved = dtype.itemsize * (n * (spec.hidden_size + vocab) + vocab * spec.hidden_size)
    yield Work("head", lambda: ops.matmul(hidden, head), moved, 2.0 * n * spec.hidden_size * vocab)
    logits = torch.randn(n, vocab, device=device)
    for name, temperature, top_k, top_p in (
        ("greedy", 0.0, 0, 1.0),
        ("draw", 1.0, 0, 1.0),
        ("top-k, top-p", 1.0, 50, 0.9),
    ):
        filters = [Filters(temperature, top_k, top_p, seed=i) for i in range(n)]
        batch = SamplingBatch.of(filters, [shape.length] * n, device)
        yield Work(name, lambda batch=batch: ops.sample(logits, batch), 4.0 * n * vocab)  # type: ignore[misc]
    tokens = torch.zeros(n, dtype=torch.int64, device=device)
    yield Work("log-probabilities, 5 best", lambda: ops.logprobs(logits, tokens, 5), 4.0 * n * vocab)


def paged(shape: Shape, device: torch.device) -> PagedBatch:
    """Requests of one length, their blocks scattered."""
    n, per_request = shape.num_requests, -(-shape.length // BLOCK_SIZE)
    generator = torch.Generator().manual_seed(1)
    blocks = (torch.randperm(n * per_request, generator=generator) + 1).int().reshape(n, per_request)
    positions = torch.arange(shape.length - shape.queries, shape.length)
    slots = blocks[:, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    decodes = shape.queries == 1
    return PagedBatch(
        rows=torch.arange(n, dtype=torch.int32, device=device),
        query_starts=torch.arange(n + 1, dtype=torch.int32, device=device) * shape.queries,
        seq_lens=torch.full((n,), shape.length, dtype=torch.int32, device=device),
        block_tables=blocks.to(device),
        slots=slots.flatten().to(device),
        num_decodes=n if decodes else 0,
        max_query_len=shape.queries,
        max_seq_len=shape.length,
    )


def table(
    ops: Operations,
    spec: ModelSpec,
    shapes: list[Shape],
    dtype: torch.dtype,
    device: torch.device,
    limits: Limits,
    *,
    only: Collection[str] | None = None,
) -> Iterator[str]:
    """Rows in Markdown: operation, step, microseconds, share of the roofline. `only`: of these operations."""
    yield "| operation | step | µs | of the roofline |"
    yield "|---|---|--:|--:|"
    flush = 256 << 20 if device.type == "cuda" else 0  # more than any GPU's cache
    for shape in shapes:
        for work in works(ops, spec, shape, dtype, device):
            if only is not None and work.name not in only:
                continue
            seconds = seconds_of(work.call, device, flush=flush)
            share = limits.share(work.num_bytes, work.num_flops, seconds)
            yield f"| {work.name} | {shape.name} | {seconds * 1e6:.1f} | {share:.0%} |"
