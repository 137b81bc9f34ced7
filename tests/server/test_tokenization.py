"""/tokenize and /detokenize, what a prompt is made of, and where sampling defaults come from."""

from __future__ import annotations

import json
import shutil

import pytest
from octavo_testing.served import Served


def tokens(served, **body):
    status, answer, _ = served.post("/tokenize", body)
    assert status == 200, answer
    return answer


def test_a_text_and_its_tokens_are_each_others_inverse(served):
    """With the context's length, and the pieces on demand."""
    answer = tokens(served, prompt="hello world", return_token_strs=True)
    assert answer["count"] == len(answer["tokens"]) == 11
    assert answer["max_model_len"] == 256
    assert answer["token_strs"][4:7] == ["o", "Ġ", "w"]
    assert served.post("/detokenize", {"tokens": answer["tokens"]})[1] == {"prompt": "hello world"}


def test_a_chat_is_tokenized_as_the_model_would_read_it(served):
    """The same prompt that a chat completion counts."""
    messages = [{"role": "user", "content": "hello"}]
    answer = tokens(served, messages=messages)
    assert served.post("/detokenize", {"tokens": answer["tokens"]})[1]["prompt"] == "user:hello;>"
    assert tokens(served, messages=messages, add_generation_prompt=False)["count"] == answer["count"] - 1


def test_content_in_parts_is_read_as_its_text(served):
    """Many clients send content in parts."""
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts}]
    assert tokens(served, messages=messages)["count"] == len("user:hel\nlo;>")


def test_a_wrong_question_is_refused(served):
    """Neither or both of prompt and messages; ids that no token has."""
    assert served.post("/tokenize", {})[1]["error"]["param"] == "prompt"
    assert served.post("/detokenize", {"tokens": [9999]})[1]["error"]["param"] == "tokens"


def test_a_prompt_is_truncated_on_the_side_that_is_asked_for(served):
    """The left side is the default; -1 fits it to the context."""
    body = {"prompt": "abcdef", "max_tokens": 1, "return_token_ids": True, "truncate_prompt_tokens": 2}
    ids = {}
    for side in ("left", "right"):
        _, answer, _ = served.post("/v1/completions", {**body, "truncation_side": side})
        ids[side] = answer["choices"][0]["prompt_token_ids"]
    assert ids == {"left": tokens(served, prompt="ef")["tokens"], "right": tokens(served, prompt="ab")["tokens"]}
    long = {"prompt": "x" * 400, "max_tokens": 6, "truncate_prompt_tokens": -1}
    assert served.post("/v1/completions", long)[1]["usage"]["prompt_tokens"] == 250


def test_a_chat_takes_what_is_left_of_the_context_and_a_completion_16_tokens(served):
    """vLLM's defaults for a request without max_tokens."""
    _, answer, _ = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
    assert answer["usage"]["total_tokens"] == 256
    _, answer, _ = served.post("/v1/completions", {"prompt": "hi"})
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.slow
def test_defaults_come_from_the_models_generation_config_unless_a_flag_says_otherwise(fake_model, tmp_path):
    """`--generation-config vllm` leaves them out; a request's own values win."""
    folder = tmp_path / "model"
    shutil.copytree(fake_model, folder)
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7, "temperature": 0.5}))
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with Served(folder) as server:
        assert server.post("/v1/chat/completions", body)[1]["usage"]["completion_tokens"] == 7
        body["max_completion_tokens"] = 9
        assert server.post("/v1/chat/completions", body)[1]["usage"]["completion_tokens"] == 9
        del body["max_completion_tokens"]
    with Served(folder, "--generation-config", "vllm") as server:
        assert server.post("/v1/chat/completions", body)[1]["usage"]["completion_tokens"] > 100


@pytest.mark.slow
def test_a_dummy_model_without_a_tokenizer_reads_bytes(fake_model, tmp_path):
    """A config.json alone can be served."""
    (tmp_path / "config.json").write_bytes((fake_model / "config.json").read_bytes())
    with Served(tmp_path) as server:
        assert "a byte is a token" in server.output
        assert server.post("/tokenize", {"prompt": "añb"})[1]["count"] == 4
        assert server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})[0] == 200


@pytest.mark.slow
def test_a_root_path_is_a_prefix_that_a_proxy_may_or_may_not_strip(fake_model):
    """vLLM serves both as well."""
    with Served(fake_model, "--root-path", "/llm/") as server:
        base = server.url
        assert server.get("/health")[0] == 200
        server.url = base + "" if base.endswith("/llm") else base + "/llm"
        assert server.get("/health")[0] == 200
        assert server.post("/v1/completions", {"prompt": "x"})[0] == 200
