"""Random traffic through the torch executor over kernels that are recorded instead of run, for tests.

Everything but the arithmetic is the executor's own: scheduler, tables, buffers and their addresses. Weights are memory
that is never touched, so that a layer of a large model costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from engine_runs import generate, request
from torch import Tensor

from octavo_engine.config import CacheConfig, EngineConfig, ExecutorConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.engine_core import EngineCore
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.kernels.operations import Logprobs, PackedWeight, Weight
from octavo_engine.kernels.triton.launch import Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.messages import EngineRequest
from octavo_models import from_hf_config
from octavo_models.spec import ModelSpec

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "dtype": "bfloat16",
}
GEMMA_3_270M = {
    "architectures": ["Gemma3ForCausalLM"],
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32_768,
    "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
MODELS = {"Llama-3-8B": LLAMA_3_8B, "Gemma 3 270M": GEMMA_3_270M, "SmolLM2-135M": SMOLLM2_135M}


def shallow(config: dict, layers: int) -> ModelSpec:
    """The model of `config` with its first few layers: all kinds of layers come among the first seven."""
    return from_hf_config(config | {"num_hidden_layers": layers})


class UncomputedOperations(TritonOperations):
    """Triton's operations over a launcher that runs nothing: what the host reads of them is zeros."""

    def matmul(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        if isinstance(weight, Tensor):
            return torch.empty(x.shape[0], weight.shape[0], dtype=x.dtype)
        return super().matmul(x, weight, bias)

    def sample(self, logits: Tensor, batch: object) -> Tensor:
        return super().sample(logits, batch).zero_()

    def logprobs(self, logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
        found = super().logprobs(logits, tokens, num_top)
        return Logprobs(*(torch.zeros_like(x) for x in (found.own, found.ranks, found.top_ids, found.top)))


class Replay:
    """A recorder of graphs whose replays run the function again, over the same buffers."""

    def forget(self) -> None:
        pass

    def record(self, run):
        return run(), run


def empty_weights(executor: TorchExecutor) -> dict[str, Tensor | PackedWeight]:
    return {w.name: torch.empty(w.shape, dtype=executor.dtype) for w in executor.spec.weights}


def core_over(launcher: Launcher, spec: ModelSpec, folder: Path, **scheduler: int) -> EngineCore:
    """An engine of `spec` over `launcher`, with graphs."""
    model = ModelConfig(model="random", served_model_names=("random",), load_format="dummy")
    config = EngineConfig(
        model=model,
        cache=CacheConfig(num_gpu_blocks_override=20_000),
        scheduler=SchedulerConfig(**({"max_num_seqs": 256, "max_num_batched_tokens": 2048} | scheduler)),
        executor=ExecutorConfig(executor="torch", threads=1),
    )
    files = ModelFiles(folder=folder, config=None, weights=(), weights_format="dummy", tokenizer=None)
    cpu = torch.device("cpu")
    executor = TorchExecutor(
        config, spec, files, cpu, operations=UncomputedOperations(launcher), recorder=Replay(), weights=lambda: made
    )
    made = empty_weights(executor)
    return EngineCore(config, executor, spec)


def random_request(name: str, spec: ModelSpec, chance: random.Random) -> EngineRequest:
    """Of any length, plain or with any of what a request may ask for."""
    longest = min(spec.max_position - 64, 3000)
    prompt = [chance.randrange(spec.vocab_size) for _ in range(chance.choice([1, 2, 3, 15, 16, 17, 100, 511, longest]))]
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
    for burst in (1, 2, 3, 32, 256, *(chance.randint(1, 90) for _ in range(4))):
        results = generate(core, (random_request(f"{seed} {burst} {i}", spec, chance) for i in range(burst)))
        assert all(r.error is None for r in results.values()), [r.error for r in results.values() if r.error][:3]
        yield burst
