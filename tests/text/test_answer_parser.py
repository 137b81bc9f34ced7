"""The interpreter of answer formats survives answers that models should not write, and a great deal of text."""

from __future__ import annotations

import json
import time

import pytest

from octavo_engine.text.answer_events import CallBegun, ContentText, ReasoningText, joined
from octavo_engine.text.answer_format import combined, format_files, format_named
from octavo_engine.text.answer_parser import AnswerParser, prompt_opens_reasoning

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string"},
                    "limit": {"type": "integer"},
                    "exact": {"type": ["boolean", "null"]},
                    "filters": {"$ref": "#/$defs/filters"},
                    "kind": {"enum": ["a", "b"]},
                    "either": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                    "anything": {},
                    "endless": {"anyOf": [{"$ref": "#/properties/endless"}] * 50},
                },
                "$defs": {"filters": {"type": "object"}},
            },
        },
    }
]


def read(name, text, tools=TOOLS, step=None, **options):
    """(reasoning, content, [(name, arguments, complete)]) of an answer."""
    answer_format = name if not isinstance(name, str) else format_named(name)
    parser = AnswerParser(answer_format, tools=tools, new_id=lambda index, name: "id", **options)
    step = step or max(1, len(text))
    events = [event for at in range(0, len(text), step) for event in parser.feed(text[at : at + step])]
    reasoning, content, calls = "", "", []
    for event in joined(events + parser.finish()):
        match event:
            case ReasoningText(text=piece):
                reasoning += piece
            case ContentText(text=piece):
                content += piece
            case CallBegun(name=called):
                calls.append([called, "", None])
            case _ if hasattr(event, "complete"):
                calls[event.index][2] = event.complete
            case _:
                calls[event.index][1] += event.text
    return reasoning, content, [tuple(call) for call in calls]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"query": "a"}', '{"query": "a"}'),
        ("{'query': 'it\\'s', 'exact': True, 'filters': None}", '{"query": "it\'s", "exact": true, "filters": null}'),
        ('{"query": "a\nb\tc"}', '{"query": "a\\nb\\tc"}'),
        ('{"query": "\\d+\\.", "limit": 3,}', '{"query": "\\\\d+\\\\.", "limit": 3}'),
        ('{query: "a", "l": [1,2 , {"x":-1.5e3}]}', '{"query": "a", "l": [1, 2, {"x": -1.5e3}]}'),
        ('{"query": "\\ud83d\\ude00 \\u00e9"}', '{"query": "\\ud83d\\ude00 \\u00e9"}'),
        ('"{\\"query\\": \\"a\\"}"', '{"query": "a"}'),
        ('""', "{}"),
        ("null", "{}"),
        ("{}", "{}"),
        ('{"limit": 007, "n": NaN}', '{"limit": "007", "n": "NaN"}'),
    ],
)
def test_arguments_are_json_however_a_model_spells_them(written, arguments):
    _, content, calls = read("hermes", f'<tool_call>{{"name": "search", "arguments": {written}}}</tool_call>')
    assert (content, calls) == ("", [("search", arguments, True)])
    json.loads(arguments)


@pytest.mark.parametrize(
    ("raw", "key", "value"),
    [
        ("5", "query", "5"),
        ("\n  indented\n\n", "query", "  indented\n"),
        ("5", "limit", 5),
        ("5.0", "limit", 5),
        ("five", "limit", "five"),
        ("True", "exact", True),
        ("null", "exact", None),
        ("None", "exact", None),
        ("{'a': 1}", "filters", {"a": 1}),
        ("{broken", "filters", "{broken"),
        ("a", "kind", "a"),
        ("1.5", "either", 1.5),
        ("x", "either", "x"),
        ("[1, 2]", "anything", [1, 2]),
        ("plain", "anything", "plain"),
        ("3", "undeclared", 3),
        ("9" * 400, "limit", int("9" * 400)),
        ("1e999", "either", "1e999"),
        ("3", "endless", 3),
        ('say "hi"\\', "query", 'say "hi"\\'),
    ],
)
def test_a_parameter_has_the_type_of_the_tools_schema(raw, key, value):
    text = f"<tool_call>\n<function=search>\n<parameter={key}>{raw}</parameter>\n</function>\n</tool_call>"
    assert [json.loads(arguments) for _, arguments, _ in read("qwen3_coder", text)[2]] == [{key: value}]


@pytest.mark.parametrize(
    ("name", "text", "content"),
    [
        ("hermes", "<tool_call>\nnot a call\n</tool_call> after", "not a call after"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', '{"arguments": {}}'),
        ("hermes", '<tool_call>{"na', '{"na'),
        ("hermes", "a </tool_call> b", "a b"),
        ("hermes", "a < b <tool b", "a < b <tool b"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>nonsense<｜tool▁calls▁end｜>", "nonsense"),
        ("llama3_json", '{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}'),
        ("llama3_json", '{"name": 5}', '{"name": 5}'),
        ("llama3_json", '\n{"a": [1, {"b": 2}]} and more', '\n{"a": [1, {"b": 2}]} and more'),
        ("llama3_json", 'x {"name": "search", "parameters": {}}', 'x {"name": "search", "parameters": {}}'),
        ("pythonic", "[unknown(a=1)]", "[unknown(a=1)]"),
        ("pythonic", "[search", "[search"),
        ("pythonic", "  [1](link)", "  [1](link)"),
        ("mistral", "[TOOL_CALLS]", ""),
    ],
)
def test_what_is_no_call_is_content_without_its_delimiters(name, text, content):
    assert read(name, text) == ("", content, [])
    assert read(name, text, step=1) == ("", content, [])


@pytest.mark.parametrize(
    ("name", "text", "arguments", "complete"),
    [
        ("hermes", '<tool_call>{"name": "search", "arguments": {"query": "a', '{"query": "a', False),
        ("hermes", '<tool_call>{"name": "search", "arguments": {"a": ]x</tool_call>', '{"a": ]x', False),
        ("hermes", '<tool_call>{"name": "search", "arguments": {"query": "a"}\n</tool_call>', '{"query": "a"}', True),
        ("hermes", '<tool_call>{"name": "search"}</tool_call>', "{}", True),
        (
            "qwen3_coder",
            "<function=search><parameter=query>a<parameter=limit>3</function>",
            '{"query": "a", "limit": 3}',
            True,
        ),
        ("qwen3_coder", "<function=search><parameter=limit>3", '{"limit": 3', False),
        ("pythonic", "[search('a')]", "{", False),
        ("harmony", "<|channel|>commentary to=functions.search<|message|>{}", "{}", True),
    ],
)
def test_a_call_that_has_begun_keeps_what_the_model_wrote(name, text, arguments, complete):
    """Nothing of it is lost: a client gets the call, and sees arguments that are no JSON."""
    for step in (None, 1):
        calls = read(name, text, step=step)[2]
        assert [(call, whole) for call, _, whole in calls] == [("search", complete)]
        assert calls[0][1].startswith(arguments)
        assert complete is False or calls[0][1] == arguments


def test_a_name_may_follow_the_arguments():
    text = '<tool_call>{"arguments": {"query": "a"}, "name": "search"}</tool_call>'
    assert read("hermes", text)[2] == [("search", '{"query": "a"}', True)]


def test_a_call_may_be_spelled_as_openai_does():
    text = '<tool_call>{"type": "function", "function": {"name": "search", "arguments": "{\\"query\\": \\"a\\"}"}}</tool_call>'
    assert read("hermes", text)[2] == [("search", '{"query": "a"}', True)]


def test_without_tools_calls_are_text():
    text = '<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'
    assert read("hermes", text, tools=[]) == ("", text, [])


def test_reasoning_may_be_left_in_the_content():
    text = "<think>a</think>b"
    assert read("think", text, reasoning=False) == ("", text, [])


def test_a_call_ends_reasoning_that_was_not_closed():
    both = combined(format_named("think"), format_named("hermes"))
    text = 'I search.\n<tool_call>{"name": "search", "arguments": {}}</tool_call>'
    assert read(both, text, starts_in_reasoning=True) == ("I search.", "", [("search", "{}", True)])


def test_reasoning_that_does_not_end_is_reasoning():
    assert read("think", "I think", starts_in_reasoning=True) == ("I think", "", [])


def test_the_prompt_says_whether_an_answer_begins_with_reasoning():
    think = format_named("think")
    assert prompt_opens_reasoning(think, "<|im_start|>assistant\n<think>\n")
    assert not prompt_opens_reasoning(think, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not prompt_opens_reasoning(think, "<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n")


def test_only_what_may_be_a_delimiter_is_held_back():
    parser = AnswerParser(format_named("hermes"), tools=TOOLS)
    assert joined(parser.feed("a <b <tool")) == [ContentText("a <b")]
    assert joined(parser.feed("s")) == [ContentText(" <tools")]
    assert joined(parser.feed("\n" * 100)) == [ContentText("\n" * 36)]
    assert joined(parser.finish()) == [ContentText("\n" * 64)]


HOSTILE = {
    "beginnings of delimiters": lambda literal, size: literal[:-1] * (size // max(1, len(literal) - 1)),
    "delimiters": lambda literal, size: literal * (size // len(literal)),
    "a string without end": lambda literal, size: literal + '{"name": "search", "arguments": {"query": "' + "\\" * size,
    "brackets": lambda literal, size: literal + '{"name": "search", "arguments": ' + "[" * size,
    "a name without end": lambda literal, size: literal + "n" * size,
    "white space": lambda literal, size: literal + " " * size + literal,
    "digits": lambda literal, size: literal + '{"name": "search", "arguments": {"limit": ' + "9" * size,
    "arguments before a name": lambda literal, size: literal + '{"arguments": [' + "0," * (size // 2),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_time_grows_with_the_text_and_no_faster(kind):
    """Four times the text takes about four times as long, in pieces of a few characters: sixteen times would be quadratic."""
    for name in ("hermes", "qwen3_coder", "pythonic", "harmony", "deepseek_v3"):
        calls = format_files()[name].calls
        literal = (calls.open or calls.bare)[0]
        seconds = []
        for size in (5_000, 20_000):
            text = HOSTILE[kind](literal, size)
            best = float("inf")
            for _ in range(3):
                begun = time.process_time()
                read(name, text, step=5)
                best = min(best, time.process_time() - begun)
            seconds.append(best)
        assert seconds[1] < 10 * seconds[0], (name, seconds)
