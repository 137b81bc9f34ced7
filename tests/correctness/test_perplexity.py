"""What quantized activations, four-bit weights and bfloat16 cost: losses on fixed texts, through prompt_logprobs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from engine_runs import engine_config, generate, request, running_core
from transformers_reference import reference

pytestmark = pytest.mark.timeout(900)  # the first to run computes the reference


@dataclass(frozen=True, slots=True)
class Scores:
    """`loss` and `expected`: the engine's and transformers' in float32, nats a token over both texts together.

    `ranks`: of every token of transformers' greedy continuations of the sixteen short prompts, teacher-forced.
    """

    loss: float
    expected: float
    ranks: list[int]


def scores(model, dtype: str) -> Scores:
    """All of it in one batch of the native executor."""
    known = reference(model)
    greedy = {str(i): c for i, c in enumerate(known.continuations[:16])}
    asked = known.texts | {name: c.prompt + c.tokens for name, c in greedy.items()}
    with running_core(engine_config(model.config(dtype, 1024), "native")) as core:
        results = generate(core, [request(name, ids, 1, prompt_logprobs=0) for name, ids in asked.items()])
    scored = {name: (r.prompt_logprobs or [])[1:] for name, r in results.items()}
    for name, ids in asked.items():
        assert [entry.token_id for entry in scored[name]] == ids[1:]
    counts = {name: len(ids) - 1 for name, ids in known.texts.items()}
    return Scores(
        loss=-sum(entry.logprob for name in counts for entry in scored[name]) / sum(counts.values()),
        expected=sum(known.losses[name] * count for name, count in counts.items()) / sum(counts.values()),
        ranks=[entry.rank for name, c in greedy.items() for entry in scored[name][len(c.prompt) - 1 :]],
    )


@pytest.fixture(params=["smollm2", "gemma3"])
def model(request):
    return request.getfixturevalue(request.param)


def test_float32_scores_a_text_as_transformers_does(model):
    found = scores(model, "float32")
    assert found.loss == pytest.approx(found.expected, abs=1e-4)
    assert set(found.ranks) == {1}


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_lower_precision_stays_within_one_percent_of_float32(model, dtype):
    """`auto`: four- to eight-bit weights as they lie in the file, int8 activations. The ratio of the perplexities.

    And nearly every token that is the best one in float32 still is.
    """
    found = scores(model, dtype)
    assert math.exp(found.loss - found.expected) == pytest.approx(1, abs=0.01)
    assert found.ranks.count(1) > 0.95 * len(found.ranks) > 900
