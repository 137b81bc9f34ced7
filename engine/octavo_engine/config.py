"""The engine's configuration: composed once from flags, environment and the model, then never patched.

Owns the values and their meaning; `octavo_engine.cli.arguments` owns their spelling on a command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from octavo_engine.sampling_params import LogprobsMode
from octavo_models.partition import Place

Device = Literal["auto", "cuda", "cpu"]
DType = Literal["auto", "float32", "float16", "bfloat16"]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The model, and the form in which its weights are held."""

    model: str  # as the user wrote it: a path, org/name, hf://, package:// …
    served_model_names: tuple[str, ...]  # the first one is reported
    revision: str | None = None
    file: str | None = None  # one file of several, such as a GGUF
    tokenizer: str | None = None
    dtype: DType = "auto"  # auto: as stored, four-bit stays four-bit; else every weight is widened to it
    load_format: Literal["auto", "safetensors", "gguf", "dummy"] = "auto"
    model_impl: Literal["auto", "octavo", "transformers"] = "auto"  # auto: transformers where there is no description
    runner: Literal["auto", "generate", "pooling"] = "auto"  # auto: as the model's files say
    convert: Literal["auto", "none", "embed", "classify"] = "auto"  # what a decoder that pools makes
    pooling: Literal["mean", "cls", "last", "max"] | None = None  # None: the model's own
    hf_overrides: str | None = None  # JSON: fields in place of those of config.json
    max_model_len: int | None = None  # None: the model's own, or as much of it as the KV memory holds
    seed: int = 0
    chat_template: str | None = None  # the template's text, already read
    chat_template_name: str | None = None  # of `text.named_templates`, in place of a text
    chat_template_content_format: str = "auto"
    generation_config: str = "auto"  # auto: the model's defaults; vllm: none
    generation_overrides: str | None = None  # JSON: sampling defaults in place of those


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """KV blocks."""

    block_size: int = 16
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool = True
    swap_space_gib: float | None = None  # host memory for preempted sequences; None: 4 beside a GPU, else 0
    num_gpu_blocks_override: int | None = None


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a step and of the queue."""

    max_num_seqs: int = 128
    max_num_batched_tokens: int = 2048
    max_step_seconds: float = 0.5  # that a step with prefills is cut to; 0: no bound but the tokens
    policy: Literal["fcfs", "priority"] = "fcfs"
    enable_chunked_prefill: bool = True
    async_scheduling: bool = True  # where the executor can: a step is launched before the last one's tokens are read
    max_num_queued_reqs: int | None = 1024  # waiting requests; beyond it: 429
    max_num_queued_tokens: int | None = 2**20  # prompt tokens that wait; beyond it: 429


class ExecutorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The executor and its device."""

    executor: Literal["auto", "native", "torch"] = "auto"  # auto: torch where there is a GPU, else native
    device: Device = "auto"  # cuda: a promise; the start ends where no GPU can be used
    threads: int | None = None  # None: see executors/cores.py
    enforce_eager: bool = False
    kernel_parameters: str | None = None  # a file of `kernels.tune`'s; None: those that ship


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks over which the model is spread, a process each, and their meeting point."""

    tensor_parallel_size: int = 1  # ranks that each layer is cut among
    pipeline_parallel_size: int = 1  # stages that the layers are cut into
    enable_expert_parallel: bool = False  # a stage's ranks share out whole experts, in place of cutting each
    nnodes: int = 1  # machines; each runs as many ranks
    node_rank: int = 0  # this one; 0 schedules and serves HTTP
    master_addr: str = "127.0.0.1"  # where rank 0 listens for the others
    master_port: int = 29501
    listen_fd: int | None = None  # rank 0's: the socket of that address, inherited
    custom_all_reduce: bool = True  # sums over symmetric memory where all GPUs have it; else NCCL's alone

    @property
    def world_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def place(self, rank: int) -> Place:
        """The position of a rank: what it runs of the model."""
        sizes = self.tensor_parallel_size, self.pipeline_parallel_size
        return Place.of(rank, *sizes, whole_experts=self.enable_expert_parallel)

    @property
    def ranks_here(self) -> range:
        """The ranks that this machine runs."""
        each = self.world_size // self.nnodes
        return range(self.node_rank * each, (self.node_rank + 1) * each)


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """TLS of the HTTP side: paths of PEM files."""

    certfile: str  # with the chain behind it
    keyfile: str | None = None  # None: in `certfile`
    ca_certs: str | None = None  # authorities of clients' certificates
    cert_reqs: int = 0  # of clients, as in the module ssl: 0 none, 1 checked where there is one, 2 required
    ciphers: str | None = None  # OpenSSL's list, of TLS 1.2
    refresh: bool = True  # files are read again when they change


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP side; the core never sees it."""

    host: str | None = None  # None: all interfaces
    port: int = 8000
    uds: str | None = None
    tls: TlsConfig | None = None
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None  # further keys, read again when it changes
    shutdown_timeout: float = 30.0  # seconds that running requests have after SIGTERM
    max_body_bytes: int | None = None  # of a request's body; None: by the model's context, see server/intake/limits.py
    max_n: int = 128  # choices of one request
    max_logprobs: int = 20  # -1: the whole vocabulary
    health_timeout: float = 10.0  # seconds without a message or a part of a step before /health says 503
    start_timeout: float = 600.0  # seconds without any progress of the start before it ends; 0: never
    allow_request_chat_template: bool = False
    tool_call_parser: str | None = None  # the format of tool calls; None: by the model, "none": they stay text
    reasoning_parser: str | None = None  # of reasoning, likewise
    enable_auto_tool_choice: bool | None = None  # False: tool_choice "auto" is refused
    exclude_tools_when_none: bool = False  # from the prompt, with tool_choice "none"
    enable_log_requests: bool = False
    disable_log_stats: bool = False
    log_level: str = "info"  # of every process
    log_format: Literal["text", "json"] = "text"
    otlp_traces_endpoint: str | None = None  # where spans are sent; None: there are none
    allowed_origins: tuple[str, ...] = ()
    root_path: str = ""


class AdapterModule(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is served from the start."""

    name: str  # that requests give as `model`
    path: str  # a folder with adapter_config.json and its weights, or where to fetch it, as of a model
    base_model_name: str | None = None  # shown as its parent; None: the model's


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Low-rank adapters (LoRA). `enabled` is also true where `modules` has any."""

    enabled: bool = False
    modules: tuple[AdapterModule, ...] = ()
    max_loras: int = 1  # different ones in one step
    max_lora_rank: int = 16
    max_cpu_loras: int = 1  # that are kept, at least `max_loras`
    runtime_updates: bool = False  # requests may load and unload adapters


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The API's own behavior: what it adds to answers, and further endpoints; the core never sees it."""

    response_role: str = "assistant"  # of the answers to chats
    chat_template_kwargs: str = "{}"  # JSON: variables of the chat template that a request may replace
    prompt_tokens_details: bool = False  # in the usage of completions and chats
    stream_interval: int = (
        1  # tokens of a choice in each chunk of a stream but the first, unless a request says otherwise
    )
    force_include_usage: bool = False  # in every event of a stream
    return_tokens_as_token_ids: bool = False  # in log-probabilities, where a request does not say
    log_outputs: bool = False  # the text of each answer, in the log
    docs: bool = True  # GET /openapi.json, /docs and /redoc
    tokenizer_info: bool = False  # GET /tokenizer_info
    scale_out: bool = False  # rendering, derendering and generation from tokens as endpoints of their own
    renders_only: bool = False  # there is no engine, and no stream that a large body could delay
    tokens_only: bool = False  # those from tokens know no texts
    per_request_metrics: bool = False  # the times of an answer in it
    logprobs_mode: LogprobsMode = "raw_logprobs"  # what the log-probabilities of answers are
    reasoning_start: str = ""  # a delimiter of reasoning besides the format's own, with `reasoning_end`
    reasoning_end: str = ""  # the text that is forced where its budget is used up
    development: bool = False  # endpoints that stop the engine or change its state


class BatchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's files and batches; the core never sees them."""

    folder: str | None = None  # where they are kept; None: they are not served
    file_bytes: int = 200 * 2**20  # of one uploaded file
    folder_bytes: int = 10 * 2**30  # of all files, answers included
    file_seconds: int = 30 * 24 * 3600  # until a file is deleted


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Crosses to the core process as msgpack."""

    model: ModelConfig
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    executor: ExecutorConfig = ExecutorConfig()
    parallel: ParallelConfig = ParallelConfig()
    server: ServerConfig = ServerConfig()
    api: ApiConfig = ApiConfig()
    adapters: AdapterConfig = AdapterConfig()
    batches: BatchConfig = BatchConfig()


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The model's files on this machine, after it has been resolved and, if need be, fetched."""

    folder: Path
    config: Path | None  # config.json; None: the GGUF holds it
    weights: tuple[Path, ...]  # safetensors shards or GGUF pieces in order; empty for `dummy`
    weights_format: Literal["safetensors", "gguf", "dummy"]
    tokenizer: Path | None  # tokenizer.json, or BERT's vocab.txt; None: out of the GGUF
    chat_template: Path | None = None
    generation_config: Path | None = None
    commit: str | None = None  # the resolved revision


def encode_files(files: ModelFiles) -> bytes:
    """`files` as msgpack; paths become strings."""
    return msgspec.msgpack.encode(files, enc_hook=str)


def decode_files(data: bytes) -> ModelFiles:
    """The inverse of `encode_files`."""
    return msgspec.msgpack.decode(data, type=ModelFiles, dec_hook=lambda kind, value: kind(value))
