"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from aiohttp import web
from msgspec import UNSET
from msgspec.structs import replace

from octavo_engine.server.answer.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    Delta,
    Usage,
)
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.context import CONTEXT
from octavo_engine.server.generation import Choice, Piece, start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import ChatBody


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a chat: one choice for each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, ChatBody)
    model = context.check_model(body.model)
    prompts = await prepare(context, body)
    generation = start(context, body, prompts, arrived, cache_salt(request, body))
    body.messages = []  # the engine has the tokens: free the memory
    body.tools = body.documents = body.chat_template_kwargs = None
    request[SHARE].give_back()
    writer = ChatWriter(context, body, generation, answer_id(request, body, "chatcmpl"), model)
    try:
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


class ChatWriter(AnswerWriter[ChatBody, ChatChoice]):
    """The first chunk of a choice carries its role."""

    def _answer(self, choices: list[ChatChoice]) -> ChatCompletion:
        usage = self._generation.usage()
        result = ChatCompletion(self._id, self._generation.created, self._model, choices, usage)
        first = next(iter(self._generation.choices.values()))
        if self._body.return_token_ids:
            result.prompt_token_ids = first.prompt.token_ids
        if first.prompt_logprobs is not None and self._body.prompt_logprobs is not None:
            result.prompt_logprobs = self._format.prompt(first.prompt_logprobs)
        return result

    def _part(self, piece: Piece) -> ChatChoice:
        return ChatChoice(
            piece.choice.index,
            ChatMessage(piece.text),
            self._logprobs(piece),
            piece.finish_reason,
            piece.stop_reason,
            piece.token_ids if self._body.return_token_ids else None,
        )

    def _joined(self, parts: Sequence[ChatChoice]) -> ChatChoice:
        last = parts[-1]
        content = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
        return ChatChoice(
            last.index,
            ChatMessage("".join([part.message.content for part in parts])),
            ChatLogprobs(content) if content else None,
            last.finish_reason,
            last.stop_reason,
            [token for part in parts for token in part.token_ids or ()] if last.token_ids is not None else None,
        )

    def _opened(self, part: ChatChoice, choice: Choice) -> ChatChoice:
        part.message.content = choice.prompt.text + part.message.content
        return part

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[ChatChunk]:
        if not piece.choice.begun:
            yield self._opening(piece, usage)
        chunk = self._chunk(piece)
        if chunk is not None:
            yield self._chat([chunk], usage)

    def _last_chunk(self, usage: Usage) -> ChatChunk:
        return self._chat([], usage)

    def _chat(self, choices: list[ChatChunkChoice], usage: Usage | None) -> ChatChunk:
        return ChatChunk(self._id, self._generation.created, self._model, choices, usage=usage or UNSET)

    def _opening(self, piece: Piece, usage: Usage | None) -> ChatChunk:
        """The first chunk of a choice, with its role."""
        choice = piece.choice
        delta = Delta(choice.prompt.text, "assistant")
        if usage is not None:  # this chunk carries no token yet
            num_more = len(piece.token_ids)
            usage = replace(
                usage,
                completion_tokens=usage.completion_tokens - num_more,
                total_tokens=usage.total_tokens - num_more,
            )
        chunk = self._chat([ChatChunkChoice(choice.index, delta)], usage)
        if self._body.return_token_ids:
            chunk.prompt_token_ids = choice.prompt.token_ids
        return chunk

    def _chunk(self, piece: Piece) -> ChatChunkChoice | None:
        """The chunk of a piece; None if there is nothing to send yet."""
        logprobs = self._logprobs(piece)
        ids = self._body.return_token_ids
        if not (piece.text or logprobs or piece.finish_reason or ids):
            return None
        return ChatChunkChoice(
            piece.choice.index,
            Delta(piece.text) if piece.text or logprobs else Delta(),
            logprobs,
            piece.finish_reason,
            piece.stop_reason if piece.finish_reason else UNSET,
            piece.token_ids if ids else None,
        )

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        return self._format.chat(piece.logprobs) if self._body.logprobs and piece.logprobs else None
