"""The torch executor's own state besides the numbers: blocks, tables, refusals and errors of one request."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from octavo_engine.config import EngineConfig, ModelConfig, ModelFiles
from octavo_engine.core.outputs import ContinuedRequest, KVOps, NewRequest, SchedulerOutput
from octavo_engine.executors.torch.dtypes import dtypes_of
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.input_batch import PersistentBatch, StepLayout
from octavo_engine.executors.torch.kv_cache import KVCache
from octavo_engine.executors.torch.sampler import Results
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.sampling_params import SamplingParams
from octavo_models import from_hf_config

TINY = {
    "architectures": ["Gemma3ForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 8,
    "max_position_embeddings": 128,
    "dtype": "float32",
}
GREEDY = SamplingParams(max_tokens=8, temperature=0.0)


@pytest.fixture(scope="module")
def spec():
    return from_hf_config(TINY)


@pytest.fixture
def executor(spec, tmp_path):
    """Loaded with dummy weights, eight blocks a group."""
    model = ModelConfig(model="tiny", served_model_names=("tiny",), load_format="dummy", seed=4)
    files = ModelFiles(folder=tmp_path, config=None, weights=(), weights_format="dummy", tokenizer=None)
    executor = TorchExecutor(EngineConfig(model=model), spec, files, torch.device("cpu"))
    capacity = executor.load()
    executor.init_kv((8,) * len(capacity.layout.groups))
    return executor


def step(step_id, *, new=(), continued=(), counts, samples=None, **fields):
    samples = counts if samples is None else samples
    return SchedulerOutput(
        step_id, tuple(new), tuple(continued), counts, dict.fromkeys(samples, 1), frozenset(samples), **fields
    )


def run(executor, scheduled):
    handle = executor.submit(scheduled)
    executor.sample(handle)
    return executor.collect(handle)


def test_chunks_and_resumption_give_the_tokens_of_one_prefill(executor):
    """A prompt in one piece; in two; and, after its blocks were taken away, once more with all its known tokens."""
    prompt = [5, 9, 13, 2, 40, 41, 42, 7, 30, 31, 32, 33, 34, 35, 36, 37, 38, 3]
    whole = run(executor, step(1, new=[NewRequest("a", prompt, GREEDY, ([1, 2], [1, 2]), 0)], counts={"a": 18}))
    first = run(
        executor,
        step(
            2, new=[NewRequest("b", prompt, GREEDY, ([3], [3]), 0)], counts={"b": 11}, samples=(), finished_ids=("a",)
        ),
    )
    assert first.tokens == {}
    second = run(executor, step(3, continued=[ContinuedRequest("b", ([4], [4]), 11)], counts={"b": 7}))
    assert second.tokens["b"] == whole.tokens["a"]
    resumed = ContinuedRequest("b", ([5, 6], [7, 2]), 0, resumed=True)
    third = run(executor, step(4, continued=[resumed], counts={"b": 19}))
    again = run(
        executor,
        step(
            5,
            new=[NewRequest("c", prompt, GREEDY, ([1, 2], [1, 3]), 0, output_token_ids=second.tokens["b"])],
            counts={"c": 19},
            finished_ids=("b",),
        ),
    )
    assert again.tokens["c"] == third.tokens["b"]


def test_the_step_that_is_measured_runs_and_leaves_nothing_behind(executor):
    """With as many requests as may be, each with everything that can be asked for."""
    executor.init_kv((2,) * len(executor.runner.layout.groups))
    executor.runner.run_largest_step()
    assert not executor.runner.requests.states
    new = NewRequest("a", [5, 9, 13], GREEDY, ([1], [1]), 0)
    assert run(executor, step(1, new=[new], counts={"a": 3})).tokens["a"]


def test_a_token_outside_the_vocabulary_ends_its_request_alone(executor):
    new = [
        NewRequest("bad", [3, 64], GREEDY, ([1], [1]), 0),
        NewRequest("good", [3, 63], GREEDY, ([2], [2]), 0),
    ]
    out = run(executor, step(1, new=new, counts={"bad": 2, "good": 2}))
    assert list(out.tokens) == ["good"]
    assert out.errors == {"bad": "token 64 is outside the vocabulary of 64"}
    alone = run(executor, step(2, continued=[ContinuedRequest("bad", ([], []), 0)], counts={"bad": 2}))
    assert list(alone.errors) == ["bad"]


def test_the_wait_for_a_step_of_a_gpu_takes_no_core(executor, monkeypatch):
    """The wait sleeps in the kernel: by default CUDA spins, which takes a core a rank. And nothing is read before it is
    over.
    """
    events = []

    class Event:
        def __init__(self, **options):
            events.append(options)

        def record(self):
            events.append("recorded")

        def synchronize(self):
            events.append("waited for")

    read = Results.read
    monkeypatch.setattr(Results, "read", lambda *args: events.append("read") or read(*args))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    new = NewRequest("a", [5, 9, 3], GREEDY, ([1],) * len(executor.runner.layout.groups), 0)
    handle = executor.submit(step(0, new=[new], counts={"a": 3}))
    monkeypatch.setattr(executor.runner, "device", SimpleNamespace(type="cuda"))
    executor.sample(handle)
    assert events == [{"blocking": True}, "recorded"]
    assert executor.collect(handle).tokens["a"]
    assert events[2:] == ["waited for", "read"]


def test_blocks_are_copied_in_every_layer_of_their_group_alone(spec):
    layout = spec.kv_layout(16, "bf16")
    cache = KVCache(spec, layout, (4, 4), "bf16", torch.device("cpu"))
    for i, keys in cache.keys.items():
        keys[1] = cache.values[i][1] = i + 1
    cache.apply(KVOps(copies=((0, 1, 3), (0, 3, 2))))
    for i, keys in cache.keys.items():
        copied = i in layout.groups[0].layers
        assert bool((keys[2] == i + 1).all()) == copied
        assert bool((cache.values[i][2] == i + 1).all()) == copied
        assert bool(keys[2].any()) == copied


def persistent_batch(max_requests=4, num_groups=2):
    return PersistentBatch(
        ReferenceOperations(),
        vocab_size=64,
        block_size=4,
        num_groups=num_groups,
        max_requests=max_requests,
        max_len=32,
        device=torch.device("cpu"),
    )


def inputs(requests, batch):
    layout = StepLayout.of(batch)
    rows, _ = layout.split(torch.frombuffer(layout.pack(batch), dtype=torch.int32))
    made, seq_lens = requests.inputs(
        rows,
        num_tokens=batch.num_tokens,
        decode_lens=tuple(batch.seq_lens[: batch.num_decodes]),
        max_query_len=9,
        max_seq_len=32,
    )
    return made, seq_lens.tolist(), rows.query_starts.tolist()


def test_slots_follow_the_block_table_of_each_group():
    requests = persistent_batch()
    new = [
        NewRequest("a", list(range(10)), GREEDY, ([7, 3, 5], [0, 2, 9]), 6),
        NewRequest("b", [1, 2], GREEDY, ([1], [4]), 1),
    ]
    made, seq_lens, starts = inputs(requests, requests.apply(step(1, new=new, counts={"a": 4, "b": 1})))
    assert made.token_ids.tolist() == [2, 6, 7, 8, 9], "those of one token come first"
    assert made.positions.tolist() == [1, 6, 7, 8, 9]
    assert (starts, seq_lens) == ([0, 1, 5], [2, 10])
    assert made.groups[0].slots.tolist() == [5, 3 * 4 + 2, 3 * 4 + 3, 5 * 4, 5 * 4 + 1]
    assert made.groups[1].slots.tolist() == [17, 2 * 4 + 2, 2 * 4 + 3, 9 * 4, 9 * 4 + 1]


def test_a_step_sends_what_it_adds_and_no_more():
    """One block and one number of it; tokens that the device drew itself are not sent at all."""
    requests = persistent_batch()
    requests.apply(step(1, new=[NewRequest("a", [1, 2, 3, 4], GREEDY, ([7], [2]), 0)], counts={"a": 4}))
    batch = requests.apply(step(2, continued=[ContinuedRequest("a", ([8], []), 4)], counts={"a": 1}))
    assert [(run.table, run.column, run.values) for run in batch.runs] == [(1, 1, [8])]


def test_rows_are_lent_to_those_that_run():
    """One that is preempted gives its row to another, and is sent whole when it comes back."""
    requests = persistent_batch(max_requests=1, num_groups=1)
    requests.apply(step(1, new=[NewRequest("a", [1, 2, 3], GREEDY, ([7],), 0)], counts={"a": 3}))
    requests.states["a"].take(3, 40)
    requests.apply(step(2, new=[NewRequest("b", [9, 8], GREEDY, ([5],), 0)], counts={"b": 2}))
    assert requests.states["a"].row is None
    back = ContinuedRequest("a", ([6],), 0, resumed=True)
    made, _, _ = inputs(requests, requests.apply(step(3, continued=[back], counts={"a": 4}, finished_ids=("b",))))
    assert made.token_ids.tolist() == [1, 2, 3, 40]
    assert made.groups[0].slots.tolist() == [24, 25, 26, 27]


def changed(layer, **fields):
    return dataclasses.replace(layer, attention=dataclasses.replace(layer.attention, **fields))


@pytest.mark.parametrize(
    ("asked", "stored", "quantization", "on_gpu", "computed", "kv_format"),
    [
        ("auto", "float32", None, False, torch.float32, "f32"),
        ("auto", "float32", None, True, torch.bfloat16, "bf16"),
        ("auto", "float32", "gguf", False, torch.float32, "bf16"),
        ("auto", "float32", "gguf", True, torch.bfloat16, "bf16"),
        ("auto", "float16", None, True, torch.float16, "f16"),
        ("auto", "bfloat16", None, True, torch.bfloat16, "bf16"),
        ("float32", "float32", "gguf", False, torch.float32, "f32"),
        ("float32", "bfloat16", None, True, torch.float32, "f32"),
        ("bfloat16", "float32", "gguf", False, torch.bfloat16, "bf16"),
        ("float16", "float32", None, False, torch.float16, "f16"),
    ],
)
def test_dtype_decides_weights_and_kv_blocks(spec, asked, stored, quantization, on_gpu, computed, kv_format):
    """No GPU computes in float32 unless asked; float16 keeps its three bits more in the cache."""
    spec = dataclasses.replace(spec, dtype=stored, quantization=quantization)
    assert dtypes_of(asked, spec, on_gpu=on_gpu) == (computed, kv_format)


def test_a_float16_model_reads_what_it_wrote_to_float16_blocks(spec, tmp_path):
    model = ModelConfig(model="tiny", served_model_names=("tiny",), load_format="dummy", seed=4, dtype="float16")
    files = ModelFiles(folder=tmp_path, config=None, weights=(), weights_format="dummy", tokenizer=None)
    executor = TorchExecutor(EngineConfig(model=model), spec, files, torch.device("cpu"))
    executor.init_kv((8,) * len(executor.load().layout.groups))
    new = NewRequest("a", [5, 9, 13], GREEDY, ([1], [1]), 0)
    assert run(executor, step(1, new=[new], counts={"a": 3})).tokens["a"]
    assert {keys.dtype for keys in executor.runner.cache.keys.values()} == {torch.float16}
