"""Qwen 1: Llama under other names, with q, k and v in one tensor that has a bias.

Beyond the length that it was trained with, its own code scales the rotary base and the queries by a sequence's length:
it is served up to that length.
"""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_QWEN = TensorMap(
    layers="transformer.h",
    outer={"embedding": at("transformer.wte"), "final_norm": at("transformer.ln_f"), "head": at("lm_head")},
    inner={
        "pre_attention_norm": at("ln_1"),
        "o": at("attn.c_proj"),
        "pre_mlp_norm": at("ln_2"),
        "up": at("mlp.w1"),
        "gate": at("mlp.w2"),
        "down": at("mlp.c_proj"),
    },
)
NAMES = {
    "head_dim": ("kv_channels",),
    "rms_norm_eps": ("layer_norm_epsilon",),
    "partial_rotary_factor": ("rotary_pct",),
    "rope_theta": ("rotary_emb_base",),
    "max_position_embeddings": ("seq_length", "max_position_embeddings"),
}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads, count = source.fields, source.heads(), source.num_layers()
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=True)
    both = c.integer("intermediate_size", minimum=2)  # of gate and up together
    if both % 2:
        raise c.error("intermediate_size", f"is {both}; it counts gate and up together and must be even")
    tensors = HF_QWEN.updated(heads.packed("attn.c_attn"))
    return llama.draft_from_hf(source, [attention] * count, mlps=[Mlp(both // 2)] * count, tensors=tensors)


QWEN = Architecture(("QWenLMHeadModel",), from_hf)
