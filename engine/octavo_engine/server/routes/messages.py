"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, over the same chats."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web
from msgspec.structs import replace

from octavo_engine.server.answer.chat_parts import shown
from octavo_engine.server.answer.error_responses import json_response, status_and_message
from octavo_engine.server.answer.messages import (
    BlockStream,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    StopDelta,
    TokenCount,
    messages_error,
    usage_of,
    whole_blocks,
)
from octavo_engine.server.answer.reading import answer_reading
from octavo_engine.server.answer.responses import Usage
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Choice, Generation, Piece, start
from octavo_engine.server.intake.admission import SHARE, cache_salt, read_body, request_id
from octavo_engine.server.intake.messages import MessagesBody, PromptBody, chat_of
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.prompts import encode_prompts
from octavo_engine.server.intake.protocol import ChatBody
from octavo_engine.server.intake.thinking import has_reasoning
from octavo_engine.server.intake.tools import ToolUse, tool_use
from octavo_engine.text.answer_events import AnswerEvent

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "abort": "end_turn", "repetition": "end_turn"}


async def messages(request: web.Request) -> web.StreamResponse:
    """Answer a conversation with one message."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    given = await read_body(request, MessagesBody)
    model = context.check_model(given.model)
    body = chat_of(given)
    if not has_reasoning(context):
        body.thinking_token_budget = None  # clients send it to every model
    use = tool_use(context, body)
    prompts = await prepare(context, body, use)
    reading = answer_reading(context, body, use)
    generation = start(context, body, prompts, arrived, cache_salt(request, body), model, reading)
    try:
        body.messages = given.messages = []  # the engine has the tokens: free the memory
        request[SHARE].give_back()
        writer = MessagesWriter(context, body, generation, f"msg_{request_id(request)}", model, use)
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


async def count_tokens(request: web.Request) -> web.Response:
    """Count the tokens of a conversation's prompt."""
    context = request.app[CONTEXT]
    given = await read_body(request, PromptBody)
    context.check_model(given.model)
    (token_ids,) = await encode_prompts(context, chat_of(given), must_fit=False)
    return json_response(TokenCount(len(token_ids)))


@dataclass(slots=True)
class MessagePart:
    """A piece of the answer, or all of it."""

    events: list[AnswerEvent]
    finish_reason: str | None
    stop_reason: str | int | None


class MessagesWriter(AnswerWriter[ChatBody, MessagePart]):
    """An answer has one choice; its blocks follow each other."""

    named_events = True
    hides_cached = False

    def __init__(
        self, context: ServerContext, body: ChatBody, generation: Generation, id_: str, model: str, use: ToolUse
    ) -> None:
        super().__init__(context, body, generation, id_, model)
        self._use = use
        self._blocks = BlockStream()

    def _part(self, piece: Piece) -> MessagePart:
        return MessagePart(self._shown(piece), piece.finish_reason, piece.stop_reason)

    def _joined(self, parts: Sequence[MessagePart]) -> MessagePart:
        last = parts[-1]
        return MessagePart([event for part in parts for event in part.events], last.finish_reason, last.stop_reason)

    def _opened(self, part: MessagePart, choice: Choice) -> MessagePart:  # noqa: ARG002 — nothing is echoed
        return part

    def _answer(self, choices: list[MessagePart]) -> Message:
        (part,) = choices
        blocks = whole_blocks(part.events)
        stop = self._stop(part.finish_reason, part.stop_reason, calls=any(block.type == "tool_use" for block in blocks))
        usage = usage_of(self._generation.usage())
        return Message(self._id, self._model, blocks, usage, stop.stop_reason, stop.stop_sequence)

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[msgspec.Struct]:  # noqa: ARG002
        if not piece.choice.begun:
            begun = replace(self._generation.usage(0), prompt_tokens_details=None)  # the last event parts the input
            yield MessageStart(Message(self._id, self._model, [], usage_of(begun)))
        yield from self._blocks.events(self._shown(piece))
        if piece.finish_reason is not None:
            yield from self._blocks.close()
            stop = self._stop(piece.finish_reason, piece.stop_reason, calls=self._blocks.num_calls > 0)
            yield MessageDelta(stop, usage_of(self._generation.usage()))
            yield MessageStop()

    def _last_chunk(self, usage: Usage) -> msgspec.Struct:
        raise NotImplementedError("the end of a message has its usage")

    def _failure(self, error: Exception) -> msgspec.Struct:
        return messages_error(*status_and_message(error))

    def _shown(self, piece: Piece) -> list[AnswerEvent]:
        return list(shown(piece.events, reasoning=True, parallel=self._use.parallel))

    def _stop(self, reason: str | None, stop: str | int | None, *, calls: bool) -> StopDelta:
        if calls and reason == "stop":
            return StopDelta("tool_use", None)
        if isinstance(stop, str) and stop in self._body.stop_strings:
            return StopDelta("stop_sequence", stop)
        return StopDelta(STOP_REASONS.get(reason or "stop", "end_turn"), None)
