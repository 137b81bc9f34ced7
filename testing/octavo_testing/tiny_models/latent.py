"""Decoders with multi-head latent attention, as transformers' config classes describe them."""

from __future__ import annotations

from typing import Any

HEADS = {
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
}
EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 24,
    "routed_scaling_factor": 2.5,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek v2": (
        "DeepseekV2Config",
        HEADS
        | EXPERTS
        | {
            "first_k_dense_replace": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": YARN,
        },
    ),
    "deepseek v2 lite": (
        "DeepseekV2Config",
        HEADS | EXPERTS | {"first_k_dense_replace": 1, "q_lora_rank": None, "attention_bias": True},
    ),
    "deepseek v3": (
        "DeepseekV3Config",
        HEADS
        | EXPERTS
        | {
            "first_k_dense_replace": 1,
            "n_group": 4,
            "topk_group": 2,
            "num_nextn_predict_layers": 0,
            "attention_bias": True,
            "rope_parameters": YARN,
        },
    ),
    "deepseek v3 of halves, without groups": (
        "DeepseekV3Config",
        HEADS
        | EXPERTS
        | {
            "first_k_dense_replace": 0,
            "n_group": 1,
            "topk_group": 1,
            "num_nextn_predict_layers": 0,
            "rope_interleave": False,
            "q_lora_rank": None,
        },
    ),
    "glm 4.7 flash": (
        "Glm4MoeLiteConfig",
        HEADS | EXPERTS | {"mlp_layer_types": ["dense", "sparse", "dense"], "v_head_dim": 24},
    ),
    "minicpm 3": (
        "MiniCPM3Config",
        HEADS
        | {
            "scale_emb": 3,
            "dim_model_base": 24,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "short_factor": [1.0 + i / 3 for i in range(4)],
                "long_factor": [1.0 + i / 3 for i in range(4)],
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "youtu": ("YoutuConfig", HEADS),
    "mistral 4": (
        "Mistral4Config",
        HEADS
        | EXPERTS
        | {
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "rope_parameters": YARN
            | {
                "llama_4_scaling_beta": 0.3,
                "partial_rotary_factor": 0.4,
                "factor": 16.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
}
