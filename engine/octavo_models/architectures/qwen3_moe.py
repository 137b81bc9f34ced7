"""Qwen 3's mixtures: Qwen 3 with experts in most layers."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen2_moe import is_sparse
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Mlp, Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at


def from_hf(source: HfConfig) -> SpecDraft:
    experts = experts_from_hf(source)
    return draft_from_hf(source, experts, HF_QWEN3.updated(mixtures.modules(experts.num_experts)))


def from_vl_hf(source: HfConfig) -> SpecDraft:
    """Qwen3-VL's text half, whose experts share a tensor, and which divides the chosen scores by their sum in any case."""
    experts = experts_from_hf(source)
    experts = replace(experts, router=replace(experts.router, renormalize=True))
    names = mixtures.stacked_parameters("mlp.experts", experts)
    return draft_from_hf(source, experts, HF_QWEN3.updated({"router": at("mlp.gate"), **names}))


def experts_from_hf(source: HfConfig, *, renormalize: bool = False) -> Experts:
    """Return the mixture; `renormalize` is what the family assumes where the config is silent."""
    c = source.fields
    router = Router("softmax", renormalize=c.boolean("norm_topk_prob", renormalize))
    return mixtures.experts_from_hf(source, Mlp(c.integer("moe_intermediate_size"), source.activation()), router)


def draft_from_hf(source: HfConfig, experts: Experts, tensors: TensorMap) -> SpecDraft:
    c, heads, norm = source.fields, source.heads(), llama.rms_norm(source)
    bias = c.boolean("attention_bias", False)
    window = source.window() if c.boolean("use_sliding_window", False) else None
    attention = heads.attention(rotary_from_hf(c, heads.dim), window=window, qk_norm=norm, qkv_bias=bias, o_bias=bias)
    return llama.draft_from_hf(
        source,
        [attention] * source.num_layers(),
        mlps=mixtures.mlps(source, llama.mlp_from_hf(source), experts, is_sparse(source)),
        norm=norm,
        tensors=tensors,
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=True)
    attention = gguf_parts.attention(source, qk_norm=source.norm())
    mlps, tensors = gguf_parts.mlps(source, experts, count), gguf_parts.expert_tensors(source, experts)
    return gguf_parts.draft(source, [attention] * count, mlps, tensors)


QWEN3_MOE = Architecture(("Qwen3MoeForCausalLM",), from_hf, "qwen3moe", from_gguf)
QWEN3_VL_MOE_TEXT = Architecture(("Qwen3VLMoeTextForCausalLM",), from_vl_hf)
