"""Writes one request's answer, whole or in chunks. What a chunk looks like is the route's matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec
from aiohttp import web

from octavo_engine.errors import EngineDeadError, RequestError
from octavo_engine.server.answer.error_responses import json_response
from octavo_engine.server.answer.event_stream import EventStream
from octavo_engine.server.answer.logprobs import LogprobFormat
from octavo_engine.server.answer.responses import Usage
from octavo_engine.server.context import ServerContext
from octavo_engine.server.generation import Generation, GenerationError, Piece
from octavo_engine.server.intake.limits import FEW_LOGPROBS, FEW_TOKENS
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody

Body = TypeVar("Body", CompletionBody, ChatBody)


class AnswerWriter(ABC, Generic[Body]):
    """`id_` and `model` are those of the answer."""

    def __init__(self, context: ServerContext, body: Body, generation: Generation, id_: str, model: str) -> None:
        self._body: Body = body
        self._pools = context.pools
        self._generation = generation
        self._id = id_
        self._model = model
        as_token_ids = bool(body.return_tokens_as_token_ids)
        num_top = next(iter(generation.choices.values())).prompt.sampling[0].logprobs or 0
        self._format = LogprobFormat(context.tokenizer, num_top, as_token_ids=as_token_ids)

    @abstractmethod
    def _answer(self, pieces: list[Piece]) -> msgspec.Struct:
        """The whole answer; each choice's pieces are joined into one."""

    @abstractmethod
    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterable[msgspec.Struct]:
        """What a piece comes to in a stream: nothing, while it says nothing."""

    @abstractmethod
    def _last_chunk(self, usage: Usage) -> msgspec.Struct:
        """The chunk without a choice that ends a stream with its usage."""

    async def whole(self) -> web.Response:
        pieces_of: dict[int, list[Piece]] = {}
        while pieces := await self._generation.take():
            for piece in pieces:
                pieces_of.setdefault(piece.choice.index, []).append(piece)
        self._generation.share_prompt_logprobs()

        def write() -> web.Response:
            return json_response(self._answer([_joined(pieces_of[index]) for index in sorted(pieces_of)]))

        pieces = [piece for some in pieces_of.values() for piece in some]
        return await self._pools.run("format", write) if self._is_long(pieces) else write()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The answer as events.

        Raises:
            GenerationError, EngineDeadError: before the answer has begun, so that it can have another status.
        """
        events = EventStream(request)
        options = self._body.stream_options
        with_usage = options is not None and options.include_usage
        continuous = options is not None and with_usage and options.continuous_usage_stats
        try:
            while pieces := await self._next(events):
                if self._is_long(pieces):
                    await self._pools.run("format", self._collect, events, pieces, continuous)
                else:
                    self._collect(events, pieces, continuous)
                await events.flush()
        except (RequestError, GenerationError, EngineDeadError) as error:
            if not events.begun:
                raise
            return await events.fail(error)
        if with_usage:
            events.event(self._last_chunk(self._generation.usage()))
        return await events.end()

    def _collect(self, events: EventStream, pieces: list[Piece], continuous: bool) -> None:
        for piece in pieces:
            usage = self._generation.usage(piece.num_completed) if continuous else None
            for chunk in self._chunks(piece, usage):
                events.event(chunk)
                piece.choice.begun = True

    def _is_long(self, pieces: list[Piece]) -> bool:
        """Whether writing `pieces` takes longer than the event loop may."""
        sampling = pieces[0].choice.prompt.sampling[0] if pieces else None
        if sampling is None:
            return False
        each = (sampling.logprobs or 0) + 1
        numbers = sum(each * len(piece.logprobs) for piece in pieces if piece.logprobs)
        unsaid = {id(piece.choice): piece.choice.prompt_logprobs or () for piece in pieces if not piece.choice.begun}
        numbers += sum(map(len, unsaid.values())) * ((sampling.prompt_logprobs or 0) + 1)
        return numbers > FEW_LOGPROBS or sum(len(piece.token_ids) for piece in pieces) > FEW_TOKENS

    async def _next(self, events: EventStream) -> list[Piece]:
        """The next pieces; the client sees meanwhile that the answer is on its way."""
        while True:
            try:
                return await self._generation.take(events.patience)
            except TimeoutError:
                await events.keep_alive()


def _joined(pieces: list[Piece]) -> Piece:
    """One choice's pieces, in order, as one."""
    logprobs = [entry for piece in pieces for entry in piece.logprobs or ()]
    return replace(
        pieces[-1],
        text="".join([piece.text for piece in pieces]),
        token_ids=[token for piece in pieces for token in piece.token_ids],
        offsets=[offset for piece in pieces for offset in piece.offsets],
        logprobs=logprobs or None,
    )
