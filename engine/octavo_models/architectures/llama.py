"""Llama, and models that are published as Llama: SmolLM, SmolLM2, Yi, TinyLlama and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.gguf_tensors import GGUF_TENSORS
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Attention, Experts, Layer, Mlp, Norm
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import TensorMap, at

HF_LLAMA = TensorMap(
    layers="model.layers",
    outer={"embedding": at("model.embed_tokens"), "final_norm": at("model.norm"), "head": at("lm_head")},
    inner={
        "pre_attention_norm": at("input_layernorm"),
        "q": at("self_attn.q_proj"),
        "k": at("self_attn.k_proj"),
        "v": at("self_attn.v_proj"),
        "o": at("self_attn.o_proj"),
        "pre_mlp_norm": at("post_attention_layernorm"),  # the name notwithstanding, it precedes the MLP
        "gate": at("mlp.gate_proj"),
        "up": at("mlp.up_proj"),
        "down": at("mlp.down_proj"),
    },
)
GGUF_LLAMA = GGUF_TENSORS.updated({"q": at("attn_q", permuted=True), "k": at("attn_k", permuted=True)})


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads = source.fields, source.heads()
    bias = c.boolean("attention_bias", False)
    attention = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=bias, o_bias=bias)
    return draft_from_hf(source, [attention] * source.num_layers())


def from_gguf(source: GgufMetadata) -> SpecDraft:
    return draft_from_gguf(source, [True] * source.num_layers())


def draft_from_hf(
    source: HfConfig,
    attentions: Sequence[Attention],
    *,
    mlps: Sequence[Mlp | Experts] | None = None,
    norm: Norm | None = None,
    tensors: TensorMap = HF_LLAMA,
    tied_head: bool = False,
) -> SpecDraft:
    """Llama's decoder, with the given attention in each layer; an MLP, norm and tensors that are not given are Llama's."""
    norm, mlps = norm or rms_norm(source), mlps or [mlp_from_hf(source)] * len(attentions)
    layers = [Layer(attention, mlp, norm, None, norm, None) for attention, mlp in zip(attentions, mlps, strict=True)]
    return source.draft(layers, norm, tensors, tied_head=tied_head)


def rms_norm(source: HfConfig, default_eps: float = 1e-6) -> Norm:
    return Norm(eps=source.fields.number("rms_norm_eps", default_eps))


def mlp_from_hf(source: HfConfig) -> Mlp:
    """The gated MLP of a layer."""
    c = source.fields
    return Mlp(c.integer("intermediate_size"), source.activation(), bias=c.boolean("mlp_bias", False))


def draft_from_gguf(source: GgufMetadata, rotates: Sequence[bool]) -> SpecDraft:
    """Llama's decoder, or Mixtral's; `rotates` says for each layer whether it has a rotary embedding."""
    m, count = source.fields, len(rotates)
    attention = gguf_parts.attention(source, GGUF_LLAMA, window=gguf_parts.window(source))
    if attention.rotary is not None and attention.rotary.dim != attention.head_dim_k:
        raise m.error(
            "rope.dimension_count",
            f"is {attention.rotary.dim}; heads of {attention.head_dim_k} rotate whole in this architecture",
        )
    mlps: Sequence[Mlp | Experts] = [gguf_parts.mlp(source)] * count
    tensors = GGUF_LLAMA
    if m.integer("expert_count", 0, minimum=0):
        experts = gguf_parts.experts(source, renormalize=True)
        mlps, tensors = [experts] * count, gguf_parts.expert_tensors(source, experts, GGUF_LLAMA)
    plain = replace(attention, rotary=None)
    return gguf_parts.draft(source, [attention if r else plain for r in rotates], mlps, tensors)


LLAMA = Architecture(("LlamaForCausalLM",), from_hf, "llama", from_gguf)
