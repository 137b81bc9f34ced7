"""What quantized activations, four-bit weights and bfloat16 cost: the loss on fixed texts, through prompt_logprobs."""

from __future__ import annotations

import math

import pytest
from engine_runs import engine_config, generate, request, running_core
from transformers_reference import reference


def losses(model, dtype: str, executor: str) -> tuple[float, float]:
    """(the engine's, transformers' in float32): nats a token, the mean over all tokens of both texts."""
    expected = reference(model)
    with running_core(engine_config(model.config(dtype, 1024), executor)) as core:
        results = generate(core, [request(name, ids, 1, prompt_logprobs=0) for name, ids in expected.texts.items()])
    scored = {name: (r.prompt_logprobs or [])[1:] for name, r in results.items()}
    for name, ids in expected.texts.items():
        assert [entry.token_id for entry in scored[name]] == ids[1:]
    count = sum(len(entries) for entries in scored.values())
    own = -sum(entry.logprob for entries in scored.values() for entry in entries) / count
    theirs = sum(expected.losses[name] * len(entries) for name, entries in scored.items()) / count
    return own, theirs


@pytest.fixture(params=["smollm2", "gemma3"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_float32_scores_a_text_as_transformers_does(smollm2, executor):
    own, theirs = losses(smollm2, "float32", executor)
    assert own == pytest.approx(theirs, abs=1e-4)


def test_weights_as_stored_stay_within_one_percent_of_float32(model):
    """Four- to eight-bit weights as they lie in the file, int8 activations: the perplexity's ratio."""
    own, theirs = losses(model, "auto", "native")
    assert math.exp(own - theirs) == pytest.approx(1, abs=0.01)


def test_bfloat16_stays_within_one_percent_of_float32(model):
    own, theirs = losses(model, "bfloat16", "native")
    assert math.exp(own - theirs) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_lower_precision_mostly_agrees_token_by_token(model, dtype):
    """Teacher-forced over transformers' own greedy continuations: nearly every token is still the best one."""
    continuations = reference(model).continuations[:16]
    with running_core(engine_config(model.config(dtype, 1024), "native")) as core:
        results = generate(
            core,
            [request(str(i), c.prompt + c.tokens, 1, prompt_logprobs=0) for i, c in enumerate(continuations)],
        )
    ranks = [
        entry.rank
        for i, c in enumerate(continuations)
        for entry in (results[str(i)].prompt_logprobs or [])[len(c.prompt) :]
    ]
    assert len(ranks) == sum(len(c.tokens) for c in continuations)
    assert sum(rank == 1 for rank in ranks) / len(ranks) > 0.93
