"""Anthropic's API over the same chats, as the `anthropic` package speaks it: blocks, streams, tools, errors."""

from __future__ import annotations

import json

import anthropic
import pytest
from octavo_testing.served import Served
from test_tool_calls import ANSWER, served_answer

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.messages import MessagesBody, chat_of
from octavo_engine.server.intake.protocol import parse_body

USER = [{"role": "user", "content": "weather?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"name": "get_weather", "description": "Weather of a city", "input_schema": SCHEMA},
    {"name": "get_time", "input_schema": {}},
]


@pytest.fixture(scope="module")
def calling(fake_model):
    with served_answer(fake_model, ANSWER, "--tool-call-parser", "hermes", "--reasoning-parser", "think") as server:
        yield server


@pytest.fixture(scope="module")
def client(calling):
    with anthropic.Anthropic(base_url=calling.url, api_key="unneeded", max_retries=0) as client:
        yield client


def create(client, **fields):
    return client.messages.create(**{"model": "fake", "max_tokens": 500, "messages": USER, "tools": TOOLS, **fields})


def test_thinking_text_and_calls_are_blocks_in_order(client):
    """With a usage whose tokens that fill the cache, or come from it, are not counted among the input."""
    message = create(client)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (message.content[0].thinking, message.content[1].text) == ("Two cities.", "I look.")
    assert [(c.name, c.input) for c in message.content[2:]] == [("get_weather", {"city": "Paris"}), ("get_time", {})]
    assert len({call.id for call in message.content[2:]}) == 2
    assert (message.stop_reason, message.role, message.type) == ("tool_use", "assistant", "message")
    assert message.usage.output_tokens == len(ANSWER) + 1
    again = create(client)
    assert again.usage.cache_read_input_tokens > 0
    assert message.usage.cache_creation_input_tokens == again.usage.cache_read_input_tokens > 0
    first, second = (
        m.usage.input_tokens + m.usage.cache_read_input_tokens + m.usage.cache_creation_input_tokens
        for m in (message, again)
    )
    assert first == second == client.messages.count_tokens(model="fake", messages=USER, tools=TOOLS).input_tokens


def test_a_stream_adds_up_to_the_whole_message(client):
    """The package accumulates the same message, event by event."""
    whole = create(client)
    with client.messages.stream(model="fake", max_tokens=500, messages=USER, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert [block.model_dump() for block in message.content][:2] == [block.model_dump() for block in whole.content][:2]
    assert [(c.name, c.input) for c in message.content[2:]] == [(c.name, c.input) for c in whole.content[2:]]
    assert (message.stop_reason, message.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4


def test_one_call_alone_where_the_client_wants_one(client):
    """`disable_parallel_tool_use`."""
    message = create(client, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop_sequences": ["Two"]}, ("stop_sequence", "Two")),
        ({"max_tokens": 3}, ("max_tokens", None)),
        ({"tools": anthropic.NOT_GIVEN}, ("end_turn", None)),
    ],
)
def test_the_reason_of_the_end_is_in_anthropics_words(client, fields, expected):
    message = create(client, **fields)
    assert (message.stop_reason, message.stop_sequence) == expected


def test_without_tools_calls_are_text(client):
    assert "<tool_call>" in create(client, tools=anthropic.NOT_GIVEN).content[1].text


def body(**fields):
    return chat_of(parse_body(MessagesBody, json.dumps({"max_tokens": 5, "messages": USER, **fields}).encode()))


def test_a_conversation_with_tools_is_a_chat_with_tools():
    """Results are messages of their own, before what the user says with them; thinking is the assistant's reasoning."""
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "b"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "c"},
                {"type": "tool_use", "id": "t1", "name": "get_time", "input": {"zone": "ü"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "12:00"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                {"type": "tool_result", "tool_use_id": "t3"},
                {"type": "text", "text": "d"},
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t4", "name": "f", "input": {}}]},
    ]
    chat = body(messages=messages, system=[{"type": "text", "text": "s"}, {"type": "text", "text": "t"}])
    call = {"id": "t1", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "ü"}'}}
    assert chat.messages == [
        {"role": "system", "content": "s\nt"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "reasoning": "hm", "tool_calls": [call], "content": [{"type": "text", "text": "c"}]},
        {"role": "tool", "tool_call_id": "t1", "content": "12:00"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "d"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t4", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
    ]


def test_parameters_mean_what_they_mean_to_openais_clients():
    """Stop sequences, sampling, effort, thinking that is switched off, a schema for the answer, the choice of tools."""
    chat = body(
        stop_sequences=["x"],
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stream=True,
        thinking={"type": "disabled"},
        tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_time"},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert (chat.stop, chat.temperature, chat.top_p, chat.top_k, chat.max_tokens, chat.stream) == (
        ["x"],
        0.5,
        0.9,
        3,
        5,
        True,
    )
    assert chat.reasoning_effort == "none"
    assert chat.response_format.json_schema.json_schema == SCHEMA
    assert chat.tool_choice == {"type": "function", "function": {"name": "get_time"}}
    assert chat.tools[1]["function"] == {"name": "get_time", "parameters": {"type": "object"}}
    assert body(output_config={"effort": "low"}).reasoning_effort == "low"
    assert body(tools=TOOLS, tool_choice={"type": "any"}).tool_choice == "required"
    assert body(tool_choice={"type": "auto"}).tool_choice is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": 1}]}
                ]
            },
            "messages[0].content[0].input",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"max_tokens": None}, "max_tokens"),
        ({"system": 5}, "system"),
    ],
)
def test_what_is_wrong_or_not_served_is_named(fields, param):
    with pytest.raises(RequestError) as refused:
        body(**fields)
    assert refused.value.param == param


def test_errors_have_anthropics_shape(client, calling):
    """A path below /v1/messages answers in it too."""
    with pytest.raises(anthropic.BadRequestError) as refused:
        create(client, messages=[])
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        create(client, model="other")
    status, answer, _ = calling.post("/v1/messages/count_tokens", {"messages": 5})
    assert (status, set(answer), answer["error"]["type"]) == (400, {"type", "error"}, "invalid_request_error")


def test_the_key_comes_as_anthropics_clients_send_it(fake_model):
    """`x-api-key`; a bearer token counts where both are sent."""
    with Served(fake_model, "--served-model-name", "fake", "--api-key", "secret") as server:
        for key, error in (("secret", None), ("wrong", anthropic.AuthenticationError)):
            with anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0) as client:
                if error is None:
                    assert client.messages.create(model="fake", max_tokens=2, messages=USER).content
                    continue
                with pytest.raises(error, match="the API key is wrong"):
                    client.messages.create(model="fake", max_tokens=2, messages=USER)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "pick"}])
def test_a_call_that_is_required_is_one(fake_model, choice):
    """The answer is held to a call whose input validates, whatever the model would have drawn."""
    flags = ("--served-model-name", "fake", "--max-model-len", "1024", "--tool-call-parser", "hermes")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    tools = [{"name": "pick", "input_schema": schema}]
    with (
        Served(fake_model, *flags, num_blocks=4000) as server,
        anthropic.Anthropic(base_url=server.url, api_key="unneeded", max_retries=0) as client,
    ):
        message = create(client, tools=tools, tool_choice={**choice, "disable_parallel_tool_use": True})
    (call,) = message.content
    assert (call.type, call.name, message.stop_reason) == ("tool_use", "pick", "tool_use")
    assert call.input in ({"a": 1}, {"a": 2})
