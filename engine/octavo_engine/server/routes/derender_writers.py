"""Writers of answers and chunks that are made of known tokens, with what came beside the tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo_engine.server.answer.responses import (
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Delta,
    Usage,
    WholeCompletion,
)
from octavo_engine.server.generation import Piece
from octavo_engine.server.intake.token_bodies import Generated, GivenUsage, StreamState
from octavo_engine.server.routes.chat_completions import ChatPart, ChatWriter
from octavo_engine.server.routes.completions import CompletionWriter


class Metrics(msgspec.Struct):
    """A request's own metrics, as they were sent."""

    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    queue_time_ms: float | None = None
    mean_itl_ms: float | None = None
    tokens_per_second: float | None = None
    speculative_decoding: dict[str, Any] | None = None


class DerenderedChat(ChatCompletion, kw_only=True):
    """An answer of /v1/chat/completions/derender."""

    prompt_logprobs: list[Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None  # type: ignore[assignment]
    metrics: Metrics | None = None  # type: ignore[assignment]  # of another server


class DerenderedCompletion(WholeCompletion, kw_only=True):
    """An answer of /v1/completions/derender."""

    kv_transfer_params: dict[str, Any] | None = None  # type: ignore[assignment]
    metrics: Metrics | None = None  # type: ignore[assignment]  # of another server


class State(msgspec.Struct):
    """The state that a client brings with the next chunk."""

    output_token_ids: list[int]
    output_chunk_lens: list[int]
    role_sent: bool


class DerenderedChunk(msgspec.Struct):
    """A chunk of a derendered stream."""

    chunk: ChatChunk | Completion
    stream_state: State


class ChatDerenderer(ChatWriter):
    """`given` is the whole response that is derendered."""

    given: Generated

    def _answer(self, choices: list[ChatPart]) -> ChatCompletion:
        answer = super()._answer(choices)
        fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
        return DerenderedChat(**fields | _beside(self.given) | {"prompt_logprobs": self.given.prompt_logprobs})

    def chunk(self, piece: Piece | None, given: Generated, *, first: bool, prompt_tokens: int | None) -> ChatChunk:
        """The chunk of `piece`; None: that of the usage alone."""
        if piece is None:
            return self._chat([], usage_of(given.usage, prompt_tokens))
        part = self._chunk(piece) or ChatChunkChoice(piece.choice.index, Delta())
        if first:
            part.delta.role = self._role
        part.index = given.choices[0].index
        return self._chat([part], usage_of(given.usage, prompt_tokens))


class CompletionDerenderer(CompletionWriter):
    """`given` is the first of the whole responses that are derendered."""

    given: Generated

    def _answer(self, choices: list[CompletionChoice]) -> WholeCompletion:
        answer = super()._answer(choices)
        fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
        return DerenderedCompletion(**fields | _beside(self.given))

    def chunk(self, piece: Piece | None, given: Generated, *, first: bool, prompt_tokens: int | None) -> Completion:  # noqa: ARG002
        """The chunk of `piece`; None: that of the usage alone."""
        if piece is None:
            return self._completion([], usage_of(given.usage, prompt_tokens))
        part = self._part(piece)
        part.index = given.choices[0].index
        return self._completion([part], usage_of(given.usage, prompt_tokens))


def state_after(state: StreamState, given: Generated) -> State:
    """The state after the chunk `given`."""
    tokens = [token for choice in given.choices for token in choice.token_ids or ()]
    lengths = [*state.output_chunk_lens, len(tokens)] if tokens else state.output_chunk_lens
    return State([*state.output_token_ids, *tokens], lengths, state.role_sent or bool(given.choices))


def usage_of(given: GivenUsage | None, prompt_tokens: int | None) -> Usage | None:
    """The usage that a chunk brings, with the caller's own number of prompt tokens."""
    if given is None:
        return None
    prompt = given.prompt_tokens if prompt_tokens is None else prompt_tokens
    return Usage(prompt, prompt + given.completion_tokens, given.completion_tokens)


def _beside(given: Generated) -> dict[str, Any]:
    metrics = None
    if given.metrics is not None:
        speculative = given.metrics.get("speculative_decoding")
        known = {name: given.metrics.get(name) for name in Metrics.__struct_fields__}
        if isinstance(speculative, dict):
            known["speculative_decoding"] = {"per_step_accepted": None, "per_step_drafted": None, **speculative}
        metrics = Metrics(**known)
    return {"kv_transfer_params": given.kv_transfer_params, "metrics": metrics}
