"""Gemma 1: Llama with a scaled embedding, a GELU and norms around 1. Its checkpoints store a norm's weight minus 1."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Norm
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

HEAD_DIM = 256


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(HEAD_DIM), source.num_layers()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    # The published configs call the activation gelu, and the models were trained with its approximation.
    activation = source.activation("hidden_activation" if c.has("hidden_activation") else "hidden_act", "gelu")
    mlp = Mlp(c.integer("intermediate_size"), "gelu_tanh" if activation == "gelu" else activation)
    draft = llama.draft_from_hf(source, [attention] * count, mlps=[mlp] * count, norm=norm(source), tied_head=True)
    return scaled(draft, source)


def norm(source: HfConfig) -> Norm:
    """Gemma's norm; refuses its encoders, which have the same class."""
    c = source.fields
    if c.boolean("use_bidirectional_attention", False):
        raise c.error("use_bidirectional_attention", "is true: an encoder, which can't generate")
    return Norm(eps=c.number("rms_norm_eps", 1e-6), offset=1.0)


def scaled(draft: SpecDraft, source: HfConfig) -> SpecDraft:
    """The decoder with an embedding that is multiplied by the root of its width, as the running dtype holds it."""
    return replace(draft, embedding_multiplier=rounded(math.sqrt(draft.hidden_size), source.dtype))


def rounded(value: float, dtype: str) -> float:
    """`value` as `dtype` holds it (round to nearest, ties to even), as the reference rounds it to the weights' own."""
    if dtype == "float16":
        return float(struct.unpack("<e", struct.pack("<e", value))[0])
    bits = int(struct.unpack("<I", struct.pack("<f", value))[0])
    if dtype == "bfloat16":
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def from_gguf(source: GgufMetadata) -> SpecDraft:
    """Reads a GGUF file, whose norms store the weight itself."""
    count = source.num_layers()
    attentions = [gguf_parts.attention(source)] * count
    draft = gguf_parts.draft(source, attentions, [gguf_parts.mlp(source, "gelu_tanh")] * count)
    return scaled_from_gguf(draft)


def scaled_from_gguf(draft: SpecDraft) -> SpecDraft:
    return replace(draft, embedding_multiplier=rounded(math.sqrt(draft.hidden_size), "float32"))


GEMMA = Architecture(("GemmaForCausalLM",), from_hf, "gemma", from_gguf)
