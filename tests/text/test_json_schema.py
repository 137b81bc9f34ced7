"""A schema rewritten for the grammar: an answer to it validates against the one that was sent, and no keyword is lost."""

from __future__ import annotations

import json
from functools import cache

import jsonschema
import llguidance
import pytest

from octavo_engine.engine.constraints import LIMITS, TokenTable
from octavo_engine.errors import RequestError
from octavo_engine.messages import Vocabulary
from octavo_engine.server.intake.limits import MAX_GRAMMAR_CHARACTERS
from octavo_engine.text.json_schema import FORMATS, MAX_WRITTEN_CHARACTERS, followed, portable

CAT = {"type": "object", "properties": {"kind": {"const": "cat", "default": "cat"}, "lives": {"type": "integer"}}}
DOG = {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}, "name": {"type": "string"}}}
PETS = {"$defs": {"Cat": CAT, "Dog": DOG}}
REFERENCES = [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]


@cache
def tokenizer():
    return TokenTable(Vocabulary([bytes([i]) for i in range(256)], []), 256).build()


def takes(schema, value) -> bool:
    """Return whether an answer may be `value`; False too where the schema is refused."""
    grammar = json.dumps({"grammars": [{"json_schema": followed(schema)}]})
    matcher = llguidance.LLMatcher(tokenizer(), grammar, log_level=0, limits=llguidance.LLParserLimits(**LIMITS))
    tokens = list(json.dumps(value, ensure_ascii=False).encode())
    return not matcher.is_error() and matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"format": "date"}, ["2024-02-29", "2000-02-29", "2023-12-31", "0400-02-29"], ["2023-02-29", "1900-02-29"]),
        ({"format": "date", "pattern": "^2"}, ["2024-02-29"], ["1024-02-29", "2023-02-29"]),
        ({"format": "time"}, ["23:59:59Z", "08:30:06.283185+01:00"], ["23:59:60Z", "24:00:00Z", "08:30:06"]),
        ({"format": "date-time"}, ["2024-02-29t12:00:00.5z"], ["2023-02-29T12:00:00Z", "2024-02-29 12:00:00Z"]),
        ({"format": "hostname"}, ["a-b.example", "A"], ["xn--x", "-a", "a" * 64, ".".join(["a" * 50] * 6)]),
        ({"format": "password"}, ["x"], []),
        ({"pattern": r"^\S$"}, ["a", "é"], ["\ufeff", "\u0085", " "]),
        ({"pattern": r"^[\s,]$"}, ["\u3000", ",", " "], ["\u0085", "\ufeff", "s"]),
        ({"propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}}, [{"A": 1}], [{"A": "x"}]),
        (
            {"propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "integer"}},
            [{"a": 1}, {}],
            [{"A": 1}, {"a": "x"}],
        ),
        ({"propertyNames": {"enum": ["a", "b"]}}, [{"a": 1, "b": 2}], [{"c": 1}]),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
        ({"items": {"type": "integer"}, "uniqueItems": False}, [[1, 1]], [["x"]]),
        (
            PETS | {"oneOf": REFERENCES, "discriminator": {"propertyName": "kind"}},
            [{"kind": "cat", "lives": 9}, {"kind": "wolf", "name": "x"}],
            [{}, {"lives": 9}, {"kind": "cat", "lives": "x"}, {"kind": "fish"}],
        ),
        (PETS | {"oneOf": [REFERENCES[0], {"type": "string"}]}, [{"kind": "cat"}, "x"], [{"kind": "fish"}, 5]),
        (
            {"properties": {"enum": {"format": "date"}, "format": {"type": "string"}}},
            [{"enum": "2024-02-29", "format": "date"}],
            [{"enum": "2023-02-29"}],
        ),
        ({"const": {"format": "date"}}, [{"format": "date"}], [{"pattern": "x"}]),
    ],
)
def test_a_grammar_takes_what_validates(schema, right, wrong):
    """`jsonschema` has the last word, but on formats that it does not check."""
    for value in right:
        assert takes(schema, value), value
        jsonschema.validate(value, schema)
    for value in wrong:
        assert not takes(schema, value), value


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"oneOf": [{"type": "string"}, {"minLength": 3}]},
        {"oneOf": [CAT, CAT]},
        {"oneOf": [{"$ref": "#/$defs/Loop"}, {"type": "string"}], "$defs": {"Loop": {"$ref": "#/$defs/Loop"}}},
        {"propertyNames": {"maxLength": 3}},
        {"propertyNames": {"pattern": "^a"}, "properties": {"b": {}}},
        {"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]},
        {"uniqueItems": True},
        {"format": "idn-email"},
    ],
)
def test_what_is_not_proven_to_mean_the_same_is_left_as_it_is(schema):
    """llguidance then refuses it by name."""
    assert followed(schema) == schema


def test_what_is_sent_is_not_changed():
    """A schema belongs to the request, which may be answered for several choices."""
    schema = PETS | {"properties": {"day": {"format": "date"}, "pet": {"oneOf": REFERENCES}}}
    before = json.dumps(schema)
    followed(schema)
    assert json.dumps(schema) == before


def test_expressions_without_white_space_stay():
    r"""Only `\s` and `\S` differ; an escaped backslash before an s is none."""
    for pattern in ("^a$", r"\\s", r"[\w]+", r"\d\S"[:2]):
        assert portable(pattern) == pattern


def test_every_format_is_an_expression_from_end_to_end():
    """Their patterns are anchored, so that formats which write values as text can hold to them."""
    for held in FORMATS.values():
        assert held["pattern"].startswith("^")
        assert held["pattern"].endswith("$")


def named(names, value):
    return {"type": "object", "propertyNames": {"enum": names}, "additionalProperties": value}


@pytest.mark.parametrize("depth", [2, 3, 12])
def test_names_that_repeat_a_schema_beyond_a_grammar_are_refused_before_it_is_written(depth):
    """Each level multiplies: 1000 names, three deep, would be 10^9 schemas."""
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = named([f"name{i}" for i in range(1000 if depth < 12 else 4)], schema)
    with pytest.raises(RequestError, match=r"propertyNames\.enum"):
        followed({"items": schema})


def test_one_level_of_many_names_is_written():
    names = [f"name{i}" for i in range(1000)]
    assert list(followed(named(names, {"type": "integer"}))["properties"]) == names
    assert MAX_WRITTEN_CHARACTERS == MAX_GRAMMAR_CHARACTERS
