"""A quantized file's blocks stay packed where no flag sets a dtype: held in few bits, and the same numbers."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import msgspec
import pytest
import torch
from octavo_testing.engine_runs import engine_config, generate, interpreted, request, running_core
from octavo_testing.gguf_files import MIXED_LAYERS, write_mixed_gguf
from octavo_testing.packed_reference import PackedReference, packed_executor

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.executors import create_executor
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.packing import pack_blocks, rows_of, stacked
from octavo_engine.kernels.reference_quantized import quantize, unpack
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.formats import FORMATS
from octavo_models.partition import Place, shards
from octavo_models.sharding import weights_on_gpu

CPU = torch.device("cpu")
PROMPTS = [[5, 9, 13, 300, 40, 41, 42, 7, 30, 31], list(range(1, 38)), [299, 1]]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A model whose matrices are of every format: `ModelConfig`, `ModelSpec`, `ModelFiles`."""
    path = write_mixed_gguf(tmp_path_factory.mktemp("mixed") / "mixed.gguf")
    model = ModelConfig(model=str(path), served_model_names=("mixed",))
    files = resolve(model, lambda *_: None)
    return model, read_spec(model, files), files


def config_of(model, **fields):
    return engine_config(
        msgspec.structs.replace(model, **fields),
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=32),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=24),
    )


def run(mixed, create, num_tokens, prompts=PROMPTS):
    model, spec, files = mixed
    with running_core(config_of(model), files, spec, create) as core:
        results = generate(core, [request(str(i), p, num_tokens, logprobs=0) for i, p in enumerate(prompts)])
    assert all(result.error is None for result in results.values())
    return {name: (r.tokens, [entry.logprob for entry in r.logprobs]) for name, r in results.items()}


def assert_same(got, expected):
    assert {name: tokens for name, (tokens, _) in got.items()} == {name: t for name, (t, _) in expected.items()}
    for name, (_, logprobs) in expected.items():
        assert got[name][1] == pytest.approx(logprobs, abs=1e-4)


def test_packed_weights_say_what_widened_ones_say(mixed):
    assert_same(run(mixed, packed_executor, 3), run(mixed, create_executor, 3))


@pytest.mark.slow
def test_kernels_say_what_the_twin_says(mixed):
    """In Triton's interpreter, through stacks of mixed formats and a packed embedding with its tied head."""

    def over_kernels(*args):
        executor = interpreted(*args)
        assert executor.runner.packed
        return executor

    short = PROMPTS[::2]
    assert_same(run(mixed, over_kernels, 2, short), run(mixed, packed_executor, 2, short))


def test_what_is_held_is_what_is_reported_and_planned(mixed):
    """All matrices in blocks, the one without in the dtype of the activations; the embedding once, its head tied."""
    model, spec, files = mixed
    executor = packed_executor(config_of(model), spec, files)
    executor.runner.dtype = torch.bfloat16  # a GPU's
    capacity = executor.load()
    assert capacity.weight_bytes == weights_on_gpu(spec, None, 1, 1)
    decoder = executor.runner.decoder
    assert decoder.head is decoder.embedding.table
    linears = [linear for w in decoder.layers for linear in (w.qkv, w.o, w.feed_forward.up, w.feed_forward.down)]
    matrices = [decoder.head, *(part for linear in linears for part, _ in linear.parts)]
    assert [m.dtype for m in matrices if isinstance(m, torch.Tensor)] == [torch.bfloat16], "v of the second layer"
    norms = [decoder.final_norm, *(n for w in decoder.layers for n in (w.pre_attention_norm, w.pre_mlp_norm))]
    assert capacity.weight_bytes == sum(m.nbytes for m in matrices) + sum(n.weight.nbytes for n in norms)
    assert capacity.weight_bytes < 0.6 * spec.weight_bytes("bfloat16")


@pytest.mark.parametrize(("tensor", "stages"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_every_rank_holds_what_the_plan_says(mixed, tensor, stages):
    """The fullest one; `down`, whose parts are no whole groups, is widened and counted so."""
    _, spec, files = mixed
    held = [
        sum(w.nbytes for w in read_weights(spec, files, torch.bfloat16, CPU, 0, place, packed=True).values())
        for place in (Place.of(rank, tensor, stages) for rank in range(tensor * stages))
    ]
    assert max(held) == weights_on_gpu(spec, None, tensor, stages)


@pytest.mark.parametrize("tensor", [2, 4])
def test_the_parts_of_a_packed_weight_are_the_weight(mixed, tensor):
    """Parts are equal to the bit. Cut inside of a file's blocks of 256 they stay packed, inside of 32 they do not."""
    _, spec, files = mixed
    whole = read_weights(spec, files, torch.float32, CPU, 0, Place())
    parts = [
        read_weights(spec, files, torch.float32, CPU, 0, Place(rank, tensor), packed=True) for rank in range(tensor)
    ]
    for shard in shards(spec, Place(0, tensor)):
        name = shard.weight.name
        pieces = [part[name] for part in parts]
        packed = len(shard.whole.shape) > 1 and FORMATS[shard.whole.format].packed_bytes is not None
        assert isinstance(pieces[0], PackedWeight) == (packed and not name.endswith("down"))
        assert all(tuple(piece.shape) == shard.weight.shape for piece in pieces)
        plain = [unpack(p) if isinstance(p, PackedWeight) else p for p in pieces]
        if name.rpartition(".")[2] in {"k", "v"}:  # two KV heads
            plain = plain[:: tensor // 2]
        joined = plain[0] if shard.axis is None else torch.cat(plain, shard.axis)
        assert torch.equal(joined[: len(whole[name])], whole[name]), name
        assert not joined[len(whole[name]) :].any(), "the vocabulary is padded with zeros"


def test_a_stack_is_as_few_matrices_as_its_formats_allow(mixed):
    model, spec, files = mixed
    executor = packed_executor(config_of(model), spec, files)
    executor.load()
    shapes = [[m.shape[0] for m, _ in w.qkv.parts] for w in executor.runner.decoder.layers]
    assert shapes == [[256 + 64, 64], [256 + 64, 64]], "q and k alike, v in other bits or none"
    assert [len(w.feed_forward.up.parts) for w in executor.runner.decoder.layers] == [2, 2], (
        "q4_0 has no minima, q6_k other groups"
    )
    assert {f for layer in MIXED_LAYERS for f in layer.values()} >= {"q4_0", "q4_1", "q5_k", "q6_k"}


def test_stacking_keeps_rows_and_their_order():
    """Plain, four bits, four bits with scales of scales, eight bits in groups of 32 and of 16."""
    plain = torch.randn(3, 64)
    blocks = torch.rand(2, 72).half().view(torch.uint8)
    four, wide = quantize(torch.randn(5, 64), bits=4), pack_blocks("q4_k", blocks).columns(96, 160)
    eight, fine = quantize(torch.randn(4, 64), bits=8), quantize(torch.randn(6, 64), bits=8, group=16)
    given = [plain, plain, four, four, wide, eight, fine, eight]
    made = stacked(given)
    assert [m.shape[0] for m in made] == [6, 10, 2, 4, 6, 4]

    def widened(matrices):
        return torch.cat([unpack(m) if isinstance(m, PackedWeight) else m for m in matrices])

    assert torch.equal(widened(made), widened(given))
    assert all(a is not b for a, b in pairwise(made))
    assert made[2] is wide, "one alone is not copied"


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_a_packed_matrix_are_those_of_the_widened_one(bits):
    packed, rows = quantize(torch.randn(9, 64), bits=bits), torch.tensor([8, 0, 3, 3])
    assert torch.equal(rows_of(packed, rows, torch.bfloat16), unpack(packed)[rows].bfloat16())


@pytest.mark.parametrize(
    ("dtype", "quantization", "operations", "packed"),
    [
        ("auto", "gguf", PackedReference(), True),
        ("auto", "gguf", None, False),  # plain operations on a CPU would widen a matrix at every product
        ("float32", "gguf", PackedReference(), False),
        ("bfloat16", "gguf", PackedReference(), False),
        ("auto", None, PackedReference(), False),
    ],
)
def test_weights_stay_packed_without_a_flag_for_the_dtype(mixed, dtype, quantization, operations, packed):
    model, spec, files = mixed
    spec = dataclasses.replace(spec, quantization=quantization)
    executor = TorchExecutor(config_of(model, dtype=dtype), spec, files, CPU, operations=operations)
    assert executor.runner.packed == packed
