"""dots.llm1: Qwen 3 with DeepSeek V3's mixture: a sigmoid router with groups and a correction, and a shared expert."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.qwen3 import HF_QWEN3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Mlp
from octavo_models.rotary import rotary_from_hf
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, heads, count = source.fields, source.heads(), source.num_layers()
    norm, bias = llama.rms_norm(source), c.boolean("attention_bias", False)
    full = heads.attention(rotary_from_hf(c, heads.dim), qk_norm=norm, qkv_bias=bias, o_bias=bias)
    sliding = replace(full, window=source.window())
    first = c.integer("max_window_layers", count, minimum=0)
    local_layers = source.local_layers([sliding.window is not None and i >= first for i in range(count)])
    experts = experts_from_hf(source)
    return llama.draft_from_hf(
        source,
        [sliding if local else full for local in local_layers],
        mlps=mlps_from_hf(source, experts, 0),
        norm=norm,
        tensors=HF_QWEN3.updated(mixtures.modules(experts.num_experts)),
    )


def experts_from_hf(source: HfConfig) -> Experts:
    """DeepSeek V3's mixture; its shared experts are one of their common width."""
    c, activation = source.fields, source.activation()
    width = c.integer("moe_intermediate_size")
    num_shared = c.integer("n_shared_experts", 0, minimum=0, maximum=mixtures.MOST_EXPERTS)
    return mixtures.experts_from_hf(
        source,
        Mlp(width, activation),
        mixtures.grouped_router(source),
        shared=Mlp(num_shared * width, activation) if num_shared else None,
    )


def mlps_from_hf(source: HfConfig, experts: Experts, dense_layers: int) -> list[Mlp | Experts]:
    """The layers' MLPs: the first are dense, `dense_layers` of them where the config is silent."""
    first = source.fields.integer("first_k_dense_replace", dense_layers, minimum=0)
    return mixtures.mlps(source, llama.mlp_from_hf(source), experts, lambda layer: layer >= first)


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=True, scoring=2)
    attention = gguf_parts.attention(source, qk_norm=source.norm())
    mlps, tensors = gguf_parts.mlps(source, experts, count), gguf_parts.expert_tensors(source, experts)
    return gguf_parts.draft(source, [attention] * count, mlps, tensors)


DOTS1 = Architecture(("Dots1ForCausalLM",), from_hf, "dots1", from_gguf)
