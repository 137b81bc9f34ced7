"""Beams of a real model over HTTP are those that a plain search finds in transformers' logits of the same weights."""

from __future__ import annotations

import pytest
from octavo_testing.plain_beams import plain_beam_search
from octavo_testing.served import Served

PROMPT = "The three primary colors are"


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [1.0, 6.0])
def test_beams_are_those_of_a_plain_search(smollm2, smollm2_hf, length_penalty):
    """Tokens in order, and their log-probabilities."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    arguments = ("--dtype", "float32", "--kv-cache-memory-bytes", "200M", "--enable-prompt-tokens-details")
    asked = {
        "prompt": PROMPT,
        "n": 4,
        "max_tokens": 8,
        "use_beam_search": True,
        "logprobs": 0,
        "return_token_ids": True,
    }
    with Served(smollm2.model, *arguments, real=True) as server:
        status, answer, _ = server.post("/v1/completions", {**asked, "length_penalty": length_penalty})
        assert status == 200, answer
        ends = {server.post("/tokenize", {"prompt": "<|im_end|>"})[1]["tokens"][0]}
    choices = answer["choices"]
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2_hf, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logprobs_of(tokens):
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0, -1].double(), -1).numpy()

    expected = plain_beam_search(
        logprobs_of,
        choices[0]["prompt_token_ids"],
        width=4,
        max_tokens=8,
        ends=ends,
        length_penalty=length_penalty,
    )
    assert [choice["token_ids"] for choice in choices] == [tokens for tokens, _, _ in expected]
    sums = [sum(choice["logprobs"]["token_logprobs"]) for choice in choices]
    assert sums == pytest.approx([total for _, total, _ in expected], abs=0.02)
