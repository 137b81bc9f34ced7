"""A start with KV memory that the user gave: the GPU's free memory is measured, and refuses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
import torch
from octavo_testing.engine_runs import engine_config, generate, request

from octavo_engine.config import CacheConfig, ModelConfig
from octavo_engine.engine import loader
from octavo_engine.errors import ExecutorError
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.messages import Ready

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}
GIB = 1 << 30
GIVEN = 1 << 20


class FullGpu:
    """80 GiB, of which 79 are taken: more than --gpu-memory-utilization allows."""

    def __init__(self) -> None:
        self.num_measured = 0

    def total(self) -> int:
        return 80 * GIB

    def free(self) -> int:
        return GIB

    def held(self) -> int:
        return 0

    def peak(self, run: Callable[[], object]) -> int:
        self.num_measured += 1
        run()
        return GIB // 4


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Load over such a GPU as `octavo serve` does: (the engine, what it reports, how often the largest step was measured)."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    gpu = FullGpu()
    create = partial(TorchExecutor, device=torch.device("cpu"), counters=gpu)
    monkeypatch.setattr(loader, "create_executor", create)
    engines = []

    def load(**cache):
        model = ModelConfig(model=str(tmp_path), served_model_names=("m",), load_format="dummy")
        engine, ready = loader.load(
            engine_config(model, "torch", cache=CacheConfig(swap_space_gib=0.0, **cache)), lambda _: None
        )
        engines.append(engine)
        return engine, ready, gpu.num_measured

    yield load
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("cache", [{"kv_cache_memory_bytes": GIVEN}, {"num_gpu_blocks_override": 40}])
def test_given_kv_memory_is_taken_although_measuring_leaves_none(start, cache):
    """In bytes or in blocks; the step is still measured, and requests are served."""
    engine, ready, num_measured = start(**cache)
    assert isinstance(ready, Ready)
    block_bytes = ready.kv_cache_bytes // ready.num_blocks[0]
    assert ready.num_blocks[0] == cache.get("num_gpu_blocks_override", GIVEN // block_bytes)
    assert num_measured == 1
    assert len(generate(engine, [request("a", [5, 9, 13], 4)])["a"].tokens) == 4


def test_without_it_the_same_gpu_is_refused(start):
    with pytest.raises(ExecutorError, match=r"no memory is left for the KV cache: --gpu-memory-utilization allows 92%"):
        start()
