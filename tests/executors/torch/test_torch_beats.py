"""Each part of a step counts up a number that another process reads, so that a slow step differs from a hanging one."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import pytest
import torch

from octavo_engine.config import EngineConfig, ModelConfig, ModelFiles
from octavo_engine.core.outputs import KVOps, NewRequest, SchedulerOutput
from octavo_engine.executors.torch import kv_cache, sampler
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.parallel_executor import LeadExecutor
from octavo_engine.sampling_params import SamplingParams
from octavo_models import from_hf_config

NUM_LAYERS = 6
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "dtype": "float32",
}
PROMPT = [5, 9, 13, 2, 40, 41, 42, 7, 30, 31, 32, 33, 34, 35, 36, 37, 38, 3]


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """Loaded with dummy weights; eight blocks on the device, eight of swap space."""
    model = ModelConfig(model="tiny", served_model_names=("tiny",), load_format="dummy", seed=4)
    files = ModelFiles(folder=tmp_path, config=None, weights=(), weights_format="dummy", tokenizer=None)
    executor = TorchExecutor(EngineConfig(model=model), from_hf_config(TINY), files, torch.device("cpu"))
    assert len(executor.load().layout.groups) == 1
    monkeypatch.setattr(kv_cache, "STAGING_BYTES", 1)  # one block a piece
    executor.init_kv((8,), (8,))
    yield executor
    executor.close()


@pytest.fixture
def beats(executor):
    counted = memoryview(array("Q", [0]))
    executor.beat_into(counted)
    return counted


def prefill(executor, *, prompt_logprobs=None, kv_ops=KVOps()):  # noqa: B008 — frozen
    """A step over all of `PROMPT` that draws a token."""
    sampling = SamplingParams(max_tokens=8, temperature=0.0, prompt_logprobs=prompt_logprobs)
    wanted = 1 if prompt_logprobs is None else len(PROMPT)
    new = NewRequest("a", PROMPT, sampling, ([1, 2],), 0)
    step = SchedulerOutput(
        1, (new,), (), {"a": len(PROMPT)}, {"a": wanted}, frozenset({"a"}), finished_ids=("a",), kv_ops=kv_ops
    )
    handle = executor.submit(step)
    executor.sample(handle)
    return executor.collect(handle)


def test_layers_and_logits_count(executor, beats):
    prefill(executor)
    assert beats[0] == NUM_LAYERS + 1


def test_each_layer_counts_as_it_is_done(executor, beats, monkeypatch):
    """The count moves within a step, not at its end alone: another process sees it move."""
    seen = []
    attend = executor.runner.ops.attention
    monkeypatch.setattr(
        executor.runner.ops, "attention", lambda *args, **kwargs: (seen.append(beats[0]), attend(*args, **kwargs))[1]
    )
    prefill(executor)
    assert seen == list(range(NUM_LAYERS))


def test_log_probabilities_of_a_prompt_count_by_rows(executor, beats, monkeypatch):
    """Over a large vocabulary they take longer than the layers: 17 tokens have a predecessor, 4 are scored at once."""
    monkeypatch.setattr(sampler, "PROMPT_ROWS", 4)
    output = prefill(executor, prompt_logprobs=2)
    assert len(output.prompt_logprobs["a"]) == len(PROMPT) - 1
    assert beats[0] == NUM_LAYERS + 1 + 5


@pytest.mark.parametrize("kind", ["swap_out", "swap_in", "copies"])
def test_moves_of_blocks_count_by_pieces(executor, beats, kind):
    """Each kind, by itself and within a step: a large arena takes longer than the layers."""
    moves = KVOps(**{kind: ((0, 3, 4), (0, 5, 6), (0, 6, 7))})
    executor.move_blocks(moves)
    assert beats[0] == 3
    prefill(executor, kv_ops=moves)
    assert beats[0] == 3 + 3 + NUM_LAYERS + 1


def test_rank_0_of_several_counts_its_own_parts_and_those_of_others(executor, beats):
    lead = LeadExecutor.__new__(LeadExecutor)
    others = []
    lead._rank = SimpleNamespace(executor=executor)
    lead._group = SimpleNamespace(pulse=SimpleNamespace(count_others_into=others.append))
    counted = memoryview(array("Q", [0]))
    lead.beat_into(counted)
    prefill(executor)
    assert (counted[0], beats[0]) == (NUM_LAYERS + 1, 0)
    assert others == [counted]
