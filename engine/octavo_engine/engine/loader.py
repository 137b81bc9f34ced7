"""Loads an engine core that can step from a configuration: finds the files, reads their description, loads the weights.

Owns the order of the start. Each stage is reported with its seconds when it ends.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import msgspec

from octavo_engine.config import EngineConfig, ModelFiles, encode_files
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.errors import ConfigError, ModelLoadError
from octavo_engine.executors import create_executor, executor_name, require_device
from octavo_engine.messages import Progress, Ready, Reply, Resolved
from octavo_engine.weights.adapter_source import load_adapter
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.errors import UnsupportedModelError
from octavo_models.features import unsupported
from octavo_models.outline import Model, ModelOutline
from octavo_models.sharding import FLAG_NAMES, obstacle, possible_sizes
from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)


def load(config: EngineConfig, send: Callable[[Reply], None]) -> tuple[EngineCore, Ready]:
    """The engine of `config`, loaded; `send` gets each stage, and where the model's files are as soon as it is known.

    Raises:
        OctavoError: what can't be had or can't be run, in one sentence.
    """
    require_device(config)
    start = time.perf_counter()
    files, fetched = find_files(config)
    send(Resolved(encode_files(files)))
    send(Progress("downloaded the model" if fetched else "found the model", time.perf_counter() - start))
    start = time.perf_counter()
    spec = read_model(config, files)
    send(Progress(f"read its description: {spec.architecture}", time.perf_counter() - start))
    start = time.perf_counter()
    config = suited(config, spec)
    executor = create_executor(config, spec, files)
    kind = executor.capabilities.name.partition(" ")[0]
    send(Progress(f"prepared the {kind} executor", time.perf_counter() - start))
    engine = EngineCore(
        config,
        executor,
        spec,
        lambda stage, seconds: send(Progress(stage, seconds)),
        read_adapter=partial(load_adapter, spec, config.adapters) if isinstance(spec, ModelSpec) else None,
    )
    return engine, msgspec.structs.replace(engine.ready(), vocab_size=spec.vocab_size)


def suited(config: EngineConfig, spec: Model) -> EngineConfig:
    """The configuration for a model that pools: its prompts are computed whole, so a step takes the longest one."""
    if not isinstance(spec, ModelSpec) or spec.pooling is None:
        return config
    scheduler, longest = config.scheduler, config.model.max_model_len or spec.max_position
    if scheduler.max_num_batched_tokens < longest:
        logger.info("a step takes a whole prompt: --max-num-batched-tokens is %d", longest)
        scheduler = msgspec.structs.replace(scheduler, max_num_batched_tokens=longest)
    return msgspec.structs.replace(config, scheduler=scheduler)


def find_files(config: EngineConfig) -> tuple[ModelFiles, bool]:
    """The model's files on this machine, and whether they had to be fetched. Raises ModelLoadError."""
    shown = DownloadLine()
    files = resolve(config.model, shown.report)
    shown.end()
    return files, shown.used


def read_description(config: EngineConfig, files: ModelFiles) -> ModelSpec:
    """The model that the files describe.

    Raises:
        ConfigError: it can't be divided among as many ranks as the configuration says.
        ModelLoadError, ModelError: they can't be read, or describe what isn't supported.
    """
    spec = read_spec(config.model, files)
    parallel = config.parallel
    if spec.pooling is not None and parallel.world_size > 1:
        raise ConfigError(
            "a model that makes embeddings or scores runs on one rank; leave --tensor-parallel-size and "
            "--pipeline-parallel-size out, and run several replicas"
        )
    whole = parallel.enable_expert_parallel
    asked = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    hindrance = obstacle(spec, *asked, names=FLAG_NAMES, whole_experts=whole)
    if hindrance is not None:
        most = max(parallel.tensor_parallel_size, 64)
        stages = min(parallel.pipeline_parallel_size, len(spec.layers))
        sizes = possible_sizes(spec, stages, most, whole_experts=whole)
        raise ConfigError(f"{hindrance}: {', '.join(map(str, sizes))} would do" if "tensor" in hindrance else hindrance)
    return spec


def read_model(config: EngineConfig, files: ModelFiles) -> Model:
    """The model's description, or its outline where transformers computes it, as --model-impl says.

    Raises:
        ConfigError, ExecutorError, ModelLoadError, ModelError: it can't be run so.
    """
    way = config.model.model_impl
    if way == "transformers":
        return _outlined(config, files, "--model-impl says so")
    try:
        spec = read_description(config, files)
    except ModelLoadError as error:
        if way == "octavo" or not isinstance(error.__cause__, UnsupportedModelError):
            raise
        try:
            return _outlined(config, files, str(error.__cause__).partition(";")[0])
        except (ConfigError, ModelLoadError) as other:
            raise ModelLoadError(f"{error}; nor can transformers run it: {other}") from error
    missing = unsupported(spec, executor_name(config, spec))
    if missing is None or way == "octavo":
        return spec
    try:
        return _outlined(config, files, f"the executor does not support {missing}")
    except (ConfigError, ModelLoadError):
        return spec  # refused by the executor, with what it lacks


def _outlined(config: EngineConfig, files: ModelFiles, why: str) -> ModelOutline:
    hindrance = _transformers_obstacle(config, files)
    if hindrance is not None:
        raise ConfigError(f"--model-impl transformers: {hindrance}")
    from octavo_engine.executors.torch.transformers_outline import outline  # noqa: PLC0415 — imports torch

    found = outline(config.model, files)
    hindrance = _undivided(found, config.parallel.tensor_parallel_size)
    if hindrance is not None:
        raise ConfigError(hindrance)
    logger.warning(
        "transformers computes %s over Octavo's KV blocks (%s): slower than a described model, each layer's operations "
        "one by one and without CUDA graphs; weights unpacked, and read whole by every rank",
        found.architecture,
        why,
    )
    return found


def _undivided(outline: ModelOutline, ranks: int) -> str | None:
    """The reason why transformers can't divide the model among so many ranks, and what to do; None if it can."""
    asked = f"--tensor-parallel-size {ranks}"
    if ranks == 1:
        return None
    if outline.cuts_heads is None:
        return (
            f"{asked}: transformers has no plan to divide {outline.architecture}; leave it out, and use more replicas"
        )
    heads = [(a.num_heads, a.num_kv_heads) for a in outline.attentions if outline.cuts_heads]
    for q, kv in heads:
        if q % ranks or kv % ranks:
            sizes = [size for size in range(1, ranks) if all(q % size == kv % size == 0 for q, kv in heads)]
            return (
                f"{asked} does not divide the model's {q} attention heads and {kv} KV heads, which transformers divides "
                f"both: {', '.join(map(str, sizes))} would do"
            )
    return None


def _transformers_obstacle(config: EngineConfig, files: ModelFiles) -> str | None:
    """The reason why transformers can't run a model of this configuration; None if it may."""
    if config.executor.executor == "native":
        return "the native executor runs described architectures alone; take --executor torch"
    if config.parallel.pipeline_parallel_size > 1:
        return "it has one stage; leave --pipeline-parallel-size out, and take --tensor-parallel-size"
    if config.parallel.enable_expert_parallel:
        return "a model's own plan divides its experts; leave --enable-expert-parallel out"
    if files.weights_format == "gguf":
        return "it reads folders with a config.json, and this is a GGUF file"
    lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if lacking:
        return f"it needs {' and '.join(lacking)}: pip install {' '.join(lacking)}"
    if config.parallel.world_size > 1 and find_spec("transformers.distributed.tensor_parallel") is None:
        return "this transformers is too old to divide models: pip install -U transformers, or run on one rank"
    return None


class DownloadLine:
    """A download's progress on stderr: one line that moves in a terminal, one line each five seconds elsewhere."""

    def __init__(self) -> None:
        self.used = False
        self._tty = sys.stderr.isatty()
        self._last = 0.0
        self._open = False

    def report(self, what: str, done: int, total: int | None) -> None:
        """`what` is being fetched: `done` bytes of `total`, if that is known."""
        self.used = True
        now = time.monotonic()
        complete = total is not None and done >= total
        if now - self._last < (0.1 if self._tty else 5.0) and not complete:
            return
        self._last = now
        share = f" of {total / 1e6:,.1f} MB ({done / total:.0%})" if total else ""
        text = f"  fetching {what}: {done / 1e6:,.1f} MB{share}"
        if self._tty:
            sys.stderr.write(f"\r\x1b[K{text}")
            self._open = True
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._open = False
