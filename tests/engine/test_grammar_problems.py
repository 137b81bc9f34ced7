"""A client reads what its grammar has that can't be used, and what to do."""

from __future__ import annotations

import json

import llguidance
import pytest

from octavo_engine.engine.constraints import TokenTable
from octavo_engine.engine.grammar_problems import MOST_PROBLEM, too_costly, unusable
from octavo_engine.messages import Vocabulary

TOKENS = TokenTable(Vocabulary([bytes([i]) for i in range(256)], []), 256)


def problem(grammar) -> str:
    """llguidance's own words about a grammar."""
    matcher = llguidance.LLMatcher(TOKENS.build(), json.dumps({"grammars": [grammar]}), log_level=0)
    assert matcher.is_error()
    return matcher.get_error()


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"if": {}, "then": {}}, "JSON Schema's if, then can't be held to: leave it out"),
        (
            {"type": "string", "format": "idn-email"},
            "the format idn-email can't be held to: leave it out, or send a pattern",
        ),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "use anyOf"),
        ({"$ref": "http://localhost:1/x.json"}, "put what it refers to into $defs"),
    ],
)
def test_a_keyword_that_is_not_held_to_is_named_with_a_remedy(schema, sentence):
    assert sentence in unusable(problem({"json_schema": schema}))


def test_a_schema_that_is_nested_too_deeply_is_to_be_divided():
    schema: dict = {}
    for _ in range(100):
        schema = {"items": {"items": schema}}
    assert "$defs" in unusable(problem({"json_schema": schema}))


def test_a_message_that_quotes_the_grammar_is_cut():
    assert len(unusable("x" * 10_000)) < MOST_PROBLEM + 100
    assert "<state>" not in too_costly("too many items\n<state>\nall of it")
