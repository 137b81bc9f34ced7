"""Runs the torch executor with adapters, step by step, and models that adapters are merged into."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch

from octavo_engine.config import AdapterConfig, EngineConfig, ExecutorConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.weights import read_weights
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.packing import Stored
from octavo_engine.kernels.reference_quantized import widen
from octavo_engine.sampling_params import SamplingParams
from octavo_engine.weights.adapter import Adapter, LowRank
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve
from octavo_models.adapted import adapted_products
from octavo_models.partition import Place
from octavo_models.spec import ModelSpec

CPU = torch.device("cpu")
SAMPLING = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True, logprobs=3, prompt_logprobs=2)
BLOCKS = 8  # of each request
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Asked:
    """A request: it joins at step `joins`, and its prompt is computed in chunks."""

    prompt: list[int]
    adapter_id: int = 0
    joins: int = 0
    num_tokens: int = 5


@dataclass
class Result:
    tokens: list[int]
    logprobs: list[float]  # of the tokens, and of the best others, in order
    prompt_logprobs: list[float]
    error: str | None = None


def config_of(
    folder: Any, max_loras: int = 2, max_lora_rank: int = 8, *, enabled: bool = True, **model: Any
) -> EngineConfig:
    adapters = AdapterConfig(enabled=enabled, max_loras=max_loras, max_lora_rank=max_lora_rank, max_cpu_loras=8)
    return EngineConfig(
        model=ModelConfig(model=str(folder), served_model_names=("m",), **model),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64),
        executor=ExecutorConfig(executor="torch", threads=1),
        adapters=adapters if enabled else AdapterConfig(),
    )


def described(config: EngineConfig) -> tuple[ModelSpec, ModelFiles]:
    files = resolve(config.model, lambda *_: None)
    return read_spec(config.model, files), files


def started(config: EngineConfig, adapters: Sequence[Adapter] = (), **options: Any) -> TorchExecutor:
    """A loaded executor that keeps these adapters."""
    executor = TorchExecutor(config, *described(config), CPU, **options)
    layout = executor.load().layout
    executor.init_kv((1 + BLOCKS * config.scheduler.max_num_seqs,) * len(layout.groups))
    for adapter in adapters:
        executor.add_adapter(adapter)
    return executor


def random_adapter(
    spec: ModelSpec,
    adapter_id: int,
    rank: int = 4,
    *,
    only: Callable[[str], bool] = lambda _: True,
    ranks: Sequence[int] = (),
) -> Adapter:
    """Parts for every weight that can be adapted and that `only` takes, large enough to change what is drawn."""
    draw = np.random.default_rng(adapter_id)
    shapes = {weight.name: weight.shape for weight in spec.weights}
    parts = []
    for product in adapted_products(spec):
        for name in filter(only, product.names):
            out, columns = shapes[name]
            r = ranks[len(parts) % len(ranks)] if ranks else rank
            a = draw.standard_normal((r, columns)).astype(np.float32) / columns**0.5
            b = draw.standard_normal((out, r)).astype(np.float32) / r**0.5
            parts.append(LowRank(name, a, b))
    return Adapter(adapter_id, tuple(parts))


def merged_weights(config: EngineConfig, adapter: Adapter, *, packed: bool = False) -> Callable[[], dict[str, Stored]]:
    """The model's weights with those of the adapter added: w + b @ a. Of packed ones, to what they stand for."""

    def weights() -> dict[str, Stored]:
        spec, files = described(config)
        held = read_weights(spec, files, torch.float32, CPU, config.model.seed, Place(), packed=packed)
        for part in adapter.parts:
            own = held[part.weight]
            plain = widen(own, torch.float32) if isinstance(own, PackedWeight) else own
            held[part.weight] = plain + torch.from_numpy(part.b @ part.a)
        return held

    return weights


def run(executor: TorchExecutor, asked: Sequence[Asked], *, chunk: int = 7, first_step: int = 0) -> list[Result]:
    """Run all requests, each as they join: steps of chunks of prompts beside decodes, read one behind."""
    results = [Result([], [], []) for _ in asked]
    blocks = [list(range(1 + BLOCKS * i, 1 + BLOCKS * (i + 1))) for i in range(len(asked))]
    groups = len(executor.runner.layout.groups)
    done = [0] * len(asked)
    ended: list[str] = []
    step_id = first_step
    while any(r.error is None and len(r.tokens) < a.num_tokens for a, r in zip(asked, results, strict=True)):
        new, continued, counts, wanted, samples = [], [], {}, {}, set()
        for i, (a, result) in enumerate(zip(asked, results, strict=True)):
            if result.error or len(result.tokens) >= a.num_tokens or step_id - first_step < a.joins:
                continue
            name = str(i)
            known = len(a.prompt) + len(result.tokens)
            counts[name] = min(chunk, known - done[i]) if done[i] < len(a.prompt) else 1
            if done[i] == 0:
                tables = tuple(list(blocks[i]) for _ in range(groups))
                new.append(NewRequest(name, list(a.prompt), SAMPLING, tables, 0, a.adapter_id))
            else:
                continued.append(ContinuedRequest(name, ((),) * groups, done[i]))
            wanted[name] = counts[name] if done[i] < len(a.prompt) else 1
            done[i] += counts[name]
            if done[i] >= len(a.prompt):
                samples.add(name)
        step = SchedulerOutput(step_id, tuple(new), tuple(continued), counts, wanted, frozenset(samples), tuple(ended))
        ended = []
        handle = executor.submit(step)
        executor.sample(handle)
        output = executor.collect(handle)
        for name in counts:
            result = results[int(name)]
            result.error = output.errors.get(name)
            result.tokens += output.tokens.get(name, [])
            for found in output.logprobs.get(name, []):
                result.logprobs += [found.logprob, *(logprob for _, logprob in found.top)]
            for found in output.prompt_logprobs.get(name, []):
                result.prompt_logprobs += [found.logprob]
            if result.error or len(result.tokens) >= asked[int(name)].num_tokens:
                ended.append(name)
        step_id += 1
    counts = {"end": 1}  # a request that clears the others
    handle = executor.submit(
        SchedulerOutput(
            step_id, (NewRequest("end", [1], SAMPLING, ([1],) * groups, 0),), (), counts, {}, frozenset(), tuple(ended)
        )
    )
    executor.sample(handle)
    executor.collect(handle)
    executor.runner.requests.clear()
    return results


def prompts(spec: ModelSpec, lengths: Sequence[int] = (1, 9, 17, 23)) -> list[list[int]]:
    chance = random.Random(11)
    return [[chance.randrange(3, spec.vocab_size) for _ in range(n)] for n in lengths]


def without_adapters(config: EngineConfig) -> EngineConfig:
    return msgspec.structs.replace(config, adapters=AdapterConfig())
