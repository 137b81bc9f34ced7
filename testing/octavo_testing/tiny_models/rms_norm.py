"""Decoders with RMSNorm and gated MLPs, as transformers' config classes describe them."""

from __future__ import annotations

from typing import Any

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64}
GEMMA_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama 3 rope": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama yarn rope": ("LlamaConfig", {"rope_parameters": YARN}),
    "mistral with a window": ("MistralConfig", {"sliding_window": 9}),
    "mistral without": ("MistralConfig", {"sliding_window": None}),
    "qwen 2": ("Qwen2Config", {}),
    "qwen 3": ("Qwen3Config", {}),
    "smollm 3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1]}),
    "gemma 3": (
        "Gemma3TextConfig",
        {
            "sliding_window": 11,
            "layer_types": GEMMA_LAYERS,
            "rope_parameters": GEMMA_ROPE,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 20.0,
            "tie_word_embeddings": True,
        },
    ),
}
