"""A request with an adapter gets what the model with the adapter merged into its weights gives, in any batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
from instruction_sets import every_isa_of_operations, name_of
from octavo_testing import tiny_models
from octavo_testing.adapters import merged, random_factors, write_adapter
from octavo_testing.engine_runs import engine_config, generate, request, run_engine, running_core

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

# Separate projections; packed ones; Conv1D; shared keys and a sparse MLP; grouped packing; an MLP without a gate; experts.
KINDS = (
    "llama with biases",
    "phi 3 with longrope",
    "gpt 2",
    "gemma 3n",
    "falcon 40b",
    "nemotron",
    "mixtral",
    "cohere 2",
    "olmo 2",
)
PROMPTS = [random.Random(4).choices(range(3, 200), k=n) for n in (5, 17, 40)]


def model_of(folder) -> ModelConfig:
    return ModelConfig(model=str(folder), served_model_names=("tiny",))


def spec_of(folder):
    return read_spec(model_of(folder), resolve(model_of(folder), lambda *_: None))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny model, and three adapters of other ranks and modules."""
    root = tmp_path_factory.mktemp("llama")
    tiny_models.tiny("llama with biases", root / "model")
    spec = spec_of(root / "model")
    adapters = [
        write_adapter(root / f"adapter {i}", random_factors(spec, seed=i, rank=rank, only=only), lora_alpha=2 * rank)
        for i, (rank, only) in enumerate([(4, ""), (16, "_proj"), (3, "q_proj")])
    ]
    return root / "model", adapters


@pytest.mark.sample(kind=["llama with biases", "phi 3 with longrope", "gpt 2", "gemma 3n"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_gives_what_the_merged_model_gives(kind, tmp_path):
    """Tokens are the same, log-probabilities differ by rounding alone."""
    tiny_models.tiny(kind, tmp_path / "model")
    factors = random_factors(spec_of(tmp_path / "model"), seed=1)
    adapter = write_adapter(tmp_path / "adapter", factors)
    both = merged(tmp_path / "model", factors, tmp_path / "merged")
    config = engine_config(model_of(tmp_path / "model"), "native", adapters=[adapter])
    requests = [request(f"{i}", prompt, 8, adapter_id=1, logprobs=0) for i, prompt in enumerate(PROMPTS)]
    ours = run_engine(config, [*requests, request("plain", PROMPTS[0], 8, logprobs=0)])
    theirs = run_engine(
        engine_config(model_of(both), "native"),
        [request(f"{i}", prompt, 8, logprobs=0) for i, prompt in enumerate(PROMPTS)],
    )
    for name, expected in theirs.items():
        assert ours[name].tokens == expected.tokens
        pairs = zip(ours[name].logprobs, expected.logprobs, strict=True)
        assert max(abs(a.logprob - b.logprob) for a, b in pairs) < 1e-3
    assert ours["plain"].tokens != ours["0"].tokens, "the adapter changes what is generated"


def test_a_request_gets_the_same_bits_alone_and_among_strangers(llama):
    """Three adapters and the base model in one batch, prompts in chunks: log-probabilities are equal bit by bit."""
    model, adapters = llama
    chunked = SchedulerConfig(max_num_batched_tokens=16, max_num_seqs=16)
    config = engine_config(model_of(model), "native", adapters=adapters, scheduler=chunked)
    requests = [
        request(f"{i}-{adapter_id}", prompt, 10, adapter_id=adapter_id, logprobs=0)
        for i, prompt in enumerate(PROMPTS)
        for adapter_id in (2, 0, 1, 3)
    ]
    together = run_engine(config, requests)
    alone = {}
    with running_core(engine_config(model_of(model), "native", adapters=adapters)) as core:
        for each in requests:
            alone |= generate(core, [each])
    for name, expected in alone.items():
        assert together[name].tokens == expected.tokens
        assert [entry.logprob for entry in together[name].logprobs] == [entry.logprob for entry in expected.logprobs]


def test_preemption_and_turns_change_no_token(llama):
    """Few blocks, and room for two adapters of three: all end with the tokens that they get alone."""
    model, adapters = llama
    alone, requests = {}, []
    with running_core(engine_config(model_of(model), "native", adapters=adapters)) as core:
        for i in range(10):
            requests.append(request(f"{i}", PROMPTS[i % 3], 40, adapter_id=i % 4))
            alone |= generate(core, requests[-1:])
    tight = engine_config(
        model_of(model),
        "native",
        adapters=adapters,
        max_loras=2,
        cache=CacheConfig(num_gpu_blocks_override=14),
        scheduler=SchedulerConfig(max_num_batched_tokens=16, max_num_seqs=8),
    )
    crowded = run_engine(tight, requests)
    assert {name: result.tokens for name, result in crowded.items()} == {n: r.tokens for n, r in alone.items()}
    assert any(result.num_preemptions for result in crowded.values())


def test_equal_prompts_of_different_adapters_share_no_cached_block(llama):
    """The second request of one adapter finds the first one's blocks; that of another finds none."""
    model, adapters = llama
    with running_core(engine_config(model_of(model), "native", adapters=adapters)) as core:
        cached = [
            generate(core, [request(f"{i}", PROMPTS[2], 2, adapter_id=adapter_id)])[f"{i}"].num_cached_tokens
            for i, adapter_id in enumerate([0, 1, 2, 1, 0])
        ]
    assert cached == [0, 0, 0, 32, 32]


@every_isa_of_operations
def test_every_instruction_set_computes_the_same_products(isa, llama, monkeypatch):
    """Sums are in another order: log-probabilities agree with the best set's but for rounding."""
    model, adapters = llama
    requests = [request(f"{i}", PROMPTS[1], 6, adapter_id=i, logprobs=0) for i in range(1, 4)]
    config = engine_config(model_of(model), "native", adapters=adapters)
    expected = run_engine(config, requests)
    monkeypatch.setenv("OCTAVO_NATIVE_ISA", name_of(isa))
    for name, result in run_engine(config, requests).items():
        assert result.tokens == expected[name].tokens
        ours, theirs = ([entry.logprob for entry in r.logprobs] for r in (result, expected[name]))
        assert np.allclose(ours, theirs, atol=1e-3)
