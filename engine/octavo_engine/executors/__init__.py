"""Executors run the model. Chosen once at start, by name; each module is imported only when chosen."""

from __future__ import annotations

import ctypes
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from octavo_engine.errors import ExecutorError

if TYPE_CHECKING:
    from octavo_engine.config import EngineConfig, ModelFiles
    from octavo_engine.executors.executor import Executor
    from octavo_models.spec import ModelSpec

logger = logging.getLogger(__name__)


def create_executor(config: EngineConfig, spec: ModelSpec, files: ModelFiles) -> Executor:
    """The executor that the configuration names, not yet loaded.

    Raises:
        ExecutorError: it isn't installed, or this machine lacks what it needs.
    """
    name: str = config.executor.executor
    if name == "auto":
        name = "torch" if config.parallel.world_size > 1 else _suiting()
    if name == "torch":
        require_torch()
    if name == "torch" and config.parallel.world_size > 1:
        from octavo_engine.executors.torch.parallel_executor import LeadExecutor  # noqa: PLC0415

        return LeadExecutor(config, spec, files)
    if name == "torch":
        from octavo_engine.executors.torch.executor import TorchExecutor  # noqa: PLC0415

        return TorchExecutor(config, spec, files)
    from octavo_engine.executors.native.executor import NativeExecutor  # noqa: PLC0415

    return NativeExecutor(config, spec, files)


def require_torch() -> None:
    """Raises ExecutorError where there is none."""
    if find_spec("torch") is None:
        raise ExecutorError(
            "the torch executor, which runs models over several ranks and on cards, needs torch, and it is not "
            "installed: pip install 'octavo[cuda]', or torch alone for a CPU"
        )


def _suiting() -> str:
    """The executor for this machine."""
    if not has_card():
        return "native"
    if find_spec("torch") is None:
        logger.warning("there is a card, and no torch to use it: the model runs on the CPU; install octavo[cuda]")
        return "native"
    return "torch"


def has_card() -> bool:
    """Whether an NVIDIA driver shows this process a card. Asked without torch, whose import takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
