"""GLM-4 as of 2024: Llama with biases on q, k and v, and an interleaved rotary embedding of half of each head."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, phi3
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.architectures.phi3 import packed_gate_up
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

ROTARY_FRACTION = 0.5
HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads(HEAD_DIM)
    rotary = replace(rotary_from_hf(c, heads.dim, default_fraction=ROTARY_FRACTION), interleaved=True)
    attention = heads.attention(rotary, qkv_bias=c.boolean("attention_bias", True))
    tensors = HF_LLAMA.updated(packed_gate_up(c.integer("intermediate_size")))
    return llama.draft_from_hf(source, [attention] * source.num_layers(), tensors=tensors)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    tensors, count = phi3.tensors_of_gguf(source), source.num_layers()
    attention = gguf_parts.attention(source, tensors, interleaved=True)
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, tensors)


GLM = Architecture(("GlmForCausalLM",), from_hf, "chatglm", from_gguf)
