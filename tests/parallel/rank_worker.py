"""One rank of `rank_pool`: reads jobs as lines of JSON, runs them, answers each with a line."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import socket
import sys
import traceback
from typing import Any

import msgspec
from octavo_testing.engine_runs import generate, running_core

from octavo_engine.config import EngineConfig
from octavo_engine.core.outputs import SchedulerOutput
from octavo_engine.engine.rank_process import RankBoot, run
from octavo_engine.executors.torch import executor
from octavo_engine.executors.torch.executor import TorchExecutor
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


def lead(config: EngineConfig, requests: list[EngineRequest], answer: Any) -> dict[str, Any]:
    """Be rank 0, in the engine core's place."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer({"port": listener.getsockname()[1]})
        parallel = msgspec.structs.replace(
            config.parallel, master_port=listener.getsockname()[1], listen_fd=os.dup(listener.fileno())
        )
    with running_core(msgspec.structs.replace(config, parallel=parallel)) as core:
        finished = generate(core, requests)
        ready = core.ready()
    results = {name: dataclasses.asdict(result) for name, result in finished.items()}
    return {"results": results, "num_blocks": ready.num_blocks}


def main() -> None:
    TorchExecutor.submit = poisonous(TorchExecutor.submit)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not answer

    def answer(value: dict[str, Any]) -> None:
        out.write(json.dumps(value, default=msgspec.to_builtins) + "\n")
        out.flush()

    for line in sys.stdin:
        job = json.loads(line)
        config = msgspec.msgpack.decode(base64.b64decode(job["config"]), type=EngineConfig)
        ReferenceOperations.prefers_packed = job["packed"]
        executor.operations_on = triton_operations_on if job["triton"] else operations_on
        try:
            if job["rank"] == 0:
                requests = msgspec.msgpack.decode(base64.b64decode(job["requests"]), type=list[EngineRequest])
                answer(lead(config, requests, answer))
            else:
                run(RankBoot(config, job["rank"], -1))
                answer({})
        except Exception:
            answer({"error": traceback.format_exc()})


if __name__ == "__main__":
    main()
