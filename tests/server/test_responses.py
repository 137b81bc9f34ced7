"""OpenAI's Responses API over the same chats, as the `openai` package speaks it: items, streams, stored responses."""

from __future__ import annotations

import json
import time

import openai
import pytest
from octavo_testing.served import Served
from openai import OpenAI
from pydantic import BaseModel
from test_tool_calls import ANSWER, served_answer

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.response_items import Response
from octavo_engine.server.intake.protocol import parse_body
from octavo_engine.server.intake.responses import ResponsesBody, chat_of, namespaces_of
from octavo_engine.server.stored_responses import Stored, StoredResponses

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "name": "get_weather", "description": "Weather of a city", "parameters": PARAMETERS},
    {"type": "function", "name": "get_time", "parameters": None},
]
SECONDS = 60.0
SEED = {"seed": 1}


@pytest.fixture(scope="module")
def calling(fake_model):
    with served_answer(fake_model, ANSWER, "--tool-call-parser", "hermes", "--reasoning-parser", "think") as server:
        yield server


@pytest.fixture(scope="module")
def tools(calling):
    with OpenAI(base_url=f"{calling.url}/v1", api_key="unneeded", max_retries=0) as client:
        yield client


def create(client, **fields):
    return client.responses.create(**{"model": "fake", "input": "weather?", **fields})


def test_functions_of_a_namespace_are_called_and_answered_under_their_names(fake_model):
    """The item of a call has both names, and goes back into the next request; coding assistants group functions so."""
    group = {"type": "namespace", "name": "team", "description": "Others", "tools": [TOOLS[0], {**TOOLS[1]}]}
    answer = '<tool_call>\n{"name": "team.get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    with (
        served_answer(fake_model, answer, "--tool-call-parser", "hermes") as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0) as client,
    ):
        choice = {"type": "function", "namespace": "team", "name": "get_weather"}
        for fields in ({}, {"tool_choice": choice}):
            (call,) = create(client, tools=[group], **fields).output
            assert (call.namespace, call.name, json.loads(call.arguments)) == ("team", "get_weather", {"city": "Paris"})
        events = list(create(client, tools=[group], stream=True))
        assert events[-1].response.output[0].namespace == "team"
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "mild"}
        assert create(client, tools=[group], input=[call.model_dump(), output]).status == "completed"


def test_what_openai_would_run_is_left_out_beside_functions(tools):
    """Coding assistants offer a web search unasked; alone, it is refused."""
    response = create(tools, tools=[*TOOLS, {"type": "web_search", "external_web_access": False}])
    assert [item.type for item in response.output][-1] == "function_call"
    with pytest.raises(openai.BadRequestError, match="runs no tools"):
        create(tools, tools=[{"type": "web_search"}])
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\] is a namespace without tools"):
        create(tools, tools=[{"type": "namespace", "name": "team"}])


def test_a_namespace_may_hold_what_openai_would_run_beside_functions(client):
    """What this server does not run is left out of a namespace, too."""
    group = {"type": "namespace", "name": "team", "tools": [TOOLS[0], {"type": "web_search"}, {**TOOLS[1]}]}
    assert list(namespaces_of([group])) == ["team.get_weather", "team.get_time"]
    assert create(client, tools=[group], tool_choice="none", max_output_tokens=2).status == "incomplete"


def test_reasoning_text_and_calls_are_items_in_order(tools):
    response = create(tools, tools=TOOLS)
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert response.output[0].content[0].text == "Two cities."
    assert response.output_text == "I look."
    calls = [(call.name, json.loads(call.arguments)) for call in response.output[2:]]
    assert calls == [("get_weather", {"city": "Paris"}), ("get_time", {})]
    assert len({item.id for item in response.output}) == 4
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert response.usage.output_tokens == len(ANSWER) + 1
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.tools[0].name == "get_weather"


def test_a_stream_adds_up_to_the_whole_response(tools):
    """Events are numbered, name their item, and each text that is done is its deltas."""
    whole = create(tools, tools=TOOLS)
    events = list(create(tools, tools=TOOLS, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    final = events[-1]
    assert final.type == "response.completed"
    assert [item.type for item in final.response.output] == [item.type for item in whole.output]
    assert final.response.output_text == whole.output_text
    for kind, field in (
        ("response.output_text", "text"),
        ("response.reasoning_text", "text"),
        ("response.function_call_arguments", "arguments"),
    ):
        done = [event for event in events if event.type == f"{kind}.done"]
        assert done
        for end in done:
            pieces = [e.delta for e in events if e.type == f"{kind}.delta" and e.item_id == end.item_id]
            assert "".join(pieces) == getattr(end, field)
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    ended = [event.item.id for event in events if event.type == "response.output_item.done"]
    assert added == ended == [item.id for item in final.response.output]


def test_a_response_takes_vllms_sampling_fields_and_shows_what_the_model_has_read_and_written(client):
    """`enable_response_messages` asks for tokens, and their text with special tokens; in streams too."""
    extra = {"enable_response_messages": True, "presence_penalty": 0.5, "repetition_penalty": 1.5, "ignore_eos": True}
    whole = create(client, max_output_tokens=3, extra_body={**extra, **SEED})
    *_, last = create(client, max_output_tokens=3, stream=True, extra_body={**extra, **SEED})
    for response in (whole, last.response):
        (given,), (made,) = response.input_messages, response.output_messages
        assert given["type"] == made["type"] == "raw_message_tokens"
        assert "weather?" in given["message"]
        assert (len(given["tokens"]), len(made["tokens"])) == (response.usage.input_tokens, 3)
    assert (whole.presence_penalty, whole.frequency_penalty) == (0.5, 0.0)
    plain = create(client, max_output_tokens=3, extra_body=SEED)
    assert (plain.input_messages, plain.output_messages) == (None, None)
    choice = {"structured_outputs": {"choice": ["yes"]}, "stop": None, **SEED}
    assert create(client, max_output_tokens=9, extra_body=choice).output_text == "yes"


def test_a_conversation_goes_on_from_a_stored_response(client):
    """The prompt is that of the conversation sent whole, whose instructions are those of the last request alone."""
    first = create(client, input="hello", instructions="a", max_output_tokens=5, extra_body=SEED)
    second = create(
        client, input="more", instructions="b", previous_response_id=first.id, max_output_tokens=5, extra_body=SEED
    )
    items = [{"role": "user", "content": "hello"}, *first.output, {"role": "user", "content": "more"}]
    whole = create(client, input=items, instructions="b", max_output_tokens=5, extra_body=SEED)
    assert second.output_text == whole.output_text
    assert second.usage.input_tokens == whole.usage.input_tokens
    assert (second.previous_response_id, second.instructions) == (first.id, "b")
    assert client.responses.retrieve(first.id).output == first.output


def test_what_is_not_stored_cannot_be_asked_for(client):
    """A deleted response is gone, too."""
    kept = create(client, input="hello", max_output_tokens=2)
    client.responses.delete(kept.id)
    for response_id in (create(client, input="hello", max_output_tokens=2, store=False).id, kept.id, "resp_0"):
        with pytest.raises(openai.NotFoundError, match="there is no response"):
            client.responses.retrieve(response_id)
        with pytest.raises(openai.NotFoundError) as refused:
            create(client, input="hello", previous_response_id=response_id)
        assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(create(client, input="hello", max_output_tokens=2).id)


def test_a_response_that_ran_out_of_tokens_is_incomplete(client):
    for stream in (False, True):
        response = create(client, input="hello", max_output_tokens=3, stream=stream)
        if stream:
            *_, end = response
            assert end.type == "response.incomplete"
            response = end.response
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage.output_tokens == 3
        assert response.output[-1].status == "incomplete"


class Pick(BaseModel):
    """The shape of the answer."""

    yes: bool


def test_text_is_held_to_a_schema(client):
    """`responses.parse` sends the model's schema."""
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "pick", "schema": schema, "strict": True}}
    answer = create(client, input="hello", text=text, max_output_tokens=150)
    assert isinstance(json.loads(answer.output_text)["yes"], bool)
    assert answer.text.format.type == "json_schema"
    parsed = client.responses.parse(model="fake", input="hello", text_format=Pick, max_output_tokens=150)
    assert isinstance(parsed.output_parsed, Pick)


def test_log_probabilities_come_with_the_text_where_they_are_included(client):
    fields = {"input": "hello", "max_output_tokens": 4, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    logprobs = create(client, **fields).output[0].content[0].logprobs
    assert len(logprobs) == 4
    assert create(client, input="hello", max_output_tokens=4).output[0].content[0].logprobs == []


@pytest.fixture(scope="module")
def slow(fake_model):
    flags = ("--served-model-name", "fake", "--api-key", "one", "two")
    with Served(fake_model, *flags, env={"FAKE_STEP_SECONDS": "0.05"}) as server:
        yield server


def wait_for(client, response_id, *states):
    end = time.monotonic() + SECONDS
    while (response := client.responses.retrieve(response_id)).status not in states:
        assert time.monotonic() < end, response.status
        time.sleep(0.02)
    return response


def test_a_response_in_the_background_is_polled_and_cancelled(slow):
    """Its client need not stay; another key does not find it."""
    with OpenAI(base_url=f"{slow.url}/v1", api_key="one", max_retries=0) as client:
        queued = create(client, input="hello", background=True, max_output_tokens=4)
        assert queued.status == "queued"
        with pytest.raises(openai.BadRequestError, match="still being made"):
            create(client, input="hello", previous_response_id=queued.id)
        done = wait_for(client, queued.id, "completed", "incomplete")
        assert done.usage.output_tokens == 4
        assert done.output_text
        long = create(client, input="hello", background=True, max_output_tokens=200)
        assert client.responses.cancel(long.id).status == "cancelled"
        assert wait_for(client, long.id, "cancelled").status == "cancelled"
        for fields in ({"stream": True}, {"store": False}):
            with pytest.raises(openai.BadRequestError, match="background"):
                create(client, input="hello", background=True, **fields)
        with (
            OpenAI(base_url=f"{slow.url}/v1", api_key="two", max_retries=0) as other,
            pytest.raises(openai.NotFoundError),
        ):
            other.responses.retrieve(done.id)


def chat(**fields):
    return chat_of(parse_body(ResponsesBody, json.dumps({"input": "x", **fields}).encode()), [])


def test_items_are_a_chat():
    """Reasoning, text and calls that follow each other are one message of the assistant."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items = [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        call,
        {**call, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": id_, "type": "function", "function": function} for id_ in ("c1", "c2")]
    assert chat(input=items, instructions="i").messages == [
        {"role": "system", "content": "i"},
        {"role": "developer", "content": [{"type": "text", "text": "d"}]},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}], "reasoning": "hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
    ]


def test_a_choice_of_tools_is_a_chats():
    named = {"type": "function", "function": {"name": "get_time"}}
    assert chat(tools=TOOLS, tool_choice={"type": "function", "name": "get_time"}).tool_choice == named
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_time"}]}
    assert chat(tools=TOOLS, tool_choice=allowed).tool_choice["allowed_tools"] == {"mode": "required", "tools": [named]}
    assert chat(tool_choice="auto").tool_choice is None
    assert chat(reasoning={"effort": "low"}).reasoning_effort == "low"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"role": ["user"], "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": ["text"]}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "reasoning", "content": 5}]}, "input[0].content"),
        ({"input": [{"type": "reasoning", "summary": True}]}, "input[0].summary"),
        ({"tools": [{"type": ["function"]}]}, "tools[0].type"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "tools": 5}}, "tool_choice.tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_is_wrong_or_not_served_is_named(fields, param):
    with pytest.raises(RequestError) as refused:
        chat(**fields)
    assert refused.value.param == param


def test_stored_responses_stay_within_their_bounds(monkeypatch):
    """The oldest go, except those that are being made."""
    monkeypatch.setattr("octavo_engine.server.stored_responses.MAX_STORED_CHARACTERS", 100)
    kept = StoredResponses()
    for i in range(5):
        stored = Stored(Response(str(i), 0, "m", "completed"), None, [], size=40)
        stored.task = object() if i == 1 else None
        kept.add(stored)
    assert list(kept._stored) == ["1", "4"]
    kept.grow(kept.get("4", None), {"role": "assistant"}, 7)
    assert kept._size == 87
    kept.delete("4", None)
    assert kept._size == 40


@pytest.mark.parametrize("field", ["tools", "instructions", "metadata", "text"])
def test_what_a_response_repeats_of_its_request_counts_as_stored(monkeypatch, field):
    """A schema, tools or instructions may be much longer than the messages."""
    monkeypatch.setattr("octavo_engine.server.stored_responses.MAX_STORED_CHARACTERS", 10_000)
    kept = StoredResponses()
    long = {"tools": [{"description": "a" * 6000}], "instructions": "a" * 6000}.get(field, {"a": "a" * 6000})
    for i in range(3):
        kept.add(
            Stored(Response(str(i), 0, "m", "completed", **{field: long}), None, [{"role": "user", "content": "x"}])
        )
    assert list(kept._stored) == ["2"]
