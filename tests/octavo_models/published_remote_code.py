"""Configs of published models whose classes are not transformers' own, cut down as in published_configs."""

from __future__ import annotations

INTERNLM_2_5_7B = {
    "architectures": ["InternLM2ForCausalLM"],
    "bias": False,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 92544,
}
INTERNLM_3_8B = INTERNLM_2_5_7B | {
    "architectures": ["InternLM3ForCausalLM"],
    "head_dim": 128,
    "intermediate_size": 10240,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "qkv_bias": False,
    "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
    "rope_theta": 50000000,
    "vocab_size": 128512,
}
BAICHUAN_2_7B = {
    "architectures": ["BaichuanForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_max_length": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 125696,
}
BAICHUAN_2_13B = BAICHUAN_2_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "max_position_embeddings": None,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
}
QWEN_7B = {
    "architectures": ["QWenLMHeadModel"],
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 32768,
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
MINICPM_2B = {
    "architectures": ["MiniCPMForCausalLM"],
    "dim_model_base": 256,
    "hidden_size": 2304,
    "intermediate_size": 5760,
    "max_position_embeddings": 4096,
    "num_attention_heads": 36,
    "num_hidden_layers": 40,
    "num_key_value_heads": 36,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "scale_depth": 1.4,
    "scale_emb": 12,
    "torch_dtype": "bfloat16",
    "vocab_size": 122753,
}
EXAONE_3_5_2_4B = {
    "activation_function": "silu",
    "architectures": ["ExaoneForCausalLM"],
    "head_dim": 80,
    "hidden_size": 2560,
    "intermediate_size": 7168,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_layers": 30,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 102400,
}

# Parameters of the decoder, a tied head counted once.
PARAMETERS = {
    "InternLM2.5-7B": (INTERNLM_2_5_7B, 7_737_708_544),
    "InternLM3-8B": (INTERNLM_3_8B, 8_804_241_408),
    "Baichuan2-7B": (BAICHUAN_2_7B, 7_505_973_248),
    "Baichuan2-13B": (BAICHUAN_2_13B, 13_896_668_160),
    "Qwen-7B": (QWEN_7B, 7_721_324_544),
    "MiniCPM-2B": (MINICPM_2B, 2_724_880_896),
    "EXAONE-3.5-2.4B": (EXAONE_3_5_2_4B, 2_405_327_360),
}
