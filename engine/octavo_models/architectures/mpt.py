"""MPT: ALiBi, LayerNorm without biases, clipped queries, keys and values."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.errors import UnsupportedModelError
from octavo_models.fields import Fields
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.heads import alibi_slopes
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_MPT = TensorMap(
    layers="transformer.blocks",
    outer={"embedding": at("transformer.wte"), "final_norm": at("transformer.norm_f"), "head": at("lm_head")},
    inner={
        "pre_attention_norm": at("norm_1"),
        "o": at("attn.out_proj"),
        "pre_mlp_norm": at("norm_2"),
        "up": at("ffn.up_proj"),
        "down": at("ffn.down_proj"),
    },
)
NAMES = {
    "hidden_size": ("d_model",),
    "num_attention_heads": ("n_heads",),
    "num_hidden_layers": ("n_layers",),
    "max_position_embeddings": ("max_seq_len",),
}
ONLY = {"attn_type": "multihead_attention", "qk_ln": False, "prefix_lm": False, "alibi": True}
"""The values that fields of `attn_config` must have, as they do in all published models of the family."""


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading(NAMES)
    c, heads = source.fields, source.heads()
    details = Fields(c.mapping("attn_config") or {})
    for fields, name, only in (*((details, name, only) for name, only in ONLY.items()), (c, "no_bias", True)):
        if fields.has(name) and fields.raw(name) != only:
            raise UnsupportedModelError(f"{name} is {fields.raw(name)!r}; {only!r} is supported")
    if c.has("logit_scale"):
        raise UnsupportedModelError(f"logit_scale is {c.raw('logit_scale')!r}: not supported")
    norm = source.layer_norm("layer_norm_epsilon", bias=False)
    attention = heads.attention(
        None,
        scale=details.number("softmax_scale", heads.dim**-0.5),
        alibi_slopes=alibi_slopes(heads.num, details.number("alibi_bias_max", 8.0)),
        qkv_clip=details.number("clip_qkv") if details.has("clip_qkv") else None,
    )
    mlp = Mlp(c.integer("expansion_ratio", 4) * c.integer("hidden_size"), "gelu", gated=False)
    layer = Layer(attention, mlp, norm, None, norm, None)
    tensors = HF_MPT.updated(heads.packed("attn.Wqkv"))
    return source.draft([layer] * source.num_layers(), norm, tensors, tied_head=True)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    clip = m.number("attention.clamp_kqv", 0.0, exclusive=False)
    attention = heads.attention(
        None,
        alibi_slopes=alibi_slopes(heads.num, m.number("attention.max_alibi_bias", 8.0)),
        qkv_clip=clip or None,
    )
    layer = Layer(attention, Mlp(m.integer("feed_forward_length"), "gelu", gated=False), norm, None, norm, None)
    return source.draft([layer] * source.num_layers(), GGUF_TENSORS.updated(heads.packed("attn_qkv")), norm)


MPT = Architecture(("MptForCausalLM", "MPTForCausalLM"), from_hf, "mpt", from_gguf)
