"""Models that also take images, as transformers' config classes describe them: of each, the text half is compared."""

from __future__ import annotations

from typing import Any

PIXTRAL = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 48}
MROPE = {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 3, 3]}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral 3": (
        "Mistral3Config",
        {
            "text_config": {"model_type": "mistral", "sliding_window": None},
            "vision_config": PIXTRAL | {"num_attention_heads": 2},
            "tie_word_embeddings": False,
        },
    ),
    "ministral 3 with images": (
        "Mistral3Config",
        {
            "text_config": {
                "model_type": "ministral3",
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 500.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                    "llama_4_scaling_beta": 0.5,
                },
            },
            "vision_config": PIXTRAL | {"num_attention_heads": 2},
        },
    ),
    "qwen 2.5 with images": (
        "Qwen2_5_VLConfig",
        {
            "text_config": {"rope_parameters": MROPE, "hidden_size": 96},
            "vision_config": QWEN_VISION | {"intermediate_size": 32, "out_hidden_size": 96},
        },
    ),
    "qwen 3 with images": (
        "Qwen3VLConfig",
        {
            "text_config": {"rope_parameters": MROPE},
            "vision_config": QWEN_VISION | {"intermediate_size": 32},
        },
    ),
    "qwen 3 with experts and images": (
        "Qwen3VLMoeConfig",
        {
            "text_config": {
                "rope_parameters": MROPE,
                "num_experts": 5,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
            },
            "vision_config": QWEN_VISION | {"intermediate_size": 32},
        },
    ),
    "gemma 3 with images": (
        "Gemma3Config",
        {
            "text_config": {"sliding_window": 11, "query_pre_attn_scalar": 24},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 56,
                "vision_use_head": False,
            },
            "mm_tokens_per_image": 4,
        },
    ),
    "gemma 4 with images": (
        "Gemma4Config",
        {
            "text_config": {"sliding_window": 11, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 211},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "position_embedding_size": 16,
            },
            "audio_config": None,
        },
    ),
    "llama 4 with images": (
        "Llama4Config",
        {
            "text_config": {
                "num_local_experts": 3,
                "intermediate_size": 24,
                "intermediate_size_mlp": 40,
                "attention_chunk_size": 16,
                "floor_scale": 8,
                "no_rope_layers": [1, 0, 1],
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
            },
        },
    ),
    "internvl": (
        "InternVLConfig",
        {
            "text_config": {"model_type": "qwen2", "num_attention_heads": 3, "num_key_value_heads": 1},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            "tie_word_embeddings": False,
        },
    ),
    "smolvlm": (
        "SmolVLMConfig",
        {
            "text_config": {"model_type": "llama"},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 56,
                "patch_size": 14,
            },
        },
    ),
}
