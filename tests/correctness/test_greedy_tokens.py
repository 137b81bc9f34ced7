"""Greedy output in float32 equals transformers', token for token, however the engine comes to it.

SmolLM2 and Gemma 3. A comparison ends where the reference's two best logits are closer than 1e-4. `OCTAVO_DEEP_TESTS=1`
compares all twenty prompts, 64 tokens each, in every way; else it is seventeen of them, one long, and less of Gemma. The
torch executor, a slow twin, always runs a few.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from octavo_testing.deep import DEEP
from octavo_testing.engine_runs import Finished, engine_config, generate, request, running_core
from references import NUM_TOKENS, Continuation, reference

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.core.capacity import sequence_bytes
from octavo_engine.core.swapping import SwapRule
from octavo_engine.weights.model_spec import read_spec

pytestmark = pytest.mark.timeout(900)

LONGEST = 1536
PROMPTS = range(20 if DEEP else 17)  # the last four are long
FEWER = PROMPTS if DEEP else (0, 5, 11, 16)
TOKENS = {"smollm2": NUM_TOKENS, "gemma3": NUM_TOKENS if DEEP else 24}
GROWING = {"native": (12, 160 if DEEP else 100), "torch": (24, 60) if DEEP else (6, 40)}  # how many, by how much
TWIN_TOKENS = 12
TWIN_PROMPTS = (0, 16, 11) if DEEP else (0, 11)


class Case:
    """A model in an executor, and the part of the reference that it is held to."""

    def __init__(self, model, executor: str, prompts=PROMPTS) -> None:
        self.model = model
        self.executor = executor
        every = reference(model).continuations
        self.limit = TWIN_TOKENS if executor == "torch" else TOKENS[model.name]
        self.expected = {str(i): every[i] for i in (TWIN_PROMPTS if executor == "torch" else prompts)}

    def requests(self):
        return [request(name, c.prompt, self.limit) for name, c in self.expected.items()]


def check(expected: Mapping[str, Continuation], results: Mapping[str, Finished], limit: int) -> None:
    """Every token up to the first doubtful one; and nearly all must be beyond doubt, or nothing was compared."""
    compared = 0
    for name, continuation in expected.items():
        result, count = results[name], continuation.comparable(limit)
        assert result.error is None
        assert len(result.tokens) == limit
        assert result.tokens[:count] == continuation.tokens[:count], (
            f"prompt {name} of {len(continuation.prompt)} tokens"
        )
        compared += count
    assert compared >= 0.9 * limit * len(expected)


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def case(request, executor_name):
    return Case(request.getfixturevalue(request.param), executor_name)


@pytest.fixture(scope="module")
def roomy_core(case):
    """Room for all at once, and a prefix cache."""
    with running_core(engine_config(case.model.config("float32", LONGEST), case.executor)) as core:
        yield core


def strangers():
    """Requests of another kind that share the batch: random prompts, sampled, ending at various times."""
    rng = random.Random(17)
    return [
        request(
            f"stranger {i}",
            [rng.randrange(10, 40_000) for _ in range(3 + 29 * i)],
            3 + 5 * i,
            temperature=1.1,
            seed=i,
            top_p=0.9,
            repetition_penalty=1.2,
        )
        for i in range(3)
    ]


@pytest.mark.slow
def test_alone_with_a_cold_prefix_cache(case, roomy_core):
    """One request in the engine at a time, none of its prompt cached."""
    expected = {str(i): case.expected[str(i)] for i in FEWER if str(i) in case.expected}
    limit = min(case.limit, NUM_TOKENS if DEEP else 24)
    results = {}
    for name, continuation in expected.items():
        roomy_core.reset_prefix_cache()
        results |= generate(roomy_core, [request(name, continuation.prompt, limit)])
    assert all(r.num_cached_tokens == 0 for r in results.values())
    check(expected, results, limit)


@pytest.mark.slow
def test_batched_with_strangers_cold_then_hot(case, roomy_core):
    """All together with other people's requests; then again, their prompts' whole blocks coming from the cache."""
    roomy_core.reset_prefix_cache()
    cold = generate(roomy_core, [*case.requests(), *strangers()])
    check(case.expected, cold, case.limit)
    hot = generate(roomy_core, [*strangers(), *case.requests()])
    check(case.expected, hot, case.limit)
    for name, continuation in case.expected.items():
        whole_blocks = (len(continuation.prompt) - 1) // 16 * 16
        assert hot[name].num_cached_tokens == whole_blocks
    for i in range(3):
        assert hot[f"stranger {i}"].tokens == cold[f"stranger {i}"].tokens, "a seed draws the same in any company"


@pytest.fixture(params=[("smollm2", "native"), ("gemma3", "native"), ("smollm2", "torch")], ids="-".join)
def cramped_case(request):
    """A batch this large of Gemma's would keep the twin busy for a minute."""
    model, executor = request.param
    return Case(request.getfixturevalue(model), executor, FEWER)


@pytest.mark.slow
@pytest.mark.parametrize("swap_space_gib", [0.0, 0.5], ids=["recomputed", "swapped"])
def test_across_forced_preemptions_and_chunked_prefill(cramped_case, swap_space_gib, monkeypatch):
    """Blocks for two long sequences, and 96 tokens a step: requests are evicted, and recomputed or swapped in again."""
    swapped = []
    monkeypatch.setattr(SwapRule, "pays", lambda _, num_tokens, num_blocks: swapped.append(num_tokens) or True)
    longest = max(len(c.prompt) for c in cramped_case.expected.values()) + cramped_case.limit
    scheduler = SchedulerConfig(max_num_batched_tokens=96)
    config = cramped_case.model.config("float32", longest)
    layout = read_spec(config, cramped_case.model.files).kv_layout(16, "f32")
    # The growing ones come first, so that it is the others that must make room.
    growing, growth = GROWING[cramped_case.executor]
    room = 2 * sequence_bytes(layout, longest, scheduler.max_num_batched_tokens)
    blocks = CacheConfig(kv_cache_memory_bytes=room, swap_space_gib=swap_space_gib)
    with running_core(engine_config(config, cramped_case.executor, cache=blocks, scheduler=scheduler)) as core:
        others = [request(f"other {i}", range(100 + i, 120 + i), growth) for i in range(growing)]
        results = generate(core, [*others, *cramped_case.requests()])
    assert any(results[name].num_preemptions for name in cramped_case.expected)
    assert bool(swapped) == bool(swap_space_gib)
    check(cramped_case.expected, results, cramped_case.limit)


@pytest.mark.skipif(not DEEP, reason="transformers takes minutes to write the folder; OCTAVO_DEEP_TESTS=1 lets it")
def test_from_safetensors(smollm2, smollm2_hf, executor_name):
    """The same weights out of a Hugging Face folder give the same tokens. Small ones are test_architectures's."""
    expected = {str(i): reference(smollm2).continuations[i] for i in (1, 9, 12)}
    model = ModelConfig(model=str(smollm2_hf), served_model_names=("hf",), dtype="float32", max_model_len=LONGEST)
    with running_core(engine_config(model, executor_name)) as core:
        results = generate(core, [request(name, c.prompt, TWIN_TOKENS) for name, c in expected.items()])
    check(expected, results, TWIN_TOKENS)
