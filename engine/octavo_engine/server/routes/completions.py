"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from aiohttp import web
from msgspec import UNSET

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
from octavo_engine.server.intake.tools import NO_TOOLS
from octavo_engine.text.detokenizer import token_offsets


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue texts: one choice for each prompt and each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, CompletionBody)
    model = context.check_model(body.model)
    prompts = await prepare(context, body, NO_TOOLS)
    generation = start(context, body, prompts, arrived, cache_salt(request, body), model)
    try:
        body.prompt = ""  # the engine has its tokens: free the memory
        request[SHARE].give_back()
        writer = CompletionWriter(context, body, generation, answer_id(request, body, "cmpl"), model)
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


class CompletionWriter(AnswerWriter[CompletionBody, CompletionChoice]):
    """A whole choice and the next piece of one have the same shape."""

    def __init__(
        self, context: ServerContext, body: CompletionBody, generation: Generation, id_: str, model: str
    ) -> None:
        super().__init__(context, body, generation, id_, model)
        self._tokenizer = context.tokenizer

    def _answer(self, choices: list[CompletionChoice]) -> WholeCompletion:
        answer = WholeCompletion(self._id, self._generation.created, self._model, choices, usage=self._usage())
        answer.metrics = self._times()
        answer.system_fingerprint = self._fingerprint
        return answer

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[Completion]:
        choice = self._part(piece)
        if not piece.choice.begun:
            choice = self._opened(choice, piece.choice)
        if choice.text or choice.logprobs or choice.finish_reason or self._body.return_token_ids:
            chunk = self._completion([choice], usage)
            chunk.system_fingerprint = self._signature(choice.finish_reason)
            yield chunk

    def _last_chunk(self, usage: Usage) -> Completion:
        chunk = self._completion([], usage)
        chunk.metrics = self._times()
        chunk.system_fingerprint = self._fingerprint
        return chunk

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(self._id, self._generation.created, self._model, choices, usage=usage or UNSET)

    def _part(self, piece: Piece) -> CompletionChoice:
        return CompletionChoice(
            piece.choice.index,
            piece.text,
            self._logprobs(piece),
            piece.finish_reason,
            piece.stop_reason,
            token_ids=piece.token_ids if self._body.return_token_ids else None,
        )

    def _joined(self, parts: Sequence[CompletionChoice]) -> CompletionChoice:
        last = parts[-1]
        return CompletionChoice(
            last.index,
            "".join([part.text for part in parts]),
            _joined([part.logprobs for part in parts]),
            last.finish_reason,
            last.stop_reason,
            token_ids=[token for part in parts for token in part.token_ids or ()]
            if last.token_ids is not None
            else None,
        )

    def _opened(self, part: CompletionChoice, choice: Choice) -> CompletionChoice:
        part.text = choice.prompt.text + part.text
        part.logprobs = _joined([self._echoed_logprobs(choice), part.logprobs])
        if self._body.return_token_ids:
            part.prompt_token_ids = choice.prompt.token_ids
        whole = not self._body.stream
        if choice.prompt_logprobs is not None and (whole or self._body.prompt_logprobs is not None):
            part.prompt_logprobs = self._format.prompt(choice.prompt_logprobs)
        if whole:
            part.prompt_logprobs = part.prompt_logprobs or None
            part.routed_experts = None
        return part

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        if piece.logprobs is None or self._body.logprobs is None:
            return None
        shift = len(piece.choice.prompt.text)
        num = len(piece.logprobs)  # of tokens that another server has drawn, fewer than those may have any
        return self._format.completion(piece.logprobs, piece.token_ids[:num], piece.offsets[:num], shift)

    def _echoed_logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        if not self._body.echo or self._body.logprobs is None or choice.prompt_logprobs is None:
            return None
        token_ids = choice.prompt.token_ids[: len(choice.prompt_logprobs)]
        offsets = token_offsets(self._tokenizer, token_ids, choice.prompt.text)
        return self._format.completion(choice.prompt_logprobs, token_ids, offsets, 0)


def _joined(parts: Iterable[CompletionLogprobs | None]) -> CompletionLogprobs | None:
    """All of them in order, as the first; None where there are none."""
    result: CompletionLogprobs | None = None
    for part in parts:
        if part is None:
            continue
        if result is None:
            result = part
            continue
        result.text_offset += part.text_offset
        result.token_logprobs += part.token_logprobs
        result.tokens += part.tokens
        result.top_logprobs += part.top_logprobs
    return result
