"""The bodies of answers, in the shapes of OpenAI and vLLM. Encoded by msgspec: a chunk costs about a microsecond.

A field that vLLM writes as null is null here too: clients read it as an attribute. In chunks, which are many, only
those that vLLM has there. What is UNSET is left out. Log-probabilities are encoded token by token (`Raw`): those of a
whole answer would take hundreds of bytes each as objects, and encoding them at once would stop the event loop.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from octavo_engine.server.answer.times import RequestTimes


class PromptTokensDetails(msgspec.Struct):
    """Prompt tokens that came from the prefix cache, and those computed that fill blocks of it."""

    cached_tokens: int
    created_cache_tokens: int = 0
    multimodal_tokens: None = None


class ReasoningTokens(msgspec.Struct):
    """The number of tokens that were reasoning."""

    reasoning_tokens: int


class Usage(msgspec.Struct):
    """Tokens of all choices together."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType | None = None
    completion_tokens_details: ReasoningTokens | UnsetType | None = None


class CompletionLogprobs(msgspec.Struct):
    """An entry a token, in four lists. Log-probabilities are null for a prompt's first token; the top are by text."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[Raw | None]


class CompletionChoice(msgspec.Struct):
    """One text, whole or its next piece."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Raw | None] | UnsetType | None = UNSET
    routed_experts: UnsetType | None = UNSET


class Completion(msgspec.Struct):
    """A chunk of the answer of /v1/completions."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    usage: Usage | UnsetType = UNSET
    metrics: RequestTimes | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType = UNSET  # in the last one alone


class WholeCompletion(Completion):
    """The answer of /v1/completions."""

    service_tier: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None


class TopLogprob(msgspec.Struct):
    """A token that might have been drawn."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(msgspec.Struct):
    """The token that was drawn, and the most likely ones in its place."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """A TokenLogprobs a token."""

    content: list[Raw]


class PromptLogprob(msgspec.Struct):
    """vLLM's entry for a token of the prompt."""

    logprob: float
    rank: int | None
    decoded_token: str


class FunctionCall(msgspec.Struct):
    """The function of a call, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    """A call that a client is asked to make."""

    id: str
    function: FunctionCall
    type: str = "function"


class ChatMessage(msgspec.Struct):
    """A whole answer. The reasoning has both names that clients read it by; without calls there is no `tool_calls`."""

    content: str | None
    role: str = "assistant"
    refusal: str | None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    reasoning: str | None = None
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    routed_experts: None = None


class ChatCompletion(msgspec.Struct):
    """The answer of /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: str = "chat.completion"
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Raw | None] | None = None
    service_tier: None = None
    system_fingerprint: str | None = None
    kv_transfer_params: None = None
    metrics: RequestTimes | UnsetType | None = None
    ec_transfer_params: None = None
    prompt_text: None = None


class FunctionDelta(msgspec.Struct):
    """The next piece of a call's arguments; the name comes with the first one."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct):
    """The next piece of a call; id and type come with the first one."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Delta(msgspec.Struct):
    """The next piece of an answer; the role comes with the first one."""

    content: str | UnsetType = UNSET
    role: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType | None = None  # absent beside the role alone, as in vLLM


class ChatChunk(msgspec.Struct):
    """A chunk of a streamed chat."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    object: str = "chat.completion.chunk"
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType | None = UNSET  # in the first one alone, as `prompt_text`
    prompt_text: UnsetType | None = UNSET
    metrics: RequestTimes | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType = UNSET  # in the last one alone


class ErrorBody(msgspec.Struct):
    """An error in three parts: what happened, why, and what to do; `param` is the offending field."""

    message: str
    type: str
    param: str | None
    code: int | str


class Error(msgspec.Struct):
    """The shape of every error."""

    error: ErrorBody
