"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from octavo_engine.errors import RequestError
from octavo_engine.server.answer.responses import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
    WholeCompletion,
)
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Choice, Generation, Piece, Prompt, start
from octavo_engine.server.intake.admission import SHARE, answer_id, cache_salt, read_body
from octavo_engine.server.intake.limits import FEW_TOKENS
from octavo_engine.server.intake.protocol import CompletionBody
from octavo_engine.server.intake.sampling import (
    bad_words,
    check_num_sequences,
    check_size,
    sampling_params,
    truncated,
    with_room,
)
from octavo_engine.text.detokenizer import decoded_prompt, token_offsets


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue texts: one choice for each prompt and each of `n`."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, CompletionBody)
    model = context.check_model(body.model)
    if body.best_of not in {None, body.n or 1}:
        raise RequestError("best_of: choosing the best of several is not served yet; leave it out", "best_of")
    prompts = await _prompts(context, body)
    generation = start(context, body, prompts, arrived, cache_salt(request, body))
    body.prompt = ""  # the engine has it, as tokens: it need not wait here too
    request[SHARE].give_back()
    writer = CompletionWriter(context, body, generation, answer_id(request, body, "cmpl"), model)
    try:
        return await (writer.stream(request) if body.stream else writer.whole())
    finally:
        generation.close()


async def _prompts(context: ServerContext, body: CompletionBody) -> list[Prompt]:
    given = body.prompt
    # What the first element is, all are: the body has been checked.
    items: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    if not items:
        raise RequestError("prompt is empty: send at least one", "prompt")
    check_num_sequences(context, len(items), body.n or 1)
    logprobs_of_prompt = body.prompt_logprobs
    if body.echo and body.logprobs is not None and logprobs_of_prompt is None:
        logprobs_of_prompt = body.logprobs
    banned = await bad_words(context, body.bad_words or ())
    params = sampling_params(
        context, body, logprobs=body.logprobs, prompt_logprobs=logprobs_of_prompt, bad_words=banned
    )
    asked = body.max_tokens
    if asked == 0 and not body.echo:
        raise RequestError("max_tokens is 0, which only makes sense with echo: ask for 1 or more", "max_tokens")
    if isinstance(items[0], str):
        if body.truncate_prompt_tokens is None:
            for text in items:
                context.check_length(text, "prompt")
        encoded = await context.encode(items, "prompt", add_special_tokens=body.add_special_tokens)
    else:
        encoded = items
        for token_ids in encoded:
            context.check_token_ids(token_ids, "prompt")
    cut = [truncated(context, body, token_ids, asked) for token_ids in encoded]
    sequences = len(cut) * (body.n or 1)
    fitted = [with_room(context, params, token_ids, asked, "prompt", sequences) for token_ids in cut]
    check_size(context, cut, body.n or 1, params)
    texts = [""] * len(cut)
    if body.echo:
        # A text is echoed as it was sent, unless it was cut.
        known = [
            item if isinstance(item, str) and len(kept) == len(all_) else None
            for item, kept, all_ in zip(items, cut, encoded, strict=True)
        ]
        texts = await _echoed(context, known, cut, continued=asked > 0)
    return [Prompt(*prompt) for prompt in zip(cut, fitted, texts, strict=True)]


async def _echoed(
    context: ServerContext, texts: list[str | None], prompts: list[list[int]], *, continued: bool
) -> list[str]:
    def work() -> list[str]:
        return [
            decoded_prompt(context.tokenizer, token_ids, continued=continued) if text is None else text
            for text, token_ids in zip(texts, prompts, strict=True)
        ]

    return work() if sum(map(len, prompts)) <= FEW_TOKENS else await context.pools.run("decode", work)


class CompletionWriter(AnswerWriter[CompletionBody]):
    """A choice whole and a choice's next piece have one shape."""

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
        """The first piece of a choice brings what is told of its prompt."""
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
