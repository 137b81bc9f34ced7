"""The engines that can be run: what each needs of its hardware, what it takes of the manifest, and its default image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from octavo_models import ModelSpec
from octavo_operator.api.engine import Engine
from octavo_operator.api.observed import Capability
from octavo_operator.planner.plan import Hardware, Refusal
from octavo_operator.planner.sizes import MIB

SWAP_SPACE = Engine.model_fields["swap_space"].default  # cannot be told from one that the manifest sets


@dataclass(frozen=True, slots=True)
class Runtime:
    """What differs between engines that take vLLM's flags."""

    image: Mapping[str, str]
    """Vendor of the accelerator → key of `Settings.images`."""
    capability: Capability
    """Of the oldest GPU that it runs on."""
    api_key: str
    """Variable that holds the API keys."""
    api_key_file: str | None
    """Variable that names a file with them, which is read again when it changes; None where there is none."""
    takes_file: bool
    """It serves one file of several."""
    swaps: bool
    """Preempted sequences may go to host memory."""
    promises: tuple[str, ...]
    """Flags that make it exit where no GPU can be used."""
    widens: bool
    """dtype: auto keeps float32 weights as they are; else they become bfloat16."""
    graph_bytes: int
    """Taken from the KV cache's share for CUDA graphs."""
    cpu_bytes: int
    """Of a process on a CPU, before the model."""
    bounds_requests: bool
    """Its API server's bounds are known: `planner.request_memory`."""
    watches_start: bool
    """A start that makes no progress ends by itself (`--start-timeout`)."""


RUNTIMES = {
    "octavo": Runtime(
        image={"nvidia": "octavo-cuda", "cpu": "octavo"},
        capability=(8, 0),  # octavo_engine.kernels.triton.launch
        api_key="OCTAVO_API_KEY",
        api_key_file="OCTAVO_API_KEY_FILE",
        takes_file=True,
        swaps=True,
        promises=("--executor", "torch", "--device", "cuda"),
        widens=True,
        graph_bytes=300 * MIB,
        # API server, engine core and template worker, without torch: 115 MiB measured, and as much again for clients.
        cpu_bytes=256 * MIB,
        bounds_requests=True,
        watches_start=True,
    ),
    "vllm": Runtime(
        image={"nvidia": "vllm", "cpu": "vllm-cpu"},
        capability=(7, 5),  # CUDA 13, for which its wheels are built, has no older target
        api_key="VLLM_API_KEY",
        api_key_file=None,
        takes_file=False,
        swaps=False,
        promises=(),
        widens=False,
        graph_bytes=0,
        cpu_bytes=4096 * MIB,
        bounds_requests=False,
        watches_start=False,
    ),
}


def runtime_of(engine: Engine) -> Runtime:
    """The engine's; octavo's in place of one that is refused anyway."""
    return RUNTIMES.get(engine.runtime, RUNTIMES["octavo"])


def oldest(engine: Engine) -> Capability:
    """The compute capability below which the engine would not start."""
    needed = runtime_of(engine).capability
    return max(needed, (8, 0)) if engine.dtype == "bfloat16" else needed


def float32_kv(engine: Engine, spec: ModelSpec | None) -> bool:
    """Whether the KV cache is float32 where the manifest does not say: where the model runs in float32."""
    plain = spec is not None and spec.dtype == "float32" and spec.quantization is None
    return engine.dtype == "float32" or (engine.dtype == "auto" and plain and runtime_of(engine).widens)


def refusal(engine: Engine, spec: ModelSpec | None, hardware: Hardware) -> Refusal | None:
    """Why the runtime would not take the manifest's engine; None where it would."""
    runtime = runtime_of(engine)
    if engine.runtime == "octavo":
        own = "float32" if float32_kv(engine, spec) else "bfloat16"
        if engine.kv_cache_dtype not in {"auto", own}:
            return Refusal(
                "KvCacheDtypeNotSupported",
                f"engine.kvCacheDtype {engine.kv_cache_dtype}: octavo's KV cache is bfloat16, or float32 under dtype: "
                "float32",
                "remove engine.kvCacheDtype, or set engine.runtime: vllm",
            )
        if engine.quantization not in {None, "gguf"}:
            return Refusal(
                "QuantizationNotSupported",
                f"engine.quantization {engine.quantization}: octavo runs plain checkpoints and GGUF files",
                "remove engine.quantization and name a plain model or a GGUF file, or set engine.runtime: vllm",
            )
    if engine.runtime == "vllm" and engine.kv_cache_dtype == "float32":
        remedy = "remove engine.kvCacheDtype"
        return Refusal("KvCacheDtypeNotSupported", "engine.kvCacheDtype float32: vLLM has no such KV cache", remedy)
    swap = int(engine.swap_space)
    if (not runtime.swaps or not hardware.cards) and swap not in {0, int(SWAP_SPACE)}:
        why = "vLLM has no swap space" if hardware.cards else "on a CPU the KV cache lies in host memory already"
        return Refusal("SwapSpaceNotSupported", f"engine.swapSpace: {why}", "remove engine.swapSpace")
    return None
