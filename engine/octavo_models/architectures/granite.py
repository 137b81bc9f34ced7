"""Granite 3: Llama with a factor each on the embedding, on attention's scores, on both halves and on the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import GGUF_LLAMA, HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap


def from_hf(source: HfConfig) -> SpecDraft:
    return draft_from_hf(source, [llama.mlp_from_hf(source)] * source.num_layers(), HF_LLAMA)


def draft_from_hf(source: HfConfig, mlps: Sequence[Mlp | Experts], tensors: TensorMap) -> SpecDraft:
    """Granite's decoder with the given MLP in each layer."""
    c, heads = source.fields, source.heads()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(
        rotary_from_hf(c, heads.dim), scale=c.number("attention_multiplier", 1.0), qkv_bias=bias, o_bias=bias
    )
    draft = llama.draft_from_hf(source, [attention] * len(mlps), mlps=mlps, tensors=tensors)
    return replace(
        draft,
        embedding_multiplier=c.number("embedding_multiplier", 1.0),
        residual_multiplier=c.number("residual_multiplier", 1.0),
        logits_multiplier=1 / c.number("logits_scaling", 1.0),
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    return draft_from_gguf(source, [gguf_parts.mlp(source)] * source.num_layers(), GGUF_LLAMA)


def draft_from_gguf(source: GgufMetadata, mlps: Sequence[Mlp | Experts], tensors: TensorMap) -> SpecDraft:
    m, attention = source.fields, gguf_parts.attention(source, tensors)
    scale = m.number("attention.scale", 0.0, exclusive=False)
    attention = replace(attention, scale=scale or attention.scale)
    return replace(
        gguf_parts.draft(source, [attention] * len(mlps), mlps, tensors),
        embedding_multiplier=m.number("embedding_scale", 1.0),
        residual_multiplier=m.number("residual_scale", 1.0),
        logits_multiplier=1 / m.number("logit_scale", 1.0),
    )


GRANITE = Architecture(("GraniteForCausalLM",), from_hf, "granite", from_gguf)
