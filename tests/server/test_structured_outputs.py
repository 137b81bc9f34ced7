"""An answer matches what its request says that it must: by the fields of OpenAI, of vLLM, and of vLLM until 0.12."""

from __future__ import annotations

import json
import re
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}, "size": {"enum": ["s", "m"]}},
    "required": ["yes", "size"],
    "additionalProperties": False,
}
NESTED: dict = {}
for _ in range(80):
    NESTED = {"items": {"items": NESTED}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
MESSAGES = [{"role": "user", "content": "hello"}]
JSON = {"temperature": 1, "max_tokens": 200, "seed": 3}


class Answer(BaseModel):
    """SCHEMA as the openai package takes it."""

    yes: bool
    size: Literal["s", "m"]


def is_answer(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"yes", "size"} and isinstance(found["yes"], bool) and found["size"] in {"s", "m"}


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "fake", "messages": MESSAGES, **JSON, **fields})


def test_a_chat_s_json_validates_for_every_choice(client):
    """Each of `n` choices has an answer of its own."""
    answer = chat(client, response_format=FORMAT, n=4)
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 4
    assert all(is_answer(choice.message.content) for choice in answer.choices)
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_a_stream_is_the_whole_answer_in_pieces(client):
    """The same text as without a stream."""
    whole = chat(client, response_format=FORMAT).choices[0].message.content
    chunks = chat(client, response_format=FORMAT, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_the_openai_package_parses_answers_into_models(client):
    """`chat.completions.parse` sends the model's schema, and reads the answer by it."""
    answer = client.chat.completions.parse(model="fake", messages=MESSAGES, response_format=Answer, **JSON)
    assert isinstance(answer.choices[0].message.parsed, Answer)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-c]{3}/[0-9]+x"}}, "[a-c]{3}/[0-9]+x"),
        ({"structured_outputs": {"choice": ["red", "re", 'b"l\\ue\n', "日本"]}}, 'red|re|b"l\\\\ue\n|日本'),
        ({"structured_outputs": {"grammar": 'root ::= "SELECT " name\nname ::= [a-z] [a-z]'}}, "SELECT [a-z]{2}"),
        ({"structured_outputs": {"grammar": 'start: "SELECT " /[a-z]{2}/'}}, "SELECT [a-z]{2}"),
        ({"structured_outputs": {"json": json.dumps({"enum": [17, "a"]})}}, '17|"a"'),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
            r'\{"yes":(true|false),"size":"[sm]"\}',
        ),
        ({"guided_regex": "ab|cd"}, "ab|cd"),
        ({"guided_choice": ["x"]}, "x"),
        ({"guided_json": {"const": 5}}, "5"),
        ({"guided_grammar": 'root ::= "q"', "guided_decoding_backend": "xgrammar"}, "q"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": 5}}}}, "5"),
        ({"structured_outputs": {"regex": "a{2}"}, "ignore_eos": True}, "aa"),
    ],
)
def test_a_completion_matches(client, fields, pattern):
    """The match is from its first character to its last."""
    answer = client.completions.create(model="fake", prompt="hello", extra_body=fields, **JSON)
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch(pattern, answer.choices[0].text)


def test_a_structural_tag_holds_its_content_to_its_schema(client):
    """Text around it is free."""
    tag = {"begin": "<f>", "schema": SCHEMA, "end": "</f>"}
    asked = {"type": "structural_tag", "structures": [tag], "triggers": ["<f"]}
    bias = {str(ord("<")): 30}
    for fields in (
        {"response_format": asked},
        {"extra_body": {"structured_outputs": {"structural_tag": json.dumps(asked)}}},
    ):
        text = chat(client, **fields, logit_bias=bias).choices[0].message.content
        calls = re.findall("<f>(.*?)</f>", text, re.DOTALL)
        assert calls or "<f" not in text
        assert all(map(is_answer, calls))


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "'json_schema'"),
        ({"response_format": FORMAT, "guided_regex": "a"}, "structured_outputs.regex", "send one of them"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "send one of them"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex", "send one"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "it is empty"),
        (
            {"structured_outputs": {"choice": [str(i) for i in range(10_001)]}},
            "structured_outputs.choice",
            "at most 10000",
        ),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not JSON"),
        ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json", "a JSON schema is an object"),
        ({"structured_outputs": {"json": {"enum": [*range(1001)]}}}, "structured_outputs.json", "at most 1000"),
        (
            {"structured_outputs": {"json": {"enum": [str(i) for i in range(50_000)]}}},
            "structured_outputs.json",
            "50000",
        ),
        ({"structured_outputs": {"json": {"multipleOf": 1_000_003}}}, "structured_outputs.json", "multipleOf"),
        ({"structured_outputs": {"json": {"const": "x" * 20_000}}}, "structured_outputs.json", "20000 characters"),
        ({"structured_outputs": {"json": NESTED}}, "structured_outputs.json", "$defs"),
        ({"structured_outputs": {"regex": "x" * 20_000}}, "structured_outputs.regex", "20000 characters"),
        ({"structured_outputs": {"choice": ["x" * 20_000]}}, "structured_outputs.choice", "20000 characters"),
        ({"structured_outputs": {"grammar": f'start: "{"x" * 20_000}"'}}, "structured_outputs.grammar", "a line of it"),
        ({"structured_outputs": {"grammar": "x" * 300_000}}, "structured_outputs.grammar", "at most 262144"),
        (
            {"structured_outputs": {"json": {"type": "object", "title": "x" * 300_000}}},
            "structured_outputs.json",
            "262144",
        ),
        ({"structured_outputs": {"regex": "["}}, None, "the grammar of the answer can't be used"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, None, "the grammar of the answer can't be used"),
        ({"structured_outputs": {"json": {"type": "sausage"}}}, None, "sausage"),
        ({"structured_outputs": {"json": {"if": {}, "then": {}}}}, None, "if, then can't be held to"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, None, "nothing"),
        (
            {"structured_outputs": {"structural_tag": {"structures": []}}},
            "structured_outputs.structural_tag",
            "structures",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_no_answer_can_be_held_to_is_refused(client, fields, param, words, stream):
    """With the field where it is known, before the answer begins."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="fake", prompt="hello", extra_body=fields, stream=stream, **JSON)
    assert refused.value.param == param
    assert words in refused.value.message
    assert len(refused.value.message) < 900
