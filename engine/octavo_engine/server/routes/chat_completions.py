"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiohttp import web
from msgspec import UNSET, Raw
from msgspec.structs import replace

from octavo_engine.server.answer.chat_parts import delta_of, shown, whole_message
from octavo_engine.server.answer.reading import answer_reading
from octavo_engine.server.answer.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    Usage,
)
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Choice, Generation, Piece, start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import ChatBody
from octavo_engine.server.intake.tools import ToolUse, tool_use
from octavo_engine.text.answer_events import AnswerEvent, ContentText


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a chat: one choice for each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, ChatBody)
    model = context.check_model(body.model)
    use = tool_use(context, body)
    prompts = await prepare(context, body, use)
    reading = answer_reading(context, body, use)
    generation = start(context, body, prompts, arrived, cache_salt(request, body), model, reading)
    try:
        role = response_role(context, body)
        body.messages = []  # the engine has the tokens: free the memory
        body.tools = body.documents = body.chat_template_kwargs = None
        request[SHARE].give_back()
        writer = ChatWriter(context, body, generation, answer_id(request, body, "chatcmpl"), model, use, role)
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


def response_role(context: ServerContext, body: ChatBody) -> str:
    """The role of the answers: the server's, or that of the message which they continue."""
    role = body.messages[-1].get("role") if body.messages and not body.add_generation_prompt else None
    return role if isinstance(role, str) else context.config.api.response_role


@dataclass(slots=True)
class ChatPart:
    """A piece of a choice, or all of it."""

    index: int
    events: list[AnswerEvent]
    logprobs: list[Raw]
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int]


class ChatWriter(AnswerWriter[ChatBody, ChatPart]):
    """The first chunk of a choice carries its role."""

    def __init__(
        self,
        context: ServerContext,
        body: ChatBody,
        generation: Generation,
        id_: str,
        model: str,
        use: ToolUse,
        role: str = "assistant",
    ) -> None:
        super().__init__(context, body, generation, id_, model)
        self._use = use
        self._role = role
        self._metrics = context.metrics

    def _answer(self, choices: list[ChatPart]) -> ChatCompletion:
        usage = self._usage()
        whole = [self._choice(part) for part in choices]
        result = ChatCompletion(self._id, self._generation.created, self._model, whole, usage)
        result.metrics = self._times()
        result.system_fingerprint = self._fingerprint
        first = next(iter(self._generation.choices.values()))
        if self._body.return_token_ids:
            result.prompt_token_ids = first.prompt.token_ids
        if first.prompt_logprobs is not None and self._body.prompt_logprobs is not None:
            result.prompt_logprobs = self._format.prompt(first.prompt_logprobs)
        return result

    def _choice(self, part: ChatPart) -> ChatChoice:
        message = whole_message(part.events, self._role, forced=self._use.mode == "required")
        return ChatChoice(
            part.index,
            message,
            ChatLogprobs(part.logprobs) if part.logprobs else None,
            self._finish_reason(part.finish_reason, calls=bool(message.tool_calls)),
            part.stop_reason,
            part.token_ids if self._body.return_token_ids else None,
        )

    def _part(self, piece: Piece) -> ChatPart:
        logprobs = self._logprobs(piece)
        return ChatPart(
            piece.choice.index,
            self._shown(piece),
            [] if logprobs is None else logprobs.content,
            piece.finish_reason,
            piece.stop_reason,
            piece.token_ids,
        )

    def _joined(self, parts: Sequence[ChatPart]) -> ChatPart:
        last = parts[-1]
        return ChatPart(
            last.index,
            [event for part in parts for event in part.events],
            [entry for part in parts for entry in part.logprobs],
            last.finish_reason,
            last.stop_reason,
            [token for part in parts for token in part.token_ids],
        )

    def _opened(self, part: ChatPart, choice: Choice) -> ChatPart:
        if choice.prompt.text:
            part.events.insert(0, ContentText(choice.prompt.text))
        return part

    def _shown(self, piece: Piece) -> list[AnswerEvent]:
        parser = piece.choice.parser
        if piece.finish_reason and parser is not None and self._use.asked:
            self._metrics.tools_read(stream=bool(self._body.stream), called=parser.num_calls > 0)
        return list(shown(piece.events, reasoning=self._body.include_reasoning, parallel=self._use.parallel))

    def _finish_reason(self, reason: str | None, *, calls: bool) -> str | None:
        """OpenAI's: a call that was forced by name ends as text does."""
        return "tool_calls" if reason == "stop" and calls and not self._use.named else reason

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[ChatChunk]:
        if not piece.choice.begun:
            yield self._opening(piece, usage)
        choice = self._chunk(piece)
        if choice is not None:
            chunk = self._chat([choice], usage)
            chunk.system_fingerprint = self._signature(choice.finish_reason)
            yield chunk

    def _last_chunk(self, usage: Usage) -> ChatChunk:
        chunk = self._chat([], usage)
        chunk.metrics = self._times()
        chunk.system_fingerprint = self._fingerprint
        return chunk

    def _chat(self, choices: list[ChatChunkChoice], usage: Usage | None) -> ChatChunk:
        return ChatChunk(self._id, self._generation.created, self._model, choices, usage=usage or UNSET)

    def _opening(self, piece: Piece, usage: Usage | None) -> ChatChunk:
        """The first chunk of a choice, with its role."""
        choice = piece.choice
        delta = Delta(choice.prompt.text, self._role)
        if usage is not None:  # this chunk carries no token yet
            num_more = len(piece.token_ids)
            usage = replace(
                usage,
                completion_tokens=usage.completion_tokens - num_more,
                total_tokens=usage.total_tokens - num_more,
            )
        chunk = self._chat([ChatChunkChoice(choice.index, delta, token_ids=UNSET)], usage)
        chunk.prompt_token_ids = choice.prompt.token_ids if self._body.return_token_ids else None
        chunk.prompt_text = None
        return chunk

    def _chunk(self, piece: Piece) -> ChatChunkChoice | None:
        """The chunk of a piece; None if there is nothing to send yet."""
        logprobs = self._logprobs(piece)
        ids = self._body.return_token_ids
        delta = delta_of(self._shown(piece))
        if not (delta or logprobs or piece.finish_reason or ids):
            return None
        parser = piece.choice.parser
        return ChatChunkChoice(
            piece.choice.index,
            delta or (Delta("") if logprobs else Delta()),
            logprobs,
            self._finish_reason(piece.finish_reason, calls=parser is not None and parser.num_calls > 0),
            piece.stop_reason if piece.finish_reason else UNSET,
            piece.token_ids if ids else None,
        )

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        return self._format.chat(piece.logprobs) if self._body.logprobs and piece.logprobs else None
