"""A base model's file, whose EOS only ends documents, chats with a template that ends turns with another token."""

from __future__ import annotations

import shutil

import pytest
from octavo_testing.served import Served

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OF_TEXT = (0).to_bytes(4, "little")


@pytest.fixture(scope="module")
def base_model(smollm2, tmp_path_factory):
    """SmolLM2 without its template, with EOS <|endoftext|> in place of <|im_end|>."""
    path = tmp_path_factory.mktemp("base") / "model.gguf"
    shutil.copyfile(smollm2.gguf, path)
    with path.open("r+b") as file:
        head = file.read(1 << 23)
        for key, change in ((b"tokenizer.ggml.eos_token_id", END_OF_TEXT), (b"tokenizer.chat_template", None)):
            at = head.index(key)
            file.seek(at if change is None else at + len(key) + 4)  # a key is followed by its type
            file.write(b"x" * len(key) if change is None else change)
    return path


@pytest.mark.slow
def test_generation_stops_where_the_template_ends_a_turn(base_model, tmp_path):
    """The template may be the flag's, or a request's."""
    template = tmp_path / "chatml.jinja"
    template.write_text(CHATML)
    ask = {
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        "max_tokens": 60,
        "temperature": 0,
    }
    arguments = ("--max-model-len", "512", "--kv-cache-memory-bytes", "100M")
    with Served(base_model, *arguments, "--chat-template", template, real=True) as server:
        choice = server.post("/v1/chat/completions", ask)[1]["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"] == "The capital of France is Paris."
    with Served(base_model, *arguments, "--trust-request-chat-template", real=True) as server:
        status, answer, _ = server.post("/v1/chat/completions", {**ask, "chat_template": CHATML})
        assert (status, answer["choices"][0]["finish_reason"]) == (200, "stop")
