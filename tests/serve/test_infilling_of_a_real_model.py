"""A model of code writes what stands between a prompt and its suffix."""

from __future__ import annotations

import pytest
from octavo_testing.served import Served

PREFIX = "def add(a, b):\n    return "
SUFFIX = "\n\nprint(add(1, 2))  # 3\n"


@pytest.mark.slow
def test_qwen_coder_fills_in(qwen_coder_small):
    """The markers are tokens, the answer ends by itself, and echo shows the prompt as it was sent."""
    with Served(
        qwen_coder_small.model, "--kv-cache-memory-bytes", "200M", "--max-model-len", "512", real=True
    ) as server:
        body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 30, "temperature": 0, "return_token_ids": True}
        status, answer, _ = server.post("/v1/completions", body)
        assert status == 200, answer
        (choice,) = answer["choices"]
        text = choice["text"]
        assert (text[:5], choice["finish_reason"]) == ("a + b", "stop")
        marks = {
            text: server.post("/tokenize", {"prompt": text, "add_special_tokens": False})[1]["tokens"]
            for text in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", PREFIX, SUFFIX)
        }
        order = ("<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>")
        assert choice["prompt_token_ids"] == [token for text in order for token in marks[text]]
        by_ids = {**body, "prompt": marks[PREFIX], "echo": True}
        (choice,) = server.post("/v1/completions", by_ids)[1]["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["text"].endswith(text)
        (choice,) = server.post("/v1/completions", {**body, "echo": True})[1]["choices"]
        assert choice["text"] == PREFIX + text
        status, answer, _ = server.post("/v1/completions", {**body, "truncate_prompt_tokens": 4})
        assert (status, answer["error"]["param"]) == (400, "truncate_prompt_tokens")
