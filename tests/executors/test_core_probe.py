"""The core's own request, which finds out whether an engine can run anything, over each executor."""

from __future__ import annotations

import json

import pytest
from octavo_testing.engine_runs import engine_config, generate, request, running_core

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine.probe import run_nothing
from octavo_engine.errors import DeviceLostError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 301,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}
GEMMA = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": True,
}


def asked():
    """The number of requests that may run at once: the probe finds no row free."""
    return [request(f"r{i}", [5 + i, 9, 40 + i], 12) for i in range(3)]


def probe(core):
    """Run the core's own requests, as it does once each request of a step has failed alone."""
    run_nothing(core._execute, core._layout, core._probes, pools=False)


@pytest.fixture(params=[LLAMA, GEMMA], ids=["one group", "two groups"])
def model(request, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(request.param))
    return ModelConfig(model=str(tmp_path), served_model_names=("m",), load_format="dummy", dtype="float32", seed=3)


@pytest.fixture(params=["native", "torch"])
def config(request, model):
    return engine_config(
        model,
        request.param,
        cache=CacheConfig(num_gpu_blocks_override=64),
        scheduler=SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=16),
    )


def test_the_probe_runs_beside_requests_and_changes_none(config):
    """Between any two steps, with all rows taken, and again once they are free."""
    with running_core(config) as core:
        expected = {name: result.tokens for name, result in generate(core, asked()).items()}
        assert len(set(map(tuple, expected.values()))) == 3, "the model tells prompts apart"
        core.reset_prefix_cache()
        probe(core)
        step, taken = core.step, []

        def probed():
            outputs = step()
            if not core._in_flight or len(taken) % 2:
                while core._in_flight:
                    outputs += core._land()
                probe(core)
            taken.append(1)
            return outputs

        core.step = probed
        got = {name: result.tokens for name, result in generate(core, asked()).items()}
        assert got == expected
        assert len(taken) > 5


def test_a_probe_that_fails_is_the_engines_end(config):
    """Whatever the executor says."""
    with running_core(config) as core:

        def broken(step):
            assert list(step.num_scheduled_tokens.values()) == [1]
            raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid\nmore")

        core._executor.submit = broken
        with pytest.raises(
            DeviceLostError, match=r"no request can be run any more: RuntimeError: .* image is invalid$"
        ):
            probe(core)
