"""GLM-4 as of 2025 (0414, Z1): its predecessor with norms before and after both halves."""

from __future__ import annotations

from dataclasses import replace

from octavo_models import gguf_parts
from octavo_models.architecture import Architecture
from octavo_models.architectures import glm, phi3
from octavo_models.gguf_metadata import GgufMetadata
from octavo_models.hf_config import HfConfig
from octavo_models.spec_draft import SpecDraft
from octavo_models.tensors import At, LayerWeight, at

NORMS: dict[LayerWeight, At] = {
    "post_attention_norm": at("post_self_attn_layernorm"),
    "post_mlp_norm": at("post_mlp_layernorm"),
}


def from_hf(source: HfConfig) -> SpecDraft:
    draft = glm.from_hf(source)
    norm = draft.final_norm
    layers = tuple(replace(layer, post_attention_norm=norm, post_mlp_norm=norm) for layer in draft.layers)
    return replace(draft, layers=layers, tensors=draft.tensors.updated(NORMS))


def from_gguf(source: GgufMetadata) -> SpecDraft:
    tensors, count = phi3.tensors_of_gguf(source), source.num_layers()
    attention = gguf_parts.attention(source, tensors, interleaved=True)
    return gguf_parts.draft(source, [attention] * count, [gguf_parts.mlp(source)] * count, tensors, after=True)


GLM4 = Architecture(("Glm4ForCausalLM",), from_hf, "glm4", from_gguf)
