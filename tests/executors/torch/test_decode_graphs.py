"""Decodes through graphs give the tokens of decodes without: the ladder, the padding, the buffers that stay.

A GPU records what a function launches; here `GraphRecorder` records its operations, and replays those alone.
"""

from __future__ import annotations

import msgspec
import pytest
import torch
from octavo_testing.engine_runs import LETTERS, engine_config, generate, request
from octavo_testing.recorded_graph import GraphRecorder
from octavo_testing.tiny_models import make

from octavo_engine.config import ModelConfig, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.graphs import DecodeGraphs, ladder
from octavo_engine.executors.torch.input_batch import RequestState, Run, StepBatch
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

CPU = torch.device("cpu")


def batch(lengths, counts=None, runs=()):
    states = [
        RequestState(str(i), [0], 1, SamplingParams(max_tokens=1), [], n - 1, row=i) for i, n in enumerate(lengths)
    ]
    return StepBatch(states, counts or [1] * len(lengths), lengths, list(runs), list(range(len(lengths))), {})


def graphs(recorder=None, **fields):
    fields = {"max_requests": 24, "num_groups": 2, "device": CPU, "faults": FaultWatch.of(CPU)} | fields
    made = DecodeGraphs(lambda *_: None, recorder or Recorded(), **fields)
    made.capture()
    return made


def test_the_ladder_pads_by_a_third_at_most():
    assert ladder(1) == (1,)
    assert ladder(256) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    assert ladder(100)[-2:] == (96, 100)
    for n in range(1, 257):
        assert min(size for size in ladder(256) if size >= n) <= max(n + 1, 1.5 * n)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (batch([5]), 1),
        (batch([5, 1025, 7, 8, 9]), 6),
        (batch([9] * 24), 24),
        (batch([500_000]), 1),
        (batch([9] * 23 + [500_000]), 24),
        (batch([9] * 25), None),
        (batch([5, 9], [1, 3]), None),
        (batch([]), None),
        (batch([25_000] * 22), None),
    ],
)
def test_a_step_of_decodes_alone_has_a_graph(step, expected):
    """The graph of the next size serves, however long one of them is; not with a prefill, and not where all are long:
    reading their keys takes longer than launching, and attention's scratch would be large."""
    for draws in (True, False):
        key = graphs().key(step, draws=draws)
        assert (key and (key.num_requests, key.draws)) == (expected and (expected, draws))


def test_all_sizes_are_captured_at_load_the_largest_first():
    """No step waits for one; and ranks, which must agree, have one order."""
    keys = []
    made = DecodeGraphs(
        lambda key, *_: keys.append(key),
        Recorded(),
        max_requests=6,
        num_groups=1,
        device=CPU,
        faults=FaultWatch.of(CPU),
    )
    assert made.key(batch([5]), draws=True) is None, "nothing is captured while serving"
    made.capture()
    assert [(key.num_requests, key.draws) for key in keys] == [(n, d) for n in (6, 4, 3, 2, 1) for d in (True, False)]
    assert made.num_recorded == len(made.keys) == 10


def test_news_beyond_the_buffer_do_not_fit():
    step = batch([40, 40], runs=[Run(1, 0, 2, [5]), Run(2, 0, 2, [6]), Run(1, 1, 2, [7])])
    made = graphs()
    key = made.key(step, draws=True)
    assert made.fits(key, step)
    step.runs.append(Run(0, 1, 0, [1, 2, 3]))
    assert not made.fits(key, step)


def core(folder, recorder, **executor):
    config = engine_config(
        ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32"),
        "torch",
        scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=6),
    )
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, **executor))
    files = resolve(config.model, lambda *_: None)
    spec = read_spec(config.model, files)
    operations = recorder.over(ReferenceOperations())
    return EngineCore(config, TorchExecutor(config, spec, files, recorder=recorder, operations=operations), spec)


def requests():
    """Short and long, greedy and drawn, some that want more than the token: these run half in a graph."""
    fields = [
        {},
        {"temperature": 0.9},
        {"logprobs": 3},
        {"logprobs": 2, "logprob_token_ids": (5, 90)},
        {"repetition_penalty": 1.3},
        {"min_tokens": 9, "eos_token_ids": (2,)},
        {"grammar": LETTERS, "temperature": 1.0, "allowed_token_ids": tuple(range(48, 128))},
    ]
    return [
        request(
            str(i), [3 + (7 * i + j) % 200 for j in range(1 + 11 * i)], 10 + 3 * i, seed=i, **fields[i % len(fields)]
        )
        for i in range(9)
    ]


@pytest.mark.parametrize("kind", ["llama", "gemma 3", "qwen 2 with experts"])
def test_replayed_steps_give_the_tokens_of_eager_ones(kind, tmp_path):
    """Over two KV groups and one; with requests that end, so that the batch grows and shrinks along the ladder."""
    make(kind, tmp_path)
    recorder = GraphRecorder()
    with_graphs, without = core(tmp_path, recorder), core(tmp_path, GraphRecorder(), enforce_eager=True)
    got, expected = generate(with_graphs, requests()), generate(without, requests())
    for name, result in expected.items():
        assert got[name].tokens == result.tokens
        for a, b in zip(got[name].logprobs, result.logprobs, strict=True):
            assert a.token_id == b.token_id
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
            assert [token for token, _ in a.top] == [token for token, _ in b.top]
    assert recorder.replays > 10
    assert with_graphs._executor.runner.graphs.num_recorded > 2
    assert without._executor.runner.graphs is None, "--enforce-eager turns them off"


class Refusing(GraphRecorder):
    """A recorder that raises what CUDA raises."""

    def __init__(self, error) -> None:
        super().__init__()
        self.error = error
        self.asked = 0

    def record(self, run):
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "all_off"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: operation failed due to a previous error during capture"), True),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), True),
    ],
)
def test_a_size_that_can_not_be_recorded_runs_without(tmp_path, caplog, error, all_off):
    """No memory for it: this size alone. Anything else would come again: none is recorded any more."""
    make("llama", tmp_path)
    refusing = Refusing(error)
    got = generate(core(tmp_path, refusing), requests()[:2])
    expected = generate(core(tmp_path, GraphRecorder(), enforce_eager=True), requests()[:2])
    assert {n: r.tokens for n, r in got.items()} == {n: r.tokens for n, r in expected.items()}
    assert "can't be captured" in caplog.text
    assert refusing.asked == (1 if all_off else len(ladder(6)) * 2)


@pytest.mark.parametrize("elsewhere", [0, 1, 2])
def test_ranks_replay_a_graph_together_or_none_does(elsewhere):
    """What another rank could not capture is not replayed here: its collectives would wait."""
    asked = []

    def worst(own):
        asked.append(own)
        return max(own, elsewhere)

    made = graphs(max_requests=4, worst=worst)
    assert asked == [0] * (1 if elsewhere == 2 else len(made.keys))
    assert made.num_recorded == (len(made.keys) if elsewhere == 0 else 0)
    assert (made.key(batch([5]), draws=True) is None) == (elsewhere > 0)


class Recorded(GraphRecorder):
    """A recorder of nothing."""

    def record(self, run):
        return object(), lambda: None
