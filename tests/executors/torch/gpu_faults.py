"""A small engine over a device that fails, with errors as CUDA, Triton, cuBLAS and NCCL raise them.

Messages are those of PyTorch 2.13's and Triton 3.9's sources. Whether the device is lost is what it says itself.
"""

from __future__ import annotations

import msgspec
import torch
import torch.distributed as dist
from octavo_testing.engine_runs import engine_config
from octavo_testing.tiny_models import make

from octavo_engine.config import CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

ILLEGAL = "CUDA error: an illegal memory access was encountered"
ERRORS = {
    "torch": torch.AcceleratorError(f"{ILLEGAL}\nSearch for `cudaErrorIllegalAddress' in the CUDA documentation"),
    "triton": RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle, opa, opb)`"),
    "pinned": RuntimeError("CUDA error: out of memory"),
    "oom": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    ),
    "module": RuntimeError("Triton Error [CUDA]: out of memory"),
}
# Where a step may meet one: (what is called, as an attribute of the executor)
NCCL = dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error")


class Gpu:
    """A device that is lost once `corrupt` is set, and says so from then on."""

    def __init__(self) -> None:
        self.corrupt = False

    def synchronize(self) -> None:
        if self.corrupt:
            raise ERRORS["torch"]


def small_model(folder):
    """(configuration without graphs, description, files) of a model that is made in `folder`."""
    make("llama", folder)
    config = engine_config(
        ModelConfig(model=str(folder), served_model_names=("tiny",), dtype="float32"),
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=64),
        scheduler=SchedulerConfig(max_num_batched_tokens=48, max_num_seqs=6),
    )
    config = msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=True))
    files = resolve(config.model, lambda *_: None)
    return config, read_spec(config.model, files), files


def with_graphs(config):
    return msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, enforce_eager=False))


def engine_of(config, spec, files, recorder=None, gpu=None):
    """(engine, its executor, its device). A `recorder` makes it replay decodes, if the configuration has graphs."""
    gpu = gpu or Gpu()
    executor = TorchExecutor(
        config,
        spec,
        files,
        torch.device("cpu"),
        recorder=recorder,
        operations=None if recorder is None else recorder.over(ReferenceOperations()),
        faults=FaultWatch(gpu.synchronize),
    )
    return EngineCore(config, executor, spec), executor, gpu


def break_call(monkeypatch, executor, name, error, *, when=lambda: True):
    """Make the call raise `error` from now on where `when()`."""
    if name == "copies to the host":
        break_copies(monkeypatch, error, when)
        return
    *path, last = name.split(".")
    owner = executor
    for part in path:
        owner = getattr(owner, part)
    whole = getattr(owner, last)

    def broken(*args, **options):
        result = whole(*args, **options) if last == "apply" else None
        if when():
            raise error
        return result if last == "apply" else whole(*args, **options)

    if hasattr(type(owner), "__slots__") and not hasattr(owner, "__dict__"):
        raise AssertionError(f"{name} can't be replaced")
    setattr(owner, last, broken)


def break_copies(monkeypatch, error, when):
    """Make copies of results to the host raise: no other copy names the CPU, where all runs on one."""
    copy = torch.Tensor.to

    def broken(self, *args, **options):
        if args[:1] == ("cpu",) and when():
            raise error
        return copy(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", broken)
