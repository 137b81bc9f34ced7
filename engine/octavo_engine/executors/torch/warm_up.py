"""Compiles all kernels that an engine may launch: before its first request, or ahead of time for GPUs that are not here.

What a rehearsal finds is kept beside the kernels (`kernel_lists`), so that it runs once for a model and its flags.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from octavo_engine.config import EngineConfig
from octavo_engine.executors.cores import number_of_threads
from octavo_engine.executors.torch.kernel_lists import Listed, name_of, read_list, write_list
from octavo_engine.executors.torch.parallel import Parallel
from octavo_engine.executors.torch.rehearsal import kernels_of
from octavo_engine.kernels.folders import entry_of
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.triton.direct_launch import DirectLauncher, launcher_on
from octavo_engine.kernels.triton.kernel_cache import ProgressLine, prepare
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.kernels.triton.variants import Pointer, Variant
from octavo_models.outline import Model
from octavo_models.partition import Place
from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)


def prepare_kernels(config: EngineConfig, spec: Model, ops: Operations, place: Place) -> None:
    """Compile and load all kernels that the rank at `place` may launch. The cache has them after a pod's first start.

    Raises:
        ExecutorError: a kernel can't be compiled.
    """
    if not isinstance(ops, TritonOperations) or not isinstance(spec, ModelSpec):
        return  # beside transformers, kernels are compiled as they are first launched
    start, launcher = time.perf_counter(), ops.launch
    workers = max(1, number_of_threads(config.executor.threads) // len(config.parallel.ranks_here))
    line = ProgressLine(launcher.gpu.capability)
    codes = _prepared(config, spec, launcher, [place], workers, line.report, on_gpu=True)
    if isinstance(launcher, DirectLauncher):
        launcher.hold(codes)
    logger.info("%d kernels are ready (%.1f s)", len(codes), time.perf_counter() - start)


def compile_kernels(
    config: EngineConfig, spec: ModelSpec, capability: int, places: Sequence[Place], workers: int
) -> int:
    """Compile what the ranks at `places` may launch on GPUs of `capability`, into the cache; how many kernels these are.

    Raises:
        ExecutorError: a kernel can't be compiled, or the file of launch parameters is none.
    """
    # How many SMs a GPU has changes no list of kernels.
    launcher = launcher_on(Gpu(capability, 1), config.executor.kernel_parameters)
    line = ProgressLine(capability)
    return len(_prepared(config, spec, launcher, places, workers, line.report, on_gpu=False))


def _prepared(
    config: EngineConfig,
    spec: ModelSpec,
    launcher: Launcher,
    places: Sequence[Place],
    workers: int,
    report: Callable[[int, int], None],
    *,
    on_gpu: bool,
) -> Mapping[Variant, Any]:
    """The code of what ranks at `places` may launch: their parts of a layer differ where sizes do not divide."""
    capability = launcher.gpu.capability
    known: dict[str, list[Variant]] = {}
    found: dict[str, list[Variant]] = {}
    for place in places:
        name = name_of(config, spec, place, capability)
        listed = read_list(name)
        if listed is None:
            found[name] = kernels_of(config, spec, launcher, Parallel(place))
        else:
            known[name] = [variant_of(kernel) for kernel in listed]
    needed = dict.fromkeys(variant for variants in (known | found).values() for variant in variants)
    codes = prepare(list(needed), capability, workers, report, on_gpu=on_gpu)
    for name, variants in found.items():
        write_list(name, [listed_as(variant, entry_of(codes[variant].hash)) for variant in variants])
    return codes


def listed_as(variant: Variant, entry: str) -> Listed:
    """`variant` as it is written down; its code is in the cache's folder `entry`."""
    args = [(str(arg.dtype), arg.aligned) if isinstance(arg, Pointer) else arg for arg in variant.args]
    return Listed(variant.module, variant.name, args, list(variant.options), entry)


def variant_of(kernel: Listed) -> Variant:
    """The variant that `listed_as` wrote down."""
    args = tuple(
        Pointer(getattr(torch, arg[0].removeprefix("torch.")), arg[1]) if isinstance(arg, tuple) else arg
        for arg in kernel.args
    )
    return Variant(kernel.module, kernel.name, args, tuple(kernel.options))
