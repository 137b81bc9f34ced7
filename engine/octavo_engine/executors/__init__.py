"""Executors run the model. Chosen once at start, by name; each module is imported only when chosen."""

from __future__ import annotations

import atexit
import ctypes
import errno
import logging
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
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
    """Raises ExecutorError where there is none. Beside a GPU, finds a folder for the kernels that it compiles."""
    if find_spec("torch") is None:
        raise ExecutorError(
            "the torch executor, which runs models over several ranks and on cards, needs torch, and it is not "
            "installed: pip install 'octavo[cuda]', or torch alone for a CPU"
        )
    if has_card():
        _find_kernel_cache()


def _find_kernel_cache() -> None:
    """Give Triton a temporary folder where it can't write to its own: the first kernel would fail otherwise.

    A container's arbitrary user often has no home, or one that is read-only.
    """
    if "TRITON_CACHE_DIR" in os.environ:
        return
    usual = Path(os.path.expanduser(os.environ.get("TRITON_HOME", "~"))) / ".triton" / "cache"  # noqa: PTH111
    try:
        if not usual.is_absolute():
            raise FileNotFoundError(errno.ENOENT, "this user has no home", str(usual))
        usual.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=usual):
            return
    except OSError as error:
        logger.warning(
            "compiled kernels can't be kept in %s (%s): they are compiled again at each start; set TRITON_CACHE_DIR "
            "to a folder that can be written",
            usual,
            error.strerror,
        )
    os.environ["TRITON_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="octavo-triton-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


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
