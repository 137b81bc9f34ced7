"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import Iterator

from aiohttp import web

from octavo_engine.server.answer.responses import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
    WholeCompletion,
)
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Choice, Generation, Piece, start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import CompletionBody
from octavo_engine.text.detokenizer import token_offsets


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue texts: one choice for each prompt and each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, CompletionBody)
    model = context.check_model(body.model)
    prompts = await prepare(context, body)
    generation = start(context, body, prompts, arrived, cache_salt(request, body))
    body.prompt = ""  # the engine has its tokens: free the memory
    request[SHARE].give_back()
    writer = CompletionWriter(context, body, generation, answer_id(request, body, "cmpl"), model)
    try:
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


class CompletionWriter(AnswerWriter[CompletionBody]):
    """A whole choice and the next piece of one have the same shape."""

    def __init__(
        self, context: ServerContext, body: CompletionBody, generation: Generation, id_: str, model: str
    ) -> None:
        super().__init__(context, body, generation, id_, model)
        self._tokenizer = context.tokenizer

    def _answer(self, pieces: list[Piece]) -> WholeCompletion:
        choices = [self._choice(piece) for piece in pieces]
        return WholeCompletion(self._id, self._generation.created, self._model, choices, usage=self._generation.usage())

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[Completion]:
        choice = self._choice(piece)
        if choice.text or choice.logprobs or choice.finish_reason or self._body.return_token_ids:
            yield self._completion([choice], usage)

    def _last_chunk(self, usage: Usage) -> Completion:
        return self._completion([], usage)

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(self._id, self._generation.created, self._model, choices, usage=usage)

    def _choice(self, piece: Piece) -> CompletionChoice:
        """The choice of a piece; a choice's first piece also carries what the answer says about its prompt."""
        choice, text, ids = piece.choice, piece.text, self._body.return_token_ids
        result = CompletionChoice(
            choice.index,
            text,
            self._logprobs(piece),
            piece.finish_reason,
            piece.stop_reason,
            token_ids=piece.token_ids if ids else None,
        )
        if choice.begun:
            return result
        result.text = choice.prompt.text + text
        result.logprobs = _joined(self._echoed_logprobs(choice), result.logprobs)
        if ids:
            result.prompt_token_ids = choice.prompt.token_ids
        if self._body.prompt_logprobs is not None and choice.prompt_logprobs is not None:
            result.prompt_logprobs = self._format.prompt(choice.prompt_logprobs)
        return result

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        if piece.logprobs is None or self._body.logprobs is None:
            return None
        shift = len(piece.choice.prompt.text)
        return self._format.completion(piece.logprobs, piece.token_ids, piece.offsets, shift)

    def _echoed_logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        if not self._body.echo or self._body.logprobs is None or choice.prompt_logprobs is None:
            return None
        token_ids = choice.prompt.token_ids[: len(choice.prompt_logprobs)]
        offsets = token_offsets(self._tokenizer, token_ids, choice.prompt.text)
        return self._format.completion(choice.prompt_logprobs, token_ids, offsets, 0)


def _joined(first: CompletionLogprobs | None, second: CompletionLogprobs | None) -> CompletionLogprobs | None:
    if first is None or second is None:
        return second if first is None else first
    first.text_offset += second.text_offset
    first.token_logprobs += second.token_logprobs
    first.tokens += second.tokens
    first.top_logprobs += second.top_logprobs
    return first
