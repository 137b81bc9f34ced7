"""DeepSeek V2 and V2.5, Lite or not: latent attention, and a mixture whose router takes the softmax of all experts."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts, latent, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.errors import UnsupportedModelError
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Experts, Mlp, Router
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    source.refuse("norm_topk_prob", True, "its authors' code and transformers differ in what it means")
    source.refuse("mlp_bias", True)
    return draft_from_hf(source, mixture(source, _router(source)), 0)


def _router(source: HfConfig) -> Router:
    """One that chooses among the best groups, by their best expert, or among all."""
    c = source.fields
    method = c.text("topk_method", "greedy")
    if method not in {"greedy", "group_limited_greedy"}:
        raise UnsupportedModelError(f"topk_method is {method!r}; supported are greedy and group_limited_greedy")
    limited = mixtures.grouped_router(source) if method == "group_limited_greedy" else Router(scale=_scale(source))
    return replace(limited, scoring="softmax", renormalize=False, correction=False, group_by="max")


def _scale(source: HfConfig) -> float:
    return source.fields.number("routed_scaling_factor", 1.0)


def mixture(source: HfConfig, router: Router) -> Experts:
    """The mixture; its shared experts are one of their common width."""
    c, activation = source.fields, source.activation()
    width = c.integer("moe_intermediate_size")
    shared = c.integer("n_shared_experts", 0, minimum=0, maximum=mixtures.MOST_EXPERTS) * width
    expert = Mlp(width, activation)
    return mixtures.experts_from_hf(source, expert, router, shared=Mlp(shared, activation) if shared else None)


def draft_from_hf(source: HfConfig, experts: Experts, dense_layers: int) -> SpecDraft:
    """A decoder with this mixture after its first layers, `dense_layers` of them where the config is silent."""
    attention = latent.from_hf(source)
    return llama.draft_from_hf(
        source,
        [attention] * source.num_layers(),
        mlps=mixtures.mlps(source, llama.mlp_from_hf(source), experts, mixtures.first_dense(source, dense_layers)),
        tensors=HF_LLAMA.updated(latent.hf_tensors(attention) | mixtures.modules(experts.num_experts)),
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    """All that llama.cpp calls deepseek2: V2, V3, Kimi K2, GLM-4.7-Flash, and Youtu, which has no experts.

    Layers that draft tokens are left out.
    """
    m, blocks, attention = source.fields, source.num_layers(), latent.from_gguf(source)
    count = blocks - m.integer("nextn_predict_layers", 0, minimum=0, maximum=blocks - 1)
    tensors = latent.gguf_tensors(source, attention)
    if not m.integer("expert_count", 0, minimum=0):
        return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, tensors)
    experts = gguf_parts.experts(source, renormalize=False)
    if experts.router.scoring == "softmax":
        experts = replace(experts, router=replace(experts.router, group_by="max"))
    tensors = gguf_parts.expert_tensors(source, experts, tensors)
    return gguf_parts.draft(source, [attention] * count, gguf_parts.mlps(source, experts, count), tensors)


DEEPSEEK_V2 = Architecture(("DeepseekV2ForCausalLM",), from_hf, "deepseek2", from_gguf)
