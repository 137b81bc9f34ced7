"""Arcee's AFM: Llama with a plain MLP and a squared ReLU."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import GGUF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    activation = source.activation(default="relu2")
    mlp = Mlp(c.integer("intermediate_size"), activation, gated=False, bias=c.boolean("mlp_bias", False))
    return llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count, norm=llama.rms_norm(source, 1e-5))


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count = source.num_layers()
    attention, mlp = gguf_parts.attention(source, GGUF_LLAMA), gguf_parts.mlp(source, "relu2", gated=False)
    return gguf_parts.draft(source, [attention] * count, [mlp] * count, GGUF_LLAMA)


ARCEE = Architecture(("ArceeForCausalLM",), from_hf, "arcee", from_gguf)
