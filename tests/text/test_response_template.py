"""A model's own response template is read as transformers reads it."""

from __future__ import annotations

import json

import pytest

from octavo_engine.text.answer_events import CallArguments, CallBegun, ContentText, ReasoningText
from octavo_engine.text.answer_parser import AnswerParser
from octavo_engine.text.response_template import TemplateError, read_response_template

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]


def template(calls, content=None):
    return {
        "start_anchor": "<|assistant|>",
        "fields": {
            "reasoning_content": {"open": "<think>", "close": "</think>"},
            "tool_calls": {"repeats": True, **calls},
            "content": content or {"close_pattern": r"\s*(?:<\|end\|>|<\|eot\|>)"},
        },
    }


FUNCTION = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
TEMPLATES = {
    "json": template(
        {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        }
    ),
    "other keys": template(
        {
            "open": "<call>",
            "close": "</call>",
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{content.tool}", "arguments": "{content.input}"},
            },
        }
    ),
    "xml": template(
        {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
            "transform": FUNCTION,
        }
    ),
    "quotes": template(
        {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": FUNCTION,
        }
    ),
    "python": template(
        {
            "open": "<|calls|>",
            "close": "<|/calls|>",
            "content": "python-call-list",
            "transform_each": True,
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            "repeats": False,
        }
    ),
}
ANSWERS = {
    "json": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>',
    "other keys": '<call>{"tool": "get_weather", "input": {"city": "Paris", "days": 2}}</call>',
    "xml": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    "</function>\n</tool_call>",
    "quotes": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>',
    "python": "<|calls|>[get_weather(city='Paris', days=2)]<|/calls|>",
}


def ours(spec, text):
    """(reasoning, content, calls) of an answer."""
    parser = AnswerParser(read_response_template(spec), tools=TOOLS)
    reasoning, content, calls = "", "", []
    for event in parser.feed(text) + parser.finish():
        match event:
            case ReasoningText(text=piece):
                reasoning += piece
            case ContentText(text=piece):
                content += piece
            case CallBegun(name=name):
                calls.append([name, ""])
            case CallArguments(text=piece):
                calls[-1][1] += piece
    return reasoning, content, [(name, json.loads(arguments)) for name, arguments in calls]


def transformers_reading(spec, text):
    """The same by transformers."""
    chat_parsing = pytest.importorskip("transformers.utils.chat_parsing.response_parser")
    message = chat_parsing.parse_response(text, spec, prefix="", tools=TOOLS)
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [(function["name"], function["arguments"]) for function in functions]
    return message.get("reasoning_content", ""), message.get("content", ""), calls


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("text", ["{call}", "<think>\nHm.\n</think>\n\nI look.\n{call}<|end|>", "Hello.<|eot|>"])
def test_an_answer_is_read_as_transformers_reads_it(kind, text):
    answer = text.replace("{call}", ANSWERS[kind])
    assert ours(TEMPLATES[kind], answer) == transformers_reading(TEMPLATES[kind], answer)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (None, "no response template"),
        ({"version": 2, "fields": {}}, "no response template"),
        ({"fields": {"tool_calls": []}}, "no object"),
        (template({"open_pattern": r"<[a-z]+>", "content": "json"}), "a regular expression that is not read"),
        (template({"open_pattern": r"(<", "content": "json"}), "no regular expression"),
        (template({"open": "<c>", "content": "kv-lines"}), "of the kind 'kv-lines'"),
        (template({"content": "json"}), "no opening delimiter"),
    ],
)
def test_what_is_not_read_is_named(spec, problem):
    with pytest.raises(TemplateError, match=problem):
        read_response_template(spec)
