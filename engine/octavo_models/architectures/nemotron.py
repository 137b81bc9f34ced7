"""Nemotron 3 and 4, Minitron: LayerNorm whose weight is stored minus 1, squared ReLU. Jais 2 has the usual LayerNorm."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Layer, Mlp, Norm, Rotary
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    source = source.reading({"partial_rotary_factor": ("partial_rotary_factor", "rope_percent", "rope_percentage")})
    rotary = rotary_from_hf(source.fields, source.heads().dim, default_fraction=0.5)
    return _draft_from_hf(source, rotary, replace(source.layer_norm("norm_eps"), offset=1.0), bias=False)


def from_jais2_hf(source: HfConfig) -> SpecDraft:
    rotary = rotary_from_hf(source.fields, source.heads().dim)
    return _draft_from_hf(source, rotary, source.layer_norm("layer_norm_eps"), bias=True)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    """Reads a GGUF file, which stores a norm's weight as it is."""
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    attention = heads.attention(
        rotary_from_gguf(m, heads.dim),
        qkv_bias=source.has_bias("q", GGUF_TENSORS),
        o_bias=source.has_bias("o", GGUF_TENSORS),
    )
    mlp = Mlp(m.integer("feed_forward_length"), "relu2", gated=False, bias=source.has_bias("down", GGUF_TENSORS))
    return source.draft([Layer(attention, mlp, norm, None, norm, None)] * source.num_layers(), GGUF_TENSORS, norm)


def _draft_from_hf(source: HfConfig, rotary: Rotary, norm: Norm, *, bias: bool) -> SpecDraft:
    """`bias` is what the architecture assumes where the config is silent."""
    c, count = source.fields, source.num_layers()
    has_bias = c.boolean("attention_bias", bias)
    attention = source.heads().attention(rotary, qkv_bias=has_bias, o_bias=has_bias)
    activation = source.activation(default="relu2")
    mlp = Mlp(c.integer("intermediate_size"), activation, gated=False, bias=c.boolean("mlp_bias", bias))
    return llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count, norm=norm)


NEMOTRON = Architecture(("NemotronForCausalLM",), from_hf, "nemotron", from_gguf)
JAIS2 = Architecture(("Jais2ForCausalLM",), from_jais2_hf)
