"""Mixtures of experts, as transformers' config classes describe them."""

from __future__ import annotations

from typing import Any

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 13}),
    "qwen 2 with experts": (
        "Qwen2MoeConfig",
        {
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [1],
        },
    ),
    "qwen 3 with experts": (
        "Qwen3MoeConfig",
        {
            "num_experts": 9,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 24,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
        },
    ),
    "qwen 3 with experts in each second layer": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "decoder_sparse_step": 2},
    ),
    "granite with experts": (
        "GraniteMoeConfig",
        {"num_local_experts": 5, "num_experts_per_tok": 3, "intermediate_size": 24, "attention_multiplier": 0.3},
    ),
    "granite with experts and a shared one": (
        "GraniteMoeSharedConfig",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 24,
            "shared_intermediate_size": 36,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
    ),
    "olmoe": (
        "OlmoeConfig",
        {"num_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 24, "num_attention_heads": 4, "head_dim": 12},
    ),
    "flexolmo": ("FlexOlmoConfig", {"num_experts": 5, "num_experts_per_tok": 3, "intermediate_size": 24}),
    "phi 3.5 with experts": (
        "PhimoeConfig",
        {
            "num_local_experts": 5,
            "intermediate_size": 24,
            "attention_bias": True,
            "lm_head_bias": True,
            "hidden_size": 96,
            "router_jitter_noise": 0.3,
            "rope_parameters": {  # transformers never takes the long factors here
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "short_factor": [1.0 + i / 3 for i in range(8)],
                "long_factor": [1.0 + i / 3 for i in range(8)],
                "short_mscale": 1.5,
                "long_mscale": 1.25,
                "original_max_position_embeddings": 2,
            },
        },
    ),
    "ernie 4.5 with experts": (
        "Ernie4_5_MoeConfig",
        {
            "moe_num_experts": 7,
            "moe_k": 3,
            "moe_intermediate_size": 24,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "tie_word_embeddings": False,
        },
    ),
    "dots 1": (
        "Dots1Config",
        {
            "n_routed_experts": 8,
            "n_group": 4,
            "topk_group": 2,
            "num_experts_per_tok": 3,
            "n_shared_experts": 2,
            "moe_intermediate_size": 24,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "sliding_window": 9,
            "max_window_layers": 2,
        },
    ),
    "glm 4.5": (
        "Glm4MoeConfig",
        {
            "n_routed_experts": 7,
            "num_experts_per_tok": 3,
            "n_shared_experts": 1,
            "moe_intermediate_size": 24,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.5,
            "attention_bias": True,
            "use_qk_norm": True,
        },
    ),
    "minimax m2": (
        "MiniMaxM2Config",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "intermediate_size": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    ),
    "hunyuan with experts": ("HunYuanMoEV1Config", {"num_experts": 5, "moe_topk": 2, "intermediate_size": 24}),
    "gpt-oss": (
        "GptOssConfig",
        {
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "intermediate_size": 24,
            "sliding_window": 9,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "truncate": False,
            },
        },
    ),
    "llama 4": (
        "Llama4TextConfig",
        {
            "num_local_experts": 5,
            "num_experts_per_tok": 1,
            "intermediate_size": 24,
            "intermediate_size_mlp": 40,
            "num_hidden_layers": 4,
            "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 0, 1, 1],
            "attention_chunk_size": 16,
            "floor_scale": 8,
            "attn_scale": 0.4,
        },
    ),
}
