"""No kernel reads a tensor otherwise than it lies: what it takes for granted is asserted; the rest gives the twin's."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
from kernel_parity import assert_close, paged_batch, writing_batch
from test_attention_kernels import attention
from test_input_kernels import step_rows
from test_latent_kernels import latent_spec
from test_sampling_kernels import known_tokens, sampling_batch
from torch import Tensor

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.operations import Bans, Operations, Penalties, TokenCounts
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_quantized import quantize, quantize_float8
from octavo_engine.kernels.triton.arguments import rows_are_dense, strides_are_known
from octavo_models.layers import Experts, Mlp, Norm, QueryScaling, Rotary
from octavo_models.pooling import PoolingKind

REFERENCE = ReferenceOperations()
# Products with plain weights, and heads' own, are cuBLAS's, which honours strides; the other operations are kernels.
HONOURING = {"matmul plain", "by_head"}


def padded(x: Tensor) -> Tensor:
    """The same numbers, rows (of the last dimension) two elements apart."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 2), 3, device=x.device).to(x.dtype)
    wide[..., : x.shape[-1]] = x
    return wide[..., : x.shape[-1]]


def every_other(x: Tensor) -> Tensor:
    """The same numbers, a stranger between any two of them."""
    wide = torch.full((*x.shape, 2), 3, device=x.device).to(x.dtype)
    wide[..., 0] = x
    return wide[..., 0]


def unaligned(x: Tensor) -> Tensor:
    """The same numbers, dense, one element after an aligned address."""
    wide = torch.empty(x.numel() + 1, device=x.device, dtype=x.dtype)
    wide[1:] = x.flatten()
    return wide[1:].view(x.shape)


def rows_apart(x: Tensor) -> Tensor:
    """The same numbers; between any two rows (of the first dimension) lies another."""
    wide = torch.full((2 * x.shape[0], *x.shape[1:]), 3, device=x.device).to(x.dtype)
    wide[::2] = x
    return wide[::2]


Change = Callable[[Tensor], Tensor]


def calls(device: torch.device, change: Change = lambda x: x) -> Iterator[tuple[str, Callable[[Operations], object]]]:
    """A call of every operation, `change` made to each of its dense tensors of several rows."""
    ints = lambda *values: torch.tensor(values, dtype=torch.int32, device=device)  # noqa: E731
    floats = lambda *shape: torch.randn(*shape, device=device)  # noqa: E731
    x, residual, weight = change(floats(3, 24)), change(floats(3, 24)), floats(24)
    yield "norm", lambda o: o.norm(x, weight, Norm())
    yield "add_norm", lambda o: o.add_norm(x, residual, weight, Norm())
    yield "gated", lambda o: o.gated(x, "silu")
    yield "activation", lambda o: o.activation(x, "relu2")
    learned = floats(1).abs()
    yield "xielu", lambda o: o.xielu(x, learned, learned)
    # A clone keeps strides, and a clone of what is unaligned is aligned.
    yield "gate_by_sigmoid", lambda o: o.gate_by_sigmoid(x.clone(), residual)
    mixture = Experts(5, 2, Mlp(8))
    weights = ExpertWeights(floats(40, 24), floats(40, 24), floats(120, 8))
    scores = change(floats(3, 5))
    yield "route", lambda o: o.route(scores, mixture.router, 2)
    chosen, shares = (change(made) for made in REFERENCE.route(scores, mixture.router, 2))
    yield "experts", lambda o: o.experts(x, chosen, shares, weights, mixture)
    adapters = AdapterWeights(floats(2, 16, 24), floats(2, 5, 16), (5,), ints(16, 16))
    made, order = floats(3, 5), ints(0, 2)

    def add_adapters(o: Operations) -> Tensor:
        y, tile = change(made.clone()), o.adapter_tile(2)
        o.add_adapters(y, x, adapters, AdapterRows(order, ints(1, 0, 2)[:, None], tile))
        return y

    yield "add_adapters", add_adapters
    wide = change(floats(3, 64))
    plain, rows = floats(5, 64), floats(3, 64)
    yield "matmul plain", lambda o: o.matmul(wide, plain)
    packed = quantize(floats(5, 64), bits=4, group=32)
    yield "matmul packed", lambda o: o.matmul(wide, packed)
    changed = packed.map(change)
    yield "matmul packed weight", lambda o: o.matmul(rows, changed)
    float8 = quantize_float8(floats(5, 64))
    yield "matmul float8", lambda o: o.matmul(wide, float8)
    spec = attention(4, 2, 32)
    positions = torch.tensor([7, 3, 9], device=device)
    yield "rotary_table", lambda o: o.rotary_table(Rotary(32), change(positions[:, None])[:, 0])
    turn = REFERENCE.rotary_table(Rotary(32), positions)
    qkv = change(floats(3, spec.q_size + spec.k_size + spec.v_size))
    yield "head_sums", lambda o: o.head_sums(qkv, spec)
    yield "query_scales", lambda o: o.query_scales(QueryScaling(0.1, 4), change(positions[:, None])[:, 0])
    slots = torch.tensor([17, 20, 40], device=device)

    def write(o: Operations) -> object:
        caches = [torch.zeros(4, 16, 2, 32, device=device) for _ in range(2)]
        return o.write_qkv(qkv, spec, HeadChanges(turn), *caches, writing_batch(slots)), *caches

    yield "write_qkv", write
    q, k_cache, v_cache, batch = paged_batch(spec, [(5, 1), (20, 4)], 16, torch.float32, device)
    q = change(q)
    yield "attention", lambda o: o.attention(q, k_cache, v_cache, batch, spec)
    latents = latent_spec(4, 12, 8, 10, 20)
    rank, low = 20, change(floats(3, 28))
    queries, latent_norm = change(floats(3, latents.q_size)), floats(rank)

    def write_latent(o: Operations) -> object:
        cache = torch.zeros(4, 16, 1, rank + 8, device=device)
        turn = REFERENCE.rotary_table(latents.rotary, positions)
        made = o.write_latent(queries, low, latent_norm, latents, turn, cache, writing_batch(slots))
        return made[..., rank:], cache  # before it lies what `by_head` writes

    yield "write_latent", write_latent
    heads, by_head_weight = change(floats(3, 4, 16)), floats(4, 8, 16)

    def by_head(o: Operations) -> Tensor:
        out = change(torch.zeros(3, 4, 8, device=device))
        o.by_head(heads, by_head_weight, out)
        return out

    yield "by_head", by_head
    prompts, starts = change(floats(6, 24)), change(ints(0, 1, 6)[:, None])[:, 0]
    for kind in get_args(PoolingKind):
        yield f"pool {kind}", lambda o, kind=kind: o.pool(prompts, starts, kind)
    logits = change(floats(3, 301))
    yield "soft_cap_logits", lambda o: o.soft_cap_logits(logits, 2.0, 30.0)
    known = known_tokens([([5, 5, 7], [7]), ([3], []), ([1, 2], [3])], device)
    penalties = Penalties(*(torch.tensor([1.5, 1.0, 0.9], device=device) for _ in range(3)))
    bans = Bans(ints(0, 2), ints(9, 300), ints(0, 0, 0), ints())
    allowed = torch.full((3, 10), -2, dtype=torch.int32, device=device)

    def in_place(run: Callable[[Operations, Tensor], None]) -> Callable[[Operations], Tensor]:
        def on_a_copy(o: Operations) -> Tensor:
            own = change(logits.clone(memory_format=torch.contiguous_format))
            run(o, own)
            return own

        return on_a_copy

    def penalize(o: Operations, own: Tensor) -> None:
        table = change(torch.zeros(4, 301, dtype=torch.int32, device=device))
        o.penalize(own, penalties, known, TokenCounts(table, ints(3, 0, 1), ints(0, 0, 0)))

    yield "penalize", in_place(penalize)
    yield "ban", in_place(lambda o, own: o.ban(own, bans, known, change(allowed)))
    drawing = sampling_batch([{}, {"temperature": 0.0}, {"top_k": 3}], device)
    yield "sample", lambda o: o.sample(logits, drawing)
    yield "logprobs", lambda o: dataclasses.astuple(o.logprobs(logits, torch.tensor([1, 2, 300], device=device), 3))
    step = step_rows([(1, 0, 3), (0, 2, 1)], [(0, 1, 0, [4, 5, 6]), (1, 1, 0, [2])], device)
    tables = torch.zeros(3, 20, dtype=torch.int32, device=device), torch.ones(3, 2, dtype=torch.int32, device=device)

    def build(o: Operations) -> object:
        tokens, table = (change(t.clone()) for t in tables)
        return dataclasses.astuple(o.build_inputs(tokens, (table,), step, 16, 5)), tokens, table

    yield "build_inputs", build

    def append(o: Operations) -> Tensor:
        tokens = change(tables[0].clone())
        o.append_tokens(tokens, ints(0, 2), torch.tensor([4, 19], device=device), torch.tensor([8, 9], device=device))
        return tokens

    yield "append_tokens", append


def tensors(made: object) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    return [t for part in made for t in tensors(part)] if isinstance(made, (tuple, list)) else []


def compare(name: str, run: Callable[[Operations], object], operations: Operations) -> None:
    got, expected = tensors(run(operations)), tensors(run(REFERENCE))
    assert got, name
    for one, other in zip(got, expected, strict=True):
        if one.is_floating_point():
            assert_close(one, other)
        else:
            assert torch.equal(one, other), name


def test_every_operation_is_called_here(device):
    called = {name.split()[0] for name, _ in calls(device)}
    public = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if name[0] != "_"}
    without_tensors = {"attention_scratch", "matmul_scratch", "experts_scratch", "adapters_scratch", "adapter_tile"}
    assert called == public - without_tensors


@pytest.mark.parametrize("change", [lambda x: x, unaligned], ids=["dense", "unaligned"])
def test_wherever_a_dense_tensor_begins_the_result_is_the_twins(triton_operations, device, change):
    for name, run in calls(device, change):
        if name != "matmul float8" or triton_operations.launch.gpu.capability >= 89:
            compare(name, run, triton_operations)


@pytest.mark.parametrize("change", [padded, every_other, rows_apart])
def test_a_strided_tensor_is_honoured_or_refused_and_never_read_flat(triton_operations, device, change):
    """Persistent tables may have rows apart: their stride is passed along."""
    for name, run in calls(device, change):
        if name == "matmul float8" and triton_operations.launch.gpu.capability < 89:
            continue
        tables = name in {"build_inputs", "append_tokens"} and change is not every_other
        if tables or name in HONOURING:
            compare(name, run, triton_operations)
        else:
            with pytest.raises(AssertionError, match=r"strides|dense"):
                run(triton_operations)


def test_caches_may_have_blocks_apart_and_nothing_else(triton_operations, device):
    spec = attention(4, 2, 32)
    q, k_cache, v_cache, batch = paged_batch(spec, [(5, 1), (300, 1), (20, 4)], 16, torch.float32, device)
    expected = REFERENCE.attention(q, k_cache, v_cache, batch, spec)
    apart = triton_operations.attention(q, rows_apart(k_cache), rows_apart(v_cache), batch, spec)
    assert_close(apart, expected)
    with pytest.raises(AssertionError, match="strides"):
        triton_operations.attention(q, padded(k_cache), v_cache, batch, spec)


def test_dtypes_and_shapes_are_not_guessed(triton_operations, device):
    logits = torch.zeros(2, 40, device=device)
    with pytest.raises(AssertionError, match="float16"):
        triton_operations.logprobs(logits.half(), torch.zeros(2, dtype=torch.int64, device=device), 1)
    with pytest.raises(AssertionError, match="int32"):
        triton_operations.logprobs(logits, torch.zeros(2, dtype=torch.int32, device=device), 1)
    with pytest.raises(AssertionError, match=r"shape \(3,\)"):
        triton_operations.norm(logits, torch.ones(3, device=device), Norm())


def test_a_launch_has_the_stride_of_each_tensor(device):
    """Whatever an operation forgets to assert."""
    dense, apart = torch.zeros(4, 6, device=device), rows_apart(torch.zeros(4, 6, device=device))
    assert strides_are_known((dense, 4))
    assert strides_are_known((apart, apart.stride(0)))
    assert not strides_are_known((apart, 6))
    assert not strides_are_known((padded(dense).T, 1))
    assert rows_are_dense(apart)
    assert not rows_are_dense(every_other(dense))


def test_a_token_drawn_after_a_full_sequence_goes_nowhere(triton_operations, device):
    """Profiling draws from sequences of exactly the longest length: the next row is another request's."""
    for operations in (triton_operations, REFERENCE):
        tokens = torch.zeros(2, 8, dtype=torch.int32, device=device)
        rows = torch.tensor([0, 1, 1], dtype=torch.int32, device=device)
        positions, drawn = torch.tensor([8, 7, 8], device=device), torch.tensor([5, 6, 7], device=device)
        operations.append_tokens(tokens, rows, positions, drawn)
        assert tokens.nonzero().tolist() == [[1, 7]]
