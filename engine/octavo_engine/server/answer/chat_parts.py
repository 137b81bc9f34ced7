"""Messages and deltas of /v1/chat/completions, from the events of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import UNSET

from octavo_engine.server.answer.responses import (
    ChatMessage,
    Delta,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from octavo_engine.text.answer_events import AnswerEvent, CallArguments, CallBegun, ContentText, ReasoningText


def shown(events: Iterable[AnswerEvent], *, reasoning: bool, parallel: bool) -> Iterator[AnswerEvent]:
    """The events that a client gets: with its reasoning or without, and with all calls or the first alone."""
    for event in events:
        if isinstance(event, ReasoningText) and not reasoning:
            continue
        if not parallel and getattr(event, "index", 0) > 0:
            continue
        yield event


def whole_message(events: Iterable[AnswerEvent], role: str = "assistant", *, forced: bool = False) -> ChatMessage:
    """A whole answer. Content is null where there are calls or reasoning in its place, and empty where calls were forced."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[tuple[CallBegun, list[str]]] = []
    for event in events:
        match event:
            case ContentText(text=text):
                content.append(text)
            case ReasoningText(text=text):
                reasoning.append(text)
            case CallBegun():
                calls.append((event, []))
            case CallArguments(index=index, text=text):
                calls[index][1].append(text)
    message = ChatMessage("".join(content), role)
    if calls:
        message.tool_calls = [ToolCall(c.id, FunctionCall(c.name, "".join(arguments))) for c, arguments in calls]
    if reasoning:
        message.reasoning = message.reasoning_content = "".join(reasoning)
    if not content and (calls or reasoning) and not forced:
        message.content = None
    return message


def delta_of(events: Iterable[AnswerEvent]) -> Delta | None:
    """The events of one chunk; None if a client sees nothing of them."""
    delta = Delta()
    calls: dict[int, ToolCallDelta] = {}
    for event in events:
        match event:
            case ContentText(text=text):
                delta.content = text if delta.content is UNSET else delta.content + text
            case ReasoningText(text=text):
                delta.reasoning = text if delta.reasoning is UNSET else delta.reasoning + text
                delta.reasoning_content = delta.reasoning
            case CallBegun(index=index, id=id_, name=name):
                calls[index] = ToolCallDelta(index, FunctionDelta("", name), id_, "function")
            case CallArguments(index=index, text=text):
                call = calls.setdefault(index, ToolCallDelta(index, FunctionDelta("")))
                call.function.arguments += text
    if calls:
        delta.tool_calls = list(calls.values())
    empty = delta.content is UNSET and delta.reasoning is UNSET and not calls
    return None if empty else delta
