"""Ranks for tests: processes that have imported torch once, and run one model after another over any of them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from octavo_testing.engine_runs import Finished

from octavo_engine.config import EngineConfig, ParallelConfig
from octavo_engine.messages import EngineRequest

WORKER = Path(__file__).with_name("rank_worker.py")
TESTS = Path(__file__).parent.parent
SECONDS = 240.0


class RankPool:
    """`run` gives a model to as many of the processes as it has ranks; the processes start when first needed."""

    def __init__(self) -> None:
        self.workers: list[subprocess.Popen[str]] = []

    def run(
        self, config: EngineConfig, requests: Sequence[EngineRequest], *, packed: bool = False, triton: bool = False
    ) -> dict[str, dict[str, Any]]:
        """The results of each request: tokens, finish_reason, logprobs and so on.

        `packed`: the ranks keep a quantized file's blocks as GPUs do. `triton`: they run Triton's kernels, interpreted.
        """
        return self._run(config, requests, packed=packed, triton=triton)["results"]

    def beats_while_waiting(self, config: EngineConfig, requests: Sequence[EngineRequest]) -> int:
        """The beats of an engine's heart while its rank 0 waits for others, whose parts of a step are slow."""
        return self._run(config, requests, slow=True)["beats_while_waiting"]

    def run_over_symmetric_memory(
        self, config: EngineConfig, requests: Sequence[EngineRequest]
    ) -> tuple[dict[str, dict[str, Any]], int]:
        """The results of each request, and the number of sums of rank 0 over memory that ranks share."""
        answer = self._run(config, requests, symmetric=True)
        return answer["results"], answer["num_sums"]

    def _run(self, config: EngineConfig, requests: Sequence[EngineRequest], **how: bool) -> dict[str, Any]:
        with self._ranks(config.parallel.world_size) as ranks:
            how = dict.fromkeys(("packed", "triton", "slow", "symmetric"), False) | how
            self._send(ranks[0], how | {"config": _encoded(config), "requests": _encoded(list(requests)), "rank": 0})
            port = self._answer(ranks[0])["port"]
            parallel = msgspec.structs.replace(config.parallel, master_port=port)
            for rank in range(1, len(ranks)):
                there = msgspec.structs.replace(config, parallel=parallel)
                self._send(ranks[rank], how | {"config": _encoded(there), "rank": rank})
            answer = self._answer(ranks[0])
            for rank in ranks[1:]:
                self._answer(rank)
        return answer

    def call(
        self,
        function: str,
        *,
        tensor: int = 1,
        pipeline: int = 1,
        nnodes: int = 1,
        custom_all_reduce: bool = True,
        **arguments: Any,
    ) -> list[Any]:
        """The results of a function of `rank_jobs` in each rank of a group without a model."""
        parallel: dict[str, Any] = {
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
            "nnodes": nnodes,
            "custom_all_reduce": custom_all_reduce,
        }
        job = {"function": function, "arguments": arguments}
        with self._ranks(tensor * pipeline) as ranks:
            self._send(ranks[0], job | {"parallel": parallel, "rank": 0})
            parallel["master_port"] = self._answer(ranks[0])["port"]
            for rank in range(1, len(ranks)):
                parallel["node_rank"] = rank * nnodes // len(ranks)
                self._send(ranks[rank], job | {"parallel": parallel, "rank": rank})
            return [self._answer(rank)["result"] for rank in ranks]

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.communicate()
        self.workers.clear()

    @contextmanager
    def _ranks(self, size: int) -> Iterator[list[subprocess.Popen[str]]]:
        """That many processes; all are killed where they take too long."""
        while len(self.workers) < size:
            self._start()
        watchdog = threading.Timer(SECONDS, self.close)
        watchdog.start()
        try:
            yield self.workers[:size]
        finally:
            watchdog.cancel()

    def _start(self) -> None:
        paths = [str(TESTS), *(str(Path(path).resolve()) for path in sys.path if path)]
        self.workers.append(
            subprocess.Popen(
                [sys.executable, "-P", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        )

    @staticmethod
    def _send(worker: subprocess.Popen[str], job: dict[str, Any]) -> None:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()

    def _answer(self, worker: subprocess.Popen[str]) -> dict[str, Any]:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        answer = json.loads(line) if line else {"error": "a rank ended without a word"}
        if "error" in answer:
            self.close()  # the others wait for it
            raise AssertionError(answer["error"])
        return answer


def finished(result: dict[str, Any]) -> Finished:
    """Give the result of a request, as `RankPool.run` has it, its types."""
    return msgspec.convert(result, Finished)


def spread(config: EngineConfig, tensor: int = 1, pipeline: int = 1, *, whole_experts: bool = False) -> EngineConfig:
    """`config` over that many ranks."""
    parallel = ParallelConfig(
        tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, enable_expert_parallel=whole_experts
    )
    return msgspec.structs.replace(config, parallel=parallel)


def _encoded(value: Any) -> str:
    return base64.b64encode(msgspec.msgpack.encode(value)).decode()
