"""How checkpoints name a decoder's tensors, by the last part of our own name; `{i}` is the layer's number."""

from __future__ import annotations

from collections.abc import Mapping


def _with_biases(names: Mapping[str, str]) -> dict[str, str]:
    biases = {f"{last}_bias": name.removesuffix("weight") + "bias" for last, name in names.items()}
    return {**names, **biases}


def _hugging_face(norms: Mapping[str, str], prefix: str = "model.") -> dict[str, str]:
    layer = prefix + "layers.{i}."
    attention = {last: f"{layer}self_attn.{last}_proj.weight" for last in ("q", "k", "v", "o")}
    qk_norm = {last: f"{layer}self_attn.{last}.weight" for last in ("q_norm", "k_norm")}
    mlp = {last: f"{layer}mlp.{last}_proj.weight" for last in ("gate", "up", "down")}
    own = {last: f"{layer}{name}.weight" for last, name in norms.items()}
    head = prefix.removesuffix("model.") + "lm_head.weight"
    ends = {"embedding": f"{prefix}embed_tokens.weight", "final_norm": f"{prefix}norm.weight", "head": head}
    return _with_biases({**ends, **attention, **qk_norm, **mlp, **own})


# Hugging Face gives one name two meanings: Llama's post_attention_layernorm stands before the MLP, Gemma's on
# attention's output.
HF_LLAMA = _hugging_face({"pre_attention_norm": "input_layernorm", "pre_mlp_norm": "post_attention_layernorm"})
GEMMA_NORMS = {
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
HF_GEMMA = _hugging_face(GEMMA_NORMS)
HF_GEMMA_IN_MULTIMODAL = _hugging_face(GEMMA_NORMS, "language_model.model.")

GGUF = _with_biases(
    {
        "embedding": "token_embd.weight",
        "final_norm": "output_norm.weight",
        "head": "output.weight",
        "pre_attention_norm": "blk.{i}.attn_norm.weight",
        "q": "blk.{i}.attn_q.weight",
        "k": "blk.{i}.attn_k.weight",
        "v": "blk.{i}.attn_v.weight",
        "o": "blk.{i}.attn_output.weight",
        "q_norm": "blk.{i}.attn_q_norm.weight",
        "k_norm": "blk.{i}.attn_k_norm.weight",
        "post_attention_norm": "blk.{i}.post_attention_norm.weight",
        "pre_mlp_norm": "blk.{i}.ffn_norm.weight",
        "gate": "blk.{i}.ffn_gate.weight",
        "up": "blk.{i}.ffn_up.weight",
        "down": "blk.{i}.ffn_down.weight",
        "post_mlp_norm": "blk.{i}.post_ffw_norm.weight",
    }
)
