"""Seed-OSS: Llama with biases on q, k and v."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads(HEAD_DIM)
    qkv_bias, o_bias = c.boolean("attention_bias", True), c.boolean("attention_out_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=qkv_bias, o_bias=o_bias)
    return llama.draft_from_hf(source, [attention] * source.num_layers())


SEED_OSS = Architecture(("SeedOssForCausalLM",), from_hf)
