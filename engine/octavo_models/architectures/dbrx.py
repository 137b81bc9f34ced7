"""DBRX: a mixture of experts with LayerNorm that has no bias, and clipped queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import mpt
from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Layer, Mlp, Norm, Router
from octavo_models.mixtures import MOST_EXPERTS
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at, parameter

HF_DBRX = TensorMap(
    layers="transformer.blocks",
    outer=mpt.HF_MPT.outer,
    inner={
        "pre_attention_norm": at("norm_attn_norm.norm_1"),
        "o": at("norm_attn_norm.attn.out_proj"),
        "pre_mlp_norm": at("norm_attn_norm.norm_2"),
        "router": at("ffn.router.layer"),
        "experts_gate": parameter("ffn.experts.mlp.w1"),
        "experts_up": parameter("ffn.experts.mlp.v1"),
    },
)


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(mpt.NAMES)
    c, heads = source.fields, source.heads()
    attn, ffn = (Fields(c.mapping(name) or {}) for name in ("attn_config", "ffn_config"))
    heads = replace(heads, num_kv=attn.integer("kv_n_heads", 1, maximum=heads.num))
    if heads.num % heads.num_kv:
        raise attn.error("kv_n_heads", f"is {heads.num_kv}, which does not divide {c.key('num_attention_heads')}")
    rotary = rotary_from_hf(c, heads.dim, default_theta=attn.number("rope_theta", 10_000.0))
    attention = heads.attention(rotary, qkv_clip=attn.number("clip_qkv") if attn.has("clip_qkv") else None)
    experts, norm = _experts(source, ffn), Norm("layer", 1e-5)
    down = parameter("ffn.experts.mlp.w2", transposed=True, matrices=experts.num_experts)
    tensors = HF_DBRX.updated({**heads.packed("norm_attn_norm.attn.Wqkv"), "experts_down": down})
    return source.draft([Layer(attention, experts, norm, None, norm, None)] * source.num_layers(), norm, tensors)


def _experts(source: HfConfig, ffn: Fields) -> Experts:
    activation = replace(source, fields=Fields(ffn.mapping("ffn_act_fn") or {})).activation("name")
    num, norm = ffn.integer("moe_num_experts", 4, maximum=MOST_EXPERTS), "moe_normalize_expert_weights"
    if ffn.number(norm, 1.0) != 1.0:
        raise UnsupportedModelError(f"{norm} is {ffn.raw(norm)!r}; 1 and null are supported")
    return Experts(
        num,
        ffn.integer("moe_top_k", 1, maximum=num),
        Mlp(ffn.integer("ffn_hidden_size", 3584), activation),
        Router(renormalize=norm not in ffn.values or ffn.has(norm)),
    )


DBRX = Architecture(("DbrxForCausalLM",), from_hf)
