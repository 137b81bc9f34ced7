"""Clients write every field that they know, with null for what is not set: null is as if the field were absent."""

from __future__ import annotations

import json

import pytest
from least_bodies import BODIES, MESSAGES
from pydantic import BaseModel

from octavo_engine.server.intake import protocol
from octavo_engine.server.intake.protocol import (
    CompletionBody,
    KvTransfer,
    StreamOptions,
    parse_body,
)
from octavo_engine.server.intake.repetition import RepetitionFields
from octavo_engine.server.intake.structured_outputs import ResponseFormat, StructuredOutputs
from octavo_engine.server.intake.unserved_fields import UNSERVED_FIELDS

OPTIONAL = [
    (kind, name)
    for kind, (_, least) in BODIES.items()
    for name, field in kind.model_fields.items()
    if not field.is_required() and name not in least
]


def test_every_body_is_looked_at_here():
    """A new endpoint's body belongs in `least_bodies`."""
    models = {kind for kind in vars(protocol).values() if isinstance(kind, type) and issubclass(kind, BaseModel)}
    bases = {base for kind in models for base in kind.__mro__[1:]}
    assert models - bases == {*BODIES, KvTransfer, StreamOptions, RepetitionFields, ResponseFormat, StructuredOutputs}


@pytest.mark.parametrize(("kind", "name"), OPTIONAL, ids=lambda value: getattr(value, "__name__", value))
def test_a_null_field_is_as_if_it_were_absent(kind, name):
    """A null field has its default."""
    _, least = BODIES[kind]
    with_null = parse_body(kind, json.dumps({**least, name: None}).encode())
    assert getattr(with_null, name) == getattr(parse_body(kind, json.dumps(least).encode()), name)


@pytest.mark.parametrize("name", StreamOptions.model_fields)
def test_a_null_stream_option_is_as_if_it_were_absent(name):
    """Nested objects too."""
    body = {"prompt": "a", "stream": True, "stream_options": {name: None}}
    options = parse_body(CompletionBody, json.dumps(body).encode()).stream_options
    assert options == StreamOptions()


@pytest.mark.parametrize("kind", BODIES)
def test_all_fields_as_null_at_once_change_no_answer(served, kind):
    """Fields that are not served are included."""
    path, least = BODIES[kind]
    nulls = dict.fromkeys([*kind.model_fields, *UNSERVED_FIELDS, "functions", "service_tier", "metadata"])
    served.post(path, least)  # usage reports what is cached
    answers = [served.post(path, body) for body in (least, {**nulls, **least})]
    for _, answer, _ in answers:
        answer.pop("id", None)
        answer.pop("created", None)
    assert answers[1][0] == 200
    assert answers[0][1] == answers[1][1]


def test_max_tokens_of_a_completion_is_16_also_where_it_is_null(served):
    """OpenAI's and vLLM's default."""
    answer = served.post("/v1/completions", {"prompt": "hello", "max_tokens": None})[1]
    assert answer["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text", "json_schema": None}},
        {"structured_outputs": {"json": None, "regex": None}},
        {"vllm_xargs": {"a": None}},
        {"top_logprobs": 0},
        {"top_logprobs": 0, "logprobs": False},
        {"tools": None, "tool_choice": None},
    ],
)
def test_a_field_that_asks_for_nothing_is_accepted(served, fields):
    """With all its parts null, or zero."""
    status, answer, _ = served.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2, **fields})
    assert status == 200, answer
    assert answer["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": None}}, "response_format.json_schema"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {}, "stream": None}, "stream_options"),
        ({"messages": None}, "messages"),
        ({"top_logprobs": 1, "logprobs": None}, "top_logprobs"),
    ],
)
def test_what_a_null_leaves_without_meaning_is_refused(served, fields, param):
    """A null beside a value does not hide the value, and a required field has no default."""
    status, answer, _ = served.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 2, **fields})
    assert (status, answer["error"]["param"]) == (400, param)
