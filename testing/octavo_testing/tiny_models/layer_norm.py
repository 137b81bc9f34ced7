"""Decoders with LayerNorm, learned positions or ALiBi, as transformers' config classes describe them."""

from __future__ import annotations

from typing import Any

WIDE = {"hidden_size": 96}  # heads of 16 elements
FALCON_40B = {"new_decoder_architecture": True, "num_kv_heads": 2}
FALCON_RW = {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False}
OPT = {"ffn_dim": 80, "init_std": 0.3}
OPT_350M = OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 32}
GALACTICA = OPT | {"enable_bias": False, "layer_norm_elementwise_affine": False}
MPT = {"attn_config": {"clip_qkv": 0.6, "softmax_scale": 0.3}}
LOCAL_AND_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention"]
DBRX = {
    "d_model": 48,
    "max_seq_len": 256,
    "attn_config": {"clip_qkv": 0.6, "kv_n_heads": 2, "rope_theta": 500.0},
    "ffn_config": {"ffn_hidden_size": 40, "moe_num_experts": 5, "moe_top_k": 2},
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi": ("PhiConfig", WIDE | {"partial_rotary_factor": 0.4}),
    "phi with QK norm": (
        "PhiConfig",
        WIDE | {"qk_layernorm": True, "num_attention_heads": 3, "num_key_value_heads": 1},
    ),
    "falcon 7b": ("FalconConfig", {"num_attention_heads": 3}),
    "falcon 40b": ("FalconConfig", FALCON_40B),
    "falcon 11b": ("FalconConfig", FALCON_40B | {"num_ln_in_parallel_attn": 1, "tie_word_embeddings": False}),
    "falcon rw": ("FalconConfig", FALCON_RW),
    "falcon rw with rotary": ("FalconConfig", FALCON_RW | {"alibi": False, "parallel_attn": True}),
    "gpt neox": ("GPTNeoXConfig", WIDE),
    "gpt neox one after the other": ("GPTNeoXConfig", WIDE | {"use_parallel_residual": False, "attention_bias": False}),
    "opt": ("OPTConfig", OPT),
    "opt 350m": ("OPTConfig", OPT_350M),
    "galactica": ("OPTConfig", GALACTICA),
    "gpt 2": ("GPT2Config", {}),
    "gpt 2 scaled by layer": ("GPT2Config", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 80}),
    "gpt bigcode": ("GPTBigCodeConfig", {}),
    "gpt bigcode with all kv heads": ("GPTBigCodeConfig", {"multi_query": False, "scale_attn_weights": False}),
    "gpt neo": ("GPTNeoConfig", {"attention_types": [[["global", "local"], 1], [["local"], 1]], "window_size": 9}),
    "gpt j": ("GPTJConfig", WIDE | {"rotary_dim": 6}),
    "codegen": ("CodeGenConfig", WIDE | {"num_attention_heads": 12, "rotary_dim": 4}),
    "bloom": ("BloomConfig", {}),
    "mpt": ("MptConfig", {"max_seq_len": 256}),
    "mpt clipped": ("MptConfig", {"max_seq_len": 256, "n_heads": 3} | MPT),
    "dbrx": ("DbrxConfig", DBRX),
    "starcoder 2": ("Starcoder2Config", {"sliding_window": 11}),
    "starcoder 2 without biases": ("Starcoder2Config", {"use_bias": False, "tie_word_embeddings": False}),
    "stablelm": ("StableLmConfig", WIDE | {"use_qkv_bias": True}),
    "stablelm 12b": ("StableLmConfig", WIDE | {"use_parallel_residual": True, "qk_layernorm": True}),
    "nemotron": ("NemotronConfig", {}),
    "jais 2": ("Jais2Config", {}),
    "olmo": ("OlmoConfig", {"clip_qkv": 0.6}),
    "cohere": ("CohereConfig", {"logit_scale": 3.0}),
    "cohere with QK norm": ("CohereConfig", {"use_qk_norm": True, "attention_bias": True, "logit_scale": 3.0}),
    "cohere 2": ("Cohere2Config", {"sliding_window": 11, "layer_types": LOCAL_AND_GLOBAL, "logit_scale": 3.0}),
    "persimmon": ("PersimmonConfig", WIDE),
    "biogpt": ("BioGptConfig", {}),
    "gpt 1": ("OpenAIGPTConfig", {}),
    "gpt neox japanese": ("GPTNeoXJapaneseConfig", WIDE),
}
