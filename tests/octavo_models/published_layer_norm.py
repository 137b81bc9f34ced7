"""Configs of published models with LayerNorm, learned positions or ALiBi, as `published_configs` has the others."""

from __future__ import annotations

PHI_2 = {
    "architectures": ["PhiForCausalLM"],
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 51200,
}
PHI_1_5 = PHI_2 | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_key_value_heads": None,
    "partial_rotary_factor": 0.5,
}
FALCON_7B = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["FalconForCausalLM"],
    "bias": False,
    "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05,
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 65024,
}
FALCON_40B = FALCON_7B | {
    "hidden_size": 8192,
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
}
FALCON_11B = FALCON_40B | {
    "ffn_hidden_size": 16384,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_ln_in_parallel_attn": 1,
    "rope_theta": 500042.0,
    "tie_word_embeddings": False,
}
FALCON_RW_1B = FALCON_7B | {
    "alibi": True,
    "bias": True,
    "hidden_size": 2048,
    "multi_query": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "parallel_attn": False,
    "vocab_size": 50304,
}
REFINED_WEB_40B = {  # Falcon 40B as it was first published
    "alibi": False,
    "architectures": ["RWForCausalLM"],
    "bias": False,
    "hidden_size": 8192,
    "layer_norm_epsilon": 1e-05,
    "model_type": "RefinedWeb",
    "n_head": 128,
    "n_head_kv": 8,
    "n_layer": 60,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 65024,
}
REFINED_WEB_7B = {
    "alibi": False,
    "architectures": ["RWForCausalLM"],
    "bias": False,
    "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05,
    "model_type": "RefinedWebModel",
    "multi_query": True,
    "n_head": 71,
    "n_layer": 32,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 65024,
}
PYTHIA_160M = {
    "architectures": ["GPTNeoXForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
PYTHIA_12B = PYTHIA_160M | {
    "hidden_size": 5120,
    "intermediate_size": 20480,
    "num_attention_heads": 40,
    "num_hidden_layers": 36,
    "vocab_size": 50688,
}
GPT_NEOX_20B = PYTHIA_160M | {
    "hidden_act": "gelu_fast",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_attention_heads": 64,
    "num_hidden_layers": 44,
    "vocab_size": 50432,
}
OPT_125M = {
    "_remove_final_layer_norm": False,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "do_layer_norm_before": True,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "torch_dtype": "float16",
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
OPT_350M = OPT_125M | {
    "do_layer_norm_before": False,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "word_embed_proj_dim": 512,
}
OPT_6_7B = OPT_125M | {
    "ffn_dim": 16384,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "word_embed_proj_dim": 4096,
}
GPT2_SMALL = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
GPT2_XL = GPT2_SMALL | {"n_embd": 1600, "n_head": 25, "n_layer": 48}

# Parameters as model cards or the hub state them, a tied head counted once.
PARAMETERS = {
    "phi-1.5": (PHI_1_5, 1_418_270_720),
    "phi-2": (PHI_2, 2_779_683_840),
    "falcon-7b": (FALCON_7B, 6_921_720_704),
    "falcon-40b": (FALCON_40B, 41_303_293_952),
    "falcon-11b": (FALCON_11B, 11_102_822_400),
    "falcon-rw-1b": (FALCON_RW_1B, 1_311_625_216),
    "pythia-160m": (PYTHIA_160M, 162_322_944),
    "pythia-12b": (PYTHIA_12B, 11_846_072_320),
    "gpt-neox-20b": (GPT_NEOX_20B, 20_554_567_680),
    "opt-125m": (OPT_125M, 125_239_296),
    "opt-350m": (OPT_350M, 331_196_416),
    "opt-6.7b": (OPT_6_7B, 6_658_473_984),
    "gpt2": (GPT2_SMALL, 124_439_808),
    "gpt2-xl": (GPT2_XL, 1_557_611_200),
}
