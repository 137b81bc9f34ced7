"""Small random models of every architecture, made by transformers; every parameter is random, norms and biases too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

SIZES = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # so that the logits differ clearly
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
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

MODELS = {
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


def make(kind: str, folder: Path) -> Any:
    """Write the model called `kind` in MODELS to `folder` as safetensors; transformers' own, in float32."""
    config_class, fields = MODELS[kind]
    torch.manual_seed(11)
    config = getattr(transformers, config_class)(**(SIZES | fields))
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model
