"""The chat template's variables decide whether an answer begins with reasoning, for formats that vLLM reads so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from octavo_engine.server.intake.answer_constraints import format_of
from octavo_engine.server.intake.protocol import ChatBody
from octavo_engine.text.format_choice import reasoning_parsers


def read(parser, variables=None, **fields):
    context = SimpleNamespace(answer_format=reasoning_parsers()[parser], template_variables=variables or {})
    return format_of(context, ChatBody(messages=[], **fields)).reasoning


@pytest.mark.parametrize(
    ("parser", "unsaid", "switch"), [("qwen3", True, "enable_thinking"), ("deepseek_v3", False, "thinking")]
)
def test_a_request_switches_reasoning_on_and_off(parser, unsaid, switch):
    """The server's own variables count where a request has none."""
    assert read(parser).starts_open is unsaid
    for on in (True, False):
        assert read(parser, chat_template_kwargs={switch: on}).starts_open is on
        assert read(parser, {switch: on}).starts_open is on
        assert read(parser, {switch: not on}, chat_template_kwargs={switch: on}).starts_open is on


def test_an_effort_of_none_switches_it_off():
    assert read("qwen3", reasoning_effort="none").starts_open is False


def test_constrained_content_without_reasoning_begins_with_the_first_token():
    """Reasoning is only hidden without a constraint, as in vLLM."""
    constrained = {"response_format": {"type": "json_object"}}
    assert read("qwen3", include_reasoning=False, **constrained) is None
    assert read("qwen3", include_reasoning=False, structured_outputs={"regex": "a+"}) is None
    assert read("qwen3", include_reasoning=False) is not None
    assert read("qwen3", **constrained) is not None
