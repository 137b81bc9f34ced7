"""Granite 3's mixtures: Granite with experts in each layer, and a shared expert where the config gives it a width."""

from __future__ import annotations

from octavo_models import gguf_parts, mixtures
from octavo_models.architecture import Architecture
from octavo_models.architectures import granite, llama
from octavo_models.architectures.llama import GGUF_LLAMA, HF_LLAMA
from octavo_models.architectures.phi3 import packed_gate_up
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.layers import Mlp, Router
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at


def from_hf(source: HfConfig) -> SpecDraft:
    c = source.fields
    width = c.integer("shared_intermediate_size", 0, minimum=0)
    experts = mixtures.experts_from_hf(
        source,
        llama.mlp_from_hf(source),
        Router("softmax_of_chosen"),
        shared=Mlp(width, source.activation()) if width else None,
    )
    names: dict[LayerWeight, At] = {
        "router": at("block_sparse_moe.router.layer"),
        **mixtures.stacked_gate_up("block_sparse_moe.input_linear", experts),
        "experts_down": at("block_sparse_moe.output_linear"),
        "shared_down": at("shared_mlp.output_linear"),
        **packed_gate_up(width, "shared_mlp.input_linear", shared=True),
    }
    return granite.draft_from_hf(source, [experts] * source.num_layers(), HF_LLAMA.updated(names))


def from_gguf(source: GgufMetadata) -> SpecDraft:
    experts = gguf_parts.experts(source, renormalize=True, scoring=3)
    tensors = gguf_parts.expert_tensors(source, experts, GGUF_LLAMA)
    return granite.draft_from_gguf(source, [experts] * source.num_layers(), tensors)


GRANITE_MOE = Architecture(("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"), from_hf, "granitemoe", from_gguf)
