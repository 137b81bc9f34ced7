"""The 1.5B Qwen in Q4_K_M, whose embedding is Q4_K and whose value and down matrices are Q6_K, decodes as transformers does."""

from __future__ import annotations

import pytest
from octavo_testing.deep import DEEP
from octavo_testing.engine_runs import engine_config, generate, request, running_core
from references import FEW_TOKENS, few_continuations

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DEEP, reason="it is 1.1 GB to fetch and 7 GB in float32; OCTAVO_DEEP_TESTS=1 runs it"),
]


def test_greedy_tokens_equal_transformers(qwen_coder):
    """In float32, all prompts together. A comparison ends where the two best logits are closer than 1e-4."""
    expected = few_continuations(qwen_coder)
    with running_core(engine_config(qwen_coder.config("float32", 256), "native")) as core:
        results = generate(core, [request(str(i), c.prompt, FEW_TOKENS) for i, c in enumerate(expected)])
    compared = 0
    for i, continuation in enumerate(expected):
        count = continuation.comparable(FEW_TOKENS)
        assert results[str(i)].error is None
        assert results[str(i)].tokens[:count] == continuation.tokens[:count]
        compared += count
    assert compared >= 0.9 * FEW_TOKENS * len(expected)
