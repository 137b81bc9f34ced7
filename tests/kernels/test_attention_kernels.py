"""Paged attention and the write before it: mixed batches over shuffled blocks give what the twins give."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import triton
import triton.language as tl
from kernel_parity import DTYPES, TOLERANCES, assert_close, paged_batch, writing_batch
from triton.runtime.interpreter import interpreter_builder

from octavo_engine.kernels.head_changes import HeadChanges
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.triton.attention_tile import ScoreBiases
from octavo_engine.kernels.triton.decode_attention import most_runs, runs_of
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.kernels.triton.prefill_attention import PrefillAttention
from octavo_models.layers import Attention, Norm, QueryScaling, Rotary

REFERENCE = ReferenceOperations()
# (tokens in all, of which queries): a decode, a whole prompt, chunks, a decode over several runs, block edges
REQUESTS = [(1, 1), (300, 1), (33, 33), (40, 1), (150, 17), (16, 16), (64, 2), (129, 65)]


def attention(heads=4, kv_heads=2, dim=32, dim_v=None, window=None, soft_cap=None, **fields):
    rotary = fields.pop("rotary", Rotary(dim))
    return Attention(heads, kv_heads, dim, dim_v or dim, dim**-0.5, rotary, window, soft_cap=soft_cap, **fields)


SHAPES = {
    "smollm2": attention(9, 3, 64),
    "gemma3": attention(4, 1, 256, window=40),
    "uneven": attention(6, 2, 24, 20, soft_cap=5.0),
    "mha": attention(2, 2, 16, window=1),
    "window": attention(8, 2, 32, window=70, soft_cap=30.0),
    "alibi": attention(6, 2, 32, alibi_slopes=(0.5, 0.25, 0.125, 0.0625, 0.03, 0.4)),
    "sinks": attention(6, 2, 32, sinks=True, window=100),
    "chunks": attention(4, 2, 32, chunk=48),
    "falcon 7b": attention(71, 1, 16),
    "encoder": attention(6, 2, 32, causal=False),
    "encoder with a window": attention(4, 4, 16, causal=False, window=40),
}


def compare(operations, device, spec, dtype, block_size, requests, *, cache_dtype=None, scales=(1.0, 1.0)):
    q, k_cache, v_cache, batch = paged_batch(spec, requests, block_size, dtype, device, cache_dtype)
    sinks = torch.randn(spec.num_heads, device=device).to(dtype) * 2 if spec.sinks else None
    got = operations.attention(q, k_cache, v_cache, batch, spec, scales, sinks)
    # Weights are rounded to `dtype` before they meet the values; the twin keeps them in float32.
    tolerance = {name: 2 * t for name, t in TOLERANCES[dtype].items()}
    torch.testing.assert_close(got, REFERENCE.attention(q, k_cache, v_cache, batch, spec, scales, sinks), **tolerance)


@pytest.mark.sample(name=[name for name in SHAPES if name != "falcon 7b"], dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_attention_of_a_mixed_batch_is_its_twins(triton_operations, device, name, dtype):
    compare(triton_operations, device, SHAPES[name], dtype, 16, REQUESTS)


@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_blocks_of_any_size_serve(triton_operations, device, block_size):
    compare(triton_operations, device, SHAPES["window"], torch.float32, block_size, REQUESTS[:5])


@pytest.mark.sample(name=["sinks"])
@pytest.mark.parametrize("name", ["sinks", "alibi", "chunks"])
def test_sinks_slopes_and_chunks_are_joined_from_their_runs(triton_operations, device, name):
    spec = dataclasses.replace(SHAPES[name], window=None, chunk=600 if name == "chunks" else None)
    compare(triton_operations, device, spec, torch.float32, 16, [(1200, 1), (513, 1), (3, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("requests", [[(4200, 1)], [(1, 1)] * 5, [(1025, 1), (1024, 1), (257, 1), (256, 1)]])
@pytest.mark.parametrize("window", [None, 300])
def test_decodes_alone_are_joined_from_their_runs(triton_operations, device, requests, window):
    """One long context over several programs, many short ones, lengths at the edges of runs."""
    compare(triton_operations, device, attention(4, 2, window=window), torch.float32, 16, requests)


@pytest.mark.parametrize(("length", "window", "kernels"), [(256, None, 1), (257, None, 2), (5000, 200, 1)])
def test_runs_are_joined_only_where_something_was_split(length, window, kernels):
    """The host's bound on lengths decides: no request of a step has more keys in reach."""
    launched = []

    class Counting(Launcher):
        def __call__(self, kernel, grid, *args, **options):
            launched.append((kernel.__name__, grid))

    operations = TritonOperations(Counting(Gpu(90, 132)))
    q, k_cache, v_cache, batch = paged_batch(attention(window=window), [(30, 1)] * 3, 16, torch.float32, "cpu")
    batch = dataclasses.replace(batch, max_seq_len=length)
    operations.attention(q, k_cache, v_cache, batch, attention(window=window))
    assert [name for name, _ in launched] == ["decode_kernel", "join_kernel"][:kernels]


@pytest.mark.parametrize("split", [256, 512])
def test_no_context_has_more_runs_than_the_host_allows_for(device, split):
    """Scratch is sized by the bound: of every length up to it, over the edges where runs change their length."""
    for bound in (1, split, split + 1, 3 * split, 4 * split, 4 * split + 1, 9 * split + 7):
        lengths = torch.arange(1, bound + 1, dtype=torch.int32, device=device)
        counted = torch.empty_like(lengths)
        count_runs_of[(triton.cdiv(bound, 1024),)](lengths, counted, bound, split)
        assert counted.max() <= most_runs(bound, split)
        assert counted[:split].eq(1).all()


@triton.jit
def count_runs_of(lengths, counted, n, split: tl.constexpr):
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    _, _, _, runs = runs_of(tl.load(lengths + i, mask=i < n, other=1), split, 64, 0, 0)
    tl.store(counted + i, runs, mask=i < n)


@pytest.mark.parametrize("requests", [[(200, 200)], [(3, 3), (1, 1), (300, 5)], [(90, 45), (45, 45)]])
def test_prefills_alone_start_at_any_row(triton_operations, device, requests):
    compare(triton_operations, device, attention(6, 2), torch.float32, 16, requests)


def test_the_last_tiles_of_prompts_start_first(device, monkeypatch):
    """Last tiles see the most keys: started last, one of them would run on alone when all others are done."""
    if device.type == "cuda":
        pytest.skip("programs of a GPU run at once")
    spec = attention(4, 2)
    launcher = Launcher(Gpu(90, 132))
    queries = 2 * launcher.tiles("prefill.64", 4)["BLOCK_M"]
    q, k_cache, v_cache, batch = paged_batch(spec, [(queries, queries), (40, 40)], 16, torch.float32, device)
    out = torch.full(q.shape, torch.nan)
    order = []  # of rows, as programs of the first KV head write them
    set_program = interpreter_builder.set_grid_idx

    def noted(x, y, z):
        order.extend(row for row in (~out[:, 0].isnan().any(1)).nonzero()[:, 0].tolist() if row not in order)
        set_program(x, y, z)

    monkeypatch.setattr(interpreter_builder, "set_grid_idx", noted)
    attend = PrefillAttention(launcher, spec, batch, q, k_cache, v_cache, (1.0, 1.0), ScoreBiases(None, None))
    attend(q, k_cache, v_cache, out, None)
    noted(0, 0, 0)
    assert sorted(order) == list(range(queries + 40))
    firsts = [order.index(row) for row in (0, queries // 2, queries - 1, queries)]
    assert firsts == sorted(firsts, reverse=True)


@pytest.mark.sample(dim=[128])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(32, 8, 128), (4, 2, 80), (4, 2, 96), (8, 1, 512)])
def test_attention_of_large_heads_is_its_twins(triton_operations, device, heads, kv_heads, dim):
    """Llama-3-8B's; sizes that are no power of two; and Gemma 4's of layers without a window."""
    requests = [(20, 1), (300, 1), (33, 20)]
    compare(triton_operations, device, attention(heads, kv_heads, dim), torch.bfloat16, 16, requests)


def test_attention_in_float16_is_its_twins(triton_operations, device):
    compare(triton_operations, device, SHAPES["uneven"], torch.float16, 16, REQUESTS)


def test_decodes_among_prefills_may_go_the_way_of_prefills(triton_operations, device):
    """`num_decodes` is an option of the batch: with 0, one query is a prefill of one."""
    spec = SHAPES["smollm2"]
    q, k_cache, v_cache, batch = paged_batch(spec, REQUESTS[:4], 16, torch.float32, device)
    batch = dataclasses.replace(batch, num_decodes=0)
    assert_close(
        triton_operations.attention(q, k_cache, v_cache, batch, spec),
        REFERENCE.attention(q, k_cache, v_cache, batch, spec),
    )


@pytest.mark.slow
def test_a_request_gets_the_same_bits_in_every_batch(triton_operations, device):
    """Runs begin where the request says, so its decode doesn't change with its neighbours."""
    spec = attention(4, 2, 32)
    q, k_cache, v_cache, batch = paged_batch(spec, [(290, 1), (30, 1), (600, 1)], 16, torch.float32, device)
    together = triton_operations.attention(q, k_cache, v_cache, batch, spec)
    for r in range(3):
        alone = dataclasses.replace(
            batch, rows=batch.rows[r : r + 1], seq_lens=batch.seq_lens[r : r + 1], num_decodes=1
        )
        assert torch.equal(triton_operations.attention(q[r : r + 1], k_cache, v_cache, alone, spec)[0], together[r])


def test_padding_is_zero_and_disturbs_no_request(triton_operations, device):
    """A captured graph's batch is longer than the step: the rest has length 0."""
    spec = SHAPES["window"]
    q, k_cache, v_cache, batch = paged_batch(spec, [(300, 1), (20, 1)], 16, torch.float32, device)
    pad = lambda x, by: torch.cat((x, x.new_zeros(by, *x.shape[1:])))  # noqa: E731
    padded = dataclasses.replace(
        batch,
        rows=pad(batch.rows, 3),
        seq_lens=pad(batch.seq_lens, 3),
        query_starts=torch.arange(6, dtype=torch.int32, device=device),
        num_decodes=5,
    )
    got = triton_operations.attention(pad(q, 3), k_cache, v_cache, padded, spec)
    assert not got[2:].any()
    assert_close(got[:2], REFERENCE.attention(q, k_cache, v_cache, batch, spec))


@pytest.mark.sample(name=["window"], dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["smollm2", "window"])
def test_attention_over_float8_blocks_is_its_twins(triton_operations, device, name, dtype):
    if triton_operations.launch.gpu.capability < 89:
        pytest.skip("this GPU has no float8")
    compare(
        triton_operations,
        device,
        SHAPES[name],
        dtype,
        16,
        REQUESTS[:5],
        cache_dtype=torch.float8_e4m3fn,
        scales=(0.5, 2.0),
    )


WRITES = {
    "llama": attention(9, 3, 64),
    "qwen3": attention(8, 2, 32, qk_norm=Norm(eps=1e-6)),
    "gemma3": attention(4, 1, 64, qk_norm=Norm(offset=1.0), rotary=Rotary(64, 1e6)),
    "partial": attention(4, 4, 24, 20, rotary=Rotary(16)),
    "interleaved": attention(5, 1, 32, rotary=Rotary(32, interleaved=True), qk_norm=Norm("layer", 1e-5)),
    "llama 3": attention(32, 8, 128),
    "phi": attention(4, 2, 80, rotary=Rotary(32)),
    "phi 3": attention(4, 4, 96),
    "no rotary": attention(4, 2, 48, rotary=None, qk_norm=Norm()),
    "mpt": attention(4, 2, 32, rotary=None, qkv_clip=0.7),
    "olmo 2": attention(6, 3, 24, qk_norm=Norm(), qk_norm_span="width"),
    "minimax without norms": attention(6, 3, 24, qk_norm_span="width"),
    "width, layer": attention(4, 4, 16, qk_norm=Norm("layer", 1e-5, bias=True), qk_norm_span="width", qkv_clip=1.0),
    "stablelm 2": attention(6, 3, 24, rotary=Rotary(8), qk_norm=Norm("layer", 1e-5), qk_norm_span="each_head"),
    "phi with norms": attention(4, 2, 80, rotary=Rotary(32), qk_norm=Norm("layer", 1e-5, bias=True)),
    "hunyuan": attention(6, 2, 32, qk_norm=Norm(), qk_norm_after_rotary=True),
    "llama 4": attention(
        4, 2, 32, qk_norm=Norm(weight=False), qk_norm_after_rotary=True, rotary=Rotary(32, interleaved=True)
    ),
    "llama 4 without": attention(5, 5, 32, rotary=None, query_scaling=QueryScaling(0.1, 64, 1)),
    "gemma 4": attention(4, 2, 32, 24, qk_norm=Norm(), v_norm=Norm(eps=1e-4, weight=False), qkv_clip=2.0),
    "gemma 4, keys of another layer": attention(6, 2, 32, qk_norm=Norm(), v_norm=Norm(weight=False), kv_from_layer=0),
    "interleaved partial": attention(4, 2, 40, rotary=Rotary(20, interleaved=True)),
}


def head_changes(spec, qkv, positions, dtype, device):
    """Random norms of `spec`; of the width, as of two ranks, the other of which has the same."""
    norm, each = spec.qk_norm, spec.qk_norm_span != "head"

    def numbers(heads, there=True):
        size = (heads if each else 1) * spec.head_dim_k
        return torch.randn(size, device=device).to(dtype) if there and norm and norm.weight else None

    biased = norm is not None and norm.bias
    of_width = norm is not None and spec.qk_norm_span == "width"
    return HeadChanges(
        spec.rotary and REFERENCE.rotary_table(spec.rotary, positions),
        numbers(spec.num_heads),
        numbers(spec.num_kv_heads),
        numbers(spec.num_heads, biased),
        numbers(spec.num_kv_heads, biased),
        2 * REFERENCE.head_sums(qkv, spec) if of_width else None,
        2 if of_width else 1,
        spec.query_scaling and REFERENCE.query_scales(spec.query_scaling, positions),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_sums_of_all_heads_are_their_twins(triton_operations, device, dtype, clip):
    spec = attention(40, 20, 64, qkv_clip=clip)
    qkv = torch.randn(3, spec.q_size + spec.k_size + spec.v_size, device=device).to(dtype)
    got, expected = (ops.head_sums(qkv, spec) for ops in (triton_operations, REFERENCE))
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-5)


def test_factors_on_queries_are_their_twins(triton_operations, device):
    positions = torch.tensor([0, 62, 63, 64, 8191, 8192, 131_072] * 40, device=device)
    for scaling in (QueryScaling(0.1, 8192, 1), QueryScaling(0.25, 64)):
        got, expected = (ops.query_scales(scaling, positions) for ops in (triton_operations, REFERENCE))
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.sample(dtype=[torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cached", ["as computed", "float8"])
@pytest.mark.parametrize("name", WRITES)
def test_heads_are_normed_turned_and_written_as_by_the_twin(triton_operations, device, name, dtype, cached):
    spec, scales, tokens = WRITES[name], (0.25, 2.0), 4
    if cached == "float8" and triton_operations.launch.gpu.capability < 89:
        pytest.skip("this GPU has no float8")
    qkv = torch.randn(tokens, spec.q_size + spec.k_size + spec.v_size, device=device).to(dtype)
    positions = torch.randint(0, 3000, (tokens,), device=device)
    changes = head_changes(spec, qkv, positions, dtype, device)
    slots = torch.randperm(10 * 16, device=device)[:tokens] + 16
    slots[3] = 5  # the null block
    cache_dtype = torch.float8_e4m3fn if cached == "float8" else dtype

    def run(operations):
        k_cache = torch.zeros(11, 16, spec.num_kv_heads, spec.head_dim_k, device=device).to(cache_dtype)
        v_cache = torch.zeros(11, 16, spec.num_kv_heads, spec.head_dim_v, device=device).to(cache_dtype)
        batch = writing_batch(slots)
        return operations.write_qkv(qkv, spec, changes, k_cache, v_cache, batch, scales), k_cache, v_cache

    for got, expected in zip(run(triton_operations), run(REFERENCE), strict=True):
        if got.dtype == torch.float8_e4m3fn:
            # Before they are scaled and rounded to three bits, both differ as `dtype` lets them.
            tolerance = {"rtol": 0.13, "atol": 2 * TOLERANCES[dtype]["atol"] / min(scales)}
            torch.testing.assert_close(got.float(), expected.float(), **tolerance)
            assert (got.float() == expected.float()).float().mean() > 0.98
        else:
            # Norm and turn round twice in the twin.
            tolerance = {name: 3 * t for name, t in TOLERANCES[dtype].items()}
            torch.testing.assert_close(got, expected, **tolerance)
