"""Tool calls and reasoning over HTTP: whole and streamed, as the `openai` package reads them."""

from __future__ import annotations

import json
from shutil import copytree

import jsonschema
import pytest
from octavo_testing.served import TURN_END, Served
from openai import BadRequestError, OpenAI
from tokenizers import Tokenizer

USER = [{"role": "user", "content": "weather?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
ANSWER = (
    "<think>\nTwo cities.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
)


def served_answer(fake_model, text, *arguments):
    """A server whose every answer is `text`."""
    tokens = Tokenizer.from_file(str(fake_model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return Served(
        fake_model,
        *("--served-model-name", "fake", "--max-model-len", "1024", *arguments),
        num_blocks=4000,
        env={"FAKE_ANSWER": json.dumps([*tokens, TURN_END])},
    )


@pytest.fixture(scope="module")
def calling(fake_model):
    with served_answer(fake_model, ANSWER, "--tool-call-parser", "hermes", "--reasoning-parser", "think") as server:
        yield server


@pytest.fixture(scope="module")
def client(calling):
    with OpenAI(base_url=f"{calling.url}/v1", api_key="unneeded", max_retries=0) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(model="fake", messages=USER, **{"tools": [WEATHER, TIME], **fields})


def streamed(client, **fields):
    """(role, reasoning, content, calls by index, finish reason) of a stream."""
    role, reasoning, content, calls, reason = None, "", "", {}, None
    for chunk in chat(client, stream=True, **fields):
        for choice in chunk.choices:
            delta = choice.delta
            role = delta.role or role
            content += delta.content or ""
            reasoning += getattr(delta, "reasoning", None) or ""
            for call in delta.tool_calls or ():
                if call.id:
                    assert (call.type, call.index) == ("function", len(calls))
                    calls[call.index] = [call.id, call.function.name, ""]
                calls[call.index][2] += call.function.arguments or ""
            reason = choice.finish_reason or reason
    return role, reasoning, content, calls, reason


def test_an_answers_calls_reasoning_and_content_stand_apart(client):
    answer = chat(client)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert choice.message.reasoning == choice.message.reasoning_content == "Two cities."
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert calls == [("get_weather", {"city": "Paris"}), ("get_time", {})]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    # a token is a character here: until the last of them, the closing mark might have been reasoning
    assert answer.usage.completion_tokens_details.reasoning_tokens == len("\nTwo cities.\n</think")


def test_a_stream_says_the_same_as_a_whole_answer(client):
    message = chat(client).choices[0].message
    role, reasoning, content, calls, reason = streamed(client)
    assert (role, reasoning, content, reason) == ("assistant", message.reasoning, message.content, "tool_calls")
    assert [tuple(call[1:]) for call in calls.values()] == [
        (call.function.name, call.function.arguments) for call in message.tool_calls
    ]


def test_arguments_are_streamed_as_they_come(client):
    """On a busy machine a chunk holds the tokens of several steps, so one stream of many has to show it."""

    def pieces():
        return [
            call.function.arguments
            for chunk in chat(client, stream=True)
            for choice in chunk.choices
            for call in choice.delta.tool_calls or ()
            if call.index == 0
        ]

    streams = []
    while not streams or (len(streams[-1]) <= 3 and len(streams) < 50):
        streams.append(pieces())
        assert "".join(streams[-1]) == '{"city": "Paris"}'
    assert len(streams[-1]) > 3


def test_without_parallel_calls_there_is_one(client):
    fields = {"parallel_tool_calls": False}
    assert [call.function.name for call in chat(client, **fields).choices[0].message.tool_calls] == ["get_weather"]
    assert [call[1] for call in streamed(client, **fields)[3].values()] == ["get_weather"]


def test_choices_with_tools_are_counted(calling, client):
    """Under vLLM's name, once a choice (vLLM's count of streams grows with every delta)."""

    def count(mode, outcome):
        name = "vllm:tool_call_parser_invocations_total"
        return calling.metric(name, mode=mode, outcome=outcome, request_type="chat_completions")

    before = {key: count(*key) for key in (("streaming", "tool_call"), ("non_streaming", "tool_call"))}
    chat(client, n=2)
    streamed(client)
    chat(client, tool_choice="none")
    assert count("non_streaming", "tool_call") == before["non_streaming", "tool_call"] + 2
    assert count("streaming", "tool_call") == before["streaming", "tool_call"] + 1
    assert count("non_streaming", "no_tool_call") == 0


def test_reasoning_may_be_left_out(client):
    answer = chat(client, extra_body={"include_reasoning": False})
    assert answer.choices[0].message.reasoning is None
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    assert streamed(client, extra_body={"include_reasoning": False})[1] == ""


def test_without_tools_a_call_is_text(client):
    for fields in ({"tools": None}, {"tool_choice": "none"}):
        message = chat(client, **fields).choices[0].message
        assert message.tool_calls in ([], None)
        assert message.content.startswith('I look.\n<tool_call>\n{"name"')
        assert message.reasoning == "Two cities."


def test_an_answer_that_is_cut_says_so(client):
    length = ANSWER.index('"Paris"') + 4
    choice = chat(client, max_tokens=length).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Par'


def test_every_choice_has_its_own_calls(client):
    answer = chat(client, n=3)
    assert [len(choice.message.tool_calls) for choice in answer.choices] == [2, 2, 2]
    assert len({call.id for choice in answer.choices for call in choice.message.tool_calls}) == 6


def test_allowed_tools_may_be_chosen(client):
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    choice = chat(client, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}).choices[0]
    assert choice.finish_reason == "tool_calls"


def test_the_answer_is_part_of_the_chat_that_follows(client):
    """A client sends it back with all its keys, content null or not, and the results."""
    message = chat(client).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "mild"} for call in message.tool_calls]
    later = [*USER, message.model_dump(), *results]
    answer = client.chat.completions.create(model="fake", messages=later, tools=[WEATHER, TIME])
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": None, "tool_choice": "auto"}, "tool_choice"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.allowed_tools"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": ["auto"]}}}, "tool_choice.allowed_tools"),
        ({"tool_choice": ["auto"]}, "tool_choice"),
        ({"reasoning_effort": "endless"}, "reasoning_effort"),
    ],
)
def test_a_wrong_tool_or_choice_is_named(client, fields, param):
    body = {"model": "fake", "messages": USER, "tools": [WEATHER], **fields}
    with pytest.raises(BadRequestError) as caught:
        client.post("/chat/completions", body={k: v for k, v in body.items() if v is not None}, cast_to=object)
    assert caught.value.body["param"] == param


def test_the_models_own_response_template_is_used(fake_model, tmp_path):
    """The chat template is not looked at, and a line in the log says what was taken."""
    folder = tmp_path / "model"
    copytree(fake_model, folder)
    path = folder / "tokenizer_config.json"
    call = {"open": "<c>", "close": "</c>", "content": "json"}
    own = {
        "start_anchor": ">",
        "fields": {"tool_calls": call, "thinking": {"open": "<r>", "close": "</r>"}, "content": {}},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"response_template": own}))
    text = '<r>Hm.</r><c>{"name": "get_time", "arguments": {}}</c>'
    with (
        served_answer(folder, text) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0) as client,
    ):
        message = chat(client).choices[0].message
        assert (message.reasoning, message.tool_calls[0].function.name) == ("Hm.", "get_time")
        assert "tool calls are read by the model's own response template" in server.output


def test_special_tokens_that_delimit_do_not_reach_the_content(fake_model, tmp_path):
    """A format whose delimiters the tokenizer skips is read anyway, and its other special tokens stay out."""
    folder = tmp_path / "model"
    copytree(fake_model, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["[TOOL_CALLS]", "[ARGS]", "[OTHER]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = '[OTHER]I look.[OTHER][TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
    with (
        served_answer(folder, text, "--tool-call-parser", "mistral") as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0) as client,
    ):
        message = chat(client).choices[0].message
        assert (message.content, message.tool_calls[0].function.arguments) == ("I look.", '{"city": "Paris"}')
        assert len(message.tool_calls[0].id) == 9
        assert chat(client, tools=None).choices[0].message.content == 'I look.get_weather{"city": "Paris"}'
        assert "[TOOL_CALLS]" not in streamed(client)[2]


CITIES = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
STRICT = {"type": "function", "function": {"name": "get_days", "parameters": CITIES, "strict": True}}


@pytest.fixture(scope="module")
def babbling(fake_model):
    """A server whose answers are random tokens, of those that a grammar leaves."""
    flags = ("--served-model-name", "fake", "--max-model-len", "2048", "--tool-call-parser", "hermes")
    with (
        Served(fake_model, *flags, num_blocks=4000) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "get_days"}}, "stop")],
)
def test_a_call_that_is_asked_for_comes_and_validates(babbling, choice, reason, stream):
    """A model that writes anything makes a call of its tools under `required`, and under a name that one."""
    for seed in range(6):
        fields = {"tools": [STRICT, TIME], "tool_choice": choice, "seed": seed, "parallel_tool_calls": False}
        if stream:
            _, _, content, calls, finished = streamed(babbling, **fields)
            called = [(name, json.loads(arguments)) for _, name, arguments in calls.values()]
        else:
            answer = chat(babbling, **fields).choices[0]
            content, finished = answer.message.content, answer.finish_reason
            called = [(call.function.name, json.loads(call.function.arguments)) for call in answer.message.tool_calls]
        assert (not content, finished, len(called)) == (True, reason, 1)
        (name, arguments) = called[0]
        assert name == "get_days" or choice == "required"
        jsonschema.validate(arguments, CITIES if name == "get_days" else {"type": "object"})


def test_a_schema_for_content_leaves_room_for_calls(babbling):
    """With tools, an answer is a call or what the schema says."""
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "integer", "minimum": 1, "maximum": 9}},
    }
    kinds = set()
    for seed in range(24):
        answer = chat(babbling, tools=[STRICT], response_format=form, seed=seed, parallel_tool_calls=False).choices[0]
        if answer.message.tool_calls:
            jsonschema.validate(json.loads(answer.message.tool_calls[0].function.arguments), CITIES)
            kinds.add("call")
        else:
            assert 1 <= json.loads(answer.message.content) <= 9
            kinds.add("content")
    assert kinds == {"call", "content"}


def test_a_strict_tool_that_the_format_cant_hold_is_refused(fake_model):
    at = {"type": "object", "properties": {"at": {"type": "string", "format": "email"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": at, "strict": True}}
    flags = ("--served-model-name", "fake", "--tool-call-parser", "qwen3_coder")
    with (
        Served(fake_model, *flags) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="unneeded", max_retries=0) as client,
        pytest.raises(BadRequestError, match="its parameter at has the keyword format"),
    ):
        chat(client, tools=[tool])
