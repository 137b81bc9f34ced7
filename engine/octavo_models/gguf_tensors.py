"""The names of tensors in GGUF files, which are llama.cpp's for every architecture (gguf-py/gguf/constants.py)."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.tensors import TensorMap, at

GGUF_TENSORS = TensorMap(
    layers="blk",
    outer={
        "embedding": at("token_embd"),
        "positions": at("position_embd"),
        "embedding_norm": at("token_embd_norm"),
        "final_norm": at("output_norm"),
        "head": at("output"),
    },
    inner={
        "pre_attention_norm": at("attn_norm"),
        "q": at("attn_q"),
        "k": at("attn_k"),
        "v": at("attn_v"),
        "q_norm": at("attn_q_norm"),
        "k_norm": at("attn_k_norm"),
        "o": at("attn_output"),
        "post_attention_norm": at("post_attention_norm"),
        "pre_mlp_norm": at("ffn_norm"),
        "gate": at("ffn_gate"),
        "up": at("ffn_up"),
        "down": at("ffn_down"),
        "post_mlp_norm": at("post_ffw_norm"),
        "router": at("ffn_gate_inp"),
        "router_correction": replace(at("exp_probs_b"), weight=".bias"),
        "experts_gate": at("ffn_gate_exps"),
        "experts_up": at("ffn_up_exps"),
        "experts_down": at("ffn_down_exps"),
        "shared_gate": at("ffn_gate_shexp"),
        "shared_up": at("ffn_up_shexp"),
        "shared_down": at("ffn_down_shexp"),
        "shared_router": at("ffn_gate_inp_shexp"),
    },
)
