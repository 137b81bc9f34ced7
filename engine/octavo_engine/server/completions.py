"""POST /v1/completions."""

from __future__ import annotations

import time

from aiohttp import web
from msgspec import UNSET

from octavo_engine.errors import EngineDeadError, RequestError
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.error_responses import json_response
from octavo_engine.server.event_stream import EventStream
from octavo_engine.server.generation import Choice, Generation, GenerationError, Piece, Prompt, start
from octavo_engine.server.intake import answer_id, read_body
from octavo_engine.server.logprobs import LogprobFormat
from octavo_engine.server.protocol import CompletionBody
from octavo_engine.server.responses import Completion, CompletionChoice, CompletionLogprobs, Usage
from octavo_engine.server.sampling import check_num_sequences, sampling_params, truncated, with_room


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue texts: one choice for each prompt and each of `n`."""
    arrived = time.time()
    context = request.app[CONTEXT]
    body = await read_body(request, CompletionBody)
    model = context.check_model(body.model)
    if body.best_of not in {None, body.n or 1}:
        raise RequestError("best_of: choosing the best of several is not served yet; leave it out", "best_of")
    prompts = await _prompts(context, body)
    generation = start(context, body, prompts, arrived)
    writer = CompletionWriter(context, body, generation, answer_id(request, body, "cmpl"), model)
    try:
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


async def _prompts(context: ServerContext, body: CompletionBody) -> list[Prompt]:
    given = body.prompt
    texts_or_ids: list[str | list[int]] = []
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        texts_or_ids.append(given)
    else:
        texts_or_ids.extend(given)  # type: ignore[arg-type]
    if not texts_or_ids:
        raise RequestError("prompt is empty: send at least one", "prompt")
    check_num_sequences(context, len(texts_or_ids), body.n or 1)
    logprobs_of_prompt = body.prompt_logprobs
    if body.echo and body.logprobs is not None and logprobs_of_prompt is None:
        logprobs_of_prompt = body.logprobs
    params = sampling_params(context, body, logprobs=body.logprobs, prompt_logprobs=logprobs_of_prompt)
    asked = body.max_tokens
    if asked == 0 and not body.echo:
        raise RequestError("max_tokens is 0, which only makes sense with echo: ask for 1 or more", "max_tokens")
    prompts = []
    for item in texts_or_ids:
        if isinstance(item, str):
            if body.truncate_prompt_tokens is None:
                context.check_length(item, "prompt")
            token_ids = await context.encode(item, add_special_tokens=body.add_special_tokens)
        else:
            token_ids = item
            context.check_token_ids(token_ids, "prompt")
        token_ids = truncated(context, body, token_ids, asked)
        text = ""
        if body.echo:
            text = item if isinstance(item, str) else context.tokenizer.decode(token_ids)
        prompts.append(Prompt(token_ids, with_room(context, params, len(token_ids), asked, "prompt"), text))
    return prompts


class CompletionWriter:
    """Writes one request's answer, whole or in chunks."""

    def __init__(
        self, context: ServerContext, body: CompletionBody, generation: Generation, id_: str, model: str
    ) -> None:
        self._context = context
        self._body = body
        self._generation = generation
        self._id = id_
        self._model = model
        self._format = LogprobFormat(
            context.tokenizer, body.logprobs or 0, as_token_ids=bool(body.return_tokens_as_token_ids)
        )

    async def whole(self) -> web.Response:
        answers: dict[int, CompletionChoice] = {}
        token_ids: dict[int, list[int]] = {}
        texts: dict[int, list[str]] = {}
        async for pieces in self._generation.pieces():
            for piece in pieces:
                index = piece.choice.index
                if index not in answers:
                    answers[index] = CompletionChoice(index, "", self._echoed_logprobs(piece.choice))
                    texts[index] = [piece.choice.prompt.text]
                    token_ids[index] = []
                answer = answers[index]
                texts[index].append(piece.text)
                token_ids[index] += piece.token_ids
                answer.finish_reason, answer.stop_reason = piece.finish_reason, piece.stop_reason
                answer.logprobs = _joined(answer.logprobs, self._logprobs(piece))
        for choice in self._generation.choices.values():
            answer = answers[choice.index]
            answer.text = "".join(texts[choice.index])
            if self._body.return_token_ids:
                answer.token_ids = token_ids[choice.index]
                answer.prompt_token_ids = choice.prompt.token_ids
            if self._body.prompt_logprobs is not None and choice.prompt_logprobs is not None:
                answer.prompt_logprobs = self._format.prompt(choice.prompt_logprobs)
        choices = [answers[index] for index in sorted(answers)]
        return json_response(
            Completion(self._id, self._generation.created, self._model, choices, usage=self._generation.usage())
        )

    async def stream(self, request: web.Request) -> web.StreamResponse:
        events = EventStream(request)
        options = self._body.stream_options
        continuous = options is not None and options.include_usage and options.continuous_usage_stats
        try:
            async for pieces in self._generation.pieces():
                for piece in pieces:
                    chunk = self._chunk(piece)
                    if chunk is not None:
                        events.event(self._completion([chunk], self._generation.usage() if continuous else None))
                await events.flush()
        except (GenerationError, EngineDeadError) as error:
            return await events.fail(error)
        if options is not None and options.include_usage:
            events.event(self._completion([], self._generation.usage()))
        return await events.end()

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(self._id, self._generation.created, self._model, choices, usage=usage or UNSET)

    def _chunk(self, piece: Piece) -> CompletionChoice | None:
        """The chunk of a piece; None if it says nothing yet."""
        choice, text = piece.choice, piece.text
        logprobs = self._logprobs(piece)
        first = not choice.begun
        if first:
            choice.begun = True
            text = choice.prompt.text + text
            logprobs = _joined(self._echoed_logprobs(choice), logprobs)
        ids = self._body.return_token_ids
        if not (text or logprobs or piece.finish_reason or ids):
            return None
        return CompletionChoice(
            choice.index,
            text,
            logprobs,
            piece.finish_reason,
            piece.stop_reason,
            token_ids=piece.token_ids if ids else UNSET,
            prompt_token_ids=choice.prompt.token_ids if ids and first else UNSET,
            prompt_logprobs=self._format.prompt(choice.prompt_logprobs)
            if first and self._body.prompt_logprobs is not None and choice.prompt_logprobs is not None
            else UNSET,
        )

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        if piece.logprobs is None or self._body.logprobs is None:
            return None
        shift = len(piece.choice.prompt.text)
        return self._format.completion(piece.logprobs, piece.token_ids, piece.offsets, shift)

    def _echoed_logprobs(self, choice: Choice) -> CompletionLogprobs | None:
        if not self._body.echo or self._body.logprobs is None or choice.prompt_logprobs is None:
            return None
        token_ids = choice.prompt.token_ids[: len(choice.prompt_logprobs)]
        offsets, position = [], 0
        for token_id in token_ids:
            offsets.append(position)
            position += len(self._context.tokenizer.token_text(token_id))
        return self._format.completion(choice.prompt_logprobs, token_ids, offsets, 0)


def _joined(first: CompletionLogprobs | None, second: CompletionLogprobs | None) -> CompletionLogprobs | None:
    if first is None or second is None:
        return second if first is None else first
    first.text_offset += second.text_offset
    first.token_logprobs += second.token_logprobs
    first.tokens += second.tokens
    first.top_logprobs += second.top_logprobs
    return first
