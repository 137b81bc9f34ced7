"""Hunyuan-A13B: Hunyuan with experts in each layer, and a shared one."""

from __future__ import annotations

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import hunyuan_v1_dense, llama
from octavo_models.architectures.hunyuan_v1_dense import HF_HUNYUAN
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Router
from octavo_models.spec_draft import SpecDraft


def from_hf(source: HfConfig) -> SpecDraft:
    c, count = source.fields, source.num_layers()
    width, activation = c.integer("intermediate_size"), source.activation()
    shared = Mlp(width * c.integer("num_shared_expert", 1, maximum=mixtures.MOST_EXPERTS), activation)
    expert = Mlp(c.integer("moe_intermediate_size", width), activation)
    experts = mixtures.experts_from_hf(source, expert, Router("softmax"), shared=shared)
    names = mixtures.modules(experts.num_experts, router="gate.wg", shared="shared_mlp")
    return llama.draft_from_hf(
        source,
        [hunyuan_v1_dense.attention_from_hf(source)] * count,
        mlps=[experts] * count,
        norm=llama.rms_norm(source, hunyuan_v1_dense.EPS),
        tensors=HF_HUNYUAN.updated(names),
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=True)
    attentions = [hunyuan_v1_dense.attention_from_gguf(source)] * count
    return gguf_parts.draft(source, attentions, [experts] * count, gguf_parts.expert_tensors(source, experts))


HUNYUAN_V1_MOE = Architecture(("HunYuanMoEV1ForCausalLM",), from_hf, "hunyuan-moe", from_gguf)
