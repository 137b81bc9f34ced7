"""POST /inference/v1/generate and /inference/v1/abort_requests: from token ids to token ids."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.responses import ChatLogprobs, Usage
from octavo_engine.server.answer.token_responses import (
    TokensChoice,
    TokensChunk,
    TokensLogprobs,
    TokensResponse,
    by_id,
    own_first,
)
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Choice, Generation, Piece, start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import CompletionBody
from octavo_engine.server.intake.token_bodies import AbortBody, GenerateBody, completion_of
from octavo_engine.server.intake.tools import NO_TOOLS
from octavo_engine.server.routes.server_state import Status


def check_scale_out(context: ServerContext) -> None:
    """Raise RequestError (403) where the endpoints that split a request are not served."""
    if not context.config.api.scale_out:
        raise RequestError("this endpoint is switched off: serve with --enable-scale-out", status=403)


async def generate(request: web.Request) -> web.StreamResponse:
    """Generate from a generate request: one choice for each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    check_scale_out(context)
    given = await read_body(request, GenerateBody)
    model = context.check_model(given.model)
    body = completion_of(given, tokens_only=context.config.api.tokens_only)
    prompts = await prepare(context, body, NO_TOOLS)
    generation = start(context, body, prompts, arrived, cache_salt(request, body), model)
    try:
        request[SHARE].give_back()
        name = answer_id(request, body, "generate-tokens")
        writer = TokensWriter(context, body, generation, name, model, text=given.output_mode == "text")
        with context.running.named(name, generation.abort):
            return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


async def abort_requests(request: web.Request) -> web.Response:
    """End requests by the ids that their chunks have; unknown ones are ignored."""
    context = request.app[CONTEXT]
    check_scale_out(context)
    body = await read_body(request, AbortBody)
    context.running.abort(body.request_ids)
    return json_response(Status("ok"))


class TokensWriter(AnswerWriter[CompletionBody, TokensChoice]):
    """A whole choice and the next piece of one have the same shape. `text`: with the text of the tokens."""

    def __init__(
        self, context: ServerContext, body: CompletionBody, generation: Generation, id_: str, model: str, *, text: bool
    ) -> None:
        super().__init__(context, body, generation, id_, model)
        self._with_text = text
        self._num_top = self._sampling.logprobs

    @property
    def _mode(self) -> str:
        return "text" if self._with_text else "tokens"

    def _answer(self, choices: list[TokensChoice]) -> TokensResponse:
        first = next(iter(self._generation.choices.values()))
        logprobs = first.prompt_logprobs if self._body.prompt_logprobs is not None else None
        return TokensResponse(
            self._id,
            choices,
            self._mode,
            self._usage(),
            first.prompt.token_ids if self._body.return_token_ids else None,
            model=self._model,
            created=self._generation.created,
            prompt_logprobs=None if logprobs is None else self._format.prompt(logprobs),
        )

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[TokensChunk]:
        part = self._part(piece)
        if part.token_ids or part.finish_reason or (self._with_text and part.text):
            chunk = TokensChunk(self._id, [part], self._mode, usage)
            if self._body.return_token_ids and not piece.choice.begun:
                chunk.prompt_token_ids = piece.choice.prompt.token_ids
            yield chunk

    def _last_chunk(self, usage: Usage) -> TokensChunk:
        return TokensChunk(self._id, [], self._mode, usage)

    def _part(self, piece: Piece) -> TokensChoice:
        part = TokensChoice(
            piece.choice.index, piece.token_ids, self._logprobs(piece), piece.finish_reason, piece.stop_reason
        )
        if self._with_text:
            part.text = piece.text
        return part

    def _joined(self, parts: Sequence[TokensChoice]) -> TokensChoice:
        last = parts[-1]
        joined = TokensChoice(
            last.index,
            [token for part in parts for token in part.token_ids],
            _joined([part.logprobs for part in parts]),
            last.finish_reason,
            last.stop_reason,
        )
        if self._with_text:
            joined.text = "".join([part.text for part in parts if isinstance(part.text, str)])
        return joined

    def _opened(self, part: TokensChoice, choice: Choice) -> TokensChoice:  # noqa: ARG002 — nothing is echoed
        return part

    def _logprobs(self, piece: Piece) -> TokensLogprobs | ChatLogprobs | None:
        if piece.logprobs is None or self._num_top is None:
            return None
        if self._with_text:
            return self._format.chat([own_first(entry, self._num_top) for entry in piece.logprobs])
        return TokensLogprobs([by_id(entry, self._num_top) for entry in piece.logprobs])


def _joined(parts: Sequence[TokensLogprobs | ChatLogprobs | None]) -> TokensLogprobs | ChatLogprobs | None:
    found = [part for part in parts if part is not None]
    for part in found[1:]:
        found[0].content += part.content  # type: ignore[operator]  # all are of one kind
    return found[0] if found else None
