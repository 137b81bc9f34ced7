"""Qwen 1: Llama under other names, with q, k and v in one tensor that has a bias.

Beyond the length that it was trained with, its own code scales the rotary base and the queries by a sequence's length:
it is served up to that length.
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Norm, Rotary
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
    "max_position_embeddings": ("seq_length", "max_position_embeddings"),
}


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads, count = source.fields, source.heads(), source.num_layers()
    dim = int(heads.dim * c.number("rotary_pct", 1.0))
    if not 0 < dim <= heads.dim or dim % 2:
        raise c.error("rotary_pct", f"leaves {dim} of {heads.dim} elements to rotate; an even number is needed")
    theta = c.number("rotary_emb_base", 10000.0, minimum=1.0)
    attention = replace(heads.attention(Rotary(dim, theta)), qkv_bias=True)
    both = c.integer("intermediate_size", minimum=2)  # of gate and up together
    if both % 2:
        raise c.error("intermediate_size", f"is {both}; it counts gate and up together and must be even")
    norm = Norm(eps=c.number("rms_norm_eps", 1e-6))
    tensors = HF_QWEN.updated(heads.packed("attn.c_attn"))
    return llama.draft_from_hf(source, [attention] * count, mlps=[Mlp(both // 2)] * count, norm=norm, tensors=tensors)


QWEN = Architecture(("QWenLMHeadModel",), from_hf)
