"""Seed-OSS: Llama with biases on q, k and v."""

from __future__ import annotations

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads(HEAD_DIM)
    qkv_bias, o_bias = c.boolean("attention_bias", True), c.boolean("attention_out_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=qkv_bias, o_bias=o_bias)
    return llama.draft_from_hf(source, [attention] * source.num_layers())


def from_gguf(source: GgufMetadata) -> SpecDraft:
    tensors, count = gguf_parts.renamed("pre_mlp_norm", "post_attention_norm"), source.num_layers()
    attention = gguf_parts.attention(source, tensors)
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, tensors)


SEED_OSS = Architecture(("SeedOssForCausalLM",), from_hf, "seed_oss", from_gguf)
