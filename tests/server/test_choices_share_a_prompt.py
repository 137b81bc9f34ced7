"""Choices of a long prompt wait for its first one, which computes the blocks of all."""

from __future__ import annotations

import pytest
from octavo_testing.served import Served

PROMPT = "".join(chr(40 + i * 7 % 80) for i in range(200))  # fifty blocks of four


@pytest.mark.parametrize("flags", [(), ("--no-enable-prefix-caching",)])
def test_a_long_prompt_is_computed_once(fake_model, flags):
    """A step takes only a part of it; each choice draws what it draws elsewhere, and the answer has all of them."""
    with Served(fake_model, *flags, "--max-num-batched-tokens", "32") as server:
        body = {"prompt": PROMPT, "n": 4, "max_tokens": 3, "seed": 1, "temperature": 1}
        _, answer, _ = server.post("/v1/completions", body)
        texts = [choice["text"] for choice in answer["choices"]]
        assert len(set(texts)) == 4
        # The prompt, the last block of the three others, two decodes of each, and the first tokens that the count adds.
        server.wait_for_metric("vllm:num_requests_running", 0)
        assert server.metric("vllm:iteration_tokens_total_sum") <= 200 + 3 * 4 + 4 * 2 + 4
        alone = [server.post("/v1/completions", {**body, "n": 1, "seed": 1 + i})[1] for i in range(4)]
        assert [each["choices"][0]["text"] for each in alone] == texts


def test_choices_are_answered_when_the_first_ends_early(served):
    """The first one ends with its first token, by a stop string; the others follow."""
    body = {"prompt": PROMPT, "n": 4, "max_tokens": 6, "seed": 1, "temperature": 1}
    texts = [choice["text"] for choice in served.post("/v1/completions", body)[1]["choices"]]
    _, answer, _ = served.post("/v1/completions", {**body, "stop": texts[0][0]})
    assert [choice["text"] for choice in answer["choices"]] == [text.split(texts[0][0])[0] for text in texts]
    assert answer["choices"][0]["text"] == ""
    _, answer, _ = served.post("/v1/completions", {**body, "stream": True})
    assert answer.rstrip().endswith("[DONE]")
