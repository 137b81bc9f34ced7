"""Splits an answer into reasoning, content and tool calls, whole or as it comes, by the format of the model.

One interpreter for all formats and all APIs. It never raises, takes time in proportion to the text, and holds back only
what may be the beginning of a delimiter, a few characters of white space before one, and the head of a call until its
name is known. What looks like a call and is none comes out as content, without the delimiters around it.
"""

from __future__ import annotations

import re
import secrets
import string
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from octavo_engine.text.answer_events import AnswerEvent, ContentText, ReasoningText
from octavo_engine.text.answer_format import AnswerFormat, Calls
from octavo_engine.text.answer_input import SPACE, AnswerInput, Emit, Reader, literals
from octavo_engine.text.call_reader import CallReader
from octavo_engine.text.tool_schemas import ToolSchemas

HELD_SPACE = 64  # characters of white space before a delimiter that are not part of the text
SHORT = 4  # a delimiter of fewer characters is not removed from what turned out to be no call
NINE = string.ascii_letters + string.digits

NewId = Callable[[int, str], str]


class AnswerParser:
    """Parses one answer. `tools` are the request's: without any, no calls are looked for.

    `reasoning`: split it from the content. `starts_in_reasoning`: the prompt has opened it (see `prompt_opens_reasoning`).
    `new_id` makes the id of a call from its number and name, if the answer does not name one.
    """

    def __init__(
        self,
        answer_format: AnswerFormat,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        reasoning: bool = True,
        starts_in_reasoning: bool = False,
        new_id: NewId | None = None,
    ) -> None:
        self._input = AnswerInput()
        self._events: list[AnswerEvent] = []
        self._reasoning = answer_format.reasoning if reasoning else None
        self._content = answer_format.content
        self._calls = answer_format.calls if tools else None
        self._finished = False
        self.in_reasoning = self._reasoning is not None and (starts_in_reasoning or self._reasoning.starts_open)
        if self._calls is not None:
            make = new_id or ids_of(self._calls)
            self._reader = CallReader(self._input, self._calls, ToolSchemas(tools), make, self._events.append)
        self._delimiters = _delimiters(answer_format.literals)
        self._outside = self._watched(answer_format)
        self._run: Generator[None, None, None] = self._answer()
        next(self._run)

    def feed(self, text: str) -> list[AnswerEvent]:
        """Add the next piece of the answer; the events that it makes."""
        assert not self._finished, "the answer has ended"
        if text:
            self._input.add(text)
            next(self._run)
        return self._taken()

    def finish(self) -> list[AnswerEvent]:
        """End the answer; the events that are left."""
        self._finished = True
        self._input.end()
        for _ in self._run:
            pass
        return self._taken()

    @property
    def num_calls(self) -> int:
        """The number of calls that have begun."""
        return 0 if self._calls is None else self._reader.count

    def _taken(self) -> list[AnswerEvent]:
        taken = list(self._events)
        self._events.clear()  # in place: the call reader appends to it
        return taken

    def _watched(self, answer_format: AnswerFormat) -> dict[str, str]:
        """The texts that are looked for outside of every section, and what each begins; empty for those that are left out."""
        watched = dict.fromkeys(answer_format.stray, "")
        if self._content is not None:
            watched |= dict.fromkeys(self._content.close, "") | dict.fromkeys(self._content.open, "content")
        if self._reasoning is not None:
            watched |= dict.fromkeys(self._reasoning.close, "") | dict.fromkeys(self._reasoning.open, "reasoning")
        if self._calls is not None:
            watched |= dict.fromkeys(self._calls.close, "")
            watched |= {} if self._calls.bare_first else dict.fromkeys(self._calls.bare, "bare")
            watched |= dict.fromkeys(self._calls.open, "calls")
        return watched

    def _answer(self) -> Generator[None, None, None]:
        yield  # the constructor runs up to here
        content = Trimmed(lambda text: self._events.append(ContentText(text)))
        outside = literals(*self._outside)
        begins = "reasoning" if self.in_reasoning else ""
        while True:
            if begins == "reasoning":
                begins = yield from self._reasoning_section()
                content.after_delimiter()
            elif begins == "content":
                assert self._content is not None
                yield from self._input.until(literals(*self._content.close), content.add)
                begins = ""
            elif begins:
                yield from self._block(content, bare=begins == "bare")
                begins = ""
            elif (yield from self._bare_first(content)):
                begins = "bare"
            else:
                found = yield from self._input.until(outside, content.add, take=False)
                if found is None:
                    break
                begins = self._outside[found]
                content.before_delimiter()
                if begins != "bare":
                    self._input.take(len(found))
        content.flush()

    def _reasoning_section(self) -> Reader[str]:
        """Read reasoning up to its end; what begins there."""
        assert self._reasoning is not None
        self.in_reasoning = True
        ends = dict.fromkeys(self._reasoning.close, "")
        if self._calls is not None and self._reasoning.ended_by_calls:
            ends |= dict.fromkeys(self._calls.open, "calls")
        text = Trimmed(lambda text: self._events.append(ReasoningText(text)))
        text.after_delimiter()
        yield from self._input.accept(literals(*self._reasoning.open))  # some write what the prompt ends with
        found = yield from self._input.until(literals(*ends), text.add)
        self.in_reasoning = False
        if found is None:
            text.flush()
            return ""
        return ends[found]

    def _bare_first(self, content: Trimmed) -> Reader[bool]:
        """Return whether the first text of the content begins a call."""
        if content.begun or self._calls is None or not self._calls.bare_first:
            return False
        source = self._input
        source.kept = []
        yield from source.skip_space()
        if (yield from source.starts_with(literals(*self._calls.bare))) is not None:
            return True
        content.add("".join(source.kept))
        source.kept, content.begun = None, True
        return False

    def _block(self, content: Trimmed, *, bare: bool) -> Reader[None]:
        """Read calls up to the end of their block, or to what is no call."""
        calls, source = self._calls, self._input
        assert calls is not None
        begin, between, end = calls.list
        only_known = bare and calls.bare_first
        following = literals(*filter(None, map(self._reader.begins, calls.call)))
        source.kept = source.kept or []  # white space before the first text of an answer
        listed = bool(begin) and (yield from source.accept(literals(begin))) is not None
        more = literals(*filter(None, (between.strip(), end if listed else "", *calls.close)))
        while (yield from self._reader.call(only_known=only_known)):
            content.after_delimiter()
            source.kept = []
            found = yield from source.accept(more)
            if found and found == end and listed:
                found = yield from source.accept(literals(*calls.close))
                break
            if found in calls.close:
                break
            if found is None and between.isspace() and (yield from source.peek()):
                continue  # the line break between calls has been skipped
            if found is None and (yield from source.starts_with(following)) is None:
                break
        else:
            text = self._delimiters.sub("", "".join(source.kept))
            content.add(text if bare else ("\n" if content.begun else "") + text.strip(SPACE))
            content.begun = True
        source.kept = None


class Trimmed:
    """Passes a text on, but for the white space next to a delimiter."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._skipping = False
        self._held = ""
        self.begun = False  # whether there was more than white space

    def add(self, text: str) -> None:
        """The next piece; white space at its end is held back."""
        if self._skipping:
            text = text.lstrip(SPACE)
            self._skipping = not text
        if not text:
            return
        text = self._held + text
        length = len(text.rstrip(SPACE))
        self.begun = self.begun or length > 0
        cut = max(length, len(text) - HELD_SPACE)
        self._held = text[cut:]
        if cut:
            self._emit(text[:cut])

    def before_delimiter(self) -> None:
        """Drop what is held back."""
        self._held = ""

    def after_delimiter(self) -> None:
        """Drop white space until other text comes."""
        self._held = ""
        self._skipping = True

    def flush(self) -> None:
        """Pass on what is held back: the text has ended."""
        if self._held:
            self._emit(self._held)
        self._held = ""


@lru_cache(maxsize=64)
def _delimiters(texts: tuple[str, ...]) -> re.Pattern[str]:
    """A format's texts that are left out of what turned out to be no call."""
    long = sorted((text for text in texts if len(text) >= SHORT), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, long)) or r"(?!)")


def behind_prompt(answer_format: AnswerFormat, end: str) -> tuple[AnswerFormat, bool]:
    """The format of an answer to a prompt that ends with `end`, and whether the answer begins within reasoning.

    An answer that begins behind reasoning has none.
    """
    reasoning = answer_format.reasoning
    if reasoning is None:
        return answer_format, False
    if prompt_closes_reasoning(answer_format, end):
        later = msgspec.structs.replace(reasoning, starts_open=False)
        return msgspec.structs.replace(answer_format, reasoning=later), False
    return answer_format, reasoning.starts_open or prompt_opens_reasoning(answer_format, end)


def prompt_opens_reasoning(answer_format: AnswerFormat, prompt: str) -> bool:
    """Return whether a rendered chat ends within reasoning, so that its answer begins there."""
    reasoning = answer_format.reasoning
    if reasoning is None:
        return False
    return prompt.rstrip(SPACE).endswith(tuple(text.rstrip(SPACE) for text in reasoning.open))


def prompt_closes_reasoning(answer_format: AnswerFormat, prompt: str) -> bool:
    """Return whether a rendered chat ends behind reasoning: the answer of a model that always begins with it has none then."""
    reasoning = answer_format.reasoning
    return reasoning is not None and prompt.rstrip(SPACE).endswith(tuple(text.strip(SPACE) for text in reasoning.close))


def ids_of(calls: Calls, num_earlier: int = 0) -> NewId:
    """The function that makes the ids of calls, as the model's template expects to read them again. `num_earlier`: calls of the chat."""
    match calls.ids:
        case "nine":
            return lambda _index, _name: "".join(secrets.choice(NINE) for _ in range(9))
        case "name":
            return lambda index, name: f"functions.{name}:{num_earlier + index}"
        case _:
            return lambda _index, _name: f"call_{uuid.uuid4().hex[:24]}"
