"""Constraints on an answer: from the fields of OpenAI and vLLM to one grammar, as llguidance reads it.

The grammar is compiled in the engine core, which refuses what it can't follow. Here only its form is decided, and what is
refused by size: a schema is never weakened, and a keyword that can't be honoured is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.limits import MAX_CHOICES, MAX_GRAMMAR_CHARACTERS, MAX_LITERAL_CHARACTERS
from octavo_engine.server.intake.schema_bounds import check_literal, check_schema
from octavo_engine.text.json_schema import followed
from octavo_engine.text.lark import quoted
from octavo_engine.text.lark import regex as regex_literal

# Room for an indented line at every depth, and no more: a small model that may write spaces for ever does.
WHITESPACE = r"[\x20\x0A\x0D\x09]{0,64}"
SchemaSource = dict[str, Any] | bool | str


class JsonSchemaFormat(BaseModel):
    """OpenAI's `response_format.json_schema`. `strict` changes nothing: every schema is held to."""

    model_config = ConfigDict(protected_namespaces=())

    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`, and vLLM's structural tags in it."""

    model_config = ConfigDict(extra="allow")

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`: one of the first seven."""

    json_: Annotated[SchemaSource | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True)] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None


def grammar_of(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None, token_of: Callable[[str], int | None]
) -> str:
    """The grammar of an answer; empty if nothing constrains it. `token_of` is the id of a special token by its text.

    Raises:
        RequestError: two fields ask for something, or one asks for what no grammar can be made of; names it.
    """
    asked = [] if response_format is None else _of_response_format(response_format, token_of)
    if structured is not None:
        asked += _of_structured(structured, token_of)
    if len(asked) > 1:
        names = " and ".join(name for name, _ in asked)
        raise RequestError(f"{names} both say what the answer must match: send one of them", asked[1][0])
    if not asked:
        return ""
    name, make = asked[0]
    try:
        grammar = make()
    except RequestError as error:
        raise RequestError(f"{name}: {error}", name) from error
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        raise RequestError(
            f"{name} has {len(grammar)} characters as a grammar; at most {MAX_GRAMMAR_CHARACTERS} are compiled: make it "
            "smaller, or check the answer yourself",
            name,
        )
    return grammar


Asked = list[tuple[str, Callable[[], str]]]


def _of_response_format(asked: ResponseFormat, token_of: Callable[[str], int | None]) -> Asked:
    if asked.type == "text":
        return []
    if asked.type == "json_object":
        return [("response_format", lambda: of_schema({"type": "object"}))]
    if asked.type == "structural_tag":
        tag = {"type": asked.type, **(asked.model_extra or {})}
        return [("response_format", lambda: structural_tag_grammar(tag, token_of))]
    return [("response_format.json_schema", lambda: of_schema(_schema_of(asked.json_schema)))]


def _schema_of(asked: JsonSchemaFormat | None) -> dict[str, Any] | bool:
    if asked is None or asked.json_schema is None:
        raise RequestError("type json_schema needs json_schema, with the schema in its field schema")
    return asked.json_schema


def _of_structured(asked: StructuredOutputs, token_of: Callable[[str], int | None]) -> Asked:
    makers: Asked = []
    if (schema := asked.json_) is not None:
        makers.append(("structured_outputs.json", lambda: of_schema(_parsed(schema), asked)))
    if (regex := asked.regex) is not None:
        makers.append(("structured_outputs.regex", lambda: of_regex(regex)))
    if (choices := asked.choice) is not None:
        makers.append(("structured_outputs.choice", lambda: of_choices(choices)))
    if (text := asked.grammar) is not None:
        makers.append(("structured_outputs.grammar", lambda: of_grammar(text)))
    if asked.json_object:
        makers.append(("structured_outputs.json_object", lambda: of_schema({"type": "object"}, asked)))
    if (tag := asked.structural_tag) is not None:
        makers.append(("structured_outputs.structural_tag", lambda: structural_tag_grammar(_object(tag), token_of)))
    return makers


def of_schema(schema: dict[str, Any] | bool, options: StructuredOutputs | None = None) -> str:
    """The grammar of JSON that validates against `schema`.

    Raises:
        RequestError: it is larger than what is compiled.
    """
    check_schema(schema)
    if options is not None and options.disable_additional_properties:
        schema = _closed(schema)
    schema = followed(schema)
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return json.dumps({"grammars": [{"json_schema": {**schema, "x-guidance": _whitespace(options)}}]})


def _whitespace(options: StructuredOutputs | None) -> dict[str, Any]:
    if options is not None and options.disable_any_whitespace:
        return {"whitespace_flexible": False}
    pattern = None if options is None else options.whitespace_pattern
    return {"whitespace_pattern": WHITESPACE if pattern is None else pattern}


def of_regex(regex: str) -> str:
    """The grammar of a text that matches `regex` from its first to its last character. Raises RequestError if it is long."""
    check_literal(regex)
    return _lark(f"start: {regex_literal(regex)}")


def of_choices(choices: Sequence[str]) -> str:
    """The grammar of one of `choices`. Raises RequestError if there is none, or there are too many."""
    if not choices:
        raise RequestError("it is empty: name at least one")
    if len(choices) > MAX_CHOICES:
        raise RequestError(f"it has {len(choices)} entries; at most {MAX_CHOICES} are compiled")
    if not all(choices):
        raise RequestError("an entry is empty: each needs at least one character")
    check_literal(max(choices, key=len))
    return _lark("start: CHOICE\nCHOICE: " + " | ".join(map(quoted, dict.fromkeys(choices))))


def of_grammar(text: str) -> str:
    """The grammar `text`: Lark as llguidance documents it, EBNF as llama.cpp and xgrammar write it, or llguidance's own JSON.

    Raises:
        RequestError: it is none of them.
    """
    from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415 — few servers need it

    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise RequestError(f"it has {len(text)} characters; at most {MAX_GRAMMAR_CHARACTERS} are compiled")
    if text.startswith('{"grammars":'):  # what rendering makes of a constraint
        return text
    longest = max(map(len, text.splitlines()), default=0)
    if longest > MAX_LITERAL_CHARACTERS:
        raise RequestError(
            f"a line of it has {longest} characters; at most {MAX_LITERAL_CHARACTERS} are compiled: divide it"
        )
    try:
        return _lark(any_to_lark(text))
    except Exception as error:  # the converter raises whatever its regular expressions run into
        raise RequestError(f"it is neither Lark nor EBNF that can be read: {error}") from error


def structural_tag_grammar(tag: dict[str, Any], token_of: Callable[[str], int | None]) -> str:
    """The grammar of text in which each tag's content matches its schema (vLLM's `structures` and `triggers`).

    Raises:
        RequestError: a field is missing or wrong.
    """
    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not isinstance(structures, list) or not structures or not isinstance(triggers, list):
        raise RequestError("it needs structures, a list of {begin, schema, end}, and triggers, a list of texts")
    lines = ["start: (" + " | ".join(f"tag{i}" for i in range(len(structures))) + ")* TEXT", "TEXT: /(.|\\n)*/"]
    for i, structure in enumerate(structures):
        begin, end = _text(structure, "begin"), _text(structure, "end")
        trigger = next((t for t in triggers if isinstance(t, str) and t and begin.startswith(t)), None)
        if trigger is None:
            raise RequestError(f"structures[{i}].begin {begin!r} begins with none of the triggers")
        schema = structure.get("schema", {})
        if not isinstance(schema, (dict, bool)):
            raise RequestError(f"structures[{i}].schema is no JSON schema")
        check_schema(schema)
        content = "" if schema is True else f"%json {json.dumps(followed(schema))}"
        token = token_of(trigger)
        rest = " ".join(part for part in (quoted(begin[len(trigger) :]), content, quoted(end)) if part != '""')
        if token is not None:
            lines.append(f"tag{i}: TEXT <[{token}]> {rest}")
        else:
            lines += [f"open{i}[lazy]: TEXT {quoted(trigger)}", f"tag{i}: open{i} {rest}"]
    return _lark("\n".join(lines))


def _text(structure: Any, name: str) -> str:
    value = structure.get(name) if isinstance(structure, dict) else None
    if not isinstance(value, str):
        raise RequestError(f"each of structures needs {name}, a text")
    return value


def _lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def _parsed(schema: SchemaSource) -> dict[str, Any] | bool:
    """A schema that may be sent as text. Raises RequestError if it is no schema."""
    if not isinstance(schema, str):
        return schema
    try:
        found = json.loads(schema)
    except ValueError as error:
        raise RequestError(f"the text is not JSON: {error}") from error
    except RecursionError:
        raise RequestError("it is nested too deeply") from None
    if not isinstance(found, (dict, bool)):
        raise RequestError("a JSON schema is an object, or true or false")
    return found


def _object(value: dict[str, Any] | str) -> dict[str, Any]:
    found = _parsed(value)
    if not isinstance(found, dict):
        raise RequestError("it is an object")
    return found


def _closed(schema: Any) -> Any:
    """`schema` whose objects take no properties that it does not name, unless it says otherwise."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(inner) for name, inner in schema.items()}
    if isinstance(closed.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed
