"""The engine over any operations and device, from a description and random weights: what `bench/gpu.py` measures, and
what it and the kernels' tests first hold to the plain operations on the CPU.

Imports nothing but torch and the engine's own modules; `bare_msgspec.stand_in` comes before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octavo_engine.config import CacheConfig, EngineConfig, ExecutorConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.engine.engine_core import EngineCore
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.executors.torch.graphs import Recorder
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.messages import EngineRequest
from octavo_engine.sampling_params import SamplingParams
from octavo_models import from_hf_config
from octavo_models.spec import ModelSpec

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "dtype": "float32",
}
GEMMA = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 20,
    "tie_word_embeddings": True,
}
GPT_OSS = LLAMA | {  # experts, sinks, biases
    "architectures": ["GptOssForCausalLM"],
    "intermediate_size": 32,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 20,
    "layer_types": ["sliding_attention", "full_attention"],
    "attention_bias": True,
}
OLMOE = LLAMA | {  # experts, norms over all heads
    "architectures": ["OlmoeForCausalLM"],
    "intermediate_size": 24,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
SMALL = {"llama": LLAMA, "gemma 3": GEMMA, "gpt-oss": GPT_OSS, "olmoe": OLMOE}


def random_weights(spec: ModelSpec, dtype: torch.dtype, device: torch.device, spread: float) -> dict[str, Tensor]:
    """Random weights by canonical name; norms pass their input through. The same on every device if made on the CPU."""
    generator = torch.Generator(device).manual_seed(3)
    weights = {}
    for weight in spec.weights:
        made = torch.empty(weight.shape, dtype=dtype, device=device)
        if weight.name.endswith("norm"):
            made.fill_(1.0 - spec.final_norm.offset)
        else:
            made.normal_(0.0, spread, generator=generator)
        weights[weight.name] = made
    return weights


def engine(
    spec: ModelSpec,
    weights: Callable[[], dict[str, Tensor]] | None,
    device: torch.device,
    *,
    dtype: str,
    max_model_len: int,
    operations: Operations | None = None,
    recorder: Recorder | None = None,
    cache: CacheConfig | None = None,
    scheduler: SchedulerConfig | None = None,
    eager: bool = False,
) -> EngineCore:
    """A loaded engine core over a torch executor; without `weights` they are those of `--load-format dummy`."""
    config = EngineConfig(
        model=ModelConfig(model="random", served_model_names=("random",), dtype=dtype, max_model_len=max_model_len),  # type: ignore[arg-type]
        cache=cache or CacheConfig(kv_cache_memory_bytes=16 << 20),
        scheduler=scheduler or SchedulerConfig(),
        executor=ExecutorConfig(executor="torch", enforce_eager=eager),
    )
    files = ModelFiles(folder=Path(), config=None, weights=(), weights_format="dummy", tokenizer=None)
    executor = TorchExecutor(config, spec, files, device, operations=operations, recorder=recorder, weights=weights)
    return EngineCore(config, executor, spec)


def request(name: str, prompt: list[int], max_tokens: int, **sampling: Any) -> EngineRequest:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, **({"temperature": 0.0} | sampling))
    return EngineRequest(request_id=name, prompt_token_ids=prompt, sampling=params, arrival_time=time.time())


def run(core: EngineCore, requests: list[EngineRequest]) -> dict[str, list[int]]:
    """Every request's tokens, to the end."""
    tokens: dict[str, list[int]] = {r.request_id: [] for r in requests}
    for r in requests:
        core.add(r)
    while core.has_work:
        for output in core.step():
            assert output.error is None, output.error
            tokens[output.request_id] += output.new_token_ids
    return tokens


def small_requests(num_tokens: int) -> list[EngineRequest]:
    """Greedy and drawn, short and past a window and a block, with every filter and penalty somewhere."""
    asked: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.5, "top_k": 9, "min_p": 0.02},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
        {"temperature": 0.8, "logit_bias": {5: 2.0}, "bad_words": ((7, 8), (9,))},
    ]
    return [
        request(str(i), [(11 * i + 7 * j + j * j) % 97 for j in range(3 + 13 * i)], num_tokens + i, seed=i, **fields)
        for i, fields in enumerate(asked)
    ]


def small_engine(kind: str, device: torch.device, *, max_num_seqs: int = 4, **options: Any) -> EngineCore:
    """One of SMALL, with the same weights on every device; steps are small, so that prompts are cut."""
    spec = from_hf_config(SMALL[kind])
    cpu = torch.device("cpu")

    def weights() -> dict[str, Tensor]:
        made = random_weights(spec, torch.float32, cpu, 1.5 / math.sqrt(spec.hidden_size))
        return {name: tensor.to(device) for name, tensor in made.items()}

    scheduler = SchedulerConfig(max_num_batched_tokens=max(40, max_num_seqs), max_num_seqs=max_num_seqs)
    return engine(spec, weights, device, dtype="float32", max_model_len=256, scheduler=scheduler, **options)


def expected(kind: str, num_tokens: int) -> dict[str, list[int]]:
    """The results that the plain operations on the CPU give for the small requests."""
    return run(small_engine(kind, torch.device("cpu"), operations=ReferenceOperations()), small_requests(num_tokens))
