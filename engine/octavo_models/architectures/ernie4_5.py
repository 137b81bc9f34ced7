"""ERNIE 4.5: Llama with an interleaved rotary embedding, and biases everywhere or nowhere."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

THETA = 500_000.0
EPS = 1e-5


def from_hf(source: HfConfig) -> SpecDraft:
    count = source.num_layers()
    return llama.draft_from_hf(
        source,
        [attention_from_hf(source)] * count,
        mlps=[mlp_from_hf(source)] * count,
        norm=llama.rms_norm(source, EPS),
        tied_head=True,
    )


def attention_from_hf(source: HfConfig) -> Attention:
    c, heads = source.fields, source.heads()
    bias = c.boolean("use_bias", False)
    rotary = replace(rotary_from_hf(c, heads.dim, default_theta=THETA), interleaved=True)
    return heads.attention(rotary, qkv_bias=bias, o_bias=bias)


def mlp_from_hf(source: HfConfig, width: str = "intermediate_size") -> Mlp:
    """A dense layer's MLP, or an expert."""
    c = source.fields
    return Mlp(c.integer(width), source.activation(), bias=c.boolean("use_bias", False))


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count = source.num_layers()
    attention = gguf_parts.attention(source, interleaved=True)
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count)


ERNIE4_5 = Architecture(("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"), from_hf, "ernie4_5", from_gguf)
