"""Octavo's own engine."""

from __future__ import annotations

from octavo_models import ModelSpec
from octavo_operator.api.engine import Engine
from octavo_operator.api.flags import FIELD_OF_FLAG
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.runtimes import command_line
from octavo_operator.runtimes.runtime import MetricNames, Runtime, Start, Variables, Version
from octavo_operator.runtimes.swap_space import swap_space_on_cpu

MIB = 1024**2
NEEDS_GPU = ("--executor", "torch", "--device", "cuda")
FIRST: Version = (0, 1, 0)
"""The first release; before it no image was pinned."""


def _arguments(start: Start) -> tuple[str, ...]:
    """Render without `--kv-cache-dtype`: the KV cache has one type, which follows from the model's."""
    return command_line.arguments(start, takes_file=True, takes_swap_space=True, needs_gpu=NEEDS_GPU)


def _kv_cache_dtype(engine: Engine, spec: ModelSpec | None, on_gpu: bool) -> Refusal | None:
    own = RUNTIME.kv_dtype(engine, spec, on_gpu=on_gpu)
    if engine.kv_cache_dtype in {"auto", own}:
        return None
    return Refusal(
        SpecReason.KV_CACHE_DTYPE,
        f"engine.kvCacheDtype {engine.kv_cache_dtype}: octavo's KV cache has the type that the model runs in, here {own}",
        "remove engine.kvCacheDtype, or set engine.runtime: vllm",
    )


def _quantization(engine: Engine, spec: ModelSpec | None, on_gpu: bool) -> Refusal | None:
    del spec, on_gpu
    if engine.quantization in {None, "gguf"}:
        return None
    return Refusal(
        SpecReason.QUANTIZATION,
        f"engine.quantization {engine.quantization}: octavo runs plain checkpoints and GGUF files",
        "remove engine.quantization and name a plain model or a GGUF file, or set engine.runtime: vllm",
    )


RUNTIME = Runtime(
    name="octavo",
    images={"nvidia": "octavo-cuda", "cpu": "octavo"},
    command=("octavo", "serve"),
    arguments=_arguments,
    target=command_line.target,
    variables=Variables(api_key="OCTAVO_API_KEY", api_key_file="OCTAVO_API_KEY_FILE"),
    health="/health",
    metrics=MetricNames(
        waiting=("vllm:num_requests_waiting",),
        running=("vllm:num_requests_running",),
        kv_usage=("vllm:kv_cache_usage_perc",),
        generated=("vllm:generation_tokens_total",),
    ),
    reserved=FIELD_OF_FLAG,
    schemes=frozenset({"hf", "pvc", "file", "package"}),
    runs_locally=True,
    runs_download=True,
    executors={"nvidia": ("torch",), "cpu": ("native",)},
    capability=(8, 0),  # octavo_engine.kernels.triton.launch
    takes=command_line.TAKES,
    checks={"kv_cache_dtype": _kv_cache_dtype, "quantization": _quantization, "swap_space": swap_space_on_cpu},
    swaps=True,
    widens=True,
    serves_vision=False,
    tokens_on_gpu=True,
    bounds_requests=True,
    reads_flags_of_file=True,
    serves_tls=True,
    watches_start=True,
    graph_bytes=300 * MIB,
    # API server, engine core and template worker, without torch: 115 MiB measured, and as much again for clients.
    cpu_bytes=256 * MIB,
    # A flag that `_arguments` begins to render is added with the version that comes next; a test compares the two.
    flags_since={
        "--served-model-name": FIRST,
        "--revision": FIRST,
        "--file": FIRST,
        "--dtype": FIRST,
        "--quantization": FIRST,
        "--max-model-len": FIRST,
        "--max-num-seqs": FIRST,
        "--max-num-batched-tokens": FIRST,
        "--block-size": FIRST,
        "--kv-cache-memory-bytes": FIRST,
        "--executor": FIRST,
        "--device": FIRST,
        "--gpu-memory-utilization": FIRST,
        "--tensor-parallel-size": FIRST,
        "--pipeline-parallel-size": FIRST,
        "--swap-space": FIRST,
        "--enforce-eager": FIRST,
        "--no-enable-prefix-caching": FIRST,
        "--shutdown-timeout": FIRST,
    },
    # As with flags: a new template is added with the version that comes next.
    templates_since={"alpaca": FIRST, "chatml": FIRST, "falcon": FIRST, "phi-2": FIRST, "vicuna": FIRST},
)
