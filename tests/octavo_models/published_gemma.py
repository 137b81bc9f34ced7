"""Configs of Gemma 3n and 4, cut down to the fields that describe the decoder, and the sizes that their authors state."""

from __future__ import annotations

from typing import Any

LOCAL, GLOBAL = "sliding_attention", "full_attention"
GEMMA_3N_E4B: dict[str, Any] = {
    "architectures": ["Gemma3nForCausalLM"],
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "altup_num_inputs": 4,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2048,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": [16384] * 35,
    "laurel_rank": 64,
    "layer_types": ([LOCAL] * 4 + [GLOBAL]) * 7,
    "max_position_embeddings": 32768,
    "num_attention_heads": 8,
    "num_hidden_layers": 35,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 15,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
    "vocab_size": 262400,
    "vocab_size_per_layer_input": 262144,
}
GEMMA_3N_E2B = GEMMA_3N_E4B | {
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
    "intermediate_size": [8192] * 30,
    "layer_types": ([LOCAL] * 4 + [GLOBAL]) * 6,
    "num_hidden_layers": 30,
    "num_kv_shared_layers": 10,
}
GEMMA_4_E2B: dict[str, Any] = {
    "architectures": ["Gemma4ForCausalLM"],
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 512,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1536,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 6144,
    "layer_types": ([LOCAL] * 4 + [GLOBAL]) * 7,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_hidden_layers": 35,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 20,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        GLOBAL: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        LOCAL: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
    "use_double_wide_mlp": True,
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
}
GEMMA_4_E4B = GEMMA_4_E2B | {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "layer_types": ([LOCAL] * 5 + [GLOBAL]) * 7,
    "num_hidden_layers": 42,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 18,
    "use_double_wide_mlp": False,
}
GEMMA_4_31B = GEMMA_4_E4B | {
    "attention_k_eq_v": True,
    "hidden_size": 5376,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 21504,
    "layer_types": ([LOCAL] * 5 + [GLOBAL]) * 10,
    "num_attention_heads": 32,
    "num_global_key_value_heads": 4,
    "num_hidden_layers": 60,
    "num_key_value_heads": 16,
    "num_kv_shared_layers": 0,
    "sliding_window": 1024,
}
GEMMA_4_26B_A4B = GEMMA_4_31B | {
    "enable_moe_block": True,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "layer_types": ([LOCAL] * 5 + [GLOBAL]) * 5,
    "moe_intermediate_size": 704,
    "num_attention_heads": 16,
    "num_experts": 128,
    "num_global_key_value_heads": 2,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "top_k_experts": 8,
}

# Parameters of the decoder as transformers' own classes have them. Their authors say 30.7 and 25.2 billion of the last two;
# E2B and E4B count in the encoders of images and sound.
PARAMETERS = {
    "Gemma-3n-E4B": (GEMMA_3N_E4B, 6_835_235_568),
    "Gemma-3n-E2B": (GEMMA_3N_E2B, 4_435_182_688),
    "Gemma-4-E2B": (GEMMA_4_E2B, 4_628_569_379),
    "Gemma-4-E4B": (GEMMA_4_E4B, 7_463_013_418),
    "Gemma-4-31B": (GEMMA_4_31B, 30_697_345_340),
    "Gemma-4-26B-A4B": (GEMMA_4_26B_A4B, 25_233_141_790),
}
