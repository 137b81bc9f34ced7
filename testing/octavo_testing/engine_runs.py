"""Runs the engine core in this process, for tests: a model and requests in, finished outputs out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from octavo_engine.config import (
    AdapterConfig,
    AdapterModule,
    CacheConfig,
    EngineConfig,
    ExecutorConfig,
    ModelConfig,
    ModelFiles,
    SchedulerConfig,
)
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors import create_executor
from octavo_engine.executors.executor import Executor
from octavo_engine.messages import EngineRequest, TokenLogprob, Vocabulary
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter_source import load_adapter
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.spec import ModelSpec

MAX_STEPS = 20_000
BYTES = Vocabulary([bytes([byte]) for byte in range(256)], [])  # token i is byte i
LETTERS = json.dumps({"grammars": [{"lark_grammar": "start: /([a-z][0-9]){500}/"}]})
BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ


@dataclass(slots=True)
class Finished:
    """The result of one request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: str | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0


def engine_config(
    model: ModelConfig,
    executor: str,
    *,
    cache: CacheConfig | None = None,
    scheduler: SchedulerConfig | None = None,
    adapters: Sequence[Path] = (),
    max_loras: int | None = None,
) -> EngineConfig:
    """A configuration with half a GiB of blocks, unless said otherwise, and adapters 1, 2 … of these folders.

    The twin gets one thread: its many small operations gain nothing from a second, and lose much to a busy machine.
    The native executor gets two, but one where pytest's workers share the cores.
    `executor` may also be "triton": the torch executor over interpreted kernels.
    """
    native = executor == "native"
    return EngineConfig(
        model=model,
        cache=cache or CacheConfig(kv_cache_memory_bytes=512 << 20),
        scheduler=scheduler or SchedulerConfig(),
        executor=ExecutorConfig(
            executor="native" if native else "torch", threads=2 if native and not BESIDE_OTHERS else 1
        ),
        adapters=AdapterConfig(
            enabled=bool(adapters),
            modules=tuple(AdapterModule(name=str(i), path=str(path)) for i, path in enumerate(adapters, 1)),
            max_loras=max_loras or max(1, len(adapters)),
            max_cpu_loras=max(1, len(adapters)),
        ),
    )


def request(
    request_id: str, prompt: Sequence[int], max_tokens: int = 64, *, adapter_id: int = 0, **fields
) -> EngineRequest:
    """A greedy request that runs to its last token, unless `fields` of SamplingParams say otherwise."""
    sampling = SamplingParams(max_tokens=max_tokens, **({"temperature": 0.0, "ignore_eos": True} | fields))
    return EngineRequest(
        request_id=request_id,
        prompt_token_ids=list(prompt),
        sampling=sampling,
        arrival_time=time.time(),
        adapter_id=adapter_id,
    )


def interpreted(config: EngineConfig, spec: ModelSpec, files: ModelFiles) -> Executor:
    """The torch executor over Triton's kernels, which are interpreted on a CPU."""
    import torch

    from octavo_engine.executors.torch.executor import TorchExecutor
    from octavo_engine.kernels.backends import triton_operations_on

    cpu = torch.device("cpu")
    return TorchExecutor(config, spec, files, cpu, operations=triton_operations_on(cpu))


@contextmanager
def running_core(
    config: EngineConfig,
    files: ModelFiles | None = None,
    spec: ModelSpec | None = None,
    create: Callable[[EngineConfig, ModelSpec, ModelFiles], Executor] = create_executor,
) -> Iterator[EngineCore]:
    """The loaded core of `config`, closed at the end."""
    files = files or resolve(config.model, lambda *_: None)
    spec = spec or read_spec(config.model, files)
    read = partial(load_adapter, spec, config.adapters) if isinstance(spec, ModelSpec) else None
    core = EngineCore(config, create(config, spec, files), spec, read_adapter=read)
    try:
        yield core
    finally:
        core.close()


def generate(core: EngineCore, requests: Iterable[EngineRequest]) -> dict[str, Finished]:
    """Step until all of `requests` have ended; the books of the blocks are checked after every step.

    Grammars are about `BYTES`.
    """
    results: dict[str, Finished] = {}
    core.set_vocabulary(BYTES)
    for r in requests:
        core.add(r)
        results[r.request_id] = Finished()
    for _ in range(MAX_STEPS):
        while core.is_compiling and not core.has_work:
            time.sleep(0.001)
        if not core.has_work:
            break
        for output in core.step():
            result = results[output.request_id]
            result.tokens += output.new_token_ids
            result.logprobs += output.logprobs or []
            if output.prompt_logprobs is not None:  # in parts
                result.prompt_logprobs = [*(result.prompt_logprobs or ()), *output.prompt_logprobs]
            result.finish_reason = output.finish_reason
            result.error = output.error
            result.num_cached_tokens = max(result.num_cached_tokens, output.num_cached_tokens)
            result.num_preemptions = max(result.num_preemptions, output.num_preemptions)
        core.check()
    assert all(r.finish_reason for r in results.values()), "every request ends in exactly one finish reason"
    return results


def run_engine(config: EngineConfig, requests: Iterable[EngineRequest]) -> dict[str, Finished]:
    """Load the model, run all requests together, close. For any executor."""
    with running_core(config) as core:
        return generate(core, requests)
