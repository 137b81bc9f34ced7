"""Command R7B, Command A: Command R with three layers that have a window to each that has neither window nor rotary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import cohere
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.heads import Heads
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Rotary
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft

PATTERN = 4  # each fourth layer has no window


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    source.refuse("use_qk_norm", True)
    pattern = c.integer("sliding_window_pattern", PATTERN)
    local_layers = source.local_layers([(i + 1) % pattern != 0 for i in range(count)])
    bias = c.boolean("attention_bias", False)
    attentions = _attentions(
        heads, rotary_from_hf(c, heads.dim), local_layers, c.integer("sliding_window", 4096), bias=bias
    )
    return cohere.draft_from_hf(source, attentions)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads = source.fields, source.heads()
    local_layers, window = gguf_parts.local_layers(source, PATTERN), m.integer("attention.sliding_window")
    attentions = _attentions(heads, rotary_from_gguf(m, heads.dim), local_layers, window, bias=False)
    return cohere.draft_from_gguf(source, attentions)


def _attentions(
    heads: Heads, rotary: Rotary, local_layers: Sequence[bool], window: int, *, bias: bool
) -> list[Attention]:
    full = heads.attention(None, qkv_bias=bias, o_bias=bias)
    sliding = replace(full, rotary=replace(rotary, interleaved=True), window=window)
    return [sliding if local else full for local in local_layers]


COHERE2 = Architecture(("Cohere2ForCausalLM",), from_hf, "cohere2", from_gguf)
