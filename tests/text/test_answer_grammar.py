"""The grammar of tool calls, held to by llguidance itself: what it lets through is what the parser reads."""

from __future__ import annotations

import json
import random

import jsonschema
import llguidance
import pytest

from octavo_engine.text.answer_events import CallArguments, CallBegun, CallEnded, ContentText
from octavo_engine.text.answer_format import combined, format_files, format_named
from octavo_engine.text.answer_grammar import GrammarError, answer_grammar, tool_grammar
from octavo_engine.text.answer_parser import AnswerParser

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "unit": {"type": "string", "enum": ["C", "F"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
FORMATS = sorted(name for name, file in format_files().items() if file.calls is not None)


def begins_with_a_call(answer_format, example) -> bool:
    """An answer whose first characters mark a call: the grammar of required calls allows no other."""
    bare = answer_format.calls is None or answer_format.calls.bare_first
    return not (example.content or bare) and example.text.startswith(answer_format.calls.open[0])


EXAMPLES = [
    (name, i)
    for name in FORMATS
    for i, example in enumerate(format_named(name).examples)
    if example.calls and begins_with_a_call(format_named(name), example)
]


class Bytes:
    """A vocabulary of single bytes, of special tokens, and of longer ones that are not special."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, special=(), longer=()):
        self.special = {text: 256 + i for i, text in enumerate(special)}
        self.tokens = [bytes([i]) for i in range(256)] + [text.encode() for text in (*special, *longer)] + [b"<end>"]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = [*self.special.values(), self.eos_token_id]

    def __call__(self, text):
        return list(text.encode())

    def encode(self, text):
        found, at = [], 0
        while at < len(text):
            special = max((s for s in self.special if text.startswith(s, at)), key=len, default=None)
            found += [self.special[special]] if special else list(text[at].encode())
            at += len(special) if special else 1
        return found

    def text(self, token_ids):
        return b"".join(self.tokens[i] for i in token_ids).decode("utf-8", "replace")


def matcher(grammar, vocabulary):
    made = llguidance.LLMatcher(llguidance.LLTokenizer(vocabulary), grammar, log_level=0)
    assert not made.is_error(), (made.get_error(), grammar)
    return made


def accepted(grammar, text, vocabulary=None):
    """The part of `text` that the grammar lets through, and whether it may end there."""
    vocabulary = vocabulary or Bytes()
    made = matcher(grammar, vocabulary)
    tokens = vocabulary.encode(text)
    count = made.validate_tokens(tokens)
    made.consume_tokens(tokens[:count])
    return vocabulary.text(tokens[:count]), made.is_accepting()


def calls_in(answer_format, text, tools=TOOLS, **options):
    """([(name, arguments)], content); each call is complete."""
    parser = AnswerParser(answer_format, tools=tools, **options)
    calls, content = [], ""
    for event in parser.feed(text) + parser.finish():
        match event:
            case CallBegun(name=name):
                calls.append([name, ""])
            case CallArguments(text=piece):
                calls[-1][1] += piece
            case CallEnded(complete=complete):
                assert complete, text
            case ContentText(text=piece):
                content += piece
    return [(name, json.loads(arguments)) for name, arguments in calls], content


def drawn(grammar, vocabulary, seed, most=600):
    """A text that the grammar allows, drawn at random; its end as soon as it may, else letters rather than anything."""
    made, random_, tokens = matcher(grammar, vocabulary), random.Random(seed), []
    while len(tokens) < most:
        mask = made.compute_bitmask()
        allowed = [i for i in range(len(vocabulary.tokens)) if mask[i // 8] >> (i % 8) & 1]
        assert allowed, vocabulary.text(tokens)
        if vocabulary.eos_token_id in allowed and random_.random() < 0.5:
            return vocabulary.text(tokens)
        allowed = [i for i in allowed if i != vocabulary.eos_token_id] or allowed
        # Strings end at some time.
        ends = [i for i in allowed if i >= 256 or chr(i) in '"<`}']
        plain = [i for i in allowed if i < 256 and chr(i).isalnum()]
        token = random_.choice(ends if ends and random_.random() < 0.4 else plain or allowed)
        if token == vocabulary.eos_token_id:
            return vocabulary.text(tokens)
        tokens.append(token)
        assert made.consume_token(token), made.get_error()
    return None


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_whatever_the_grammar_of_required_calls_allows_is_a_call_that_validates(name, special):
    """Drawn at random: every answer is calls alone, each of a tool of the request, with arguments of its schema."""
    answer_format = format_named(name)
    literals = {t for t in answer_format.literals if len(t) > 3 and t[0] + t[-1] in {"<>", "[]"}}
    vocabulary = Bytes(sorted(literals), ()) if special else Bytes((), sorted(literals))
    grammar = tool_grammar(combined(None, answer_format), TOOLS, "required", token_of=vocabulary.special.get)
    whole = 0
    for seed in range(6):
        text = drawn(grammar, vocabulary, seed)
        if text is None:
            continue
        whole += 1
        calls, content = calls_in(combined(None, answer_format), text)
        assert content.strip() == "", text
        assert calls, text
        for called, arguments in calls:
            jsonschema.validate(arguments, SCHEMAS[called])
    assert whole


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_the_examples_of_a_format_are_what_its_grammar_allows(name, number):
    """A model that writes a call as its authors document it is not held back: the mask changes nothing for it."""
    example = format_named(name).examples[number]
    answer_format = format_named(name)
    grammar = tool_grammar(combined(None, answer_format), TOOLS, "required")
    assert accepted(grammar, example.text.rstrip()) == (example.text.rstrip(), True)


def test_one_call_where_one_is_asked_for():
    grammar = tool_grammar(format_named("hermes"), TOOLS[1:], "required", parallel=False)
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    assert accepted(grammar, call) == (call, True)
    assert accepted(grammar, call + "\n" + call)[0].rstrip() == call
    assert accepted(grammar, "Hello") == ("", False)
    assert accepted(grammar, call.replace("get_time", "get_weather"))[0].endswith('"get_')


def test_auto_lets_any_text_through_and_holds_a_call_to_its_schema():
    grammar = tool_grammar(format_named("hermes"), TOOLS, "auto")
    for text in ("", "Hello.", "a <tool_cal b", "I look.\n"):
        assert accepted(grammar, text) == (text, True)
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>'
    assert accepted(grammar, f"I look.\n{call}\n{call} done") == (f"I look.\n{call}\n{call} done", True)
    assert accepted(grammar, 'x<tool_call>\n{"name": "other"')[0] == 'x<tool_call>\n{"name": "get_'[:-4]
    assert accepted(grammar, call.replace("3", '"3"'))[0].endswith('"days": ')


def test_reasoning_may_come_before_a_required_call():
    both = combined(format_named("think"), format_named("hermes"))
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    opened = tool_grammar(both, TOOLS, "required", starts_in_reasoning=True)
    assert accepted(opened, f"Hm.\n</think>\n\n{call}") == (f"Hm.\n</think>\n\n{call}", True)
    closed = tool_grammar(both, TOOLS, "required")
    for text in (call, f"<think>\nHm.\n</think>\n\n{call}"):
        assert accepted(closed, text) == (text, True)
    assert accepted(opened, "Hm.</think>\n\nHello")[0].rstrip() == "Hm.</think>"


def test_content_of_a_schema_leaves_room_for_reasoning_and_calls():
    both = combined(format_named("think"), format_named("hermes"))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    content = json.dumps({"grammars": [{"json_schema": schema}]})
    grammar = answer_grammar(both, content, TOOLS, starts_in_reasoning=True)
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    for text in ('Hm.</think>\n\n{"a": 1}', f"Hm.</think>\n\n{call}"):
        assert accepted(grammar, text) == (text, True)
    assert accepted(grammar, "Hm.</think>\n\nHello")[0].rstrip() == "Hm.</think>"
    assert accepted(answer_grammar(format_named("think"), content), '{"a": 1}') == ('{"a": 1}', True)
    marked = answer_grammar(format_named("harmony"), content)
    text = '<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{"a": 1}'
    assert accepted(marked, text) == (text, True)


@pytest.mark.parametrize(
    "schema",
    [
        {"required": 5},
        {"properties": [], "required": [{}]},
        {"properties": {"a": 5, "b": {"type": 7}, "c": {"enum": 3}, "d": {"enum": []}}, "required": ["a", "z"]},
        {"properties": {"a": {"type": "string", "pattern": 5}, "b": {"type": "string", "minLength": "x"}}},
        {"properties": {"a": {"type": "string", "pattern": "^a/b\\/c\n$"}, 'b"\n>': {"type": ["string"]}}},
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "integer"}}},
        {"type": "nothing"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "pythonic", "gemma4"])
def test_a_schema_that_is_none_makes_a_grammar_or_an_error_of_the_request(name, schema):
    """The engine then says what is wrong with it: nothing else is raised here."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    grammar = tool_grammar(format_named(name), [tool], "required")
    made = llguidance.LLMatcher(llguidance.LLTokenizer(Bytes()), grammar, log_level=0)
    assert "panic" not in (made.get_error() or "")


def test_a_date_is_held_to_where_values_are_text():
    """Formats that can be written as one expression are, so that `strict` takes them."""
    schema = {"type": "object", "properties": {"at": {"type": "string", "format": "date"}}, "required": ["at"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    assert "02-29" in tool_grammar(format_named("qwen3_coder"), [tool], "required")
    schema["properties"]["at"]["maxLength"] = 5
    with pytest.raises(GrammarError, match="its parameter at has"):
        tool_grammar(format_named("qwen3_coder"), [tool], "required")


def test_a_strict_tool_is_never_held_to_less_than_its_schema():
    """A string of XML has no form for every keyword; without strict it is then any text."""
    schema = {"type": "object", "properties": {"at": {"type": "string", "format": "email"}}, "required": ["at"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    with pytest.raises(GrammarError, match="its parameter at has the keyword format"):
        tool_grammar(format_named("qwen3_coder"), [tool], "required")
    tool_grammar(format_named("hermes"), [tool], "required")
    tool["function"]["strict"] = False
    tool_grammar(format_named("qwen3_coder"), [tool], "required")


def test_schemas_of_tools_that_together_exceed_a_grammar_are_refused_while_they_are_written():
    """Each may repeat its definitions under every parameter."""
    definition = {"type": "object", "description": "a" * 5000}
    properties = {f"p{i}": {"$ref": "#/$defs/A"} for i in range(100)}
    parameters = {"type": "object", "properties": properties, "$defs": {"A": definition}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}]
    with pytest.raises(GrammarError, match="characters"):
        tool_grammar(format_named("pythonic"), tools, "required")
