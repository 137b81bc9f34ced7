"""ERNIE 4.5's mixtures: softmax with a correction for the choice alone, and a shared expert."""

from __future__ import annotations

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import ernie4_5, llama
from octavo_models.architectures.llama import HF_LLAMA
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Router
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import parameter


def from_hf(source: HfConfig) -> SpecDraft:
    c, count = source.fields, source.num_layers()
    expert = ernie4_5.mlp_from_hf(source, "moe_intermediate_size")
    num_shared = c.integer("moe_num_shared_experts", 2, minimum=0, maximum=mixtures.MOST_EXPERTS)
    shared = Mlp(num_shared * expert.intermediate_size, expert.activation, bias=expert.bias) if num_shared else None
    experts = mixtures.experts_from_hf(source, expert, Router("softmax", correction=True), shared=shared)
    interval = c.integer("moe_layer_interval", 1)
    first, last = c.integer("moe_layer_start_index", 1, minimum=0), c.integer("moe_layer_end_index", -1, minimum=-1)
    last = count - 1 if last == -1 else last
    correction = parameter("mlp.moe_statics.e_score_correction_bias")
    return llama.draft_from_hf(
        source,
        [ernie4_5.attention_from_hf(source)] * count,
        mlps=mixtures.mlps(
            source,
            ernie4_5.mlp_from_hf(source),
            experts,
            lambda layer: first <= layer <= last and (layer + 1) % interval == 0,
        ),
        norm=llama.rms_norm(source, ernie4_5.EPS),
        tensors=HF_LLAMA.updated({**mixtures.modules(experts.num_experts), "router_correction": correction}),
        tied_head=True,
    )


def from_gguf(source: GgufMetadata) -> SpecDraft:
    count, experts = source.num_layers(), gguf_parts.experts(source, renormalize=True)
    attention = gguf_parts.attention(source, interleaved=True)
    mlps, tensors = gguf_parts.mlps(source, experts, count), gguf_parts.expert_tensors(source, experts)
    return gguf_parts.draft(source, [attention] * count, mlps, tensors)


ERNIE4_5_MOE = Architecture(("Ernie4_5_MoeForCausalLM",), from_hf, "ernie4_5-moe", from_gguf)
