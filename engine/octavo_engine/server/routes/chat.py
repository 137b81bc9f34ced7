"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from msgspec import UNSET
from msgspec.structs import replace

from octavo_engine.errors import RequestError
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
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Piece, Prompt, start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.limits import MAX_MESSAGES
from octavo_engine.server.intake.protocol import ChatBody, TokenizeBody
from octavo_engine.server.intake.sampling import (
    bad_words,
    check_num_sequences,
    check_size,
    sampling_params,
    truncated,
    with_room,
)
from octavo_engine.text.turn_end import turn_ends


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a chat: one choice for each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, ChatBody)
    model = context.check_model(body.model)
    check_num_sequences(context, 1, body.n or 1)
    _check(body)
    params = sampling_params(
        context,
        body,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
        bad_words=await bad_words(context, body.bad_words or ()),
    )
    text = await render(context, body)
    if body.chat_template is not None:
        ends = await context.pools.run(
            "render", turn_ends, context.chat_template, context.tokenizer, body.chat_template
        )
        params = replace(params, eos_token_ids=context.ends(ends))
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if body.truncate_prompt_tokens is None:
        context.check_length(text, "messages")
    (token_ids,) = await context.encode([text], "messages", add_special_tokens=body.add_special_tokens)
    token_ids = truncated(context, body, token_ids, asked)
    fitted = with_room(context, params, token_ids, asked, "messages", body.n or 1)
    prompt = Prompt(token_ids, fitted, _echoed(body))
    check_size(context, [token_ids], body.n or 1, params)
    generation = start(context, body, [prompt], arrived, cache_salt(request, body))
    body.messages, body.tools, body.documents, body.chat_template_kwargs = [], None, None, None  # the engine has it all
    request[SHARE].give_back()
    writer = ChatWriter(context, body, generation, answer_id(request, body, "chatcmpl"), model)
    try:
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


async def render(context: ServerContext, body: ChatBody | TokenizeBody) -> str:
    """The text of the prompt, from the chat template.

    Raises:
        RequestError: the messages or the template are wrong, or the request brings a template and may not.
    """
    if body.chat_template is not None and not context.config.server.allow_request_chat_template:
        raise RequestError(
            "chat_template: templates of requests are not run; serve with --chat-template, or "
            "--trust-request-chat-template where every client is trusted",
            "chat_template",
        )
    if body.messages is not None and len(body.messages) > MAX_MESSAGES:
        raise RequestError(
            f"messages has {len(body.messages)} entries; at most {MAX_MESSAGES} are served: leave out or join old ones",
            "messages",
        )
    variables: dict[str, Any] = dict(body.chat_template_kwargs or {})
    documents = None
    if isinstance(body, ChatBody):
        documents = body.documents
        if body.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", body.reasoning_effort)
    return await context.pools.run(
        "render",
        context.chat_template.render,
        body.messages or [],
        tools=body.tools,
        documents=documents,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        variables=variables,
    )


def _check(body: ChatBody) -> None:
    if body.top_logprobs and not body.logprobs:  # 0 asks for none: clients that always send their number
        raise RequestError("top_logprobs needs logprobs: true", "top_logprobs")
    if body.tools and body.tool_choice != "none":
        raise RequestError(
            "tools: tool calls are not parsed yet, so a call would reach the client as text; leave tools out, "
            "or send tool_choice 'none' to have them in the prompt only",
            "tool_choice" if body.tool_choice is not None else "tools",
        )
    if body.tool_choice not in (None, "none", "auto"):
        raise RequestError("tool_choice: tool calls are not served yet; send 'none' or leave it out", "tool_choice")


def _echoed(body: ChatBody) -> str:
    """With `echo`, the last message's text comes back before the answer that continues it."""
    if not body.echo or not body.messages:
        return ""
    content = body.messages[-1].get("content")
    return content if isinstance(content, str) else ""


class ChatWriter(AnswerWriter[ChatBody]):
    """A choice's first chunk tells its role."""

    def _answer(self, pieces: list[Piece]) -> ChatCompletion:
        usage = self._generation.usage()
        choices = [self._choice(piece) for piece in pieces]
        result = ChatCompletion(self._id, self._generation.created, self._model, choices, usage)
        first = next(iter(self._generation.choices.values()))
        if self._body.return_token_ids:
            result.prompt_token_ids = first.prompt.token_ids
        if first.prompt_logprobs is not None and self._body.prompt_logprobs is not None:
            result.prompt_logprobs = self._format.prompt(first.prompt_logprobs)
        return result

    def _choice(self, piece: Piece) -> ChatChoice:
        return ChatChoice(
            piece.choice.index,
            ChatMessage(piece.choice.prompt.text + piece.text),
            self._logprobs(piece),
            piece.finish_reason,
            piece.stop_reason,
            piece.token_ids if self._body.return_token_ids else None,
        )

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
        """The chunk with the role, which every choice begins with."""
        choice = piece.choice
        delta = Delta(choice.prompt.text, "assistant")
        if usage is not None:  # what this chunk brings is no token yet
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
        """The chunk of a piece; None if it says nothing yet."""
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
