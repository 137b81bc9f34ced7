"""Helium: Llama with an interleaved rotary embedding."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

THETA = 100_000.0
HEAD_DIM = 128


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads(HEAD_DIM)
    rotary = replace(rotary_from_hf(c, heads.dim, default_theta=THETA), interleaved=True)
    attention = heads.attention(rotary, qkv_bias=c.boolean("attention_bias", False))
    return llama.draft_from_hf(source, [attention] * source.num_layers(), norm=llama.rms_norm(source, 1e-8))


HELIUM = Architecture(("HeliumForCausalLM",), from_hf)
