"""The messages between API server and engine core: msgpack, never pickle.

Client to core: `Request`, one of the structs below, distinguished by tag. Core to client: `Reply`.
"""

from __future__ import annotations

import msgspec

from octavo_engine.sampling_params import SamplingParams

LOST_TOUCH = 75  # exit code of a rank that ends because another one is gone


class EngineRequest(msgspec.Struct, frozen=True, tag="add", kw_only=True, omit_defaults=True):
    """One sequence to generate. `n > 1` and prompt lists are several of these."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    arrival_time: float  # time.monotonic() in the API server, which is the machine's
    priority: int = 0  # lower runs first
    fork: str = ""  # name of the choices that share this prompt: they share its blocks without a prefix cache too
    cache_salt: str = ""  # keeps one tenant's prefix cache from another's
    adapter_id: int = 0  # that `AddAdapter` gave; 0: no adapter
    background: bool = False  # a batch's row: runs after all others, whatever their priority


class PoolingRequest(msgspec.Struct, frozen=True, tag="pool", kw_only=True, omit_defaults=True):
    """One prompt to pool, of a model that pools. Several prompts of one HTTP request are several of these.

    Its output is one `EngineOutput` with `pooled`, which `core_client.pooling` turns into a `PoolingOutput`.
    """

    request_id: str
    prompt_token_ids: list[int]
    arrival_time: float  # as in `EngineRequest`
    priority: int = 0
    second_segment: int = 0  # position of its first token, of a pair of texts; 0: there is one segment
    background: bool = False  # as in `EngineRequest`


class AddAdapter(msgspec.Struct, frozen=True, tag="add_adapter", kw_only=True):
    """Read a low-rank adapter and keep it for requests to come. Answered by an `AdapterLoaded`."""

    adapter_id: int  # above 0, and never used before
    path: str  # as the user wrote it: a folder, org/name, hf://…


class RemoveAdapter(msgspec.Struct, frozen=True, tag="remove_adapter"):
    """Free an adapter once the requests that were sent before this have ended."""

    adapter_id: int


class AbortRequests(msgspec.Struct, frozen=True, tag="abort"):
    """Finish these now and free their blocks; unknown ids are ignored."""

    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, frozen=True, tag="reset_prefix_cache"):
    """Drop all cached blocks that nothing uses."""


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Compute nothing until a `Resume`; requests are still received."""

    sleep: bool = False  # give the memory of KV blocks back meanwhile: no request has any


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on after a `Pause`."""


class Vocabulary(msgspec.Struct, frozen=True, tag="vocabulary"):
    """The bytes of each token, sent once before the first request that a grammar constrains or that has a budget of reasoning.

    `tokens[i]` are those that token i adds to a text, a special token's spelling; empty for an id that is never drawn.
    """

    tokens: list[bytes]
    special_token_ids: list[int]


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End now; the server has drained before it sends this."""


Request = (
    EngineRequest
    | PoolingRequest
    | AddAdapter
    | RemoveAdapter
    | AbortRequests
    | ResetPrefixCache
    | Pause
    | Resume
    | Vocabulary
    | Shutdown
)


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token's log-probability; `rank` is 1 for the most likely; `top` the best k as (token id, logprob)."""

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]]


class EngineOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The output of one step for one request."""

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None = None  # stop | length | repetition | abort | error
    stop_token_id: int | None = None  # which token stopped it; None for EOS
    error: str | None = None  # with finish_reason "error"
    refused: bool = False  # with `error`: the request is at fault, not the engine
    logprobs: list[TokenLogprob] | None = None  # one per new token
    # Of the prompt's next tokens, None for its first: in parts, before and with the first token.
    prompt_logprobs: list[TokenLogprob | None] | None = None
    pooled: bytes | None = None  # of a `PoolingRequest`, with its last output: float32, little-endian
    num_cached_tokens: int = 0  # of the prompt, from the prefix cache; valid with the first token
    num_preemptions: int = 0
    queued_at: float = 0.0  # time.monotonic() in the core: when it was accepted
    scheduled_at: float = 0.0  # when it first ran


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges of the moment, and counters since start."""

    num_running: int  # without those in the background
    num_waiting: int  # likewise
    kv_usage: float  # blocks in use / all, 0–1; cached but unused blocks count as free
    prefix_cache_queries: int  # tokens looked up
    prefix_cache_hits: int  # tokens found
    num_preemptions: int
    num_swapped: int = 0  # waiting requests whose blocks are in host memory
    swap_usage: float = 0.0  # blocks of host memory in use / all, 0–1
    num_background_running: int = 0
    num_background_waiting: int = 0
    iteration_tokens: list[int] = []  # tokens scheduled in each step since the last message
    running_adapters: list[int] = []
    waiting_adapters: list[int] = []  # of requests that wait, and do not run for any


class PoolingModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The kind of vector that a model which pools makes of a prompt, as `octavo_models.pooling.Pooling` says."""

    task: str  # embed | classify
    size: int  # elements of `EngineOutput.pooled`
    normalize: bool = False
    activation: str = "none"
    labels: list[str] = []
    dimensions: list[int] = []
    any_dimension: bool = False


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """The core has loaded the model and serves."""

    num_blocks: list[int]  # blocks of each KV group
    block_size: int
    kv_cache_bytes: int
    max_model_len: int
    executor: str  # such as "native avx512-bf16, 2 threads"
    stages: list[tuple[str, float]]  # what the start did and the seconds it took
    vocab_size: int = 0  # of the model, padding included; 0: the tokenizer's
    pooling: PoolingModel | None = None  # of a model that pools; None: it generates
    sleeps: bool = False  # it can give the memory of its KV blocks back


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """One line of the start: a stage that has ended and the seconds it took."""

    stage: str
    seconds: float


class Resolved(msgspec.Struct, frozen=True, tag="resolved"):
    """The model's files are on this machine: sent before the weights are read, so that the tokenizer loads at the same time.

    `files` is a `config.ModelFiles` as `config.encode_files` writes it.
    """

    files: bytes


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The core ends; `reason` is one sentence for a person."""

    reason: str


class AdapterLoaded(msgspec.Struct, frozen=True, tag="adapter_loaded", kw_only=True):
    """The answer to an `AddAdapter`."""

    adapter_id: int
    problem: str | None = None  # why it can't be served, in a sentence; None: requests may name it


class StepOutputs(msgspec.Struct, frozen=True, tag="outputs"):
    """Sent after every step, and once a second while idle: it is also the heartbeat."""

    outputs: list[EngineOutput]
    stats: SchedulerStats
    num_received: int = 0  # requests received since the start, without those in the background; the client derives which ones `stats` has
    paused: bool = False


Reply = Ready | Progress | Resolved | Failed | AdapterLoaded | StepOutputs
