"""The launches of three models' layers, for whoever compiles or tunes kernels without running a model.

Llama-3-8B, Gemma 3 270M and SmolLM2-135M between them have every head size, norm and grouping that ships. Tensors are
made on any device, "meta" included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from octavo_engine.kernels.operations import (
    Bans,
    Float8Weight,
    KnownTokens,
    PagedBatch,
    Penalties,
    StepRows,
)
from octavo_engine.kernels.packing import PACKERS, pack_blocks
from octavo_engine.kernels.reference_sampling import SamplingBatch
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_models.formats import FORMATS
from octavo_models.spec import Activation, Attention, Norm, Rotary

LLAMA_8B = Attention(32, 8, 128, 128, 128**-0.5, Rotary(128, 5e5))
GEMMA_270M = Attention(4, 1, 256, 256, 256**-0.5, Rotary(256), window=512, soft_cap=50.0, qk_norm=Norm(offset=1.0))
SMOLLM2 = Attention(9, 3, 64, 64, 64**-0.5, Rotary(64))
HIDDEN = {"llama": 4096, "gemma": 640}
BLOCK_SIZE = 16

Launch = Callable[[], object]


def paged(num_decodes: int, num_prefills: int, length: int, queries: int, empty: Callable[..., Tensor]) -> PagedBatch:
    """A batch of empty tensors, of `length` tokens a request."""
    n = num_decodes + num_prefills
    return PagedBatch(
        rows=empty(n, dtype=torch.int32),
        query_starts=empty(n + 1, dtype=torch.int32),
        seq_lens=empty(n, dtype=torch.int32),
        block_tables=empty(256, 512, dtype=torch.int32),
        slots=empty(num_decodes + num_prefills * queries, dtype=torch.int64),
        num_decodes=num_decodes,
        max_query_len=queries,
        max_seq_len=length,
    )


def launches_of(launcher: Launcher) -> Iterator[tuple[str, Launch]]:
    """(shape, a call that launches) for every kernel, in bfloat16 on the meta device. Float8 where the card has it."""
    ops = TritonOperations(launcher)

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    float8 = launcher.card.capability >= 89
    for name, dim in HIDDEN.items():
        spec = Norm(offset=1.0) if name == "gemma" else Norm()
        yield name, partial(ops.add_norm, empty(32, dim), empty(32, dim), empty(dim), spec)
    yield "layer", partial(ops.norm, empty(32, 768), empty(768), Norm("layer", bias=True), empty(768))
    kinds: tuple[Activation, ...] = ("silu", "gelu_tanh")
    for kind in kinds:
        yield kind, partial(ops.gated, empty(32, 2 * 14336), kind)
    yield "llama", partial(ops.rotary_table, Rotary(128), empty(32, dtype=torch.int64))
    attentions = {"llama": LLAMA_8B, "gemma": GEMMA_270M, "smollm2": SMOLLM2}
    for name, attention in attentions.items():
        yield from _attention_launches(ops, name, attention, torch.bfloat16, empty)
    if float8:
        yield from _attention_launches(ops, "llama f8", LLAMA_8B, torch.float8_e4m3fn, empty)
    for rows in (1, 64, 512):
        for name in PACKERS:
            blocks = 4096 // FORMATS[name].block_size
            file = empty(4096, blocks * FORMATS[name].bytes_per_block, dtype=torch.uint8)
            yield f"{name} {rows}", partial(ops.matmul, empty(rows, 4096), pack_blocks(name, file))
        if float8:
            values = empty(4096, 4096, dtype=torch.float8_e4m3fn)
            eight = Float8Weight(values, empty(4096, dtype=torch.float32))
            yield f"{rows}", partial(ops.matmul, empty(rows, 4096), eight)
    yield from _sampling_launches(ops, 128_256, empty)
    yield from _input_launches(ops, empty)


def _attention_launches(
    ops: TritonOperations, name: str, spec: Attention, cache_dtype: torch.dtype, empty: Callable[..., Tensor]
) -> Iterator[tuple[str, Launch]]:
    k = empty(64, BLOCK_SIZE, spec.num_kv_heads, spec.head_dim_k, dtype=cache_dtype)
    v = empty(64, BLOCK_SIZE, spec.num_kv_heads, spec.head_dim_v, dtype=cache_dtype)
    tokens = 512
    q = empty(tokens, spec.num_heads, spec.head_dim_k)
    assert spec.rotary is not None
    angle = empty(tokens, spec.rotary.dim // 2, dtype=torch.float32)
    weight = None if spec.qk_norm is None else empty(spec.head_dim_k)
    slots = empty(tokens, dtype=torch.int64)
    qkv = empty(tokens, spec.q_size + spec.k_size + spec.v_size)
    yield name, partial(ops.write_qkv, qkv, spec, (angle, angle), weight, weight, k, v, slots)
    yield name, partial(ops.attention, q, k, v, paged(0, 4, 4096, 128, empty), spec)
    yield name, partial(ops.attention, q[:32], k, v, paged(32, 0, 4096, 1, empty), spec)


def _sampling_launches(ops: TritonOperations, vocab: int, empty: Callable[..., Tensor]) -> Iterator[tuple[str, Launch]]:
    n = 32
    floats = [empty(n, dtype=torch.float32) for _ in range(6)]
    ints = [empty(n, dtype=torch.int32) for _ in range(6)]
    longs = [empty(n, dtype=torch.int64) for _ in range(2)]
    logits = empty(n, vocab, dtype=torch.float32)
    known = KnownTokens(empty(256, 8192, dtype=torch.int32), ints[0], ints[1], ints[2])
    bans = Bans(ints[3], ints[4], empty(n + 1, dtype=torch.int32), ints[5])
    batch = SamplingBatch(floats[0], ints[0], floats[1], floats[2], longs[0], longs[1])
    yield "llama", partial(ops.soft_cap_logits, empty(n, vocab), 1.0, 30.0)
    yield "llama", partial(ops.ban, logits, bans, known, empty(n, vocab // 32, dtype=torch.int32))
    yield "llama", partial(ops.penalize, logits, Penalties(*floats[3:]), known)
    yield "llama", partial(ops.sample, logits, batch)
    yield "llama", partial(ops.logprobs, logits, longs[0], 20)


def _input_launches(ops: TritonOperations, empty: Callable[..., Tensor]) -> Iterator[tuple[str, Launch]]:
    int_ = partial(empty, dtype=torch.int32)
    tokens, table = empty(256, 8192, dtype=torch.int32), empty(256, 512, dtype=torch.int32)
    step = StepRows(int_(32), int_(33), int_(32), int_(8), int_(8), int_(8), int_(9), int_(64))
    yield "", partial(ops.build_inputs, tokens, (table,), step, BLOCK_SIZE, 32)
    longs = empty(32, dtype=torch.int64)
    yield "", partial(ops.append_tokens, tokens, int_(32), longs, longs)
