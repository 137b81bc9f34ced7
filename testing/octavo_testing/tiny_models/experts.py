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
}
