"""Measures what a step costs the host of a GPU: everything but the launches, which are left out. Needs no GPU.

The executor runs over tensors of a CPU; kernels are not launched, products are not computed, and graphs replay nothing.
Launches are left out whole ("unlaunched"), or but for finding the code that serves them ("found"). Prints wall
and CPU time in milliseconds, and the machine's load: to be run in turns with what it is compared with, on the same machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bench.whole_engine import random_weights
from torch import Tensor

from octavo_engine.config import CacheConfig, EngineConfig, ExecutorConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.kernels.reference_sampling import SamplingBatch
from octavo_engine.kernels.triton.direct_launch import DirectLauncher
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.sampling_params import SamplingParams
from octavo_models import from_hf_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
}
REQUESTS, CONTEXT, CHUNK = 128, 256, 64
ASKED = {
    "plain": SamplingParams(max_tokens=1000, ignore_eos=True),
    "allowed ids": SamplingParams(max_tokens=1000, ignore_eos=True, allowed_token_ids=tuple(range(0, 512, 3))),
    "bad words": SamplingParams(max_tokens=1000, ignore_eos=True, bad_words=tuple((i, i + 1) for i in range(64))),
    "penalties": SamplingParams(max_tokens=1000, ignore_eos=True, repetition_penalty=1.1),
}


class Unlaunched(Launcher):
    """Kernels do nothing."""

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        """Nothing."""


class Found(DirectLauncher):
    """The code that serves a launch is found, and then does nothing."""

    def _code(self, *_: Any) -> Any:
        return lambda *_: None


class Uncomputed(TritonOperations):
    """Products are not computed, and token 0 is drawn: uninitialized memory would be taken for failed requests."""

    def matmul(self, x: Tensor, weight: Any, _: Tensor | None = None) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0])

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        return torch.zeros_like(super().sample(logits, batch))


class Unreplayed:
    """Graphs that replay nothing."""

    def record(self, run: Any) -> Any:
        return run(), lambda: None

    def forget(self) -> None:
        """Nothing is held."""


def executor_of(launcher: Launcher) -> TorchExecutor:
    spec = from_hf_config(LLAMA)
    cpu = torch.device("cpu")
    config = EngineConfig(
        model=ModelConfig(model="random", served_model_names=("random",), dtype="float32"),
        cache=CacheConfig(kv_cache_memory_bytes=1 << 26),
        scheduler=SchedulerConfig(max_num_seqs=REQUESTS, max_num_batched_tokens=REQUESTS + CHUNK),
        executor=ExecutorConfig(executor="torch", threads=1),
    )
    files = ModelFiles(folder=Path(), config=None, weights=(), weights_format="dummy", tokenizer=None)
    made = TorchExecutor(
        config,
        spec,
        files,
        cpu,
        operations=Uncomputed(launcher),
        recorder=Unreplayed(),
        weights=lambda: random_weights(spec, torch.float32, cpu, 0.02),
    )
    made.load()
    made.init_kv((4096,))
    return made


def seconds_of(
    executor: TorchExecutor, sampling: SamplingParams, steps: int, *, mixed: bool = False
) -> list[tuple[float, float]]:
    """Wall and CPU time of steps of REQUESTS decodes, a chunk of a prompt beside them where `mixed`."""
    blocks = [[1 + i] * (CONTEXT // 16) for i in range(REQUESTS)]
    names = [str(i) for i in range(REQUESTS - mixed)]
    new = tuple(NewRequest(name, [5] * CONTEXT, sampling, (blocks[int(name)],), CONTEXT - 1) for name in names)
    counts = dict.fromkeys(names, 1)
    _run(executor, SchedulerOutput(0, new, (), counts, counts, frozenset(counts)))
    taken = []
    for step_id in range(1, steps + 1):
        at = CONTEXT - 1 + step_id
        added: tuple[list[int], ...] = ([7],) if at % 16 == 0 else ([],)
        continued = tuple(ContinuedRequest(name, added, at) for name in names)
        come: tuple[NewRequest, ...] = ()
        scheduled = counts
        if mixed:
            come = (NewRequest("p", [5] * CHUNK, sampling, ([9] * (CHUNK // 16),), 0),)
            scheduled = counts | {"p": CHUNK}
        step = SchedulerOutput(step_id, come, continued, scheduled, scheduled, frozenset(counts))
        start, used = time.perf_counter(), time.thread_time()
        _run(executor, step)
        taken.append((time.perf_counter() - start, time.thread_time() - used))
    executor.runner.requests.clear()
    return taken[len(taken) // 4 :]


def _run(executor: TorchExecutor, step: SchedulerOutput) -> None:
    handle = executor.submit(step)
    executor.sample(handle)
    drawn = executor.collect(handle)
    assert len(drawn.tokens) == len(step.samples), "each request that draws has a token"


def show(what: str, seconds: list[tuple[float, float]]) -> None:
    wall, cpu = ([1e3 * each for each in some] for some in zip(*seconds, strict=True))
    print(
        f"{REQUESTS} requests, {what}: median {statistics.median(wall):.2f} ms, minimum {min(wall):.2f}; CPU median "
        f"{statistics.median(cpu):.2f}, minimum {min(cpu):.2f}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in (Unlaunched, Found):
        executor = executor_of(kind(Gpu(90, 132)))
        for name, sampling in ASKED.items():
            if kind is Unlaunched or name == "plain":
                show(f"decodes, {name}, {kind.__name__.lower()}", seconds_of(executor, sampling, arguments.steps))
        show(f"mixed, {kind.__name__.lower()}", seconds_of(executor, ASKED["plain"], arguments.steps, mixed=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
