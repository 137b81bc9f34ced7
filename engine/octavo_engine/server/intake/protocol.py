"""The bodies of requests, as clients send them: OpenAI's fields and vLLM's further ones.

Unknown fields are accepted silently, as by OpenAI and vLLM. Fields of vLLM that are not served yet and would change the
answer are in `unserved_fields`, and refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticUseDefault

from octavo_engine.errors import RequestError
from octavo_engine.sampling_params import (
    MinP,
    Penalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from octavo_engine.server.intake.limits import MAX_BIASED_TOKENS
from octavo_engine.server.intake.repetition import RepetitionFields
from octavo_engine.server.intake.structured_outputs import ResponseFormat, SchemaSource, StructuredOutputs
from octavo_engine.server.intake.unserved_fields import refuse_unserved

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
MOST = 2**63  # no count is so large; what is larger may have too many digits to be printed
# A list ends at its first wrong element: an error for each of a million would cost more than the server has.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
NumLogprobs = Annotated[int, Field(ge=-1, lt=MOST)] | None  # -1: of the whole vocabulary
Positive = Annotated[int, Field(ge=1, lt=MOST)]
Body = TypeVar("Body", bound="RequestBody")

MAX_REPORTED_FIELDS = 5


def _null_is_absent(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


# Many clients write every field of the API, with null for those that are not set. Fields whose default is None take it
# anyway; the others are marked with this.
NULL_IS_ABSENT = BeforeValidator(_null_is_absent)
Flag = Annotated[bool, NULL_IS_ABSENT]


def _few(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_BIASED_TOKENS:
        raise ValueError(f"it has {len(value)} entries; at most {MAX_BIASED_TOKENS} are served")
    return value


Biases = Annotated[dict[str, float], BeforeValidator(_few)]  # objects have no fail_fast


class StreamOptions(BaseModel):
    """Options of a stream: usage in addition to the text."""

    include_usage: Flag = False
    continuous_usage_stats: Flag = False


class KvTransfer(BaseModel):
    """The fields that a router hands over from another server: the prompt's token ids, which are taken in place of the messages."""

    model_config = ConfigDict(extra="allow")

    prompt_token_ids: Annotated[list[TokenId], Field(fail_fast=True, min_length=1)] | None = None


class RequestBody(BaseModel):
    """The fields of every body."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    generates: ClassVar[bool] = False  # the engine's queue has room for it, or it is refused before it is read

    model: str | None = None


class SamplingBody(RequestBody):
    """Sampling and end of the output; the same fields for completions and chats. None is the default.

    A field that `SamplingParams` also has reaches the executors by its name alone.
    """

    generates: ClassVar[bool] = True

    n: Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: Positive | None = None
    temperature: Annotated[Temperature, Field(allow_inf_nan=False)] | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[RepetitionPenalty, Field(allow_inf_nan=False)] | None = None
    use_beam_search: Flag = False
    length_penalty: Annotated[float, Field(ge=-10, le=10), NULL_IS_ABSENT] = 1.0
    stop: str | Texts | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: Flag = False
    ignore_eos: Flag = False
    min_tokens: Annotated[int, Field(ge=0, lt=2**31), NULL_IS_ABSENT] = 0
    repetition_detection: RepetitionFields | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1, lt=MOST, strict=True)] | None = None
    logit_bias: Biases | None = None
    allowed_token_ids: TokenIds | None = None
    logprob_token_ids: TokenIds | None = None
    bad_words: Texts | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaSource | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    prompt_logprobs: NumLogprobs = None
    skip_special_tokens: Flag = True
    spaces_between_special_tokens: Flag = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=MOST)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31), NULL_IS_ABSENT] = 0
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    request_id: Annotated[str, Field(max_length=256)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_offsets: bool | None = None
    user: str | None = None

    @property
    def structured(self) -> StructuredOutputs | None:
        """The constraint on the answer, as vLLM's field or its older ones say. Raises RequestError if both do."""
        older = {name: getattr(self, f"guided_{name}") for name in ("json", "regex", "choice", "grammar")}
        asked = {name: value for name, value in older.items() if value is not None}
        if not asked:
            return self.structured_outputs
        name = f"guided_{next(iter(asked))}"
        if self.structured_outputs is not None:
            raise RequestError(f"{name} and structured_outputs both say what the answer must match: send one", name)
        return StructuredOutputs.model_validate({**asked, "whitespace_pattern": self.guided_whitespace_pattern})

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: str | TokenIds | Texts | Annotated[list[TokenIds], Field(fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=0, lt=MOST), NULL_IS_ABSENT] = 16
    logprobs: NumLogprobs = None
    echo: Flag = False
    best_of: Positive | None = None
    suffix: str | None = None
    add_special_tokens: Flag = True

    prompt_field: ClassVar[str] = "prompt"

    @property
    def prompts(self) -> list[Any]:
        """All texts, or all lists of token ids."""
        given = self.prompt
        # All elements are like the first: the body has been checked.
        return [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)

    @property
    def num_prompts(self) -> int:
        return len(self.prompts)

    @property
    def max_tokens_asked(self) -> int | None:
        return self.max_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """The number of best tokens of each position whose log-probabilities are requested; None: no log-probabilities."""
        return self.logprobs

    @property
    def prompt_logprobs_asked(self) -> int | None:
        """The same of each token of the prompt; OpenAI's `echo` includes them in `logprobs`."""
        return self.logprobs if self.echo and self.prompt_logprobs is None else self.prompt_logprobs


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Objects
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs = None
    tools: Objects | None = None
    tool_choice: Any = None
    documents: Objects | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    include_reasoning: Flag = True
    add_generation_prompt: Flag = True
    continue_final_message: Flag = False
    add_special_tokens: Flag = False
    echo: Flag = False
    kv_transfer_params: KvTransfer | None = None

    prompt_field: ClassVar[str] = "messages"
    num_prompts: ClassVar[int] = 1

    @property
    def max_tokens_asked(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """The number of best tokens of each position whose log-probabilities are requested; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def prompt_logprobs_asked(self) -> int | None:
        """The same of each token of the prompt."""
        return self.prompt_logprobs


class TokenizeBody(RequestBody):
    """POST /tokenize: a text or a chat."""

    prompt: str | None = None
    messages: Objects | None = None
    add_special_tokens: bool | None = None  # None: with a text, not with a chat
    return_token_strs: bool | None = None
    add_generation_prompt: Flag = True
    continue_final_message: Flag = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Objects | None = None


class DetokenizeBody(RequestBody):
    """POST /detokenize."""

    tokens: TokenIds


def parse_body(kind: type[Body], data: bytes) -> Body:
    """The body in `data`, without the fields that it has beyond those of `kind`.

    Raises:
        RequestError: it isn't JSON, a field is wrong, or a field is not served; names the field.
    """
    try:
        body = kind.model_validate_json(data)
    except ValidationError as error:
        raise refusal(error) from error
    if isinstance(body, SamplingBody) and body.stream_options is not None and not body.stream:
        raise RequestError("stream_options is only for streams: set stream to true, or leave it out", "stream_options")
    extra = body.model_extra or {}
    refuse_unserved(extra)
    if isinstance(body, ChatBody) and body.kv_transfer_params is not None:
        refuse_unserved({"kv_transfer_params": body.kv_transfer_params.model_extra})
    extra.clear()  # it may be large, and is kept for as long as the request
    return body


def fields_of(data: bytes) -> set[str]:
    """The names of the fields of the JSON object in `data`. Raises RequestError if it is none."""
    try:
        return set(RequestBody.model_validate_json(data).model_extra or ())
    except ValidationError as error:
        raise refusal(error) from error


def refusal(error: ValidationError) -> RequestError:
    """The refusal of a body for what pydantic has found in it."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if not first["loc"]:
        return RequestError("the body must be a JSON object")
    field = first["loc"][0]
    if field in {"prompt", "input"}:  # a union: pydantic lists the complaint of every branch
        if first["type"] == "missing":
            return RequestError(f"{field} is missing", field)
        # The intended branch is the one that the elements before the error match.
        meant = max(found, key=lambda detail: [part for part in detail["loc"] if isinstance(part, int)])
        if any(part for part in meant["loc"] if isinstance(part, int)):
            return RequestError(f"{_path(meant)}: {meant['msg']}", field)
        return RequestError(f"{field} must be a text, a list of token ids, or a list of either", field)
    by_path = {_path(detail): detail["msg"] for detail in reversed(found)}
    problems = [f"{path}: {message}" for path, message in reversed(by_path.items())]
    more = f"; and {len(problems) - MAX_REPORTED_FIELDS} more" if len(problems) > MAX_REPORTED_FIELDS else ""
    return RequestError("; ".join(problems[:MAX_REPORTED_FIELDS]) + more, _path(first))


def _path(detail: ErrorDetails) -> str:
    """`messages[0].role`; the names that pydantic gives to the branches of a union are left out."""
    path = ""
    for part in detail["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in {"str", "int", "float", "bool"}:
            path += f".{part}" if path else part
        elif not path:
            path = part
    return path
