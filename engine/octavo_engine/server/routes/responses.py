"""POST /v1/responses, and the responses that are stored: get, cancel, delete."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.server.answer.chat_parts import shown, whole_message
from octavo_engine.server.answer.error_responses import json_response, status_and_message
from octavo_engine.server.answer.reading import answer_reading
from octavo_engine.server.answer.response_items import (
    Event,
    ItemStream,
    RawMessage,
    Response,
    Status,
    numbered,
    usage_of,
)
from octavo_engine.server.answer.responses import Usage
from octavo_engine.server.answer.writer import AnswerWriter
from octavo_engine.server.auth import KEY
from octavo_engine.server.context import CONTEXT, ServerContext
from octavo_engine.server.generation import Choice, Generation, Piece, start
from octavo_engine.server.intake.admission import SHARE, cache_salt, read_body
from octavo_engine.server.intake.prepare import prepare
from octavo_engine.server.intake.protocol import ChatBody
from octavo_engine.server.intake.responses import ResponsesBody, chat_of, messages_of, namespaces_of
from octavo_engine.server.intake.tools import ToolUse, tool_use
from octavo_engine.server.stored_responses import Stored, num_characters
from octavo_engine.text.answer_events import AnswerEvent

logger = logging.getLogger(__name__)


async def responses(request: web.Request) -> web.StreamResponse:
    """Answer a conversation of items with further items."""
    arrived = time.monotonic()
    context = request.app[CONTEXT]
    body = await read_body(request, ResponsesBody)
    model = context.check_model(body.model)
    key = request.get(KEY)
    if body.background and (body.stream or body.store is False):
        raise RequestError(
            "background is for responses that are stored and not streamed: leave out stream and store", "background"
        )
    earlier: list[dict[str, Any]] = []
    if body.previous_response_id is not None:
        earlier = _finished(context.responses.get(body.previous_response_id, key, "previous_response_id"))
    chat = chat_of(body, earlier)
    use = tool_use(context, chat)
    prompts = await prepare(context, chat, use)
    reading = answer_reading(context, chat, use)
    messages = [*earlier, *messages_of(body.input)]
    repeated = _repeated(body, chat, prompts[0].sampling[0])
    with ExitStack() as ends:
        generation = start(context, chat, prompts, arrived, cache_salt(request, chat), model, reading)
        ends.callback(generation.close)
        response = Response(f"resp_{uuid.uuid4().hex}", generation.created, model, "in_progress", **repeated)
        stored = Stored(response, key, messages)
        writer = ResponsesWriter(context, chat, generation, stored, use, raw=body.enable_response_messages)
        chat.messages = []  # the engine has the tokens: free the memory
        request[SHARE].give_back()
        if body.store is not False:
            context.responses.add(stored)
        if body.background:
            answer = _in_background(writer, generation, stored)
            ends.pop_all()  # it goes on
            return answer
        ends.callback(writer.end_early)
        return await (writer.stream(request) if body.stream else writer.whole())


async def get_response(request: web.Request) -> web.Response:
    """One stored response, whole or as far as it is."""
    return json_response(_stored(request).response)


async def cancel_response(request: web.Request) -> web.Response:
    """End a response that is made in the background."""
    stored = _stored(request)
    if stored.cancel is None and stored.task is None:
        raise RequestError("only responses with background: true can be cancelled", "response_id")
    if stored.cancel is not None:
        stored.cancel()
    return json_response(stored.response)


async def delete_response(request: web.Request) -> web.Response:
    """Forget a stored response."""
    response_id = request.match_info["response"]
    request.app[CONTEXT].responses.delete(response_id, request.get(KEY))
    return json_response(Deleted(response_id))


class Deleted(msgspec.Struct):
    """The answer of a deletion."""

    id: str
    object: str = "response"
    deleted: bool = True


def _stored(request: web.Request) -> Stored:
    return request.app[CONTEXT].responses.get(request.match_info["response"], request.get(KEY))


def _finished(stored: Stored) -> list[dict[str, Any]]:
    """The conversation up to a response that is whole."""
    if stored.response.status in {"queued", "in_progress"}:
        raise RequestError(
            "previous_response_id names a response that is still being made: wait for its end", "previous_response_id"
        )
    return stored.messages


def _in_background(writer: ResponsesWriter, generation: Generation, stored: Stored) -> web.Response:
    """Go on without the client, which asks for the response again."""

    async def work() -> None:
        try:
            await writer.whole()
        except asyncio.CancelledError:
            stored.response.status = "cancelled"
        except Exception as error:
            writer.fail(error)
            if status_and_message(error)[0] == 500:
                logger.exception("the response %s failed in the background", stored.response.id)
        finally:
            generation.close()
            stored.cancel = None

    def cancel() -> None:
        stored.response.status = "cancelled"
        generation.close()
        if stored.task is not None:
            stored.task.cancel()

    answer = json_response(msgspec.structs.replace(stored.response, status="queued"))
    stored.cancel = cancel
    stored.task = asyncio.ensure_future(work())
    return answer


def _repeated(body: ResponsesBody, chat: ChatBody, sampling: SamplingParams) -> dict[str, Any]:
    """The fields of a request that its response repeats, with what they came to."""
    text_format = None if body.text is None else body.text.format
    shown_format = {"type": "text"} if text_format is None else text_format.model_dump(by_alias=True, exclude_none=True)
    reasoning = {"effort": chat.reasoning_effort, "summary": None if body.reasoning is None else body.reasoning.summary}
    return {
        "instructions": body.instructions,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools or [],
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_output_tokens": sampling.max_tokens,
        "max_tool_calls": body.max_tool_calls,
        "previous_response_id": body.previous_response_id,
        "reasoning": reasoning,
        "text": {"format": shown_format, "verbosity": None if body.text is None else body.text.verbosity},
        "truncation": body.truncation or "disabled",
        "background": body.background,
        "store": body.store is not False,
        "user": body.user,
    }


@dataclass(slots=True)
class ResponsePart:
    """A piece of the answer, or all of it."""

    events: list[AnswerEvent]
    logprobs: list[Raw]
    finish_reason: str | None


class ResponsesWriter(AnswerWriter[ChatBody, ResponsePart]):
    """An answer has one choice; its items follow each other."""

    named_events = True
    hides_cached = False

    def __init__(
        self,
        context: ServerContext,
        body: ChatBody,
        generation: Generation,
        stored: Stored,
        use: ToolUse,
        *,
        raw: bool = False,
    ) -> None:
        super().__init__(context, body, generation, stored.response.id, stored.response.model)
        self._context = context
        self._use = use
        self._stored = stored
        self._items = ItemStream(namespaces_of(stored.response.tools))
        self._numbers = itertools.count()
        self._all: list[AnswerEvent] = []
        self._raw: list[int] | None = [] if raw else None  # the answer's tokens, where they are asked for

    def fail(self, error: Exception) -> None:
        """Let the response end with an error."""
        status, message = status_and_message(error)
        code = "server_error" if status >= 500 else "invalid_prompt"
        self._end("failed", error={"code": code, "message": message})

    def end_early(self) -> None:
        """Let a response whose client has gone end, unless it has ended."""
        if self._stored.response.status == "in_progress":
            self._end("cancelled")

    def _part(self, piece: Piece) -> ResponsePart:
        self._note_tokens(piece)
        return ResponsePart(self._shown(piece), self._logprobs(piece), piece.finish_reason)

    def _note_tokens(self, piece: Piece) -> None:
        if self._raw is not None:
            self._raw += piece.token_ids

    def _joined(self, parts: Sequence[ResponsePart]) -> ResponsePart:
        events = [event for part in parts for event in part.events]
        return ResponsePart(events, [entry for part in parts for entry in part.logprobs], parts[-1].finish_reason)

    def _opened(self, part: ResponsePart, choice: Choice) -> ResponsePart:  # noqa: ARG002 — nothing is echoed
        return part

    def _answer(self, choices: list[ResponsePart]) -> msgspec.Struct:
        (part,) = choices
        self._all = part.events
        for _ in self._items.events(part.events, part.logprobs or None):
            pass
        self._finish(part.finish_reason)
        return self._stored.response

    def _chunks(self, piece: Piece, usage: Usage | None) -> Iterator[Event]:  # noqa: ARG002
        yield from numbered(self._events(piece), self._numbers.__next__)

    def _events(self, piece: Piece) -> Iterator[Event]:
        response = self._stored.response
        if not piece.choice.begun:
            for kind in ("created", "in_progress"):
                yield Event(f"response.{kind}", response=response)
        self._note_tokens(piece)
        events = self._shown(piece)
        self._all += events
        yield from self._items.events(events, self._logprobs(piece) or None)
        if piece.finish_reason is not None:
            yield from self._items.close("incomplete" if piece.finish_reason == "length" else "completed")
            self._finish(piece.finish_reason)
            yield Event(f"response.{response.status}", response=response)

    def _finish(self, reason: str | None) -> None:
        if reason == "length":
            for _ in self._items.close("incomplete"):
                pass
            self._end("incomplete", incomplete_details={"reason": "max_output_tokens"})
            return
        for _ in self._items.close():
            pass
        self._end("completed")

    def _end(self, status: Status, **fields: Any) -> None:
        response = self._stored.response
        response.status = status
        response.output = self._items.items
        response.usage = usage_of(self._generation.usage())
        for name, value in fields.items():
            setattr(response, name, value)
        raw_size = self._show_tokens(response)
        message = whole_message(self._all)
        said: dict[str, Any] = {"role": "assistant", "content": message.content}
        if message.reasoning is not None:
            said["reasoning"] = message.reasoning
        if message.tool_calls:
            said["tool_calls"] = msgspec.to_builtins(message.tool_calls)
        self._context.responses.grow(self._stored, said, num_characters(said) + raw_size)

    def _show_tokens(self, response: Response) -> int:
        """Add the prompt and the answer as the model has them. Returns the characters that they take, about."""
        if self._raw is None:
            return 0
        (choice,) = self._generation.choices.values()
        decode = self._context.tokenizer.decode
        given, made = (RawMessage(decode(tokens), tokens) for tokens in (choice.prompt.token_ids, self._raw))
        response.input_messages, response.output_messages = [given], [made]
        return 2 * (len(given.message) + len(made.message))

    def _last_chunk(self, usage: Usage) -> msgspec.Struct:
        raise NotImplementedError("the end of a response has its usage")

    def _failure(self, error: Exception) -> msgspec.Struct:
        self.fail(error)
        event = Event("response.failed", response=self._stored.response)
        return next(numbered([event], self._numbers.__next__))

    def _shown(self, piece: Piece) -> list[AnswerEvent]:
        return list(shown(piece.events, reasoning=True, parallel=self._use.parallel))

    def _logprobs(self, piece: Piece) -> list[Raw]:
        return self._format.chat(piece.logprobs).content if self._body.logprobs and piece.logprobs else []
