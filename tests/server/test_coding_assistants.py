"""Requests of the shapes that coding assistants send, written by us: each is served, and so is what follows a tool call.

The shapes were seen from Claude Code 2.1.197 on /v1/messages and Codex 0.171.0 on /v1/responses, both of which ran against
`octavo serve` with nothing but loopback.
"""

from __future__ import annotations

import json

import pytest
from test_tool_calls import served_answer

CALL = '<tool_call>\n{"name": "Read", "arguments": {"path": "a.py"}}\n</tool_call>'
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "path": {"description": "a file", "type": "string"},
        "limit": {"description": "lines", "type": "integer", "exclusiveMinimum": 0},
        "mode": {"type": "string", "enum": ["fast", "whole"]},
    },
    "required": ["path"],
    "additionalProperties": False,
}
KEPT = {"cache_control": {"type": "ephemeral"}}
MESSAGES = {
    "model": "fake",
    "max_tokens": 500,
    "stream": True,
    "system": [{"type": "text", "text": "billing"}, {"type": "text", "text": "You write programs.", **KEPT}],
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "notes"}, {"type": "text", "text": "What is it?", **KEPT}],
        },
        {"role": "system", "content": "A reminder between the turns."},
    ],
    "tools": [{"name": "Read", "description": "Read a file.", "input_schema": SCHEMA}],
    "metadata": {"user_id": "someone"},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
}
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
    "Content-Type": "application/json",
}
ITEM = {"type": "message", "id": "msg_1"}
FUNCTION = {"type": "function", "name": "Read", "description": "Read a file.", "strict": False, "parameters": SCHEMA}
RESPONSES = {
    "model": "fake",
    "stream": True,
    "input": [
        {**ITEM, "role": "developer", "content": [{"type": "input_text", "text": "You write programs."}]},
        {**ITEM, "role": "user", "content": [{"type": "input_text", "text": "What is it?"}]},
    ],
    "tools": [
        FUNCTION,
        {"type": "namespace", "name": "helpers", "description": "Others.", "tools": [{**FUNCTION, "name": "ask"}]},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "a-session",
    "client_metadata": {"session_id": "a-session", "turn_id": "1"},
}


@pytest.fixture(scope="module")
def calling(fake_model):
    with served_answer(
        fake_model, f"I look.\n{CALL}", "--tool-call-parser", "hermes", "--max-model-len", "4096"
    ) as server:
        yield server


def events(server, path, body, headers=None):
    status, text, _ = server.post(path, body, headers=headers or {"Content-Type": "application/json"})
    assert status == 200, text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_a_session_over_messages_is_served(calling):
    """The call comes in pieces, and the next request brings its result."""
    came = events(calling, "/v1/messages?beta=true", MESSAGES, HEADERS)
    blocks = [event["content_block"] for event in came if event["type"] == "content_block_start"]
    assert [block["type"] for block in blocks] == ["text", "tool_use"]
    pieces = [event["delta"].get("partial_json", "") for event in came if event["type"] == "content_block_delta"]
    called = {"type": "tool_use", "id": blocks[1]["id"], "name": "Read", "input": json.loads("".join(pieces))}
    assert called["input"] == {"path": "a.py"}
    result = {"type": "tool_result", "tool_use_id": called["id"], "content": "gone", "is_error": True, **KEPT}
    turns = [
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, called]},
        {"role": "user", "content": [result]},
    ]
    again = events(
        calling, "/v1/messages?beta=true", {**MESSAGES, "messages": [*MESSAGES["messages"], *turns]}, HEADERS
    )
    assert again[-1]["type"] == "message_stop"
    counted = {key: MESSAGES[key] for key in ("model", "messages", "system", "tools", "thinking")}
    status, answer, _ = calling.post("/v1/messages/count_tokens?beta=true", counted, headers=HEADERS)
    assert (status, answer["input_tokens"] > 50) == (200, True)


def test_a_session_over_responses_is_served(calling):
    """Items that were answered go back with all their keys, the output of the call behind them."""
    came = events(calling, "/v1/responses", RESPONSES)
    items = came[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["message", "function_call"]
    output = {"type": "function_call_output", "call_id": items[1]["call_id"], "output": "print()"}
    again = events(calling, "/v1/responses", {**RESPONSES, "input": [*RESPONSES["input"], *items, output]})
    assert again[-1]["type"] == "response.completed"
