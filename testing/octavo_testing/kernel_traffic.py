"""Random traffic through the torch executor over kernels that are recorded instead of run, for tests.

Everything but the arithmetic is the executor's own: scheduler, tables, buffers and their addresses. Weights are memory
that is never touched, so that a layer of a large model costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from octavo_engine.config import (
    CacheConfig,
    DType,
    EngineConfig,
    ExecutorConfig,
    ModelConfig,
    ModelFiles,
    SchedulerConfig,
)
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.model_configs import GEMMA_3_270M, LLAMA_3_8B, SMOLLM2_135M
from octavo_engine.executors.torch.parallel import WHOLE
from octavo_engine.executors.torch.rehearsal import UncomputedOperations, Unshared, described_weights
from octavo_engine.kernels.packing import Stored
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.messages import EngineRequest
from octavo_models import from_hf_config
from octavo_models.partition import Place
from octavo_models.spec import ModelSpec
from octavo_testing.engine_runs import generate, request

MODELS = {"Llama-3-8B": LLAMA_3_8B, "Gemma 3 270M": GEMMA_3_270M, "SmolLM2-135M": SMOLLM2_135M}


def shallow(config: dict, layers: int) -> ModelSpec:
    """The model of `config` with its first few layers: all kinds of layers come among the first seven."""
    return from_hf_config(config | {"num_hidden_layers": layers})


class Replay:
    """A recorder of graphs that records nothing: a replay runs the function again."""

    def record(self, run):
        return run(), run

    def forget(self) -> None:
        pass


def untouched(weight: Stored) -> Stored:
    """Memory of the layout of a weight that lies nowhere."""
    if isinstance(weight, Tensor):
        return torch.empty(weight.shape, dtype=weight.dtype)
    return weight.map(lambda x: torch.empty(x.shape, dtype=x.dtype))


def config_for(max_num_seqs: int = 256, dtype: DType = "auto") -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model="random", served_model_names=("random",), load_format="dummy", dtype=dtype),
        cache=CacheConfig(num_gpu_blocks_override=20_000),
        scheduler=SchedulerConfig(max_num_seqs=max_num_seqs, max_num_batched_tokens=2048),
        executor=ExecutorConfig(executor="torch", threads=1),
    )


def core_over(launcher: Launcher, config: EngineConfig, spec: ModelSpec, place: Place = WHOLE) -> EngineCore:
    """An engine of `spec`, or one rank of it, over `launcher`, with graphs."""
    files = ModelFiles(folder=Path(), config=None, weights=(), weights_format="dummy", tokenizer=None)

    def weights() -> dict[str, Stored]:
        described = described_weights(spec, place, executor.runner.dtype, packed=executor.runner.packed)
        return {name: untouched(weight) for name, weight in described.items()}

    executor = TorchExecutor(
        config,
        spec,
        files,
        torch.device("cpu"),
        Unshared(place),
        operations=UncomputedOperations(launcher),
        recorder=Replay(),
        weights=weights,
    )
    return EngineCore(config, executor, spec)


def random_request(name: str, spec: ModelSpec, chance: random.Random) -> EngineRequest:
    """A request of any length, plain or with any of what a request may ask for."""
    longest = min(spec.max_position - 64, 3000)
    prompt = [
        chance.randrange(spec.vocab_size)
        for _ in range(chance.choice([1, 2, 3, 15, 16, 17, 100, min(511, longest), longest]))
    ]
    fields: dict = {"temperature": chance.choice([0.0, 0.7]), "seed": chance.randrange(1 << 62)}
    extras = {
        "logprobs": chance.randint(0, 20),
        "prompt_logprobs": chance.randint(0, 20),
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "top_k": chance.randint(1, 60),
        "top_p": 0.9,
        "min_p": 0.05,
        "logit_bias": {chance.randrange(spec.vocab_size): 2.0 for _ in range(chance.randint(1, 5))},
        "allowed_token_ids": tuple(range(chance.randint(1, 9))),
        "bad_words": tuple((1,) * chance.randint(1, 4) for _ in range(chance.randint(1, 3))),
        "min_tokens": 3,
        "stop_token_ids": (5,),
    }
    for name_of_extra in chance.sample(sorted(extras), chance.choice([0, 0, 0, 1, 2, 5])):
        fields[name_of_extra] = extras[name_of_extra]
    return request(name, prompt, chance.randint(1, 12), **fields)


def traffic(core: EngineCore, spec: ModelSpec, seed: int) -> Iterator[int]:
    """Serve bursts of 1, 2, 3, 32 and 256 requests, and of odd numbers; the size of each when it has ended."""
    chance = random.Random(seed)
    for burst in (1, 2, 3, 32, 256, *(chance.randint(1, 90) for _ in range(2))):
        results = generate(core, (random_request(f"{seed} {burst} {i}", spec, chance) for i in range(burst)))
        assert all(r.error is None for r in results.values()), [r.error for r in results.values() if r.error][:3]
        yield burst
