"""`thinking_token_budget` and `repetition_detection` over HTTP, and the flag that names the delimiters."""

from __future__ import annotations

import json

import pytest
from octavo_testing.served import Served

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, "seed": 3, "temperature": 1}


@pytest.fixture(scope="module")
def thinking(fake_model):
    """A server whose answers begin with reasoning that is drawn at random: it never ends by itself."""
    with Served(fake_model, "--reasoning-parser", "deepseek_r1") as server:
        yield server


@pytest.mark.parametrize("most", [0, 1, 7])
def test_reasoning_ends_with_its_budget_and_the_answer_goes_on(thinking, most):
    """Every choice has a budget of its own."""
    status, answer, _ = thinking.post("/v1/chat/completions", {**CHAT, "thinking_token_budget": most, "n": 3})
    assert status == 200, answer
    for choice in answer["choices"]:
        assert len(choice["message"]["reasoning"] or "") <= most  # white space beside the delimiter is no part of it
        assert 0 < len(choice["message"]["content"]) <= 60 - most - len("</think>")
    assert answer["usage"]["completion_tokens"] == 180


def test_without_one_it_goes_on(thinking):
    """-1 is no limit."""
    for fields in ({}, {"thinking_token_budget": -1}, {"thinking_token_budget": None}):
        message = thinking.post("/v1/chat/completions", {**CHAT, **fields})[1]["choices"][0]["message"]
        assert message["content"] is None


def test_a_schema_holds_behind_the_forced_end(thinking):
    """The budget and the grammar of the answer hold at once."""
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": {"yes": True}}}}
    body = {**CHAT, "thinking_token_budget": 5, "response_format": schema}
    choice = thinking.post("/v1/chat/completions", body)[1]["choices"][0]
    assert json.loads(choice["message"]["content"]) == {"yes": True}
    assert choice["finish_reason"] == "stop"


def test_other_apis_have_a_budget_too(thinking):
    """Anthropic's `thinking.budget_tokens`, and the field on completions and responses."""
    asked = {"max_tokens": 60, "messages": CHAT["messages"], "temperature": 1}
    body = {**asked, "thinking": {"type": "enabled", "budget_tokens": 4}}
    blocks = thinking.post("/v1/messages", body)[1]["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text"]
    assert len(blocks[0]["thinking"]) <= 4
    body = {"input": "hi", "max_output_tokens": 60, "temperature": 1, "thinking_token_budget": 4}
    items = thinking.post("/v1/responses", body)[1]["output"]
    assert [item["type"] for item in items] == ["reasoning", "message"]
    body = {"prompt": "hi<think>", "max_tokens": 30, "thinking_token_budget": 4, "temperature": 1}
    text = thinking.post("/v1/completions", body)[1]["choices"][0]["text"]
    assert text[4:12] == "</think>"


def test_where_no_reasoning_is_known_a_budget_is_refused(served):
    """Anthropic's clients send theirs to every model, so there it is passed over."""
    status, answer, _ = served.post("/v1/chat/completions", {**CHAT, "thinking_token_budget": 4})
    assert (status, answer["error"]["param"]) == (400, "thinking_token_budget")
    assert "--reasoning-parser" in answer["error"]["message"]
    body = {"max_tokens": 4, "messages": CHAT["messages"], "thinking": {"type": "enabled", "budget_tokens": 4}}
    assert served.post("/v1/messages", body)[0] == 200


def test_a_flag_names_delimiters_and_the_text_that_ends_reasoning(fake_model):
    """vLLM's `--reasoning-config`, for a model whose format is not known."""
    config = {"reasoning_start_str": "<r>", "reasoning_end_str": "enough</r>"}
    with Served(fake_model, "--reasoning-config", json.dumps(config)) as server:
        body = {"prompt": "hi<r>", "max_tokens": 30, "thinking_token_budget": 3, "temperature": 1}
        text = server.post("/v1/completions", body)[1]["choices"][0]["text"]
        assert text[3:13] == "enough</r>"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking_token_budget": -2}, "thinking_token_budget"),
        ({"thinking_token_budget": True}, "thinking_token_budget"),
        ({"thinking_token_budget": 1.5}, "thinking_token_budget"),
        ({"thinking_token_budget": 3, "allowed_token_ids": [3]}, "thinking_token_budget"),
        ({"thinking_token_budget": 3, "use_beam_search": True}, "thinking_token_budget"),
        ({"repetition_detection": {"max_pattern_size": 4, "min_count": 1}}, "repetition_detection"),
        (
            {"repetition_detection": {"max_pattern_size": 1, "min_pattern_size": 2, "min_count": 2}},
            "repetition_detection",
        ),
        ({"repetition_detection": {"max_pattern_size": -1}}, "repetition_detection.max_pattern_size"),
        ({"repetition_detection": {"max_pattern_size": 257, "min_count": 2}}, "repetition_detection.max_pattern_size"),
        ({"repetition_detection": 3}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": 0}, "use_beam_search": True}, "repetition_detection"),
    ],
)
def test_what_can_t_be_asked_for_is_named(thinking, fields, param):
    status, answer, _ = thinking.post("/v1/chat/completions", {**CHAT, **fields})
    assert (status, answer["error"]["param"]) == (400, param), answer


def test_an_answer_that_repeats_itself_says_so(fake_model):
    """vLLM's finish and stop reason, and its metric."""
    with Served(fake_model, env={"FAKE_ANSWER": "[1, 2, 3]"}) as server:
        body = {"prompt": "x", "max_tokens": 40, "repetition_detection": {"max_pattern_size": 5, "min_count": 4}}
        choice = server.post("/v1/completions", body)[1]["choices"][0]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("repetition", "repetition_detected")
        assert len(choice["text"]) == 12
        assert server.metric("vllm:request_success_total", finished_reason="repetition") == 1
        off = {**body, "repetition_detection": {"max_pattern_size": 0}}
        assert server.post("/v1/completions", off)[1]["choices"][0]["finish_reason"] == "length"
