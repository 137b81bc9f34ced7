"""The sequences of one HTTP request: submitted together, their outputs turned into pieces of text as they arrive.

The same for completions and chats, streamed or whole; the handlers write the pieces.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from octavo_engine.errors import OctavoError, RequestError
from octavo_engine.messages import EngineOutput, EngineRequest, TokenLogprob
from octavo_engine.server.answer.reading import AnswerReading
from octavo_engine.server.answer.responses import PromptTokensDetails, ReasoningTokens, Usage
from octavo_engine.server.answer.times import Clock
from octavo_engine.server.beams.outputs import BeamOutputs
from octavo_engine.server.context import ServerContext
from octavo_engine.server.intake.prepare import Prompt
from octavo_engine.server.intake.protocol import ChatBody, SamplingBody
from octavo_engine.server.tracing import note_choices
from octavo_engine.text.answer_events import AnswerEvent, ContentText, joined
from octavo_engine.text.answer_parser import AnswerParser
from octavo_engine.text.stop_strings import StopStrings
from octavo_engine.text.text_stream import TextDelta, TextStream, joined_deltas

FORKED_TOKENS = 128  # of a prompt whose other choices wait for its blocks: a step may compute as many, once for all
REPETITION = "repetition_detected"  # vLLM's stop_reason


class GenerationError(OctavoError):
    """The engine ended a request with an error; the message is the engine's."""


@dataclass(slots=True)
class Piece:
    """The part of one choice that one output added."""

    choice: Choice
    text: str
    events: list[AnswerEvent]  # what the text amounts to
    token_ids: list[int]
    offsets: Sequence[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str | None
    stop_reason: str | int | None
    num_completed: int = 0  # tokens of all choices up to here


@dataclass(slots=True)
class Choice:
    """One sequence and its text so far. `index` is that of the answer's choice."""

    index: int
    prompt: Prompt
    text_stream: TextStream
    parser: AnswerParser | None = None  # None: all text is content
    num_reasoning: int = 0  # tokens
    num_cached: int = 0
    finished: bool = False
    prompt_logprobs: list[TokenLogprob | None] | None = None
    begun: bool = False  # whether its first piece was written
    clock: Clock = field(default_factory=Clock)

    def take(self, output: EngineOutput, *, ended_by_token: bool | None = None) -> Piece:
        """The piece that `output` amounts to; a stop string in it finishes the choice.

        `ended_by_token`: the last token is the EOS or stop token that ended the sequence; None: it is with reason "stop".
        """
        self.clock.note(output)
        reason = output.finish_reason
        ended_by_token = reason == "stop" if ended_by_token is None else ended_by_token
        if output.num_cached_tokens:
            self.num_cached = output.num_cached_tokens
        token_ids = output.new_token_ids
        delta, events = self._read(token_ids, finished=reason is not None, ended_by_token=ended_by_token)
        logprobs = output.logprobs
        stop: str | int | None = REPETITION if reason == "repetition" else output.stop_token_id
        if delta.stop is not None:
            reason, stop = "stop", delta.stop
            token_ids = token_ids[: delta.num_tokens]
            logprobs = logprobs[: delta.num_tokens] if logprobs is not None else None
        self.finished = reason is not None
        if self.finished and self.parser is not None:
            events += self.parser.finish()
        return Piece(self, delta.text, events, token_ids, delta.offsets, logprobs, reason, stop)

    def _read(
        self, token_ids: list[int], *, finished: bool, ended_by_token: bool
    ) -> tuple[TextDelta, list[AnswerEvent]]:
        """The text of `token_ids`, and what it amounts to."""
        if self.parser is None:
            delta = self.text_stream.add(token_ids, finished=finished, ended_by_token=ended_by_token)
            return delta, [ContentText(delta.text)] if delta.text else []
        deltas: list[TextDelta] = []
        events: list[AnswerEvent] = []
        # One by one, so that those of the reasoning can be counted.
        for at in range(max(1, len(token_ids))):
            last = finished and at >= len(token_ids) - 1
            delta = self.text_stream.add(token_ids[at : at + 1], finished=last, ended_by_token=ended_by_token and last)
            before = self.parser.in_reasoning
            events += self.parser.feed(delta.text)
            self.num_reasoning += delta.num_tokens * (before and self.parser.in_reasoning)
            deltas.append(delta)
            if delta.stop is not None:
                break
        return joined_deltas(deltas), joined(events)


class Outputs(Protocol):
    """The outputs of sequences: an `OutputStream` of the engine's, or those that another server has made."""

    async def get(self, seconds: float | None = None) -> list[EngineOutput]: ...

    def finish(self, request_id: str, reason: str) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Generation:
    """Everything that one HTTP request generates."""

    stream: Outputs
    choices: dict[str, Choice]  # by the engine's request id
    num_prompt_tokens: int
    counts_reasoning: bool = False
    interval: int = 1  # tokens of a choice that are taken together, but for its first ones
    cache_unit: int = 0  # tokens of a block of the prefix cache; 0: there is none
    held: dict[str, EngineOutput] = field(default_factory=dict)  # fewer than those, by request id
    num_completed: int = 0  # tokens of all choices
    created: int = field(default_factory=lambda: int(time.time()))

    async def take(self, seconds: float | None = None) -> list[Piece]:
        """All pieces since the last call, at least one; empty once every choice has finished.

        Raises:
            RequestError: one of them can't be generated as the request is.
            GenerationError: the engine could not go on with one of them.
            EngineDeadError: the engine is gone.
            TimeoutError: nothing has arrived for `seconds`.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while outputs := await self.stream.get(None if end is None else max(0.0, end - time.monotonic())):
            pieces = []
            for output in outputs if self.interval == 1 else self._gathered(outputs):
                choice = self.choices[output.request_id]
                if choice.finished:
                    continue
                if output.finish_reason == "error":
                    reason = output.error or "the engine could not run this request"
                    raise RequestError(reason) if output.refused else GenerationError(reason)
                if output.prompt_logprobs is not None:
                    choice.prompt_logprobs = [*(choice.prompt_logprobs or ()), *output.prompt_logprobs]
                    if not output.new_token_ids and output.finish_reason is None:
                        continue  # a part of them, which the first token follows
                piece = choice.take(output)
                self.num_completed += len(piece.token_ids)
                piece.num_completed = self.num_completed
                pieces.append(piece)
                if choice.finished and output.finish_reason is None:
                    self.stream.finish(output.request_id, "stop")
            if pieces:
                return pieces
        return []

    def _gathered(self, outputs: Iterable[EngineOutput]) -> Iterator[EngineOutput]:
        """The outputs that have `interval` tokens with what was held, or must not wait."""
        for new in outputs:
            held = self.held.pop(new.request_id, None)
            output = new
            if held is not None:
                logprobs = None if new.logprobs is None else [*(held.logprobs or ()), *new.logprobs]
                token_ids = [*held.new_token_ids, *new.new_token_ids]
                output = msgspec.structs.replace(new, new_token_ids=token_ids, logprobs=logprobs)
            waits = self.choices[new.request_id].begun and new.finish_reason is None and new.prompt_logprobs is None
            if waits and len(output.new_token_ids) < self.interval:
                self.held[new.request_id] = output
            else:
                yield output

    def usage(self, num_completed: int | None = None) -> Usage:
        """The tokens used; in the middle of an answer, up to one of its pieces."""
        completion = self.num_completed if num_completed is None else num_completed
        # Those of a prompt's first choice: the others find cached what the first has computed.
        first = {id(choice.prompt): choice.num_cached for choice in reversed(self.choices.values())}
        details = PromptTokensDetails(sum(first.values()), self._num_created())
        usage = Usage(self.num_prompt_tokens, self.num_prompt_tokens + completion, completion, details)
        if self.counts_reasoning:
            usage.completion_tokens_details = ReasoningTokens(sum(c.num_reasoning for c in self.choices.values()))
        return usage

    def _num_created(self) -> int:
        """Prompt tokens that were computed into whole blocks, which later requests find in the prefix cache."""
        if not self.cache_unit:
            return 0
        first = {id(choice.prompt): choice for choice in reversed(self.choices.values())}
        filled = (len(c.prompt.token_ids) // self.cache_unit * self.cache_unit - c.num_cached for c in first.values())
        return sum(max(0, created) for created in filled)

    def share_prompt_logprobs(self) -> None:
        """Copy the prompt's log-probabilities from its first choice to the others, once all have finished."""
        first = {id(choice.prompt): choice.prompt_logprobs for choice in reversed(self.choices.values())}
        for choice in self.choices.values():
            choice.prompt_logprobs = first[id(choice.prompt)]

    def abort(self) -> None:
        """End the unfinished choices with the reason "abort"; what they have generated is answered."""
        self.stream.abort()

    def close(self) -> None:
        """Abort the unfinished choices, unanswered."""
        self.stream.close()


def stop_strings(context: ServerContext, body: SamplingBody) -> StopStrings | None:
    """The request's own, and what ends a turn of the server's chat template; None without any.

    Raises:
        RequestError: the request's can't be honoured.
    """
    turns = turn_stops(context, body)
    return StopStrings(body.stop_strings, turns) if body.stop_strings or turns else None


def turn_stops(context: ServerContext, body: SamplingBody) -> tuple[str, ...]:
    """The strings that end a turn of the server's chat template, of a chat that it rendered."""
    chats = isinstance(body, ChatBody) and body.chat_template is None and not body.ignore_eos
    return context.turn_stops if chats else ()


def choices_of(
    context: ServerContext,
    body: SamplingBody,
    prompts: Sequence[Prompt],
    reading: AnswerReading | None,
    stop: StopStrings | None,
) -> dict[str, Choice]:
    """The choices of `prompts` in order, each for its sampling parameters, by the ids of their sequences."""
    number = next(context.sequence)
    choices: dict[str, Choice] = {}
    for prompt in prompts:
        for _ in prompt.sampling:
            index = len(choices)
            text_stream = TextStream(
                context.tokenizer,
                prompt.token_ids,
                stop=stop,
                include_stop_str_in_output=body.include_stop_str_in_output,
                min_tokens=body.min_tokens,
                skip_special_tokens=body.skip_special_tokens,
                kept_tokens=frozenset() if reading is None else reading.kept_tokens,
            )
            parser = None if reading is None else reading.parser(prompt.token_ids)
            choices[f"{number}.{index}"] = Choice(index, prompt, text_stream, parser)
    return choices


def _leaders(choices: Mapping[str, Choice]) -> dict[str, str]:
    """The id of the first choice of its prompt, by the id of each choice of a prompt that has several."""
    of_prompt: dict[int, list[str]] = {}
    for request_id, choice in choices.items():
        of_prompt.setdefault(id(choice.prompt), []).append(request_id)
    return {name: names[0] for names in of_prompt.values() for name in names if len(names) > 1}


def start(
    context: ServerContext,
    body: SamplingBody,
    prompts: Sequence[Prompt],
    arrived: float,
    salt: str,
    model: str,
    reading: AnswerReading | None = None,
) -> Generation:
    """Submit a sequence for each choice of each prompt. They share cached prefixes with requests of the same `salt` only.

    `model` is the name that `check_model` gave; `reading` is how their answers are read; None: their text is content.

    Raises:
        RequestError: a stop string can't be honoured, the model's adapter was unloaded, or the queue is full.
        EngineDeadError: the engine is gone.
    """
    choices = choices_of(context, body, prompts, reading, stop_strings(context, body))
    adapter_id = context.adapter_id(model)
    sampling = [params for prompt in prompts for params in prompt.sampling]
    leaders = _leaders(choices)
    requests = [
        EngineRequest(
            request_id=request_id,
            prompt_token_ids=choice.prompt.token_ids,
            sampling=params,
            arrival_time=arrived,
            priority=body.priority,
            cache_salt=salt,
            fork=leaders.get(request_id, ""),
            adapter_id=adapter_id,
        )
        for (request_id, choice), params in zip(choices.items(), sampling, strict=True)
    ]
    context.metrics.num_choices.observe(len(prompts[0].sampling))
    note_choices(len(prompts[0].sampling))
    context.metrics.max_tokens.observe(prompts[0].sampling[0].max_tokens)
    stream: Outputs
    if body.use_beam_search:
        left = iter(requests)
        of_prompts = [list(itertools.islice(left, len(prompt.sampling))) for prompt in prompts]
        stream = BeamOutputs(context.client, of_prompts, body.length_penalty)
    else:
        behind = {
            request.request_id: request.fork
            for request in requests
            if request.fork not in {"", request.request_id}
            and len(request.prompt_token_ids) >= FORKED_TOKENS
            and request.sampling.prompt_logprobs is None
        }
        stream = context.client.submit(requests, behind=behind)
    num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
    counts_reasoning = reading is not None and reading.has_reasoning
    interval = (body.stream_interval or context.config.api.stream_interval) if body.stream else 1
    cache_unit = context.ready.block_size if context.config.cache.enable_prefix_caching else 0
    return Generation(stream, choices, num_prompt_tokens, counts_reasoning, interval, cache_unit)
