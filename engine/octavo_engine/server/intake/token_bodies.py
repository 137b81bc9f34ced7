"""The bodies of the endpoints that split a request: rendered, generated from token ids, and derendered.

Named as vLLM's: a `generate request` is what rendering makes of a prompt, a `generate response` the tokens that came of it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationError

from octavo_engine.errors import RequestError
from octavo_engine.messages import EngineOutput, TokenLogprob
from octavo_engine.server.intake.protocol import (
    MOST,
    NULL_IS_ABSENT,
    ChatBody,
    CompletionBody,
    Flag,
    RequestBody,
    StreamOptions,
    Texts,
    TokenIds,
    refusal,
)
from octavo_engine.server.intake.unserved_fields import refuse_unserved

Logprob = Annotated[float, Field(allow_inf_nan=False)]


class TokensBody(CompletionBody):
    """The fields of a completion that `sampling_params` and the rest of a generate request amount to."""

    max_tokens: Annotated[int, Field(ge=1, lt=MOST)] | None = None  # type: ignore[assignment]
    prompt_field: ClassVar[str] = "token_ids"


class GenerateBody(RequestBody):
    """POST /inference/v1/generate: a generate request."""

    generates: ClassVar[bool] = True

    token_ids: TokenIds
    sampling_params: dict[str, Any]
    request_id: Annotated[str, Field(max_length=256)] | None = None
    output_mode: Annotated[Literal["tokens", "text"], NULL_IS_ABSENT] = "tokens"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), NULL_IS_ABSENT] = 0
    return_token_ids: bool | None = None


def completion_of(body: GenerateBody, *, tokens_only: bool) -> TokensBody:
    """The completion that a generate request asks for.

    Raises:
        RequestError: a sampling parameter is wrong, or needs a text where there are only tokens; names it.
    """
    params = body.sampling_params
    has_text = not tokens_only and params.get("detokenize") is not False
    if params.get("stop") and not has_text:
        raise RequestError(
            "sampling_params.stop: stop strings need the text of an answer, and only tokens are made: send stop_token_ids",
            "sampling_params.stop",
        )
    if body.output_mode == "text" and not has_text:
        why = (
            "requires a tokenizer (--tokens-only)" if tokens_only else "requires sampling_params.detokenize to be true"
        )
        raise RequestError(f"output_mode 'text' {why}: ask for 'tokens'", "output_mode")
    alike = ("request_id", "stream", "stream_options", "cache_salt", "priority", "return_token_ids")
    fields = {name: value for name in alike if (value := getattr(body, name)) is not None}
    try:
        completion = TokensBody.model_validate({**params, **fields, "prompt": body.token_ids})
    except ValidationError as error:
        raise refusal(error) from error
    refuse_unserved(completion.model_extra or {})
    (completion.model_extra or {}).clear()
    return completion


class AbortBody(RequestBody):
    """POST /inference/v1/abort_requests."""

    request_ids: Texts


class Top(BaseModel):
    """A token that might have been drawn."""

    token_id: Annotated[int, Field(ge=0, lt=2**31)]
    logprob: Logprob
    rank: int | None = None


class Drawn(Top):
    """The token that was drawn, and the likeliest ones in its place."""

    top_logprobs: list[Top] = []

    def as_logprob(self) -> TokenLogprob:
        top = [(entry.token_id, entry.logprob) for entry in self.top_logprobs]
        return TokenLogprob(self.token_id, self.logprob, self.rank or 0, top)


class Logprobs(BaseModel):
    """An entry for each token."""

    content: list[Drawn] | None = None


class GeneratedChoice(BaseModel):
    """The tokens of one choice, all of them or the next."""

    index: int
    token_ids: TokenIds | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def output(self, request_id: str, default_reason: str | None) -> EngineOutput:
        """The same as an engine's output."""
        content = None if self.logprobs is None else self.logprobs.content
        return EngineOutput(
            request_id=request_id,
            new_token_ids=list(self.token_ids or ()),
            finish_reason=self.finish_reason or default_reason,
            stop_token_id=self.stop_reason if isinstance(self.stop_reason, int) else None,
            logprobs=None if content is None else [entry.as_logprob() for entry in content],
        )

    @property
    def num_top(self) -> int:
        content = None if self.logprobs is None else self.logprobs.content
        return max((len(entry.top_logprobs) for entry in content or ()), default=0)


class GivenUsage(BaseModel):
    """The usage of a stream, in its last chunk."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Generated(BaseModel):
    """A generate response, or a chunk of one."""

    choices: list[GeneratedChoice]
    request_id: str | None = None
    output_mode: Literal["tokens"] = "tokens"
    prompt_token_ids: TokenIds | None = None
    prompt_logprobs: list[Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    usage: GivenUsage | None = None


class StreamState(BaseModel):
    """The state that a client carries from one chunk of a derendered stream to the next: the tokens so far, as they came."""

    output_token_ids: TokenIds = []
    output_chunk_lens: Annotated[list[Annotated[int, Field(gt=0)]], Field(fail_fast=True)] = []
    role_sent: Flag = False


class DerenderBody(RequestBody):
    """The fields of both derendering endpoints."""

    stream: Flag = False
    generate_chunk: Generated | None = None
    stream_state: StreamState | None = None


class DerenderChatBody(DerenderBody):
    """POST /v1/chat/completions/derender."""

    generate_response: Generated | None = None
    prompt_tokens: Annotated[int, Field(ge=0, lt=MOST)] | None = None
    prompt_token_ids: TokenIds | None = None
    chat_request: ChatBody | None = None


class DerenderCompletionBody(DerenderBody):
    """POST /v1/completions/derender."""

    generate_responses: list[Generated] | None = None
    prompt_tokens: Annotated[int, Field(ge=0, lt=MOST)] | list[int] | None = None
    prompt_token_ids: TokenIds | list[TokenIds | None] | None = None
    completion_request: CompletionBody | None = None
