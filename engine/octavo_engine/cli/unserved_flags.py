"""vLLM's flags that Octavo does not serve: the reason for each, and what to do instead.

Names and defaults are those of vLLM 0.32 and, for the removed ones, of the releases that last had them. A flag of
this table is refused with its sentence, or accepted with a log line if leaving it out changes no answer; a value
that asks for what Octavo does anyway is accepted silently. Flags that Octavo serves are in `arguments`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnservedFlag:
    """`why` follows "--flag: "; `same` are the values (true and false for a switch) that change nothing here."""

    why: str
    refused: bool = True
    switch: bool = False
    same: frozenset[str] = frozenset()


def _refuse(why: str, *flags: str, switches: str = "") -> dict[str, UnservedFlag]:
    """Flags are written `name` or `name=value|value` with the values that ask for what Octavo does anyway.

    A switch asks for that when it is off, or as `name=true` when it is on.
    """
    table = {}
    for flag in flags:
        name, _, same = flag.partition("=")
        table[name] = UnservedFlag(why, same=frozenset(same.split("|")) if same else frozenset())
    for switch in switches.split():
        name, _, same = switch.partition("=")
        table[name] = UnservedFlag(why, switch=True, same=frozenset((same or "false").split("|")))
    return table


def _note(why: str, *flags: str, switches: str = "") -> dict[str, UnservedFlag]:
    table = {name: UnservedFlag(why, refused=False) for name in flags}
    table |= {
        name: UnservedFlag(why, refused=False, switch=True, same=frozenset({"false"})) for name in switches.split()
    }
    return table


def _always(why: str, switches: str) -> dict[str, UnservedFlag]:
    """Switches that name what is always on; their `--no-` form, vLLM's default, is accepted with a line."""
    return {name: UnservedFlag(why, refused=False, switch=True, same=frozenset({"true"})) for name in switches.split()}


UNSERVED_FLAGS: dict[str, UnservedFlag] = {
    # Several engines
    **_refuse(
        "one engine holds the model once; leave it out and run several replicas behind a Service instead",
        "data-parallel-size=1",
        "data-parallel-rank=0",
        "data-parallel-start-rank=0",
        "data-parallel-size-local=1",
        "data-parallel-address",
        "data-parallel-rpc-port",
        "data-parallel-backend=mp",
        "data-parallel-supervisor-port=9256",
        "dp-supervisor-probe-interval-s=5.0|5",
        "dp-supervisor-probe-timeout-s=5.0|5",
        "dp-supervisor-probe-failure-threshold=3",
        "dp-sync-interval=16",
        "elastic-ep-max-dp-size",
        "fault-tolerance-config",
        "renderer-num-workers=1",
        "decode-context-parallel-size=1",
        "prefill-context-parallel-size=1",
        "cp-kv-cache-interleave-size=1",
        "dcp-kv-cache-interleave-size=1",
        "dcp-comm-backend",
        "worker-cls=auto",
        "worker-extension-cls",
        switches="data-parallel-hybrid-lb data-parallel-external-lb data-parallel-multi-port-external-lb enable-elastic-ep "
        "ray-workers-use-nsight dcp-q-replicate enable-fault-tolerance enable-nccl-comm-suspend",
    ),
    # Several ranks
    **_refuse(
        "ranks are processes that torch.distributed joins; leave it out, and use --nnodes for several machines",
        "distributed-executor-backend=mp|uni",
    ),
    **_refuse("the GPUs are those that the process sees; leave it out, and set CUDA_VISIBLE_DEVICES", "device-ids"),
    **_refuse(
        "start the process under numactl instead; leave it out",
        "numa-bind-nodes",
        "numa-bind-cpus",
        switches="numa-bind",
    ),
    **_refuse(
        "experts are divided evenly, by --tensor-parallel-size and --enable-expert-parallel; leave it out",
        "all2all-backend=allgather_reducescatter",
        "expert-placement-strategy=linear",
        "eplb-config",
        "num-redundant-experts",
        "moe-backend=auto",
        switches="enable-eplb enable-ep-weight-filter",
    ),
    # What runs, and how weights and KV are held
    **_refuse(
        "the executor and the format of the weights decide; leave it out (--dtype widens quantized weights)",
        "quantization=gguf",
        "quantization-config",
        "attention-backend",
        "attention-config",
        "kernel-config",
        "linear-backend=auto",
        "kda-prefill-backend",
        "kda-decode-backend",
        "sparse-indexer-topk-backend=auto",
        "ir-op-priority",
        switches="allow-deprecated-quantization enable-hc-sp use-fp64-gumbel",
    ),
    **_refuse(
        "KV blocks are bfloat16, or float32 under --dtype float32; leave it out",
        "kv-cache-dtype=auto",
        "kv-cache-dtype-skip-layers",
        "mamba-cache-dtype=auto",
        "mamba-ssm-cache-dtype=auto",
        "mamba-block-size",
        "mamba-cache-mode=none",
        "mamba-backend=triton|MambaBackendEnum.TRITON",
        "mamba-config",
        "mamba-cache-philox-rounds=0",
        "mamba-ssu-algorithm",
        "engram-config",
        switches="enable-mamba-cache-stochastic-rounding enable-mamba-shared-prefix-checkpoint use-replayssm",
    ),
    **_refuse(
        "the architecture is read from the model's own files; edit its config.json, or use --hf-overrides",
        "hf-config-path",
        "config-format=auto|hf",
        "code-revision",
        "rope-scaling",
        "rope-theta",
        "model-class-overrides",
        switches="disable-sliding-window",
    ),
    **_refuse(
        "vLLM has removed it; use --runner pooling, with --convert embed or classify, or --pooler-config",
        "task=auto|generate",
        "override-pooler-config",
    ),
    **_refuse(
        "models take text alone; leave it out",
        "logits-processor-pattern",
        "mm-processor-kwargs",
        "media-io-kwargs",
        "allowed-local-media-path",
        "allowed-media-domains",
        "mm-encoder-tp-mode=weights",
        "mm-encoder-attn-backend",
        "mm-encoder-attn-dtype",
        "mm-encoder-fp8-scale-path",
        "mm-encoder-fp8-scale-save-path",
        "mm-encoder-fp8-scale-save-margin=1.5",
        "mm-hasher-algorithm=blake3",
        "mm-ipc-gpu-memory-gb=0|0.0",
        "mm-processor-cache-gb=4|4.0",
        "mm-processor-cache-type=lru",
        "mm-processor-device=auto",
        "mm-shm-cache-max-object-size-mb=128",
        "mm-tensor-ipc=direct_rpc",
        "video-pruning-method=evs",
        "video-pruning-rate",
        "ec-manager-config",
        "diffusion-config",
        switches="enable-mm-embeds language-model-only disable-mm-preprocessor-cache mm-encoder-only "
        "mm-device-do-normalize=true|false enable-mm-processor-stats interleave-mm-strings skip-mm-profiling trust-request-mm-kwargs",
    ),
    **_refuse(
        "tokenizers come from tokenizer.json or the GGUF; leave it out (--tokenizer names another one)",
        "tokenizer-mode=auto|hf",
        "tokenizer-revision",
        switches="skip-tokenizer-init",
    ),
    **_refuse("it is not read from a flag; set the environment variable HF_TOKEN", "hf-token"),
    **_refuse("set the environment variable HF_HOME (or OCTAVO_CACHE for package:// models)", "download-dir"),
    **_refuse(
        "weights are read from safetensors or GGUF; leave it out",
        "model-loader-extra-config",
        "model-weights",
        "ignore-patterns",
        "safetensors-load-strategy=lazy",
        "safetensors-prefetch-block-size=16777216|16M",
        "safetensors-prefetch-num-threads=8",
        "pt-load-map-location=cpu",
        "weight-transfer-config",
    ),
    **_note(
        "models take text alone, and requests with other inputs are refused; it has no effect",
        "limit-mm-per-prompt",
        switches="enable-prompt-embeds",
    ),
    **_note("one process serves HTTP, which is not what an engine waits for; it has no effect", "api-server-count"),
    **_note("each stage of the start is shown anyway; it has no effect", switches="use-tqdm-on-load"),
    # Adapters
    **_note("adapters are held in the model's own precision; it has no effect", "lora-dtype"),
    **_note(
        "how adapters are computed is not set by hand, and changes no answer; it has no effect",
        switches="fully-sharded-loras specialize-active-lora",
    ),
    **_refuse(
        "an adapter is applied to all that it was trained for; leave it out",
        "lora-target-modules",
    ),
    **_refuse(
        "adapters of experts, of image encoders and of scores are not served; merge them into the model's weights",
        "max-lora-cls-labels",
        "default-mm-loras",
        switches="enable-tower-connector-lora enable-moe-shared-loras enable-mixed-moe-lora-format",
    ),
    # Features to come
    **_refuse(
        "speculative decoding is not served yet; leave it out: the answers are the same",
        "speculative-config",
        "spec-method",
        "spec-model",
        "spec-tokens",
        "speculative-model",
        "num-speculative-tokens",
        "per-request-spec-decode-metrics=none",
        "sc",
    ),
    **_refuse(
        "no code is loaded; describe the format in a file instead (docs/extending.md), or name one of those that are read",
        "tool-parser-plugin",
        "reasoning-parser-plugin",
    ),
    **_refuse("no tools are run by the server; leave it out, and run them in the client", "tool-server"),
    **_refuse(
        "no code is loaded by an import path; leave it out",
        "logits-processors",
        "io-processor-plugin",
    ),
    **_note(
        "llguidance follows every grammar; it has no effect",
        "structured-outputs-config",
        "guided-decoding-backend",
        switches="guided-decoding-disable-fallback",
    ),
    **_refuse(
        "KV blocks are not offloaded; leave it out, --swap-space keeps preempted sequences in host memory",
        "cpu-offload-gb=0",
        "cpu-offload-params",
        "kv-offloading-size",
        "kv-offloading-backend=native",
        "kv-transfer-config",
        "ec-transfer-config",
        "kv-events-config",
        "offload-backend=auto",
        "offload-group-size=0",
        "offload-num-in-group=1",
        "offload-prefetch-step=1",
        "offload-params",
        switches="kv-sharing-fast-prefill sleep-mode-offload-cudagraph enable-cumem-allocator",
    ),
    **_refuse("it is not served yet; leave it out", "sleep-preserve-parameter-names"),
    **_refuse(
        "it is not served; /metrics has each request's times, and spans too with --otlp-traces-endpoint",
        "collect-detailed-traces",
        "kv-cache-metrics-sample=0.01",
        "profiler-config",
        "custom-histogram-buckets",
        "aux-output-config",
        switches="kv-cache-metrics cudagraph-metrics enable-mfu-metrics enable-layerwise-nvtx-tracing enable-trace-replay "
        "enable-return-routed-experts return-sampling-mask",
    ),
    # The HTTP server
    **_refuse("only HTTP is spoken; leave it out", "grpc-port", switches="grpc"),
    **_refuse(
        "answers name Octavo's version and a digest of its configuration; leave it out",
        "fingerprint-mode=full",
        "fingerprint-value",
    ),
    **_refuse("the text is not marked; leave it out", "watermark-config"),
    **_refuse(
        "Cohere's API is not served; use /v1/chat/completions, and leave it out",
        "cohere-format=cmd4",
        switches="cohere-is-reasoning-model=true",
    ),
    **_refuse("no code is loaded by an import path; put a proxy in front", "middleware"),
    **_refuse("CORS answers any method and header, without credentials", "allowed-methods", "allowed-headers"),
    **_refuse("CORS answers without credentials; put a gateway in front", switches="allow-credentials"),
    **_always("this is always on", "enable-request-id-headers"),
    # Accepted with a line: leaving them out changes no answer
    **_note(
        "which CUDA graphs there are follows from --max-num-seqs, and nothing is compiled; it has no effect",
        "compilation-config",
        "cuda-graph-sizes",
        "cudagraph-capture-sizes",
        "max-cudagraph-capture-size",
        "max-seq-len-to-capture",
        "optimization-level",
        "performance-mode",
        "O",
        "cc",
        switches="disable-cascade-attn",
    ),
    **_note(
        "scheduling needs no such setting here; it has no effect",
        "num-scheduler-steps",
        "num-lookahead-slots",
        "max-num-partial-prefills",
        "max-long-partial-prefills",
        "long-prefill-token-threshold",
        "scheduler-delay-factor",
        "scheduler-cls",
        "preemption-mode",
        "watermark",
        "sse-keep-alive-interval",
        "max-num-active-seqs",
        "max-num-scheduled-tokens",
        "prefill-schedule-interval",
        "prefix-cache-retention-interval",
        "prefix-match-unit",
        "dbo-decode-token-threshold",
        "dbo-prefill-token-threshold",
        "ubatch-size",
        "replayssm-buffer-len",
        "distributed-timeout-seconds",
        "cpu-distributed-timeout-seconds",
        "tool-strict-level",
        "anthropic-disabled-thinking-effort",
        "max-parallel-loading-workers",
        "prefix-caching-hash-algo",
        "gdn-prefill-backend",
        switches="use-v2-block-manager multi-step-stream-outputs disable-async-output-proc "
        "scheduler-reserve-full-isl long-prefill-token-threshold-adaptive disable-chunked-mm-input disable-hybrid-kv-cache-manager "
        "disable-frontend-multiprocessing worker-use-ray engine-use-ray calculate-kv-scales "
        "disable-nccl-for-dp-synchronization enable-dbo enable-batch-sharded-sampling swa-bounded-replay "
        "enable-shm-tensor-arena",
    ),
    **_note(
        "logging is set by --enable-log-requests and --disable-log-stats; it has no effect",
        "uvicorn-log-level",
        "log-config-file",
        "max-log-len",
        "disable-access-log-for-endpoints",
        "logging-config",
        "jit-monitor-mode",
        switches="disable-uvicorn-access-log enable-logging-iteration-details aggregate-engine-logging log-error-stack "
        "enable-log-deltas jit-monitor-verbose fail-on-environ-validation",
    ),
    **_note(
        "the HTTP parser's bounds are fixed; it has no effect", "h11-max-incomplete-event-size", "h11-max-header-count"
    ),
    **_note("requests are logged only with --enable-log-requests; it has no effect", switches="disable-log-requests"),
    **_note("reasoning is split where its format is known; it has no effect", switches="enable-reasoning"),
    **_note("the old metrics are always exported; it has no effect", "show-hidden-metrics-for-version"),
    **_note("/load and the load metrics are always served; it has no effect", switches="enable-server-load-tracking"),
    **_note(
        "it tunes kernels that are not used here; it has no effect",
        switches="enable-flashinfer-autotune enable-flash-late-interaction",
    ),
    **_note("/docs fetches nothing from elsewhere; it has no effect", switches="enable-offline-docs"),
    **_note(
        "which executor runs is chosen by --executor; it has no effect",
        "additional-config",
    ),
}
