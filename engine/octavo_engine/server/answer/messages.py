"""Answers of /v1/messages: Anthropic's message, its blocks, and the events of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from octavo_engine.server.answer.responses import Usage
from octavo_engine.text.answer_events import AnswerEvent, CallArguments, CallBegun, ContentText, ReasoningText

EMPTY = Raw(b"{}")
Kind = Literal["text", "thinking", "tool_use"]


class MessagesUsage(msgspec.Struct):
    """Tokens. Those that were read from the prefix cache or written to it are not counted among the input."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class Block(msgspec.Struct):
    """A part of a message: text, thinking, or a call of a tool."""

    type: Kind
    text: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    input: Raw | UnsetType = UNSET


class Message(msgspec.Struct):
    """A whole answer, or at the beginning of a stream an empty one."""

    id: str
    model: str
    content: list[Block]
    usage: MessagesUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None
    type: str = "message"
    role: str = "assistant"


class MessageStart(msgspec.Struct):
    """The first event of a stream."""

    message: Message
    type: str = "message_start"


class BlockStart(msgspec.Struct):
    """A block begins, empty."""

    index: int
    content_block: Block
    type: str = "content_block_start"


class BlockDelta(msgspec.Struct):
    """The next piece of a block."""

    index: int
    delta: dict[str, str]
    type: str = "content_block_delta"


class BlockStop(msgspec.Struct):
    """A block is whole."""

    index: int
    type: str = "content_block_stop"


class StopDelta(msgspec.Struct):
    """The reason of the answer's end."""

    stop_reason: str
    stop_sequence: str | None


class MessageDelta(msgspec.Struct):
    """The answer's end, with the usage of all of it."""

    delta: StopDelta
    usage: MessagesUsage
    type: str = "message_delta"


class MessageStop(msgspec.Struct):
    """The last event of a stream."""

    type: str = "message_stop"


class MessagesError(msgspec.Struct):
    """Anthropic's shape of an error."""

    error: dict[str, str]
    type: str = "error"


class TokenCount(msgspec.Struct):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int


ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def messages_error(status: int, message: str) -> MessagesError:
    """The body of an error with this HTTP status."""
    return MessagesError({"type": ERROR_TYPES.get(status, "api_error"), "message": message})


def usage_of(usage: Usage) -> MessagesUsage:
    """`usage` as Anthropic counts."""
    details = usage.prompt_tokens_details
    if not details:
        return MessagesUsage(usage.prompt_tokens, usage.completion_tokens)
    read, created = details.cached_tokens, details.created_cache_tokens
    return MessagesUsage(usage.prompt_tokens - read - created, usage.completion_tokens, created, read)


def _kind_of(event: AnswerEvent) -> Kind | None:
    match event:
        case ContentText():
            return "text"
        case ReasoningText():
            return "thinking"
        case CallBegun() | CallArguments():
            return "tool_use"
    return None


def _empty(event: AnswerEvent, kind: Kind) -> Block:
    if kind == "text":
        return Block(kind, text="")
    if kind == "thinking":
        return Block(kind, thinking="", signature="")
    assert isinstance(event, CallBegun), "a call begins with its name"
    return Block(kind, id=event.id, name=event.name, input=EMPTY)


class BlockStream:
    """The blocks of one answer as they come: one is open at a time."""

    def __init__(self) -> None:
        self._open: Kind | None = None
        self._index = -1
        self.num_calls = 0

    def events(self, events: Iterable[AnswerEvent]) -> Iterator[BlockStart | BlockDelta | BlockStop]:
        """The events of a stream for the next events of the answer."""
        for event in events:
            kind = _kind_of(event)
            if kind is None:
                continue
            if kind != self._open or isinstance(event, CallBegun):
                yield from self.close()
                self._open = kind
                self._index += 1
                self.num_calls += kind == "tool_use"
                yield BlockStart(self._index, _empty(event, kind))
            text = getattr(event, "text", "")
            if text:
                name, key = DELTAS[kind]
                yield BlockDelta(self._index, {"type": name, key: text})

    def close(self) -> Iterator[BlockStop]:
        """The end of the open block, if there is one."""
        if self._open is not None:
            yield BlockStop(self._index)
            self._open = None


def whole_blocks(events: Iterable[AnswerEvent]) -> list[Block]:
    """The blocks of a whole answer. The input of a call that is no JSON object is empty: the model broke off."""
    stream = BlockStream()
    blocks: list[Block] = []
    pieces: list[list[str]] = []
    for event in stream.events(events):
        if isinstance(event, BlockStart):
            blocks.append(event.content_block)
            pieces.append([])
        elif isinstance(event, BlockDelta):
            pieces[event.index].append(event.delta[DELTAS[blocks[event.index].type][1]])
    for block, parts in zip(blocks, pieces, strict=True):
        text = "".join(parts)
        if block.type == "text":
            block.text = text
        elif block.type == "thinking":
            block.thinking = text
        else:
            block.input = _object(text)
    return blocks


def _object(text: str) -> Raw:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return EMPTY
    return Raw(text.encode()) if isinstance(found, dict) else EMPTY
