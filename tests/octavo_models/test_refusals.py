"""Any config becomes a spec or one sentence that names the field."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from octavo_testing.properties import accepting, tried
from published_configs import GEMMA_3_4B, LLAMA_3_2_1B, MISTRAL_7B_V01, PARAMETERS, QWEN3_0_6B, SMOLLM3_3B
from published_experts import (
    DOTS_1,
    ERNIE_4_5_21B_A3B,
    GPT_OSS_20B,
    LLAMA_4_SCOUT_TEXT,
    MINIMAX_M2,
    MIXTRAL_8X7B,
    OLMOE_1B_7B,
    PHI_3_5_MOE,
    QWEN3_30B_A3B,
)
from published_experts import PARAMETERS as EXPERTS
from published_latent import PARAMETERS as LATENT
from published_layer_norm import PARAMETERS as LAYER_NORM
from published_learned_positions import PARAMETERS as LEARNED_POSITIONS
from published_multimodal import PARAMETERS as MULTIMODAL
from published_remote_code import PARAMETERS as REMOTE_CODE
from published_rms_norm import (
    APERTUS_8B,
    EXAONE_4_1_2B,
    GEMMA_2_2B,
    GEMMA_2B,
    GLM_4_9B,
    GRANITE_3_3_2B,
    OLMO_3_7B,
    PHI_4_MINI,
    SEED_OSS_36B,
)
from published_rms_norm import PARAMETERS as RMS_NORM
from untrusted_values import JUNK, NUMBERS, exercise

from octavo_models import InvalidConfigError, ModelError, UnsupportedModelError, from_hf_config

CONFIGS = [
    config
    for config, size in (
        PARAMETERS | RMS_NORM | EXPERTS | LATENT | LAYER_NORM | LEARNED_POSITIONS | MULTIMODAL | REMOTE_CODE
    ).values()
    if size < 3e10
]


@accepting(0.01)
@tried(250)
@given(data=st.data())
def test_any_value_in_any_field_of_a_config_gives_a_spec_or_a_model_error(data):
    config = copy.deepcopy(data.draw(st.sampled_from(CONFIGS)))
    for _ in range(data.draw(st.integers(1, 2))):
        target = config
        inner = [value for value in config.values() if isinstance(value, dict)]
        if inner and data.draw(st.booleans()):
            target = inner[0]
        known = [
            *target,
            "rope_scaling",
            "rope_parameters",
            "layer_types",
            "partial_rotary_factor",
            "quantization_config",
        ]
        target[data.draw(st.sampled_from(known))] = data.draw(NUMBERS | JUNK)
    try:
        exercise(from_hf_config(config))
    except ModelError:
        return False
    return True


@accepting(0.01)
@tried(100)
@given(data=st.data())
def test_any_number_in_any_rope_scaling_gives_a_spec_or_a_model_error(data):
    scaling = data.draw(
        st.fixed_dictionaries(
            {"rope_type": st.sampled_from(["linear", "llama3", "yarn", "longrope", "dynamic"]), "factor": NUMBERS},
            optional=dict.fromkeys(
                (
                    "original_max_position_embeddings",
                    "low_freq_factor",
                    "high_freq_factor",
                    "beta_fast",
                    "beta_slow",
                    "attention_factor",
                    "mscale",
                    "mscale_all_dim",
                    "rope_theta",
                ),
                NUMBERS,
            )
            | {"long_factor": st.lists(NUMBERS, min_size=32, max_size=32)},
        )
    )
    key = data.draw(st.sampled_from(["rope_scaling", "rope_parameters"]))
    try:
        exercise(from_hf_config(LLAMA_3_2_1B | {key: scaling, "rope_theta": data.draw(NUMBERS)}))
    except ModelError:
        return False
    return True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "architectures is missing"),
        ({"architectures": [7]}, "architectures holds 7"),
        (LLAMA_3_2_1B | {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        (LLAMA_3_2_1B | {"num_hidden_layers": "16"}, "num_hidden_layers is '16', not a whole number"),
        (LLAMA_3_2_1B | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        (LLAMA_3_2_1B | {"num_key_value_heads": 5}, "num_key_value_heads is 5, which does not divide"),
        (LLAMA_3_2_1B | {"head_dim": None, "hidden_size": 2049}, "hidden_size is 2049"),
        (LLAMA_3_2_1B | {"head_dim": 63}, "head_dim is 63"),
        (LLAMA_3_2_1B | {"vocab_size": None}, "vocab_size is missing"),
        (LLAMA_3_2_1B | {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        (LLAMA_3_2_1B | {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        (LLAMA_3_2_1B | {"rope_theta": 1.0}, "rope_theta is 1"),
        (SMOLLM3_3B | {"no_rope_layers": [1, 0]}, "no_rope_layers must hold"),
        (QWEN3_0_6B | {"layer_types": ["full_attention"]}, "layer_types has 1 elements; 28 are expected"),
        (MISTRAL_7B_V01 | {"sliding_window": 0}, "sliding_window is 0"),
        (PHI_4_MINI | {"sliding_window": 0}, "sliding_window is 0"),
        (PHI_4_MINI | {"partial_rotary_factor": 0.5}, "long_factor has 48 elements; 32 are expected"),
        (GEMMA_2B | {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA_2_2B | {"attn_logit_softcapping": -1}, "attn_logit_softcapping is -1"),
        (GLM_4_9B | {"partial_rotary_factor": 0.0}, "partial_rotary_factor is 0"),
        (GRANITE_3_3_2B | {"logits_scaling": 0}, "logits_scaling is 0"),
        (GRANITE_3_3_2B | {"attention_multiplier": "big"}, "attention_multiplier is 'big'"),
        (APERTUS_8B | {"num_key_value_heads": 5}, "num_key_value_heads is 5"),
        (SEED_OSS_36B | {"attention_out_bias": "no"}, "attention_out_bias is 'no'"),
        (OLMO_3_7B | {"sliding_window": -4}, "sliding_window is -4"),
        (OLMO_3_7B | {"layer_types": ["full_attention"]}, "layer_types has 1 elements; 32 are expected"),
        (
            EXAONE_4_1_2B | {"layer_types": None, "sliding_window": 8, "sliding_window_pattern": "LLLG"},
            "sliding_window_pattern is 'LLLG', not a whole number",
        ),
        (EXAONE_4_1_2B | {"rope_scaling": {"type": "dynamic", "alpha": -1.0}}, "alpha is -1"),
        (MIXTRAL_8X7B | {"num_local_experts": 1 << 20}, "num_local_experts is 1048576; it must lie between 1 and 4096"),
        (
            MIXTRAL_8X7B | {"num_local_experts": 4096, "num_hidden_layers": 4096},
            "more than 1048576 tensors in its layers",
        ),
        (MIXTRAL_8X7B | {"num_experts_per_tok": 9}, "num_experts_per_tok is 9; it must lie between 1 and 8"),
        (QWEN3_30B_A3B | {"moe_intermediate_size": None}, "moe_intermediate_size is missing"),
        (QWEN3_30B_A3B | {"norm_topk_prob": 1}, "norm_topk_prob is 1"),
        (QWEN3_30B_A3B | {"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        (QWEN3_30B_A3B | {"mlp_only_layers": 3}, "mlp_only_layers is 3, not a list"),
        (DOTS_1 | {"n_group": 3}, "n_group is 3, which does not divide n_routed_experts, 128"),
        (DOTS_1 | {"topk_group": 2}, "topk_group is 2; it must lie between 1 and 1"),
        (ERNIE_4_5_21B_A3B | {"moe_k": 0}, "moe_k is 0"),
        (ERNIE_4_5_21B_A3B | {"moe_layer_end_index": -2}, "moe_layer_end_index is -2"),
        (MINIMAX_M2 | {"rotary_dim": 63}, "partial_rotary_factor leaves 63 of 128 elements"),
        (GPT_OSS_20B | {"num_experts_per_tok": 33}, "num_experts_per_tok is 33; it must lie between 1 and 32"),
        (GPT_OSS_20B | {"sliding_window": "128"}, "sliding_window is '128'"),
        (LLAMA_4_SCOUT_TEXT | {"no_rope_layers": [1, 2] * 24}, "no_rope_layers must hold"),
        (LLAMA_4_SCOUT_TEXT | {"interleave_moe_layer_step": 0}, "interleave_moe_layer_step is 0"),
        (LLAMA_4_SCOUT_TEXT | {"floor_scale": 0}, "floor_scale is 0"),
        (GEMMA_3_4B | {"text_config": None}, "text_config is missing"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_by_the_name_of_the_field(config, message):
    with pytest.raises(InvalidConfigError, match=message):
        from_hf_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "'MambaForCausalLM' is not supported; supported are LlamaForCausalLM",
        ),
        (OLMOE_1B_7B | {"clip_qkv": 8.0}, "clip_qkv, which follows the norms"),
        (PHI_3_5_MOE | {"num_experts_per_tok": 3}, "num_experts_per_tok is 3; the sparse mixer is defined for 2"),
        (GPT_OSS_20B | {"swiglu_limit": 8.0}, "swiglu_limit is 8; supported is 7"),
        (GPT_OSS_20B | {"quantization_config": {"quant_method": "mxfp4"}}, "quantized as 'mxfp4' are not supported"),
        (
            LLAMA_4_SCOUT_TEXT | {"layer_types": ["sliding_attention"] * 48},
            "names 'sliding_attention'; supported are full_attention and chunked_attention",
        ),
        (APERTUS_8B | {"hidden_act": "elu"}, "hidden_act is 'elu'"),
        (LLAMA_3_2_1B | {"hidden_act": "xielu"}, "hidden_act is 'xielu'"),
        (LLAMA_3_2_1B | {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'"),
        (LLAMA_3_2_1B | {"torch_dtype": "float64"}, "torch_dtype is 'float64'"),
        (LLAMA_3_2_1B | {"quantization_config": {"quant_method": "awq"}}, "quantized as 'awq' are not supported"),
        (QWEN3_0_6B | {"layer_types": ["linear_attention"] * 28}, "layer_types names 'linear_attention'"),
    ],
)
def test_what_is_not_supported_is_named_with_what_is(config, message):
    with pytest.raises(UnsupportedModelError, match=message):
        from_hf_config(config)
