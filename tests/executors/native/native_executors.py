"""Native executors of tiny models for tests, and requests that go through them step by step."""

from __future__ import annotations

import dataclasses
import random

import numpy as np

from octavo_engine.config import EngineConfig, ExecutorConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.core.outputs import ContinuedRequest, NewRequest, SchedulerOutput
from octavo_engine.executors.native.executor import NativeExecutor
from octavo_engine.sampling_params import SamplingParams

COMMON = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "dtype": "float32",
    "rms_norm_eps": 1e-6,
}
SPECS = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False, **COMMON},
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "sliding_window": 24,
        "query_pre_attn_scalar": 16,
        **COMMON,
    },
}
GREEDY = SamplingParams(max_tokens=64, temperature=0.0)


def config_of(threads: int = 2, dtype: str = "auto", max_tokens: int = 256) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model="tiny", served_model_names=("tiny",), load_format="dummy", seed=4, dtype=dtype),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=max_tokens),
        executor=ExecutorConfig(threads=threads),
    )


def files_of(folder) -> ModelFiles:
    return ModelFiles(folder=folder, config=None, weights=(), weights_format="dummy", tokenizer=None)


def start(kind, spec, folder, *, weights=None, **fields):
    given = {} if weights is None else {"weights": weights}
    executor = kind(config_of(**fields), spec, files_of(folder), **given)
    groups = executor.load().layout.groups
    executor.init_kv((64,) * len(groups))
    return executor


class Sequences:
    """Requests with blocks in a random order; each `step` is what a scheduler would say."""

    def __init__(self, executor, groups: int, seed: int = 0) -> None:
        self.executor, self.groups = executor, groups
        self.random = random.Random(seed)
        self.blocks = [self.random.sample(range(1, 64), 63) for _ in range(groups)]
        self.known: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.logits: list[np.ndarray] = []
        self.steps = 0

    def _blocks(self, request_id: str, end: int) -> tuple[list[int], ...]:
        more = -(-end // 16) - self.held.get(request_id, 0)
        self.held[request_id] = self.held.get(request_id, 0) + more
        return tuple([blocks.pop() for _ in range(more)] for blocks in self.blocks)

    def step(self, counts: dict[str, int], new: dict[str, NewRequest] | None = None, **fields):
        self.steps += 1
        news, continued, samples = [], [], []
        for request_id, count in counts.items():
            if new and request_id in new:
                self.known[request_id] = [*new[request_id].token_ids, *new[request_id].output_token_ids]
                self.computed[request_id] = 0
            end = self.computed[request_id] + count
            blocks = self._blocks(request_id, end)
            if new and request_id in new:
                news.append(dataclasses.replace(new[request_id], block_ids=blocks))
            else:
                continued.append(ContinuedRequest(request_id, blocks, self.computed[request_id]))
            self.computed[request_id] = end
            if end == len(self.known[request_id]):
                samples.append(request_id)
        out = self.run(
            SchedulerOutput(
                self.steps,
                tuple(news),
                tuple(continued),
                counts,
                dict.fromkeys(samples, 1),
                frozenset(samples),
                **fields,
            )
        )
        for request_id, tokens in out.tokens.items():
            self.known[request_id] += tokens
        return out

    def run(self, scheduled):
        handle = self.executor.submit(scheduled)
        if isinstance(self.executor, NativeExecutor):
            self.logits.append(self.executor.logits().copy())
        self.executor.sample(handle)
        return self.executor.collect(handle)


def request(request_id: str, tokens: list[int], sampling: SamplingParams = GREEDY, **fields) -> dict[str, NewRequest]:
    return {request_id: NewRequest(request_id, tokens, sampling, (), 0, **fields)}


def tokens_of(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(211), k=count)
