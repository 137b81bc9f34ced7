"""Executors run the model. Chosen once at start, by name; each module is imported only when chosen."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import tempfile
from importlib.util import find_spec
from typing import TYPE_CHECKING

from octavo_engine.errors import ExecutorError
from octavo_engine.executors.unsupported import refuse_unsupported
from octavo_engine.gpus import has_gpu, require_gpus, require_usable_gpus
from octavo_engine.kernels.folders import kernel_cache_folder
from octavo_models.features import Executor as ExecutorName
from octavo_models.features import unsupported
from octavo_models.spec import ModelSpec

if TYPE_CHECKING:
    from octavo_engine.config import EngineConfig, ModelFiles
    from octavo_engine.executors.executor import Executor
    from octavo_models.outline import Model

logger = logging.getLogger(__name__)


def create_executor(config: EngineConfig, spec: Model, files: ModelFiles) -> Executor:
    """The executor that the configuration names, not yet loaded.

    Raises:
        ExecutorError: it isn't installed, or this machine lacks what it needs.
    """
    name = executor_name(config, spec)
    if name == "torch":
        require_torch()
    if name == "torch" and config.parallel.world_size > 1:
        from octavo_engine.executors.torch.parallel_executor import LeadExecutor  # noqa: PLC0415

        return LeadExecutor(config, spec, files)
    if name == "torch":
        from octavo_engine.executors.torch.executor import TorchExecutor  # noqa: PLC0415

        return TorchExecutor(config, spec, files)
    refuse_unsupported(spec, "native")
    assert isinstance(spec, ModelSpec)
    from octavo_engine.executors.native.executor import NativeExecutor  # noqa: PLC0415

    return NativeExecutor(config, spec, files)


def require_device(config: EngineConfig) -> None:
    """Ensure that the promised device is there, before anything is downloaded for it.

    Raises:
        GpuUnavailableError: a GPU was promised, or is there and no device was named, and this process can't use it.
    """
    if config.executor.device == "cuda":
        require_gpus(len(config.parallel.ranks_here))
    elif config.executor.device == "auto":
        require_usable_gpus()


def require_torch() -> None:
    """Raises ExecutorError where there is none. Beside a GPU, finds a folder for the kernels that it compiles."""
    if find_spec("torch") is None:
        raise ExecutorError(
            "the torch executor, which runs models over several ranks and on GPUs, needs torch, and it is not "
            "installed: take the image whose tag ends in -cuda, or pip install torch triton, for a CPU torch alone"
        )
    if has_gpu():
        _find_kernel_cache()


def _find_kernel_cache() -> None:
    """Give Triton a temporary folder where it can't write to its own: the first kernel would fail otherwise.

    A container's arbitrary user often has no home, or one that is read-only.
    """
    if "TRITON_CACHE_DIR" in os.environ:
        return
    usual = kernel_cache_folder()
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


def executor_name(config: EngineConfig, spec: Model) -> ExecutorName:
    """`native` or `torch`."""
    executor = config.executor
    if executor.executor != "auto":
        return executor.executor
    if executor.device == "cuda" or config.parallel.world_size > 1:
        return "torch"
    return "torch" if executor.device == "auto" and has_gpu() else _on_cpu(spec)


def _on_cpu(spec: Model) -> ExecutorName:
    """The native executor; torch for a model that only torch runs."""
    missing = unsupported(spec, "native")
    if missing is None or unsupported(spec, "torch") is not None or find_spec("torch") is None:
        return "native"
    logger.warning(
        "the native executor does not support %s: the torch executor runs the model, slowly on a CPU", missing
    )
    return "torch"
