"""The kernels of `make kernels-report`: all that engines of some models launch, found as each engine finds its own.

Between them the models have every head size, norm and grouping that ships, experts, sinks, ALiBi, pooling and latent
attention; Llama's layers come once more in each packed format, and with adapters of two ranks, and Qwen's experts in the
most common format. Owns which models these are, and names that stay from report to report.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from octavo_engine.config import AdapterConfig, EngineConfig, ExecutorConfig, ModelConfig, SchedulerConfig
from octavo_engine.executors.torch.model_configs import (
    BGE_BASE,
    BLOOM_7B1,
    DEEPSEEK_V2_LITE,
    GEMMA_3_270M,
    GPT_OSS_20B,
    LLAMA_3_8B,
    QWEN3_30B_A3B,
    SMOLLM2_135M,
)
from octavo_engine.executors.torch.rehearsal import RecordingLauncher, kernels_of, rehearse
from octavo_engine.kernels.packing import PACKERS
from octavo_engine.kernels.triton.float8_launches import launch_float8
from octavo_engine.kernels.triton.launch import OLDEST, Gpu, Launcher
from octavo_engine.kernels.triton.launch_defaults import DEFAULTS
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.kernels.triton.variants import Pointer, Variant
from octavo_models import from_hf_config
from octavo_models.formats import stays_packed
from octavo_models.spec import ModelSpec

LAST = ("BLOCK", "SPLIT", "TILE", "num_")  # what names a variant only where nothing else does: tables choose it


@dataclass(frozen=True, slots=True)
class Reported:
    """One variant of the report, and the programs of its largest launch."""

    name: str
    variant: Variant
    programs: int


def reported_kernels(gpu: Gpu) -> Iterator[Reported]:
    """Every variant that is compiled for a GPU, once, under the first model that has it.

    For a GPU that is refused, what would be compiled in float16, the only half that it has.
    """
    met: set[Variant] = set()
    for label, found in _rehearsed(gpu):
        for variant, name in names_of(found).items():
            if variant not in met:
                met.add(variant)
                kernel, _, rest = name.partition(" ")
                yield Reported(" ".join(filter(None, (kernel, label, rest))), variant, found[variant])


def reported_models() -> dict[str, ModelSpec]:
    """The reported models by the label that names carry."""
    llama, qwen = from_hf_config(LLAMA_3_8B), from_hf_config(QWEN3_30B_A3B)
    return {
        "llama": llama,
        "gemma": from_hf_config(GEMMA_3_270M),
        "smollm2": from_hf_config(SMOLLM2_135M),
        **{format_: packed_in(format_, llama) for format_ in PACKERS},
        "bge": from_hf_config(BGE_BASE),
        "deepseek-v2": from_hf_config(DEEPSEEK_V2_LITE),
        "bloom": from_hf_config(BLOOM_7B1),
        "qwen3-moe": qwen,
        "qwen3-moe-q4_k": packed_in("q4_k", qwen),
        "gpt-oss": from_hf_config(GPT_OSS_20B),
    }


ON_GPU = SchedulerConfig(max_num_seqs=256, max_num_batched_tokens=8192)
"""The scheduler of an engine without flags on a GPU: a mixture's tiles grow with the tokens of a step."""
ADAPTER_RANKS = {"lora": 16, "lora-64": 64}
"""Labels of Llama with adapters, by their highest rank."""


def reported_engines() -> Iterator[tuple[str, EngineConfig, ModelSpec]]:
    """The reported models, each with the configuration that it comes in."""
    models = reported_models()
    for label, spec in models.items():
        yield label, report_config(), spec
    for label, rank in ADAPTER_RANKS.items():
        yield label, report_config(AdapterConfig(enabled=True, max_lora_rank=rank)), models["llama"]


def report_config(adapters: AdapterConfig | None = None) -> EngineConfig:
    """The configuration of an engine without flags on a GPU, but for those of adapters."""
    return EngineConfig(
        model=ModelConfig(model="report", served_model_names=("report",), load_format="dummy"),
        scheduler=ON_GPU,
        executor=ExecutorConfig(executor="torch"),
        adapters=adapters or AdapterConfig(),
    )


def packed_in(format_: str, spec: ModelSpec) -> ModelSpec:
    """`spec` as a file has it whose layers are quantized."""
    weights = tuple(
        replace(weight, format=format_) if weight.layer is not None and stays_packed(format_, weight.shape) else weight
        for weight in spec.weights
    )
    return replace(spec, weights=weights, quantization="gguf")


def _rehearsed(gpu: Gpu) -> Iterator[tuple[str, Mapping[Variant, int]]]:
    refused = gpu.capability < OLDEST
    launcher = Launcher(gpu, DEFAULTS[89] if refused else {})  # no table is made for what is refused
    for label, config, spec in reported_engines():
        dtype = "float16" if refused else spec.dtype
        asked = (config, replace(spec, dtype=dtype), launcher)
        yield label, dict.fromkeys(kernels_of(*asked), 1) | rehearse(*asked)
    if gpu.capability >= 89:
        recorder = RecordingLauncher(gpu)
        launch_float8(TritonOperations(recorder))
        yield "f8", recorder.recorded


def names_of(variants: Collection[Variant]) -> dict[Variant, str]:
    """A name for each: its kernel, and as much of what it is compiled for as distinguishes it from its kernel's others."""
    by_kernel: dict[str, list[Variant]] = {}
    for variant in variants:
        by_kernel.setdefault(variant.name, []).append(variant)
    names = {}
    for kernel, alike in by_kernel.items():
        features = [_features(variant) for variant in alike]
        chosen: list[str] = []
        for feature in sorted(features[0], key=lambda name: (name.startswith(LAST), name)):
            seen = {tuple(f.get(name) for name in chosen) for f in features}
            if len({tuple(f.get(name) for name in (*chosen, feature)) for f in features}) > len(seen):
                chosen.append(feature)
        for variant, f in zip(alike, features, strict=True):
            names[variant] = " ".join([kernel.removesuffix("_kernel"), *(f"{name}={f[name]}" for name in chosen)])
    assert len(set(names.values())) == len(names)
    return names


def _features(variant: Variant) -> dict[str, Any]:
    """Constants and arguments by their names."""
    arguments = zip(inspect.signature(variant.kernel.fn).parameters, variant.args, strict=False)
    shown = {
        name: str(arg.dtype).removeprefix("torch.") if isinstance(arg, Pointer) else arg for name, arg in arguments
    }
    return shown | dict(variant.options)
