"""Writes one request's answer, whole or in chunks. The routes define the chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Generic, ParamSpec, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from octavo_engine.errors import EngineDeadError, RequestError
from octavo_engine.server.answer.error_responses import error_body, json_response
from octavo_engine.server.answer.event_stream import EventStream
from octavo_engine.server.answer.logprobs import LogprobFormat
from octavo_engine.server.answer.output_log import OutputLog
from octavo_engine.server.answer.responses import Usage
from octavo_engine.server.answer.times import RequestTimes
from octavo_engine.server.context import ServerContext
from octavo_engine.server.generation import Choice, Generation, GenerationError, Piece
from octavo_engine.server.intake.limits import FEW_LOGPROBS, FEW_TOKENS
from octavo_engine.server.intake.protocol import ChatBody, CompletionBody

Body = TypeVar("Body", CompletionBody, ChatBody)
Part = TypeVar("Part")
P = ParamSpec("P")
T = TypeVar("T")


class AnswerWriter(ABC, Generic[Body, Part]):
    """`id_` and `model` are those of the answer."""

    named_events: ClassVar[bool] = False  # in a stream
    hides_cached: ClassVar[bool] = True  # the number of cached prompt tokens, where the server does not say it

    def __init__(self, context: ServerContext, body: Body, generation: Generation, id_: str, model: str) -> None:
        self._body: Body = body
        self._pools = context.pools
        self._generation = generation
        self._id = id_
        self._model = model
        api = context.config.api
        asked = body.return_tokens_as_token_ids
        as_token_ids = api.return_tokens_as_token_ids if asked is None else asked
        self._log = OutputLog(id_) if api.log_outputs else None
        self._says_times = api.per_request_metrics
        self._force_usage = api.force_include_usage
        self._fingerprint = context.fingerprint
        options = body.stream_options
        self._with_usage = self._force_usage or (options is not None and options.include_usage)
        self._hide_cached = self.hides_cached and not api.prompt_tokens_details
        self._sampling = next(iter(generation.choices.values())).prompt.sampling[0]
        named = len(self._sampling.logprob_token_ids)
        num_top = named + 1 if named else self._sampling.logprobs or 0
        self._format = LogprobFormat(context.tokenizer, num_top, as_token_ids=as_token_ids)

    @abstractmethod
    def _part(self, piece: Piece) -> Part:
        """A piece in the shape of a choice, without the prompt's fields of a first piece."""

    @abstractmethod
    def _joined(self, parts: Sequence[Part]) -> Part:
        """One choice's parts, in order, as one."""

    @abstractmethod
    def _opened(self, part: Part, choice: Choice) -> Part:
        """`part`, which is the beginning of `choice`, with the prompt's fields."""

    @abstractmethod
    def _answer(self, choices: list[Part]) -> msgspec.Struct:
        """The whole answer."""

    @abstractmethod
    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterable[msgspec.Struct]:
        """The chunks of a piece in a stream; none while it has nothing to send."""

    @abstractmethod
    def _last_chunk(self, usage: Usage) -> msgspec.Struct:
        """The chunk without a choice that ends a stream with its usage."""

    def _usage(self, num_completed: int | None = None) -> Usage:
        """The tokens used; in the middle of an answer, up to one of its pieces."""
        usage = self._generation.usage(num_completed)
        if self._hide_cached:
            usage.prompt_tokens_details = None
        if self._body.stream:  # chunks have no keys that are null
            usage.prompt_tokens_details = usage.prompt_tokens_details or UNSET
            usage.completion_tokens_details = usage.completion_tokens_details or UNSET
        return usage

    def _times(self) -> RequestTimes | UnsetType | None:
        """The times of an answer that is one sequence, where the server says them; otherwise null, but in chunks."""
        if not self._says_times or len(self._generation.choices) > 1:
            return UNSET if self._body.stream else None
        return next(iter(self._generation.choices.values())).clock.times()

    def _signature(self, finish_reason: str | None) -> str | UnsetType:
        """The fingerprint, in the chunk that ends a choice unless one with the usage follows."""
        return self._fingerprint if finish_reason and not self._with_usage else UNSET

    def _failure(self, error: Exception) -> msgspec.Struct:
        """The event that ends a stream with `error`."""
        return error_body(error)

    async def whole(self) -> web.Response:
        parts: dict[int, list[Part]] = {choice.index: [] for choice in self._generation.choices.values()}
        num_parts = 0

        def collect(pieces: list[Piece]) -> None:
            for piece in pieces:
                parts[piece.choice.index].append(self._part(piece))

        while pieces := await self._generation.take():
            if self._log is not None:
                self._log.add(pieces)
            await self._run(self._num_logprobs(pieces), sum(len(piece.token_ids) for piece in pieces), collect, pieces)
            num_parts += len(pieces)
        self._generation.share_prompt_logprobs()
        choices = sorted(self._generation.choices.values(), key=lambda choice: choice.index)

        def write() -> web.Response:
            return json_response(self._answer([self._opened(self._joined(parts[c.index]), c) for c in choices]))

        return await self._run(self._num_prompt_logprobs(choices), num_parts, write)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The answer as events.

        Raises:
            GenerationError, EngineDeadError: before the answer has begun, so that it can have another status.
        """
        events = EventStream(request, named=self.named_events)
        options = self._body.stream_options
        continuous = self._force_usage or (
            options is not None and options.include_usage and options.continuous_usage_stats
        )
        try:
            while pieces := await self._next(events):
                if self._log is not None:
                    self._log.add(pieces)
                new = {id(piece.choice): piece.choice for piece in pieces if not piece.choice.begun}
                logprobs = self._num_logprobs(pieces) + self._num_prompt_logprobs(new.values())
                num_tokens = sum(len(piece.token_ids) for piece in pieces)
                await self._run(logprobs, num_tokens, self._collect, events, pieces, continuous)
                await events.flush()
        except (RequestError, GenerationError, EngineDeadError) as error:
            if not events.begun:
                raise
            return await events.fail(self._failure(error))
        if self._with_usage:
            events.event(self._last_chunk(self._usage()))
        return await events.end()

    def _collect(self, events: EventStream, pieces: list[Piece], continuous: bool) -> None:
        for piece in pieces:
            usage = self._usage(piece.num_completed) if continuous else None
            for chunk in self._chunks(piece, usage):
                events.event(chunk)
                piece.choice.begun = True

    async def _run(
        self, num_logprobs: int, num_tokens: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of `work`: from a pool where it takes longer than the event loop may."""
        if num_logprobs > FEW_LOGPROBS or num_tokens > FEW_TOKENS:
            return await self._pools.run("format", work, *args, **kwargs)
        return work(*args, **kwargs)

    def _num_logprobs(self, pieces: Iterable[Piece]) -> int:
        each = (self._sampling.logprobs or 0) + 1
        return sum(each * len(piece.logprobs) for piece in pieces if piece.logprobs)

    def _num_prompt_logprobs(self, choices: Iterable[Choice]) -> int:
        each = (self._sampling.prompt_logprobs or 0) + 1
        return sum(each * len(choice.prompt_logprobs or ()) for choice in choices)

    async def _next(self, events: EventStream) -> list[Piece]:
        """The next pieces; while there are none, comments keep the connection alive."""
        while True:
            try:
                return await self._generation.take(events.patience)
            except TimeoutError:
                await events.keep_alive()
