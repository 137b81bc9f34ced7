"""Command R, and Aya 23: attention and MLP side by side behind one LayerNorm without bias, and a factor on the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Layer, Mlp, Norm
from octavo_models.rotary import rotary_from_gguf, rotary_from_hf
from octavo_models.spec_draft import SpecDraft

THETA = 500_000.0


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, norm = source.fields, source.heads(), norm_from_hf(source)
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(
        replace(rotary_from_hf(c, heads.dim, default_theta=THETA), interleaved=True),
        qk_norm=norm if c.boolean("use_qk_norm", False) else None,
        qk_norm_span="each_head",
        qkv_bias=bias,
        o_bias=bias,
    )
    return draft_from_hf(source, [attention] * source.num_layers())


def norm_from_hf(source: HfConfig) -> Norm:
    return source.layer_norm("layer_norm_eps", bias=False)


def draft_from_hf(source: HfConfig, attentions: Sequence[Attention]) -> SpecDraft:
    """Command R's decoder, with the given attention in each layer."""
    c, norm = source.fields, norm_from_hf(source)
    draft = source.draft(_layers(attentions, llama.mlp_from_hf(source), norm), norm, HF_QWEN3, tied_head=True)
    longest = c.integer("model_max_length", draft.max_position)
    return replace(draft, logits_multiplier=c.number("logit_scale", 0.0625), max_position=longest)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    m, heads, norm = source.fields, source.heads(), source.layer_norm()
    attention = heads.attention(
        replace(rotary_from_gguf(m, heads.dim), interleaved=True),
        qk_norm=norm if source.has("q_norm", GGUF_TENSORS) else None,
        qk_norm_span="each_head",
    )
    return draft_from_gguf(source, [attention] * source.num_layers())


def draft_from_gguf(source: GgufMetadata, attentions: Sequence[Attention]) -> SpecDraft:
    m, norm = source.fields, source.layer_norm()
    layers = _layers(attentions, Mlp(m.integer("feed_forward_length")), norm)
    return replace(source.draft(layers, GGUF_TENSORS, norm), logits_multiplier=m.number("logit_scale"))


def _layers(attentions: Sequence[Attention], mlp: Mlp, norm: Norm) -> list[Layer]:
    return [Layer(attention, mlp, norm, None, None, None, parallel_residual=True) for attention in attentions]


COHERE = Architecture(("CohereForCausalLM",), from_hf, "command-r", from_gguf)
