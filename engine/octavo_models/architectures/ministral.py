"""Ministral: Mistral with a window in the layers that the config names."""

from __future__ import annotations

from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama, mistral
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, window = source.fields, source.heads(), mistral.window(source)
    full = heads.attention(rotary_from_hf(c, heads.dim))
    sliding = replace(full, window=window)
    local_layers = source.local_layers([window is not None] * source.num_layers())
    return llama.draft_from_hf(source, [sliding if local else full for local in local_layers])


MINISTRAL = Architecture(("MinistralForCausalLM",), from_hf)
