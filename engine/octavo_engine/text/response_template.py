"""A model's own response template, from its tokenizer_config.json, as an `AnswerFormat`.

The form is the one that transformers 5 documents (version 1): fields for reasoning, content and tool calls, with delimiters
that are texts or regular expressions, a parser for what stands between, and a transform. Delimiters are read as far as they
are texts, white space, alternatives and named groups; what else a regular expression may hold is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from octavo_engine.text.answer_format import (
    AnswerFormat,
    Arguments,
    Calls,
    Content,
    Name,
    Object,
    Parameters,
    Part,
    Reasoning,
)

REASONING = ("reasoning_content", "reasoning", "thinking")
MOST_ALTERNATIVES = 32  # of one delimiter
_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")


class TemplateError(ValueError):
    """A response template that can't be read; the message says what of it."""


class _Space:
    """White space between the texts of a delimiter."""


SPACE = _Space()
Token = str | _Space | tuple[str]  # a named group is a tuple of its name


def read_response_template(spec: Any) -> AnswerFormat:
    """The format that `spec` describes.

    Raises:
        TemplateError: it is no response template, or has what is not read.
    """
    fields = spec.get("fields") if isinstance(spec, Mapping) else None
    if not isinstance(fields, Mapping) or spec.get("version", 1) != 1:
        raise TemplateError("it is no response template of version 1")
    if not all(isinstance(field, Mapping) for field in fields.values()):
        raise TemplateError("a field of it is no object")
    stray: tuple[str, ...] = ()
    reasoning = content = None
    for name in REASONING:
        if name in fields:
            opened = _texts(fields[name], "open")
            if not opened:
                raise TemplateError(f"its field {name} has no opening delimiter")
            reasoning = Reasoning(open=opened, close=_texts(fields[name], "close"))
            break
    if "content" in fields:
        opened, closed = _texts(fields["content"], "open"), _texts(fields["content"], "close")
        content = Content(open=opened, close=closed) if opened else None
        stray = () if opened else closed
    calls = _calls(fields["tool_calls"]) if "tool_calls" in fields else None
    return AnswerFormat(name="the model's own", reasoning=reasoning, content=content, calls=calls, stray=stray)


def _calls(field: Mapping[str, Any]) -> Calls:
    opened, closed = list(_delimiter(field, "open")), list(_delimiter(field, "close"))
    parser, arguments = field.get("content", "text"), field.get("content_args") or {}
    if not opened:
        raise TemplateError("its tool calls have no opening delimiter")
    named = any((("name",) in tokens) for tokens in opened)
    before = [_segments(tokens) for tokens in opened]
    after = [_segments(tokens) for tokens in closed]
    head, tail = before[0][1:], after[0][:-1] if after else []
    if parser == "python-call-list":
        body: list[Part] = [Name(), Arguments(style="python")]
    elif parser == "xml-inline" and named:
        body = [_parameters(arguments.get("tag_pattern"))]
    elif parser == "json" and named:
        delimiters = arguments.get("string_delims") or [["", ""]]
        if len(delimiters) > 1 or delimiters[0][0] != delimiters[0][1]:
            raise TemplateError("strings of its tool calls have several kinds of quotes")
        body = [Arguments(quotes=delimiters[0][0])]
    elif parser == "json":
        body = [_object(field.get("transform"))]
    else:
        raise TemplateError(f"its tool calls are of the kind {parser!r}")
    listed = parser == "python-call-list" or (parser == "json" and field.get("transform_each") is True)
    return Calls(
        open=tuple(dict.fromkeys(str(segments[0][0]) for segments in before)),
        close=tuple(dict.fromkeys(str(segments[-1][0]) for segments in after)),
        call=(
            (
                *_parts(before[0][0][1:]),
                *(p for s in head for p in _parts(s)),
                *body,
                *(p for s in tail for p in _parts(s)),
            ),
        ),
        list=("[", ",", "]") if listed else ("", "", ""),
    )


def _parts(segment: list[Token]) -> Iterator[Part]:
    for token in segment:
        if isinstance(token, str):
            yield token
        elif token == ("name",):
            yield Name()
        else:
            raise TemplateError("a delimiter of its tool calls has a group that is not the name")


def _object(transform: Any) -> Object:
    """The keys of name and arguments, as the transform reads them; without one, OpenAI's."""
    function = transform.get("function", transform) if isinstance(transform, Mapping) else None
    if not isinstance(function, Mapping):
        return Object()
    keys = {}
    for name in ("name", "arguments"):
        match = _PLACEHOLDER.fullmatch(str(function.get(name)))
        if match is None:
            raise TemplateError(f"the transform of its tool calls has no {name}")
        keys[name] = match[1].rpartition(".")[2]
    return Object(name=(keys["name"],), arguments=(keys["arguments"],))


def _parameters(pattern: Any) -> Parameters:
    found = list(_alternatives(pattern)) if isinstance(pattern, str) else []
    texts = [token for token in found[0] if not isinstance(token, _Space)] if len(found) == 1 else []
    match texts:
        case [str() as opened, ("key",), str() as key_end, ("value",), str() as close]:
            begin = ""
        case [str() as opened, ("key",), str() as key_end, str() as begin, ("value",), str() as close]:
            pass
        case _:
            raise TemplateError("the parameters of its tool calls are not between texts")
    return Parameters(open=opened, key_end=(key_end,), close=close, value_begin=begin, newlines=SPACE in found[0])


def _texts(field: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The texts of a delimiter, without white space around them."""
    texts = []
    for tokens in _delimiter(field, name):
        kept = [token for token in tokens if not isinstance(token, _Space)]
        if len(kept) != 1 or not isinstance(kept[0], str):
            raise TemplateError(f"a delimiter of it is more than a text: {field.get(name + '_pattern')}")
        texts.append(kept[0])
    return tuple(dict.fromkeys(text.strip() or text for text in texts))


def _segments(tokens: list[Token]) -> list[list[Token]]:
    """The parts of a delimiter between white space. Raises TemplateError unless each begins with a text."""
    segments: list[list[Token]] = [[]]
    for token in tokens:
        if isinstance(token, _Space):
            segments.append([])
        else:
            segments[-1].append(token)
    segments = [segment for segment in segments if segment]
    if not segments or not all(isinstance(segment[0], str) for segment in segments):
        raise TemplateError("a delimiter of its tool calls begins with no text")
    return segments


def _delimiter(field: Mapping[str, Any], name: str) -> Iterator[list[Token]]:
    literal, pattern = field.get(name), field.get(f"{name}_pattern")
    if literal is not None:
        for text in [literal] if isinstance(literal, str) else literal:
            yield [text.strip() or text]
    elif isinstance(pattern, str):
        yield from _alternatives(pattern)


def _alternatives(pattern: str) -> Iterator[list[Token]]:
    try:
        parsed = _parser.parse(pattern)
    except (re.error, RecursionError) as error:
        raise TemplateError(f"a delimiter of it is no regular expression: {error}") from error
    found = _expanded(parsed)
    if len(found) > MOST_ALTERNATIVES:
        raise TemplateError("a delimiter of it has too many alternatives")
    for tokens in found:
        joined: list[Token] = []
        for token in tokens:
            if isinstance(token, str) and joined and isinstance(joined[-1], str):
                joined[-1] += token
            else:
                joined.append(token)
        yield joined


def _expanded(parsed: Any) -> list[list[Token]]:
    """The sequences of tokens that a parsed regular expression stands for."""
    found: list[list[Token]] = [[]]
    for op, argument in parsed:
        if op is _constants.LITERAL:
            more: list[list[Token]] = [[chr(argument)]]
        elif op is _constants.AT:
            continue
        elif op in {_constants.MAX_REPEAT, _constants.MIN_REPEAT} and _is_space(argument[2]):
            more = [[SPACE]]
        elif op is _constants.SUBPATTERN:
            name = next((n for n, i in parsed.state.groupdict.items() if i == argument[0]), None)
            more = [[(name,)]] if name is not None else _expanded(argument[3])
        elif op is _constants.BRANCH:
            more = [tokens for branch in argument[1] for tokens in _expanded(branch)]
        elif op is _constants.IN and all(kind is _constants.LITERAL for kind, _ in argument):
            more = [[chr(value)] for _, value in argument]
        else:
            raise TemplateError(f"a delimiter of it has a regular expression that is not read ({op})")
        found = [[*tokens, *added] for tokens in found for added in more]
        if len(found) > MOST_ALTERNATIVES:
            raise TemplateError("a delimiter of it has too many alternatives")
    return found


def _is_space(parsed: Any) -> bool:
    for op, argument in parsed:
        if op is _constants.IN and all(
            kind is _constants.CATEGORY and value is _constants.CATEGORY_SPACE for kind, value in argument
        ):
            continue
        if op is _constants.LITERAL and chr(argument).isspace():
            continue
        return False
    return True
