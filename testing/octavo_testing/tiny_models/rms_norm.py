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
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0 + i / 8 for i in range(6)],
    "long_factor": [1.5 + i / 2 for i in range(6)],
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama, a head of keys for each of queries, 256 wide": (
        "LlamaConfig",
        {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8},
    ),
    "llama, one head of keys": ("LlamaConfig", {"num_key_value_heads": 1}),
    "llama, seven heads of queries to one of keys": (
        "LlamaConfig",
        {"hidden_size": 224, "num_attention_heads": 14, "num_key_value_heads": 2},
    ),
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
    "phi 3": ("Phi3Config", {"sliding_window": 9}),
    "phi 3 with longrope": (  # all of a sequence is longer than the original length: the long factors hold
        "Phi3Config",
        {
            "rope_parameters": LONGROPE,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 2,
            "hidden_size": 96,
        },
    ),
    "gemma 1": ("GemmaConfig", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "gemma 2": (
        "Gemma2Config",
        {
            "sliding_window": 11,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 20.0,
            "tie_word_embeddings": True,
        },
    ),
    "glm": ("GlmConfig", {}),
    "glm 4": ("Glm4Config", {"attention_bias": False, "partial_rotary_factor": 0.25}),
    "granite": (
        "GraniteConfig",
        {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
            "attention_bias": True,
        },
    ),
    "olmo 2": ("Olmo2Config", {}),
    "olmo 3": (
        "Olmo3Config",
        {
            "sliding_window": 11,
            "num_hidden_layers": 4,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
            },
        },
    ),
    "exaone 4": ("Exaone4Config", {"sliding_window": 9, "num_hidden_layers": 4, "sliding_window_pattern": 3}),
    "exaone 4 without windows": ("Exaone4Config", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "seed-oss": ("SeedOssConfig", {"attention_out_bias": True}),
    "hunyuan": (
        "HunYuanDenseV1Config",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "alpha": 30.0, "factor": 1.0}},
    ),
    "ernie 4.5": ("Ernie4_5Config", {"use_bias": True}),
    "arcee": ("ArceeConfig", {"mlp_bias": True}),
    "apertus": ("ApertusConfig", {"rope_parameters": LLAMA3}),
    "ministral": ("MinistralConfig", {"sliding_window": 9, "layer_types": GEMMA_LAYERS}),
    "ministral 3": (
        "Ministral3Config",
        {
            "rope_parameters": YARN
            | {"factor": 16.0, "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.5}
        },
    ),
    "helium": ("HeliumConfig", {"hidden_size": 96, "num_key_value_heads": 6, "attention_bias": True}),
    "nanochat": ("NanoChatConfig", {}),
    "exaone 3": ("ExaoneConfig", {"rope_parameters": LLAMA3}),
}
