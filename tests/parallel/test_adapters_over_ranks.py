"""Adapters change the same answers over any number of ranks: each keeps its part of them."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from octavo_testing.adapters import random_factors, write_adapter
from octavo_testing.engine_runs import engine_config, request
from rank_pool import finished, spread

from octavo_engine.config import AdapterConfig, AdapterModule, CacheConfig, ModelConfig, SchedulerConfig
from octavo_engine.executors.torch.parallel_executor import AdapterPart, Command
from octavo_engine.weights.model_spec import read_spec
from octavo_engine.weights.source import resolve

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 301,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
}
# Dense layers beside experts, and a norm over the heads of all ranks.
MODELS = {
    "llama": LLAMA,
    "olmo 2": LLAMA | {"architectures": ["Olmo2ForCausalLM"]},
    "experts": LLAMA
    | {
        "architectures": ["Qwen2MoeForCausalLM"],
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48,
        "decoder_sparse_step": 2,
    },
}
PROMPTS = [[5, 9, 13, 300, 40, 41, 42, 7, 30, 31], list(range(1, 38)), [299, 1]]


def asked():
    """Three adapters and none, of which two are in a step at most: the fourth request waits for its turn."""
    return [
        request(f"{adapter_id}-{i}", prompt, 8, adapter_id=adapter_id, logprobs=2, prompt_logprobs=1)
        for adapter_id in (0, 1, 2, 3)
        for i, prompt in enumerate(PROMPTS[: 3 if adapter_id == 1 else 1])
    ]


def config_of(folder):
    (folder / "m").mkdir()
    return engine_config(
        ModelConfig(model=str(folder / "m"), served_model_names=("m",), load_format="dummy", dtype="float32", seed=3),
        "torch",
        cache=CacheConfig(num_gpu_blocks_override=64),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=24),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tensor", "pipeline"),
    [("llama", 2, 1), ("llama", 4, 1), ("llama", 1, 2), ("olmo 2", 2, 1), ("experts", 2, 1)],
)
def test_ranks_with_adapters_compute_what_one_computes(pool, tmp_path, name, tensor, pipeline):
    """Four ranks are more than there are KV heads, and divide no product of the vocabulary."""
    config = config_of(tmp_path)
    (tmp_path / "m/config.json").write_text(json.dumps(MODELS[name]))
    spec = read_spec(config.model, resolve(config.model, lambda *_: None))
    modules = []
    for i, (rank, only) in enumerate(((4, ""), (2, "o_proj"), (8, "_proj")), 1):
        folder = write_adapter(tmp_path / str(i), random_factors(spec, seed=i, rank=rank, only=only))
        modules.append(AdapterModule(name=str(i), path=str(folder)))
    adapters = AdapterConfig(enabled=True, modules=tuple(modules), max_loras=2, max_lora_rank=8, max_cpu_loras=3)
    config = msgspec.structs.replace(config, adapters=adapters)
    alone = {key: finished(result) for key, result in pool.run(config, asked()).items()}
    ranked = {key: finished(r) for key, r in pool.run(spread(config, tensor, pipeline), asked()).items()}
    assert len({tuple(alone[f"{i}-0"].tokens) for i in range(4)}) == 4, "each adapter changes the answer"
    for key, expected in alone.items():
        got = ranked[key]
        assert got.error is None
        assert got.tokens == expected.tokens
        assert [p.logprob for p in got.logprobs] == pytest.approx([p.logprob for p in expected.logprobs], abs=1e-3)


def test_an_adapter_goes_to_the_ranks_weight_by_weight():
    """A message has one weight's matrices, in float32."""
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    sent = msgspec.msgpack.encode(AdapterPart("layers.0.q", 2, a.tobytes(), b""))
    got = msgspec.msgpack.decode(sent, type=Command)
    assert isinstance(got, AdapterPart)
    assert np.frombuffer(got.a, np.float32).tolist() == a.flatten().tolist()
