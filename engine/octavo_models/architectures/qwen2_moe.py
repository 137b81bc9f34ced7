"""Qwen 1.5's and 2's mixtures: Qwen 2 with experts in most layers, and a shared expert behind a gate of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Router
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import at

WINDOW_LAYERS = 28  # transformers' default of max_window_layers


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    full = heads.attention(rotary_from_hf(c, heads.dim), qkv_bias=c.boolean("qkv_bias", True))
    slides = c.boolean("use_sliding_window", False)
    sliding = replace(full, window=source.window() if slides else None)
    last = c.integer("max_window_layers", WINDOW_LAYERS, minimum=0)
    local_layers = source.local_layers([slides and i % 2 == 0 and i < last for i in range(count)])
    activation = source.activation()
    experts = mixtures.experts_from_hf(
        source,
        Mlp(c.integer("moe_intermediate_size"), activation),
        Router("softmax", renormalize=c.boolean("norm_topk_prob", False)),
        shared=Mlp(c.integer("shared_expert_intermediate_size"), activation),
        shared_gate=True,
    )
    names = mixtures.modules(experts.num_experts, shared="shared_expert")
    return llama.draft_from_hf(
        source,
        [sliding if local else full for local in local_layers],
        mlps=mixtures.mlps(source, llama.mlp_from_hf(source), experts, is_sparse(source)),
        tensors=HF_LLAMA.updated({**names, "shared_router": at("mlp.shared_expert_gate")}),
    )


def is_sparse(source: HfConfig) -> Callable[[int], bool]:
    """True for each layer that has experts: each `decoder_sparse_step`th one that `mlp_only_layers` does not list."""
    c = source.fields
    step = c.integer("decoder_sparse_step", 1)
    dense = c.sequence("mlp_only_layers") or ()
    return lambda layer: layer not in dense and (layer + 1) % step == 0


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=False, shared_gate=True)
    tensors = gguf_parts.expert_tensors(source, experts)
    mlps = gguf_parts.mlps(source, experts, count)
    return gguf_parts.draft(source, [gguf_parts.attention(source)] * count, mlps, tensors)


QWEN2_MOE = Architecture(("Qwen2MoeForCausalLM",), from_hf, "qwen2moe", from_gguf)
