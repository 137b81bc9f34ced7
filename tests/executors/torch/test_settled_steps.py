"""The common part of a step's layers is checked and settled once, not once a layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from octavo_engine.config import CacheConfig, EngineConfig, ModelConfig, ModelFiles, SchedulerConfig
from octavo_engine.core.outputs import NewRequest, SchedulerOutput
from octavo_engine.executors.torch.executor import TorchExecutor
from octavo_engine.kernels.triton.launch import Gpu, Launcher
from octavo_engine.kernels.triton.operations import TritonOperations
from octavo_engine.sampling_params import SamplingParams
from octavo_models import from_hf_config

META = torch.device("meta")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
GEMMA = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 16,
    "sliding_window": 128,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
}


@dataclass(frozen=True, slots=True)
class Counting(Launcher):
    """Launches nothing, and counts what is launched and what is bound."""

    launched: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)

    def __call__(self, kernel, grid, *args, **options):
        if all(grid):
            self.launched[kernel.__name__] += 1

    def bind(self, kernel, args, changing, apart=(), **options):
        self.settled[kernel.__name__] += 1
        return Launcher.bind(self, kernel, args, changing, apart, **options)


def counts_of_a_mixed_step(config, num_layers):
    spec = from_hf_config(
        config | {"num_hidden_layers": num_layers, "layer_types": config.get("layer_types", [])[:num_layers]}
    )
    launcher = Counting(Gpu(90, 132))
    executor = TorchExecutor(
        EngineConfig(
            model=ModelConfig(model="random", served_model_names=("random",)),
            cache=CacheConfig(kv_cache_memory_bytes=1 << 26),
            scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64),
        ),
        spec,
        ModelFiles(folder=Path(), config=None, weights=(), weights_format="dummy", tokenizer=None),
        META,
        operations=TritonOperations(launcher),
        weights=lambda: {w.name: torch.empty(w.shape, dtype=torch.bfloat16, device=META) for w in spec.weights},
    )
    executor.load()
    executor.init_kv((64,) * len(executor.runner.layout.groups))
    blocks = tuple([1] * 32 for _ in executor.runner.layout.groups)
    requests = (("decode", 400, 1), ("prompt", 32, 32))
    new = tuple(
        NewRequest(name, [0] * length, SamplingParams(max_tokens=2), blocks, length - count)
        for name, length, count in requests
    )
    scheduled = {name: count for name, _, count in requests}
    for step_id in range(2):
        launcher.launched.clear()
        launcher.settled.clear()
        executor.submit(SchedulerOutput(step_id, new, (), scheduled, scheduled, frozenset(scheduled)))
    return launcher


@pytest.mark.parametrize(("config", "kinds"), [(LLAMA, 1), (GEMMA, 2)], ids=["llama", "gemma"])
@pytest.mark.parametrize("num_layers", [2, 8])
def test_a_step_settles_the_attention_of_each_kind_of_layer_once(config, kinds, num_layers):
    launcher = counts_of_a_mixed_step(config, num_layers)
    for kernel in ("qkv_kernel", "decode_kernel", "prefill_kernel"):
        assert launcher.launched[kernel] == num_layers
        assert launcher.settled[kernel] == kinds


def test_norms_and_activations_are_settled_before_the_second_step():
    launcher = counts_of_a_mixed_step(LLAMA, 2)
    assert launcher.launched["norm_kernel"] == 5
    assert launcher.launched["activation_kernel"] == 2
    assert not {"norm_kernel", "activation_kernel"} & launcher.settled.keys()
