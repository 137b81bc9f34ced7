"""Mistral: Llama with a sliding window. Its GGUF files call themselves `llama`."""

from __future__ import annotations

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.hf_config import HfConfig
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft

WINDOW_OF_V0_1 = 4096


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=window(source))
    return llama.draft_from_hf(source, [attention] * source.num_layers())


def window(source: HfConfig) -> int | None:
    """The window. Absent is not null: transformers' default is v0.1's; later models write null."""
    return source.window() if "sliding_window" in source.fields.values else WINDOW_OF_V0_1


MISTRAL = Architecture(("MistralForCausalLM",), from_hf)
