"""The description of a model's answers: where reasoning, content and tool calls stand in its text.

Data alone: one file for each family of formats in `answer_formats/`, or read from a model's own response template. The
texts of a description are literal; white space between the parts of a call is free. `answer_parser` interprets it, and
`answer_grammar` derives from it what constrains a call.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Literal, TypeAlias

import msgspec

FOLDER = "answer_formats"


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text that precedes the answer proper."""

    open: tuple[str, ...]
    close: tuple[str, ...]
    starts_open: bool = False  # the model begins with it and writes no `open`, whatever the prompt ends with
    switches: tuple[str, ...] = ()  # variables of the chat template of which one that is true makes it start open
    ended_by_calls: bool = True  # a call's `open` ends it as well


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delimiters of content, in formats that mark it; in others it is all that is nothing else."""

    open: tuple[str, ...]
    close: tuple[str, ...]


class Maybe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="part", tag="maybe"):
    """A text that may stand there."""

    text: str


class Skip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="part", tag="skip"):
    """Anything up to the literal that follows; `usual` is what models write."""

    usual: str = ""


class Name(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="part", tag="name"):
    """The function's name. `prefix` is no part of it; `numbered`: the call's number follows a colon, and all is its id."""

    prefix: str = ""
    numbered: bool = False


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="part", tag="arguments"):
    """The arguments as one value: a JSON object, `(key=value, …)` in Python's spelling, or `{key:value}` with its own quotes.

    `quotes` stands around strings in addition to quotation marks; within it nothing is escaped.
    """

    style: Literal["json", "python"] = "json"
    quotes: str = ""


class Object(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="part", tag="object"):
    """A JSON object that holds name and arguments, each under one of these keys; `keyed`: its only key is the name."""

    name: tuple[str, ...] = ("name", "function")
    arguments: tuple[str, ...] = ("arguments", "parameters")
    keyed: bool = False


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="part", tag="parameters"):
    """Arguments one by one: `open` KEY `key_end` `value_begin` VALUE `close`. The tool's schema has their types.

    `ends` are texts that end a value whose `close` is missing; with `newlines`, one line break on each side of a value is
    not part of it.
    """

    open: str
    key_end: tuple[str, ...]
    close: str
    value_begin: str = ""
    ends: tuple[str, ...] = ()
    newlines: bool = False


Part: TypeAlias = str | Maybe | Skip | Name | Arguments | Object | Parameters


class Calls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A block of calls: `open`, calls in one of the forms, `close`."""

    call: tuple[tuple[Part, ...], ...]  # each form is a sequence of parts
    open: tuple[str, ...] = ()  # the first is what the model's template writes
    close: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()  # what begins a call without `open`; it belongs to the call
    bare_first: bool = False  # `bare` counts only where an answer begins
    list: tuple[str, str, str] = ("", "", "")  # around and between the calls of a block
    ids: Literal["call", "nine", "name"] = "call"  # nine: nine letters and digits; name: as Name.numbered has them


class AnswerFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One format. Any of its parts may be absent."""

    name: str
    about: str = ""
    reasoning: Reasoning | None = None
    content: Content | None = None
    calls: Calls | None = None
    stray: tuple[str, ...] = ()  # texts that are never part of content

    @property
    def literals(self) -> tuple[str, ...]:
        """Every text that the parser looks for."""
        found = list(self.stray)
        for section in (self.reasoning, self.content, self.calls):
            if section is not None:
                found += (*section.open, *section.close)
        if self.calls is not None:
            found += (*self.calls.bare, *self.calls.list)
            for part in (part for form in self.calls.call for part in form):
                found += part_literals(part)
        return tuple(dict.fromkeys(text for text in found if text))


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer as the model writes it, and what it means: the test of a description."""

    text: str
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, dict[str, object]]] = []
    starts_in_reasoning: bool = False


class FormatFile(AnswerFormat, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A data file: a format, whom it belongs to, and examples."""

    tool_parsers: tuple[str, ...] = ()  # vLLM's names that choose its calls
    reasoning_parsers: tuple[str, ...] = ()  # and its reasoning
    marks: tuple[tuple[str, ...], ...] = ()  # a chat template that holds all texts of one of these writes its calls
    reasoning_marks: tuple[tuple[str, ...], ...] = ()  # the same of its reasoning
    examples: tuple[Example, ...]


def part_literals(part: Part) -> tuple[str, ...]:
    """The texts of a part of a call."""
    match part:
        case str():
            return (part,)
        case Maybe(text=text):
            return (text,)
        case Parameters():
            return (part.open, *part.key_end, part.value_begin, part.close, *part.ends)
        case Arguments(quotes=quotes):
            return (quotes,)
        case _:
            return ()


@lru_cache(maxsize=1)
def format_files() -> dict[str, FormatFile]:
    """All data files by name."""
    folder = resources.files("octavo_engine.text").joinpath(FOLDER)
    texts = [entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".json")]
    found = [msgspec.json.decode(text, type=FormatFile) for text in texts]
    return {file.name: file for file in sorted(found, key=lambda file: file.name)}


def format_named(name: str) -> FormatFile:
    """The data file `name`. Raises KeyError if there is none."""
    return format_files()[name]


def combined(reasoning: AnswerFormat | None, calls: AnswerFormat | None) -> AnswerFormat | None:
    """One format with the reasoning of the first and the calls of the second; None if there is neither.

    Marked content comes from either: its format marks all of an answer.
    """
    if reasoning is None and calls is None:
        return None
    both = tuple(part for part in (reasoning, calls) if part is not None)
    return AnswerFormat(
        name=" + ".join(dict.fromkeys(part.name for part in both)),
        reasoning=None if reasoning is None else reasoning.reasoning,
        content=next((part.content for part in both if part.content is not None), None),
        calls=None if calls is None else calls.calls,
        stray=tuple(dict.fromkeys(text for part in both for text in part.stray)),
    )
