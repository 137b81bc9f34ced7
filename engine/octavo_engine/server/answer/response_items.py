"""Answers of /v1/responses: the response, its items, and the events of a stream."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from octavo_engine.server.answer.responses import Usage
from octavo_engine.text.answer_events import AnswerEvent, CallArguments, CallBegun, ContentText, ReasoningText

Kind = Literal["message", "reasoning", "function_call"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
IDS = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Part(msgspec.Struct):
    """The text of an item."""

    type: str
    text: str = ""
    annotations: list[str] | UnsetType = UNSET
    logprobs: list[Raw] | UnsetType | None = UNSET


class Item(msgspec.Struct):
    """A message, reasoning, or a call of a function."""

    type: Kind
    id: str
    status: Status = "in_progress"
    role: str | UnsetType = UNSET
    content: list[Part] | UnsetType = UNSET
    summary: list[str] | UnsetType = UNSET
    encrypted_content: UnsetType | None = UNSET
    call_id: str | UnsetType = UNSET
    namespace: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ResponsesUsage(msgspec.Struct):
    """Tokens of the prompt and of the answer."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class RawMessage(msgspec.Struct):
    """The prompt, or the answer, as the model has it: tokens, and their text with special tokens."""

    message: str
    tokens: list[int]
    type: str = "raw_message_tokens"


class Response(msgspec.Struct):
    """A response, with the fields of the request that it repeats."""

    id: str
    created_at: int
    model: str
    status: Status
    output: list[Item] = []
    usage: ResponsesUsage | None = None
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None = None
    metadata: dict[str, Any] = {}
    parallel_tool_calls: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    top_logprobs: int = 0
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]] = []
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    previous_response_id: str | None = None
    prompt: None = None
    reasoning: dict[str, str | None] = {}
    text: dict[str, Any] = {}
    truncation: str = "disabled"
    background: bool = False
    store: bool = True
    service_tier: str = "default"
    user: str | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    input_messages: list[RawMessage] | None = None
    output_messages: list[RawMessage] | None = None
    object: str = "response"


class Event(msgspec.Struct, omit_defaults=True):
    """An event of a stream. Fields that its type lacks are left out."""

    type: str
    sequence_number: int | UnsetType = UNSET
    response: Response | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    item: Item | UnsetType = UNSET
    part: Part | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    logprobs: list[Raw] | UnsetType = UNSET
    text: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    param: UnsetType | None = UNSET


def usage_of(usage: Usage) -> ResponsesUsage:
    """`usage` as this API counts."""
    details = usage.prompt_tokens_details
    cached, created = (0, 0) if not details else (details.cached_tokens, details.created_cache_tokens)
    reasoning = usage.completion_tokens_details
    return ResponsesUsage(
        usage.prompt_tokens,
        {"cached_tokens": cached, "cache_write_tokens": created},
        usage.completion_tokens,
        {"reasoning_tokens": reasoning.reasoning_tokens if reasoning else 0},
        usage.total_tokens,
    )


class ItemStream:
    """The items of one answer as they come: one is open at a time, and `items` has all of them.

    `namespaces` has the namespace and the name of each function that is in one, by the name that the model has for it.
    """

    def __init__(self, namespaces: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._namespaces = namespaces or {}
        self.items: list[Item] = []
        self._pieces: list[str] = []
        self._logprobs: list[Raw] | None = None

    def events(self, events: Iterable[AnswerEvent], logprobs: list[Raw] | None = None) -> Iterator[Event]:
        """The events of a stream for the next events of the answer; `logprobs` are those of the text among them."""
        for event in events:
            kind = _kind_of(event)
            if kind is None:
                continue
            if not self._is_open(kind) or isinstance(event, CallBegun):
                yield from self.close()
                yield from self._begin(event, kind)
            text = getattr(event, "text", "")
            if text:
                yield self._delta(kind, text, logprobs if kind == "message" else None)
                logprobs = None if kind == "message" else logprobs  # all of them come with the first text

    def close(self, status: Status = "completed") -> Iterator[Event]:
        """The end of the open item, if there is one."""
        if not self.items or self.items[-1].status != "in_progress":
            return
        index, item, text = len(self.items) - 1, self.items[-1], "".join(self._pieces)
        where: dict[str, Any] = {"output_index": index, "item_id": item.id}
        item.status = status
        if item.type == "function_call":
            item.arguments = text
            assert isinstance(item.name, str)
            yield Event("response.function_call_arguments.done", **where, name=item.name, arguments=text)
        else:
            part = _part(item.type, text, self._logprobs)
            item.content = [part]
            name = "output_text" if item.type == "message" else "reasoning_text"
            logprobs: dict[str, Any] = {"logprobs": self._logprobs or []} if item.type == "message" else {}
            yield Event(f"response.{name}.done", **where, content_index=0, text=text, **logprobs)
            yield Event("response.content_part.done", **where, content_index=0, part=part)
        yield Event("response.output_item.done", output_index=index, item=item)

    def _is_open(self, kind: Kind) -> bool:
        return bool(self.items) and self.items[-1].status == "in_progress" and self.items[-1].type == kind

    def _begin(self, event: AnswerEvent, kind: Kind) -> Iterator[Event]:
        self._pieces, self._logprobs = [], None
        item = Item(kind, f"{IDS[kind]}_{uuid.uuid4().hex}")
        if isinstance(event, CallBegun):
            item.call_id, item.name, item.arguments = event.id, event.name, ""
            if event.name in self._namespaces:
                item.namespace, item.name = self._namespaces[event.name]
        else:
            item.content = []
            if kind == "message":
                item.role = "assistant"
            else:
                item.summary, item.encrypted_content = [], None
        self.items.append(item)
        index = len(self.items) - 1
        yield Event("response.output_item.added", output_index=index, item=msgspec.structs.replace(item))
        if kind != "function_call":
            part = _part(kind, "", None)
            yield Event("response.content_part.added", output_index=index, item_id=item.id, content_index=0, part=part)

    def _delta(self, kind: Kind, text: str, logprobs: list[Raw] | None) -> Event:
        self._pieces.append(text)
        where: dict[str, Any] = {"output_index": len(self.items) - 1, "item_id": self.items[-1].id}
        if kind == "function_call":
            return Event("response.function_call_arguments.delta", **where, delta=text)
        if kind == "reasoning":
            return Event("response.reasoning_text.delta", **where, content_index=0, delta=text)
        if logprobs is not None:
            if self._logprobs is None:
                self._logprobs = []
            self._logprobs += logprobs
        return Event("response.output_text.delta", **where, content_index=0, delta=text, logprobs=logprobs or [])


def _kind_of(event: AnswerEvent) -> Kind | None:
    match event:
        case ContentText():
            return "message"
        case ReasoningText():
            return "reasoning"
        case CallBegun() | CallArguments():
            return "function_call"
    return None


def _part(kind: Kind, text: str, logprobs: list[Raw] | None) -> Part:
    if kind == "reasoning":
        return Part("reasoning_text", text)
    return Part("output_text", text, [], logprobs or [])


def numbered(events: Iterable[Event], next_number: Callable[[], int]) -> Iterator[Event]:
    """The events with their place in the stream."""
    for event in events:
        event.sequence_number = next_number()
        yield event
