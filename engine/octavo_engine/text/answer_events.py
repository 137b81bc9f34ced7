"""Events that an answer consists of, as it comes: the same for every API that is spoken to clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """The next piece of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    """The next piece of the content."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool call whose name is known; its arguments follow. `index` counts the calls of an answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments: JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The end of a call. `complete`: its arguments are one whole JSON value; otherwise they are what the model wrote."""

    index: int
    complete: bool


AnswerEvent: TypeAlias = ReasoningText | ContentText | CallBegun | CallArguments | CallEnded


def joined(events: list[AnswerEvent]) -> list[AnswerEvent]:
    """The same events with neighbouring pieces of one text as one piece."""
    result: list[AnswerEvent] = []
    pieces: list[str] = []

    def flush() -> None:
        if len(pieces) > 1:
            match result[-1]:
                case ReasoningText():
                    result[-1] = ReasoningText("".join(pieces))
                case ContentText():
                    result[-1] = ContentText("".join(pieces))
                case CallArguments(index=index):
                    result[-1] = CallArguments(index, "".join(pieces))
        pieces.clear()

    for event in events:
        text = getattr(event, "text", None)
        last = result[-1] if result else None
        if text is not None and type(last) is type(event) and getattr(last, "index", 0) == getattr(event, "index", 0):
            pieces.append(text)
            continue
        flush()
        result.append(event)
        if text is not None:
            pieces.append(text)
    flush()
    return result
