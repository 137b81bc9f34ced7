"""Qwen2.5-Coder in Q4_K_M, whose value and down matrices are Q6_K, decodes as transformers does."""

from __future__ import annotations

import pytest
from octavo_testing.deep import DEEP
from octavo_testing.engine_runs import engine_config, generate, running_core
from octavo_testing.engine_runs import request as asked
from references import FEW_TOKENS, few_continuations

pytestmark = pytest.mark.timeout(1800)
TOO_LARGE = pytest.mark.skipif(not DEEP, reason="1.1 GB to fetch and 7 GB in float32; OCTAVO_DEEP_TESTS=1 runs it")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen_coder_small", pytest.param("qwen_coder", marks=TOO_LARGE)])
def test_greedy_tokens_equal_transformers(name, request):
    """In float32, all prompts together. A comparison ends where the two best logits are closer than 1e-4."""
    model = request.getfixturevalue(name)
    expected = few_continuations(model)
    with running_core(engine_config(model.config("float32", 256), "native")) as core:
        results = generate(core, [asked(str(i), c.prompt, FEW_TOKENS) for i, c in enumerate(expected)])
    compared = 0
    for i, continuation in enumerate(expected):
        count = continuation.comparable(FEW_TOKENS)
        assert results[str(i)].error is None
        assert results[str(i)].tokens[:count] == continuation.tokens[:count]
        compared += count
    assert compared >= 0.9 * FEW_TOKENS * len(expected)
