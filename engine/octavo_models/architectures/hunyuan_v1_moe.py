"""Hunyuan-A13B: Hunyuan with experts in each layer, and a shared one."""

from __future__ import annotations

from octavo_models import mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import hunyuan_v1_dense, llama
from octavo_models.architectures.hunyuan_v1_dense import HF_HUNYUAN
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


HUNYUAN_V1_MOE = Architecture(("HunYuanMoEV1ForCausalLM",), from_hf)
