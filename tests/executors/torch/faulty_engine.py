"""An engine over a GPU that fails: a loader for `octavo serve`, in place of the one that reads the model.

OCTAVO_TEST_FAULT names the fault. Those of a step begin with the first request whose prompt begins with POISON.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from octavo_testing.recorded_graph import GraphRecorder

from octavo_engine.cli.arguments import parse
from octavo_engine.cli.serve import serve
from octavo_engine.engine import loader as engine_loader
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.faults import FaultWatch
from octavo_engine.executors.torch.sampler import Sampler
from octavo_engine.kernels.reference_operations import ReferenceOperations

POISON = 13
ILLEGAL = torch.AcceleratorError(
    "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress' in its documentation"
)
IMAGE = RuntimeError("Triton Error [CUDA]: device kernel image is invalid")
SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB")
SCORES = RuntimeError("Triton Error [CUDA]: an illegal instruction was encountered")
NCCL = dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error")


class Gpu(ReferenceOperations):
    """One that does as `fault` says once a poisoned request is there."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.poisoned = self.corrupt = False

    def synchronize(self) -> None:
        if self.corrupt:
            raise ILLEGAL

    def matmul(self, *args: Any) -> Any:
        self.lose("illegal address")
        if self.poisoned and self.fault == "no kernel runs":
            raise IMAGE
        if self.poisoned and self.fault == "collectives":
            raise NCCL
        if self.poisoned and self.fault == "hang":
            threading.Event().wait()
        if self.poisoned and self.fault == "once":
            self.fault = "none any more"
            raise SHORT
        return super().matmul(*args)

    def lose(self, fault: str) -> None:
        """Corrupt the device where this is the fault, and its time has come."""
        if self.poisoned and self.fault == fault:
            self.corrupt = True
            raise ILLEGAL


class Recorder(GraphRecorder):
    """Records decodes as a GPU does; it is lost in a replay, or while the second graph is captured."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu, self.asked = gpu, 0

    def record(self, run: Any) -> Any:
        self.asked += 1
        if self.gpu.fault == "capture" and self.asked == 2:
            self.gpu.corrupt = True
            raise ILLEGAL
        outputs, replay = super().record(run)
        return outputs, lambda: (self.gpu.lose("replay"), replay())


def break_calls(gpu: Gpu) -> None:
    """Have prompts' scores and copies to the host fail where that is the fault."""
    score, copy = Sampler.score_prompts, torch.Tensor.to

    def scored(*args: Any) -> Any:
        if gpu.poisoned and gpu.fault == "scores of prompts":
            raise SCORES
        return score(*args)

    def copied(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        if args[:1] == ("cpu",):
            gpu.lose("copies to the host")
        return copy(tensor, *args, **options)

    Sampler.score_prompts, torch.Tensor.to = scored, copied


def load(config: Any, send: Any) -> Any:
    """The real loader, over such a GPU."""
    gpu = Gpu(os.environ["OCTAVO_TEST_FAULT"])
    recorder = Recorder(gpu) if gpu.fault in {"capture", "replay"} else None
    break_calls(gpu)

    def create(config: Any, spec: Any, files: Any) -> TorchExecutor:
        weights = partial(_raise, ILLEGAL) if gpu.fault == "weights" else None
        executor = TorchExecutor(
            config,
            spec,
            files,
            torch.device("cpu"),
            operations=gpu if recorder is None else recorder.over(gpu),
            recorder=recorder,
            weights=weights,
            faults=FaultWatch(gpu.synchronize),
        )
        if gpu.fault == "memory":
            executor._kv_bytes = executor._read_weights = partial(_raise, SHORT)
            executor._weights = executor._read_weights
        submit = executor.submit

        def poisoned(step: Any) -> Any:
            gpu.poisoned |= any(new.token_ids[0] == POISON for new in step.new)
            return submit(step)

        executor.submit = poisoned
        return executor

    engine_loader.create_executor = create
    return engine_loader.load(config, send)


def _raise(error: Exception, *_: Any, **__: Any) -> Any:
    raise error


if __name__ == "__main__":
    sys.exit(serve(parse(sys.argv[1:]), loader="faulty_engine:load"))
