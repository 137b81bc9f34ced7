"""Gemma 3n and 4, as transformers' config classes describe them: all that they have beyond Gemma 3."""

from __future__ import annotations

from typing import Any

LOCAL, GLOBAL = "sliding_attention", "full_attention"
GEMMA4: dict[str, Any] = {
    "num_hidden_layers": 4,
    "sliding_window": 11,
    "layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL],
    "rope_parameters": {
        LOCAL: {"rope_type": "default", "rope_theta": 500.0},
        GLOBAL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 10_000.0},
    },
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 211,
    "final_logit_softcapping": 20.0,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma 3n": (
        "Gemma3nTextConfig",
        {
            "num_hidden_layers": 6,
            "sliding_window": 11,
            "layer_types": [LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL, GLOBAL],
            "rope_parameters": {
                LOCAL: {"rope_type": "default", "rope_theta": 500.0},
                GLOBAL: {"rope_type": "default", "rope_theta": 10_000.0},
            },
            "intermediate_size": [80, 80, 80, 80, 80, 96],
            "num_kv_shared_layers": 3,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": 200,  # fewer tokens than the vocabulary has
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.9, 0.5, 0.0, 0.0, 0.0, 0.0],
            "final_logit_softcapping": 20.0,
        },
    ),
    "gemma 4": ("Gemma4TextConfig", GEMMA4 | {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}),
    "gemma 4 with values from keys": (
        "Gemma4TextConfig",
        GEMMA4
        | {
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "num_attention_heads": 8,
            "tie_word_embeddings": False,
        },
    ),
    "gemma 4 with experts": (  # of a hidden size whose rows are multiples of 16 bytes, as transformers' products need
        "Gemma4TextConfig",
        GEMMA4
        | {
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "hidden_size": 64,
        },
    ),
}
