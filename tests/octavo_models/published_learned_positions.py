"""Configs of published models with learned positions, as `published_configs` has the others."""

from __future__ import annotations

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
STARCODER = {
    "activation_function": "gelu",
    "architectures": ["GPTBigCodeForCausalLM"],
    "layer_norm_epsilon": 1e-05,
    "multi_query": True,
    "n_embd": 6144,
    "n_head": 48,
    "n_inner": 24576,
    "n_layer": 40,
    "n_positions": 8192,
    "scale_attn_weights": True,
    "torch_dtype": "float32",
    "vocab_size": 49152,
}
SANTACODER = STARCODER | {
    "activation_function": "gelu_fast",
    "n_embd": 2048,
    "n_head": 16,
    "n_inner": 8192,
    "n_layer": 24,
    "n_positions": 2048,
    "vocab_size": 49280,
}
GPT_NEO_1_3B = {
    "activation_function": "gelu_new",
    "architectures": ["GPTNeoForCausalLM"],
    "attention_layers": ["global", "local"] * 12,
    "attention_types": [[["global", "local"], 12]],
    "hidden_size": 2048,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 2048,
    "num_heads": 16,
    "num_layers": 24,
    "vocab_size": 50257,
    "window_size": 256,
}
GPT_NEO_125M = GPT_NEO_1_3B | {
    "attention_layers": ["global", "local"] * 6,
    "attention_types": [[["global", "local"], 6]],
    "hidden_size": 768,
    "num_heads": 12,
    "num_layers": 12,
}
BIOGPT = {
    "architectures": ["BioGptForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "scale_embedding": True,
    "vocab_size": 42384,
}
GPT_1 = {
    "afn": "gelu",
    "architectures": ["OpenAIGPTLMHeadModel"],
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 512,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 512,
    "vocab_size": 40478,
}

# Parameters as the authors or the hub state them, else as transformers' class has them; a tied head counted once.
PARAMETERS = {
    "opt-125m": (OPT_125M, 125_239_296),
    "opt-350m": (OPT_350M, 331_196_416),
    "opt-6.7b": (OPT_6_7B, 6_658_473_984),
    "gpt2": (GPT2_SMALL, 124_439_808),
    "gpt2-xl": (GPT2_XL, 1_557_611_200),
    "santacoder": (SANTACODER, 1_124_886_528),
    "starcoder": (STARCODER, 15_517_456_384),
    "gpt-neo-125m": (GPT_NEO_125M, 125_198_592),
    "gpt-neo-1.3b": (GPT_NEO_1_3B, 1_315_575_808),
    "biogpt": (BIOGPT, 346_763_264),
    "gpt": (GPT_1, 116_534_784),
}
