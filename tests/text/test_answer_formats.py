"""Every answer format reads its examples, whole and however they are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import tried

from octavo_engine.text.answer_events import CallArguments, CallBegun, CallEnded, ContentText, ReasoningText, joined
from octavo_engine.text.answer_format import format_files, format_named
from octavo_engine.text.answer_parser import AnswerParser

FORMATS = sorted(format_files())
EXAMPLES = [(name, i) for name in FORMATS for i in range(len(format_named(name).examples))]


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


TOOLS = [
    tool("get_weather", city={"type": "string"}, days={"type": "integer"}),
    tool("get_time"),
    tool("search", query={"type": "string"}, filters={"type": "object"}, exact={"type": "boolean"}),
]


def parsed(answer_format, pieces, tools=TOOLS, **options):
    """The joined events of an answer that comes in `pieces`."""
    parser = AnswerParser(answer_format, tools=tools, new_id=lambda index, name: f"{name}-{index}", **options)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return joined(events + parser.finish())


def text_of(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


def calls_of(events):
    """(name, arguments as text, whether they are complete) of each call."""
    begun = [event for event in events if isinstance(event, CallBegun)]
    return [
        (
            call.name,
            "".join(e.text for e in events if isinstance(e, CallArguments) and e.index == call.index),
            next(e.complete for e in events if isinstance(e, CallEnded) and e.index == call.index),
        )
        for call in begun
    ]


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_a_format_reads_its_examples(name, number):
    """Reasoning, content and calls with their arguments are those that the file states."""
    example = format_named(name).examples[number]
    events = parsed(format_named(name), [example.text], starts_in_reasoning=example.starts_in_reasoning)
    assert text_of(events, ReasoningText) == example.reasoning
    assert text_of(events, ContentText) == example.content
    assert [(call, json.loads(arguments)) for call, arguments, _ in calls_of(events)] == example.calls
    assert all(complete for _, _, complete in calls_of(events))


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_an_example_is_read_alike_in_single_characters(name, number):
    example = format_named(name).examples[number]
    options = {"starts_in_reasoning": example.starts_in_reasoning}
    whole = parsed(format_named(name), [example.text], **options)
    assert parsed(format_named(name), example.text, **options) == whole


def test_arguments_come_before_their_call_has_ended():
    """A client sees the arguments grow: in JSON, in XML and in Python's spelling."""
    for name, text in {
        "hermes": '<tool_call>\n{"name": "search", "arguments": {"query": "the quick brown fox',
        "qwen3_coder": "<tool_call>\n<function=search>\n<parameter=query>\nthe quick brown fox",
        "pythonic": "[search(query='the quick brown fox",
        "glm45": "<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>the quick brown fox",
        "gemma4": '<|tool_call>call:search{query:<|"|>the quick brown fox',
    }.items():
        parser = AnswerParser(format_named(name), tools=TOOLS)
        came = [event for character in text for event in parser.feed(character)]
        assert calls_of([*came, CallEnded(0, complete=False)]) == [("search", '{"query": "the quick brown fox', False)]


PIECES = [
    *sorted({text for name in FORMATS for text in format_named(name).literals}),
    *(
        "get_weather",
        "search",
        '{"name": "search", "arguments": {',
        '"query": "',
        '"}',
        "}",
        "]",
        "[",
        "(query='",
        "')",
    ),
    *(
        "\n",
        "  ",
        "\\",
        '"',
        "'",
        "<",
        "</",
        "text",
        "Ünïcode 🐙",
        "{",
        ":",
        ",",
        "1.5e3",
        "True",
        "\\u12",
        "\x00",
        "\t" * 70,
    ),
]


@pytest.mark.parametrize("name", FORMATS)
@tried(15)
@given(data=st.data())
def test_any_split_of_any_text_gives_the_same_events(name, data):
    """Delimiters in any order, cut anywhere: the whole answer and its stream say the same, and nothing raises."""
    own = st.sampled_from([*format_named(name).literals])
    text = "".join(data.draw(st.lists(st.one_of(own, st.sampled_from(PIECES), st.text(max_size=3)), max_size=14)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    opened = data.draw(st.booleans())
    whole = parsed(format_named(name), [text], starts_in_reasoning=opened)
    assert parsed(format_named(name), pieces, starts_in_reasoning=opened) == whole
    assert parsed(format_named(name), text, starts_in_reasoning=opened) == whole
    for _, arguments, complete in calls_of(whole):
        if complete:
            json.loads(arguments)
