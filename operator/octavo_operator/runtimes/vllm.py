"""vLLM 0.32, in its own images."""

from __future__ import annotations

from octavo_models import ModelSpec
from octavo_operator.api.engine import Engine
from octavo_operator.api.flags import FIELD_OF_FLAG
from octavo_operator.api.reasons import SpecReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.runtimes import command_line
from octavo_operator.runtimes.runtime import MetricNames, Runtime, Start, Variables
from octavo_operator.runtimes.swap_space import no_swap_space, swap_space_on_cpu

MIB = 1024**2


def _arguments(start: Start) -> tuple[str, ...]:
    return command_line.arguments(start, takes_kv_cache_dtype=True)


def _kv_cache_dtype(engine: Engine, spec: ModelSpec | None, on_gpu: bool) -> Refusal | None:
    del spec, on_gpu
    if engine.kv_cache_dtype != "float32":
        return None
    message = "engine.kvCacheDtype float32: vLLM has no such KV cache"
    return Refusal(SpecReason.KV_CACHE_DTYPE, message, "remove engine.kvCacheDtype")


def _swap_space(engine: Engine, spec: ModelSpec | None, on_gpu: bool) -> Refusal | None:
    return no_swap_space(engine, "vLLM has no swap space") if on_gpu else swap_space_on_cpu(engine, spec, on_gpu)


RUNTIME = Runtime(
    name="vllm",
    images={"nvidia": "vllm", "cpu": "vllm-cpu"},
    command=("vllm", "serve"),
    arguments=_arguments,
    target=command_line.target,
    variables=Variables(api_key="VLLM_API_KEY"),
    health="/health",
    metrics=MetricNames(
        waiting=("vllm:num_requests_waiting",),
        running=("vllm:num_requests_running",),
        kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        generated=("vllm:generation_tokens_total",),
    ),
    reserved=FIELD_OF_FLAG,
    schemes=frozenset({"hf", "pvc", "file"}),
    runs_locally=False,
    runs_download=False,
    executors={},
    capability=(7, 5),  # CUDA 13, for which its wheels are built, has no older target
    takes=command_line.TAKES | {"quantization"},
    checks={"kv_cache_dtype": _kv_cache_dtype, "swap_space": _swap_space},
    swaps=False,
    widens=False,
    serves_vision=True,
    tokens_on_gpu=False,
    bounds_requests=False,
    reads_flags_of_file=True,
    serves_tls=True,
    watches_start=False,
    graph_bytes=0,
    cpu_bytes=4096 * MIB,
    quantizes_on_load=frozenset({"fp8"}),
)
