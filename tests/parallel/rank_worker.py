"""One rank of `rank_pool`: reads jobs as lines of JSON, runs them, answers each with a line."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
import traceback
from typing import Any
from unittest import mock

import msgspec
import rank_jobs
from octavo_testing.engine_runs import generate, running_core
from rank_jobs import PULSE_SECONDS
from symmetric_stand_in import Operations, StandIn

from octavo_engine.config import EngineConfig, ParallelConfig
from octavo_engine.core.outputs import SchedulerOutput
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.engine.loader import find_files, read_model
from octavo_engine.engine.rank_process import RankBoot, run
from octavo_engine.executors.torch import executor, parallel_pulse
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.parallel_group import RankGroup
from octavo_engine.kernels.backends import operations_on, triton_operations_on
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.messages import EngineRequest

POISON = 13  # a prompt that begins with it makes every rank fail in the step


def poisonous(submit: Any) -> Any:
    """`TorchExecutor.submit`, which such a prompt makes fail."""

    def poisoned(self: TorchExecutor, step: SchedulerOutput) -> Any:
        if any(new.token_ids[0] == POISON for new in step.new):
            raise MemoryError("a test asked for it")
        return submit(self, step)

    return poisoned


def listening(parallel: ParallelConfig, answer: Any) -> ParallelConfig:
    """`parallel` with the place where rank 0 listens, which the others get by `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answer({"port": port})
        return msgspec.structs.replace(parallel, master_port=port, listen_fd=os.dup(listener.fileno()))


def call(job: dict[str, Any], answer: Any) -> dict[str, Any]:
    """Run a function of `rank_jobs` in a group of ranks without a model."""
    parallel, rank = ParallelConfig(**job["parallel"]), job["rank"]
    if rank == 0:
        parallel = listening(parallel, answer)
    with getattr(rank_jobs, job["function"])(**job["arguments"]) as run_in:
        group = RankGroup(parallel, rank, "cpu")
        try:
            return {"result": run_in(group)}
        finally:
            group.close()


def lead(config: EngineConfig, requests: list[EngineRequest], answer: Any) -> dict[str, Any]:
    """Be rank 0, in the engine core's place."""
    parallel = listening(config.parallel, answer)
    config = msgspec.structs.replace(config, parallel=parallel)
    files, _ = find_files(config)
    with running_core(config, files, read_model(config, files)) as core:
        waiting = beats_while_waiting(core)
        finished = generate(core, requests)
    results = {name: dataclasses.asdict(result) for name, result in finished.items()}
    num_sums = len(Operations.memory.calls) if hasattr(Operations, "memory") else 0
    return {"results": results, "beats_while_waiting": sum(waiting), "num_sums": num_sums}


def beats_while_waiting(core: EngineCore) -> list[int]:
    """Count the beats of the engine's heart within each wait for the last stage, from now on."""
    beats = memoryview(bytearray(8)).cast("Q")
    core.beat_into(beats)
    waiting: list[int] = []
    group = getattr(core._executor, "_group", None)
    if group is not None:
        broadcast = group.broadcast

        def counted(data: bytes | None, source: int = 0) -> bytes:
            before = beats[0]
            got = broadcast(data, source)
            waiting.append(beats[0] - before)
            return got

        group.broadcast = counted
    return waiting


def slow_parts(beat_into: Any) -> Any:
    """`TorchExecutor.beat_into`, after which each part of a step takes longer than some pulses."""

    def slowed(self: TorchExecutor, beats: memoryview) -> None:
        beat_into(self, beats)
        decoder = self.runner._ready()[0]
        beat = decoder.on_part
        decoder.on_part = lambda: (beat(), time.sleep(5 * PULSE_SECONDS))[0]

    return slowed


def main() -> None:
    TorchExecutor.submit = poisonous(TorchExecutor.submit)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not answer

    def answer(value: dict[str, Any]) -> None:
        out.write(json.dumps(value, default=msgspec.to_builtins) + "\n")
        out.flush()

    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer(call(job, answer) if "function" in job else serve(job, answer))
        except Exception:
            answer({"error": traceback.format_exc()})


def serve(job: dict[str, Any], answer: Any) -> dict[str, Any]:
    """Be a rank of an engine, as the job says."""
    config = msgspec.msgpack.decode(base64.b64decode(job["config"]), type=EngineConfig)
    parallel_pulse.PULSE_SECONDS = PULSE_SECONDS if job["slow"] else 1.0
    ReferenceOperations.prefers_packed = job["packed"]
    executor.operations_on = triton_operations_on if job["triton"] else operations_on
    with contextlib.ExitStack() as stack:
        if job["slow"] and job["rank"]:
            slow = slow_parts(TorchExecutor.beat_into)
            stack.enter_context(mock.patch.object(TorchExecutor, "beat_into", slow))
        if job["symmetric"]:
            stack.enter_context(rank_jobs.symmetric_memory(lambda _: StandIn()))
        if job["rank"] == 0:
            requests = msgspec.msgpack.decode(base64.b64decode(job["requests"]), type=list[EngineRequest])
            return lead(config, requests, answer)
        run(RankBoot(config, job["rank"], -1))
        return {}


if __name__ == "__main__":
    main()
