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
    """Flags are written `name` or `name=value|value` with the values that ask for what Octavo does anyway."""
    table = {}
    for flag in flags:
        name, _, same = flag.partition("=")
        table[name] = UnservedFlag(why, same=frozenset(same.split("|")) if same else frozenset())
    for name in switches.split():
        table[name] = UnservedFlag(why, switch=True, same=frozenset({"false"}))
    return table


def _note(why: str, *flags: str, switches: str = "") -> dict[str, UnservedFlag]:
    table = {name: UnservedFlag(why, refused=False) for name in flags}
    table |= {
        name: UnservedFlag(why, refused=False, switch=True, same=frozenset({"false"})) for name in switches.split()
    }
    return table


def _always(why: str, switches: str) -> dict[str, UnservedFlag]:
    """Switches that name what is always on; only their `--no-` form is refused."""
    return {name: UnservedFlag(why, switch=True, same=frozenset({"true"})) for name in switches.split()}


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
        "data-parallel-backend",
        "api-server-count=1",
        "decode-context-parallel-size=1",
        "prefill-context-parallel-size=1",
        "worker-cls=auto",
        "worker-extension-cls",
        switches="data-parallel-hybrid-lb data-parallel-external-lb enable-elastic-ep ray-workers-use-nsight",
    ),
    # Several ranks
    **_refuse(
        "ranks are processes that torch.distributed joins; leave it out, and use --nnodes for several machines",
        "distributed-executor-backend=mp|uni",
    ),
    **_refuse(
        "each rank holds some rows of every expert, by --tensor-parallel-size; leave it out",
        "all2all-backend",
        "expert-placement-strategy",
        "eplb-config",
        "num-redundant-experts",
        "moe-backend=auto",
        switches="enable-expert-parallel enable-eplb enable-ep-weight-filter",
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
        switches="allow-deprecated-quantization",
    ),
    **_refuse(
        "KV blocks are bfloat16, or float32 under --dtype float32; leave it out",
        "kv-cache-dtype=auto",
        "kv-cache-dtype-skip-layers",
        "mamba-cache-dtype=auto",
        "mamba-ssm-cache-dtype=auto",
        "mamba-block-size",
        "mamba-cache-mode=none",
    ),
    **_refuse(
        "the architecture is read from the model's own files; edit its config.json, or use --hf-overrides",
        "hf-config-path",
        "config-format=auto|hf",
        "code-revision",
        "rope-scaling",
        "rope-theta",
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
        "limit-mm-per-prompt",
        "mm-processor-kwargs",
        "media-io-kwargs",
        "allowed-local-media-path",
        "allowed-media-domains",
        "mm-encoder-tp-mode",
        "mm-processor-cache-gb",
        "mm-processor-cache-type",
        "interleave-mm-strings",
        switches="enable-prompt-embeds enable-mm-embeds language-model-only disable-mm-preprocessor-cache",
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
        "ignore-patterns",
        "safetensors-load-strategy=lazy",
        "pt-load-map-location",
        switches="use-tqdm-on-load",
    ),
    # Features to come
    **_refuse(
        "LoRA adapters are not served yet; merge the adapter into the model's weights",
        "lora-modules",
        "max-loras",
        "max-lora-rank",
        "max-cpu-loras",
        "lora-dtype=auto",
        "lora-target-modules",
        "default-mm-loras",
        switches="enable-lora fully-sharded-loras enable-tower-connector-lora",
    ),
    **_refuse(
        "speculative decoding is not served yet; leave it out: the answers are the same",
        "speculative-config",
        "spec-method",
        "spec-model",
        "spec-tokens",
        "speculative-model",
        "num-speculative-tokens",
        "sc",
    ),
    **_refuse(
        "no code is loaded; describe the format in a file instead (docs/extending.md), or name one of those that are read",
        "tool-parser-plugin",
        "reasoning-parser-plugin",
    ),
    **_refuse("no tools are run by the server; leave it out, and run them in the client", "tool-server"),
    **_refuse("the end of reasoning can't be forced yet; leave it out, and limit max_tokens", "reasoning-config"),
    **_refuse(
        "constrained decoding is not served yet; leave it out, requests that need it are refused by name",
        "structured-outputs-config",
        "guided-decoding-backend",
        "guided-decoding-disable-fallback",
        "logits-processors",
        "io-processor-plugin",
    ),
    **_refuse(
        "KV blocks are not offloaded; leave it out, --swap-space keeps preempted sequences in host memory",
        "cpu-offload-gb=0",
        "cpu-offload-params",
        "kv-offloading-size",
        "kv-offloading-backend",
        "kv-transfer-config",
        "ec-transfer-config",
        "kv-events-config",
        "offload-backend=auto",
        "offload-group-size",
        switches="kv-sharing-fast-prefill enable-sleep-mode enable-scale-out",
    ),
    **_refuse(
        "tracing is not served yet; /metrics has each request's times",
        "otlp-traces-endpoint",
        "collect-detailed-traces",
        "kv-cache-metrics-sample",
        "profiler-config",
        "custom-histogram-buckets",
        switches="kv-cache-metrics cudagraph-metrics enable-mfu-metrics enable-layerwise-nvtx-tracing",
    ),
    # The HTTP server
    **_refuse(
        "TLS is not served here; put an ingress or a gateway in front",
        "ssl-keyfile",
        "ssl-certfile",
        "ssl-ca-certs",
        "ssl-cert-reqs=0",
        "ssl-ciphers",
        switches="enable-ssl-refresh",
    ),
    **_refuse("no code is loaded by an import path; put a proxy in front", "middleware"),
    **_refuse("CORS answers any method and header, without credentials", "allowed-methods", "allowed-headers"),
    **_refuse("CORS answers without credentials; put a gateway in front", switches="allow-credentials"),
    **_refuse("answers have the role assistant; leave it out", "response-role=assistant"),
    **_refuse(
        "name it in the request instead (stream_options.include_usage, return_tokens_as_token_ids, "
        "chat_template_kwargs)",
        "default-chat-template-kwargs",
        switches="enable-force-include-usage return-tokens-as-token-ids",
    ),
    **_refuse("the endpoint is not served; leave it out", switches="enable-tokenizer-info-endpoint"),
    **_refuse("it is not served yet; leave it out", "override-generation-config", "logprobs-mode=raw_logprobs"),
    **_refuse("it is not served yet; --enable-log-requests logs what comes in", switches="enable-log-outputs"),
    **_always("this is always on", "enable-request-id-headers enable-prompt-tokens-details disable-fastapi-docs"),
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
        "stream-interval",
        "max-parallel-loading-workers",
        "prefix-caching-hash-algo",
        "gdn-prefill-backend",
        switches="use-v2-block-manager multi-step-stream-outputs disable-async-output-proc "
        "scheduler-reserve-full-isl disable-chunked-mm-input disable-hybrid-kv-cache-manager "
        "disable-frontend-multiprocessing worker-use-ray engine-use-ray calculate-kv-scales "
        "disable-nccl-for-dp-synchronization enable-dbo",
    ),
    **_note(
        "logging is set by --enable-log-requests and --disable-log-stats; it has no effect",
        "uvicorn-log-level",
        "log-config-file",
        "max-log-len",
        "disable-access-log-for-endpoints",
        switches="disable-uvicorn-access-log enable-logging-iteration-details aggregate-engine-logging log-error-stack",
    ),
    **_note(
        "the HTTP parser's bounds are fixed; it has no effect", "h11-max-incomplete-event-size", "h11-max-header-count"
    ),
    **_note("requests are logged only with --enable-log-requests; it has no effect", switches="disable-log-requests"),
    **_note("reasoning is split where its format is known; it has no effect", switches="enable-reasoning"),
    **_note("the old metrics are always exported; it has no effect", "show-hidden-metrics-for-version"),
    **_note(
        "which executor runs is chosen by --executor; it has no effect",
        "additional-config",
    ),
}
