"""Executors run the model. Chosen once at start, by name; each module is imported only when chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo_engine.config import EngineConfig, ModelFiles
    from octavo_engine.executors.executor import Executor
    from octavo_models.spec import ModelSpec


def create_executor(config: EngineConfig, spec: ModelSpec, files: ModelFiles) -> Executor:
    """The executor that the configuration names, not yet loaded.

    Raises:
        ExecutorError: it isn't installed, or this machine lacks what it needs.
    """
    if config.executor.executor == "torch" and config.parallel.world_size > 1:
        from octavo_engine.executors.torch.parallel_executor import LeadExecutor  # noqa: PLC0415

        return LeadExecutor(config, spec, files)
    if config.executor.executor == "torch":
        from octavo_engine.executors.torch.executor import TorchExecutor  # noqa: PLC0415

        return TorchExecutor(config, spec, files)
    from octavo_engine.executors.native.executor import NativeExecutor  # noqa: PLC0415

    return NativeExecutor(config, spec, files)
