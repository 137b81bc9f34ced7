"""The engine's own arithmetic has room for all that fits by the plan: they describe models alike and count alike."""

from __future__ import annotations

import pytest
from octavo_testing.planner_cases import CPU, SMALL, service

from octavo_engine.config import ModelConfig
from octavo_engine.core.capacity import longest_sequence, sequence_bytes, split_capacity
from octavo_engine.weights.model_spec import read_spec
from octavo_models import from_hf_config
from octavo_operator.api.model import Model
from octavo_operator.api.observed import Observed
from octavo_operator.description.sources import describe
from octavo_operator.planner import plan
from octavo_operator.planner.sizes import MIB
from octavo_operator.settings import Settings

GEMMA = {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
    "vocab_size": 262144,
}


@pytest.mark.parametrize("config", [SMALL, GEMMA], ids=["small", "gemma"])
@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"maxModelLen": 100},
        {"maxModelLen": 4096},
        {"maxModelLen": 4096, "blockSize": 64},
        {"maxModelLen": 4097, "maxNumBatchedTokens": 512, "dtype": "float32"},
        {"maxModelLen": 8192, "maxNumSeqs": 1, "maxNumBatchedTokens": 256},
        {"maxModelLen": 1000, "minConcurrency": 5},
    ],
)
def test_a_cpus_cache_has_room_for_what_the_plan_says(config, engine):
    spec = from_hf_config(config)
    made = plan(service(accelerator=CPU, engine=engine), Observed(spec), Settings())
    assert made.refusal is None
    layout = spec.kv_layout(made_block := engine.get("blockSize", 16), made.limits.kv_format)
    length, chunk = made.limits.max_model_len, made.limits.max_num_batched_tokens
    blocks = split_capacity(layout, made.limits.kv_cache_bytes, length, chunk)
    full = next(i for i, group in enumerate(layout.groups) if group.window is None)
    assert (
        (blocks[full] - 1) // -(-length // made_block) >= made.fit.budget.sequences >= engine.get("minConcurrency", 1)
    )


@pytest.mark.parametrize("config", [SMALL, GEMMA], ids=["small", "gemma"])
def test_the_least_memory_that_fits_is_enough_for_the_engine_and_less_is_refused(config):
    spec = from_hf_config(config)

    def planned(mib: int):
        manifest = service(accelerator=CPU, engine={"maxModelLen": 2048}, resources={"limits": {"memory": f"{mib}Mi"}})
        return plan(manifest, Observed(spec), Settings())

    low, high = 1, 8192
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if planned(middle).refusal is None else (middle + 1, high)
    least = planned(low)
    layout = spec.kv_layout(16, "bf16")
    needed = sequence_bytes(layout, 2048, least.limits.max_num_batched_tokens)
    assert needed <= least.limits.kv_cache_bytes <= needed + MIB + layout.groups[0].block_bytes
    assert longest_sequence(layout, least.limits.kv_cache_bytes, 1 << 20, least.limits.max_num_batched_tokens) >= 2048


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_operator_and_engine_read_the_same_model_in_a_file(name, request):
    real = request.getfixturevalue(name)
    seen = describe(Model.model_validate({"uri": f"file://{real.gguf}"}), offline=True)
    assert seen.spec == read_spec(ModelConfig(model=str(real.gguf), served_model_names=("m",)), real.files)
