"""The answers of the endpoints that split a request, in vLLM's shapes: generate requests and generate responses."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from octavo_engine.messages import TokenLogprob
from octavo_engine.server.answer.logprobs import LOWEST
from octavo_engine.server.answer.responses import ChatLogprobs, Usage


class GenerateRequest(msgspec.Struct):
    """The result of rendering a prompt: complete token ids and sampling parameters, to generate from anywhere."""

    request_id: str
    token_ids: Raw
    sampling_params: dict[str, Any]
    model: str
    token_offsets: list[tuple[int, int]] | None = None
    features: None = None
    content_parts: None = None
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    output_mode: str = "tokens"
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    cache_salt: str | None = None
    priority: int = 0
    kv_transfer_params: None = None
    ec_transfer_params: None = None


class IdLogprob(msgspec.Struct):
    """A token by its id."""

    token_id: int
    logprob: float
    rank: int | None


class IdLogprobs(IdLogprob):
    """The token that was drawn, and the likeliest ones, itself first."""

    top_logprobs: list[IdLogprob]


class TokensLogprobs(msgspec.Struct):
    """An entry for each token."""

    content: list[IdLogprobs]


class TokensChoice(msgspec.Struct, omit_defaults=False):
    """The tokens of one choice."""

    index: int
    token_ids: list[int]
    logprobs: TokensLogprobs | ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    text: str | msgspec.UnsetType = msgspec.UNSET
    routed_experts: None = None
    sampling_mask: None = None
    weight_versions: None = None


class TokensChunk(msgspec.Struct):
    """A chunk of a generate response."""

    request_id: str
    choices: list[TokensChoice]
    output_mode: str
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    mm_placeholders: None = None
    metrics: None = None


class TokensResponse(TokensChunk):
    """A whole generate response."""

    model: str | None = None
    created: int | None = None
    prompt_logprobs: list[Raw | None] | None = None
    prompt_token_id_logprobs: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None


def by_id(entry: TokenLogprob, num_top: int) -> IdLogprobs:
    """The log-probabilities of one token: at most `num_top` and at least one, the token itself first."""
    own = IdLogprob(entry.token_id, max(entry.logprob, LOWEST), entry.rank)
    best = [
        IdLogprob(index, max(logprob, LOWEST), rank)
        for rank, (index, logprob) in enumerate(entry.top, 1)
        if index != entry.token_id
    ]
    return IdLogprobs(own.token_id, own.logprob, own.rank, [own, *best][: max(num_top, 1)])


def own_first(entry: TokenLogprob, num_top: int) -> TokenLogprob:
    """The same entry with the token itself as the first of its best."""
    top = [(other.token_id, other.logprob) for other in by_id(entry, num_top).top_logprobs]
    return TokenLogprob(entry.token_id, entry.logprob, entry.rank, top)
