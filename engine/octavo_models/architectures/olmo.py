"""OLMo 1: Llama with LayerNorm that has no weights, and clipped queries, keys and values."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import GGUF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft

NORM = Norm("layer", 1e-5, weight=False)


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(
        rotary_from_hf(c, heads.dim),
        qkv_clip=c.number("clip_qkv") if c.has("clip_qkv") else None,
        qkv_bias=bias,
        o_bias=bias,
    )
    return llama.draft_from_hf(source, [attention] * source.num_layers(), norm=NORM)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), replace(source.layer_norm(), weight=False)
    clip = m.number("attention.clamp_kqv", 0.0, exclusive=False)
    attention = heads.attention(rotary_from_gguf(m, heads.dim), qkv_clip=clip or None)
    layer = Layer(attention, Mlp(m.integer("feed_forward_length")), norm, None, norm, None)
    return source.draft([layer] * source.num_layers(), GGUF_LLAMA, norm)


OLMO = Architecture(("OlmoForCausalLM",), from_hf, "olmo", from_gguf)
