"""Lists of the kernels that a rank was found to need, kept beside them: its next start need not be rehearsed.

A list is named for all that decides what is in it, this source and the versions of PyTorch and Triton included, so a
list that is found is right. Imports neither of them: that everything is compiled can be seen in well under a second.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import octavo_engine
import octavo_models
from octavo_engine.config import AdapterConfig, CacheConfig, EngineConfig, ExecutorConfig, ModelConfig, SchedulerConfig
from octavo_engine.kernels.folders import folders, group_of, kernel_cache_folder
from octavo_models.partition import Place
from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)


class Listed(msgspec.Struct, frozen=True):
    """One variant, and the entry of Triton's cache that holds its code."""

    module: str
    name: str
    args: list[tuple[str, bool] | float | None]  # a pointer's dtype and whether it is aligned, or a number
    options: list[tuple[str, Any]]
    entry: str


def complete(kernels: Sequence[Listed]) -> bool:
    """True if the folders hold the code of each."""
    return all(
        any(group_of(folder / kernel.entry, f"{kernel.name}.json") is not None for folder in folders())
        for kernel in kernels
    )


def what_decides(config: EngineConfig) -> EngineConfig:
    """The part of `config` that variants depend on; the rest at its defaults. A rehearsal is run under this."""
    return EngineConfig(
        model=ModelConfig(model="", served_model_names=(), load_format="dummy", dtype=config.model.dtype),
        cache=CacheConfig(block_size=config.cache.block_size),
        scheduler=SchedulerConfig(
            max_num_seqs=config.scheduler.max_num_seqs, max_num_batched_tokens=config.scheduler.max_num_batched_tokens
        ),
        executor=ExecutorConfig(executor="torch", threads=1),
        adapters=AdapterConfig(enabled=True, max_lora_rank=config.adapters.max_lora_rank)
        if config.adapters.enabled
        else AdapterConfig(),
    )


def name_of(config: EngineConfig, spec: ModelSpec, place: Place, capability: int) -> str:
    """The name of the list of the rank at `place` of the model `spec`, for GPUs of `capability`."""
    digest = hashlib.sha256(_sources())
    for part in (what_decides(config), spec, place, capability):
        digest.update(repr(part).encode() + b"\0")
    if config.executor.kernel_parameters is not None:
        digest.update(Path(config.executor.kernel_parameters).read_bytes())
    return f"octavo-{capability}-{digest.hexdigest()[:32]}.json"


@functools.cache
def _sources() -> bytes:
    """A digest of this source, and of the versions that kernels are made by."""
    versions = (platform.python_version(), *(importlib.metadata.version(name) for name in ("torch", "triton")))
    digest = hashlib.sha256(repr(versions).encode())
    for package in (octavo_engine, octavo_models):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.digest()


def read_list(name: str) -> list[Listed] | None:
    """Read what an earlier start has found."""
    for folder in folders():
        try:
            return msgspec.json.decode((folder / name).read_bytes(), type=list[Listed])
        except (OSError, msgspec.DecodeError):
            continue
    return None


def write_list(name: str, kernels: Sequence[Listed]) -> None:
    """Keep a list for the next start. Where that can't be done, the next one rehearses again."""
    path = kernel_cache_folder() / name
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        partial.write_bytes(msgspec.json.encode(kernels))
        partial.replace(path)
    except OSError as error:
        logger.info("which kernels are needed can't be kept in %s: %s", path, error)
